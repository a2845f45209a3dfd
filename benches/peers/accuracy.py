#!/usr/bin/env python3
"""Trains one network by DSR in many settings, by DSR in PyTorch, by surrogate gradients (SpikingJelly) and as an ANN; writes one table.

    benches/peers/accuracy.py --venv DIR [--data-dir FASHION_MNIST] [--seeds 3] --out FOLDER

DIR is the environment of setup.sh; it is made first if it is not there. Needs nothing but Python's standard library itself.
Without --data-dir the data are the shipped fashion-mnist-3k, else the full Fashion-MNIST in that folder.
Every finished run is a line of accuracy.jsonl; started again with the same --out, the script goes on with those that are missing.
The table has all runs of that file with these settings, whatever cases and seeds are asked for.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from compare import HERE, REPOSITORY, first_line, memory_gib, prepare, processor, processor_detail


@dataclass(frozen=True)
class Case:
    """One row of the table; what a method does not have is None."""

    method: str  # dsr | dsr-ann | torch | surrogate | ann
    neuron: str
    time_steps: int | None = None
    gradient: str | None = None
    weight_bits: int | None = None
    readout: str | None = None

    @property
    def name(self):
        parts = [self.method, self.neuron, self.time_steps and f"T{self.time_steps}", self.gradient, self.weight_bits and f"{self.weight_bits}bit",
                 None if self.readout == "spikes" else self.readout]
        return "-".join(part for part in parts if part)


METHODS = {
    "dsr": "DSR (`dsr`)",
    "torch": "DSR (PyTorch, loop over t)",
    "surrogate": "surrogate gradient (SpikingJelly)",
    "ann": "ANN (PyTorch)",
    "dsr-ann": "ANN (`dsr --neuron relu`)",
}


def all_cases(time_steps):
    yield Case("ann", "relu")
    yield Case("dsr-ann", "relu")
    for neuron in ("if", "lif"):
        for steps in time_steps:
            for gradient in ("rate", "unrolled"):
                for bits in (16, 8):
                    for readout in ("spikes", "current"):
                        yield Case("dsr", neuron, steps, gradient, bits, readout)
            yield Case("torch", neuron, steps, "unrolled", 32)
            yield Case("surrogate", neuron, steps)


# The default recipe of dsr, which the Python peers get as flags: recipes/fashion-mnist-3k.toml.
NETWORK = {"widths": "16,32,64,128", "blocks": "1,1,1,1"}
TRAINING = {"epochs": 22, "batch": 25, "lr": 0.05, "lr_decay": "step", "warmup": 100, "crop_pad": 1}
THRESHOLDS = {"--vth": 1.2, "--vth-pooled": 0.6, "--vth-logits": 6}
ALPHA, VTH_BOUND = 0.5, {"if": 0.01, "lif": 0.001}


def thresholds(case):
    """Flags of the neurons. LIF has as long a time, and thresholds a step's length, at every T: the recipe's at T = 4."""
    steps = case.time_steps if case.neuron == "lif" else 1
    flags = THRESHOLDS | ({"--delta-t": 1} if case.neuron == "lif" else {})
    if case.readout == "current":
        # No neurons there.
        del flags["--vth-pooled"], flags["--vth-logits"]
    return [part for flag, at_one in flags.items() for part in (flag, f"{at_one / steps:g}")]


def settings_of(args):
    """What a result is good for: runs with other settings are other runs."""
    data = "fashion-mnist" if args.data_dir else "fashion-mnist-3k"
    network = {"widths": args.widths, "blocks": ",".join("1" for _ in args.widths.split(","))}
    return {"data": data, **network, **TRAINING, "epochs": args.epochs, "lr_decay": args.lr_decay, "threads": args.threads, "dsr_args": args.dsr_args}


def command(case, seed, args, folder):
    """The process that trains one case; dsr leaves its run in `folder`."""
    settings = settings_of(args)
    shared = ["--widths", settings["widths"], "--blocks", settings["blocks"], "--epochs", str(settings["epochs"]),
              "--lr", str(settings["lr"]), "--lr-decay", settings["lr_decay"], "-b", str(settings["batch"]),
              "--crop-pad", str(settings["crop_pad"]), "--seed", str(seed), "--threads", str(args.threads)]
    if case.method.startswith("dsr"):
        data = ["-d", settings["data"], *(["--data-dir", str(args.data_dir)] if args.data_dir else [])]
        neuron = []
        if case.method == "dsr":
            neuron = ["-T", str(case.time_steps), "--readout", case.readout, *thresholds(case), "--weight-gradient", case.gradient, "--weight-bits", str(case.weight_bits)]
        return [*shlex.split(args.dsr), "train", *data, *shared, "--warmup", str(settings["warmup"]), "--neuron", case.neuron, *neuron,
                "--device", "cpu", "--output", "json", "--out", str(folder), *shlex.split(args.dsr_args)]
    data = ["--data", str(args.data_dir)] if args.data_dir else []
    how = ["--plain-logits"] if case.method == "ann" else ["-T", str(case.time_steps)]
    if case.method == "surrogate":
        how.append("--surrogate")
    if case.method == "torch":
        how += [*thresholds(case), "--alpha", str(ALPHA), "--vth-bound", str(VTH_BOUND[case.neuron])]
    return [str(args.venv / "bin" / "python"), str(HERE / "train_ann.py"), *data, *shared, "--warmup-iterations", str(settings["warmup"]),
            "--neuron", case.neuron, *how]


def run_process(argv, environment):
    """Standard output and the largest memory in bytes of one process."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        except OSError as error:
            sys.exit(f"accuracy.py: cannot start {argv[0]}: {error.strerror}; build it first, or name another with --dsr or --venv")
        stdout = process.stdout.read()
        # Not `wait`: only this tells the memory of this process alone.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"accuracy.py: {shlex.join(argv)} ended with {process.returncode}:\n{errors.read()[-2000:]}")
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    return stdout, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train(case, seed, args):
    """Trains one case and returns what was measured."""
    with tempfile.TemporaryDirectory(prefix="dsr-accuracy-") as folder:
        run = Path(folder) / "run"
        argv = command(case, seed, args, run)
        stdout, peak = run_process(argv, os.environ | ({} if case.method.startswith("dsr") else {"OMP_NUM_THREADS": str(args.threads)}))
        try:
            lines = [json.loads(line) for line in stdout.splitlines()]
            end = lines[-1]
            if case.method.startswith("dsr"):
                epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
                final, best = end["test_accuracy"], end["best_accuracy"]
                facts = {"mean_firing_rate": end["mean_firing_rate"], 
                         **(without_ties(run / "last.safetensors", args) if case.readout == "spikes" else {})} if case.method == "dsr" else {}
            else:
                epochs, final, best = lines[:-1], end["final_test_accuracy"], end["best_test_accuracy"]
                facts = {key: end[key] for key in ("train_images", "test_images", "parameters", "torch", "spikingjelly") if key in end}
        except (ValueError, KeyError, IndexError, OSError) as error:
            sys.exit(f"accuracy.py: {shlex.join(argv)} left no result ({error!r}):\n{stdout[-2000:]}")
    seconds = None if args.untimed else statistics.median(epoch["seconds"] for epoch in epochs)
    return {"final_accuracy": final, "best_accuracy": best, "seconds_per_epoch": seconds, "peak_rss_bytes": peak, **facts}


def without_ties(checkpoint, args):
    """Share of ties among the predictions, and the accuracy where the output neurons' currents tell them apart."""
    argv = [*shlex.split(args.dsr), "eval", "--checkpoint", str(checkpoint), "--ties", "current", "--device", "cpu", "--output", "json"]
    stdout, _ = run_process([*argv, "--threads", str(args.threads)], os.environ)
    result = json.loads(stdout)["results"][0]
    return {"ties": result["tied"], "accuracy_by_current": result["top1"]}


def read_runs(path):
    """The finished runs; a line that was cut off by an end of the script is none."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            runs.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line that is no JSON is left out: {line[:60]}", file=sys.stderr)
    return runs


def key(run):
    return run["case"], run["seed"], json.dumps(run["settings"], sort_keys=True)


def spread(values, scale, digits):
    """Mean ± standard deviation; a single value has no deviation."""
    values = [scale * value for value in values]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def mean_of(results, key, shown):
    """What only some versions of dsr, or none of a method, have measured is shown where all seeds have it."""
    values = [result[key] for result in results if key in result]
    return shown(values) if len(values) == len(results) else "–"


def rows(cases, runs, has_best):
    for case in cases:
        results = [run["result"] for run in runs if run["case"] == case.name]
        if not results:
            continue
        what = [METHODS[case.method], "ReLU" if case.neuron == "relu" else case.neuron.upper()]
        what += [str(value) if value else "–" for value in (case.time_steps, case.readout, case.gradient, case.weight_bits)]
        rates = [result["mean_firing_rate"] for result in results if "mean_firing_rate" in result]
        seconds = [result["seconds_per_epoch"] for result in results if result["seconds_per_epoch"] is not None]
        numbers = [
            str(len(results)),
            spread([result["final_accuracy"] for result in results], 100, 1),
            *([spread([result["best_accuracy"] for result in results], 100, 1)] if has_best else []),
            f"{statistics.median(seconds):.1f}" if seconds else "–",
            f"{max(result['peak_rss_bytes'] for result in results) / 1e9:.2f}",
            f"{100 * statistics.mean(rates):.1f} %" if rates else "–",
            mean_of(results, "ties", lambda values: f"{100 * statistics.mean(values):.1f} %"),
            mean_of(results, "accuracy_by_current", lambda values: spread(values, 100, 1)),
        ]
        yield f"| {' | '.join(what + numbers)} |"


def report(cases, runs, args, date):
    settings = settings_of(args)
    versions = {name: run["result"][name] for run in runs for name in ("torch", "spikingjelly") if name in run["result"]}
    machines = sorted({f"{run['machine']['processor']}, {run['machine']['cores']} cores, {run['machine']['memory_gib']} GiB" for run in runs})
    commits = sorted({run["commit"] for run in runs})
    # The program may be older than the repository that runs it; lines of before 2026-12-01 do not say of which commit it is.
    programs = sorted({run["program"] for run in runs if "program" in run})
    of_programs = f" built of {', '.join(programs)}" if programs else ""
    data = args.data_name or ("the full Fashion-MNIST (60,000 + 10,000 images)" if args.data_dir else "fashion-mnist-3k (2,500 + 500 images)")
    has_best = settings["epochs"] > 1
    columns = ["method", "neuron", "T", "readout", "weight gradient", "weight bits", "seeds", "accuracy", *(["best"] if has_best else []),
               "s per epoch", "peak GB", "firing rate", "ties", "by current"]
    example = command(next((case for case in cases if case.method == "dsr"), cases[0]), 0, args, Path("RUN"))
    shown = shlex.join(example).replace(str(args.venv), "DIR").replace(f"{REPOSITORY}/", "")
    if args.data_dir:
        shown = shown.replace(str(args.data_dir), "PATH")
    return "\n".join([
        f"# Accuracy by method, {date}",
        "",
        f"PreAct-ResNet, widths {settings['widths']}, one block a stage, on {data}; {settings['epochs']} epoch{'s' if settings['epochs'] != 1 else ''} of batch {settings['batch']}.",
        "Accuracy in percent of the test images, mean ± standard deviation over seeds"
        + ("; `best` is the best epoch by test accuracy." if has_best else "."),
        "`ties` are predictions where two or more classes have the largest logit; `accuracy` gives them to the class of lower number,"
        " `by current` to that with the larger mean current (`dsr eval --ties current`).",
        "An epoch includes its evaluation; its seconds are a median of the runs that had the machine to themselves, the memory is the largest of all runs.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *rows(cases, runs, has_best),
        "",
        "## How",
        "",
        f"- {'; '.join(machines)} ({processor_detail()}), {settings['threads']} thread{'s' if settings['threads'] != 1 else ''}.",
        f"- Repository at {', '.join(commits)}; {args.dsr_version}{of_programs}; PyTorch {versions.get('torch', 'not run')},"
        f" SpikingJelly {versions.get('spikingjelly', 'not run')}.",
        f"- All methods: SGD with momentum 0.9 and weight decay 5e-4, lr {settings['lr']} by a cosine that goes down after every {settings['lr_decay']}, {settings['warmup']} warm-up steps,"
        f" crop with padding {settings['crop_pad']}, flip.",
        "- `readout` says what the logits are (docs/method.md): rates of output neurons, or mean currents without neurons behind the last pool.",
        "- DSR has the thresholds of its recipe for T = 4 at every T, with LIF in proportion to the length of a step, Δt = 1 / T;"
        " nothing was tuned for a method, a T or a seed.",
        "- DSR in PyTorch has the same neurons and thresholds with 32-bit weights; automatic differentiation gives it the unrolled gradient.",
        "- The surrogate-gradient network has SpikingJelly's IF or LIF neurons (threshold 1, tau 2, ATan, soft reset) in the place of DSR's,"
        " without those behind the average pool and after the logits; its logits are averaged over time.",
        "- The ANN in PyTorch has no neuron after its logits; that of dsr has a ReLU there.",
        "",
        "The command of one run:",
        "",
        f"    {shown}",
        "",
    ])


def numbers(text):
    return [int(part) for part in text.split(",")]


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="environment of setup.sh")
    parser.add_argument("--data-dir", type=Path, help="folder of the full Fashion-MNIST (four IDX files, plain or gzip)")
    parser.add_argument("--data-name", help="what the table calls the data in --data-dir, if it is no Fashion-MNIST as published")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("-T", "--time-steps", type=numbers, default=[4, 8, 20])
    parser.add_argument("--cases", help="only those whose name contains one of these, such as ann,dsr-lif-T4")
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--lr-decay", choices=("epoch", "step"), default=TRAINING["lr_decay"], help="when the cosine goes down")
    parser.add_argument("--widths", default=NETWORK["widths"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--untimed", action="store_true", help="the machine is busy with other work: leave seconds out of the results")
    parser.add_argument("--dsr", default=str(REPOSITORY / "target" / "release" / "dsr"), help="command of dsr")
    parser.add_argument("--dsr-args", default="", help="more arguments for `dsr train`")
    parser.add_argument("--machine", help="name of the machine in the folder's name")
    parser.add_argument("--out", type=Path, help="folder of the results [docs/results/DATE-MACHINE]")
    args = parser.parse_args()
    cases = list(all_cases(args.time_steps))
    if args.cases:
        cases = [case for case in cases if any(part in case.name for part in args.cases.split(","))]
    if not cases:
        parser.error(f"--cases {args.cases}: there are only {', '.join(case.name for case in all_cases(args.time_steps))}")
    return args, cases


def main():
    args, cases = options()
    date, out = prepare(args)
    machine = {"processor": processor(), "cores": os.cpu_count(), "memory_gib": round(memory_gib())}
    common = {"settings": settings_of(args), "machine": machine, "dsr": args.dsr_version}
    program = json.loads(first_line([args.dsr, "info", "-o", "json"])).get("commit") or "no commit"
    path = out / "accuracy.jsonl"
    finished = {key(run) for run in read_runs(path)}
    # Seed by seed, so that a table of all cases is there early.
    plan = [(case, seed) for seed in range(args.seeds) for case in cases]
    for number, (case, seed) in enumerate(plan, 1):
        run = {"case": case.name, **asdict(case), "seed": seed, **common}
        if key(run) in finished:
            continue
        run["commit"] = first_line(["git", "describe", "--always", "--dirty"])
        if case.method.startswith("dsr"):
            run["program"] = program
        run["load_before"] = os.getloadavg()[0]
        run["result"] = result = train(case, seed, args)
        with open(path, "a", encoding="utf-8") as log:
            print(json.dumps(run), file=log)
        seconds = "" if args.untimed else f", {result['seconds_per_epoch']:.1f} s per epoch"
        print(f"{number}/{len(plan)} {case.name} seed {seed}: {100 * result['final_accuracy']:.1f} %{seconds},"
              f" {result['peak_rss_bytes'] / 1e9:.2f} GB", file=sys.stderr)
    runs = [run for run in read_runs(path) if run["settings"] == common["settings"]]
    steps = sorted({run["time_steps"] for run in runs if run["time_steps"]})
    (out / "accuracy.md").write_text(report(list(all_cases(steps)), runs, args, date), encoding="utf-8")
    print(out / "accuracy.md")


if __name__ == "__main__":
    main()
