#!/usr/bin/env bash
# The tests of the CUDA device on the kernels as nvcc has compiled them, run on the host by the driver stand-in (emulator/README.md):
#   sm_80              every test of the device
#   sm_120             for another generation of the compiler, with the last thread ahead: each kernel's own tests, and whole networks
#   early              for sm_90, kernels that may begin before the one before them has ended, under the watch
#   watch              what __restrict__ promises, and global memory that blocks share: each kernel's own tests and `dsr check`
#   races              each kernel's own tests, with the race check of shared memory
# scripts/test_compiled_kernels.sh [PASS…]: these passes; without one, all.
set -euo pipefail
cd "$(dirname "$0")/.."
export REQUIRE_NVCC=1 DSR_STANDIN_ENGINE=ptx

# Files of one kernel each, those of whole networks and of the command line, and the golden cases but for their half on the CPU. Hopper's
# products are left out: their tests bring kernels as compiled, orders of threads and races of their own, in the plain suite as well.
hopper='binary(spike_conv_hopper_cuda) + test(=neurons_by_wgmma_equal_the_cpu)'
whole='binary(network_cuda) + binary(network_slices_cuda) + binary(ann_cuda) + binary(streamed_sets_cuda)'
kernels="(binary(/_cuda$/) - ($whole) - ($hopper))"
everything="((binary(/_cuda$/) + binary(device) + binary(check) + binary(cuda_command) + binary(golden)) - test(=every_golden_case_holds) - ($hopper))"

pass() {
    local name=$1 tests=$2
    shift 2
    echo "== compiled kernels: $name"
    local start=$SECONDS
    env "$@" cargo nextest run --no-fail-fast -E "$tests"
    echo "== compiled kernels: $name took $((SECONDS - start)) s"
}

for name in "${@:-all}"; do
    case $name in all | sm_80) pass sm_80 "$everything" DSR_STANDIN_PTX_ARCH=80 ;; esac
    case $name in all | sm_120) pass sm_120 "$kernels + binary(network_cuda)" DSR_STANDIN_PTX_ARCH=120 DSR_STANDIN_ORDER=lifo ;; esac
    case $name in all | early) pass early 'binary(dependent_launch_cuda)' DSR_STANDIN_PTX_ARCH=90 DSR_STANDIN_WATCH=1 ;; esac
    case $name in all | watch) pass watch "$kernels + binary(check)" DSR_STANDIN_WATCH=1 ;; esac
    case $name in all | races) pass races "$kernels" DSR_STANDIN_RACES=1 ;; esac
    case $name in all | sm_80 | sm_120 | early | watch | races) ;; *) echo "$name is none of sm_80, sm_120, early, watch, races" >&2 && exit 2 ;; esac
done
