"""Spiking neural networks by Differentiation on Spike Representation (DSR): train, measure, and look inside.

>>> import dsr
>>> net = dsr.load("runs/lif")                  # doctest: +SKIP
>>> out = net(images)                           # doctest: +SKIP
>>> out.logits, out.rates                       # doctest: +SKIP

`docs/python.md` of the project has the rest.
"""

from . import nir
from ._dsr import (
    SGD,
    Adam,
    AdamW,
    DeviceArray,
    DeviceError,
    Network,
    Optimizer,
    Output,
    __version__,
    dataset,
    get_threads,
    load,
    set_threads,
    train,
)
from .models import build, conv, identity, imagenet_resnet, layer, linear, preact_resnet, vgg

Network.build = staticmethod(build)


def __getattr__(name):
    """`dsr.torch` without an import of its own: PyTorch is imported where it is used first, and need not be there before."""
    if name == "torch":
        import importlib

        try:
            return importlib.import_module(".torch", __name__)
        except ImportError as error:
            # hasattr, inspect and help ask for every name, and take this for a name that is not there.
            raise AttributeError(str(error)) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    import importlib.util
    import sys

    has_torch = sys.modules.get("torch") is not None or importlib.util.find_spec("torch") is not None
    return sorted({*globals(), "torch"} if has_torch else globals())


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "DeviceArray",
    "DeviceError",
    "Network",
    "Optimizer",
    "Output",
    "__version__",
    "conv",
    "dataset",
    "get_threads",
    "identity",
    "imagenet_resnet",
    "layer",
    "linear",
    "load",
    "nir",
    "preact_resnet",
    "set_threads",
    "train",
    "vgg",
]
