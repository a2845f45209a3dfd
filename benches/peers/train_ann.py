"""Trains the PreAct-ResNet of network.py on (Fashion-)MNIST files, as an ANN or as an SNN; prints one JSON line an epoch.

    python train_ann.py --neuron relu --widths 16,32,64 --blocks 1,1,1
    python train_ann.py --neuron if -T 5 --widths 16,32,64 --blocks 1,1,1
    python train_ann.py --neuron lif -T 4 --surrogate

The last line has the final and the best test accuracy. Crop and flip, SGD with momentum, cosine.
"""

import argparse
import gzip
import json
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from network import PreActResNet, add_neuron_options, neuron_config, numbers

DATA = Path(__file__).resolve().parents[2] / "data" / "fashion-mnist-3k"


def read_idx(path):
    """An IDX file of unsigned bytes, plain or gzipped."""
    if not path.exists():
        path = path.with_suffix("")
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if data[:3] != b"\0\0\x08":
        sys.exit(f"{path}: not an IDX file of unsigned bytes")
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, 4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def read_split(folder, prefix):
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz").unsqueeze(1).float() / 255
    return images, read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").long()


def augment(images, pad, generator):
    """A random crop after padding with the value of a black pixel, and a flip, drawn for each image."""
    n, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    tops, lefts = torch.randint(2 * pad + 1, (2, n), generator=generator).tolist()
    flips = torch.randint(2, (n,), generator=generator).tolist()
    crops = [padded[i, :, top : top + height, left : left + width] for i, (top, left) in enumerate(zip(tops, lefts))]
    return torch.stack([crop.flip(-1) if flip else crop for crop, flip in zip(crops, flips)])


@torch.inference_mode()
def accuracy(net, images, labels, batch, after_step):
    net.eval()
    right = 0
    for x, y in zip(images.split(batch), labels.split(batch)):
        right += int((net(x).argmax(1) == y).sum())
        after_step(net)
    return right / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the IDX files")
    parser.add_argument("--widths", type=numbers, default=[16, 32, 64])
    parser.add_argument("--blocks", type=numbers, help="blocks of each stage [1 each]")
    parser.add_argument("--pool", type=int, default=0, help="side of the last average pool [0: the whole map]")
    parser.add_argument("--plain-logits", action="store_true", help="no neuron after the last batch norm, as ANNs usually have it")
    parser.add_argument("--vth-pooled", type=float, help="threshold behind the average pool, before training [as the others]")
    parser.add_argument("--vth-logits", type=float, help="threshold of the logits, before training [as the others]")
    parser.add_argument("--surrogate", action="store_true", help="SpikingJelly's neurons and surrogate gradients instead of DSR's")
    add_neuron_options(parser)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("-b", "--batch", type=int, default=50)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--crop-pad", type=int, default=2, help="padding of the random crop")
    parser.add_argument("--lr-decay", choices=("epoch", "step"), default="epoch", help="when the cosine goes down")
    parser.add_argument("--warmup-iterations", type=int, default=0, help="linear warm-up of the learning rate")
    parser.add_argument("--limit", type=int, help="use only so many training and test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train_images, train_labels = (part[: args.limit] for part in read_split(args.data, "train"))
    test_images, test_labels = (part[: args.limit] for part in read_split(args.data, "t10k"))
    mean, std = train_images.mean(), train_images.std()
    test_images = (test_images - mean) / std

    config = neuron_config(args)
    blocks = args.blocks or [1] * len(args.widths)
    net = PreActResNet(config, args.widths, blocks, train_images.shape[1:], 10, args.pool, args.plain_logits)
    for flag, vth, neuron in (("--vth-pooled", args.vth_pooled, net.relu2), ("--vth-logits", args.vth_logits, net.relu3)):
        if vth is not None:
            if args.surrogate or not hasattr(neuron, "Vth"):
                parser.error(f"{flag}: this network has no such threshold")
            neuron.Vth.data.fill_(vth)
    facts, after_step = {}, lambda _net: None
    if args.surrogate:
        import surrogate  # needs SpikingJelly, which the others do without

        if config.kind == "relu":
            parser.error("--surrogate needs --neuron if or lif")
        surrogate.use_surrogates(net)
        after_step = surrogate.reset
        facts["spikingjelly"] = version("spikingjelly")
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    iteration, best = 0, 0.0
    for epoch in range(args.epochs):
        start, losses = time.perf_counter(), []
        net.train()
        steps = torch.randperm(len(train_images), generator=generator).split(args.batch)
        for step, chosen in enumerate(steps):
            epochs_done = epoch + (step / len(steps) if args.lr_decay == "step" else 0)
            lr = 0.5 * args.lr * (1 + math.cos(math.pi * epochs_done / args.epochs))
            if iteration < args.warmup_iterations:
                lr *= (iteration + 1) / args.warmup_iterations
            for group in optimizer.param_groups:
                group["lr"] = lr
            # The crop pads with black, so the pixels are normalised after it.
            images = (augment(train_images[chosen], args.crop_pad, generator) - mean) / std
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(images), train_labels[chosen])
            loss.backward()
            optimizer.step()
            after_step(net)
            losses.append(loss.item())
            iteration += 1
        test_accuracy = accuracy(net, test_images, test_labels, args.batch, after_step)
        best = max(best, test_accuracy)
        line = {"epoch": epoch + 1, "lr": lr, "loss": sum(losses) / len(losses), "test_accuracy": test_accuracy, "seconds": time.perf_counter() - start}
        print(json.dumps(line), flush=True)
    facts |= {
        "neuron": config.kind, "time_steps": config.time_steps, "widths": args.widths, "blocks": blocks,
        "plain_logits": args.plain_logits, "seed": args.seed, "epochs": args.epochs, "train_images": len(train_images),
        "test_images": len(test_images), "parameters": sum(p.numel() for p in net.parameters()), "torch": torch.__version__,
    }
    print(json.dumps(facts | {"final_test_accuracy": test_accuracy, "best_test_accuracy": best}))


if __name__ == "__main__":
    main()
