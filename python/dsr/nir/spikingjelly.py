"""A network as a SpikingJelly module, by the shifted form: threshold Vth, soft reset, initial potential (1 - alpha) * Vth."""

from typing import Any

import numpy

from .._dsr import Network
from .folding import Layer, folded


def to_spikingjelly(net: Network, dtype: Any = None) -> Any:
    """A `torch.nn.Module` of SpikingJelly's layers and neurons that computes what the network does in evaluation.

    Its `forward` takes images as the network does, `[B, C, H, W]`, or `[B, T, C, H, W]` with a frame for each step, as the tensors that
    the network would take (normalised), starts from the initial potentials, runs `module.time_steps` steps and returns logits
    `[B, classes]`. After it, `module.spikes[layer]` is `[T, B, C, H, W]` for each name in `module.record`. Neurons are
    `module.neurons[name]`, with SpikingJelly's surrogate gradients; batch norms are folded into the weights.

    Parameters
    ----------
    net : Network
    dtype : torch.dtype
        Of parameters and potentials [default: torch.float32]. With torch.float64 nothing but the engine's own rounding is between them.

    Raises
    ------
    ImportError
        Without PyTorch or SpikingJelly.
    ValueError
        For an ANN.
    """
    try:
        import torch
        from spikingjelly.activation_based import neuron  # noqa: F401
    except ImportError as error:
        raise ImportError("dsr.nir.to_spikingjelly: PyTorch or SpikingJelly is missing; pip install spikingjelly") from error
    about = net.graph()
    return _module(torch, about, folded(about), dtype or torch.float32)


def _module(torch: Any, about: dict[str, Any], layers: list[Layer], dtype: Any) -> Any:
    from spikingjelly.activation_based import functional, layer, neuron

    leak, is_leaky = about["neuron"]["leak"], about["neuron"]["kind"] == "lif"

    def node(of: Layer) -> Any:
        options = {"v_threshold": of.threshold, "v_reset": None, "step_mode": "m"}
        made = neuron.LIFNode(tau=1 / (1 - leak), decay_input=True, **options) if is_leaky else neuron.IFNode(**options)
        made.set_reset_value("v", of.initial_potential)
        made.reset()
        return made

    def convolution(of: Layer, at: int) -> Any:
        connection = of.connections[at]
        (out, into), kernel = connection.weight.shape[:2], connection.weight.shape[2:]
        bias = connection.bias
        if at == 0 and is_leaky and of.fires:
            # A shifted potential leaks towards the shift.
            bias = bias + of.initial_potential
        conv = layer.Conv2d(into, out, kernel, stride=connection.stride, padding=connection.pad, step_mode="m")
        # Means of windows are exact where the window is a power of two; sums always would be, but there is no such layer.
        window = 1 if connection.pool is None else connection.pool[0] ** 2
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(connection.weight * window))
            conv.bias.copy_(torch.from_numpy(numpy.ascontiguousarray(bias)))
        if connection.pool is None:
            return conv
        return torch.nn.Sequential(layer.AvgPool2d(*connection.pool, step_mode="m"), conv)

    class SpikingJellyNetwork(torch.nn.Module):
        """See `dsr.nir.to_spikingjelly`."""

        def __init__(self) -> None:
            super().__init__()
            self.time_steps: int = about["time_steps"]
            self.names = [of.name for of in layers]
            self.record: list[str] = []
            self.spikes: dict[str, Any] = {}
            previous = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                self.weights = torch.nn.ModuleList(
                    torch.nn.ModuleList(convolution(of, at) for at in range(len(of.connections))) for of in layers
                )
                self.nodes = torch.nn.ModuleList(node(of) if of.fires else torch.nn.Identity() for of in layers)
            finally:
                torch.set_default_dtype(previous)
            last = about["layers"][-1]
            self.factor = 1.0 if last["spike_value"] is None else last["spike_value"]
            decay = torch.tensor(about["neuron"]["step_weights"], dtype=dtype)
            self.register_buffer("step_weights", decay, persistent=False)

        @property
        def neurons(self) -> dict[str, Any]:
            return dict(zip(self.names, self.nodes, strict=True))

        def forward(self, images: Any) -> Any:
            if images.dim() not in (4, 5) or (images.dim() == 5 and images.shape[1] != self.time_steps):
                raise ValueError(f"images: have shape {tuple(images.shape)}; give [B, C, H, W] or [B, {self.time_steps}, C, H, W]")
            functional.reset_net(self)
            frames = images.transpose(0, 1) if images.dim() == 5 else images[None]
            outputs = {"input": frames.to(self.step_weights.dtype)}
            self.spikes = {}
            for name, of, weights, node in zip(self.names, layers, self.weights, self.nodes, strict=True):
                current = sum(weight(outputs[connection.source]) for weight, connection in zip(weights, of.connections, strict=True))
                # The current of a static image is computed once.
                current = current if len(current) == self.time_steps else current.expand(self.time_steps, *current.shape[1:])
                outputs[name] = node(current)
                if name in self.record:
                    self.spikes[name] = outputs[name].detach() > 0
            last = outputs[self.names[-1]].flatten(2)
            return torch.einsum("t,tbc->bc", self.step_weights, last) * self.factor

    return SpikingJellyNetwork().eval()
