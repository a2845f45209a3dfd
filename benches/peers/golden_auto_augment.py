"""Writes what torchvision's AutoAugment and its operations make of some PIL images: tests/fixtures/auto_augment.json.gz.

    golden_auto_augment.py FILE

`tests/auto_augment.rs` makes the same images by the same formula and compares: all bytes of small images, CRC-32 of large ones.
Needs torch, torchvision and Pillow; the file names their versions.
"""

import gzip
import json
import sys
import zlib
from pathlib import Path

import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

SMALL = [(11, 13, 3), (9, 8, 1)]
LARGE = [(32, 32, 3), (28, 28, 1), (61, 40, 3), (224, 224, 3), (2, 3, 3), (1, 1, 3), (5, 1, 1)]
SIDES = [1, 7, 8, 28, 32, 48, 61, 96, 224, 331]


def value(y, x, c, flat):
    """Of the image's byte; a flat image has one value a channel."""
    return 70 + c if flat else (x * x * 3 + y * y * 5 + x * y * (c + 1) * 7 + 31 * c) // 4 % 201 + 20


def image(shape, flat=False):
    height, width, channels = shape
    data = bytes(value(y, x, c, flat) for y in range(height) for x in range(width) for c in range(channels))
    return Image.frombytes("RGB" if channels == 3 else "L", (width, height), data)


def signed(magnitudes, has_sign):
    values = [float(v) for v in magnitudes] if magnitudes.dim() else [0.0]
    return values + [-v for v in values if has_sign and v != 0.0]


def change(picture, name, magnitude):
    return _apply_op(picture, name, magnitude, interpolation=InterpolationMode.NEAREST, fill=None).tobytes()


def main(path):
    space = lambda shape: AutoAugment()._augmentation_space(10, shape[:2])
    operations = []
    for shape, flat in [(s, False) for s in SMALL + LARGE] + [((9, 8, 3), True)]:
        of_shape = {}
        for name, (magnitudes, has_sign) in space(shape).items():
            results = [[m, change(image(shape, flat), name, m)] for m in signed(magnitudes, has_sign)]
            of_shape[name] = [[m, r.hex() if shape in SMALL else zlib.crc32(r)] for m, r in results]
        operations.append({"shape": shape, "flat": flat, "results": of_shape})
    magnitudes = {side: {name: m.reshape(-1).double().tolist() for name, (m, _) in space((side, 10)).items()} for side in SIDES}
    policies, pictures = {}, {}
    for policy in [AutoAugmentPolicy.CIFAR10, AutoAugmentPolicy.IMAGENET]:
        pairs = AutoAugment(policy).policies
        policies[policy.value] = pairs
        results = []
        for pair in range(len(pairs)):
            for signs, luck in [([0, 1], [0.0, 0.0]), ([1, 0], [0.0, 0.0]), ([1, 1], [0.5, 0.65]), ([0, 0], [0.7, 0.25])]:
                AutoAugment.get_params = staticmethod(lambda _: (pair, torch.tensor(luck, dtype=torch.float64), torch.tensor(signs)))
                results += [[pair, luck, signs, shape, zlib.crc32(AutoAugment(policy)(image(shape)).tobytes())] for shape in LARGE[:2]]
        pictures[policy.value] = results
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    found = {"versions": versions, "operations": operations, "magnitudes": magnitudes, "policies": policies, "pictures": pictures}
    Path(path).write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
