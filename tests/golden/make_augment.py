"""Make augment.npz: what torchvision's transforms give on an image of noise.

Needs torch 2.13.0 and torchvision 0.28.0, which the tests do not:
    python tests/golden/make_augment.py

Tensors are float64, [rows, channels, height, width] for torchvision and channels last
in the file. 'cases' is a JSON list of what was done.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torchvision
import torchvision.transforms.functional as F  # noqa: N812 -- its usual name

HEIGHT, WIDTH = 20, 26


def image() -> torch.Tensor:
    """[3, height, width] from 0 to 1, with grey, black and saturated pixels."""
    pixels = np.random.RandomState(0).uniform(size=(HEIGHT, WIDTH, 3))
    pixels[0, :5] = 0.5
    pixels[1, :5] = 0.0
    pixels[2, :5] = 1.0, 0.0, 0.0
    return torch.from_numpy(pixels).permute(2, 0, 1)


def main() -> None:
    """Write augment.npz beside this file."""
    x = image()
    cases: list[tuple[str, list[float]]] = [("flip", [])]
    results = [F.hflip(x)]
    for top, left in ((0, 0), (3, 8), (8, 1)):
        cases.append(("crop", [top, left]))
        results.append(F.crop(F.pad(x, [4]), top, left, HEIGHT, WIDTH))
    for box in ((0, 0, 20, 26), (3, 5, 7, 6), (2, 1, 18, 21), (19, 25, 1, 1)):
        for size in (5, 12):
            cases.append(("resize", [*box, size]))
            results.append(F.resized_crop(x, *box, [size, size], antialias=True))
    changes = {
        "brightness": (F.adjust_brightness, (0.6, 1.0, 1.4)),
        "contrast": (F.adjust_contrast, (0.6, 1.4)),
        "saturation": (F.adjust_saturation, (0.6, 1.4)),
        "hue": (F.adjust_hue, (-0.1, 0.0, 0.1, 0.4)),
    }
    for name, (change, factors) in changes.items():
        for factor in factors:
            cases.append((name, [factor]))
            results.append(change(x, factor))
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        factors, y = (0.7, 1.3, 1.2, 0.08), x
        for number in order:
            y = list(changes.values())[number][0](y, factors[number])
        cases.append(("jitter", [*factors, *order]))
        results.append(y)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    np.savez_compressed(
        Path(__file__).with_name("augment.npz"),
        image=x.permute(1, 2, 0).numpy(),
        cases=np.array(json.dumps(cases)),
        versions=np.array(json.dumps(versions)),
        **{
            f"result{i}": y.permute(1, 2, 0).to(torch.float32).numpy()
            for i, y in enumerate(results)
        },
    )


if __name__ == "__main__":
    main()
