"""Threads of Python and of the engine: who waits for whom, and what a fork leaves."""

import subprocess
import sys
import threading
import time

import numpy
import pytest

import dsr


def finished(code, seconds=120):
    """What a process of its own prints; it fails where it waits for ever."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def other_thread_runs():
    """Calls something until another thread of Python has got on while a call was at work: whether it did within some calls.

    The interpreter takes the GIL from nobody here, so the other thread gets it from a call that lets go of it, and else not.
    """
    ticks, is_done = [], threading.Event()

    def tick():
        while not is_done.is_set():
            ticks.append(None)
            time.sleep(0)  # gives the GIL to whoever wants it

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    clock = threading.Thread(target=tick)
    clock.start()

    def runs(call, calls=200):
        for _ in range(calls):
            before = len(ticks)
            call()
            if len(ticks) > before:
                return True
            time.sleep(0)
        return False

    yield runs
    is_done.set()
    clock.join()
    sys.setswitchinterval(interval)


def test_a_call_lets_go_of_the_gil(small, images, other_thread_runs):
    many = numpy.repeat(images, 40, 0)
    assert not other_thread_runs(lambda: small.classes)  # which takes no time
    assert other_thread_runs(lambda: small(many))
    assert other_thread_runs(lambda: dsr.preact_resnet([64], [1], classes=10, input_shape=(1, 8, 8)))


@pytest.mark.parametrize("look", [lambda opt: opt.lr, lambda opt: opt.steps, repr, lambda opt: setattr(opt, "lr", 0.01)])
def test_a_look_at_an_optimiser_waits_without_the_gil(small, images, other_thread_runs, look):
    """Its state is locked while a step is at work."""
    opt = dsr.SGD(small, lr=0.01)
    many, labels = numpy.repeat(images, 40, 0), numpy.zeros(240, int)
    is_done = threading.Event()

    def steps():
        while not is_done.is_set():
            small.train_step(many, labels, opt)

    worker = threading.Thread(target=steps)
    worker.start()
    runs = other_thread_runs(lambda: look(opt))
    is_done.set()
    worker.join()
    assert runs


def test_several_threads_may_call(small, images):
    expected = small(images).logits
    other = small.copy()
    found = []
    callers = [threading.Thread(target=lambda net=net: found.append(net(images).logits)) for net in (small, other, small, other)]
    for caller in callers:
        caller.start()
    small(numpy.repeat(images, 400, 0))
    for caller in callers:
        caller.join()
    assert len(found) == 4 and all(numpy.array_equal(logits, expected) for logits in found)


def test_the_number_of_threads_changes_no_bit(small, images):
    expected = small(images).logits
    try:
        for threads in (1, 3):
            dsr.set_threads(threads)
            assert dsr.get_threads() == threads
            assert numpy.array_equal(small(images).logits, expected)
        with pytest.raises(ValueError, match="threads: 5000 is above 1024"):
            dsr.set_threads(5000)
    finally:
        dsr.set_threads(0)


def test_threads_may_share_an_optimiser():
    """A thread of the pool that waits for the optimiser's lock may be the one that would let go of it."""
    code = """
import threading, numpy, dsr
net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2, vth=1.0)
opt = dsr.SGD(net, lr=0.01)
images, labels = numpy.ones((16, 1, 8, 8), numpy.float32), numpy.zeros(16, int)
def steps():
    for _ in range(50):
        net.train_step(images, labels, opt)
        opt.lr = opt.lr / 2
threads = [threading.Thread(target=steps) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(opt.steps)
"""
    assert finished(code) == "200"


def test_a_callback_of_a_run_may_compute(tmp_path):
    """With a single thread, which the run would have taken from it."""
    code = f"""
import numpy, dsr
dsr.set_threads(1)
net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2)
images = numpy.zeros((4, 1, 8, 8), numpy.float32)
seen = []
dsr.train(dataset="digits-8x8", widths=[8], blocks=[1], time_steps=2, epochs=1, device="cpu", out={str(tmp_path / "run")!r},
          on_epoch=lambda _: seen.append(net(images).logits.shape))
print(seen)
"""
    assert finished(code) == "[(4, 10)]"


# What a process does after a fork, each with the network of its parent.
AFTER = [
    "net(images)",
    "dsr.preact_resnet([8], [1], input_shape=(1, 8, 8))",
    "dsr.Network.build([dsr.layer('one', dsr.linear('fc', 'input', 10))], input_shape=(1, 8, 8), classes=10)",
    "net.load_state_dict(state)",
    "net.train_step(images, [0], opt)",
    "net.copy()",
    "opt.lr",
    "repr(opt)",
    "dsr.SGD(net, lr=0.1)",
    "dsr.dataset('digits-8x8')",
    "dsr.set_threads(2)",
    "dsr.train(dataset='nope')",
]


@pytest.mark.parametrize("work", AFTER)
def test_a_forked_process_says_so_instead_of_hanging(work):
    """To make a network is to compute: its weights are rounded by the threads."""
    code = f"""
import os, signal, sys, numpy, dsr
net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2)
opt, state, images = dsr.SGD(net, lr=0.1), net.state_dict(), numpy.zeros((1, 1, 8, 8), numpy.float32)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for ever
    try:
        {work}
        os._exit(8)
    except RuntimeError as error:
        os._exit(7 if "start processes with multiprocessing's 'spawn'" in str(error) else 6)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(5)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, net(images).logits.shape)
"""
    assert finished(code) == "7 (1, 10)"


def test_a_fork_before_the_first_network_computes():
    code = """
import os, numpy, dsr
child = os.fork()
net = dsr.preact_resnet([8], [1], classes=10, input_shape=(1, 8, 8), time_steps=2)
net(numpy.zeros((1, 1, 8, 8), numpy.float32))
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert finished(code) == "7"
