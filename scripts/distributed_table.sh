#!/usr/bin/env bash
# The tables of docs/distributed.md: which checkpoints are byte-equal on several processes, as Markdown on stdout.
# Usage: scripts/distributed_table.sh [DSR]           on 1, 2, 3, 4 and 8 processes (a dsr that was built with --features mpi)
#        scripts/distributed_table.sh devices [DSR]   on 1, 2 and 4 CUDA devices: those of the stand-ins of driver and NCCL, which the
#                                                     tests have built, or where DSR_REAL=1 is set those of the machine
# On processes it needs perl, which writes two small sets: recordings of an event camera, and photos in folders of classes.
set -euo pipefail
devices=""
[ "${1:-}" != devices ] || { devices=1; shift; }
cd "$(dirname "$0")/.."
dsr=$(realpath "${1:-target/release/dsr}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_MCA_btl_vader_single_copy_mechanism=none

on_ranks() { # number of ranks, run folder, flags
    local ranks=$1 run=$2
    shift 2
    mpirun --allow-run-as-root --oversubscribe --bind-to none --quiet -n "$ranks" "$dsr" train "$@" --device cpu --out "$run" --threads 1 -q >/dev/null 2>"$run.log"
}

on_devices() { # number of devices, run folder, flags
    local count=$1 run=$2
    shift 2
    "$dsr" train "$@" --devices "cuda:0-$((count - 1))" --out "$run" --threads 1 -q >/dev/null 2>"$run.log"
}

sums() { sha256sum "$work/$1"/{last,best}.safetensors | cut -c1-12 | paste -sd' '; }

# Two sets that are read from disk. Events are random points; a photo is a colour with noise.
write_sets() {
    perl - "$work" <<'PERL'
use strict;
my ($root) = @ARGV;
my $state = 1;
sub draw { $state = ($state * 1103515245 + 12345) % 2147483648; return int($state / 65536) % $_[0] }
sub put { my ($path, $bytes) = @_; open(my $file, ">:raw", $path) or die "$path: $!"; print $file $bytes; close($file) or die "$path: $!" }
mkdir "$root/$_" or die "$_: $!" for qw(events photos photos/train photos/val);
for my $class (qw(airplane automobile bird cat deer dog frog horse ship truck)) {
    mkdir "$root/events/$class" or die $!;
    for my $number (0, 1, 900) {
        my $events = join "", map { pack("NN", draw(128) << 8 | draw(128) << 1 | draw(2), 1000 + 10 * $_) } 1 .. 600;
        put("$root/events/$class/cifar10_${class}_$number.aedat", "#!AER-DAT2.0\r\n" . $events);
    }
}
for my $class (0 .. 2) {
    for my $part ([train => 7], [val => 3]) {
        my $folder = "$root/photos/$part->[0]/n0$class";
        mkdir $folder or die $!;
        for my $index (1 .. $part->[1]) {
            my ($width, $height) = (40 + 4 * $index, 36 + 3 * $index);
            my $pixels = join "", map { my $noise = draw(64); pack("C3", map { $noise + ($_ == $class ? 150 : 0) } 0 .. 2) } 1 .. $width * $height;
            put("$folder/$index.ppm", "P6\n$width $height\n255\n$pixels");
        }
    }
}
PERL
}

digits="-d digits-8x8 --widths 4,8 --blocks 1,1 -T 4 --epochs 2 -b 80 --slices 8 --warmup 0 --threshold-init auto"
tiny=$digits
if [ -n "$devices" ]; then
    on_ranks() { on_devices "$@"; }
    counts="1 2 4"
    # Few and large steps, since the stand-ins are slow: three, the last of them of 237 images.
    tiny="-d digits-8x8 --widths 4,8 --blocks 1,1 -T 2 --epochs 1 -b 600 --slices 4 --warmup 0 --threshold-init auto"
    if [ "${DSR_REAL:-}" != 1 ]; then
        driver=$(dirname "$(ls -t "${CARGO_TARGET_DIR:-target}"/debug/build/emulator-*/out/driver/libcuda.so.1 | head -1)")
        export LD_LIBRARY_PATH=$driver:$(dirname "$driver")/nccl DSR_STANDIN_DEVICES=4 DSR_STANDIN_THREADS=1
    fi
    echo "| run | last, best on one device | the same bytes on |"
else
    counts="1 2 3 4 8"
    echo "| run | last, best on one process | the same bytes on |"
fi
echo "|---|---|---|"
row() { # name, flags
    local name=$1 same="" ranks
    shift
    rm -rf "$work"/run*
    for ranks in $counts; do
        on_ranks "$ranks" "$work/run$ranks" $tiny "$@" || { echo "$name on $ranks processes:" >&2; cat "$work/run$ranks.log" >&2; exit 1; }
        [ "$ranks" = 1 ] || { [ "$(sums "run$ranks")" = "$(sums run1)" ] && same+="$ranks, "; } || true
    done
    echo "| $name | $(sums run1) | ${same%, } |"
}
if [ -n "$devices" ]; then
    row "IF"
    row "LIF" --neuron lif
    row "IF, unrolled gradients" --weight-gradient unrolled
    row "LIF, unrolled gradients, 8-bit weights" --neuron lif --weight-gradient unrolled --weight-bits 8
    row "IF, 8-bit weights, dropout" --weight-bits 8 --dropout 0.1
    row "LIF, Adam, bounded gradients, moving average" --neuron lif --optimizer adam --lr 0.002 --clip-norm 1 --ema 0.9
    row "IF, readout by current, crop and flip, validation split" --readout current --crop-pad 1 --flip --val-share 0.1
    row "an ANN, dropout" --neuron relu -T 1 --threshold-init fixed --dropout 0.1
    write_sets
    digits=$tiny tiny="--epochs 1 -b 10 --slices 4 --warmup 0 --threshold-init auto --crop-pad 0 -T 2"
    row "LIF, VGG-11, event frames, dropout" -d dvs-cifar10 --data-dir "$work/events" --model vgg11 --event-size 32 --neuron lif --dropout 0.1
    row "IF, ImageNet's ResNet-18 with its inner norms, unrolled gradients" -d imagenet --data-dir "$work/photos" \
        --model imagenet-resnet18 --image-size 32 --image-resize 36 --weight-gradient unrolled
    tiny=$digits
    # Devices that change in mid-run: 4, then 2, then 1.
    rm -rf "$work"/run*
    on_ranks 1 "$work/run1" $tiny --epochs 2
    on_ranks 4 "$work/run" $tiny --epochs 2 --stop-after-steps 2 || true
    on_ranks 2 "$work/run" --resume auto --stop-after-steps 2 || true
    on_ranks 1 "$work/run" --resume auto
    [ "$(sums run)" = "$(sums run1)" ] && same="4, then 2, then 1" || same=""
    echo "| IF, two epochs, stopped twice | $(sums run1) | $same |"
    exit
fi
row "IF"
row "LIF" --neuron lif
row "IF, unrolled gradients" --weight-gradient unrolled
row "LIF, unrolled gradients" --neuron lif --weight-gradient unrolled
row "IF, 8-bit weights" --weight-bits 8
row "LIF, 8-bit weights, dropout" --neuron lif --weight-bits 8 --dropout 0.1
row "IF, Adam" --optimizer adam --lr 0.002
row "IF, AdamW, bounded gradients, moving average" --optimizer adamw --lr 0.002 --clip-norm 1 --ema 0.9
row "IF, readout by spikes" --readout spikes
row "an ANN" --neuron relu -T 1 --threshold-init fixed
row "IF, crop and flip, validation split, 50 images in slices of 7" --crop-pad 1 --flip --val-share 0.1 -b 50 --slices 8

write_sets
tiny="--epochs 1 -b 8 --slices 8 --warmup 0 --threshold-init auto --crop-pad 0"
row "IF, VGG-11, event frames of 4 steps" -d dvs-cifar10 --data-dir "$work/events" --model vgg11 --event-size 32 -T 4
row "LIF, VGG-11, the same, unrolled gradients, dropout" -d dvs-cifar10 --data-dir "$work/events" --model vgg11 --event-size 32 -T 4 \
    --neuron lif --weight-gradient unrolled --dropout 0.1
row "IF, ImageNet's ResNet-18 with its inner norms, photos of 32 pixels" -d imagenet --data-dir "$work/photos" --model imagenet-resnet18 \
    --image-size 32 --image-resize 36 -T 2
row "IF, the same, unrolled gradients" -d imagenet --data-dir "$work/photos" --model imagenet-resnet18 \
    --image-size 32 --image-resize 36 -T 2 --weight-gradient unrolled

# Ranks that change in mid-run: 8, then 3, then 1.
tiny=$digits
rm -rf "$work"/run*
on_ranks 1 "$work/run1" $tiny
on_ranks 8 "$work/run" $tiny --stop-after-steps 7 || true
on_ranks 3 "$work/run" --resume auto --stop-after-steps 13 || true
on_ranks 1 "$work/run" --resume auto
[ "$(sums run)" = "$(sums run1)" ] && same="8, then 3, then 1" || same=""
echo "| IF, stopped twice | $(sums run1) | $same |"
