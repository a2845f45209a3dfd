"""`dsr.train` is `dsr train`; training steps, optimisers, callbacks, Ctrl-C."""

import os
import pathlib
import shutil
import signal
import sys
import threading
import warnings

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
    trains = threading.Event()

    def interrupt():
        trains.wait()
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        dsr.train(out=tmp_path / "run", on_step=lambda _: trains.set(), **{**SETTINGS, "epochs": 100000})
    other.join()
    assert dsr.load(tmp_path / "run/last.safetensors").time_steps == 4


def pictures(folder):
    """Two classes of pictures, and one of a kind that is not read, of which preparing the data tells."""
    for name, shade in (("dark", 10), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            (folder / name / f"{number}.pgm").write_bytes(b"P5 8 8 255\n" + bytes(shade + 5 * number + at % 9 for at in range(64)))
    (folder / "dark/x.gif").write_bytes(b"")
    return {**SETTINGS, "dataset": "images", "data_dir": folder, "val_share": 0.25, "image_size": 8, "batch": 4}


def test_ctrl_c_while_data_are_prepared_leaves_no_run(tmp_path, monkeypatch):
    """The signal comes with what preparing tells, and is answered before it goes on."""
    told, is_answered = [], threading.Event()

    def answer(*_):
        is_answered.set()
        raise KeyboardInterrupt

    def show(message, *_, **__):
        if "not read" in str(message):
            told.append(message)
            os.kill(os.getpid(), signal.SIGINT)
            is_answered.wait()

    settings = pictures(tmp_path / "pictures")
    dsr.train(out=tmp_path / "whole", **settings)
    earlier, interval = signal.signal(signal.SIGINT, answer), sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the caller's thread has heard of it before the run's goes on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", show)
            with pytest.raises(KeyboardInterrupt):
                dsr.train(out=tmp_path / "run", **settings)
    finally:
        signal.signal(signal.SIGINT, earlier)
        sys.setswitchinterval(interval)
    assert len(told) == 1 and (tmp_path / "whole").exists() and not (tmp_path / "run").exists()


def test_a_tilde_is_the_home_folder_in_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = {**pictures(tmp_path / "pictures"), "data_dir": "~/pictures", "skip_unreadable": 1}
    for cache in ("~/cache", pathlib.Path("~/cache")):
        dsr.train(cache_dir=cache, **settings)
        assert (tmp_path / "cache").is_dir() and not (tmp_path / "~").exists()
        shutil.rmtree(tmp_path / "cache")


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


@pytest.mark.parametrize("freezes", [True, False])
@pytest.mark.parametrize("make", [dsr.SGD, dsr.Adam, dsr.AdamW])
def test_frozen_thresholds_do_not_decay(make, freezes, tmp_path):
    images, labels = dsr.dataset("digits-8x8", "train")
    settings = {"time_steps": 2, "vth": 1.0, "freeze_thresholds": freezes}
    made = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), mean=[0.3], std=[0.3], **settings)
    trained = dsr.train(out=tmp_path / "run", **{**SETTINGS, **settings, "weight_decay": 0.0})
    for net in (made, trained, trained.copy()):
        before = net.state_dict()
        net.train_step(images[:64], labels[:64], make(net, lr=0.1, weight_decay=0.5))
        after = net.state_dict()
        thresholds = [name for name in after if name.endswith(".Vth")]
        assert len(thresholds) > 2
        assert all(numpy.array_equal(before[name], after[name]) == freezes for name in thresholds)
        assert not numpy.array_equal(before["conv1.weight"], after["conv1.weight"])


def test_a_bound_of_0_is_none():
    images, labels = dsr.dataset("digits-8x8", "train")
    start = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0, mean=[0.3], std=[0.3])
    weights = []
    for clip_norm in (None, 0, 1e-3):
        net = start.copy()
        net.train_step(images[:64], labels[:64], dsr.SGD(net, lr=0.1, clip_norm=clip_norm))
        weights.append(net.state_dict()["conv1.weight"])
    assert numpy.array_equal(weights[0], weights[1])
    assert not numpy.array_equal(weights[0], weights[2])


def test_a_network_of_ones_own_is_the_one_that_has_a_name():
    """The layers of a small PreAct-ResNet, one by one, with the same parameters: the same logits."""
    named = dsr.preact_resnet([8, 16], [1, 1], classes=10, input_shape=(1, 8, 8), time_steps=4, vth=1.0, readout="spikes")
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
