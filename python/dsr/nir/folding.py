"""Layers with their batch norms, values of spikes and rounded weights folded into one convolution per connection.

The constants are those that the engine computes an evaluation with (`running_normalizer` in `src/ops/batch_norm/normalizer.rs`): taken
in float64, rounded to float32. What is folded of them is float64, so a graph and the engine differ by the rounding of the engine's
float32 currents and potentials, and by nothing where these are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy

Float64 = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


@dataclass
class Connection:
    """A convolution of the spikes (0 or 1) of a layer, or of the input."""

    source: str  # "input" or the name of a layer
    source_shape: tuple[int, int, int]  # (C, H, W), before the pool
    pool: tuple[int, int, int] | None  # window, stride, padding; sums, not means
    weight: Float64  # [out, in, height, width]
    factor: Float64  # [out], what the rounded weights were multiplied with
    bias: Float64  # [out]
    stride: int
    pad: int

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width behind the pool."""
        height, width = self.source_shape[1:]
        if self.pool is None:
            return height, width
        window, stride, pad = self.pool
        return (height + 2 * pad - window) // stride + 1, (width + 2 * pad - window) // stride + 1


@dataclass
class Layer:
    """The sum of connections is the current, the same unit as the threshold."""

    name: str
    shape: tuple[int, int, int]  # (C, H, W)
    connections: list[Connection]
    fires: bool  # not where the currents are the readout
    threshold: float  # what a spike subtracts
    fire_at: float  # where it fires

    @property
    def initial_potential(self) -> float:
        """Of the shifted form, which fires at what it subtracts."""
        return self.threshold - self.fire_at


def folded(graph: dict[str, Any]) -> list[Layer]:
    """Layers of `Network.graph`.

    Raises
    ------
    ValueError
        For an ANN, which has no spikes.
    """
    if graph["neuron"]["kind"] == "relu":
        raise ValueError("neuron: relu: an ANN has no spikes, so NIR has nothing for it; train a spiking network")
    values = {layer["name"]: layer["spike_value"] for layer in graph["layers"]}
    return [_layer(layer, values) for layer in graph["layers"]]


def _layer(layer: dict[str, Any], values: dict[str, float]) -> Layer:
    channels = layer["shape"][0]
    units, constant = [], numpy.zeros(channels)
    for connection in layer["connections"]:
        unit = numpy.ones(channels)
        if connection["source"] != "input":
            window = 1 if connection["pool"] is None else connection["pool"][0]
            unit *= values[connection["source"]] / window**2
        shift = numpy.zeros(channels) if connection.get("bias") is None else connection["bias"].astype(float)
        if connection["norm"] is not None:
            scale = connection["norm"]["weight"].astype(float) / _deviation(connection["norm"])
            unit *= scale
            shift = connection["norm"]["bias"] + scale * (shift - connection["norm"]["running_mean"].astype(float))
        units.append(unit)
        constant += shift
    norm = layer["norm"]
    if norm is None:
        gamma, offset, beta = numpy.ones(channels), _rounded(constant), numpy.zeros(channels)
        factors = [_rounded(unit) for unit in units]
    else:
        inverse = 1.0 / _deviation(norm)
        gamma, beta = norm["weight"].astype(float), norm["bias"].astype(float)
        offset = _rounded(-inverse * (norm["running_mean"].astype(float) - constant))
        factors = [_rounded(inverse * unit) for unit in units]
    # The offset is added once.
    biases = [gamma * offset + beta] + [numpy.zeros(channels)] * (len(factors) - 1)
    parts = zip(layer["connections"], factors, biases, strict=True)
    connections = [_connection(connection, gamma * factor, bias) for connection, factor, bias in parts]
    fires = layer["threshold"] is not None
    return Layer(layer["name"], tuple(layer["shape"]), connections, fires, layer["threshold"] or 0.0, layer["fire_at"] or 0.0)


def _connection(connection: dict[str, Any], factor: Float64, bias: Float64) -> Connection:
    channels = len(factor)
    if connection["kind"] == "identity":
        weight, stride, pad = numpy.eye(channels)[:, :, None, None], 1, 0
    else:
        weight, stride, pad = connection["weight"].astype(float), connection["stride"], connection["pad"]
    source, pool = connection["source"], connection["pool"]
    weight = weight * factor[:, None, None, None]
    return Connection(source, tuple(connection["source_shape"]), pool, weight, factor, bias, stride, pad)


def _deviation(norm: dict[str, Any]) -> Float64:
    return numpy.sqrt(norm["running_var"].astype(float) + norm["eps"])


def _rounded(values: Float64) -> Float64:
    return values.astype(numpy.float32).astype(float)
