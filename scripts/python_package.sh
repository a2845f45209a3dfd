#!/usr/bin/env bash
# Builds the wheel of the Python package, installs it into a fresh environment, and runs its tests and the notebook there.
#
#   scripts/python_package.sh            # wheel, tests, notebook
#   scripts/python_package.sh wheel      # the wheel alone, into target/wheels/
#
# The wheel is for every Linux with glibc 2.17 or newer (manylinux2014): zig, which pip installs, links it for that. Kernels for CUDA
# devices are in it where nvcc is found, as in the program.
# DSR_TORCH_PYTHON names an interpreter that has PyTorch and SpikingJelly (benches/peers/setup.sh makes one): dsr.torch and the modules of
# dsr.nir are then tested, too.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/target/python/build fresh=$root/target/python/fresh wheels=$root/target/wheels
export CARGO_TARGET_DIR=$root/target
[ -x "$build/bin/maturin" ] || { python3 -m venv "$build" && "$build/bin/pip" install -q 'maturin>=1.9,<2' 'ziglang>=0.13'; }
rm -rf "$wheels"
(
    cd python
    export PATH=$build/bin:$PATH
    maturin build --release --locked --zig --compatibility manylinux2014 --out "$wheels" || {
        echo "zig has not made the wheel: it is built for the glibc of this system and newer"
        maturin build --release --locked --out "$wheels"
    }
)
wheel=$(echo "$wheels"/dsr-*.whl)
echo "$wheel"
[ "${1:-}" != wheel ] || exit 0

rm -rf "$fresh"
python3 -m venv "$fresh"
"$fresh/bin/pip" install -q "${wheel}[test,notebook]"
# The program that the tests compare with: one of the same sources, unless the caller names another.
[ -n "${DSR_PROGRAM:-}" ] || cargo build --release --locked
export DSR_PROGRAM=${DSR_PROGRAM:-$root/target/release/dsr}
export DSR_PROGRAM_REQUIRED=1
# From another folder, so that nothing but the wheel is imported.
cd "$root/target/python"
"$fresh/bin/python" -m pytest -q -p no:cacheprovider "$root/python/tests"
if [ -n "${DSR_TORCH_PYTHON:-}" ]; then
    rm -rf with-torch && "$fresh/bin/pip" install -q --target with-torch "${wheel}[nir]" pytest
    PYTHONPATH=$PWD/with-torch "$DSR_TORCH_PYTHON" -m pytest -q -p no:cacheprovider "$root"/python/tests/test_{torch,nir_spikingjelly}.py
else
    echo "dsr.torch is not tested: DSR_TORCH_PYTHON names no interpreter with PyTorch"
fi
