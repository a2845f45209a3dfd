"""NIR graphs as networks: those that `export` has written, and feed-forward ones of other programs."""

import json
import os
from typing import Any, Literal

import numpy

from .. import models
from .._dsr import Network
from .foreign import THRESHOLD_BOUND, foreign
from .library import place, read

# Of an image's sides and channels, strides and pools.
LARGEST_SIZE = 1 << 16


def load(
    graph: Any,
    time_steps: int | None = None,
    *,
    reset: Literal["subtract"] | None = None,
    dt: float | None = None,
    step: Literal["exponential", "euler"] | None = None,
) -> Network:
    """Loads a network from a NIR graph.

    What `dsr.nir.export` has written in its exact form gives a network with the same spikes, layer for layer, with its batch norms; the
    other forms do within the rounding of float32. A graph of another program is taken where its nodes mean what they mean here: IF or
    LIF neurons of one kind, leak and ratio of levels; Conv2d, Affine or Linear before them, average or sum pools and Flatten before
    these; one or two branches per neuron. Its weights are rounded to 15 bits per output channel, as those of every network here.

    Parameters
    ----------
    graph : path-like or nir.NIRGraph
    time_steps : int, optional
        T [default: that of the metadata].
    reset : {"subtract"}, optional
        Says of a graph whose IF and LIF nodes do not say so that they subtract their threshold. NIR has no words for it, and most
        programs write such neurons as nodes that are reset to 0.
    dt : float, optional
        Length of a step in seconds, for LIF nodes [default: that of the metadata, or 1e-4].
    step : {"exponential", "euler"}, optional
        How a LIF node leaks within a step: exp(-dt/tau), or 1 - dt/tau [default: that of the metadata, or exponential].

    Returns
    -------
    Network

    Raises
    ------
    ImportError
        Without the package `nir`.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or naming the node that means something else here.
    """
    where = place(graph) if isinstance(graph, str | os.PathLike) else "graph"
    if isinstance(graph, str | os.PathLike):
        graph = read(graph)
    if reset not in (None, "subtract"):
        raise ValueError(f"reset: {reset!r} is not 'subtract', the reset that neurons have here")
    if step not in (None, "exponential", "euler"):
        raise ValueError(f"step: {step!r} is neither 'exponential' nor 'euler'")
    about = graph.metadata or {}
    if "structure" not in about:
        layers, constants, state = foreign(graph, where, reset, dt, step)
    else:
        try:
            layers, constants, state = _own(graph, about)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{where}: what dsr.nir.export has written beside the nodes is damaged ({reason}); export it again") from error
    steps = constants["time_steps"] if time_steps is None else time_steps
    if steps is None:
        raise ValueError(f"{where}: does not say how many time steps; pass time_steps")
    _check_sizes(where, layers, constants)
    try:
        net = models.build(layers, **{**constants, "time_steps": steps})
        net.load_state_dict({name: numpy.asarray(value, numpy.float32) for name, value in state.items()})
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return net


def _check_sizes(where: str, layers: list[Any], constants: dict[str, Any]) -> None:
    """Refuses numbers that no network has, before anything is computed with them."""
    sizes = {"input": [*constants["input_shape"]]}
    for layer in layers:
        for connection in layer.connections:
            sizes.setdefault(layer.name, []).extend([connection.stride, connection.pad, *(connection.pool or ())])
    for name, numbers in sizes.items():
        if not all(isinstance(number, int) and 0 <= number <= LARGEST_SIZE for number in numbers):
            raise ValueError(f"{where}: '{name}' has a size, stride, padding or pool in {numbers} that is not in 0..={LARGEST_SIZE}")


def _own(graph: Any, about: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Layers, constants and state of an exported network. Sizes are those of the nodes, which are there."""
    structure = json.loads(about["structure"])
    # A file has the names of a group in its own order, and scalars as numbers.
    state = dict(about["state"])
    layers = []
    for of in structure["layers"]:
        connections = []
        for connection in of["connections"]:
            kind, source = connection["kind"], connection["source"]
            pool = connection["pool"] and tuple(connection["pool"])
            if kind == "identity":
                connections.append(models.identity(source, pool=pool))
                continue
            name, node = connection["name"], graph.nodes[connection["node"]]
            out = len(node.weight)
            state[f"{name}.weight"] = _unfolded(node.weight, about["factors"][connection["node"]], kind)
            if kind == "linear":
                connections.append(models.linear(name, source, out, pool=pool))
            else:
                more = {"stride": connection["stride"], "pad": connection["pad"], "bias": connection["bias"], "norm": connection["norm"]}
                connections.append(models.conv(name, source, out, node.weight.shape[2], pool=pool, **more))
        layers.append(models.layer(of["name"].removesuffix(" (readout)"), *connections, norm=of["norm"]))
    neuron = structure["neuron"]
    # Such a network knows bytes up to 255; means and deviations are in units of the largest one.
    ratio = float(about["max_value"]) / 255
    return (
        layers,
        {
            "input_shape": tuple(int(n) for n in graph.nodes["input"].input_type["input"]),
            "classes": structure["classes"],
            "neuron": neuron["kind"],
            "time_steps": structure["time_steps"],
            "alpha": neuron["alpha"],
            **{key: neuron[key] for key in ("tau", "delta_t") if key in neuron},
            "threshold_bound": THRESHOLD_BOUND,
            "weight_bits": structure["weight_bits"],
            "readout": structure["readout"],
            "mean": [float(value) * ratio for value in about["mean"]],
            "std": [float(value) * ratio for value in about["std"]],
        },
        state,
    )


def _unfolded(weight: Any, factor: Any, kind: str) -> Any:
    """Weights before the factor of each output channel; any will do for one whose factor is 0."""
    flat, factor = weight.reshape(len(weight), -1).astype(float), numpy.asarray(factor, float)[:, None]
    flat = numpy.divide(flat, factor, out=numpy.zeros_like(flat), where=factor != 0).astype(numpy.float32)
    return flat if kind == "linear" else flat.reshape(weight.shape)
