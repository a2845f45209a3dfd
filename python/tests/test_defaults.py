"""A network that is made in Python learns as it is, and says so where a layer does not fire."""

import warnings

import numpy
import pytest

import dsr


def blobs(batch, shape=(3, 16, 16), classes=10, seed=0):
    """Images of classes that are easily told apart."""
    rng = numpy.random.default_rng(seed)
    centres = numpy.random.default_rng(99).standard_normal((classes, *shape), dtype=numpy.float32)
    labels = rng.integers(0, classes, batch)
    return centres[labels] + 0.5 * rng.standard_normal((batch, *shape), dtype=numpy.float32), labels


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
    assert {float(value) for name, value in with_vth.state_dict().items() if name.endswith(".Vth")} == {1.5}


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
    assert min(net(images).rates.values()) >= 0


def test_a_module_of_pytorch_chooses_as_train_step_does():
    torch = pytest.importorskip("torch")
    images, labels = blobs(32)
    nets = [dsr.preact_resnet([8], [1], input_shape=(3, 16, 16), time_steps=4) for _ in range(2)]
    module = dsr.torch.Module(nets[0])
    with torch.no_grad():
        module.conv1.weight.mul_(1.0)  # a change of a weight is none of the thresholds
    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(images)), torch.from_numpy(labels))
    expected = nets[1].train_step(images, labels, dsr.SGD(nets[1], lr=0.0))
    assert abs(loss.item() - expected) < 1e-5
    state = nets[1].state_dict()
    for name, tensor in module.state_dict().items():
        if name.endswith(".Vth"):
            assert numpy.array_equal(tensor.numpy(), state[name]), name


def test_dsr_torch_needs_no_import_of_its_own(tmp_path):
    import subprocess
    import sys

    pytest.importorskip("torch")
    code = "import sys, dsr; assert 'torch' not in sys.modules; assert 'torch' in dir(dsr); dsr.torch.Module; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dsr.nothing
