"""A SpikingJelly module has the network's spikes."""

import numpy
import pytest
from conftest import made
from test_nir import photo_like

import dsr

torch = pytest.importorskip("torch")
pytest.importorskip("spikingjelly")

CASES = [(neuron, readout) for neuron in ("if", "lif") for readout in ("spikes", "current")]


@pytest.mark.parametrize("neuron, readout", CASES)
@pytest.mark.parametrize("make", [made, photo_like])
def test_spikes_and_logits_are_those_of_the_network(make, neuron, readout):
    net = make(neuron=neuron, readout=readout)
    images = numpy.random.default_rng(2).standard_normal((40, *net.input_shape), dtype=numpy.float32)
    ours = net(images, spikes=True)
    module = dsr.nir.to_spikingjelly(net, torch.float64)
    module.record = net.layers
    with torch.no_grad():
        logits = module(torch.from_numpy(images))
        assert torch.equal(module(torch.from_numpy(images)), logits)  # it starts anew
    for name, trains in ours.spikes.items():
        assert module.spikes[name].shape == trains.shape and numpy.array_equal(module.spikes[name].numpy(), trains), name
    assert numpy.allclose(logits.numpy(), ours.logits, rtol=1e-5, atol=1e-5)
    # In float32 potentials are shifted after they were rounded: a few get to the other side of the level.
    single = dsr.nir.to_spikingjelly(net)
    single.record = net.layers
    with torch.no_grad():
        single(torch.from_numpy(images))
    wrong = sum(int((single.spikes[name].numpy() != trains).sum()) for name, trains in ours.spikes.items())
    assert wrong <= 1e-4 * sum(trains.size for trains in ours.spikes.values())


def test_frames_and_gradients():
    net = dsr.Network.build(
        [dsr.layer("first", dsr.conv("c", "input", 8), norm="n"), dsr.layer("last", dsr.linear("fc", "first", 3, pool=4))],
        **{"input_shape": (2, 8, 8), "classes": 3, "neuron": "lif", "tau": 1.0, "delta_t": 0.2, "time_steps": 5, "readout": "current"},
    )
    frames = numpy.random.default_rng(0).standard_normal((6, 5, 2, 8, 8), dtype=numpy.float32)
    net.choose_thresholds(frames)
    module = dsr.nir.to_spikingjelly(net, torch.float64)
    logits = module(torch.from_numpy(frames))
    assert numpy.allclose(logits.detach().numpy(), net(frames).logits, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert list(module.neurons) == ["first", "last (readout)"]
    with pytest.raises(ValueError, match=r"images: have shape \(6, 4, 2, 8, 8\); give \[B, C, H, W\] or \[B, 5, C, H, W\]"):
        module(torch.from_numpy(frames[:, :4]))


@pytest.mark.parametrize("kind", ["if", "lif"])
def test_what_spikingjelly_exports_is_read(kind):
    """Its exporter takes neurons with a hard reset alone, and is told so; the network is run with the soft one."""
    pytest.importorskip("nir")
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    torch.manual_seed(3)

    def node():
        return neuron.IFNode(v_reset=0.0) if kind == "if" else neuron.LIFNode(tau=4.0, v_reset=0.0)

    net = torch.nn.Sequential(
        *(layer.Conv2d(2, 6, 3, padding=1), node(), layer.AvgPool2d(2), layer.Conv2d(6, 8, 3, padding=1, stride=2), node()),
        *(layer.Flatten(), layer.Linear(32, 5), node()),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            # Numbers that the rounding of weights keeps, large enough that all layers fire.
            parameter.copy_((parameter * (512 if kind == "if" else 1536)).round() / 64)
    images = (torch.randn(16, 2, 8, 8) * 16).round() / 16
    graph = export_to_nir(net, images[:1])
    neurons = [module for module in net.modules() if isinstance(module, neuron.BaseNode)]
    functional.reset_net(net)
    for module in neurons:
        module.v_reset, module.v = None, 0.0
    with torch.no_grad():
        outputs = torch.stack([net(images) for _ in range(8)]).numpy()
    again = dsr.nir.load(graph, 8, reset="subtract", step="euler")
    found = again(images.numpy(), spikes=True).spikes[again.layers[-1]].reshape(outputs.shape)
    assert numpy.array_equal(found, outputs > 0) and 0.1 < outputs.mean() < 0.9
