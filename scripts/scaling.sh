#!/usr/bin/env bash
# How well two processes of one core each share a training step, beside one process of one core; pairs in turns, as Markdown on stdout.
# Usage: scripts/scaling.sh [DSR] [PAIRS] [BATCH] [T]   (a release build with --features mpi, two idle cores)
# The time of a step is that of 7 steps less that of one, over 6: start, data and checkpoint are in both, and no epoch ends.
set -euo pipefail
cd "$(dirname "$0")/.."
dsr=$(realpath "${1:-target/release/dsr}") pairs=${2:-5} batch=${3:-64} steps=${4:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_MCA_btl_vader_single_copy_mechanism=none

seconds() { # number of ranks, steps: wall time of a run that stops after so many
    rm -rf "$work/run"
    local begin end
    begin=$(date +%s%N)
    mpirun --allow-run-as-root --bind-to core --map-by core --quiet -n "$1" "$dsr" train -d photo-patches-10 --model preact-resnet18 \
        --readout spikes -T "$steps" -b "$batch" --slices 2 --threads 1 --device cpu --out "$work/run" --stop-after-steps "$2" -q \
        >"$work/log" 2>&1 || true # stopped is no success
    end=$(date +%s%N)
    # A rank that died leaves a checkpoint, too; only a run that has come so far says so.
    grep -q "stopped in epoch" "$work/log" || { cat "$work/log" >&2; exit 1; }
    echo $((end - begin))
}

echo "PreAct-ResNet-18, batch $batch, T = $steps, 2 slices; load before: $(cut -d' ' -f1 /proc/loadavg)"
echo
echo "| pair | 1 process, s per step | 2 processes, s per step | efficiency |"
echo "|--:|--:|--:|--:|"
for pair in $(seq "$pairs"); do
    one=$(($(seconds 1 7) - $(seconds 1 1)))
    two=$(($(seconds 2 7) - $(seconds 2 1)))
    awk -v pair="$pair" -v one="$one" -v two="$two" 'BEGIN { printf "| %d | %.3f | %.3f | %.2f |\n", pair, one / 6e9, two / 6e9, one / (2 * two) }'
done
