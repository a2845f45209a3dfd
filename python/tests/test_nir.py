"""NIR: every spike of the exact form is the engine's, files come back as the networks that they were, and errors name the node."""

import sys

import numpy
import pytest
from conftest import made, warmed

import dsr

nir = pytest.importorskip("nir")

IMAGES = 300


def values(net, images):
    """Images as the network takes them."""
    of = net.normalization
    mean, std = (numpy.array(of[key], dtype=numpy.float32)[:, None, None] for key in ("mean", "std"))
    return (images.astype(numpy.float32) / numpy.float32(of["max_value"]) - mean) / std


def different(ours, theirs):
    """Number of spikes that differ, over all layers."""
    assert list(ours) == list(theirs)
    return sum(int((trains.reshape(-1) != theirs[name].reshape(-1)).sum()) for name, trains in ours.items())


def stirred(net, seed=0):
    """A network with norms of every kind of constant, whose layers fire."""
    rng = numpy.random.default_rng(seed)
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 2, value.shape).astype(numpy.float32)
        elif name.endswith(("running_mean", "bias")):
            state[name] = rng.normal(0.1, 0.3, value.shape).astype(numpy.float32)
    net.load_state_dict(state)
    net.choose_thresholds(rng.standard_normal((4, *net.input_shape), dtype=numpy.float32))
    return net


def photo_like(neuron, **settings):
    """A stem with a padded pool, and a branch with a batch norm below that of its layer, as in networks for photos."""
    layers = [
        dsr.layer("relu1", dsr.conv("conv1", "input", 6, 7, stride=2), norm="bn1"),
        dsr.layer("a.b", dsr.identity("relu1", pool=(3, 2, 1)), norm="bn2"),
        dsr.layer("a_b", dsr.conv("c1", "a.b", 8, stride=2), norm="bn3"),
        dsr.layer("sum", dsr.conv("c2", "a_b", 8, bias=True), dsr.conv("down", "a.b", 8, 1, stride=2, norm="bn4"), norm="bn5"),
        dsr.layer("output", dsr.linear("fc", "sum", 5)),
    ]
    settings = {"tau": 1.0, "delta_t": 0.3, "time_steps": 6, **settings} if neuron == "lif" else {"time_steps": 6, **settings}
    return stirred(dsr.Network.build(layers, input_shape=(2, 19, 15), classes=5, neuron=neuron, **settings))


def test_every_spike_of_a_trained_network(trained, tmp_path):
    _, net = trained
    images = dsr.dataset("digits-8x8")[0][:IMAGES]
    dsr.nir.export(net, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")
    ours = net(images, spikes=True)
    found = dsr.nir.run(graph, images)
    assert different(ours.spikes, found.spikes) == 0
    assert numpy.allclose(found.logits, ours.logits, rtol=1e-5, atol=1e-5)
    assert {type(node).__name__ for node in graph.nodes.values()} <= {
        *("Input", "Output", "Conv2d", "SumPool2d", "I", "LI", "Threshold", "Scale"),
    }
    again = dsr.nir.load(tmp_path / "net.nir")
    floats = values(net, images)
    theirs = again(floats, spikes=True)
    assert different(net(floats, spikes=True).spikes, theirs.spikes) == 0
    assert numpy.array_equal(theirs.logits, net(floats).logits)
    assert again.classes == net.classes and again.time_steps == net.time_steps


@pytest.mark.parametrize("neuron", ["if", "lif"])
def test_potentials_that_hit_the_level_fire(neuron):
    """All numbers are exact in float32, so that the engine and float64 have the same potentials, and many are the level itself."""
    leak = {"tau": 1 / numpy.log(2), "delta_t": 1.0} if neuron == "lif" else {}
    layers = [
        dsr.layer("first", dsr.conv("c0", "input", 8, bias=True)),
        dsr.layer("pooled", dsr.identity("first", pool=(3, 1, 1))),
        dsr.layer("second", dsr.conv("c1", "first", 8), dsr.identity("pooled")),
        dsr.layer("last", dsr.linear("fc", "second", 4, pool=2)),
    ]
    net = dsr.Network.build(layers, input_shape=(1, 6, 6), classes=4, neuron=neuron, time_steps=12, threshold=1.0, **leak)
    rng = numpy.random.default_rng(5)
    state = {name: (rng.integers(-4, 9, value.shape) / 8).astype(numpy.float32) for name, value in net.state_dict().items()}
    state |= {name: numpy.float32(1).reshape(value.shape) for name, value in net.state_dict().items() if name.endswith("Vth")}
    net.load_state_dict(state)
    assert net.graph()["neuron"]["leak"] == (0.5 if neuron == "lif" else 1)
    images = (rng.integers(-8, 9, (40, 1, 6, 6)) / 8).astype(numpy.float32)
    graph = dsr.nir.graph(net)
    found = dsr.nir.run(graph, images)
    assert different(net(images, spikes=True).spikes, found.spikes) == 0
    # A threshold that is a little higher loses those that hit it.
    for node in graph.nodes.values():
        if isinstance(node, nir.Threshold):
            node.threshold = node.threshold * (1 + 1e-9)
    missed = dsr.nir.run(graph, images)
    assert (found.spikes["first"] != missed.spikes["first"]).sum() > 50


CASES = [
    ("vgg", "if", "spikes", 16),
    ("imagenet", "if", "spikes", 16),
    ("odd", "if", "current", 16),
    ("odd", "lif", "spikes", 8),
    ("photo", "if", "current", 8),
    ("photo", "if", "spikes", 16),
    ("photo", "lif", "spikes", 16),
    ("photo", "lif", "current", 16),
]


@pytest.mark.parametrize("family, neuron, readout, bits", CASES)
def test_every_spike_of_every_family(family, neuron, readout, bits, tmp_path):
    settings = {"neuron": neuron, "readout": readout, "weight_bits": bits}
    net = {
        "vgg": lambda: stirred(dsr.vgg(11, classes=10, input_shape=(2, 32, 32), time_steps=3, **settings)),
        "imagenet": lambda: stirred(dsr.imagenet_resnet(18, classes=5, input_shape=(3, 40, 40), time_steps=2, **settings)),
        "odd": lambda: stirred(dsr.preact_resnet([5, 9], [1, 2], classes=3, input_shape=(3, 17, 12), time_steps=7, **settings)),
        "photo": lambda: photo_like(**settings),
    }[family]()
    batch = 1 if family in ("vgg", "imagenet") else 10
    frames = (net.time_steps,) if family == "vgg" else ()
    images = numpy.random.default_rng(1).standard_normal((batch, *frames, *net.input_shape), dtype=numpy.float32)
    ours = net(images, spikes=True)
    assert all(0 < rate < 1 for rate in list(ours.rates.values())[:-1])
    dsr.nir.export(net, tmp_path / "net.nir")
    found = dsr.nir.run(tmp_path / "net.nir", images)
    assert different(ours.spikes, found.spikes) == 0
    assert numpy.allclose(found.logits, ours.logits, rtol=1e-5, atol=1e-5)
    again = dsr.nir.load(tmp_path / "net.nir")
    theirs = again(images, spikes=True)
    assert different(ours.spikes, theirs.spikes) == 0 and numpy.array_equal(ours.logits, theirs.logits)
    assert list(again.state_dict()) == [name for name in again.state_dict() if name in net.state_dict()]


@pytest.mark.parametrize("neuron", ["if", "lif"])
def test_metadata_says_what_nir_cannot(neuron, tmp_path):
    net = made(neuron=neuron, readout="spikes")
    net.time_steps = 5
    dsr.nir.export(net, tmp_path / "net.nir")
    about = nir.read(tmp_path / "net.nir").metadata
    graph = net.graph()
    assert about["form"] == "exact" and about["time_steps"] == 5 and about["readout"] == "spikes"
    assert numpy.allclose(about["step_weights"], graph["neuron"]["step_weights"])
    assert about["logit_factor"] == graph["layers"][-1]["spike_value"]
    assert about["max_value"] == 255 and len(about["mean"]) == 1
    assert dsr.nir.load(tmp_path / "net.nir", time_steps=9).time_steps == 9


@pytest.mark.parametrize("neuron", ["if", "lif"])
@pytest.mark.parametrize("dialect", ["nir", "spikingjelly", "snntorch", "norse", "sinabs"])
def test_shifted_neurons_fire_as_the_engine_does(neuron, dialect, tmp_path):
    net = photo_like(neuron)
    images = numpy.random.default_rng(2).standard_normal((20, *net.input_shape), dtype=numpy.float32)
    dsr.nir.export(net, tmp_path / "net.nir", "shifted", dialect=dialect)
    found = dsr.nir.run(tmp_path / "net.nir", images)
    ours = net(images, spikes=True).spikes
    # Weights and thresholds are rounded to float32 after they were folded: some potentials get to the other side of the level.
    assert different(ours, found.spikes) <= 1e-4 * sum(trains.size for trains in ours.values())
    theirs = dsr.nir.load(tmp_path / "net.nir")(images, spikes=True).spikes
    assert different(ours, theirs) <= 1e-4 * sum(trains.size for trains in ours.values())


def test_plain_says_what_it_costs(trained, tmp_path):
    _, net = trained
    images = dsr.dataset("digits-8x8")[0][:60]
    with pytest.warns(UserWarning, match="pass samples=images to hear what that costs"):
        dsr.nir.export(net, tmp_path / "net.nir", "plain")
    with pytest.warns(UserWarning, match=r"of 60 samples [\d.]+ % keep their class, and [\d.]+ % of all neurons and steps") as said:
        dsr.nir.export(net, tmp_path / "net.nir", "plain", samples=images)
    found = dsr.nir.run(tmp_path / "net.nir", images)
    share = 100 * float((found.logits.argmax(1) == net(images).logits.argmax(1)).mean())
    assert f"60 samples {share:.1f} %" in str(said[0].message)


def test_what_cannot_be_exported(small, tmp_path):
    path = tmp_path / "net.nir"
    path.write_text("older")
    ann = dsr.preact_resnet([8], [1], input_shape=(1, 8, 8), neuron="relu", time_steps=1)
    cases = [
        (lambda: dsr.nir.export(ann, path), "neuron: relu: an ANN has no spikes"),
        (lambda: dsr.nir.export(small, path, "exakt"), "form: 'exakt' is none of exact, shifted, plain"),
        (lambda: dsr.nir.export(small, path, "shifted", dialect="lava"), "dialect: 'lava' is none of nir, spikingjelly"),
        (lambda: dsr.nir.export(small, path, dialect="norse"), "dialect: the exact form is NIR's own"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(OSError):
        dsr.nir.export(small, tmp_path / "nowhere" / "net.nir")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_without_the_package_nir(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"dsr.nir: the package nir is not installed; pip install nir"):
        dsr.nir.export(small, tmp_path / "net.nir")


def test_runs_say_what_they_need(small, images):
    graph = dsr.nir.graph(small)
    with pytest.raises(ValueError, match="images: have shape"):
        dsr.nir.run(graph, images[0])
    with pytest.raises(ValueError, match="images: have 3 frames; give 1 or 4"):
        dsr.nir.run(graph, numpy.repeat(images[:, None], 3, 1))
    longer = dsr.nir.run(graph, images, time_steps=6)
    assert longer.outputs.shape[0] == 6 and longer.logits is None
    graph.metadata = {}
    with pytest.raises(ValueError, match="time_steps: the graph does not say how many"):
        dsr.nir.run(graph, images)
    graph.nodes["odd"] = nir.Delay(delay=numpy.ones(3))
    graph.edges.append(("input", "odd"))
    with pytest.raises(ValueError, match="node 'odd': Delay is none that this interpreter knows"):
        dsr.nir.run(graph, images, time_steps=2)


def test_warmed_networks_travel(tmp_path):
    """Trained on: the norms are still there."""
    net = warmed(photo_like("lif"))
    dsr.nir.export(net, tmp_path / "net.nir")
    again = dsr.nir.load(tmp_path / "net.nir")
    opt = dsr.SGD(again, lr=0.01)
    images = numpy.random.default_rng(2).standard_normal((8, *net.input_shape), dtype=numpy.float32)
    assert numpy.isfinite(again.train_step(images, numpy.zeros(8, numpy.int64), opt))
    assert numpy.array_equal(again.state_dict()["bn4.weight"].shape, net.state_dict()["bn4.weight"].shape)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    net = made()
    dsr.nir.export(net, "~/net.nir")
    assert (tmp_path / "net.nir").is_file() and not (tmp_path / "~").exists()
    assert dsr.nir.load("~/net.nir").time_steps == net.time_steps
    assert dsr.nir.run("~/net.nir", numpy.zeros((1, 1, 8, 8), numpy.float32)).logits.shape == (1, 10)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/absent.nir: there is no such file"):
        dsr.nir.load("~/absent.nir")
