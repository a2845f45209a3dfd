#!/usr/bin/env python3
"""Times `dsr`, PyTorch and SpikingJelly interleaved, each run in its own process, and writes one table.

    benches/peers/compare.py --venv DIR [--dsr target/release/dsr]

DIR is the environment of setup.sh; it is made first if it is not there. Needs nothing but Python's standard library itself.
Writes peers.md (the table) and peers.jsonl (every run) to docs/results/<date>-<machine>/.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

# glibc hands large blocks back to the kernel after every step and faults them in again at the next. These settings make it keep
# them, which favours PyTorch: every block comes from the heap, and the heap never shrinks. It costs memory (a heap has gaps), so
# the Python peers' peak memory is taken from one more run without these settings.
RETAIN_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True)
class Case:
    """`vth` is such that an untrained network fires at more than 7 %: a LIF spike carries vth / 0.05."""

    name: str
    mode: str
    neuron: str
    time_steps: int
    batch: int
    vth: float
    peers: tuple


CASES = [
    Case("train-if-20", "train", "if", 20, 32, 2.0, ("dsr", "dsr-one-thread", "torch", "torch-ann")),
    Case("infer-if-20", "infer", "if", 20, 32, 2.0, ("dsr", "dsr-8-bit", "dsr-one-thread", "torch", "torch-ann")),
    Case("train-if-5", "train", "if", 5, 32, 2.0, ("dsr", "torch")),
    Case("infer-if-5", "infer", "if", 5, 32, 2.0, ("dsr", "torch")),
    Case("infer-if-20-one", "infer", "if", 20, 1, 2.0, ("dsr", "torch")),
    Case("train-lif-20", "train", "lif", 20, 32, 0.1, ("dsr", "torch", "spikingjelly")),
    Case("infer-lif-20", "infer", "lif", 20, 32, 0.1, ("dsr", "torch", "spikingjelly")),
]

# What dsr gets beside the settings of the case; later flags win.
DSR = {"dsr": [], "dsr-8-bit": ["--weight-bits", "8"], "dsr-one-thread": ["--threads", "1"]}

PEERS = {
    "dsr": "dsr",
    "dsr-8-bit": "dsr, 8-bit weights",
    "dsr-one-thread": "dsr, one thread",
    "torch": "PyTorch, the same DSR network",
    "torch-ann": "PyTorch, the same network as an ANN (ReLU)",
    "spikingjelly": "SpikingJelly spiking_resnet18, LIF",
}


def command(peer, case, args, retain=True):
    """The process that measures one peer in one case."""
    python = str(args.venv / "bin" / "python")
    shape = ["--mode", case.mode, "-b", str(case.batch)]
    # Without the settings the heap does not grow: one step before the measured one will do.
    warmup, repeats = (args.warmup, args.steps) if retain else (1, 1)
    # Steps of one image take milliseconds: the median of a few would be that of a hiccup.
    many = ["--warmup", "10", "--repeats", "50"] if case.batch == 1 else []
    if many and retain:
        warmup, repeats = 10 * warmup, 10 * repeats
    steps = ["--threads", str(args.threads), "--warmup", str(warmup), "--repeats", str(repeats)]
    net = ["--widths", args.widths] if args.widths else []
    if peer in DSR:
        model = net or ["--model", "preact-resnet18"]
        neuron = ["-T", str(case.time_steps), "--neuron", case.neuron, "--vth", f"{case.vth:g}"]
        return [*shlex.split(args.dsr), "bench", "throughput", *shape, *model, *neuron, "--threads", str(args.threads), *DSR[peer],
                *many, "-o", "json", *shlex.split(args.dsr_args)]
    if peer == "spikingjelly":
        small = ["--size", "16"] if args.widths else []
        return [python, str(HERE / "spikingjelly_step.py"), *shape, "-T", str(case.time_steps), *small, *steps]
    neuron = ["--neuron", "relu"] if peer == "torch-ann" else ["-T", str(case.time_steps), "--neuron", case.neuron, "--vth", f"{case.vth:g}"]
    return [python, str(HERE / "dsr_torch.py"), *shape, *net, *neuron, *steps]


def measure(peer, case, args, retain=True):
    """Runs one process and returns its measurement."""
    argv = command(peer, case, args, retain)
    environment = dict(os.environ)
    if peer not in DSR:
        environment |= {"OMP_NUM_THREADS": str(args.threads)} | (RETAIN_MEMORY if retain else {})
    try:
        done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        sys.exit(f"compare.py: cannot start {argv[0]}: {error.strerror}; build it first, or name another with --dsr or --venv")
    if done.returncode != 0:
        sys.exit(f"compare.py: {shlex.join(argv)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    try:
        # dsr prints one document with `cases`, the Python peers one line.
        result = json.loads(done.stdout)
        result = result["cases"][0] if "cases" in result else result
        return {key: result[key] for key in ("median_s", "min_s", "n", "mean_firing_rate", "peak_rss_bytes")} | result
    except (ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"compare.py: {shlex.join(argv)} printed no measurement ({error!r}):\n{done.stdout[:2000]}")


def shown(argv, args):
    """The command with folders of this machine left out."""
    return shlex.join(argv).replace(str(args.venv), "DIR").replace(f"{REPOSITORY}/", "")


def first_line(argv, default="unknown"):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return default


def processor():
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        return names[0] if names else platform.processor() or platform.machine()
    except OSError:
        return first_line(["sysctl", "-n", "machdep.cpu.brand_string"])


def processor_detail():
    """Family, model and stepping, and the vector extensions: a virtual machine's model name says little."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    fields = dict(re.findall(r"^(cpu family|model|stepping|flags)\s*: (.*)$", text, re.M))
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if flag in fields.get("flags", "").split()]
    return f"family {fields.get('cpu family')}, model {fields.get('model')}, stepping {fields.get('stepping')}, {' '.join(flags)}"


def memory_gib():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def across(values, digits=3):
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def result_rows(cases, runs):
    for case in cases:
        for peer in case.peers:
            all_runs = [run for run in runs if run["case"] == case.name and run["peer"] == peer]
            of = [run["result"] for run in all_runs if run["round"] is not None]
            for_memory = of if peer in DSR else [run["result"] for run in all_runs if run["round"] is None]
            medians = [result["median_s"] for result in of]
            rates = [result["mean_firing_rate"] for result in of]
            rate = "–" if peer == "torch-ann" else f"{100 * statistics.median(rates):.1f} %"
            peak = f"{max(result['peak_rss_bytes'] for result in for_memory) / 1e9:.2f}" if for_memory else "–"
            steps = of[0]["n"] if len({result["n"] for result in of}) == 1 else "various"
            yield (f"| {case.name} | {PEERS[peer]} | {statistics.median(medians):.4f} | {across(medians, 4)} | {len(of)} × {steps} |"
                   f" {peak} | {rate} |")


def ratio_rows(cases, runs):
    """Ratios of runs of the same round, so that a slow minute of the machine weighs on both sides."""
    seconds = {(run["case"], run["peer"], run["round"]): run["result"]["median_s"] for run in runs}
    for case in cases:
        rounds = sorted({run["round"] for run in runs if run["case"] == case.name and run["round"] is not None})
        for over, under in (("torch", "dsr"), ("spikingjelly", "dsr"), ("dsr", "torch-ann"), ("dsr", "dsr-8-bit"), ("dsr-one-thread", "dsr")):
            if over in case.peers and under in case.peers:
                ratios = [seconds[case.name, over, r] / seconds[case.name, under, r] for r in rounds]
                yield f"| {case.name} | {PEERS[over]} / {PEERS[under]} | {statistics.median(ratios):.2f} | {across(ratios, 2)} | {len(ratios)} |"


def report(cases, runs, args, date, load):
    versions = {key: run["result"][key] for run in runs for key in ("torch", "spikingjelly", "python", "cpu_capability") if key in run["result"]}
    shapes = [f"{c.name}: {c.mode}, {c.neuron.upper()}, T = {c.time_steps}, batch {c.batch}, vth {c.vth:g}" for c in cases]
    net = f"widths {args.widths} (a trial of the script, no result)" if args.widths else "PreAct-ResNet-18, CIFAR shape 3×32×32"
    lines = [
        f"# dsr beside PyTorch and SpikingJelly, {date}",
        "",
        f"{net}, f32, {args.threads} threads, seconds per step.",
        "Each run is a process of its own; the peers of a case take turns, and every second round goes the other way.",
        "",
        "| case | peer | median s | spread of the runs' medians | runs × steps | peak memory GB | mean firing rate |",
        "|---|---|---|---|---|---|---|",
        *result_rows(cases, runs),
        "",
        "Ratios within a round:",
        "",
        "| case | ratio | median | spread | rounds |",
        "|---|---|---|---|---|",
        *ratio_rows(cases, runs),
        "",
        "## Machine and versions",
        "",
        f"- {processor()} ({processor_detail()}), {os.cpu_count()} cores, {memory_gib():.0f} GiB, {platform.system()} {platform.release()},"
        f" {' '.join(platform.libc_ver())}; load average before the run {load:.2f}.",
        f"- {args.dsr_version}; repository at {first_line(['git', 'describe', '--always', '--dirty'])}.",
        f"- PyTorch {versions.get('torch', 'not run')} ({versions.get('cpu_capability', '')}), SpikingJelly {versions.get('spikingjelly', 'not run')},"
        f" Python {versions.get('python', '')}.",
        f"- PyTorch and SpikingJelly run with memory kept: {' '.join(f'{k}={v}' for k, v in RETAIN_MEMORY.items())}; dsr with no such setting.",
        "- The peak memory of PyTorch and SpikingJelly is that of one more run without these settings, one step after one step.",
        f"- Cases: {'; '.join(shapes)}.",
        "- SpikingJelly's network has its ImageNet stem replaced by a 3×3 convolution without pooling, as users do for 32×32 images.",
        "- Batch-norm statistics are those of the batch before an inference is timed; the mean firing rate is spikes per neuron and step.",
        "",
        "Commands of the first case:",
        "",
        *(f"    {shown(command(peer, cases[0], args), args)}" for peer in cases[0].peers),
        "",
    ]
    return "\n".join(lines)


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="environment of setup.sh")
    parser.add_argument("--dsr", default=str(REPOSITORY / "target" / "release" / "dsr"), help="command of dsr")
    parser.add_argument("--dsr-args", default="", help="more arguments for dsr's bench")
    parser.add_argument("--cases", help=f"some of {','.join(case.name for case in CASES)}")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers to run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="measured steps in each Python process")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them: the heap has grown to its size after two or three")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="leave out the runs for the peak memory of the Python peers")
    parser.add_argument("--machine", help="name of the machine in the folder's name")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--widths", help="trial of the script: these widths, T = 2, batch 2")
    args = parser.parse_args()
    known, peers = {case.name: case for case in CASES}, args.peers.split(",")
    names = args.cases.split(",") if args.cases else list(known)
    for name in names:
        if name not in known:
            parser.error(f"case {name!r}: expected some of {','.join(known)}")
    for peer in peers:
        if peer not in PEERS:
            parser.error(f"peer {peer!r}: expected some of {','.join(PEERS)}")
    cases = [replace(known[name], peers=tuple(peer for peer in known[name].peers if peer in peers)) for name in names]
    if args.widths:
        cases = [replace(case, time_steps=2, batch=2) for case in cases]
    return args, [case for case in cases if case.peers]


def prepare(args):
    """Makes the environment if it is not there, asks dsr for its version, and gives date and folder of the results."""
    args.venv = args.venv.absolute()
    if not (args.venv / "bin" / "python").exists():
        subprocess.run([str(HERE / "setup.sh"), str(args.venv)], check=True)
    args.dsr_version = first_line([*shlex.split(args.dsr), "--version"], default="dsr of unknown version")
    date = datetime.date.today().isoformat()
    machine = args.machine or re.sub(r"[^a-z0-9]+", "-", f"{processor()} {os.cpu_count()} cores".lower()).strip("-")
    out = args.out or REPOSITORY / "docs" / "results" / f"{date}-{machine}"
    out.mkdir(parents=True, exist_ok=True)
    return date, out


def main():
    args, cases = options()
    date, out = prepare(args)
    load = os.getloadavg()[0]
    timed = [(number, case, peer) for number in range(args.rounds) for case in cases
             for peer in (case.peers if number % 2 == 0 else reversed(case.peers))]
    # No round: a run for its peak memory.
    for_memory = [(None, case, peer) for case in cases for peer in case.peers if peer not in DSR and not args.no_memory]
    runs = []
    with open(out / "peers.jsonl", "w", encoding="utf-8") as log:
        for number, case, peer in timed + for_memory:
            result = measure(peer, case, args, retain=number is not None)
            runs.append({"round": number, "case": case.name, "peer": peer, "result": result})
            print(json.dumps(runs[-1]), file=log, flush=True)
            label = "memory" if number is None else f"round {number + 1}/{args.rounds}"
            print(f"{label} {case.name} {peer}: {result['median_s']:.4f} s, {result['peak_rss_bytes'] / 1e9:.2f} GB", file=sys.stderr)
    (out / "peers.md").write_text(report(cases, runs, args, date, load), encoding="utf-8")
    print(out / "peers.md")


if __name__ == "__main__":
    main()
