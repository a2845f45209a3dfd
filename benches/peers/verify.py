"""Compares network.py with the golden tensors, in float64: spikes bit for bit, logits, loss and every gradient.

    python verify.py GOLDEN_FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from network import Neuron, NeuronConfig, PreActResNet

# float64 sums in another order; gradients pass through 20 layers.
TOLERANCE = 1e-9
# The golden gradients are stored in float32.
GRADIENT_TOLERANCE = 2e-6


def load(path):
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        return meta, {name: file.get_tensor(name) for name in file.keys()}


def build(meta, tensors):
    config = NeuronConfig(kind=meta["kind"], time_steps=meta["T"], alpha=meta["alpha"], tau=meta["tau"], delta_t=meta["delta_t"],
                          vth_bound=meta["Vth_bound"])
    net = PreActResNet(config, meta["widths"], meta["num_blocks"], tensors["x"].shape[1:], meta["classes"], meta["pool"]).double()
    state = {name.removeprefix("init/"): tensor for name, tensor in tensors.items() if name.startswith("init/")}
    net.load_state_dict(state, strict=True)
    return net


def relative(got, want):
    want = want.double()
    return ((got - want).abs().max() / want.abs().max().clamp_min(1e-12)).item()


def check(path):
    meta, tensors = load(path)
    failures, worst, sites = [], {"logits": 0.0, "gradient": 0.0}, 0

    def expect(name, value, limit):
        if not value <= limit:
            failures.append(f"{name}: {value:.3g} > {limit:.3g}")

    for mode in ("eval", "train"):
        net = build(meta, tensors)
        net.train(mode == "train")
        spikes = {}
        for name, module in net.named_modules():
            if isinstance(module, Neuron):
                module.register_forward_hook(lambda _module, _inputs, out, name=name: spikes.__setitem__(name, out.detach() != 0))
        logits = net(tensors["x"].double())
        for name, fired in spikes.items():
            want = tensors[f"{mode}/spikes_packed/{name}"].numpy()
            differing = int(np.unpackbits(np.packbits(fired.flatten().numpy()) ^ want).sum())
            expect(f"{mode} spikes of {name} differ", differing, 0)
            expect(f"{mode} spike count of {name}", abs(int(fired.sum()) - int(tensors[f"{mode}/spike_count/{name}"])), 0)
            sites += fired.numel()
        worst["logits"] = max(worst["logits"], relative(logits.detach(), tensors[f"{mode}/logits"]))
        expect(f"{mode} logits", worst["logits"], TOLERANCE)
        if mode == "eval":
            continue
        loss = torch.nn.functional.cross_entropy(logits, tensors["y"])
        expect("loss", relative(loss.detach(), tensors["train/loss"]), TOLERANCE)
        loss.backward()
        for name, parameter in net.named_parameters():
            want = tensors[f"train/grad_unrolled/{name}"]
            # A bias in front of a batch norm has gradient 0, and 1e-17 in arithmetic.
            error = 0.0 if want.abs().max() < 1e-12 and parameter.grad.abs().max() < 1e-12 else relative(parameter.grad, want)
            worst["gradient"] = max(worst["gradient"], error)
            expect(f"gradient of {name}", error, GRADIENT_TOLERANCE)
        for name, buffer in net.named_buffers():
            if not name.endswith("num_batches_tracked"):
                expect(f"{name} after a step", relative(buffer, tensors[f"train/after/{name}"]), GRADIENT_TOLERANCE)
    print(f"{path.name}: {sites} spike sites, worst relative error: logits {worst['logits']:.1e}, gradient {worst['gradient']:.1e};"
          f" {len(failures)} failures")
    for failure in failures:
        print(f"  {failure}")
    return not failures


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: verify.py GOLDEN_FOLDER")
    cases = sorted(Path(sys.argv[1]).glob("grid_resnet_*.safetensors"))
    if not cases:
        sys.exit(f"verify.py: no grid_resnet_*.safetensors in {sys.argv[1]}")
    sys.exit(0 if all([check(case) for case in cases]) else 1)
