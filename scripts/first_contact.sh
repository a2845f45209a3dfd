#!/usr/bin/env bash
# Everything that a first run on a GPU should show, in one command, into one folder that can be committed or attached to an issue.
#   scripts/first_contact.sh [--device cuda:0] [--out FOLDER] [--minutes 30] [--binary PATH] [--small]
# Parts, in the order of their worth: machine, check, latency, throughput, training against the CPU, latency with early launches where the
# card has them (DSR_DEPENDENT_LAUNCH), check of the PTX that older drivers get, kernels, compute-sanitizer, the project's device tests,
# PyTorch and SpikingJelly beside it. What is not there
# (nvidia-smi, compute-sanitizer, cargo, torch) is left out and named. A part that fails stops nothing. The command given again
# goes on where it was: parts that passed with the same program on the same card are not repeated. summary.md is written after
# each part. --small is for trying this script: small shapes, few repeats. Exit code: 0, or 1 if a part failed or hung or none passed, 2 without a GPU.
set -uo pipefail
device=cuda:0 out='' minutes=30 binary='' small=''
while [ $# -gt 0 ]; do
    case $1 in
        --device | --out | --minutes | --binary)
            [ -n "${2:-}" ] || { echo "first_contact.sh: $1 needs a value" >&2; exit 2; } ;;
    esac
    case $1 in
        --device) device=$2; shift 2 ;;
        --out) out=$(realpath -m -- "$2"); shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --binary) binary=$(realpath -m -- "$2"); shift 2 ;;
        --small) small=yes; shift ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "first_contact.sh: unknown argument $1 (--help says which there are)" >&2; exit 2 ;;
    esac
done
[[ $minutes =~ ^[1-9][0-9]{0,4}$ ]] || { echo "first_contact.sh: --minutes $minutes is no whole number from 1 to 99999" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit 1
say() { printf '%s\n' "$*" >&2; }

if [ -z "$binary" ]; then
    say "building the program (minutes the first time)"
    cargo build --release || { say "first_contact.sh: the build failed; --binary PATH takes one that is there"; exit 1; }
    binary=${CARGO_TARGET_DIR:-target}/release/dsr
fi
binary=$(realpath "$binary")
[ -x "$binary" ] || { say "first_contact.sh: $binary is no program; --binary names one"; exit 1; }
errors=$(mktemp)
if ! described=$("$binary" info --device "$device" -o json 2> "$errors"); then
    grep '^error' "$errors" >&2 || cat "$errors" >&2
    rm -f "$errors"
    exit 2
fi
rm -f "$errors"
# The value of a key in a line of JSON; enough for what `dsr info` prints.
value() { printf '%s' "$described" | grep -o "\"$1\":\"[^\"]*\"" | head -"${2:-1}" | tail -1 | cut -d'"' -f4; }
index=$(printf '%s' "$described" | grep -o '"opened":[0-9]*' | cut -d: -f2)
[ -n "$index" ] || { say "first_contact.sh: --device $device is no GPU by name; give cuda or cuda:N"; exit 2; }
device=cuda:$index
card=$(printf '%s' "$described" | sed 's/.*"cuda"://' | grep -o '"name":"[^"]*"' | sed -n "$((index + 1))p" | cut -d'"' -f4)
slug=$(printf '%s' "${card:-gpu}" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
out=${out:-docs/results/$(date +%F)-$slug}
mkdir -p "$out" || exit 1
out=$(realpath "$out")
touch "$out/parts.tsv" 2> /dev/null || { say "first_contact.sh: $out cannot be written; --out names another folder"; exit 1; }
if command -v flock > /dev/null; then
    exec 9> "$out/lock"
    flock -n 9 || { say "first_contact.sh: another one is at work in $out"; exit 1; }
fi
# What passed counts for this very program on this card.
key="$(cksum < "$binary") $(value version) $(value commit) $card $(value driver) ${small:+small}"
if [ "$(cat "$out/key" 2>/dev/null)" != "$key" ]; then
    for part in machine check latency throughput training early check-ptx kernels sanitizer tests peers; do rm -f "$out/$part.txt"; done
    : > "$out/parts.tsv"
    printf '%s' "$key" > "$out/key"
fi
running=''
trap '[ -z "$running" ] || kill "$running" 2> /dev/null; say "stopped; the same command goes on"; exit 130' INT TERM HUP
begin=$SECONDS
say "$card, driver for CUDA $(value driver); results go to $out"

summary() {
    {
        echo "# First contact: $card"
        echo "\`scripts/first_contact.sh${small:+ --small}\` of $(date -u +%F), dsr $(value version), commit $(value commit), kernels by nvcc $(value nvcc), driver for CUDA $(value driver)."
        [ -z "$small" ] || echo "Small shapes: nothing here is a measurement."
        printf '\n| part | result | s | output |\n|---|---|---|---|\n'
        while IFS=$'\t' read -r part result seconds; do
            if [ -e "$out/$part.txt" ]; then echo "| $part | $result | $seconds | [$part.txt]($part.txt) |"; else echo "| $part | $result | | |"; fi
        done < "$out/parts.tsv"
        for part in check latency throughput training early kernels; do
            grep -q "^$part	passed" "$out/parts.tsv" || continue
            printf '\n## %s\n' "$part"
            if [ $part = check ]; then printf '```\n%s\n```\n' "$(tail -3 "$out/check.txt")"; else cat "$out/$part.txt"; fi
        done
    } > "$out/summary.md"
}

# part NAME SECONDS COMMAND...: runs it into NAME.txt, with its errors, unless it passed before or the time is over.
part() {
    local part=$1 limit=$2 result start=$SECONDS left
    shift 2
    if grep -q "^$part	passed" "$out/parts.tsv"; then say "$part: passed before"; return; fi
    left=$((minutes * 60 - (SECONDS - begin)))
    if [ "$left" -lt 20 ]; then record "$part" "left out: no time" 0; return; fi
    [ "$limit" -le "$left" ] || limit=$left
    say "$part … (at most $limit s)"
    timeout --kill-after=10 "$limit" "$@" > "$out/$part.txt" 2> "$out/$part.errors" 9>&- &
    running=$!
    wait "$running"
    case $? in 0) result=passed ;; 124 | 137) result="stopped after $limit s" ;; *) result=FAILED ;; esac
    if [ "$result" = FAILED ]; then say "$(tail -3 "$out/$part.errors")"; cat "$out/$part.errors" >> "$out/$part.txt"; fi
    running=''
    rm -f "$out/$part.errors"
    record "$part" "$result" $((SECONDS - start))
}
record() {
    grep -v "^$1	" "$out/parts.tsv" > "$out/parts.new"
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >> "$out/parts.new"
    mv "$out/parts.new" "$out/parts.tsv"
    say "$1: $2, $3 s"
    summary
}

machine() {
    "$binary" info --device "$device" && "$binary" info --kernels
    if command -v nvidia-smi > /dev/null; then nvidia-smi && nvidia-smi -q -d CLOCK,POWER; else echo "no nvidia-smi"; fi
}
# The same bytes twice on the device; its checkpoint has the same table on the CPU; the CPU's own run beside it.
training() {
    local work set epochs=2
    [ -z "$small" ] || epochs=1
    work=$(mktemp -d) && cd "$work" || return 1
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    set=${small:+"-d digits-8x8 --widths 4 --blocks 1 -T 2 -b 256"}
    # shellcheck disable=SC2086
    for run in one two; do "$binary" train $set --epochs $epochs --seed 1 --quiet --device "$device" --out $run > $run.txt || return 1; done
    # shellcheck disable=SC2086
    "$binary" train $set --epochs $epochs --seed 1 --quiet --device cpu --out cpu > cpu.txt || return 1
    for on in "$device" cpu; do "$binary" eval --checkpoint one/last.safetensors --device "$on" --predictions "$on.csv" -o csv > "$on.table" || return 1; done
    cmp one/last.safetensors two/last.safetensors || { echo "two runs differ"; return 1; }
    cmp "$device.csv" cpu.csv || { echo "logits differ between $device and the CPU"; return 1; }
    printf 'Two runs on %s have the same checkpoint bytes, and all logits of its test split are those of the CPU.\n\n' "$device"
    printf '| epoch | %s | cpu |\n|---|---|---|\n' "$device"
    paste -d'|' <(accuracies one) <(accuracies cpu) | awk -F'|' '{ printf "| %d | %s | %s |\n", NR, $1, $2 }'
}
accuracies() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "test_accuracy") column = i; next } { print $column }' "$1/metrics.csv"; }
sanitizer() {
    for tool in memcheck racecheck synccheck initcheck; do
        echo "== $tool"
        compute-sanitizer --tool $tool --error-exitcode 9 "$binary" check --device "$device" --size small || return 1
    done
}
peers() {
    local python=${DSR_PYTHON:-python3} mode
    for mode in train infer; do
        "$python" benches/peers/dsr_torch.py --device cuda --mode $mode -b 32 -T 20 --vth 2 --warmup 5 --repeats 20 || return 1
        if "$python" -c 'import spikingjelly' 2>/dev/null; then
            "$python" benches/peers/spikingjelly_step.py --device cuda --mode $mode -b 32 -T 20 --warmup 5 --repeats 20 || return 1
        fi
    done
}
# Functions as the command of `timeout`.
export -f machine training accuracies sanitizer peers
export binary device small
shell() { part "$1" "$2" bash -c "$3"; }

batches=32,128 steps=5,20 bits=16,8 network=''
if [ -n "$small" ]; then batches=2 steps=2 bits=16 network='--widths 4 --blocks 1 --image 8x8x1'; fi
shell machine 60 machine
# shellcheck disable=SC2086
{
    part check 240 "$binary" check --device "$device" ${small:+--size small}
    part latency 120 "$binary" bench latency --device "$device" -b "1,$batches" -T $steps --vth 2 $network ${small:+--seconds 0.1 --warmup 0 --repeats 2} -o md
    part throughput 180 "$binary" bench throughput --device "$device" -b $batches -T $steps --weight-bits $bits --vth 2 $network ${small:+--warmup 0 --repeats 1} -o md
}
shell training 300 training
if DSR_DEPENDENT_LAUNCH=1 "$binary" info --device "$device" > /dev/null 2>&1; then
    # shellcheck disable=SC2086
    part early 120 env DSR_DEPENDENT_LAUNCH=1 "$binary" bench latency --device "$device" -b 1 -T $steps --vth 2 $network ${small:+--seconds 0.1 --warmup 0 --repeats 2} -o md
else
    record early "left out: needs compute capability 9.0 and code for it" 0
fi
part check-ptx 240 env DSR_KERNELS=ptx "$binary" check --device "$device" --size small
# shellcheck disable=SC2086
part kernels 180 "$binary" bench kernels --device "$device" -b "${batches%,*}" -T "${steps#*,}" --weight-bits $bits $network -o md
if command -v compute-sanitizer > /dev/null; then shell sanitizer 600 sanitizer; else record sanitizer "left out: no compute-sanitizer" 0; fi
if [ -z "$small" ] && command -v cargo-nextest > /dev/null && [ -e /dev/nvidiactl ]; then
    part tests 1200 cargo nextest run -E 'binary(/_cuda$/) + binary(device) + binary(golden) + binary(check)'
else
    record tests "left out: $([ -n "$small" ] && echo small shapes || echo no cargo-nextest, or no GPU of the system)" 0
fi
if [ -z "$small" ] && "${DSR_PYTHON:-python3}" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    shell peers 300 peers
else
    record peers "left out: no PyTorch with CUDA" 0
fi
summary
say "$(grep -c '	passed' "$out/parts.tsv") of $(wc -l < "$out/parts.tsv") parts passed; $out/summary.md"
# A hang is a failure, too: a deadlocked kernel is what a new card may show first.
grep -q '	passed' "$out/parts.tsv" && ! grep -q -e '	FAILED' -e '	stopped after' "$out/parts.tsv"
