"""Writes golden tensors of a network with a readout by current, from plain PyTorch in float64: tests/golden/grid_current_*.

    golden_readout.py FOLDER

Weights and images lie on a grid of powers of two, so that convolution sums have no rounding; `tests/golden/README.md` says how a
file is read. Gradients are those of autograd through the unrolled network.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch.nn import functional as F

from network import NeuronConfig, Neuron, PreActResNet

CASES = {
    "grid_current_if": (NeuronConfig("if", 4, 1.0, 0.5, 1.0, 1.0, 0.01), 3),
    "grid_current_lif": (NeuronConfig("lif", 5, 0.5, 0.3, 1.0, 0.25, 0.0005), 4),
}
WIDTHS, BLOCKS, SIDE, CLASSES, BATCH, POOL = (8, 12), (1, 1), 8, 5, 4, 4


def packed(spikes):
    bits = (spikes != 0).flatten().to(torch.uint8)
    bits = F.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits * torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)).sum(1).to(torch.uint8)


def network(config, seed):
    torch.manual_seed(seed)
    net = PreActResNet(config, WIDTHS, BLOCKS, (3, SIDE, SIDE), CLASSES, POOL, readout="current").double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.copy_(torch.randint(-16, 17, parameter.shape) / 32)
            elif ".bn" in name or name.startswith("bn"):
                parameter.copy_((torch.randint(24, 41, parameter.shape) if name.endswith("weight") else torch.randint(-8, 9, parameter.shape)) / 32)
            elif name.endswith("bias"):
                parameter.copy_(torch.randint(-16, 17, parameter.shape) / 64)
        for module in net.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.running_mean.copy_(torch.randint(-16, 17, module.running_mean.shape) / 32)
                module.running_var.copy_(torch.randint(16, 65, module.running_var.shape) / 16)
    return net


def spikes_of(net, images):
    found, hooks = {}, []
    for name, module in net.named_modules():
        if isinstance(module, Neuron):
            hooks.append(module.register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, packed(out.detach()))))
    logits = net(images)
    for hook in hooks:
        hook.remove()
    return logits, found


def main(folder):
    for name, (config, seed) in CASES.items():
        net = network(config, seed)
        images = torch.randint(-8, 9, (BATCH, 3, SIDE, SIDE)).double() / 4
        labels = torch.arange(BATCH) % CLASSES
        tensors = {f"init/{key}": value.clone() for key, value in net.state_dict().items()}
        tensors |= {"x": images, "y": labels}
        with torch.no_grad():
            net.eval()
            logits, spikes = spikes_of(net, images)
        tensors["eval/logits"] = logits
        tensors |= {f"eval/spikes_packed/{key}": value for key, value in spikes.items()}
        net.train()
        logits, spikes = spikes_of(net, images)
        tensors["train/logits"] = logits.detach()
        tensors |= {f"train/spikes_packed/{key}": value for key, value in spikes.items()}
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        tensors["train/loss"] = loss.detach().reshape(1)
        tensors |= {f"train/grad_unrolled/{key}": value.grad for key, value in net.named_parameters()}
        tensors |= {f"train/after/{key}": value.clone() for key, value in net.state_dict().items() if "running" in key or "num_batches" in key}
        meta = dict(net="preact_resnet", readout="current", kind=config.kind, T=config.time_steps, alpha=config.alpha, tau=config.tau,
                    delta_t=config.delta_t, Vth_bound=config.vth_bound, widths=WIDTHS, num_blocks=BLOCKS, pool=POOL, hw=SIDE, classes=CLASSES,
                    torch=torch.__version__)
        text = save({key: value.contiguous() for key, value in tensors.items()}, {"meta": json.dumps(meta)})
        (Path(folder) / f"{name}.safetensors.gz").write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
