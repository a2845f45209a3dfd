"""NIR graphs step by step in NumPy, by NIR's own equations: the check of what an exporter has written."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy

from .._dsr import Network
from .library import library, read

Array = numpy.ndarray[Any, Any]


@dataclass
class Run:
    """What a graph gave."""

    outputs: Array  # [T, B, ...], of the output node
    spikes: dict[str, Array]  # layer of the network, or node, to bool [T, B, ...]
    logits: Array | None  # [B, classes] float64; None for a graph that does not say what its logits are


@dataclass
class Comparison:
    """A graph beside the network."""

    samples: int
    same_class: float  # share of samples
    equal_spikes: float  # share of all neurons and steps


def run(graph: Any, images: Any, time_steps: int | None = None, *, dtype: Any = numpy.float64, metadata: bool = True) -> Run:
    """Runs a NIR graph.

    A neuron fires strictly above its threshold, as NIR says. What NIR leaves open is as the metadata of `dsr.nir.export` says, or else: a
    step of 1e-4, exponential; an IF neuron adds `r` times its current; a Scale that closes a cycle is read one step later.

    Parameters
    ----------
    graph : path-like or nir.NIRGraph
    images : numpy.ndarray or torch.Tensor
        `[B, C, H, W]`, or `[B, T, C, H, W]` with a frame for each step; float32 or float64 as the network takes them, uint8 with the
        normalisation of the metadata.
    time_steps : int, optional
        Steps [default: those of the metadata].
    dtype : numpy dtype
        What is computed with.
    metadata : bool
        Whether IF and LIF neurons heed `reset` and `initial_potential` of their metadata (the `shifted` form); without, they are reset
        to `v_reset`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        Naming the node that it does not know, or the missing number of steps.
    """
    if isinstance(graph, str | os.PathLike):
        graph = read(graph)
    about = graph.metadata or {}
    steps = int(about.get("time_steps", 0)) if time_steps is None else time_steps
    if not 1 <= steps <= 1 << 16:
        raise ValueError(f"time_steps: the graph does not say how many; pass 1 or more, not {steps}")
    values = _values(images, about).astype(dtype)
    machine = _Machine(graph, steps, dtype, metadata)
    outputs, spikes = machine.run(values)
    if "structure" in about:
        names = {layer["neuron"]: layer["name"] for layer in json.loads(about["structure"])["layers"] if layer["neuron"]}
        spikes = {names[node]: trains for node, trains in spikes.items() if node in names}
    logits = None
    if "step_weights" in about and len(about["step_weights"]) == steps:
        mean = numpy.tensordot(numpy.asarray(about["step_weights"], float), outputs.astype(float), 1)
        logits = mean.reshape(len(mean), -1) * float(about["logit_factor"])
    return Run(outputs, spikes, logits)


def compare(net: Network, graph: Any, images: Any, **options: Any) -> Comparison:
    """Share of equal classes and spikes between a graph, with the options of `run`, and the network."""
    ours = net(images, spikes=True)
    found = run(graph, images, metadata=options.pop("metadata", False), **options)
    neurons = sum(trains.size for trains in ours.spikes.values())
    equal = sum(int((trains.reshape(-1) == found.spikes[name].reshape(-1)).sum()) for name, trains in ours.spikes.items())
    if found.logits is None:
        raise ValueError("graph: does not say what its logits are")
    same = ours.logits.argmax(1) == found.logits.argmax(1)
    return Comparison(len(ours.logits), float(same.mean()), equal / neurons)


def _values(images: Any, about: dict[str, Any]) -> Array:
    """Values as the network takes them, `[B, T or 1, C, H, W]`."""
    values = numpy.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if values.ndim not in (4, 5):
        raise ValueError(f"images: have shape {values.shape}; give [B, C, H, W] or [B, T, C, H, W]")
    if values.dtype == numpy.uint8:
        if "max_value" not in about:
            raise ValueError("images: uint8, and the graph has no normalisation; give the values that the network takes, as float32")
        mean, std = (numpy.asarray(about[key], numpy.float32)[:, None, None] for key in ("mean", "std"))
        values = (values.astype(numpy.float32) / numpy.float32(about["max_value"]) - mean) / std
    return values if values.ndim == 5 else values[:, None]


class _Machine:
    """The graph in an order in which it can be computed; potentials by node."""

    def __init__(self, graph: Any, steps: int, dtype: Any, heeds: bool) -> None:
        self.nir, self.graph, self.steps, self.dtype, self.heeds = library(), graph, steps, numpy.dtype(dtype), heeds
        about = graph.metadata or {}
        self.dt = float(about.get("dt", 1e-4))
        self.is_euler = about.get("discretisation") == "euler"
        self.is_per_dt = about.get("resistance_of_if") == "1/dt"
        self.sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self.sources[target].append(source)
        self.order = self._order()
        self.potential: dict[str, Array] = {}

    def _order(self) -> list[str]:
        is_back = {name: isinstance(node, self.nir.Scale) for name, node in self.graph.nodes.items()}
        order: dict[str, None] = {}
        waiting = list(self.graph.nodes)
        while waiting:
            ready = [name for name in waiting if all(source in order or is_back[source] for source in self.sources[name])]
            if not ready:
                raise ValueError(f"node '{waiting[0]}': lies on a cycle without a Scale, which is what delays by one step here")
            order |= dict.fromkeys(ready)
            waiting = [name for name in waiting if name not in order]
        return list(order)

    def run(self, images: Array) -> tuple[Array, dict[str, Array]]:
        nir, nodes = self.nir, self.graph.nodes
        outputs: list[Array] = []
        spikes: dict[str, list[Array]] = {}
        before: dict[str, Array] = {}
        still: dict[str, Array] = {}
        is_static = images.shape[1] == 1
        if not is_static and images.shape[1] != self.steps:
            raise ValueError(f"images: have {images.shape[1]} frames; give 1 or {self.steps}")
        for t in range(self.steps):
            now: dict[str, Array] = {}
            for name in self.order:
                node = nodes[name]
                if isinstance(node, nir.Input):
                    now[name] = images[:, 0 if is_static else t]
                elif name in still:
                    now[name] = still[name]
                else:
                    parts = [now.get(source, before.get(source)) for source in self.sources[name]]
                    current = sum(part for part in parts if part is not None)
                    now[name] = self.step(name, node, current)
                    # Weights of a static image give the same at every step.
                    if is_static and not _has_state(nir, node) and all(self._is_still(source, still) for source in self.sources[name]):
                        still[name] = now[name]
                if isinstance(node, nir.Threshold | nir.IF | nir.LIF):
                    neuron = self.sources[name][0] if isinstance(node, nir.Threshold) else name
                    spikes.setdefault(neuron, []).append(now[name] > 0)
                if isinstance(node, nir.Output):
                    outputs.append(now[name])
            before = now
        return numpy.stack(outputs), {name: numpy.stack(trains) for name, trains in spikes.items()}

    def _is_still(self, name: str, still: dict[str, Array]) -> bool:
        return isinstance(self.graph.nodes[name], self.nir.Input) or name in still

    def cast(self, values: Any, like: Array) -> Array:
        """A parameter, as wide as the values that it meets."""
        values = numpy.asarray(values).astype(self.dtype)
        return values.reshape(values.shape + (1,) * (like.ndim - 1 - values.ndim)) if values.ndim else values

    def step(self, name: str, node: Any, x: Any) -> Array:
        nir, cast = self.nir, self.cast
        match node:
            case nir.Conv2d():
                return convolution(x, cast(node.weight, x), cast(node.bias, x), name, node)
            case nir.Affine():
                return x @ numpy.asarray(node.weight, self.dtype).T + numpy.asarray(node.bias, self.dtype)
            case nir.Linear():
                return x @ numpy.asarray(node.weight, self.dtype).T
            case nir.Flatten():
                return x.reshape(len(x), -1)
            case nir.SumPool2d() | nir.AvgPool2d():
                return pooled(x, node, isinstance(node, nir.AvgPool2d))
            case nir.Scale():
                return x * cast(node.scale, x)
            case nir.Threshold():
                return (x > cast(node.threshold, x)).astype(self.dtype)
            case nir.I():
                self.potential[name] = self.potential.get(name, 0) + cast(node.r, x) * x
                return self.potential[name]
            case nir.LI():
                self.potential[name] = self.leaked(name, node, x, 0)
                return self.potential[name]
            case nir.IF() | nir.LIF():
                return self.fired(name, node, x)
            case nir.Output():
                return x
        raise ValueError(f"node '{name}': {type(node).__name__} is none that this interpreter knows")

    def leaked(self, name: str, node: Any, x: Array, start: Any) -> Array:
        tau, v_leak = self.cast(node.tau, x), self.cast(node.v_leak, x)
        keeps = 1 - self.dt / tau if self.is_euler else numpy.exp(-self.dt / tau)
        return keeps * self.potential.get(name, start) + (1 - keeps) * (v_leak + self.cast(node.r, x) * x)

    def fired(self, name: str, node: Any, x: Array) -> Array:
        about = node.metadata if self.heeds and node.metadata else {}
        start = self.dtype.type(about.get("initial_potential", 0))
        if isinstance(node, self.nir.LIF):
            potential = self.leaked(name, node, x, start)
        else:
            r = self.cast(node.r, x) * self.dtype.type(self.dt if self.is_per_dt else 1)
            potential = self.potential.get(name, start) + r * x
        level = self.cast(node.v_threshold, x)
        # The engine fires at the level, and so does who heeds its metadata.
        fired = potential >= level if about.get("reset") == "subtract" else potential > level
        reset = potential - level if about.get("reset") == "subtract" else self.cast(node.v_reset, x)
        self.potential[name] = numpy.where(fired, reset, potential)
        return fired.astype(self.dtype)


def _has_state(nir: Any, node: Any) -> bool:
    return isinstance(node, nir.I | nir.LI | nir.IF | nir.LIF)


def pair(value: Any) -> tuple[int, int]:
    """A size for both axes."""
    first, second = (value, value) if numpy.ndim(value) == 0 else value
    return int(first), int(second)


def _windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]) -> Array:
    """`[B, C, H, W, kernel, kernel]`, zeros around."""
    x = numpy.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    return numpy.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, :: stride[0], :: stride[1]]


def pooled(x: Array, node: Any, is_mean: bool) -> Array:
    kernel = pair(node.kernel_size)
    sums = _windows(x, kernel, pair(node.stride), pair(node.padding)).sum((4, 5))
    return sums / (kernel[0] * kernel[1]) if is_mean else sums


def convolution(x: Array, weight: Array, bias: Array, name: str, node: Any) -> Array:
    if pair(node.dilation) != (1, 1) or node.groups != 1 or isinstance(node.padding, str):
        raise ValueError(f"node '{name}': a dilation, groups or padding by name are not done here")
    windows = _windows(x, weight.shape[2:], pair(node.stride), pair(node.padding))
    return numpy.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2) + bias.reshape(-1, 1, 1)
