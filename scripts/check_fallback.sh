#!/usr/bin/env bash
# Has older releases of ptxas compile the PTX that older drivers are given, and prints a table. A driver has the same compiler.
#   scripts/check_fallback.sh [RELEASE...]     releases: 11.7, 12.0, 12.4, 12.8 (default: all)
# Takes the PTX of the newest build with nvcc. Compilers come from PyPI wheels that are pinned by hash (17 to 40 MB each), into
# .cuda-toolchain/ptxas-RELEASE. Fails if one of them refuses a file for a target that it knows.
set -euo pipefail
cd "$(dirname "$0")/.."
pin() {
    case $1 in
        11.7) echo "nvidia-cuda-nvcc-cu11==11.7.99 --hash=sha256:34f6dfc39a85a5a6f57dfc5ed145a9f903c3f6520a86e7d24b548894769f5e48" ;;
        12.0) echo "nvidia-cuda-nvcc-cu12==12.0.140 --hash=sha256:958d54df87d0c0b7207e7fed403d6eeda0890a01cc44cfeaccf87c7f90e9b165" ;;
        12.4) echo "nvidia-cuda-nvcc-cu12==12.4.131 --hash=sha256:e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04" ;;
        12.8) echo "nvidia-cuda-nvcc-cu12==12.8.93 --hash=sha256:2d6dc36fb7cb5ac9c0b8825bc13d193c35487a315664007287d0126531238011" ;;
        *) echo "check_fallback.sh: no release $1 (11.7, 12.0, 12.4, 12.8)" >&2; return 1 ;;
    esac
}
newest=$(ls -t "${CARGO_TARGET_DIR:-target}"/*/build/dsr-*/out/neuron.fatbin 2>/dev/null | while read -r image; do
    grep -aq "^built without nvcc" "$image" || { dirname "$image"; break; }
done || true)
[ -n "$newest" ] || { echo "check_fallback.sh: there is no build with nvcc; scripts/install_cuda_toolchain.sh, then cargo build" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
refused=0
printf '| ptxas | targets | files | compiled |\n|---|---|---|---|\n'
for release in ${*:-11.7 12.0 12.4 12.8}; do
    folder=.cuda-toolchain/ptxas-$release
    if [ ! -d "$folder" ]; then
        pin "$release" > "$work/pin"
        python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-cache-dir --no-deps \
            --only-binary :all: --require-hashes --target "$work/wheel" -r "$work/pin"
        mkdir -p .cuda-toolchain && mv "$work/wheel" "$folder"
    fi
    assembler=$folder/nvidia/cuda_nvcc/bin/ptxas
    chmod +x "$assembler"
    targets=$("$assembler" --help | grep -o "'sm_[0-9]*'" | tr -d "'" | sort -u | grep -Ex 'sm_(80|86|89|90|100|120)' | tr '\n' ' ')
    tried=0 compiled=0
    for file in "$newest"/*.ptx; do
        case $file in *.newest.ptx) continue ;; esac
        tr -d '\0' < "$file" > "$work/image.ptx"
        for target in $targets; do
            tried=$((tried + 1))
            if "$assembler" -arch="$target" "$work/image.ptx" -o "$work/image.cubin" 2> "$work/words"; then compiled=$((compiled + 1)); else
                echo "ptxas $release, $target, $(basename "$file"): $(head -1 "$work/words")" >&2
            fi
        done
    done
    printf '| %s | %s| %s | %s |\n' "$release" "$targets" "$tried" "$compiled"
    [ "$tried" -gt 0 ] && [ "$compiled" = "$tried" ] || refused=1
done
exit $refused
