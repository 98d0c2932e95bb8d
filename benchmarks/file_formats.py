# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Bits/dim of the lossless files of OpenMoji's test images, to compare with a model's bound on the same images.

    python benchmarks/file_formats.py --resolution 32

writes results/file_formats.json: the mean size of a PNG, a WebP and, if pillow-jxl-plugin is installed, a JPEG XL file
of each image, in bits per pixel and channel, with its standard error. Headers count: a file is what has to be stored.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation.file_formats import file_of, formats_there
from ddpm_hf.likelihood.information import grouped_standard_error
from ddpm_hf.tasks.captioned_images import load_captioned_images


RESULTS = Path(__file__).parent / "results"


def bits_per_dim(images: LevelImages, name: str) -> torch.Tensor:
    """The size of a file of each image, float64 `[N]` in bits/dim."""
    sizes = [
        len(file_of(Image.fromarray(images.levels(i).permute(1, 2, 0).numpy().astype("uint8")), name))
        for i in range(len(images))
    ]
    return torch.tensor(sizes, dtype=torch.float64) * 8 / torch.Size(images.shape).numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=32, help="side of the images (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=RESULTS, help="(default: %(default)s)")
    arguments = parser.parse_args()
    images = load_captioned_images(CaptionedDataArguments(resolution=arguments.resolution)).test
    rows = {}
    for name in formats_there():
        bits = bits_per_dim(images, name)
        error = grouped_standard_error(bits, images.columns["group"])
        rows[name] = {"bits_per_dim": bits.mean().item(), "bits_per_dim_standard_error": error}
    report = {"resolution": arguments.resolution, "images": len(images), "formats": rows}
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "file_formats.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
