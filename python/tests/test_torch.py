"""`dsr.torch.Module`: gradients are those of the reference in float64, and PyTorch's optimisers step the network."""

import importlib.util
import pathlib

import numpy
import pytest

torch = pytest.importorskip("torch")

import dsr  # noqa: E402
import dsr.torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the golden tests of the engine allow a gradient, as a share of its norm.
TOLERANCE = 1e-4


def peer():
    """The reference, in plain PyTorch."""
    spec = importlib.util.spec_from_file_location("network", ROOT / "benches/peers/network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exact(values, bits=4):
    """Values that both have without rounding: multiples of 2^-bits."""
    return torch.round(values * 2**bits) / 2**bits


@pytest.mark.parametrize("readout", ["spikes", "current"])
@pytest.mark.parametrize("kind", ["if", "lif"])
def test_gradients_are_those_of_the_reference_in_float64(kind, readout):
    network = peer()
    settings = {"if": {"vth": 1.0, "alpha": 0.5}, "lif": {"vth": 0.125, "alpha": 0.5, "tau": 1.0, "delta_t": 0.125}}[kind]
    bound = 0.0009765625
    config = network.NeuronConfig(kind=kind, time_steps=4, vth_bound=bound, **settings)
    theirs = network.PreActResNet(config, [8], [1], input_shape=(1, 8, 8), pool=4, readout=readout).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() > 1:
                parameter.copy_(exact(0.3 * torch.randn_like(parameter)))
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 1 and "bn" not in name:
                parameter.copy_(exact(0.3 * torch.randn_like(parameter)))
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), neuron=kind, time_steps=4, readout=readout, vth_bound=bound,
                            weight_gradient="unrolled", dropout=0.0, **settings)  # fmt: skip
    ours = dsr.torch.Module(net)
    own = dict(theirs.state_dict())
    ours.load_state_dict({name: own[name].float() for name in ours.state_dict()})
    images = exact(torch.randn(16, 1, 8, 8))
    weights = torch.randn(16, 10)
    for_ours, for_theirs = images.clone().requires_grad_(), images.double().requires_grad_()
    logits, expected = ours(for_ours), theirs(for_theirs)
    assert logits.dtype == torch.float32 and torch.allclose(logits.double(), expected, atol=1e-5), (logits - expected).abs().max()
    assert logits.abs().sum() > 0
    (logits * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    gradients = dict(theirs.named_parameters())
    compared, whole = 0, torch.cat([parameter.grad.flatten() for parameter in gradients.values()]).norm().item()
    for name, parameter in ours.named_parameters():
        wanted = gradients[name].grad
        # Biases in front of a batch norm have a gradient of 0, of which float32 leaves a share of the others.
        scale = max(wanted.norm().item(), 1e-2 * whole)
        assert (parameter.grad.double() - wanted).norm().item() <= TOLERANCE * scale, (name, parameter.grad, wanted)
        compared += wanted.norm().item() > 1e-2 * whole
    assert compared > 8
    wanted = for_theirs.grad
    assert (for_ours.grad.double() - wanted).norm() <= TOLERANCE * wanted.norm(), (for_ours.grad / wanted).median()
    for name, buffer in ours.named_buffers():
        assert torch.allclose(buffer.double(), dict(theirs.named_buffers())[name].double(), atol=1e-5), name


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
])
def test_any_optimiser_and_loss_train_it(make):
    images, labels = dsr.dataset("digits-8x8", "train")
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=4, readout="current")
    inputs, labels = torch.from_numpy(images).float() / 16 - 0.5, torch.from_numpy(labels)
    net.choose_thresholds(inputs[:64])
    module = dsr.torch.Module(net)
    model = torch.nn.Sequential(module, torch.nn.Linear(10, 10))
    optimizer = make(model.parameters())
    losses = []
    for at in range(0, 1280, 64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs[at : at + 64]), labels[at : at + 64], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert numpy.mean(losses[-4:]) < 0.9 * numpy.mean(losses[:4])
    assert set(module.rates) >= set(net.layers)
    model.eval()
    logits = module(inputs[:8])
    assert not logits.requires_grad and numpy.array_equal(logits.numpy(), net(inputs[:8]).logits)
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert all(numpy.array_equal(values, net.state_dict()[name]) for name, values in state.items())


def test_a_step_by_pytorch_is_a_step_by_the_engine():
    """The same batch, the same SGD: parameters agree to rounding."""
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=4, vth=1.0)
    rng = numpy.random.default_rng(0)
    images, labels = rng.standard_normal((16, 1, 8, 8), dtype=numpy.float32), rng.integers(0, 10, 16)
    other = net.copy()
    module = dsr.torch.Module(other)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    own = dsr.SGD(net, lr=0.1, momentum=0.9)
    for _ in range(3):
        loss = net.train_step(images, labels, own)
        optimizer.zero_grad()
        theirs = torch.nn.functional.cross_entropy(module(torch.from_numpy(images)), torch.from_numpy(labels))
        theirs.backward()
        optimizer.step()
        assert loss == pytest.approx(theirs.item(), rel=1e-5)
    for name, values in net.state_dict().items():
        assert numpy.allclose(values, module.state_dict()[name].numpy(), atol=1e-4), name


@pytest.mark.parametrize("training", [True, False])
def test_changes_through_data_are_seen(training):
    """`p.data.mul_` changes a tensor without a new version of it, as older optimisers and many scripts do."""
    module = dsr.torch.Module(dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, readout="current"))
    images = torch.randn(4, 1, 8, 8)
    module.train(training)
    module(images)
    for parameter in module.parameters():
        parameter.data.mul_(1.5)
    logits = module(images)
    fresh = dsr.torch.Module(dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, readout="current"))
    fresh.load_state_dict(module.state_dict())
    fresh.train(training)
    assert torch.equal(logits, fresh(images)) and logits.abs().sum() > 0
    for name, values in module.net.state_dict().items():
        assert torch.equal(module.state_dict()[name], torch.from_numpy(values)), name


@pytest.mark.parametrize("work", [
    lambda net, images: net.train_step(images, torch.zeros(4, dtype=torch.int64), dsr.SGD(net, lr=0.1)),
    lambda net, images: net.load_state_dict(net.state_dict()),
    lambda net, images: net.choose_thresholds(images),
])
def test_backward_is_refused_after_other_work_on_the_network(work):
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    module = dsr.torch.Module(net)
    images = torch.randn(4, 1, 8, 8)
    loss = module(images).sum()
    work(net, images)
    with pytest.raises(RuntimeError, match="other work since this forward pass"):
        loss.backward()


def test_an_evaluation_between_forward_and_backward_changes_no_gradient_on_the_cpu():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    images = torch.randn(4, 1, 8, 8)
    gradients = []
    for evaluates in (False, True):
        module = dsr.torch.Module(net.copy())
        loss = module(images).square().sum()
        if evaluates:
            module.net(torch.randn(8, 1, 8, 8))
        loss.backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_images_that_were_changed_before_backward_are_refused():
    module = dsr.torch.Module(dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0))
    images = torch.randn(4, 1, 8, 8)
    loss = module(images).sum()
    images.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_is_of_the_last_pass():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    module = dsr.torch.Module(net)
    images = torch.randn(4, 1, 8, 8)
    first = module(images).sum()
    module(images)
    with pytest.raises(RuntimeError, match="backward is of the last forward pass"):
        first.backward()


def test_backward_is_of_the_last_pass_whichever_module_made_it():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    one, other = dsr.torch.Module(net), dsr.torch.Module(net)
    first, second = one(torch.randn(4, 1, 8, 8)).sum(), other(torch.randn(4, 1, 8, 8)).sum()
    with pytest.raises(RuntimeError, match="backward is of the last forward pass"):
        first.backward()
    second.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward is of the last forward pass"):
        second.backward()


def same(module, net):
    """Whether both have the same parameters and running statistics."""
    return all(torch.equal(module.state_dict()[name], torch.from_numpy(values)) for name, values in net.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["train_step", "load_state_dict", "load", "choose_thresholds", "other module"])
def test_changes_of_the_network_reach_the_module(change, training, tmp_path):
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    other = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=0.5, seed=7)
    module, images = dsr.torch.Module(net).train(training), torch.randn(4, 1, 8, 8)
    module(images)
    before = net.state_dict()
    if change == "train_step":
        net.train_step(images, torch.zeros(4, dtype=torch.int64), dsr.SGD(net, lr=0.1))
    elif change == "load_state_dict":
        net.load_state_dict(other.state_dict())
    elif change == "load":
        other.save(tmp_path / "x.safetensors")
        net.load(tmp_path / "x.safetensors")
    elif change == "choose_thresholds":
        net.choose_thresholds(images)
    else:
        second = dsr.torch.Module(net)
        optimizer = torch.optim.SGD(second.parameters(), lr=0.1)
        second(images).square().sum().backward()
        optimizer.step()
        second(images)
    wanted = net.state_dict()
    assert any(not numpy.array_equal(before[name], wanted[name]) for name in wanted)
    assert same(module, net)
    module(images)
    for name, _ in module.named_parameters():
        assert numpy.array_equal(net.state_dict()[name], wanted[name]), name
    assert same(module, net)


def test_a_tensor_that_was_changed_stays_beside_changes_of_the_network():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    module, images = dsr.torch.Module(net).eval(), torch.randn(4, 1, 8, 8)
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        dict(module.named_parameters())["conv1.weight"].mul_(2)
    net.train_step(images, torch.zeros(4, dtype=torch.int64), dsr.SGD(net, lr=0.1))
    stepped = net.state_dict()
    module(images)
    for name, values in net.state_dict().items():
        assert numpy.array_equal(values, 2 * start[name].numpy() if name == "conv1.weight" else stepped[name]), name
    assert same(module, net)


def test_an_earlier_state_is_loaded_though_the_tensors_have_it_still():
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    model = torch.nn.Sequential(dsr.torch.Module(net)).eval()
    images = torch.randn(4, 1, 8, 8)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net.train_step(images, torch.zeros(4, dtype=torch.int64), dsr.SGD(net, lr=0.1))
    model.load_state_dict(start)
    model(images)
    assert all(numpy.array_equal(values, start[f"0.{name}"].numpy()) for name, values in net.state_dict().items())


def loads(is_part):
    """A network, its module, and a function that loads into the module, alone or as a part of another."""
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
    module = dsr.torch.Module(net).eval()
    whole, prefix = (torch.nn.Sequential(module), "0.") if is_part else (module, "")
    return net, module, lambda state: whole.load_state_dict({prefix + name: value for name, value in state.items()}, strict=False)


def stays_trained(net, module, images):
    """Takes a step of the network, which the module must see, and not take back."""
    before = net.state_dict()
    net.train_step(images, torch.zeros(4, dtype=torch.int64), dsr.SGD(net, lr=0.1))
    trained = net.state_dict()
    assert not numpy.array_equal(before["conv1.weight"], trained["conv1.weight"])
    assert same(module, net)
    module(images)
    assert all(numpy.array_equal(values, trained[name]) for name, values in net.state_dict().items())


@pytest.mark.parametrize("is_part", [True, False])
def test_what_is_learned_after_a_load_stays(is_part):
    images = torch.randn(4, 1, 8, 8)
    net, module, load = loads(is_part)
    load(module.state_dict())
    stays_trained(net, module, images)
    net, module, load = loads(is_part)
    with pytest.raises(RuntimeError, match="size mismatch for (0.)?conv1.weight"):
        load({**module.state_dict(), "conv1.weight": torch.ones(3)})
    stays_trained(net, module, images)


@pytest.mark.parametrize("is_part", [True, False])
def test_what_is_loaded_is_in_the_network_at_once(is_part):
    net, module, load = loads(is_part)
    start, bound = net.state_dict(), numpy.float32(net.config["vth_bound"])
    first, second, *_ = [name for name in start if name.endswith(".Vth")]
    with torch.no_grad():
        dict(module.named_parameters())["linear.weight"].mul_(2)  # which is not loaded, and waits for the next call
    mean = next(name for name in start if name.endswith("running_mean"))
    values = {"conv1.weight": torch.ones(start["conv1.weight"].shape, dtype=torch.float64), mean: torch.ones(start[mean].shape)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        load({**values, first: torch.tensor([float(bound) / 2]), second: torch.ones(3)})
    loaded = {**start, **{name: value.numpy() for name, value in values.items()}, first: bound}
    assert all(numpy.array_equal(value, loaded[name]) for name, value in net.state_dict().items())
    assert module.state_dict()[first] == bound
    module(torch.randn(4, 1, 8, 8))
    loaded["linear.weight"] = 2 * start["linear.weight"]
    assert all(numpy.array_equal(value, loaded[name]) for name, value in net.state_dict().items()) and same(module, net)


@pytest.mark.parametrize("freezes", [True, False])
def test_frozen_thresholds_do_not_decay(freezes):
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0, freeze_thresholds=freezes)
    module = dsr.torch.Module(net)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    module(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    thresholds = [tensor.item() for name, tensor in module.named_parameters() if name.endswith(".Vth")]
    assert len(thresholds) > 2 and all((value == 1.0) == freezes for value in thresholds)
