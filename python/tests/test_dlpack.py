"""Tensors of a CUDA device, which is the driver's stand-in of the engine's tests: read where they are, and given back once."""

import pathlib

import pytest
from test_standin import on_the_standin

TESTS = pathlib.Path(__file__).resolve().parent

START = f"""
import sys, warnings
sys.path.insert(0, {str(TESTS)!r})
import numpy, dsr
from lent_memory import LEGACY, NAME, VERSIONED, Late, Lent, Old, read, used
warnings.simplefilter("error")
rng = numpy.random.default_rng(0)

def made(channels=3, time_steps=3, **settings):
    net = dsr.preact_resnet([8], [1], classes=5, input_shape=(channels, 6, 7), time_steps=time_steps, readout="current",
                            mean=[0.4] * channels, std=[0.2 + c / 10 for c in range(channels)], **settings)
    noise = rng.standard_normal((16, *net.input_shape), dtype=numpy.float32)
    net.choose_thresholds(noise)
    opt = dsr.SGD(net, lr=0.05)
    for _ in range(3):
        net.train_step(noise, rng.integers(0, 5, 16), opt)
    return net.to("cuda")

def returned(tensor, times=1):
    assert tensor.given_back == times, tensor.given_back
    assert len(tensor.capsules) == times and all(stream > 2 for stream in tensor.streams)
    assert all(NAME(capsule) == b"used_" + tensor.name for capsule in tensor.capsules)

def problem(call, *errors):
    try:
        call()
    except errors or ValueError as error:
        return f"{{type(error).__name__}}: {{error}}"
    raise AssertionError("no error")
"""


def run(code):
    return on_the_standin(START + code)


def test_logits_are_those_of_images_of_the_host():
    code = """
for channels in (1, 3):
    net = made(channels)
    for dtype in (numpy.float32, numpy.uint8):
        values = rng.standard_normal((5, channels, 6, 7)) if dtype == numpy.float32 else rng.integers(0, 256, (5, channels, 6, 7))
        first = values.astype(dtype)
        last = numpy.ascontiguousarray(first.transpose(0, 2, 3, 1))
        wide = numpy.zeros((11, channels, 8, 9), dtype)
        wide[1::2, :, 1:7, 1:8] = first
        forms = [
            (first, "NCHW"),
            (last, "NHWC"),
            (last.transpose(0, 3, 1, 2), "NCHW"),            # what PyTorch calls channels_last
            (wide[1::2, :, 1:7, 1:8], "NCHW"),               # steps, and not from the start of the memory
            (first[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1], "NCHW"),
            (numpy.broadcast_to(first[:1], first.shape), "NCHW"),
            (first.reshape(5, 1, channels, 6, 7), "NCHW"),
            (last.reshape(5, 1, 6, 7, channels), "NHWC"),
        ]
        for images, layout in forms:
            expected = net(images.copy(), layout=layout)
            assert expected.logits_on_device is None and numpy.abs(expected.logits).max() > 0
            for name in (LEGACY, VERSIONED):
                for batch in (128, 2):
                    tensor = Lent(images, name)
                    got = net(tensor, layout=layout, batch=batch, spikes=True)
                    assert numpy.array_equal(got.logits, expected.logits)
                    assert numpy.array_equal(read(got.logits_on_device)[0], expected.logits)
                    if batch == 128:
                        assert got.rates == expected.rates
                    returned(tensor)
                    tensor.free()
        for tensor in (Old(first), Lent(first, strides=None), Lent(first, LEGACY, strides=None, version=(0, 8))):
            assert numpy.array_equal(net(tensor).logits, net(first).logits)
            assert tensor.given_back == 1
print("same")
"""
    assert run(code) == "same"


def test_recordings_have_their_axis_of_time():
    code = """
net = made(2, time_steps=4)
frames = rng.standard_normal((3, 4, 2, 6, 7), dtype=numpy.float32)
bytes = rng.integers(0, 256, (3, 4, 2, 6, 7), dtype=numpy.uint8)
for images in (frames, bytes):
    tensor = Lent(images)
    assert numpy.array_equal(net(tensor, batch=2).logits, net(images).logits)
    returned(tensor)
    last = numpy.ascontiguousarray(images.transpose(0, 1, 3, 4, 2))
    assert numpy.array_equal(net(Lent(last), layout="NHWC").logits, net(images).logits)
print("same")
"""
    assert run(code) == "same"


def test_logits_are_lent_as_long_as_somebody_has_them():
    code = """
net = made()
images = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32)
tensor = Lent(images)
net(tensor)
before = used()
out = net(tensor)
array, expected = out.logits_on_device, out.logits.copy()
print(array, array.shape, array.__dlpack_device__())
readers = [read(array, versioned) for versioned in (True, False)]
del out, array
net(-images)  # the logits of another call go elsewhere
assert used() > before
for values, give_back in readers:
    assert numpy.array_equal(values, expected)
    assert used() > before
    give_back()
assert used() == before
array = net(tensor).logits_on_device
print(problem(lambda: array.__dlpack__(copy=True), BufferError))
print(problem(lambda: array.__dlpack__(dl_device=(1, 0)), BufferError))
unread = array.__dlpack__()  # a capsule that nobody takes gives back, too
del unread, array
assert used() == before
"""
    lines = run(code).splitlines()
    assert lines[0] == "dsr.DeviceArray([4, 5] float32 on cuda:0) (4, 5) (2, 0)"
    assert lines[1] == "BufferError: this producer only supports zero-copy export"
    assert lines[2].startswith("BufferError: cross-device copies are not supported")


def test_training_takes_the_same_steps():
    code = """
images, labels = rng.integers(0, 256, (8, 3, 6, 7), dtype=numpy.uint8), rng.integers(0, 5, 8)
net = made()
def steps(images, labels):
    own = net.copy()
    own.to("cuda")
    opt = dsr.SGD(own, lr=0.05, momentum=0.9)
    return [own.train_step(images, labels, opt) for _ in range(3)], own.state_dict()
losses, state = steps(images, labels)
tensor, classes = Lent(images), Lent(labels, cpu=True)
on_device, other = steps(tensor, classes)
returned(tensor, 3)
print(on_device == losses, all(numpy.array_equal(state[name], other[name]) for name in state))
"""
    assert run(code) == "True True"


def test_forward_and_backward_apart_have_the_same_gradients():
    code = """
images = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32)
gradient = rng.standard_normal((4, 5), dtype=numpy.float32)
net = made()
def passes(images, gradient):
    own = net.copy()
    own.to("cuda")
    logits, rates, number = own._train_forward(images, 1)
    return logits, rates, own._backward(images, gradient, number)
expected, rates, (grads, of_images) = passes(images, gradient)
turned = numpy.ascontiguousarray(gradient.T).T
for lent_gradient in (Lent(gradient), Lent(turned, LEGACY)):
    tensor = Lent(images)
    logits, rates_of, (grads_of, of_images_of) = passes(tensor, lent_gradient)
    values, give_back = read(logits)
    give_back()
    assert numpy.array_equal(values, expected) and rates_of == rates
    assert all(numpy.array_equal(a, b) for a, b in zip(grads, grads_of)) and numpy.array_equal(of_images, of_images_of)
    returned(tensor, 2)
    returned(lent_gradient)
bad = gradient.copy()
bad[2, 3] = numpy.inf
for wrong in (bad, gradient.astype(numpy.float64).astype(numpy.uint8), gradient[:, :4]):
    own = net.copy()
    own.to("cuda")
    number = own._train_forward(images, 1)[2]
    tensor = Lent(wrong)
    print(problem(lambda: own._backward(images, tensor, number)))
    assert tensor.given_back == 1
"""
    lines = run(code).splitlines()
    assert lines[0] == "ValueError: grad_logits: element 13 is inf; every value must be finite"
    assert lines[1] == "ValueError: grad_logits: is uint8; use float32"
    assert lines[2] == "ValueError: grad_logits: has shape [4, 4]; this network needs [4, 5]"


def test_what_still_writes_a_tensor_is_waited_for():
    code = """
images, labels = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32), numpy.arange(4)
gradient = rng.standard_normal((4, 5), dtype=numpy.float32)
net = made()
def all_of(images, gradient):
    own = net.copy()
    own.to("cuda")
    number = own._train_forward(images, 1)[2]
    grads, of_images = own._backward(images, gradient, number)
    loss = own.train_step(images, labels, dsr.SGD(own, lr=0.05))
    return own(images).logits, loss, of_images, *grads
expected, late = all_of(images, gradient), all_of(Late(images), Late(gradient))
print(all(numpy.array_equal(a, b) for a, b in zip(expected, late)))
bytes = (images * 40 + 120).clip(0, 255).astype(numpy.uint8)
print(numpy.array_equal(net(bytes).logits, net(Late(bytes)).logits))
"""
    assert run(code).split() == ["True", "True"]


def test_what_is_wrong_with_images_is_said_as_of_the_host():
    code = """
net = made()
images = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32)
opt, labels, before = dsr.SGD(net, lr=0.05), rng.integers(0, 5, 4), net.state_dict()
wrongs = [images.astype(numpy.float64), images.astype(numpy.float16), images.astype(numpy.int64), images[:, :2], images[0], images[:0]]
for at, value in ((3, numpy.nan), (40, numpy.inf), (500, -numpy.inf)):
    bad = images.copy()
    bad.reshape(-1)[at:] = value
    bad.reshape(-1)[at + 1:] = numpy.nan
    wrongs.append(bad)
for wrong in wrongs:
    room = numpy.zeros(1, wrong.dtype) if wrong.size == 0 else wrong
    for name in (LEGACY, VERSIONED):
        tensor = Lent(room, name, shape=wrong.shape, strides=[step // wrong.itemsize for step in wrong.strides])
        assert problem(lambda: net(tensor, batch=1)) == problem(lambda: net(wrong, batch=1))
        if wrong.shape == images.shape:
            assert problem(lambda: net.train_step(tensor, labels, opt)) == problem(lambda: net.train_step(wrong, labels, opt))
        assert tensor.given_back == len(tensor.capsules) > 0
    print(problem(lambda: net(tensor)))
assert all(numpy.array_equal(value, before[name]) for name, value in net.state_dict().items()) and opt.steps == 0
"""
    lines = run(code).splitlines()
    assert lines[0] == "ValueError: images: are float64; use float32: images.astype(numpy.float32), or images.float()"
    assert lines[-3:] == [
        "ValueError: images: sample 0 holds NaN; every value must be finite",
        "ValueError: images: sample 0 holds inf; every value must be finite",
        "ValueError: images: sample 3 holds -inf; every value must be finite",
    ]


def test_tensors_that_lie_are_refused_and_given_back():
    code = """
net = made()
images = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32)
freed = Lent(images)
freed.free()
lies = {
    "more samples than there are": Lent(images, shape=(5, 3, 6, 7)),
    "far more": Lent(images, shape=(2**40, 3, 6, 7)),
    "steps out of the memory": Lent(images, strides=[126, 42, 7, 2]),
    "steps that wrap": Lent(images, strides=[2**62, 42, 7, 1]),
    "in front of the memory": Lent(images, strides=[126, 42, 7, -1]),
    "an offset": Lent(images, offset=4),
    "a crooked offset": Lent(images[1:], offset=2),
    "a huge offset": Lent(images, offset=2**64 - 4),
    "no memory": Lent(images, data=None),
    "of the host": Lent(images, data=images.ctypes.data),
    "freed": freed,
    "negative": Lent(images, shape=(-4, 3, 6, 7)),
    "of the CPU after all": Lent(images, says=(2, 0), device=(1, 0)),
    "of another device after all": Lent(images, says=(2, 0), device=(2, 1)),
}
for lie, tensor in lies.items():
    for name in (LEGACY, VERSIONED):
        tensor.name = name
        text = problem(lambda: net(tensor))
        assert tensor.given_back == len(tensor.capsules) > 0, lie
    print(lie, "->", text)
newer = Lent(images, version=(2, 0))
assert problem(lambda: net(newer), RuntimeError) and newer.given_back == 1
twice = Lent(images)
net(twice)
second = Lent(images, capsule=twice.capsules[0])
assert "already been consumed" in problem(lambda: net(second))
returned(twice)
class Raises(Lent):
    def __dlpack__(self, stream=None, max_version=None):
        raise KeyError("of its own")
assert "of its own" in problem(lambda: net(Raises(images)), KeyError)
sparse = Lent(images)
sparse.is_sparse = True
assert problem(lambda: net(sparse)) == "ValueError: images: is a sparse tensor; use .to_dense()"
assert numpy.array_equal(net(Lent(images)).logits, net(images).logits)
"""
    lines = dict(line.split(" -> ") for line in run(code).splitlines())
    assert len(lines) == 14 and all(text.startswith("ValueError: ") for text in lines.values())
    assert "expected memory of the device, got 2016 of 2520 bytes" in lines["more samples than there are"]


def test_images_of_elsewhere_go_through_the_host_with_one_note():
    code = """
net = made().to("cpu")
images = rng.standard_normal((4, 3, 6, 7), dtype=numpy.float32)
expected = net(images).logits
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    for _ in range(2):
        out = net(Lent(images, cpu=True))
        assert numpy.array_equal(out.logits, expected) and out.logits_on_device is None
    net.to("cuda")
    other = Lent(images, cpu=True, device=(2, 1))
    assert numpy.array_equal(net(other).logits, expected) and not other.capsules
    net.train_step(images, Lent(numpy.arange(4), cpu=True), dsr.SGD(net, lr=0.1))
class Kept(Lent):
    def __dlpack__(self, stream=None, max_version=None):
        raise BufferError("not from here")
assert numpy.array_equal(net(Kept(images, cpu=True)).logits, net(images).logits)
print([str(note.message) for note in notes])
print(problem(lambda: net(Lent(images, device=(2, 1)))))
"""
    notes, refused = run(code).splitlines()
    assert notes == str(["dsr: images on cuda:0 go through the host, since the network computes on the CPU; net.to('cuda:0') spares that"])
    expected = "ValueError: images: are on cuda:1, from where NumPy does not read them; copy them to the host first"
    assert refused == expected


def test_a_module_of_pytorch_takes_images_of_the_host():
    pytest.importorskip("torch")
    code = """
warnings.simplefilter("default")  # PyTorch looks for CUDA's own libraries, and finds none
import torch, dsr.torch
images = torch.randn(4, 3, 6, 7)
module = dsr.torch.Module(made())
logits = module(images)
assert logits.device == images.device
logits.sum().backward()
print(all(torch.isfinite(parameter.grad).all() for parameter in module.parameters()))
"""
    assert run(code) == "True"
