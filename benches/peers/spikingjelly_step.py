"""Times a training step or an inference of SpikingJelly's multi-step spiking ResNet-18 on random images; prints one JSON line.

    python spikingjelly_step.py --mode train -b 32 -T 20

The network is `spiking_resnet18` of the package with `LIFNode` neurons and surrogate gradients: ResNet-18's size, its own method.
Its stem is ImageNet's (7x7 stride 2, then a max pool); as users do for 32x32 images, it is replaced by a 3x3 convolution of
stride 1 and no pool, so the four stages work on 32, 16, 8 and 4 pixels a side, like those of the PreAct-ResNet.
The image is repeated at every time step, the logits are averaged over time, and the neurons are reset inside the timed step.
"""

import argparse
from importlib.metadata import version

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn

import measure


class OverTime(nn.Module):
    """Images [B, C, H, W] -> the same image at T steps [T, B, C, H, W] -> logits averaged over time [B, classes]."""

    def __init__(self, net, time_steps):
        super().__init__()
        self.net = net
        self.time_steps = time_steps

    def forward(self, images):
        return self.net(images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)).mean(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-T", "--time-steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--vth", type=float, default=1.0)
    parser.add_argument("--tau", type=float, default=2.0)
    measure.add_options(parser)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    net = spiking_resnet.spiking_resnet18(
        spiking_neuron=neuron.LIFNode, num_classes=args.classes, tau=args.tau, v_threshold=args.vth,
        surrogate_function=surrogate.ATan(), detach_reset=True,
    )
    net.conv1 = layer.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    functional.set_step_mode(net, "m")
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.randint(args.classes, (args.batch,))
    measure.run(OverTime(net, args.time_steps), images, labels, args, neuron.LIFNode, after_step=lambda: functional.reset_net(net),
                peer="spikingjelly", neuron="lif", time_steps=args.time_steps, vth=args.vth, spikingjelly=version("spikingjelly"))


if __name__ == "__main__":
    main()
