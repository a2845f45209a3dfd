#!/usr/bin/env python3
"""How the forms of dsr.nir.export fare in the importers of other programs: shares of equal spikes and classes, accuracy; one table.

    python benches/peers/nir_importers.py [--time-steps 8] [--epochs 8] [--out FILE]

Trains IF and LIF networks on digits-8x8, residual ones and chains (some seconds each), and reads them back by NIR's equations and by
each importer, as it is and with what has to be set by hand.
Needs the package dsr[nir], the environment of setup.sh, and, without what they ask for,
    pip install --no-deps nir nirtorch snntorch norse sinabs pbr
"""

import argparse
import contextlib
import io
import logging
import platform
import sys
import tempfile
import types
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
# snnTorch imports it, for nothing that is needed here; with Matplotlib it may look for a display.
sys.modules["pylab"] = types.ModuleType("pylab")
sys.modules["pylab"].__getattr__ = lambda name: None

import loguru  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402

import dsr  # noqa: E402

loguru.logger.remove()
logging.disable(logging.CRITICAL)

WIDTHS, BLOCKS = [8, 16], [1, 1]


def residual(neuron, steps, epochs):
    """A PreAct-ResNet of the command line."""
    settings = {"dataset": "digits-8x8", "widths": WIDTHS, "blocks": BLOCKS, "time_steps": steps, "epochs": epochs, "seed": 5}
    with tempfile.TemporaryDirectory() as folder:
        return dsr.train(out=f"{folder}/run", neuron=neuron, readout="spikes", threshold_init="auto", device="cpu", **settings)


def chain(neuron, steps, epochs):
    """A network without branches, each layer of neurons behind the one before."""
    layers = [
        dsr.layer("spikes1", dsr.conv("conv1", "input", 16), norm="bn1"),
        dsr.layer("spikes2", dsr.conv("conv2", "spikes1", 16), norm="bn2"),
        dsr.layer("spikes3", dsr.conv("conv3", "spikes2", 32, pool=2), norm="bn3"),
        dsr.layer("spikes4", dsr.linear("fc", "spikes3", 10), norm="bn4"),
    ]
    leak = {"tau": 1.0, "delta_t": 0.05} if neuron == "lif" else {}
    net = dsr.Network.build(layers, input_shape=(1, 8, 8), classes=10, neuron=neuron, time_steps=steps, seed=1, **leak)
    images, labels = normalized("train")
    net.choose_thresholds(images[:128])
    optimizer, order = dsr.SGD(net, lr=0.05, momentum=0.9, weight_decay=5e-4), numpy.random.default_rng(1)
    for _ in range(epochs):
        for batch in numpy.array_split(order.permutation(len(images)), len(images) // 50):
            net.train_step(images[batch], labels[batch], optimizer)
    return net


def normalized(split):
    """Images of digits-8x8 as the networks take them, and labels."""
    images, labels = dsr.dataset("digits-8x8", split)
    images = images.astype(numpy.float32) / numpy.float32(16)
    return (images - numpy.float32(0.305386)) / numpy.float32(0.375507), labels


class Case:
    """A trained network, the test images, and what it makes of them."""

    def __init__(self, train, neuron, steps, epochs):
        self.net = train(neuron, steps, epochs)
        self.images, self.labels = normalized("test")
        self.x = torch.from_numpy(self.images)
        self.ours = self.net(self.images, spikes=True)
        about = self.net.graph()
        self.steps, self.leak = steps, about["neuron"]["leak"]
        self.weights = numpy.array(about["neuron"]["step_weights"])
        self.value = about["layers"][-1]["spike_value"]
        self.layers = {layer["name"].replace(".", "_"): layer for layer in about["layers"]}

    def accuracy(self, logits):
        return f"{100 * (logits.argmax(1) == self.labels).mean():.1f}"

    def initial(self, node):
        """Potential at the start in the shifted form."""
        return self.layers[node]["threshold"] - self.layers[node]["fire_at"]

    def graph(self, form, dialect="nir"):
        return dsr.nir.graph(self.net, form, dialect="nir" if form == "exact" else dialect)


def node_of(case, module_name):
    """The neuron node that a module of an importer stands for."""
    parts = [part for part in module_name.split(".") if part in case.layers]
    return parts[-1] if parts else None


def stepped(case, net, squeezes=False):
    """Runs a module step by step (or all at once, where batch and time share an axis): outputs and spikes by layer."""
    trains = {}

    def keep(name):
        def hook(module, arguments, output):
            output = output[0] if isinstance(output, tuple) else output
            trains.setdefault(name, []).append(output.detach().clone())

        return hook

    hooked = set()
    for name, module in net.named_modules():
        node = node_of(case, name)
        if node and node not in hooked:  # the outermost module of a name is the first
            hooked.add(node)
            module.register_forward_hook(keep(node))
    outputs, state = [], None
    with torch.no_grad():
        if squeezes:
            out = net(case.x.repeat_interleave(case.steps, 0))
            out = out[0] if isinstance(out, tuple) else out
            outputs = list(out.reshape(len(case.x), case.steps, -1).transpose(0, 1))
            trains = {name: [of[0].reshape(len(case.x), case.steps, -1).transpose(0, 1)] for name, of in trains.items()}
            trains = {name: list(of[0]) for name, of in trains.items()}
        else:
            for _ in range(case.steps):
                result = net(case.x, state)
                out, state = result if isinstance(result, tuple) else (result, None)
                outputs.append(out[0] if isinstance(out, tuple) else out)
    return torch.stack(outputs), {name: torch.stack(of) for name, of in trains.items()}


def by_equations(case, form, dtype=numpy.float64, metadata=True):
    found = dsr.nir.run(case.graph(form), case.images, dtype=dtype, metadata=metadata)
    return found.outputs, {name.replace(".", "_"): trains for name, trains in found.spikes.items()}


def spikingjelly(case, form, is_set):
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net = import_from_nir(case.graph(form, "spikingjelly")).eval()
    for name, module in net.named_modules():
        if isinstance(module, neuron.BaseNode) and is_set:
            module.v_reset, module.v = None, case.initial(node_of(case, name))
    return stepped(case, net)


def ready(case, dtype):
    module = dsr.nir.to_spikingjelly(case.net, dtype)
    module.record = case.net.layers
    with torch.no_grad():
        module(case.x)
    spikes = {name.replace(".", "_"): trains for name, trains in module.spikes.items()}
    return spikes[list(spikes)[-1]], spikes


def snntorch(case, form, is_set):
    import snntorch
    from snntorch.import_nir import import_from_nir

    net = import_from_nir(case.graph(form, "snntorch"))
    for name, module in net.named_modules():
        if isinstance(module, snntorch.Leaky) and is_set:
            # Its LIF neurons are not charged with (1 - leak) of a current: thresholds are that much larger.
            initial = case.initial(node_of(case, name)) / (1 if case.leak == 1 else 1 - case.leak)
            shape = case.layers[node_of(case, name)]["shape"]
            module.reset_mechanism, module.mem = "subtract", torch.full((len(case.x), *shape), initial)
            if case.leak == 1:
                # It makes an IF neuron a leaky one, which also hands over its potential among its spikes.
                module.beta, module.init_hidden = torch.tensor(1.0), True
    return stepped(case, net)


def norse(case, form, is_set):
    import norse.torch.functional.reset as reset
    from norse.torch.utils.import_nir import from_nir

    options = {"reset_method": reset.reset_subtract} if is_set else {}
    return stepped(case, from_nir(case.graph(form, "norse"), dt=1e-4, **options))


def sinabs(case, form, is_set):
    import sinabs.layers as layers
    from sinabs.activation import SingleSpike
    from sinabs.nir import from_nir

    net = from_nir(case.graph(form, "sinabs"), batch_size=len(case.x))
    for name, module in net.named_modules():
        if isinstance(module, layers.IAFSqueeze | layers.LIFSqueeze) and is_set:
            node = node_of(case, name)
            module.min_v_mem, module.spike_fn = None, SingleSpike
            module.v_mem = torch.full((len(case.x), *case.layers[node]["shape"]), case.initial(node))
    return stepped(case, net, squeezes=True)


ROWS = [
    ("NIR's equations, float64", "exact", "", lambda case: by_equations(case, "exact")),
    ("NIR's equations, float32", "exact", "", lambda case: by_equations(case, "exact", numpy.float32)),
    ("NIR's equations, float64", "shifted", "metadata heeded", lambda case: by_equations(case, "shifted")),
    ("NIR's equations, float64", "shifted", "", lambda case: by_equations(case, "shifted", metadata=False)),
    ("NIR's equations, float64", "plain", "", lambda case: by_equations(case, "plain")),
    ("dsr.nir.to_spikingjelly", "shifted", "float64", lambda case: ready(case, torch.float64)),
    ("dsr.nir.to_spikingjelly", "shifted", "", lambda case: ready(case, torch.float32)),
    ("SpikingJelly", "exact", "", lambda case: spikingjelly(case, "exact", False)),
    ("SpikingJelly", "shifted", "`v_reset = None`, `v`", lambda case: spikingjelly(case, "shifted", True)),
    ("SpikingJelly", "shifted", "", lambda case: spikingjelly(case, "shifted", False)),
    ("SpikingJelly", "plain", "", lambda case: spikingjelly(case, "plain", False)),
    ("snnTorch", "exact", "", lambda case: snntorch(case, "exact", False)),
    ("snnTorch", "shifted", "`reset_mechanism`, `mem`; IF: `beta`, `init_hidden`", lambda case: snntorch(case, "shifted", True)),
    ("snnTorch", "shifted", "", lambda case: snntorch(case, "shifted", False)),
    ("snnTorch", "plain", "", lambda case: snntorch(case, "plain", False)),
    ("Norse", "exact", "", lambda case: norse(case, "exact", False)),
    ("Norse", "shifted", "`reset_method`", lambda case: norse(case, "shifted", True)),
    ("Norse", "shifted", "", lambda case: norse(case, "shifted", False)),
    ("Norse", "plain", "", lambda case: norse(case, "plain", False)),
    ("sinabs", "exact", "", lambda case: sinabs(case, "exact", False)),
    ("sinabs", "shifted", "`min_v_mem`, `v_mem`, `spike_fn`", lambda case: sinabs(case, "shifted", True)),
    ("sinabs", "shifted", "", lambda case: sinabs(case, "shifted", False)),
    ("sinabs", "plain", "", lambda case: sinabs(case, "plain", False)),
]


def measured(case, read):
    """A cell: share of equal spikes, and accuracy by the last layer's; or none, and why."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            _, spikes = read(case)
        spikes = [spikes[name.replace(".", "_")] for name in case.ours.spikes]
    except Exception as error:
        return "none", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    equal = total = 0
    for theirs, trains in zip(spikes, case.ours.spikes.values(), strict=True):
        theirs = numpy.asarray(theirs, float).reshape(trains.shape)
        equal += int((theirs == trains).sum())  # two spikes in one step, which sinabs knows, are not one
        total += trains.size
    outputs = numpy.asarray(spikes[-1], float).reshape(case.steps, len(case.x), -1)
    return f"{percent(equal / total)} ({case.accuracy(numpy.tensordot(case.weights, outputs, 1))})", None


def percent(share):
    """Never 100 where something differs."""
    return "100" if share == 1 else f"{min(100 * share, 99.999):.3f}" if share > 0.999 else f"{100 * share:.1f}"


def table(cases):
    lines = ["| importer | form | set by hand | residual, IF | residual, LIF | chain, IF | chain, LIF |", "|---|---|---|---|---|---|---|"]
    for importer, form, by_hand, read in ROWS:
        cells = []
        for (kind, neuron), case in cases.items():
            cell, problem = measured(case, read)
            cells.append(cell)
            if problem:
                print(f"{importer}, {form}, {by_hand}, {kind}, {neuron}: {problem}", file=sys.stderr)
        lines.append(f"| {importer} | {form} | {by_hand} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", help="also write the table to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    networks = [("residual", residual), ("chain", chain)]
    cases = {
        (kind, neuron): Case(train, neuron, options.time_steps, options.epochs) for kind, train in networks for neuron in ("if", "lif")
    }
    packages = ["dsr", "nir", "nirtorch", "spikingjelly", "snntorch", "norse", "sinabs", "torch", "numpy"]

    def version_of(package):
        return dsr.__version__ if package == "dsr" else version(package)

    own = [f"{kind} {neuron.upper()} {case.accuracy(case.ours.logits)}" for (kind, neuron), case in cases.items()]
    spikes = [sum(trains.size for trains in cases[kind, "if"].ours.spikes.values()) for kind, _ in networks]
    lines = [
        f"digits-8x8, {len(cases['chain', 'if'].labels)} test images, T = {options.time_steps}, {options.epochs} epochs; "
        f"{spikes[0]:,} neurons times steps of the residual network, {spikes[1]:,} of the chain; percent.",
        f"Accuracy of the networks themselves: {', '.join(own)}.",
        ", ".join(f"{package} {version_of(package)}" for package in packages) + f", Python {platform.python_version()}.",
        "",
        *table(cases),
    ]
    print("\n".join(lines))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
