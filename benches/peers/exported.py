"""Runs what `dsr export` wrote in plain float64 PyTorch, and says how much of it is the same as in `dsr`.

    exported.py check RUN            share of equal logits and predictions: weights of the checkpoint, exported, folded
    exported.py fixture RUN FOLDER   writes checkpoint, exported files, made-up images and PyTorch's spikes for tests/export.rs

RUN is a run folder of a preact-resnet; `dsr` is the release build, or DSR.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from network import NeuronConfig, Neuron, PreActResNet

DSR = os.environ.get("DSR", str(Path(__file__).resolve().parents[2] / "target/release/dsr"))


def dsr(*words):
    subprocess.run([DSR, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def network(path, about):
    """The network of a file in float64, with its batch norms or with what they became."""
    with safe_open(about, "pt") as file:
        config, data = tomllib.loads(file.metadata()["config"]), json.loads(file.metadata()["data"])
    neuron = NeuronConfig(config["neuron"], config["time_steps"], 1.0, config["alpha"], config["tau"], config["delta_t"], config["vth_bound"])
    height, width, channels = data["shape"]
    side = min(-(-n // 2 ** (len(config["widths"]) - 1)) for n in (height, width))
    pool = 4 if side % 4 == 0 else side
    net = PreActResNet(neuron, config["widths"], config["blocks"], (channels, height, width), len(data["classes"]), pool).double()
    state = {name: tensor.double() for name, tensor in load_file(path).items() if not name.startswith("optimizer.")}
    if not any(name.endswith("running_mean") for name in state):
        fold(net, state)
    net.load_state_dict(state, strict=False)
    missing = set(dict(net.named_parameters())) - set(state)
    assert not missing, missing
    return net.eval(), data


def fold(net, state):
    """Takes the batch norms out of the network; identities that ended in one become convolutions per channel."""
    for name, module in list(net.named_modules()):
        parent = net.get_submodule(name.rpartition(".")[0])
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    net.conv1 = nn.Conv2d(net.conv1.in_channels, net.conv1.out_channels, 3, padding=1).double()
    blocks = [name for name, module in net.named_modules() if type(module).__name__ == "PreActBlock"]
    for name, following in zip(blocks, [f"{block}.relu1" for block in blocks[1:]] + ["relu1"]):
        weight = state.pop(f"{following}.identity.weight", None)
        if weight is not None:
            block = net.get_submodule(name)
            block.shortcut = nn.Conv2d(len(weight), len(weight), 1, groups=len(weight), bias=False).double()
            state[f"{name}.shortcut.weight"] = weight


def run(net, images):
    """Logits, and the spikes of each layer, [T, B, C, H, W]."""
    spikes = {}

    def keep(name):
        return lambda module, inputs, out: spikes.__setitem__(name, (out != 0).unflatten(0, (net.config.time_steps, -1)).to(torch.uint8))

    hooks = [module.register_forward_hook(keep(name)) for name, module in net.named_modules() if isinstance(module, Neuron)]
    with torch.no_grad():
        logits = net(images.double())
    for hook in hooks:
        hook.remove()
    return logits, spikes


def exported(checkpoint, folder):
    files = {"checkpoint": checkpoint, "exported": folder / "exported.safetensors", "folded": folder / "folded.safetensors"}
    dsr("export", "--checkpoint", checkpoint, "--out", files["exported"])
    dsr("export", "--checkpoint", checkpoint, "--out", files["folded"], "--fold-norms")
    return files


def fixture(run_folder, folder):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_folder / "best.safetensors", folder / "checkpoint.safetensors")
    files = exported(folder / "checkpoint.safetensors", folder)
    torch.manual_seed(1)
    found = {}
    for what in ("exported", "folded"):
        net, data = network(files[what], files["checkpoint"])
        height, width, channels = data["shape"]
        images = torch.randint(-32, 33, (8, channels, height, width), generator=torch.Generator().manual_seed(2)) / 16
        found[what] = run(net, images)
    for name, spikes in found["exported"][1].items():
        assert torch.equal(spikes, found["folded"][1][name]), f"{name}: folded norms changed spikes"
    tensors = {f"spikes.{name}": spikes.contiguous() for name, spikes in found["exported"][1].items()}
    save_file({"images": images.float(), "logits": found["exported"][0], **tensors}, folder / "spikes.safetensors")
    rates = {name: round(spikes.float().mean().item(), 3) for name, spikes in found["exported"][1].items()}
    print(folder, "firing rates", rates)


def check(run_folder):
    """On the test images, as `dsr eval --predictions` writes what it computed of them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = exported(run_folder / "best.safetensors", folder)
        dsr("eval", "--checkpoint", run_folder, "--predictions", folder / "predictions.csv")
        lines = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()]
        first = next(i for i, name in enumerate(lines[0]) if name.startswith("logit"))
        ours = torch.tensor([[float(v) for v in line[first:]] for line in lines[1:]], dtype=torch.float64)
        images = test_images(files["checkpoint"])
        for what, path in files.items():
            net, _ = network(path, files["checkpoint"])
            logits = torch.cat([run(net, part)[0] for part in images.split(64)])
            same = torch.isclose(logits, ours, rtol=1e-5, atol=1e-5)
            predictions = (logits.argmax(1) == ours.argmax(1)).double().mean()
            print(f"{what:10}  equal logits {100 * same.double().mean():6.2f} %  equal predictions {100 * predictions:6.2f} %")


def test_images(about):
    """The test images of a data set that comes with dsr, normalised as the checkpoint says."""
    import gzip

    import numpy

    with safe_open(about, "pt") as file:
        data = json.loads(file.metadata()["data"])
    path = next((Path(__file__).resolve().parents[2] / "data" / data["name"]).glob("t*k-images*"))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    height, width, channels = data["shape"]
    pixels = numpy.frombuffer(raw, numpy.uint8, offset=16).reshape(-1, channels, height, width)
    values = torch.tensor(pixels).float() / data["max_value"]
    mean, std = (torch.tensor(data[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (values - mean) / std


if __name__ == "__main__":
    command, run_folder, *rest = sys.argv[1:]
    fixture(Path(run_folder), Path(rest[0])) if command == "fixture" else check(Path(run_folder))
