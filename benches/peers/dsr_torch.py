"""Times a training step or an inference of the PyTorch DSR network on random images; prints one JSON line.

    python dsr_torch.py --mode train -b 32 -T 20 --neuron if --vth 2
"""

import argparse

import torch

import measure
from network import Neuron, PreActResNet, add_neuron_options, neuron_config, numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=("preact-resnet18",), default="preact-resnet18")
    parser.add_argument("--widths", type=numbers, help="channels of each stage, instead of those of --net: 16,32,64")
    parser.add_argument("--blocks", type=numbers, help="blocks of each stage [2 each]")
    parser.add_argument("--pool", type=int, default=0, help="side of the last average pool [0: the whole map]")
    parser.add_argument("--input", type=numbers, default=[3, 32, 32], help="channels,height,width")
    parser.add_argument("--classes", type=int, default=10)
    add_neuron_options(parser)
    measure.add_options(parser)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config = neuron_config(args)
    widths = args.widths or [64, 128, 256, 512]
    net = PreActResNet(config, widths, args.blocks or [2] * len(widths), args.input, args.classes, args.pool)
    images, labels = torch.randn(args.batch, *args.input), torch.randint(args.classes, (args.batch,))
    measure.run(net, images, labels, args, Neuron, peer="torch", neuron=args.neuron, time_steps=config.time_steps, vth=config.vth,
                widths=widths)


if __name__ == "__main__":
    main()
