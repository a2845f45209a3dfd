"""Networks as NIR graphs (Neuromorphic Intermediate Representation), for neuromorphic hardware and other simulators.

>>> dsr.nir.export(net, "net.nir")              # doctest: +SKIP
>>> dsr.nir.run("net.nir", images).logits       # doctest: +SKIP
>>> net = dsr.nir.load("net.nir")               # doctest: +SKIP
>>> module = dsr.nir.to_spikingjelly(net)       # doctest: +SKIP

Needs the package `nir` (`pip install "./python[nir]"` in a clone). `docs/nir.md` of the project says what each form means to whom.
"""

from .export import export, graph
from .interpret import Run, run
from .load import load
from .spikingjelly import to_spikingjelly

__all__ = ["Run", "export", "graph", "load", "run", "to_spikingjelly"]
