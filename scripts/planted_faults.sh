#!/usr/bin/env bash
# Plants one fault at a time in the CUDA path and says which test notices it.
#   scripts/planted_faults.sh [NUMBER...]     of tests/planted/NUMBER.patch; without one those of tests/planted/sample
#   scripts/planted_faults.sh all
#   scripts/planted_faults.sh check [NUMBER...]   whether `dsr check --device cuda` notices them; without a number all of kernels/
#   scripts/planted_faults.sh sound         the sound kernels under the race check, and in the reverse order of threads: no test may fail
# A fault in kernels/ becomes a library that the driver stand-in loads in place of the sound kernel, so nothing else is built again.
# A fault in src/ is built in a tree of its own. The test file that the patch names comes first (that of the kernel's header), then,
# in race mode, the same on kernels that report their accesses, then all other tests of the device (PLANTED_FIRST=1 leaves them out).
# Prints a row a fault. Rows are kept in target/planted/results; a fault that has one is not planted again until its patch, a kernel, a source or a
# test changes.
# Ends with 1 if a fault that has an effect was not noticed. Needs g++, git and cargo-nextest; no GPU, no nvcc.
set -euo pipefail
shopt -s inherit_errexit # a patch that no longer applies must not pass for one that survived
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

mode=tests
[ "${1:-}" != check ] || { mode=check; shift; }
if [ $mode = check ] && [ $# = 0 ]; then
    mapfile -t numbers < <(cd tests/planted && grep -l '^+++ b/kernels/' *.patch | sed 's/\.patch$//')
elif [ "${1:-}" = all ]; then
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
        g++ "${flags[@]}" -MM -I emulator/src -I "$work/kernels" "$source" | tr -d '\\' | tr -s ' \n' '\n' | grep -xF -f "$work/reached" > /dev/null || continue
        object=$work/$(basename "$source" .cu)
        g++ "${flags[@]}" "${@}" -I emulator/src -I "$work/kernels" -c "$source" -o "$object.o"
        g++ -shared "$object.o" "$driver" -Wl,-z,defs -o "$object.so"
        list=$list:$object.so
    done
    echo "${list#:}"
}

# A copy of the kernels with the fault in it.
change_kernels() {
    rm -rf "$work/kernels" && cp -r kernels "$work/kernels"
    GIT_CEILING_DIRECTORIES=$work git -C "$work/kernels" apply -p2 "$PWD/tests/planted/$1.patch"
    sed -n 's|^+++ b/kernels/||p' "tests/planted/$1.patch" | sed "s|^|$work/kernels/|" > "$work/reached"
}

# The op and the shape at which `dsr check` stops; nothing if all checks pass. It ends at its first fault by itself.
first_fault() {
    local driver code=0
    driver=$(dirname "$(ls -t "$target"/debug/build/emulator-*/out/driver/libcuda.so.1 | head -1)")
    LD_LIBRARY_PATH=$driver nice timeout 900 "$target/debug/dsr" check --device cuda "$@" > "$work/check-log" 2> "$work/check-errors" || code=$?
    case $code in
        0) ;;
        1) sed -n 's/^error: //p' "$work/check-errors" | head -1 | cut -d: -f1 ;;
        *) echo "the end of the program, code $code" ;;
    esac
}

# "FAULT in OP, SHAPE", "under the race check: OP, SHAPE", "SURVIVED". The small checks come first: they are a part of the full ones and
# take a tenth of their time. Then the same on kernels that report their accesses, for a missing barrier or atomic shows by chance only.
# PLANTED_FIRST=1 leaves out what comes behind the first.
check_in_kernels() {
    local libraries fault
    change_kernels "$1"
    libraries=$(compile)
    fault=$(DSR_STANDIN_KERNELS=$libraries first_fault --size small)
    [ -z "$fault" ] || { echo "FAULT in $fault"; return; }
    [ -z "${PLANTED_FIRST:-}" ] || { echo SURVIVED; return; }
    libraries=$(compile -fsanitize=thread)
    fault=$(DSR_STANDIN_KERNELS=$libraries DSR_STANDIN_THREADS=1 first_fault --size small)
    [ -z "$fault" ] || { echo "under the race check: $fault"; return; }
    fault=$(DSR_STANDIN_KERNELS=$(compile) first_fault)
    echo "${fault:+FAULT in }${fault:-SURVIVED}"
}

# "caught by TEST", "SURVIVED"
plant_in_kernels() {
    local first=$2 libraries failure
    change_kernels "$1"
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

# Puts the last commit and the fault into a tree of its own, which later commands run in.
# Its target folder begins as a copy of what the project depends on: that takes minutes to build, and no fault changes it.
change_source() {
    local patch=$PWD/tests/planted/$1.patch commit
    commit=$(git rev-parse HEAD)
    git worktree prune
    [ -d "$work/tree" ] || git worktree add -q --detach "$work/tree" "$commit"
    if [ ! -d "$work/build" ]; then
        mkdir -p "$work/build/debug"
        (cd "$target/debug" && tar -H posix -cf - --exclude='*dsr-*' --exclude='*emulator-*' .fingerprint build deps/*.d deps/lib*) | tar -C "$work/build/debug" -xf -
    fi
    cd "$work/tree"
    git checkout -q . && git checkout -q --detach "$commit" && git apply "$patch"
    target=$work/build
    export CARGO_TARGET_DIR=$target NVCC=none DSR_COMMIT=planted
}

# "FAULT in OP, SHAPE", "SURVIVED"
check_in_source() (
    change_source "$1"
    nice cargo nextest run --no-run --test check > "$work/log" 2>&1 || { echo "it does not build: $(grep -m1 '^error' "$work/log")"; exit; }
    fault=$(first_fault --size small)
    [ -n "$fault" ] || [ -n "${PLANTED_FIRST:-}" ] || fault=$(first_fault)
    echo "${fault:+FAULT in }${fault:-SURVIVED}"
)

# "caught by TEST", "SURVIVED"
plant_in_source() (
    change_source "$1"
    failure=$(first_failure "$2")
    [ -z "$failure" ] || { echo "caught by $failure"; exit; }
    [ -n "${PLANTED_FIRST:-}" ] || failure=$(first_failure "${device_tests[@]}")
    echo "${failure:+caught elsewhere by }${failure:-SURVIVED}"
)

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

case $mode in
    check) built=check results=$work/check-results verb=check ;;
    tests) built=device results=$work/results verb=plant ;;
esac
nice cargo nextest run --no-run --test $built > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
touch "$results"
# What a fault was planted in: another kernel or test may notice more, or less.
tree=$(git ls-files -z kernels src emulator tests Cargo.lock | xargs -0 sha256sum | sha256sum | cut -c1-16)
declare -A sum=([noticed]=0 [races]=0 [missed]=0 [equal]=0 [broken]=0)
printf '| fault | in | what | outcome | s |\n|---|---|---|---|---|\n'
for number in "${numbers[@]}"; do
    patch=tests/planted/$number.patch
    key="$number $tree$(sha256sum < "$patch" | cut -c1-16)"
    row=$(grep -F "$key" "$results" | tail -1 | cut -d' ' -f3- || true)
    # More is checked from time to time; what was not noticed may be now.
    case $mode$row in check*"| SURVIVED |"*) row="" ;; esac
    if [ -z "$row" ]; then
        begin=$SECONDS
        file=$(sed -n 's|^+++ b/||p' "$patch" | head -1)
        case $file in kernels/*) where=kernels ;; *) where=source ;; esac
        outcome=$(${verb}_in_$where "$number" "$(field "$number" test)")
        effect=$(field "$number" effect)
        [ "$outcome" != SURVIVED ] || [ -z "$effect" ] || outcome="without effect (${effect#none: })"
        row="| $number | $file | $(field "$number" fault) | $outcome | $((SECONDS - begin)) |"
        # What does not build, or ran out of time, says nothing of the fault: it is tried again.
        case $outcome in *"does not build"*|*"code 124"*) ;; *) echo "$key $row" >> "$results" ;; esac
    fi
    echo "$row"
    case $row in
        *"does not build"*|*"code 124"*) kind=broken ;;
        *"| SURVIVED |"*) kind=missed ;;
        *"| without effect"*) kind=equal ;;
        *"| under the race check"*) kind=races ;;
        *) kind=noticed ;;
    esac
    sum[$kind]=$((sum[$kind] + 1))
done
echo "${#numbers[@]} faults: ${sum[noticed]} noticed, ${sum[races]} only under the race check, ${sum[equal]} without effect, ${sum[missed]} not noticed, ${sum[broken]} not planted: they do not build or ran out of time" >&2
[ "${sum[missed]}${sum[broken]}" = 00 ]
