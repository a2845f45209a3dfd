"""A small trained network for each neuron and readout, and the program beside the module (`DSR_PROGRAM`, else target/debug/dsr)."""

import csv
import os
import pathlib
import signal
import subprocess

import numpy
import pytest

import dsr

# A job in the background ignores Ctrl-C, and the tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = {"dataset": "digits-8x8", "widths": [8], "blocks": [1], "time_steps": 4, "epochs": 1, "seed": 3, "device": "cpu"}


def program():
    """The command `dsr`; what compares with it is skipped where it is not built."""
    named = [os.environ.get("DSR_PROGRAM"), ROOT / "target/release/dsr", ROOT / "target/debug/dsr"]
    for path in named:
        if path and pathlib.Path(path).is_file():
            return str(path)
    if os.environ.get("DSR_PROGRAM_REQUIRED"):
        raise FileNotFoundError("DSR_PROGRAM names no program")
    pytest.skip("the program is not built; DSR_PROGRAM names it")


def command(folder, line):
    """Runs the program; its standard output."""
    done = subprocess.run([program(), *line.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def predictions(path):
    """Logits of a file of `dsr eval --predictions`, bit for bit, and the labels."""
    with open(path, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    names = [name for name in rows[0] if name.startswith("logit_")]
    logits = numpy.array([[numpy.float32(row[name]) for name in names] for row in rows], dtype=numpy.float32)
    return logits, numpy.array([int(row["label"]) for row in rows])


CASES = [(neuron, readout, bits) for neuron in ("if", "lif") for readout in ("spikes", "current") for bits in (16, 8)]


@pytest.fixture(scope="session", params=CASES, ids=lambda case: "-".join(map(str, case)))
def trained(request, tmp_path_factory):
    """A run folder and the network of its best checkpoint."""
    neuron, readout, bits = request.param
    folder = tmp_path_factory.mktemp("runs") / "run"
    dsr.train(out=folder, neuron=neuron, readout=readout, weight_bits=bits, **SETTINGS)
    return folder, dsr.load(folder)


def made(seed=0, input_shape=(1, 8, 8), **settings):
    """A small network after some steps on noise, so that its running statistics and thresholds let every layer fire."""
    settings = {"readout": "current", "time_steps": 4, **settings}  # which few steps do not leave without spikes
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=input_shape, seed=seed, **settings)
    return warmed(net, seed)


def warmed(net, seed=0, steps=10):
    rng = numpy.random.default_rng(seed)
    noise = rng.standard_normal((16, *net.input_shape), dtype=numpy.float32)
    net.choose_thresholds(noise)
    opt = dsr.SGD(net, lr=0.05)
    for _ in range(steps):
        net.train_step(noise, rng.integers(0, len(net.classes), 16), opt)
    return net


@pytest.fixture
def small():
    """A network of 8×8 pictures whose layers fire."""
    return made()


@pytest.fixture
def images():
    """Values as networks take them."""
    return numpy.random.default_rng(0).standard_normal((6, 1, 8, 8), dtype=numpy.float32)
