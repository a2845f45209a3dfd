"""One measured case of a PyTorch network: its options, the timed loop, its JSON line."""

import json
import platform
import resource
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def add_options(parser):
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("-b", "--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)


def settle_batch_norm(net, images):
    """One forward that sets the running statistics to this batch's, so that an untrained network fires in inference as in training."""
    norms = [module for module in net.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def firing_rate(net, images, neuron_types):
    """Spikes per neuron and time step over all neurons of the network, in the mode the network is in."""
    spikes, sites = 0, 0

    def count(_module, _inputs, out):
        nonlocal spikes, sites
        spikes += int(torch.count_nonzero(out))
        sites += out.numel()

    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, neuron_types)]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return spikes / sites if sites else None


def run(net, images, labels, args, neuron_types, after_step=lambda: None, **facts):
    """Times `args.repeats` steps and prints one JSON line. `after_step` resets the network's state, inside the timed step."""
    net, images, labels = net.to(args.device), images.to(args.device), labels.to(args.device)
    on_cuda = args.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)

    def train_step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        after_step()

    def infer_step():
        with torch.inference_mode():
            net(images)
        after_step()

    if args.mode == "infer":
        settle_batch_norm(net, images)
        after_step()
    net.train(args.mode == "train")
    step = train_step if args.mode == "train" else infer_step
    for _ in range(args.warmup):
        step()
    seconds = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(args.repeats):
        wait()
        start = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    rate = firing_rate(net, images, neuron_types)
    print(json.dumps({
        "mode": args.mode,
        "batch": args.batch,
        "threads": args.threads,
        **facts,
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "n": len(seconds),
        "times_s": seconds,
        "mean_firing_rate": rate,
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "peak_rss_bytes": peak,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if on_cuda else None,
        "page_faults_per_step": (usage.ru_minflt - faults) / len(seconds),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
    }))
