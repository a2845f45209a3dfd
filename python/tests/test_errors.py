"""What is refused, and in which words."""

import collections.abc
import os

import numpy
import pytest

import dsr


def test_images_are_refused_by_name(small, images):
    cases = [
        (images.astype(numpy.float64), "images: are float64; use float32"),
        (images.astype(numpy.int32), "images: are int32; use float32, or uint8"),
        (images[:, 0], r"images: have shape \[6, 8, 8\]"),
        (images[:, :, :7], r"this network takes \[B, C, H, W\] = \[B, 1, 8, 8\]"),
        (images[:0], "images: there is none"),
        (numpy.where(numpy.arange(6)[:, None, None, None] == 4, numpy.nan, images).astype(numpy.float32), "images: sample 4 holds NaN"),
        (images * numpy.float32(numpy.inf), "images: sample 0 holds"),
    ]
    for given, words in cases:
        with pytest.raises(ValueError, match=words):
            small(given)
    with pytest.raises(ValueError, match="layout: 'CHWN' is neither"):
        small(images, layout="CHWN")
    with pytest.raises(ValueError, match="spikes: there is no layer 'nope'; there are layer1.0.relu1"):
        small(images, spikes=["nope"])
    with pytest.raises(ValueError, match="batch: at least one"):
        small(images, batch=0)


def test_labels_and_optimisers_are_refused_by_name(small, images, tmp_path):
    opt = dsr.SGD(small, lr=0.1)
    labels = numpy.arange(6)
    cases = [(labels[:5], "labels: have shape"), (labels + 5, r"labels: 10 is not in 0\.\.10"), (labels * 1.0, "labels: are float64")]
    for given, words in cases:
        with pytest.raises(ValueError, match=words):
            small.train_step(images, given, opt)
    other = dsr.preact_resnet([16], [1], classes=10, input_shape=(1, 8, 8), time_steps=4)
    for net in (other, small.copy()):  # one of another size, and one of the same
        with pytest.raises(ValueError, match="optimizer: is of another network"):
            net.train_step(images, labels, opt)
        with pytest.raises(ValueError, match="optimizer: is of another network"):
            net.save(tmp_path / "x.safetensors", opt)
    assert not (tmp_path / "x.safetensors").exists() and opt.steps == 0
    cases = [
        ({"lr": -1}, "lr: -1 is not 0 or more"),
        ({"lr": 1, "momentum": 1.5}, "momentum: 1.5"),
        ({"lr": 1, "decay_on": "x"}, "decay_on"),
        *(({"lr": 1, "clip_norm": value}, "clip_norm: .* is not a positive number") for value in (-1, numpy.nan, numpy.inf, 1e-60, 1e60)),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            dsr.SGD(small, **wrong)


def test_settings_are_refused_by_name(tmp_path):
    cases = [
        ({"wdths": [8]}, "wdths: there is no such setting"),
        ({"time_steps": 0}, "time-steps: 0 is not in"),
        ({"neuron": "lifx"}, "neuron"),
        ({"widths": [8], "blocks": [1, 1]}, "widths"),
        ({"dataset": "nope"}, "dataset: unknown data set 'nope'"),
        ({"dataset": "cifar10"}, "data-dir: cifar10 is read from disk"),
        ({"epochs": object()}, "epochs: takes no"),
    ]
    for settings, words in cases:
        with pytest.raises(ValueError, match=words):
            dsr.train(out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_refuses_what_the_command_refuses(tmp_path):
    with pytest.raises(ValueError, match="image-size: digits-8x8 has no such setting, only imagenet and images have"):
        dsr.train(out=tmp_path / "run", dataset="digits-8x8", image_size=64, device="cpu")
    with pytest.raises(ValueError, match="data_dir: is a path that is no UTF-8"):
        dsr.train(out=tmp_path / "run", dataset="cifar10", data_dir=os.fsdecode(b"/tmp/\xff"), device="cpu")
    assert not (tmp_path / "run").exists()


def test_files_are_refused_by_name(tmp_path, small):
    with pytest.raises(FileNotFoundError, match="absent.safetensors: there is no such checkpoint"):
        dsr.load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        dsr.train(out=tmp_path / "run", init_from=tmp_path / "absent.safetensors", dataset="digits-8x8")
    (tmp_path / "damaged.safetensors").write_bytes(b"no safetensors file")
    with pytest.raises(ValueError, match="damaged.safetensors: is not a safetensors file"):
        dsr.load(tmp_path / "damaged.safetensors")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        small.save(tmp_path / "nowhere" / "x.safetensors")
    with pytest.raises(ValueError, match="device: 'tpu' is none of"):
        small.to("tpu")


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_device_that_is_not_there_is_an_error_of_its_own(small):
    with pytest.raises(dsr.DeviceError):
        small.to("cuda:7")


def test_layers_are_refused_by_name():
    def build(*layers, **constants):
        return dsr.Network.build(list(layers), **{"input_shape": (1, 8, 8), "classes": 2, **constants})

    first = dsr.layer("one", dsr.conv("conv", "input", 8), norm="bn")
    last = dsr.layer("two", dsr.linear("fc", "one", 2, pool=4))
    assert build(first, last)(numpy.zeros((1, 1, 8, 8), numpy.float32)).logits.shape == (1, 2)
    assert build(first, last).time_steps == 8 and build(first, last, neuron="relu").time_steps == 1
    cases = [
        ((first,), {}, "layers: a last layer of shape"),
        ((), {}, "layers: no layers"),
        ((first, first, last), {}, "more than one called 'one'"),
        ((first, dsr.layer("two", dsr.linear("fc", "zero", 2))), {}, "its source 'zero' is no layer"),
        ((first, dsr.layer("two", dsr.linear("conv", "one", 2))), {}, "a name of its own"),
        ((first, dsr.layer("two", dsr.identity("one"), dsr.identity("one"), dsr.identity("one")), last), {}, "layer two"),
        ((first, dsr.layer("two", dsr.conv("big", "one", 2, 30, pad=0))), {}, "too small"),
        ((first, dsr.layer("two", dsr.linear("fc", "one", 2, pool=0))), {}, "a window or stride of 0"),
        ((first, dsr.layer("two", dsr.linear("fc", "one", 2, pool=4), norm="bn")), {}, "layers: .* called 'bn.weight'"),
        ((first, dsr.layer("two", dsr.linear("fc", "one", 2, pool=4), norm="conv")), {}, "layers: .* called 'conv.weight'"),
        ((first, last), {"neuron": "relu", "time_steps": 8}, "time-steps: 8: .* an ANN and has 1"),
        ((first, last), {"neuron": "x"}, "neuron: 'x'"),
        ((first, last), {"time_steps": 300}, "time-steps: 300"),
        ((first, last), {"threshold": -1.0}, "vth"),
        ((first, last), {"classes": 0}, "classes: 0 is not in"),
        ((first, last), {"weight_bits": 4}, "weight_bits: 4"),
        ((first, last), {"mean": [0.0, 0.0]}, "mean"),
        ((first, last), {"input_shape": (1, 2**40, 2**40)}, "input_shape: .* every number is in"),
        ((first, last), {"input_shape": (1, 2**16, 2**16)}, "input_shape: .* fewer than"),
        ((first, last), {"input_shape": (0, 8, 8)}, "input_shape: .* every number is in"),
        ((dsr.layer("one", dsr.conv("conv", "input", 8, pad=2**63)), last), {}, "one: a size, stride, padding or pool of"),
        ((dsr.layer("one", dsr.conv("conv", "input", 8, 2**40)), last), {}, "one: a size, stride, padding or pool of"),
        ((first, dsr.layer("two", dsr.linear("fc", "one", 2, pool=(2**40, 1, 2**39)))), {}, "two: a size, stride, padding or pool of"),
    ]
    for layers, constants, words in cases:
        with pytest.raises(ValueError, match=words):
            build(*layers, **constants)
    with pytest.raises(TypeError, match="layers: each is made by dsr.layer"):
        build("conv")


def test_networks_by_name_refuse_sizes_that_overflow():
    for shape in [(1, 2**40, 2**40), (2**40, 8, 8), (1, 0, 8)]:
        with pytest.raises(ValueError, match="input_shape"):
            dsr.preact_resnet([8], [1], input_shape=shape)


class Promise(collections.abc.Sequence):
    """Says that it has more elements than any memory holds."""

    def __init__(self, element):
        self.element = element

    def __len__(self):
        return 10**12

    def __getitem__(self, at):
        return self.element


def test_no_memory_is_taken_for_what_is_only_promised(small, images):
    def resnet(**settings):
        return dsr.preact_resnet(**{"widths": [8], "blocks": [1], "classes": 10, "input_shape": (1, 8, 8), **settings})

    cases = [
        (lambda: resnet(classes=10**12), "classes: 1000000000000 is not in 1..=65536"),
        (lambda: resnet(classes=numpy.int64(10**12)), "classes: 1000000000000 is not in"),
        (lambda: resnet(classes=10**30), "classes: 1000000000000000000000000000000 is not in"),
        (lambda: resnet(classes=-1), "classes: -1 is not in"),
        (lambda: resnet(classes=Promise("name")), "classes: has more than 65536 elements"),
        (lambda: resnet(classes=2.5), "classes: takes no"),
        (lambda: resnet(classes=[]), "classes: 0 is not in"),
        (lambda: resnet(mean=Promise(0.0)), "mean: has more than 65536 elements"),
        (lambda: resnet(std=Promise(1.0)), "std: has more than 65536 elements"),
        (lambda: resnet(widths=Promise(8), blocks=[1]), "widths: has more than 65536 elements"),
        (lambda: resnet(betas=Promise(0.5)), "betas: has more than 65536 elements"),
        (lambda: resnet(widths=[2**60]), "width"),
        (lambda: resnet(blocks=[2**60]), "blocks"),
        (lambda: resnet(time_steps=2**60), "time-steps"),
        (lambda: small(images, spikes=Promise("name")), "spikes: has more than 65536 elements|spikes: there is no layer"),
        (lambda: small(numpy.broadcast_to(images[0], (10**12, 1, 8, 8))), "memory: a copy of these images needs"),
        (lambda: small(numpy.broadcast_to(numpy.uint8(0), (10**12, 1, 8, 8))), "memory: a copy of these images needs"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="classes: takes a list, not the text 'ab'"):
        resnet(classes="ab")


def test_a_value_that_is_no_number_leaves_everything_as_it_was(small, images):
    opt = dsr.SGD(small, lr=0.1, momentum=0.9)
    before = small.state_dict()
    huge = images.copy()
    huge[0] = 3e38  # finite; its sums are not
    with pytest.raises(FloatingPointError):
        small.train_step(huge, numpy.arange(6), opt)
    after = small.state_dict()
    assert all(numpy.array_equal(before[name], after[name]) for name in before) and opt.steps == 0
    assert numpy.isfinite(small.train_step(images, numpy.arange(6), opt))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, small):
    monkeypatch.setenv("HOME", str(tmp_path))
    small.save("~/x.safetensors")
    assert (tmp_path / "x.safetensors").is_file()
    assert dsr.load("~/x.safetensors").classes == small.classes
    for name in ("mnist", "cifar10", "imagenet", "dvs-cifar10", "n-mnist", "arrays", "images", "events"):
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "absent")):
            dsr.train(dataset=name, data_dir="~/absent", out=tmp_path / "run")
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "absent")):
            dsr.dataset(name, data_dir="~/absent")
