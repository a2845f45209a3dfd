#!/usr/bin/env bash
# Writes docs/kernels.md: what each kernel takes of each target, as the compiler reports it. Needs a build with nvcc.
#   scripts/kernel_limits.sh [PROGRAM]     default: cargo run --release
set -euo pipefail
cd "$(dirname "$0")/.."
dsr() { if [ -n "${program:-}" ]; then "$program" "$@"; else cargo run --quiet --release -- "$@"; fi; }
program=${1:-}
described=$(dsr info --device cpu -o json)
nvcc=$(grep -o '"nvcc":"[^"]*"' <<< "$described" | cut -d'"' -f4 || true)
targets=$(grep -o '"targets":\[[^]]*\]' <<< "$described" | grep -o 'sm_[0-9a-z]*' | paste -sd, | sed 's/,/, /g' || true)
[ -n "$nvcc" ] || { echo "kernel_limits.sh: this program was built without nvcc" >&2; exit 1; }
{
    cat <<TEXT
# What each kernel takes
Written by \`scripts/kernel_limits.sh\`; \`tests/kernels.rs\` holds it against every build by the same compiler.
Kernels by nvcc $nvcc for $targets.
What share of the tensor cores' limit these counts leave: [predict.md](predict.md#share-of-the-limit), and with wgmma [there](predict.md#products-of-warpgroups).
\`\`\`
TEXT
    dsr info --kernels
    echo '```'
} > docs/kernels.md.new
mv docs/kernels.md.new docs/kernels.md
