"""A network that is made in Python learns as it is, and says so where a layer does not fire."""

import subprocess
import sys
import warnings

import numpy
import pytest
from conftest import command

import dsr


def blobs(batch, shape=(3, 16, 16), classes=10, seed=0):
    """Images of classes that are easily told apart."""
    rng = numpy.random.default_rng(seed)
    centres = numpy.random.default_rng(99).standard_normal((classes, *shape), dtype=numpy.float32)
    labels = rng.integers(0, classes, batch)
    return centres[labels] + 0.5 * rng.standard_normal((batch, *shape), dtype=numpy.float32), labels


def unchosen(**settings):
    """A small network whose first batch chooses its thresholds."""
    return dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), time_steps=4, **settings)


def thresholds(state):
    return {name: float(value) for name, value in state.items() if name.endswith(".Vth")}


def chosen(net, start):
    """Which thresholds are others than at the start."""
    return [name for name, value in thresholds(net.state_dict()).items() if value != start[name]]


def learns(net, steps=15):
    """Trains with what the README says; the losses, without a warning."""
    opt = dsr.SGD(net, lr=0.1, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [net.train_step(*blobs(32, net.input_shape, len(net.classes), seed), opt) for seed in range(steps)]
    return losses


@pytest.mark.parametrize("neuron", ["if", "lif", "relu"])
def test_the_example_of_the_readme_learns(neuron):
    steps = {} if neuron == "relu" else {"time_steps": 4}
    net = dsr.preact_resnet([16, 32, 64], [1, 1, 1], input_shape=(3, 16, 16), neuron=neuron, **steps)
    losses = learns(net)
    assert numpy.mean(losses[-3:]) < 1.0 < losses[0], losses
    images, _ = blobs(32, seed=100)
    assert min(net(images).rates.values()) > 0.01


def test_other_families_learn():
    own = dsr.Network.build(
        [
            dsr.layer("spikes1", dsr.conv("conv1", "input", 16), norm="bn1"),
            dsr.layer("spikes2", dsr.conv("conv2", "spikes1", 16), dsr.identity("spikes1"), norm="bn2"),
            dsr.layer("spikes3", dsr.linear("fc", "spikes2", 3, pool=4)),
        ],
        input_shape=(1, 8, 8),
        classes=3,
    )
    losses = learns(own, steps=40)
    assert numpy.mean(losses[-3:]) < 0.7 * losses[0], losses


def test_the_first_step_chooses_as_choose_thresholds_does():
    images, labels = blobs(32)
    made = [dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), neuron="lif", time_steps=4) for _ in range(3)]
    assert made[0].config["threshold_init"] == "auto" and made[0].config["readout"] == "current"
    made[1].choose_thresholds(images)
    made[2].load_state_dict(made[0].state_dict())  # thresholds of the caller's: they stay
    losses = []
    for net in (made[0], made[0].copy(), made[1], made[2]):  # the copy is of a network that has not chosen yet
        opt = dsr.SGD(net, lr=0.1)
        losses.append([net.train_step(images, labels, opt) for _ in range(2)])
    first, copied, chosen, given = losses
    assert first == chosen == copied and given != first


def test_what_is_given_stays():
    images, labels = blobs(32)
    explicit = {"readout": "spikes", "threshold_init": "fixed", "input_shape": (3, 16, 16), "time_steps": 4}
    by_recipe = dsr.preact_resnet([8], [1], dataset="cifar10", input_shape=(3, 16, 16), time_steps=4)
    by_hand = dsr.preact_resnet([8], [1], **explicit)
    assert by_hand.config == by_recipe.config
    with_vth = dsr.preact_resnet([8], [1], vth=1.5, input_shape=(3, 16, 16), time_steps=4)
    assert with_vth.config["threshold_init"] == "fixed"
    opt = dsr.SGD(with_vth, lr=0.0)
    with_vth.train_step(images, labels, opt)
    assert set(thresholds(with_vth.state_dict()).values()) == {1.5}


def test_a_step_that_fails_leaves_the_thresholds():
    images, labels = blobs(32)
    net = dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), time_steps=4)
    before = net.state_dict()
    state = {name: values for name, values in before.items() if name.endswith("weight")}
    net.load_state_dict({name: numpy.full_like(values, 3e38) for name, values in state.items()}, strict=False)
    opt = dsr.SGD(net, lr=0.1)
    with pytest.raises(FloatingPointError):
        net.train_step(images, labels, opt)
    thresholds = [name for name in before if name.endswith(".Vth")]
    assert thresholds and all(numpy.array_equal(net.state_dict()[name], before[name]) for name in thresholds)
    net.load_state_dict(state, strict=False)
    net.train_step(images, labels, opt)
    assert any(not numpy.array_equal(net.state_dict()[name], before[name]) for name in thresholds)


def test_silent_layers_are_named_once():
    images, labels = blobs(32)
    net = dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), neuron="lif", time_steps=4, vth=1000.0, readout="spikes")
    opt = dsr.SGD(net, lr=0.1)
    with pytest.warns(UserWarning, match=r"dsr: layer1.0.relu1 and \d+ more are silent .* net.choose_thresholds\(images\)"):
        net.train_step(images, labels, opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.train_step(images, labels, opt)
        net.train_step(images[:2], labels[:2], opt)
    net.choose_thresholds(images)
    assert min(net(images).rates.values()) > 0


def test_a_module_of_pytorch_chooses_as_train_step_does():
    torch = pytest.importorskip("torch")
    images, labels = blobs(32)
    nets = [dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), time_steps=4) for _ in range(2)]
    module = dsr.torch.Module(nets[0])
    with torch.no_grad():
        module.conv1.weight.mul_(0.5).add_(0.01)  # a change of a weight is none of the thresholds
    nets[1].load_state_dict({"conv1.weight": module.conv1.weight.detach()}, strict=False)
    start = thresholds(nets[1].state_dict())
    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(images)), torch.from_numpy(labels))
    expected = nets[1].train_step(images, labels, dsr.SGD(nets[1], lr=0.0))
    assert abs(loss.item() - expected) < 1e-5
    assert thresholds(module.state_dict()) == thresholds(nets[1].state_dict())
    assert chosen(nets[1], start)


def test_thresholds_that_a_module_has_loaded_stay():
    """Though they are those that the module had at its start, also where it is a part of another module."""
    torch = pytest.importorskip("torch")
    images, _ = blobs(32)
    for is_part in (False, True):
        net = unchosen()
        start = thresholds(net.state_dict())
        module = dsr.torch.Module(net)
        whole = torch.nn.Sequential(module) if is_part else module
        whole.load_state_dict(whole.state_dict())
        whole(torch.from_numpy(images))
        assert thresholds(module.state_dict()) == thresholds(net.state_dict()) == start
        one, *others = start
        net = unchosen()
        module = dsr.torch.Module(net)
        module.load_state_dict({one: torch.tensor(start[one])}, strict=False)
        module(torch.from_numpy(images))
        assert chosen(net, start) == others, "the first batch chooses those that are not loaded"
        net = unchosen()
        module = dsr.torch.Module(net)
        whole, name = (torch.nn.Sequential(module), f"0.{one}") if is_part else (module, one)
        with pytest.raises(RuntimeError, match="size mismatch"):
            whole.load_state_dict({name: torch.ones(3)}, strict=False)
        module(torch.from_numpy(images))
        assert chosen(net, start) == list(start), "what was refused is not loaded"


def test_only_what_is_taken_counts_as_given():
    images, labels = blobs(32)

    def steps(state):
        net = unchosen()
        net.load_state_dict(state, strict=False)
        net.train_step(images, labels, dsr.SGD(net, lr=0.0))
        return net

    start = thresholds(unchosen().state_dict())
    expected = thresholds(steps({}).state_dict())
    assert all(expected[name] != start[name] for name in start)
    other = steps({"another.Vth": numpy.float32(1.0), "conv1.Vth": numpy.float32(1.0)})
    assert thresholds(other.state_dict()) == expected
    first, *rest = start
    for given in (first, rest[-1]):
        net = steps({given: numpy.float32(start[given])})
        assert chosen(net, start) == [name for name in start if name != given]
        before = list(start).index(given)
        found = thresholds(net.state_dict())
        assert [found[name] for name in list(start)[:before]] == [expected[name] for name in list(start)[:before]]
    everything = steps({name: numpy.float32(value) for name, value in start.items()})
    assert thresholds(everything.state_dict()) == start


def test_what_is_not_chosen_yet_is_so_in_a_file(tmp_path):
    images, labels = blobs(32)
    net, path = unchosen(), tmp_path / "unchosen.safetensors"
    start = thresholds(net.state_dict())
    net.save(path)
    loaded = dsr.load(path)
    into = unchosen(vth=2.0)
    into.load(path)
    loss = net.train_step(images, labels, dsr.SGD(net, lr=0.1))
    for other in (loaded, into):
        assert other.train_step(images, labels, dsr.SGD(other, lr=0.1)) == loss
        assert thresholds(other.state_dict()) == thresholds(net.state_dict()) and chosen(other, start)
    net.save(path)
    again, before = dsr.load(path), thresholds(net.state_dict())
    again.train_step(images, labels, dsr.SGD(again, lr=0.0))
    assert thresholds(again.state_dict()) == before
    part = unchosen()
    first, *others = start
    part.load_state_dict({first: numpy.float32(start[first])}, strict=False)
    part.save(path)
    again = dsr.load(path)
    again.train_step(images, labels, dsr.SGD(again, lr=0.0))
    assert chosen(again, start) == others


def test_what_is_not_chosen_yet_is_so_in_an_export(tmp_path):
    images, labels = blobs(32)
    start = thresholds(unchosen().state_dict())
    for given in ([], list(start)[:1], list(start)):
        net = unchosen()
        net.load_state_dict({name: numpy.float32(start[name]) for name in given}, strict=False)
        net.save(tmp_path / "unchosen.safetensors")
        command(tmp_path, "export --checkpoint unchosen.safetensors --out exported.safetensors")
        exported = dsr.load(tmp_path / "exported.safetensors")
        for of in (net, exported):
            of.train_step(images, labels, dsr.SGD(of, lr=0.0))
        assert chosen(exported, start) == [name for name in start if name not in given]
        assert thresholds(exported.state_dict()) == thresholds(net.state_dict())


def test_a_run_does_not_take_thresholds_that_nobody_has_chosen(tmp_path):
    settings = {"dataset": "digits-8x8", "widths": [8], "blocks": [1], "time_steps": 4, "vth": 1.5, "threshold_init": "fixed"}
    settings = {**settings, "readout": "spikes", "freeze_thresholds": True, "epochs": 1, "device": "cpu"}
    of_data = {"dataset": "digits-8x8", "threshold_init": "auto", "readout": "spikes"}
    net = dsr.preact_resnet([8], [1], input_shape=(1, 8, 8), time_steps=4, **of_data)
    names = ["layer1.0.relu1.Vth", "layer1.0.relu2.Vth"]
    assert set(names) <= set(thresholds(net.state_dict())) and 1.5 not in thresholds(net.state_dict()).values()
    net.save(tmp_path / "unchosen.safetensors")
    with pytest.warns(UserWarning, match=rf"thresholds that nobody has chosen \({', '.join(names)}.*\): they start as the settings say"):
        run = dsr.train(init_from=tmp_path / "unchosen.safetensors", out=tmp_path / "run", **settings)
    assert {thresholds(run.state_dict())[name] for name in names} == {1.5}
    net.load_state_dict({names[0]: numpy.float32(0.75)}, strict=False)
    net.save(tmp_path / "part.safetensors")
    with pytest.warns(UserWarning, match=rf"thresholds that nobody has chosen \({names[1]}.*\): they start as the settings say"):
        run = dsr.train(init_from=tmp_path / "part.safetensors", out=tmp_path / "part", **settings)
    assert [thresholds(run.state_dict())[name] for name in names] == [0.75, 1.5]
    with pytest.raises(ValueError, match="has thresholds that nobody has chosen yet, so no run has begun: .* --init-from"):
        dsr.train(resume=tmp_path / "unchosen.safetensors", out=tmp_path / "resumed")


class Stepping:
    """Images that take a training step of their own when they are read for the n-th time."""

    def __init__(self, images, n, step):
        self.images, self.n, self.step, self.reads = images, n, step, 0

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        if self.reads == self.n:
            self.step()
        return self.images


@pytest.mark.parametrize("n", [1, 2])
def test_thresholds_are_chosen_once_whoever_steps_first(n):
    """A step of somebody else while another step reads its images: the later one finds thresholds, and chooses none."""
    (images, labels), (others, other_labels) = blobs(32), blobs(32, seed=1)
    net, expected = unchosen(), unchosen()
    opt, of_expected = dsr.SGD(net, lr=0.1), dsr.SGD(expected, lr=0.1)
    reading = Stepping(images, n, lambda: net.train_step(others, other_labels, opt))
    net.train_step(reading, labels, opt)
    if reading.reads >= n:
        expected.train_step(others, other_labels, of_expected)
    expected.train_step(images, labels, of_expected)
    state = expected.state_dict()
    assert all(numpy.array_equal(values, state[name]) for name, values in net.state_dict().items())


@pytest.mark.parametrize("n", [1, 2])
def test_a_step_that_fails_takes_no_choice_of_others_back(n):
    (images, labels), net = blobs(32), unchosen()
    opt, expected = dsr.SGD(net, lr=0.0), net.copy()
    reading = Stepping(numpy.full_like(images, 3e38), n, lambda: net.train_step(images, labels, opt))
    with pytest.raises(FloatingPointError):
        net.train_step(reading, labels, opt)
    if reading.reads >= n:
        expected.choose_thresholds(images)
    assert thresholds(net.state_dict()) == thresholds(expected.state_dict())


def run(code, folder):
    """A process of its own, in a folder that it imports nothing from."""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


def test_dsr_torch_needs_no_import_of_its_own(tmp_path):
    pytest.importorskip("torch")
    has = "assert 'torch' {} sys.modules"
    run("\n".join(["import sys, dsr", has.format("not in"), "assert 'torch' in dir(dsr)", "dsr.torch.Module", has.format("in")]), tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dsr.nothing


def test_without_pytorch_the_package_can_be_looked_at(tmp_path):
    run(
        """
import inspect, pydoc, sys
sys.modules["torch"] = None  # which Python takes for a module that is not there
import dsr
assert not hasattr(dsr, "torch") and "torch" not in dir(dsr)
assert "torch" not in dict(inspect.getmembers(dsr))
assert "preact_resnet" in pydoc.render_doc(dsr)
for code, kind in [("dsr.torch", AttributeError), ("import dsr.torch", ImportError), ("from dsr import torch", ImportError)]:
    try:
        exec(code)
    except kind as error:
        assert "dsr.torch needs PyTorch: " in str(error) and str(error).endswith("; pip install torch"), error
    else:
        raise AssertionError(code)
""",
        tmp_path,
    )
