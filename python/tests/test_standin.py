"""On a CUDA device, which is the driver's stand-in of the engine's tests: what one buffer for all passes may not do to gradients."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def on_the_standin(code):
    """Runs Python with the stand-in as its driver, which has to be on the library path from the start; what it prints."""
    folders = sorted((ROOT / "target").glob("*/build/emulator-*/out/driver"), key=lambda folder: folder.stat().st_mtime)
    if not folders:
        pytest.skip("the stand-in of the driver is not built; cargo build -p emulator does it")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folders[-1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


NETWORK = """
import numpy, dsr
rng = numpy.random.default_rng(0)
net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
net.to("cuda")
images, labels = rng.standard_normal((8, 1, 8, 8), dtype=numpy.float32), rng.integers(0, 10, 8)
"""


def test_two_optimisers_have_each_its_own_state():
    code = """
def run(fresh):
    own = net.copy()
    own.to("cuda")
    first, second = dsr.SGD(own, lr=0.1, momentum=0.9), dsr.SGD(own, lr=0.1, momentum=0.9)
    own.train_step(images, labels, first)
    if fresh:
        own.to("cuda")  # a session that has nothing
    own.train_step(images, labels, second)
    return own.state_dict()
one, other = run(False), run(True)
print(all(numpy.array_equal(one[name], other[name]) for name in one))
"""
    assert on_the_standin(NETWORK + code) == "True"


def test_an_evaluation_between_forward_and_backward_is_refused():
    pytest.importorskip("torch")
    code = """
import torch, dsr.torch
module = dsr.torch.Module(net)
module(torch.from_numpy(images)).sum().backward()
loss = module(torch.from_numpy(images)).sum()
module.eval()
module(torch.from_numpy(images))
try:
    loss.backward()
except RuntimeError as error:
    print(error)
"""
    assert "other work since this forward pass" in on_the_standin(NETWORK + code)


def test_a_value_that_is_no_number_leaves_everything_as_it_was():
    code = """
opt = dsr.SGD(net, lr=0.1, momentum=0.9)
before, huge = net.state_dict(), images.copy()
huge[0] = 3e38
try:
    net.train_step(huge, labels, opt)
except FloatingPointError:
    after = net.state_dict()
    print(all(numpy.array_equal(before[name], after[name]) for name in before), numpy.isfinite(net.train_step(images, labels, opt)))
"""
    assert on_the_standin(NETWORK + code) == "True True"
