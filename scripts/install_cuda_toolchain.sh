#!/usr/bin/env bash
# Installs nvcc into .cuda-toolchain/ of this project, from PyPI wheels that cuda-toolchain.txt pins by hash: about 105 MB to
# download and 280 MB on disk, no root, no GPU. build.rs finds it there. Needs python3 with pip, and gcc for nvcc itself.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=scripts/cuda-toolchain.txt
folder=.cuda-toolchain
stamp=$(sha256sum "$pins" | cut -d' ' -f1)
if [ "$(cat "$folder/stamp" 2>/dev/null || true)" = "$stamp" ]; then
    echo "$folder is up to date"
    exit 0
fi
rm -rf "$folder" "$folder.part"
# All packages in one call: a second call with --target does not merge into the folder that they share.
python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --require-hashes --target "$folder.part" -r "$pins"
"$folder.part/nvidia/cu13/bin/nvcc" --version | tail -1
echo "$stamp" > "$folder.part/stamp"
mv "$folder.part" "$folder"
touch build.rs # so that cargo looks for nvcc again
