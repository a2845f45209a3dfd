"""The CIFAR PreAct-ResNet with DSR neurons in plain PyTorch: what a PyTorch user would write today.

Spiking tensors are [T*B, C, H, W], time-major (row t*B + b), so every convolution and batch norm runs once over all T
time steps. A neuron loops over t in its forward. Its backward is the clamp mapping, which has no time axis.
Parameter names are those of the DSR checkpoints (`layer1.0.conv1.weight`, `layer1.0.relu1.Vth`, ...).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F


@dataclass
class NeuronConfig:
    kind: str = "if"  # if | lif | relu
    time_steps: int = 20
    vth: float = 6.0  # threshold before training
    alpha: float = 0.5  # fires at alpha * threshold, subtracts threshold
    tau: float = 1.0  # membrane time constant, LIF only
    delta_t: float = 0.05  # step length, same unit of time as tau, LIF only
    vth_bound: float = 0.01  # smallest threshold
    threshold_grad_scale: float = 1.0  # multiplies the threshold's gradient

    def __post_init__(self):
        if self.kind not in ("if", "lif", "relu"):
            raise ValueError(f"neuron {self.kind!r}: expected if, lif or relu")
        if self.kind == "relu":
            self.time_steps = 1

    @property
    def leak(self):
        return math.exp(-self.delta_t / self.tau) if self.kind == "lif" else 1.0

    def time_weights(self, like):
        """leak^(T - t) for t = 1..T: the weight of each time step in a representation, [T]."""
        return torch.tensor([self.leak ** (self.time_steps - t) for t in range(1, self.time_steps + 1)], dtype=like.dtype)

    def representation(self, x):
        """[T*B, ...] -> [B, ...]: the mean over time (IF) or the leak-weighted mean (LIF)."""
        x = x.unflatten(0, (self.time_steps, -1))
        if self.kind != "lif":
            return x.mean(0)
        weights = self.time_weights(x)
        return torch.tensordot(weights / weights.sum(), x, dims=1)


class IntegrateAndFire(Function):
    @staticmethod
    def forward(ctx, current, threshold, config):
        out = torch.empty_like(current)
        steps, spikes = current.unflatten(0, (config.time_steps, -1)), out.unflatten(0, (config.time_steps, -1))
        fire_at = config.alpha * threshold
        potential = torch.zeros_like(steps[0])
        for t in range(config.time_steps):
            potential += steps[t]
            # A comparison written straight into floats: twice as fast as a product with a mask of booleans.
            torch.ge(potential, fire_at, out=spikes[t]).mul_(threshold)
            potential -= spikes[t]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(config.representation(current), threshold)
            ctx.config = config
        return out

    @staticmethod
    def backward(ctx, grad_out):
        mean_current, threshold = ctx.saved_tensors
        time_steps = ctx.config.time_steps
        grad = grad_out.unflatten(0, (time_steps, -1)).sum(0)
        above = mean_current > threshold
        grad_threshold = ctx.config.threshold_grad_scale * (grad * above).sum()
        grad_current = (grad / time_steps).masked_fill_(above | (mean_current < 0), 0)
        return grad_current.expand(time_steps, *grad.shape).flatten(0, 1), grad_threshold, None


class LeakyIntegrateAndFire(Function):
    @staticmethod
    def forward(ctx, current, threshold, config):
        out = torch.empty_like(current)
        steps, spikes = current.unflatten(0, (config.time_steps, -1)), out.unflatten(0, (config.time_steps, -1))
        leak = config.leak
        fire_at, spike_value = config.alpha * threshold, threshold / config.delta_t
        potential = torch.zeros_like(steps[0])
        for t in range(config.time_steps):
            potential.mul_(leak).add_(steps[t], alpha=1 - leak)
            torch.ge(potential, fire_at, out=spikes[t]).mul_(spike_value)
            potential.sub_(spikes[t], alpha=config.delta_t)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(config.representation(current), threshold)
            ctx.config = config
        return out

    @staticmethod
    def backward(ctx, grad_out):
        mean_current, threshold = ctx.saved_tensors
        config = ctx.config
        upper = threshold * config.tau / config.delta_t
        grad = config.time_steps * config.representation(grad_out)
        # delta_t, not the 1/delta_t of the derivative, which makes thresholds collapse.
        grad_threshold = config.threshold_grad_scale * config.delta_t * (grad * (mean_current > upper)).sum()
        closed = (mean_current <= 0) | (mean_current >= upper)
        grad_current = (grad / (config.tau * config.time_steps)).masked_fill_(closed, 0)
        return grad_current.expand(config.time_steps, *grad.shape).flatten(0, 1), grad_threshold, None


class MeanCurrent(Function):
    """A readout without neurons: the (weighted) mean over time; its backward is that of the neurons, without ends."""

    @staticmethod
    def forward(ctx, current, config):
        ctx.config = config
        return config.representation(current)

    @staticmethod
    def backward(ctx, grad_out):
        config = ctx.config
        weights = config.time_weights(grad_out) if config.kind == "lif" else torch.ones(config.time_steps, dtype=grad_out.dtype)
        square = ((weights / weights.sum()) ** 2).sum()
        return (square * grad_out).expand(config.time_steps, *grad_out.shape).flatten(0, 1), None


class Neuron(nn.Module):
    """One layer of IF or LIF neurons with one learnable threshold, or a ReLU."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        if config.kind != "relu":
            self.Vth = nn.Parameter(torch.tensor(float(config.vth)))

    def forward(self, current):
        if self.config.kind == "relu":
            return F.relu(current)
        with torch.no_grad():
            self.Vth.clamp_(min=self.config.vth_bound)
        fire = IntegrateAndFire if self.config.kind == "if" else LeakyIntegrateAndFire
        return fire.apply(current, self.Vth, self.config)


class PreActBlock(nn.Module):
    def __init__(self, c_in, c_out, stride, config):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu1 = Neuron(config)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu2 = Neuron(config)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        same_shape = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(c_in, c_out, 1, stride=stride)

    def forward(self, x):
        x = self.relu1(self.bn1(x))
        return self.conv2(self.relu2(self.bn2(self.conv1(x)))) + self.shortcut(x)


class PreActResNet(nn.Module):
    """Images [B, C, H, W] -> logits [B, classes]. `pool` 0 averages the whole last map. `readout` is of spikes or by current."""

    def __init__(self, config, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), input_shape=(3, 32, 32), classes=10, pool=0,
                 plain_logits=False, readout="spikes"):
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"{len(widths)} widths but {len(blocks)} block counts")
        self.config = config
        channels, *size = input_shape
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        c_in = widths[0]
        self.stages = []
        for stage, (width, count) in enumerate(zip(widths, blocks)):
            stride = 1 if stage == 0 else 2
            layer = nn.Sequential(*(PreActBlock(c_in if i == 0 else width, width, stride if i == 0 else 1, config) for i in range(count)))
            c_in = width
            size = [(s + stride - 1) // stride for s in size]
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], layer)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.relu1 = Neuron(config)
        self.pool = nn.AvgPool2d(pool if pool else size)
        pooled = [s // pool for s in size] if pool else [1, 1]
        self.readout = readout
        self.relu2 = nn.Identity() if readout == "current" else Neuron(config)
        self.linear = nn.Linear(c_in * pooled[0] * pooled[1], classes)
        self.bn2 = nn.BatchNorm1d(classes)
        self.relu3 = nn.Identity() if plain_logits or readout == "current" else Neuron(config)
        self.initialise()

    def initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The bias keeps PyTorch's own uniform +-1/sqrt(fan_in).
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.uniform_(module.weight, -1 / math.sqrt(module.in_features), 1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)

    def forward(self, images):
        # The image is the same at every time step: its convolution is computed once.
        x = self.conv1(images)
        if self.config.time_steps > 1:
            x = x.repeat(self.config.time_steps, 1, 1, 1)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        x = self.relu2(self.pool(self.relu1(self.bn1(x))))
        x = self.relu3(self.bn2(self.linear(x.flatten(1))))
        return MeanCurrent.apply(x, self.config) if self.readout == "current" else self.config.representation(x)


def add_neuron_options(parser):
    parser.add_argument("--neuron", choices=("if", "lif", "relu"), default="if", help="relu: the same network as an ANN, T = 1")
    parser.add_argument("-T", "--time-steps", type=int, default=20)
    parser.add_argument("--vth", type=float, help="threshold before training [6 for IF, 0.3 for LIF]")
    parser.add_argument("--alpha", type=float, help="[0.5 for IF, 0.3 for LIF]")
    parser.add_argument("--tau", type=float, default=1.0)
    parser.add_argument("--delta-t", type=float, default=0.05)
    parser.add_argument("--vth-bound", type=float, help="[0.01 for IF, 0.0005 for LIF]")


def neuron_config(args):
    lif = args.neuron == "lif"
    return NeuronConfig(
        kind=args.neuron,
        time_steps=args.time_steps,
        vth=args.vth if args.vth is not None else (0.3 if lif else 6.0),
        alpha=args.alpha if args.alpha is not None else (0.3 if lif else 0.5),
        tau=args.tau,
        delta_t=args.delta_t,
        vth_bound=args.vth_bound if args.vth_bound is not None else (0.0005 if lif else 0.01),
    )


def numbers(text):
    """'16,32,64' -> [16, 32, 64]"""
    return [int(part) for part in text.split(",")]
