"""Networks by name, and networks that are put together layer by layer."""

from dataclasses import dataclass

from . import _dsr


def _about(input_shape, classes, mean=None, std=None):
    return {"input_shape": tuple(input_shape), "classes": classes, "mean": mean, "std": std}


def _network(about, settings, dataset):
    """A network of these settings; without a data set of the caller's, of the recipe of `dataset` and of what learns on any data."""
    given = {name: value for name, value in settings.items() if value is not None}
    if "dataset" not in given:
        given["dataset"] = dataset
        if "vth_logits" not in given:  # which a readout by current has not
            given.setdefault("readout", "current")
        if given.get("neuron") != "relu" and not {"vth", "vth_pooled", "vth_logits"} & given.keys():
            given.setdefault("threshold_init", "auto")
    return _dsr._network(about, given)


def preact_resnet(widths=None, blocks=None, *, depth=None, classes=10, input_shape=(3, 32, 32), mean=None, std=None, **settings):
    """A PreAct-ResNet for small images, with parameters drawn from `seed`.

    Parameters
    ----------
    widths, blocks : list of int
        Channels and blocks of each stage, such as [16, 32, 64] and [1, 1, 1].
    depth : int
        In their place, a network that has a name: 18, 20, 32, 34, 44, 56 or 110.
    classes : int or list of str
        Their number, or their names in the order of the logits.
    input_shape : tuple of int
        (channels, height, width).
    mean, std : list of float
        Of each channel, in units of 255: what uint8 images are normalised with [default: 0 and 1].
    **settings
        Every setting of the command line by its name: `neuron="lif"`, `time_steps=4`, `readout="current"`, `weight_bits=8`,
        `seed=1`, … With `dataset`, what is left out is as in the recipe of that data set. Without it, the readout is by current,
        `threshold_init` is "auto" unless a threshold is given: the first `train_step` chooses thresholds from its batch, as
        `choose_thresholds` does. All else is then as in the paper for CIFAR-10 with this neuron and number of steps.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        Naming the setting that is wrong.
    """
    if depth is not None:
        if widths is not None or blocks is not None:
            raise ValueError("depth: give either a depth, or widths and blocks")
        settings["model"] = f"preact-resnet{depth}"
    else:
        settings["widths"] = [16, 32, 64] if widths is None else widths
        settings["blocks"] = [1] * len(settings["widths"]) if blocks is None else blocks
    return _network(_about(input_shape, classes, mean, std), settings, "cifar10")


def vgg(depth=11, *, classes=10, input_shape=(2, 48, 48), mean=None, std=None, **settings):
    """A VGG for recordings of event cameras: `depth` 11, 13, 16 or 19; all else as for `preact_resnet`.

    Images are `[B, C, H, W]`, or `[B, T, C, H, W]` with a frame for each time step. The input must shrink to 1×1 by five pools of 2.
    """
    return _network(_about(input_shape, classes, mean, std), {**settings, "model": f"vgg{depth}"}, "dvs-cifar10")


def imagenet_resnet(depth=18, *, classes=1000, input_shape=(3, 224, 224), mean=None, std=None, **settings):
    """A PreAct-ResNet for photos: `depth` 18, 34 or 50; all else as for `preact_resnet`.

    The default normalisation is that of ImageNet.
    """
    if input_shape[0] == 3:
        mean = [0.485, 0.456, 0.406] if mean is None else mean
        std = [0.229, 0.224, 0.225] if std is None else std
    return _network(_about(input_shape, classes, mean, std), {**settings, "model": f"imagenet-resnet{depth}"}, "imagenet")


@dataclass(frozen=True)
class Connection:
    """One summand of a layer's current; made by `conv`, `linear` or `identity`."""

    kind: str
    source: str
    name: str | None = None
    out: int = 0
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    pool: tuple[int, int, int] | None = None
    bias: bool = False
    std: float | None = None
    norm: str | None = None


@dataclass(frozen=True)
class Layer:
    """Connections → batch norm or none → neurons; made by `layer`."""

    name: str
    connections: list[Connection]
    norm: str | None = None
    dropout: float = 0.0


def _pool(pool):
    """A window, or window, stride and padding."""
    if pool is None:
        return None
    return (pool, pool, 0) if isinstance(pool, int) else tuple(pool)


def conv(name, source, out, kernel=3, *, stride=1, pad=None, pool=None, bias=False, std=None, norm=None):
    """A convolution of a layer's spikes, or of the input.

    Parameters
    ----------
    name : str
        Of its tensors: `name.weight`, `[out, in, kernel, kernel]`, and `name.bias`.
    source : str
        "input", or the name of an earlier layer.
    out, kernel, stride : int
        Output channels, side of the kernel, stride.
    pad : int
        Zero padding [default: kernel // 2].
    pool : int or (window, stride, padding)
        Average pool in front of it.
    bias : bool
    std : float
        Standard deviation of the weights at the start [default: sqrt(2 / (out * kernel**2))].
    norm : str
        Name of a batch norm of this connection alone, below that of its layer.
    """
    pad = kernel // 2 if pad is None else pad
    return Connection("conv", source, name, out, kernel, stride, pad, _pool(pool), bias, std, norm)


def linear(name, source, out, *, pool=None, std=None):
    """A linear layer over all values of a (pooled) layer, with a bias; `name.weight` is `[out, in]`."""
    return Connection("linear", source, name, out, pool=_pool(pool), bias=True, std=std)


def identity(source, *, pool=None):
    """A layer's spikes as they are, or the average of those in the windows of a pool."""
    return Connection("identity", source, pool=_pool(pool))


def layer(name, *connections, norm=None, dropout=0.0):
    """A layer of neurons: the sum of one or two connections, a batch norm called `norm` if there is one, spikes.

    `dropout` is the share of spikes that are dropped while training, one mask for all time steps.
    """
    return Layer(name, list(connections), norm, dropout)


def build(
    layers,
    *,
    input_shape,
    classes,
    neuron="if",
    time_steps=None,
    threshold=None,
    alpha=0.5,
    tau=1.0,
    delta_t=0.05,
    threshold_bound=0.01,
    weight_bits=16,
    readout="spikes",
    seed=0,
    mean=None,
    std=None,
):
    """A network of one's own, layer by layer.

    Parameters
    ----------
    layers : list of Layer
        Made by `dsr.layer` from `dsr.conv`, `dsr.linear` and `dsr.identity`; the first one reads "input", the last one has a neuron for
        each class.
    input_shape : tuple of int
        (channels, height, width).
    classes : int or list of str
    neuron : {"if", "lif", "relu"}
    time_steps : int
        T, 1 to 255 [default: 8, and 1 for relu, which is an ANN and has no other].
    threshold : float
        Where every threshold starts [default: the first `train_step` chooses them from its batch, as `choose_thresholds` does; 1.0 until
        then].
    threshold_bound : float
        Lower bound of every threshold.
    alpha : float
        Share of the threshold at which a neuron fires.
    tau, delta_t : float
        Membrane time constant and length of a step of LIF neurons, in one unit of time.
    weight_bits : {16, 8}
    readout : {"spikes", "current"}
        What the logits are: rates of the output neurons, or their mean currents.
    seed : int
    mean, std : list of float
        As for `preact_resnet`.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        Naming the layer or the constant that is wrong.

    Examples
    --------
    >>> net = dsr.Network.build([
    ...     dsr.layer("spikes1", dsr.conv("conv1", "input", 16), norm="bn1"),
    ...     dsr.layer("spikes2", dsr.linear("fc", "spikes1", 2, pool=4)),
    ... ], input_shape=(1, 8, 8), classes=["left", "right"])
    """
    constants = {
        "neuron": neuron,
        "time_steps": time_steps,
        "threshold": threshold,
        "alpha": alpha,
        "tau": tau,
        "delta_t": delta_t,
        "threshold_bound": threshold_bound,
        "weight_bits": weight_bits,
        "readout": readout,
        "seed": seed,
    }
    return _dsr._build(_about(input_shape, classes, mean, std), constants, list(layers))
