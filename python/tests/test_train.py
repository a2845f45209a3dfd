"""`dsr.train` is `dsr train`; training steps, optimisers, callbacks, Ctrl-C."""

import os
import signal
import threading

import numpy
import pytest
from conftest import SETTINGS, command

import dsr

FLAGS = "train -d digits-8x8 --widths 8 --blocks 1 -T 4 --epochs 1 --seed 3 --device cpu -q"


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("--neuron if --readout spikes", {"neuron": "if", "readout": "spikes"}),
        ("--neuron lif --weight-bits 8 --optimizer adamw --val-share 0.1 --ema 0.9", {
            "neuron": "lif", "weight_bits": 8, "optimizer": "adamw", "val_share": 0.1, "ema": 0.9}),
    ],
)
def test_a_run_has_the_bytes_of_the_command(tmp_path, flags, settings):
    command(tmp_path, f"{FLAGS} {flags} --out theirs")
    seen = []
    net = dsr.train(out=tmp_path / "ours", on_epoch=seen.append, **SETTINGS, **settings)
    for name in ("last.safetensors", "best.safetensors", "config.toml"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    assert [metrics["epoch"] for metrics in seen] == [1] and 0 < seen[0]["test_accuracy"] <= 1
    assert net.folder == tmp_path / "ours"
    images, labels = dsr.dataset("digits-8x8")
    assert (net(images).logits.argmax(1) == labels).mean() == pytest.approx(seen[0]["test_accuracy"])


def test_a_resumed_run_has_the_bytes_of_an_unbroken_one(tmp_path):
    settings = {**SETTINGS, "neuron": "if"}
    dsr.train(out=tmp_path / "whole", **settings)

    class Enough(Exception):
        pass

    def stop(step):
        if step["step"] == 5:
            raise Enough("after five steps")

    with pytest.raises(Enough, match="after five steps"):
        dsr.train(out=tmp_path / "broken", on_step=stop, **settings)
    steps = []
    dsr.train(out=tmp_path / "broken", resume="auto", on_step=steps.append, **settings)
    assert steps[0]["step"] == 6 and steps[-1]["step"] == steps[-1]["steps"]
    assert (tmp_path / "broken/last.safetensors").read_bytes() == (tmp_path / "whole/last.safetensors").read_bytes()


def test_the_error_of_a_callback_comes_back_as_it_is(tmp_path):
    raised = LookupError("mine")

    def fail(_):
        raise raised

    with pytest.raises(LookupError) as caught:
        dsr.train(out=tmp_path / "run", on_epoch=fail, **{**SETTINGS, "epochs": 50})
    assert caught.value is raised
    assert dsr.load(tmp_path / "run/last.safetensors").time_steps == 4


def test_callbacks_run_in_the_callers_thread(tmp_path):
    threads = set()
    dsr.train(out=tmp_path / "run", on_epoch=lambda _: threads.add(threading.get_ident()), **SETTINGS)
    assert threads == {threading.get_ident()}


def test_ctrl_c_ends_the_run_after_its_step_with_a_checkpoint(tmp_path):
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        dsr.train(out=tmp_path / "run", **{**SETTINGS, "epochs": 100000})
    timer.join()
    assert dsr.load(tmp_path / "run/last.safetensors").time_steps == 4


def test_a_run_starts_from_an_export(tmp_path):
    dsr.train(out=tmp_path / "first", **{**SETTINGS, "readout": "current"})
    command(tmp_path, "export --checkpoint first --out exported.safetensors")
    settings = {key: value for key, value in SETTINGS.items() if key not in ("widths", "blocks")}
    net = dsr.train(out=tmp_path / "second", init_from=tmp_path / "exported.safetensors", **settings)
    assert net.config["widths"] == [8] and net.config["readout"] == "current"


def test_runs_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {str(dsr.train(**SETTINGS).folder) for _ in range(2)}
    assert folders == {"runs/digits-8x8-preact-resnet-8-if-T4-1", "runs/digits-8x8-preact-resnet-8-if-T4-2"}
    with pytest.raises(ValueError, match="holds a run"):
        dsr.train(out=folders.pop(), **SETTINGS)


@pytest.mark.parametrize("make", [
    lambda net: dsr.SGD(net, lr=0.1, momentum=0.9, weight_decay=5e-4),
    lambda net: dsr.Adam(net, lr=0.01),
    lambda net: dsr.AdamW(net, lr=0.01, decay_on="weights", clip_norm=1.0),
])
def test_steps_of_ones_own_learn(make):
    images, labels = dsr.dataset("digits-8x8", "train")
    net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=4, mean=[0.3], std=[0.3], readout="current")
    thresholds = net.choose_thresholds(images[:64])
    assert set(thresholds) == set(net.layers) and all(value > 0 for value in thresholds.values())
    opt = make(net)
    losses = [net.train_step(images[at : at + 64], labels[at : at + 64], opt) for at in range(0, 1280, 64)]
    assert opt.steps == 20 and numpy.mean(losses[-4:]) < 0.8 * numpy.mean(losses[:4])
    opt.lr = 0.5
    assert opt.lr == 0.5
    before = net.state_dict()["conv1.weight"]
    opt.lr = 0.0
    net.train_step(images[:8], labels[:8], opt)
    assert numpy.array_equal(net.state_dict()["conv1.weight"], before)


def test_a_network_of_ones_own_is_the_one_that_has_a_name():
    """The layers of a small PreAct-ResNet, one by one, with the same parameters: the same logits."""
    named = dsr.preact_resnet([8, 16], [1, 1], classes=10, input_shape=(1, 8, 8), time_steps=4, vth=1.0)
    own = dsr.Network.build(
        [
            dsr.layer("layer1.0.relu1", dsr.conv("conv1", "input", 8), norm="layer1.0.bn1"),
            dsr.layer("layer1.0.relu2", dsr.conv("layer1.0.conv1", "layer1.0.relu1", 8, bias=True), norm="layer1.0.bn2"),
            dsr.layer("layer2.0.relu1", dsr.conv("layer1.0.conv2", "layer1.0.relu2", 8, bias=True), dsr.identity("layer1.0.relu1"),
                      norm="layer2.0.bn1"),
            dsr.layer("layer2.0.relu2", dsr.conv("layer2.0.conv1", "layer2.0.relu1", 16, stride=2, bias=True), norm="layer2.0.bn2"),
            dsr.layer("relu1", dsr.conv("layer2.0.conv2", "layer2.0.relu2", 16, bias=True),
                      dsr.conv("layer2.0.shortcut", "layer2.0.relu1", 16, 1, stride=2, bias=True), norm="bn1"),
            dsr.layer("relu2", dsr.identity("relu1", pool=4)),
            dsr.layer("relu3", dsr.linear("linear", "relu2", 10), norm="bn2"),
        ],
        input_shape=(1, 8, 8), classes=10, time_steps=4,
    )  # fmt: skip
    own.load_state_dict(named.state_dict())
    images = numpy.random.default_rng(0).standard_normal((16, 1, 8, 8), dtype=numpy.float32)
    ours, theirs = own(images, spikes=True), named(images, spikes=True)
    assert numpy.array_equal(ours.logits, theirs.logits)
    assert all(numpy.array_equal(ours.spikes[name], theirs.spikes[name]) for name in named.layers)
