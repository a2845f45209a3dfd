"""Trains as train_ann.py does, by currents, with other gradients of the neuron: what docs/method.md says of few time steps.

    python neuron_gradients.py clamp --data FOLDER --neuron if -T 2 --vth 1.2 --alpha 0.5 --epochs 1 ...

    clamp      DSR: the clamp mapping, thresholds by what lies above it
    surrogate  the clamp's 1 becomes the time mean of ATan's derivative times eligibility, without a time axis behind it
               (rate-based backpropagation, Yu et al., NeurIPS 2024, arXiv 2410.11488)
    rounding   clamp, but thresholds also get what rounding to a spike count changes (LSQ, Esser et al., ICLR 2020, arXiv 1902.08153)
    time       the same neurons by backpropagation through all time steps with ATan's derivative

Everything else is train_ann.py's.
"""

import math
import sys

import torch
from torch.autograd import Function

import network
import train_ann

KINDS = ("clamp", "surrogate", "rounding", "time")


def denominator(x):
    """Of the derivative of ATan with alpha 2, as SpikingJelly divides by it; x in units of the threshold."""
    return 1 + (math.pi * x) ** 2


class Fire(Function):
    """1 where x is at least 0; backward, the derivative of ATan."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / denominator(ctx.saved_tensors[0])


def steps_of(current, threshold, config, fire):
    """Spikes of all steps, [T][B, ...], and what `fire` was told of each: (potential / threshold - alpha, eligibility)."""
    is_lif, leak = config.kind == "lif", config.leak
    potential, eligibility, spikes, told = torch.zeros_like(current[: len(current) // config.time_steps]), 0.0, [], []
    for step in current.unflatten(0, (config.time_steps, -1)):
        potential = potential * leak + (1 - leak) * step if is_lif else potential + step
        eligibility = eligibility * leak + (1 - leak) if is_lif else eligibility + 1
        told.append((potential / threshold - config.alpha, eligibility))
        spikes.append(fire(told[-1][0]))
        potential = potential - (spikes[-1] * threshold).detach()
    return spikes, told


def through_time(current, threshold, config):
    spikes, _ = steps_of(current, threshold, config, Fire.apply)
    return torch.cat(spikes) * (threshold / config.delta_t if config.kind == "lif" else threshold)


def by_rate(kind):
    """A neuron whose backward has no time axis."""

    class Neuron(Function):
        @staticmethod
        def forward(ctx, current, threshold, config):
            spikes, told = steps_of(current, threshold, config, lambda x: (x >= 0).to(x))
            value = threshold / config.delta_t if config.kind == "lif" else threshold
            out = torch.cat(spikes) * value
            weights = config.time_weights(current)
            gains = [w * eligibility / denominator(x) for w, (x, eligibility) in zip(weights / weights.sum(), told)]
            # Of the representation by a current that is the same at each step: 1 / tau (IF: 1) in the middle of the clamp.
            factor = sum(gains) / (config.delta_t if config.kind == "lif" else 1)
            ctx.save_for_backward(config.representation(current), threshold, factor, config.representation(out))
            ctx.config = config
            return out

        @staticmethod
        def backward(ctx, grad_out):
            mean, threshold, factor, rounded = ctx.saved_tensors
            config, is_lif = ctx.config, ctx.config.kind == "lif"
            upper, tau = (threshold * config.tau / config.delta_t, config.tau) if is_lif else (threshold, 1)
            grad = config.time_steps * config.representation(grad_out)
            by_threshold = (grad * (mean > upper)).sum()
            inside = (mean >= 0) & (mean <= upper)
            if kind == "rounding":
                by_threshold = by_threshold + (grad * inside * (rounded - mean / tau)).sum() / upper
            by_current = factor if kind == "surrogate" else inside / tau
            spread = (grad * by_current / config.time_steps).expand(config.time_steps, *grad.shape).flatten(0, 1)
            return spread, config.threshold_grad_scale * (config.delta_t if is_lif else 1) * by_threshold, None

    return Neuron.apply


class ByCurrent(network.PreActResNet):
    def __init__(self, *arguments):
        super().__init__(*arguments, readout="current")


def main():
    kind = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if kind not in KINDS:
        sys.exit(f"neuron_gradients.py: {kind!r}: expected one of {', '.join(KINDS)}, then flags of train_ann.py")
    neuron = type("Chosen", (), {"apply": staticmethod(through_time if kind == "time" else by_rate(kind))})
    network.IntegrateAndFire = network.LeakyIntegrateAndFire = neuron
    train_ann.PreActResNet = ByCurrent
    train_ann.main()


if __name__ == "__main__":
    main()
