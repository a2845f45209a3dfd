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
