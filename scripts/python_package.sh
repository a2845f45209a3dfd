#!/usr/bin/env bash
# Builds the wheel of the Python package, installs it into a fresh environment, and runs its tests and the notebook there.
#
#   scripts/python_package.sh            # wheel, tests, notebook
#   scripts/python_package.sh wheel      # the wheel alone, into target/wheels/
#
# The wheel is for every Linux with glibc 2.17 or newer (manylinux2014): zig, which pip installs, links it for that. Where zig cannot be
# installed, or fails, the wheel is for the glibc of this system and newer, and the last line says so; with CI set, a zig that fails is an
# error. Kernels for CUDA devices are in it where nvcc is found, as in the program.
# DSR_TORCH_PYTHON names an interpreter that has PyTorch and SpikingJelly (benches/peers/setup.sh makes one): dsr.torch and the modules of
# dsr.nir are then tested, too.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/target/python/build fresh=$root/target/python/fresh wheels=$root/target/wheels
export CARGO_TARGET_DIR=$root/target
[ -x "$build/bin/maturin" ] || { python3 -m venv "$build" && "$build/bin/pip" install -q 'maturin>=1.9,<2'; }
has_zig() { "$build/bin/python" -c 'import ziglang' 2>/dev/null; }
has_zig || "$build/bin/pip" install -q 'ziglang>=0.13' || true
make_wheel() { (cd python && PATH=$build/bin:$PATH maturin build --release --locked --out "$wheels" "$@"); }
rm -rf "$wheels"
if ! has_zig; then
    serves="the glibc of this system and newer: ziglang could not be installed"
    make_wheel
elif make_wheel --zig --compatibility manylinux2014; then
    serves="glibc 2.17 and newer (manylinux2014, linked by zig)"
elif [ -n "${CI:-}" ]; then
    echo "zig has not made the wheel" >&2
    exit 1
else
    serves="the glibc of this system and newer: zig has not made it"
    make_wheel
fi
wheel=$(echo "$wheels"/dsr-*.whl)
last_line="$wheel is for $serves"
[ "${1:-}" != wheel ] || { echo "$last_line" && exit 0; }

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
echo "$last_line"
