"""A spiking network inside of PyTorch.

>>> import torch, dsr, dsr.torch                                            # doctest: +SKIP
>>> module = dsr.torch.Module(dsr.preact_resnet(time_steps=4))              # doctest: +SKIP
>>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)  # doctest: +SKIP
>>> torch.nn.functional.cross_entropy(module(images), labels).backward()    # doctest: +SKIP
>>> optimizer.step()                                                        # doctest: +SKIP
"""

from __future__ import annotations

try:
    import torch
    from torch import nn
except ImportError as error:
    raise type(error)(f"dsr.torch needs PyTorch: {error}; pip install torch", name=error.name) from error

from ._dsr import DeviceArray, Network

__all__ = ["Module"]


def _taken(logits, device):
    """Logits as a tensor on the device of the images: without a copy where they are there already."""
    if isinstance(logits, DeviceArray):
        return torch.from_dlpack(logits)
    return torch.from_numpy(logits).to(device)


def _has(tensor, given):
    """Whether a tensor has taken what it was to load: values of other shapes are refused, but for one number in brackets."""
    if not isinstance(given, torch.Tensor) or not (given.shape == tensor.shape or tensor.dim() == 0 and given.shape == (1,)):
        return False
    return torch.allclose(tensor, given.reshape(tensor.shape).to(tensor), rtol=0, atol=0, equal_nan=True)


def _give_loaded(module, _):
    """Gives the network what was loaded, before anybody can change it: later, what it has learned since would be undone."""
    given, module._given = module._given, {}
    tensors = module._tensors()
    module._give([name for name in given if _has(tensors[name], given[name])])


class _Logits(torch.autograd.Function):
    """Logits of a batch; their gradient goes through the clamp mapping between firing rates."""

    @staticmethod
    def forward(ctx, images, module, *parameters):
        ctx.net = module.net
        ctx.save_for_backward(images)
        logits, rates, number = module.net._train_forward(images, module._passes)
        ctx.pass_number = number
        if number == module._changes + 1:  # else there were others in between
            module._changes = number
        module.rates = dict(zip(module._layer_names, rates))
        return _taken(logits, images.device)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logits):
        (images,) = ctx.saved_tensors
        grads, grad_images = ctx.net._backward(images.detach(), grad_logits.float(), ctx.pass_number)
        needs_images, _, *needs = ctx.needs_input_grad
        device = grad_logits.device
        of_images = None
        if needs_images:
            of_images = torch.from_numpy(grad_images).permute(0, 3, 1, 2).to(device)
            if images.dim() == 5:
                of_images = of_images.unsqueeze(1).expand_as(images)
        return of_images, None, *(torch.from_numpy(grad).to(device) if need else None for grad, need in zip(grads, needs))


class Module(nn.Module):
    """A `dsr.Network` as a `torch.nn.Module`.

    Its parameters and buffers have the names and shapes of `net.state_dict()`, so any optimiser of PyTorch steps them and
    `state_dict`, `load_state_dict`, `train` and `eval` work as ever. In training mode the logits have gradients by DSR: those of the
    clamp mapping between firing rates, with batch statistics; in evaluation mode they have none.

    Parameters
    ----------
    net : dsr.Network
        Computes on its own device (`net.to("cuda")`), where images, logits and the gradient of the logits stay if they are there;
        tensors on another CUDA device, and gradients of parameters and images, go through the host.

    Attributes
    ----------
    net : dsr.Network
    rates : dict
        Layer name to its mean firing rate in the last pass, spikes per neuron and time step.

    Notes
    -----
    Between a forward pass in training mode and its backward no other batch may be computed: the network keeps what backward needs of
    one batch, whose size does not depend on T. Where another such pass (of another module of the network, too), a training step, a
    change of the network or, on a CUDA device, an evaluation has come between, backward raises a RuntimeError. The precision is float32;
    `loss` may be any function of the logits. Images get gradients, too; of recordings, each frame gets the mean over time.

    What `net.train_step`, `net.load` and other calls have changed is in the tensors from the next call, `state_dict` or
    `load_state_dict` of the module on; a tensor that was changed since the last one stays as it is, and goes to the network. What
    `load_state_dict` of the module, or of one that it is a part of, has loaded is in the network when it returns or raises. Thresholds
    that the settings of the network freeze need no gradient, so optimisers leave them alone. A network that was made without thresholds
    of the caller's chooses them in the first forward pass in training mode, as the first `net.train_step` would.
    """

    def __init__(self, net: Network):
        super().__init__()
        self.net = net
        self.rates: dict[str, float] = {}
        self._passes = 0
        self._given: dict[str, torch.Tensor] = {}  # what is being loaded
        self._layer_names = [layer["name"] for layer in net.graph()["layers"]]
        self._names = [name for name, _ in net._parameters()]
        self._changes = net._changes()
        state, is_frozen = net.state_dict(), net.config.get("freeze_thresholds", False)
        for name in self._names:
            learns = not (is_frozen and name.endswith(".Vth"))
            self._place(name, nn.Parameter(torch.from_numpy(state.pop(name)), requires_grad=learns))
        self._buffer_names = list(state)
        for name, values in state.items():
            self._place(name, torch.from_numpy(values))
        self._held = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self.register_load_state_dict_post_hook(_give_loaded)

    def _place(self, name, value):
        """Puts a tensor where its name says, in modules without any forward of their own."""
        *path, last = name.split(".")
        owner = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        if isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_buffer(last, value)

    def _tensors(self):
        tensors = dict(self.named_parameters())
        tensors.update(self.named_buffers())
        return tensors

    def _changed(self):
        """Names of the tensors that somebody has changed; the others are brought up to date with the network.

        Values are compared: the version of a tensor does not say what was changed through its `.data`.
        """
        changed, same = [], []
        for name, tensor in self._tensors().items():
            self._held[name] = self._held[name].to(tensor)  # a module may go to another device
            (same if torch.equal(tensor, self._held[name]) else changed).append(name)
        changes = self.net._changes()
        if changes != self._changes:
            self._fetch(same)
            self._changes = changes
        return changed

    def _give(self, names):
        """Gives tensors to the network, and takes the lower bound of thresholds back. Thresholds that nobody has changed or loaded are
        not among them: the first batch is to choose them.
        """
        if not names:
            return
        tensors = self._tensors()
        self.net.load_state_dict({name: tensors[name].detach().cpu() for name in names}, strict=False)
        number = self.net._changes()
        if number == self._changes + 1:  # else there were others in between
            self._changes = number
        self._held.update({name: tensors[name].detach().clone() for name in names})
        self._fetch([name for name in names if name.endswith(".Vth")])

    @torch.no_grad()
    def _fetch(self, names):
        """Takes tensors from the network."""
        state, tensors = self.net.state_dict(), self._tensors()
        for name in names:
            tensors[name].copy_(torch.from_numpy(state[name]))
            self._held[name] = tensors[name].detach().clone()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]`, or `[B, T, C, H, W]`, to logits `[B, classes]`, float32."""
        self._give(self._changed())
        if not self.training:
            out = self.net(images)
            self.rates = dict(out.rates)
            return _taken(out.logits_on_device or out.logits, images.device)
        if self.net._choose_once(images.detach()):
            self._changed()  # which takes the thresholds
        self._passes += 1
        tensors = dict(self.named_parameters())
        logits = _Logits.apply(images, self, *(tensors[name] for name in self._names))
        self._fetch(self._buffer_names)
        return logits

    def state_dict(self, *args, **kwargs):
        """As of every module, with what `net` has been changed to meanwhile."""
        self._changed()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        self._changed()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        # The tensors belong to the modules inside, which load after this one.
        names = self._names + self._buffer_names
        self._given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
