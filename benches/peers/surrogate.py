"""The PreAct-ResNet of network.py with SpikingJelly's neurons: surrogate gradients, backpropagation through all time steps."""

from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

from network import Neuron


class OverTime(nn.Module):
    """A multi-step SpikingJelly neuron for tensors [T*B, ...], time-major, as network.py has them."""

    def __init__(self, node, time_steps):
        super().__init__()
        self.node = node
        self.time_steps = time_steps

    def forward(self, current):
        return self.node(current.unflatten(0, (self.time_steps, -1))).flatten(0, 1)


def make_node(kind):
    """An IF or LIF neuron with SpikingJelly's defaults (threshold 1, tau 2, ATan), but with the soft reset that DSR has."""
    settings = {"v_threshold": 1.0, "v_reset": None, "surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m"}
    return neuron.IFNode(**settings) if kind == "if" else neuron.LIFNode(tau=2.0, **settings)


def use_surrogates(net):
    """Puts SpikingJelly's neurons in the place of all DSR neurons of a network; without the two that its own networks lack.

    Those are the neuron behind the average pool, which a LIF neuron with threshold 1 would silence, and the one after the logits,
    which would leave no logit outside 0..1.
    """
    config = net.config
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, Neuron):
                setattr(module, name, OverTime(make_node(config.kind), config.time_steps))
    net.relu2, net.relu3 = nn.Identity(), nn.Identity()


def reset(net):
    """Sets all membrane potentials to 0, as before the first step of a batch."""
    functional.reset_net(net)
