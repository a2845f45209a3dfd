"""Feed-forward NIR graphs of other programs as layers, where their nodes mean what they mean here."""

from dataclasses import dataclass, field
from typing import Any

import numpy

from .. import models
from .interpret import pair
from .library import library

# The engine keeps thresholds above a bound; so low a one leaves them as they are, bit for bit.
THRESHOLD_BOUND = 1e-30


@dataclass
class Neurons:
    """One layer: IF or LIF, or an integrator with a threshold and a scale back."""

    name: str
    leak: float  # 1 for IF
    gain: float  # of the current
    threshold: float  # what a spike subtracts
    fire_at: float
    initial: float  # potential at the start, which the levels are above
    sources: list[str] = field(default_factory=list)


@dataclass
class Branch:
    """From spikes (or the input) to a current."""

    source: str
    pool: tuple[int, int, int] | None = None
    area: int = 1  # of a pool of sums, which are means here
    weight: Any = None  # [out, in, kernel, kernel], or [out, in] behind a Flatten
    bias: Any = None
    stride: int = 1
    pad: int = 0
    node: str = ""  # of the weights


def foreign(graph: Any, where: str, reset: Any, dt: Any, step: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Layers, constants and state for `Network.build`.

    Raises
    ------
    ValueError
        Naming the node that means something else here.
    """
    return _Reader(graph, where, reset, dt, step).network()


class _Reader:
    def __init__(self, graph: Any, where: str, reset: Any, dt: Any, step: Any) -> None:
        about = graph.metadata or {}
        self.nir, self.graph, self.where, self.reset = library(), graph, where, reset
        self.dt = float(about.get("dt", 1e-4)) if dt is None else dt
        self.is_euler = (about.get("discretisation", "exponential") if step is None else step) == "euler"
        self.time_steps = int(about["time_steps"]) if "time_steps" in about else None
        self.sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            if source not in self.sources or target not in self.sources:
                raise ValueError(f"{where}: an edge joins '{source}' and '{target}', and one of them is no node")
            self.sources[target].append(source)
        self.emits: dict[str, str] = {}  # node that spikes come from, to its layer
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.state: dict[str, Any] = {}
        self.layers: list[Any] = []

    def wrong(self, node: str, problem: str) -> ValueError:
        return ValueError(f"{self.where}: node '{node}': {problem}")

    def only(self, kind: Any, what: str) -> str:
        names = [name for name, node in self.graph.nodes.items() if isinstance(node, kind)]
        if len(names) != 1:
            raise ValueError(f"{self.where}: has {len(names)} nodes for {what}; a network here has one")
        return names[0]

    def network(self) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        source, output = self.only(self.nir.Input, "input"), self.only(self.nir.Output, "output")
        self.emits[source] = "input"
        self.shapes["input"] = self._input_shape(source)
        neurons = {name: self._neurons(name) for name in self.graph.nodes if self._is_neuron(name)}
        if not neurons:
            raise ValueError(f"{self.where}: has no IF or LIF neurons")
        self.common = self._common(list(neurons.values()))
        self.thresholds = {name: of.threshold for name, of in neurons.items()}
        for name in self._order(neurons):
            self._layer(name, neurons[name].sources, neurons[name])
        ends = self.sources[output]
        reads_current = len(ends) != 1 or ends[0] not in self.emits
        if reads_current:
            self._layer(output, ends, None)
        last = self.layers[-1].name
        if not reads_current and self.emits[ends[0]] != last:
            raise self.wrong(output, f"reads '{self.emits[ends[0]]}', and '{last}' comes after it; the last layer is the output here")
        classes, height, width = self.shapes[last]
        if (height, width) != (1, 1):
            raise self.wrong(output, f"has the shape {(classes, height, width)}; outputs here are one number for each class")
        constants = {
            "input_shape": self.shapes["input"],
            "classes": classes,
            "time_steps": self.time_steps,
            "threshold_bound": THRESHOLD_BOUND,
            "readout": "current" if reads_current else "spikes",
            **self.common,
        }
        return self.layers, constants, self.state

    def _input_shape(self, name: str) -> tuple[int, int, int]:
        shape = tuple(int(n) for n in self.graph.nodes[name].input_type["input"])
        if len(shape) not in (1, 3):
            raise self.wrong(name, f"has the shape {shape}; inputs here are (channels, height, width), or one axis")
        return shape if len(shape) == 3 else (shape[0], 1, 1)

    def _is_neuron(self, name: str) -> bool:
        nir = self.nir
        return isinstance(self.graph.nodes[name], nir.IF | nir.LIF | nir.I | nir.LI)

    def _uniform(self, name: str, values: Any, what: str) -> float:
        values = numpy.unique(numpy.asarray(values, float))
        if len(values) != 1:
            raise self.wrong(name, f"{what} differs between neurons, from {values[0]:g} to {values[-1]:g}; a layer here has one")
        return float(values[0])

    def _leak(self, name: str, node: Any) -> float:
        if numpy.any(node.v_leak):
            raise self.wrong(name, "v_leak is not 0, where potentials leak to here")
        tau = self._uniform(name, node.tau, "tau")
        leak = 1 - self.dt / tau if self.is_euler else float(numpy.exp(-self.dt / tau))
        if not 0 < leak < 1:
            raise self.wrong(name, f"tau = {tau:g} with steps of {self.dt:g} keeps {leak:g} of a potential, not a part of it")
        return leak

    def _neurons(self, name: str) -> Neurons:
        nir, node = self.nir, self.graph.nodes[name]
        gain = self._uniform(name, node.r, "r")
        leak = self._leak(name, node) if isinstance(node, nir.LIF | nir.LI) else 1.0
        if isinstance(node, nir.IF | nir.I):
            if not any(numpy.isclose(gain, one, rtol=1e-5) for one in (1, 1 / self.dt)):
                raise self.wrong(name, f"r = {gain:g}; an integrator here adds its current once per step, r = 1 or 1/dt = {1 / self.dt:g}")
            gain = 1.0
        if isinstance(node, nir.I | nir.LI):
            return self._with_threshold(name, leak, gain)
        about = node.metadata or {}
        if "subtract" not in (about.get("reset"), self.reset):
            problem = "is reset to v_reset, by NIR; neurons here subtract their threshold; if it was trained so, pass reset='subtract'"
            raise self.wrong(name, problem)
        if numpy.any(node.v_reset):
            raise self.wrong(name, "v_reset is not 0, which leaves open what a reset by subtraction subtracts")
        level, initial = self._uniform(name, node.v_threshold, "v_threshold"), float(about.get("initial_potential", 0))
        self.emits[name] = name
        return Neurons(name, leak, gain, level, level - initial, initial, self.sources[name])

    def _with_threshold(self, name: str, leak: float, gain: float) -> Neurons:
        """Integrator → Threshold → Scale, and back."""
        nir, nodes = self.nir, self.graph.nodes
        back = [source for source in self.sources[name] if isinstance(nodes[source], nir.Scale)]
        fires = [target for source, target in self.graph.edges if source == name]
        is_ring = len(back) == 1 and len(fires) == 1 and isinstance(nodes[fires[0]], nir.Threshold) and self.sources[back[0]] == fires
        if not is_ring:
            raise self.wrong(name, "is an integrator without a Threshold and one Scale back to it, which is what a neuron here is")
        fire_at = self._uniform(fires[0], nodes[fires[0]].threshold, "threshold")
        scale = -self._uniform(back[0], nodes[back[0]].scale, "scale")
        self.emits[fires[0]] = name
        threshold = gain * (scale if leak == 1 else scale * (1 - leak) / leak)
        return Neurons(name, leak, gain, threshold, fire_at, 0.0, [source for source in self.sources[name] if source != back[0]])

    def _common(self, neurons: list[Neurons]) -> dict[str, Any]:
        """What a network here has one of."""
        first = neurons[0]
        for of in neurons:
            if not (of.threshold > 0 and of.fire_at > 0 and numpy.isfinite(of.threshold)):
                raise self.wrong(of.name, f"threshold {of.threshold:g}, firing at {of.fire_at:g}; both are above 0 here")
            pairs = [
                ("leak", of.leak, first.leak),
                ("ratio of firing level and threshold", of.fire_at / of.threshold, first.fire_at / first.threshold),
            ]
            for what, own, other in pairs:
                if not numpy.isclose(own, other, rtol=1e-5, atol=0):
                    raise self.wrong(of.name, f"{what} {own:g}, and '{first.name}' has {other:g}; a network here has one")
        alpha = {"alpha": first.fire_at / first.threshold}
        if first.leak == 1:
            return {"neuron": "if", **alpha}
        return {"neuron": "lif", "tau": -1 / float(numpy.log(first.leak)), "delta_t": 1.0, **alpha}

    def _order(self, neurons: dict[str, Neurons]) -> list[str]:
        reads = {name: {self._source(of, name) for of in neurons[name].sources} for name in neurons}
        order: list[str] = []
        while len(order) < len(neurons):
            ready = [name for name in neurons if name not in order and reads[name] <= {"input", *order}]
            if not ready:
                raise self.wrong(next(name for name in neurons if name not in order), "lies on a cycle; networks here are feed-forward")
            order += ready
        return order

    def _source(self, node: str, neuron: str) -> str:
        """The layer that a branch begins at."""
        seen = set()
        while node not in self.emits:
            if node in seen or len(self.sources[node]) != 1:
                inputs = len(self.sources[node])
                problem = (
                    "lies on a cycle; networks here are feed-forward" if inputs == 1 else f"has {inputs} inputs, and one is understood"
                )
                raise self.wrong(node, problem)
            seen.add(node)
            node = self.sources[node][0]
        return self.emits[node]

    def _branch(self, node: str) -> Branch:
        """Nodes from a layer to here, which stand for: pool, weights."""
        way = []
        while node not in self.emits:
            way.append(node)
            node = self.sources[node][0]
        branch = Branch(self.emits[node])
        nir, nodes = self.nir, self.graph.nodes
        for name in reversed(way):
            of = nodes[name]
            known = (nir.AvgPool2d, nir.SumPool2d, nir.Conv2d, nir.Affine, nir.Linear, nir.Flatten)
            if not isinstance(of, known):
                raise self.wrong(name, f"{type(of).__name__} is nothing that a network here has")
            if branch.weight is not None and not isinstance(of, nir.Flatten):
                raise self.wrong(name, f"stands behind the weights of '{branch.node}'; between neurons there are a pool and weights here")
            if isinstance(of, nir.AvgPool2d | nir.SumPool2d):
                self._pool(name, of, branch)
            elif isinstance(of, nir.Conv2d):
                self._conv(name, of, branch)
            elif isinstance(of, nir.Affine | nir.Linear):
                branch.weight, branch.node, branch.bias = numpy.asarray(of.weight, float), name, getattr(of, "bias", None)
                if branch.weight.ndim != 2:
                    raise self.wrong(name, f"weights of shape {branch.weight.shape}; they are (out, in) here")
        return branch

    def _pool(self, name: str, of: Any, branch: Branch) -> None:
        window, stride, pad = pair(of.kernel_size), pair(of.stride), pair(of.padding)
        if branch.pool is not None or branch.source == "input" or any(a != b for a, b in (window, stride, pad)):
            raise self.wrong(
                name, "a second pool, one of the input, or one that is not square; a pool here is one square window over spikes"
            )
        branch.pool = (window[0], stride[0], pad[0])
        branch.area = window[0] ** 2 if isinstance(of, self.nir.SumPool2d) else 1

    def _conv(self, name: str, of: Any, branch: Branch) -> None:
        weight = numpy.asarray(of.weight, float)
        if isinstance(of.padding, str) and of.padding != "valid":
            raise self.wrong(name, f"padding {of.padding!r}; give it as a number")
        stride, pad = pair(of.stride), (0, 0) if isinstance(of.padding, str) else pair(of.padding)
        if of.groups != 1 or pair(of.dilation) != (1, 1):
            raise self.wrong(name, "has groups or a dilation, which convolutions here have not")
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or stride[0] != stride[1] or pad[0] != pad[1]:
            raise self.wrong(name, "kernel, stride or padding is not square, as they are here")
        branch.weight, branch.bias, branch.stride, branch.pad, branch.node = weight, of.bias, stride[0], pad[0], name

    def _layer(self, name: str, sources: list[str], neurons: Neurons | None) -> None:
        if not 1 <= len(sources) <= 2:
            raise self.wrong(name, f"has {len(sources)} inputs; one or two are summed here")
        gain, shift = (1.0, 0.0) if neurons is None else (neurons.gain, neurons.initial if neurons.leak < 1 else 0.0)
        branches = [self._branch(source) for source in sources]
        # A shifted potential leaks towards the shift by a bias, which is none of the network's own.
        connections = [self._connection(name, at, branch, gain, 0.0 if at else shift) for at, branch in enumerate(branches)]
        self.layers.append(models.layer(name, *connections))
        if neurons is not None:
            self.state[f"{name}.Vth"] = neurons.threshold

    def _name(self, wanted: str) -> str:
        name, number = wanted, 2
        while f"{name}.weight" in self.state:
            name, number = f"{wanted}_{number}", number + 1
        return name

    def _connection(self, layer: str, at: int, branch: Branch, gain: float, shift: float) -> Any:
        channels, height, width = self.shapes[branch.source]
        if branch.pool is not None:
            window, stride, pad = branch.pool
            height, width = ((n + 2 * pad - window) // stride + 1 for n in (height, width))
        if height < 1 or width < 1:
            raise self.wrong(layer, "a pool before it leaves nothing")
        weight = numpy.eye(channels)[:, :, None, None] if branch.weight is None else branch.weight
        name, bias = self._name(branch.node or f"{layer}_identity{at}"), numpy.zeros(len(weight)) if branch.bias is None else branch.bias
        inputs = channels if weight.ndim == 4 else channels * height * width
        if weight.shape[1] != inputs or numpy.shape(bias) != (len(weight),):
            problem = f"weights of shape {weight.shape}, biases of {numpy.shape(bias)}, and {inputs} inputs from '{branch.source}'"
            raise self.wrong(branch.node or layer, problem)
        value = 1.0 if branch.source == "input" else self.thresholds[branch.source]
        self.state[f"{name}.weight"] = weight * gain * branch.area / value
        self.state[f"{name}.bias"] = numpy.asarray(bias, float) * gain - shift
        if weight.ndim == 2:
            made, shape = models.linear(name, branch.source, len(weight), pool=branch.pool), (len(weight), 1, 1)
        else:
            kernel, stride, pad = weight.shape[2], branch.stride, branch.pad
            if stride < 1 or pad < 0 or min(height, width) + 2 * pad < kernel:
                raise self.wrong(branch.node, f"a kernel of {kernel} with stride {stride} and padding {pad} does not fit {height}x{width}")
            made = models.conv(name, branch.source, len(weight), kernel, stride=stride, pad=pad, pool=branch.pool, bias=True)
            shape = (len(weight), *((n + 2 * pad - kernel) // stride + 1 for n in (height, width)))
        if self.shapes.setdefault(layer, shape) != shape:
            raise self.wrong(layer, f"its two inputs have the shapes {self.shapes[layer]} and {shape}")
        return made
