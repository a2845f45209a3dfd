"""Time of a call from Python beside `dsr bench latency`, in turns on one machine.

    python benches/peers/python_latency.py [--dsr target/release/dsr] [--rounds 5] [FLAGS OF dsr bench latency]

The network is the one that the program has timed, with batch norms settled on the same kind of noise; both name their firing rates,
which the time depends on.
"""

import argparse
import json
import statistics
import subprocess
import time

import numpy

import dsr

# By how much a batch moves the running statistics.
MOMENTUM = numpy.float32(0.1)


def network(case):
    """The network of a case, whose inference fires as training does, and one batch of noise."""
    config = {key: value for key, value in case["config"].items() if key not in ("dataset", "batch", "data_dir")}
    if config.pop("model") != "preact-resnet":
        config["depth"] = int(case["model"].rpartition("resnet")[2])
        config.pop("widths", None), config.pop("blocks", None)
    config.setdefault("readout", "spikes")  # which is what the program leaves out
    height, width, channels = map(int, case["image"].split("x"))
    net = dsr.preact_resnet(input_shape=(channels, height, width), **config)
    images = numpy.random.default_rng(0).standard_normal((case["batch"], channels, height, width), dtype=numpy.float32)
    running = [name for name in net.state_dict() if name.endswith(("running_mean", "running_var"))]
    net.load_state_dict({name: 0 * net.state_dict()[name] for name in running}, strict=False)
    net._train_forward(images, 0)
    net.load_state_dict({name: net.state_dict()[name] / MOMENTUM for name in running}, strict=False)
    return net, images


def seconds(net, images, repeats=100, most=5.0):
    """Times of calls, as the program takes them."""
    for _ in range(3):
        net(images)
    times, end = [], time.perf_counter() + most
    while len(times) < repeats and time.perf_counter() < end:
        begin = time.perf_counter()
        net(images)
        times.append(time.perf_counter() - begin)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsr", default="target/release/dsr")
    parser.add_argument("--rounds", type=int, default=5)
    args, flags = parser.parse_known_args()
    flags = flags or ["-b", "1", "-T", "20", "--neuron", "if", "--vth", "2"]
    ratios = []
    for _ in range(args.rounds):
        command = [args.dsr, "bench", "latency", "--device", "cpu", "-o", "json", *flags]
        case = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["cases"][0]
        net, images = network(case)
        ours, theirs = statistics.median(seconds(net, images)), case["median_s"]
        ratios.append(ours / theirs)
        out = net(images)
        shapes = {layer["name"]: numpy.prod(layer["shape"]) for layer in net.graph()["layers"]}
        rate = sum(shapes[name] * value for name, value in out.rates.items()) / sum(shapes[name] for name in out.rates)
        fired = f"rate {case['mean_firing_rate']:.4f} and {rate:.4f}"
        print(f"dsr {1e3 * theirs:.3f} ms, Python {1e3 * ours:.3f} ms, ratio {ours / theirs:.3f}; {fired}", flush=True)
    print(f"ratio: median {statistics.median(ratios):.3f} of {args.rounds} rounds")


if __name__ == "__main__":
    main()
