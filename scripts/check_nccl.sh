#!/usr/bin/env bash
# Whether NVIDIA's own NCCL has every call that dsr makes, in a version that is taken, and whether two processes that know NCCL_COMM_ID
# have the same id. Needs neither a GPU nor a driver. usage: check_nccl.sh [libnccl.so.2 | version of the wheel nvidia-nccl-cu13]
set -euo pipefail
cd "$(dirname "$0")/.."
library=${1:-}
if [ ! -f "$library" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    # 305 MB in 2.32.3.
    python3 -m pip download --quiet --no-deps --dest "$folder" "nvidia-nccl-cu13${library:+==$library}"
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("nvidia/nccl/lib/libnccl.so.2", sys.argv[2])' "$folder"/*.whl "$folder"
    library=$folder/nvidia/nccl/lib/libnccl.so.2
fi
DSR_TEST_NCCL=$(realpath "$library") cargo nextest run --test nccl_faults --no-capture the_real_library_has_every_call
