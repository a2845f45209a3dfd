#!/usr/bin/env bash
# Installs PyTorch and SpikingJelly into a private environment for the comparison.
#
#   setup.sh DIR           the light installation (below)
#   setup.sh DIR --whole   everything that PyTorch's Linux wheel asks for, about 1.5 GB more to download
#
# The Linux wheel of PyTorch is a CUDA build: its libraries name cuBLAS, cuDNN and others, so the loader wants them even
# when nothing runs on a GPU. The light installation leaves PyTorch's own files as they are, and puts one small stand-in
# library in the place of those: each of its functions ends the process with a message. Code that runs on the CPU calls none.
# The CUDA runtime itself and CUPTI are the real ones: PyTorch calls them while it starts.
set -euo pipefail

usage() { echo "usage: setup.sh DIR [--whole]" >&2; exit 2; }
[ $# -ge 1 ] && [ $# -le 2 ] || usage
dir=$1
whole=${2:-}
[ -z "$whole" ] || [ "$whole" = --whole ] || usage
here=$(cd "$(dirname "$0")" && pwd)

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup.sh: $python is older than 3.11; set PYTHON" >&2; exit 1; }
[ -x "$dir/bin/python" ] || "$python" -m venv "$dir"
pip() { "$dir/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if [ "$whole" = --whole ]; then
    pip install "$(grep '^torch==' "$here/requirements.txt")"
fi
pip install --no-deps -r "$here/requirements.txt"

site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
lib=$site/torch/lib
# The wheel's libraries look for NVIDIA's here, among other folders.
cuda=$site/nvidia/cu13/lib
if [ "$whole" != --whole ]; then
    for tool in cc nm readelf; do
        command -v $tool >/dev/null || { echo "setup.sh: needs $tool (packages gcc and binutils), or use --whole" >&2; exit 1; }
    done
    stand_in=$cuda/libabsent_on_cpu.so
    {
        echo '#include <stdio.h>'
        echo '#include <stdlib.h>'
        echo '#define ABSENT(name) void name(void) { fputs(#name ": not installed (setup.sh without --whole)\n", stderr); abort(); }'
        for so in "$lib"/*.so; do nm -D --undefined-only "$so"; done |
            awk '$1 == "U" { sub(/@.*/, "", $2); print $2 }' |
            grep -E '^(cublas|cudnn|cufft|cusparse|cusolver|cuFile|nccl|nvrtc|nvshmem)' | sort -u | sed 's/.*/ABSENT(&)/'
    } | cc -x c -shared -fPIC -w -o "$stand_in" -
    # One library under the names that are asked for and are not there.
    for so in "$lib"/*.so; do readelf -d "$so"; done | sed -n 's/.*(NEEDED).*\[\(lib\(cu\|nccl\|nv\)[^]]*\)\]/\1/p' | sort -u |
        while read -r name; do
            [ "$name" = libcuda.so.1 ] || [ -e "$cuda/$name" ] || ln -s "$(basename "$stand_in")" "$cuda/$name"
        done
fi

"$dir/bin/python" - <<'PY'
import numpy, spikingjelly, torch, torchvision
from importlib.metadata import version
from spikingjelly.activation_based.model import spiking_resnet
torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), padding=1)
print(f"torch {torch.__version__}, spikingjelly {version('spikingjelly')}, numpy {numpy.__version__}")
PY
du -sh "$dir" | cut -f1
