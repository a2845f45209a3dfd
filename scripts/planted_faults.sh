#!/usr/bin/env bash
# Plants one fault at a time in the CUDA path and says which test notices it.
#   scripts/planted_faults.sh [NUMBER...]     of tests/planted/NUMBER.patch; without one those of tests/planted/sample
#   scripts/planted_faults.sh all
#   scripts/planted_faults.sh sound         the sound kernels under the race check, and in the reverse order of threads: no test may fail
# A fault in kernels/ becomes a library that the driver stand-in loads in place of the sound kernel, so nothing else is built again.
# A fault in src/ is built in a tree of its own. The test file that the patch names comes first (that of the kernel's header), then,
# in race mode, the same on kernels that report their accesses, then all other tests of the device (PLANTED_FIRST=1 leaves them out).
# Prints a row a fault. Rows are kept in target/planted/results; a fault that has one is not planted again until its patch changes.
# Ends with 1 if a fault that has an effect was not noticed. Needs g++, git and cargo-nextest; no GPU, no nvcc.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then
    echo "skipped: on this machine the tests may run on a GPU, where no fault is planted"
    exit 0
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
work=$target/planted
mkdir -p "$work/kernels"
printf '[profile.default]\nslow-timeout = { period = "60s", terminate-after = 4 }\nfail-fast = true\n' > "$work/nextest.toml"
# Those of kernel text in the emulator, without warnings.
mapfile -t flags < <(sed -n '/^const COMMON:/,/;$/p; /^const KERNEL:/,/;$/p' emulator/src/compile.rs | grep -o '"[^"]*"' | tr -d '"')
[ ${#flags[@]} -gt 10 ] || { echo "planted_faults.sh: no flags in emulator/src/compile.rs" >&2; exit 1; }
flags+=(-w)

if [ "${1:-}" = all ]; then
    mapfile -t numbers < <(cd tests/planted && printf '%s\n' *.patch | sed 's/\.patch$//')
elif [ $# -gt 0 ]; then
    numbers=("$@")
else
    mapfile -t numbers < <(grep -o '^[0-9]*' tests/planted/sample)
fi
device_tests=(network_kinds_cuda session $(cd tests && printf '%s\n' *_cuda.rs device.rs golden.rs check.rs | sed 's/\.rs$//'))

field() { sed -n "s/^$2: //p;/^diff/q" "tests/planted/$1.patch" | head -1; }

# Runs test files; prints the first test that fails, or "builds" for a build that does. Nothing if all pass.
first_failure() {
    local log=$work/log arguments=()
    for name in "$@"; do arguments+=(--test "$name"); done
    if nice cargo nextest run "${arguments[@]}" --config-file "$work/nextest.toml" --color never > "$log" 2>&1; then return; fi
    grep -m1 -E '^ +(FAIL|TIMEOUT|SIG[A-Z]+|ABORT)' "$log" | sed -E 's/^ +[A-Z]+ \[[^]]*\] (\([^)]*\) )?dsr:://' || echo "it does not build: $(grep -m1 '^error' "$log")"
}

# Compiles the kernel files that a fault reaches, with further flags; prints the libraries as DSR_STANDIN_KERNELS wants them.
compile() {
    local driver list="" source object
    driver=$(ls -t "$target"/debug/build/emulator-*/out/driver/libcuda.so.1 | head -1)
    for source in "$work"/kernels/*.cu; do
        g++ "${flags[@]}" -MM -I emulator/src -I "$work/kernels" "$source" | tr -d '\\' | tr -s ' \n' '\n' | grep -qxF -f "$work/reached" || continue
        object=$work/$(basename "$source" .cu)
        g++ "${flags[@]}" "${@}" -I emulator/src -I "$work/kernels" -c "$source" -o "$object.o"
        g++ -shared "$object.o" "$driver" -Wl,-z,defs -o "$object.so"
        list=$list:$object.so
    done
    echo "${list#:}"
}

# "caught by TEST", "SURVIVED"
plant_in_kernels() {
    local first=$2 libraries failure
    rm -rf "$work/kernels" && cp -r kernels "$work/kernels"
    GIT_CEILING_DIRECTORIES=$work git -C "$work/kernels" apply -p2 "$PWD/tests/planted/$1.patch"
    sed -n 's|^+++ b/kernels/||p' "tests/planted/$1.patch" | sed "s|^|$work/kernels/|" > "$work/reached"
    libraries=$(compile)
    failure=$(DSR_STANDIN_KERNELS=$libraries first_failure "$first")
    [ -z "$failure" ] || { echo "caught by $failure"; return; }
    libraries=$(compile -fsanitize=thread)
    failure=$(DSR_STANDIN_KERNELS=$libraries DSR_STANDIN_THREADS=1 first_failure "$first")
    [ -z "$failure" ] || { echo "caught under the race check by $failure"; return; }
    [ -z "${PLANTED_FIRST:-}" ] || { echo SURVIVED; return; }
    failure=$(DSR_STANDIN_KERNELS=$(compile) first_failure "${device_tests[@]}")
    if [ -n "$failure" ]; then echo "caught elsewhere by $failure"; else echo SURVIVED; fi
}

plant_in_source() {
    local first=$2 patch failure outcome
    patch=$PWD/tests/planted/$1.patch
    [ -d "$work/tree" ] || git worktree add -q --detach "$work/tree" HEAD
    (
        cd "$work/tree"
        git checkout -q --detach "$(git -C "$OLDPWD" rev-parse HEAD)"
        git checkout -q . && git apply "$patch"
        export CARGO_TARGET_DIR=$work/build NVCC=none DSR_COMMIT=planted
        failure=$(first_failure "$first")
        if [ -n "$failure" ]; then
            outcome="caught by $failure"
        else
            [ -n "${PLANTED_FIRST:-}" ] || failure=$(first_failure "${device_tests[@]}")
            outcome=${failure:+caught elsewhere by $failure}
        fi
        git checkout -q .
        echo "${outcome:-SURVIVED}"
    )
}

if [ "${1:-}" = sound ]; then
    unit_tests=($(cd kernels && printf '%s\n' *.cu | sed 's/\.cu$/_cuda/;s/^probe_cuda$/device/'))
    rm -rf "$work/kernels" && cp -r kernels "$work/kernels"
    printf '%s\n' "$work"/kernels/*.cu > "$work/reached"
    failure=$(DSR_STANDIN_KERNELS=$(compile -fsanitize=thread) DSR_STANDIN_THREADS=1 first_failure "${unit_tests[@]}")
    [ -z "$failure" ] || { echo "under the race check: $failure" >&2; cat "$work/log"; exit 1; }
    failure=$(DSR_STANDIN_ORDER=lifo first_failure "${unit_tests[@]}")
    [ -z "$failure" ] || { echo "in the reverse order of threads: $failure" >&2; cat "$work/log"; exit 1; }
    echo "no fault is seen in the sound kernels"
    exit 0
fi

nice cargo nextest run --no-run --test device > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
touch "$work/results"
missed=0
printf '| fault | in | what | outcome | s |\n|---|---|---|---|---|\n'
for number in "${numbers[@]}"; do
    patch=tests/planted/$number.patch
    key="$number $(sha256sum < "$patch" | cut -c1-16)"
    row=$(grep -F "$key" "$work/results" | tail -1 | cut -d' ' -f3- || true)
    if [ -z "$row" ]; then
        begin=$SECONDS
        file=$(sed -n 's|^+++ b/||p' "$patch" | head -1)
        case $file in kernels/*) outcome=$(plant_in_kernels "$number" "$(field "$number" test)") ;; *) outcome=$(plant_in_source "$number" "$(field "$number" test)") ;; esac
        effect=$(field "$number" effect)
        [ "$outcome" != SURVIVED ] || [ -z "$effect" ] || outcome="without effect (${effect#none: })"
        row="| $number | $file | $(field "$number" fault) | $outcome | $((SECONDS - begin)) |"
        echo "$key $row" >> "$work/results"
    fi
    echo "$row"
    case $row in *"| SURVIVED |"*) missed=$((missed + 1)) ;; esac
done
[ "$missed" = 0 ] || { echo "$missed of ${#numbers[@]} faults were not noticed" >&2; exit 1; }
