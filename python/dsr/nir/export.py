"""A network as a NIR graph, in three forms and the dialects of importers."""

import json
import os
import warnings
from typing import Any, Literal

import numpy

from .._dsr import Network
from .folding import Connection, Layer, folded
from .library import library, place

Form = Literal["exact", "shifted", "plain"]
Dialect = Literal["nir", "spikingjelly", "snntorch", "norse", "sinabs"]

FORMS = ("exact", "shifted", "plain")
# What importers disagree about: the resistance of an IF neuron, the step of a leaky one, the pools that they know.
DIALECTS = {
    "nir": {"if_r": "1", "step": "exponential", "pool": "sum"},
    "spikingjelly": {"if_r": "1/dt", "step": "euler", "pool": "average"},
    "snntorch": {"if_r": "1", "step": "euler", "pool": "average"},
    "norse": {"if_r": "1", "step": "euler", "pool": "sum"},
    "sinabs": {"if_r": "1", "step": "exponential", "pool": "sum"},
}
DT = 1e-4


def export(net: Network, path: str | os.PathLike[str], form: Form = "exact", *, dialect: Dialect = "nir", samples: Any = None) -> None:
    """Writes a network as a NIR file, as evaluation computes it.

    Parameters
    ----------
    net : Network
    path : path-like
        File to write or replace.
    form : {"exact", "shifted", "plain"}
        `exact`: a neuron is an integrator (I, or LI), a Threshold and a Scale that takes back what a spike costs; by NIR's own equations
        every spike is that of the engine. float64.
        `shifted`: IF or LIF with the threshold Vth, for importers that can be told to subtract it and to begin at the potential
        `initial_potential` of the metadata. float32.
        `plain`: IF or LIF with the threshold alpha * Vth, for importers that know nothing but NIR's reset to 0. float32; costs spikes and
        accuracy, and warns.
    dialect : {"nir", "spikingjelly", "snntorch", "norse", "sinabs"}
        Whose reading of resistances, time constants and pools a file of the last two forms is written for.
    samples : numpy.ndarray or torch.Tensor, optional
        Images as for a call of the network, on which the warning of `plain` says what it costs.

    Raises
    ------
    ImportError
        Without the package `nir`.
    ValueError
        For an ANN, an unknown form or dialect, samples that do not fit.
    OSError
        If the file cannot be written; an older one is then unchanged.

    Warns
    -----
    UserWarning
        For `plain`.
    """
    nir = library()
    made = graph(net, form, dialect=dialect)
    if form == "plain":
        warnings.warn(_cost(net, made, samples), stacklevel=2)
    path = place(path)
    # Beside it: an older file stays until the new one is complete.
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        nir.write(beside, made)
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def graph(net: Network, form: Form = "exact", *, dialect: Dialect = "nir") -> Any:
    """The graph that `export` writes, as a `nir.NIRGraph`; arguments and errors as there.

    Input and output are `[C, H, W]` per step; a static image is the same current at every step.
    """
    nir = library()
    if form not in FORMS:
        raise ValueError(f"form: {form!r} is none of {', '.join(FORMS)}")
    if dialect not in DIALECTS:
        raise ValueError(f"dialect: {dialect!r} is none of {', '.join(DIALECTS)}")
    if form == "exact" and dialect != "nir":
        raise ValueError(f"dialect: the exact form is NIR's own, and no importer's; leave {dialect!r} out, or take form='shifted'")
    about = net.graph()
    layers = folded(about)
    writer = _Writer(nir, form, DIALECTS[dialect], about)
    for layer in layers:
        writer.layer(layer)
    return nir.NIRGraph(writer.nodes | writer.end(layers[-1]), writer.edges, _metadata(net, about, form, dialect, writer))


class _Writer:
    """Nodes and edges so far."""

    def __init__(self, nir: Any, form: Form, says: dict[str, str], about: dict[str, Any]) -> None:
        self.nir, self.form, self.says, self.about = nir, form, says, about
        self.dtype = numpy.float64 if form == "exact" else numpy.float32
        self.nodes: dict[str, Any] = {"input": nir.Input({"input": numpy.array(about["input_shape"])})}
        self.edges: list[tuple[str, str]] = []
        # What a reader of a layer is joined to, and the nodes of weights by layer.
        self.emits = {"input": "input"}
        self.weights: dict[str, list[str]] = {}
        self.factors: dict[str, Any] = {}
        self.neurons: dict[str, str] = {}
        self.taken = {"input", "output"}

    def name(self, wanted: str) -> str:
        """A name without dots, which importers make attributes of, and of its own."""
        name = base = wanted.removesuffix(" (readout)").replace(".", "_").replace("/", "_").replace(" ", "_")
        number = 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name

    def add(self, name: str, node: Any, *sources: str) -> str:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def layer(self, layer: Layer) -> None:
        name = self.name(layer.name)
        into = [self.connection(name, at, connection, layer) for at, connection in enumerate(layer.connections)]
        self.weights[layer.name] = into
        if not layer.fires:
            self.emits[layer.name] = into[0]
        else:
            self.neurons[layer.name] = name
            add = self.exact_neuron if self.form == "exact" else self.neuron
            self.emits[layer.name] = add(name, layer, into)

    def connection(self, name: str, at: int, of: Connection, layer: Layer) -> str:
        nir, bias, weight, emits = self.nir, of.bias, of.weight, self.emits[of.source]
        if at == 0 and layer.fires and self.form == "shifted" and self.about["neuron"]["kind"] == "lif":
            # A shifted potential leaks towards the shift.
            bias = bias + layer.initial_potential
        if of.pool is not None:
            window, stride, pad = (numpy.array([value, value]) for value in of.pool)
            is_sum = self.says["pool"] == "sum"
            pool = (nir.SumPool2d if is_sum else nir.AvgPool2d)(kernel_size=window, stride=stride, padding=pad)
            emits = self.add(self.name(f"{name}_pool{at}"), pool, emits)
            weight = weight if is_sum else weight * of.pool[0] ** 2
        weight, bias = weight.astype(self.dtype), bias.astype(self.dtype)
        kernel, node = weight.shape[2:], self.name(f"{name}_conv{at}")
        self.factors[node] = of.factor if of.pool is None or is_sum else of.factor * of.pool[0] ** 2
        if kernel[0] == kernel[1]:
            conv = {"stride": of.stride, "padding": of.pad, "dilation": 1, "groups": 1}
            return self.add(node, nir.Conv2d(input_shape=of.pooled, weight=weight, bias=bias, **conv), emits)
        # Type checks of NIR take kernels to be square.
        shape = numpy.array([weight.shape[1], *of.pooled])
        flat = self.add(f"{node}_flat", nir.Flatten(input_type={"input": shape}, start_dim=0, end_dim=2), emits)
        return self.add(node, nir.Affine(weight=weight.reshape(len(weight), -1), bias=bias), flat)

    def neuron_shape(self, layer: Layer, into: list[str]) -> tuple[int, ...]:
        return layer.shape if all(isinstance(self.nodes[node], self.nir.Conv2d) for node in into) else layer.shape[:1]

    def exact_neuron(self, name: str, layer: Layer, into: list[str]) -> str:
        """Integrator → threshold → scale, and back to the integrator at the next step."""
        nir, (one, leak) = self.nir, (numpy.ones(self.neuron_shape(layer, into)), self.about["neuron"]["leak"])
        if self.about["neuron"]["kind"] == "lif":
            cell = nir.LI(tau=one * (-DT / numpy.log(leak)), r=one, v_leak=0 * one)
            # What comes back is leaked once before it counts, and charged like a current.
            back = -layer.threshold * leak / self.about["neuron"]["charge"]
        else:
            cell, back = nir.I(r=one), -layer.threshold
        # NIR fires above the threshold, the engine at it: so this is below it, by more than rounding in float64 and less than in float32.
        fire_at = layer.fire_at * (1 - 2.0**-40)
        fire = self.name(f"{name}_fire")
        self.add(name, cell, *into)
        self.add(fire, nir.Threshold(threshold=one * fire_at), name)
        reset = self.add(self.name(f"{name}_reset"), nir.Scale(scale=one * back), fire)
        self.edges.append((reset, name))
        return fire

    def neuron(self, name: str, layer: Layer, into: list[str]) -> str:
        nir, leak = self.nir, self.about["neuron"]["leak"]
        one = numpy.ones(self.neuron_shape(layer, into), self.dtype)
        if self.form == "shifted":
            level, metadata = layer.threshold, {"reset": "subtract", "initial_potential": layer.initial_potential}
        else:
            # NIR fires above the threshold, the engine at it.
            level, metadata = numpy.nextafter(self.dtype(layer.fire_at), self.dtype(0)), {"reset": "to v_reset"}
        levels = {"v_threshold": one * self.dtype(level), "v_reset": 0 * one, "metadata": metadata}
        if self.about["neuron"]["kind"] == "lif":
            tau = DT / (1 - leak) if self.says["step"] == "euler" else -DT / numpy.log(leak)
            return self.add(name, nir.LIF(tau=one * self.dtype(tau), r=one, v_leak=0 * one, **levels), *into)
        return self.add(name, nir.IF(r=one / self.dtype(DT) if self.says["if_r"] == "1/dt" else one, **levels), *into)

    def end(self, last: Layer) -> dict[str, Any]:
        emits = self.emits[last.name]
        self.edges.append((emits, "output"))
        shape = last.shape if isinstance(self.nodes[self.weights[last.name][0]], self.nir.Conv2d) else last.shape[:1]
        return {"output": self.nir.Output({"output": numpy.array(shape)})}


def _metadata(net: Network, about: dict[str, Any], form: Form, dialect: Dialect, writer: _Writer) -> dict[str, Any]:
    """What NIR has no words for: `structure` and `state` are the network as `load` builds it, the rest is for people and programs."""
    from .. import __version__

    neuron, normalization, says = about["neuron"], net.normalization, writer.says
    last = about["layers"][-1]
    weights, layers = set(), []
    for layer in about["layers"]:
        connections = []
        for connection, node in zip(layer["connections"], writer.weights[layer["name"]], strict=True):
            keys = ("kind", "source", "pool", "name", "kernel", "stride", "pad")
            of = {key: connection[key] for key in keys if key in connection}
            weights |= {f"{of['name']}.weight"} if "name" in of else set()
            norm = connection["norm"] and connection["norm"]["name"]
            connections.append(of | {"bias": connection.get("bias") is not None, "norm": norm, "node": node})
        norm = layer["norm"] and layer["norm"]["name"]
        layers.append({"name": layer["name"], "norm": norm, "connections": connections, "neuron": writer.neurons.get(layer["name"])})
    sizes = ("input_shape", "time_steps", "weight_bits", "readout")
    constants = {key: neuron[key] for key in ("kind", "alpha", "tau", "delta_t") if key in neuron}
    structure = {key: about[key] for key in sizes} | {"neuron": constants, "layers": layers, "classes": net.classes}
    own = {name: value for name, value in net.state_dict().items() if name not in weights and "num_batches" not in name}
    # HDF5 compresses no scalars, and nir asks for that.
    state = {name: value if value.ndim else float(value) for name, value in own.items()}
    return {
        "producer": f"dsr {__version__}",
        "form": form,
        "dialect": dialect,
        "dt": DT,
        "discretisation": says["step"],
        "resistance_of_if": says["if_r"],
        "feedback": "a Scale node is read one step later",
        "input": "the same image at every step, or one frame for each",
        "time_steps": about["time_steps"],
        "readout": about["readout"],
        "step_weights": numpy.array(neuron["step_weights"], numpy.float32),
        # A logit is this times the sum over steps of step weight times output.
        "logit_factor": 1.0 if last["spike_value"] is None else last["spike_value"],
        "classes": json.dumps(net.classes),
        "mean": numpy.array(normalization["mean"], numpy.float32),
        "std": numpy.array(normalization["std"], numpy.float32),
        "max_value": normalization["max_value"],
        "structure": json.dumps(structure),
        "state": state,
        "factors": writer.factors,
    }


def _cost(net: Network, made: Any, samples: Any) -> str:
    """The warning of the plain form."""
    from .interpret import compare

    what = "plain: NIR's neurons are reset to 0, where those of the network subtract their threshold"
    if samples is None:
        return f"{what}; pass samples=images to hear what that costs, and form='exact' or 'shifted' to keep the spikes"
    found = compare(net, made, samples)
    return (
        f"{what}: of {found.samples} samples {100 * found.same_class:.1f} % keep their class, "
        f"and {100 * found.equal_spikes:.2f} % of all neurons and steps their spike; form='exact' keeps both"
    )
