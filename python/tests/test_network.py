"""Logits, rates and spikes of the module are those of the program and of the engine."""

import json

import numpy
import pytest
from conftest import command, made, predictions, warmed

import dsr


def test_logits_and_rates_are_those_of_dsr_eval(trained, tmp_path):
    folder, net = trained
    table = json.loads(
        command(tmp_path, f"eval --checkpoint {folder} --device cpu --rates -b 128 -o json --predictions {tmp_path}/predictions.csv")
    )
    logits, labels = predictions(tmp_path / "predictions.csv")
    images, ours = dsr.dataset("digits-8x8")
    assert numpy.array_equal(labels, ours)
    out = net(images)
    assert out.logits.dtype == numpy.float32 and numpy.array_equal(out.logits, logits)
    rates = {row["layer"]: row["firing_rate"] for row in table["results"][0]["layers"] if row["firing_rate"] is not None}
    assert out.rates == rates
    assert (out.logits.argmax(1) == labels).mean() > 0.3


def test_spikes_count_up_to_rates_and_logits(trained):
    _, net = trained
    images, _ = dsr.dataset("digits-8x8")
    out = net(images[:20], spikes=True)
    assert list(out.spikes) == net.layers
    for name, spikes in out.spikes.items():
        assert spikes.dtype == bool and spikes.shape[:2] == (4, 20) and spikes.ndim == 5
        assert numpy.float32(out.rates[name]) == numpy.float32(spikes.sum() / spikes.size)
    graph = net.graph()
    if graph["readout"] == "spikes":
        last = graph["layers"][-1]
        weights = numpy.array(graph["neuron"]["step_weights"], dtype=numpy.float64)
        mean = numpy.tensordot(weights, out.spikes[last["name"]].reshape(4, 20, -1).astype(float), 1)
        assert numpy.allclose(out.logits, mean * last["spike_value"], rtol=1e-6)


def test_parts_and_layouts_and_types_give_the_same_bits(trained):
    _, net = trained
    images, _ = dsr.dataset("digits-8x8")
    images = images[:50]
    whole = net(images, spikes=True)
    parts = net(images, spikes=True, batch=7)
    assert numpy.array_equal(whole.logits, parts.logits)
    assert all(numpy.array_equal(whole.spikes[name], parts.spikes[name]) for name in whole.spikes)
    of = net.normalization
    mean, std = (numpy.array(of[key], dtype=numpy.float32)[:, None, None] for key in ("mean", "std"))
    values = (images.astype(numpy.float32) / numpy.float32(of["max_value"]) - mean) / std
    assert numpy.array_equal(net(values).logits, whole.logits)
    assert numpy.array_equal(net(values.transpose(0, 2, 3, 1), layout="NHWC").logits, whole.logits)
    assert numpy.array_equal(net(numpy.asfortranarray(values)).logits, whole.logits)


def test_a_field_of_records_has_the_bits_of_an_array():
    net = made()
    images = numpy.random.default_rng(1).random((6, 1, 8, 8), dtype=numpy.float32)
    for kind, values in (("f4", images), ("u1", (255 * images).astype(numpy.uint8))):
        records = numpy.zeros(6, dtype=[("label", "u1"), ("image", kind, (1, 8, 8))])
        records["image"] = values
        assert numpy.array_equal(net(records["image"]).logits, net(values).logits), kind


def test_the_callers_code_may_use_the_network_that_it_is_asked_for():
    net = made()
    images = numpy.random.default_rng(1).random((2, 1, 8, 8), dtype=numpy.float32)
    out = net(images, spikes=(name for name in net.layers if net.time_steps > 2))
    assert list(out.spikes) == net.layers

    class Late:
        """An array that looks at the network when it is read."""

        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            assert net.time_steps == 4
            return self.values

    before = net(images).logits
    net.load_state_dict({name: Late(values) if values.ndim > 0 else values for name, values in net.state_dict().items()})
    assert numpy.array_equal(net(images).logits, before)


def test_channels_are_where_they_should_be():
    net = made(input_shape=(3, 8, 6), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    pictures = numpy.random.default_rng(1).integers(0, 256, (5, 3, 8, 6), dtype=numpy.uint8)
    logits = net(pictures).logits
    assert numpy.array_equal(net(pictures.transpose(0, 2, 3, 1), layout="NHWC").logits, logits)
    mean, std = (numpy.array(values, dtype=numpy.float32)[:, None, None] for values in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    assert numpy.array_equal(net((pictures.astype(numpy.float32) / numpy.float32(255) - mean) / std).logits, logits)
    assert not numpy.array_equal(net(pictures[:, ::-1]).logits, logits)


@pytest.mark.parametrize("neuron", ["if", "lif"])
def test_all_families_have_their_shapes(neuron):
    rng = numpy.random.default_rng(0)
    networks = [
        (dsr.preact_resnet([8, 16], [1, 1], classes=4, input_shape=(3, 16, 16), time_steps=3, neuron=neuron), (3, 16, 16), 4),
        (dsr.preact_resnet(depth=20, classes=["a", "b"], input_shape=(1, 28, 28), time_steps=2, neuron=neuron), (1, 28, 28), 2),
        (dsr.vgg(11, classes=10, input_shape=(2, 32, 32), time_steps=2, neuron=neuron, readout="current"), (2, 32, 32), 10),
        (dsr.imagenet_resnet(18, classes=5, input_shape=(3, 64, 64), time_steps=2, neuron="if"), (3, 64, 64), 5),
    ]
    for net, shape, classes in networks:
        assert net.input_shape == shape and len(net.classes) == classes
        out = net(rng.standard_normal((2, *shape), dtype=numpy.float32), spikes=net.layers[:2])
        assert out.logits.shape == (2, classes) and set(out.spikes) == set(net.layers[:2])
    frames = rng.standard_normal((2, 2, 2, 32, 32), dtype=numpy.float32)
    vgg = networks[2][0]
    warmed(vgg, steps=3)
    assert vgg(frames).rates != vgg(frames[:, 0]).rates  # the second frame counts
    assert vgg(frames[:, :1]).rates == vgg(frames[:, 0]).rates


def test_forward_weights_are_those_that_count():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=4, weight_bits=8)
    rounded = net.graph()["layers"][1]["connections"][0]
    own = net.state_dict()[rounded["name"] + ".weight"]
    assert rounded["weight"].shape == own.shape
    assert 0 < numpy.abs(rounded["weight"] - own).max() < 2 * numpy.abs(own).max() / 127
    assert len(numpy.unique(rounded["weight"][0])) <= 255
    first = net.graph()["layers"][0]["connections"][0]
    assert first["source"] == "input" and numpy.array_equal(first["weight"], net.state_dict()[first["name"] + ".weight"])


def test_state_travels(small, images, tmp_path):
    other = made(seed=9)
    logits = small(images).logits
    assert len(numpy.unique(logits)) > 2
    assert not numpy.array_equal(other(images).logits, logits)
    other.load_state_dict(small.state_dict())
    assert numpy.array_equal(other(images).logits, logits)
    small.save(tmp_path / "x.safetensors")
    again = dsr.load(tmp_path / "x.safetensors")
    assert numpy.array_equal(again(images).logits, logits) and again.classes == small.classes and again.config == small.config
    fresh = made(seed=9)
    fresh.load(tmp_path / "x.safetensors")
    assert numpy.array_equal(fresh(images).logits, logits)


def test_a_state_of_another_network_changes_nothing(small, images):
    before = small(images).logits
    state = small.state_dict()
    cases = [
        ({**state, "other": numpy.zeros(1, numpy.float32)}, "unexpected other"),
        ({name: value for name, value in state.items() if name != "conv1.weight"}, "missing conv1.weight"),
        ({**state, "conv1.weight": state["conv1.weight"][1:]}, "conv1.weight: has shape"),
        ({**state, "conv1.weight": state["conv1.weight"] * numpy.nan}, "conv1.weight: element 0 is NaN"),
        ({**state, "bn1.running_var": -state["bn1.running_var"]}, "bn1.running_var: holds a negative variance"),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            small.load_state_dict(wrong)
    assert numpy.array_equal(small(images).logits, before)


def test_exports_open_as_the_network_that_was_measured(trained, tmp_path):
    folder, net = trained
    command(tmp_path, f"export --checkpoint {folder} --out exported.safetensors")
    images, _ = dsr.dataset("digits-8x8")
    again = dsr.load(tmp_path / "exported.safetensors")
    assert numpy.array_equal(again(images).logits, net(images).logits)
    command(tmp_path, f"export --checkpoint {folder} --out folded.safetensors --fold-norms")
    with pytest.raises(ValueError, match="export without --fold-norms"):
        dsr.load(tmp_path / "folded.safetensors")
