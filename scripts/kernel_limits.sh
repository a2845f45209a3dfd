#!/usr/bin/env bash
# Writes docs/kernels.md: what each kernel takes of each target, as the compiler reports it. Needs a build with nvcc.
#   scripts/kernel_limits.sh [PROGRAM]     default: cargo run --release
set -euo pipefail
cd "$(dirname "$0")/.."
dsr() { if [ -n "${program:-}" ]; then "$program" "$@"; else cargo run --quiet --release -- "$@"; fi; }
program=${1:-}
built=$(dsr info --device cpu | sed -n 's/^CUDA kernels *//p')
case $built in *nvcc\ [0-9]*) ;; *) echo "kernel_limits.sh: this program was built without nvcc" >&2; exit 1 ;; esac
{
    cat <<TEXT
# What each kernel takes
Written by \`scripts/kernel_limits.sh\`; \`tests/kernels.rs\` holds it against every build by the same compiler.
Kernels: $built.
\`\`\`
TEXT
    dsr info --kernels
    echo '```'
} > docs/kernels.md.new
mv docs/kernels.md.new docs/kernels.md
