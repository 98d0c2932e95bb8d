# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of the test digits: a set against the bound of its chain, and digits by themselves.

    accelerate launch examples/train.py
    python benchmarks/compression.py --model runs/digits

The set is written once, compared with the bound of the same chain over several noises, and decoded in a fresh process
with one thread and without oneDNN. Digits by themselves are coded progressively; every prefix of their files is
decoded, and the mean squared error of x̂_0 is known after every step. PNG and WebP are Pillow's, of the same pixels, by
themselves and of one tiled picture.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import known_results, parse, parser_of, save_report
from sklearn.datasets import load_digits
from torch import Tensor

from ddpm_hf import bits_per_dim, compress
from ddpm_hf.compression.codec import Codec
from ddpm_hf.compression.entropy_coders import SymbolReader, SymbolWriter
from ddpm_hf.compression.shared_noise import SharedNoise
from ddpm_hf.evaluation.file_formats import file_of
from ddpm_hf.pipelines.compressing import codec_of
from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.pipelines.sampling_pipeline import SamplingPipeline


FIRST = 1500  # of the test digits
FRESH = """
import sys, torch
torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False
from ddpm_hf import decompress
decompress(sys.argv[1], sys.argv[2], sys.argv[3])
"""


def digits(count: int) -> Tensor:
    """The first test digits, 17 levels, int64 `[N, 1, 8, 8]`."""
    return torch.from_numpy(load_digits().images[FIRST : FIRST + count].astype(np.int64)).unsqueeze(1)


def pictures_of(levels: Tensor) -> list[Image.Image]:
    """The digits as pictures of 8 bits."""
    values = np.floor(levels[:, 0].numpy() * 255 / 16 + 0.5).astype(np.uint8)
    return [Image.fromarray(value) for value in values]


def measure_set(levels: Tensor, pipeline: SamplingPipeline, model: str, folder: Path, noises: int) -> dict[str, Any]:
    """The file of a set, its time, the bound of its chain, and whether a fresh process decodes it."""
    pictures, images = pictures_of(levels), folder / "digits"
    images.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(images / f"{i:03d}.png")
    begin = time.perf_counter()
    result = compress(images, pipeline, folder / "digits.ddpc")
    seconds = time.perf_counter() - begin
    subprocess.run([sys.executable, "-c", FRESH, folder / "digits.ddpc", model, folder / "back"], check=True)
    back = [np.asarray(Image.open(path)) for path in sorted((folder / "back").glob("*.png"))]
    codec = codec_of(pipeline, None, None, 128)
    chain = codec._sets.chain
    rest = chain.scaled(levels[result.direct_images :])
    bounds = [bits_per_dim(chain.denoise, chain.diffusion, [rest], generator=torch.Generator().manual_seed(i)).total
              for i in range(noises)]  # fmt: skip
    return {
        "images": len(levels),
        "file bytes": len(result.content),
        "header bytes": result.header_bytes,
        "names bytes": result.names_bytes,
        "initial bits": result.initial_bits,
        "images coded directly": result.direct_images,
        "their bits": result.direct_bits,
        "net bits/dim of the others": result.net_bits_per_dim,
        "bound of the chain on them, bits/dim": statistics.fmean(bounds),
        "standard deviation over noises": statistics.stdev(bounds) if noises > 1 else None,
        "noises": noises,
        "steps": len(chain.diffusion.times),
        "decoded by a fresh process": all(map(np.array_equal, back, map(np.asarray, pictures))),
        "seconds to encode and decode": seconds,
    }


def measure_one(levels: Tensor, codec: Codec) -> dict[str, Any]:
    """The payload of a digit by itself, the error after each step, and whether every prefix decodes."""
    noise, writer, errors = SharedNoise(0, 0), SymbolWriter(), []
    codec.single.write(writer.write, levels, {}, noise)
    payload = writer.to_bytes()
    x_0 = codec.single.chain.scaled(levels)

    def watch(estimate: Tensor) -> None:
        errors.append((estimate - x_0).square().mean().item())

    decoded = codec.single.read(SymbolReader(payload, is_whole=True).read, tuple(levels.shape), {}, noise, watch)
    for size in range(len(payload)):
        codec.single.read(SymbolReader(payload[:size], is_whole=False).read, tuple(levels.shape), {}, noise)
    return {"bits": 8 * len(payload), "errors": errors, "exact": decoded.levels.equal(levels)}


def measure_singles(levels: Tensor, codec: Codec) -> dict[str, Any]:
    """Digits by themselves."""
    each = [measure_one(digit[None], codec) for digit in levels]
    bits = [row["bits"] for row in each]
    return {
        "images": len(levels),
        "mean payload bits": statistics.fmean(bits),
        "standard error": statistics.stdev(bits) / len(bits) ** 0.5,
        "all exact": all(row["exact"] for row in each),
        "times": list(codec.single.chain.diffusion.times),
        "mean squared error after each step": [
            statistics.fmean(row) for row in zip(*(r["errors"] for r in each), strict=True)
        ],
    }


def rivals(levels: Tensor) -> dict[str, Any]:
    """Bytes of PNG and WebP, by themselves and of one tiled picture."""
    pictures = pictures_of(levels)
    across = max(n for n in range(1, 28) if len(levels) % n == 0)
    sheet = Image.fromarray(np.block([[np.asarray(p) for p in pictures[i : i + across]]
                                      for i in range(0, len(pictures), across)]))  # fmt: skip
    return {
        name: {
            "mean of each by itself": statistics.fmean(len(file_of(each, name)) for each in pictures),
            "one tiled picture": len(file_of(sheet, name)),
        }
        for name in ("PNG", "WebP")
    }


def main() -> None:
    parser = parser_of(__doc__, "compression")
    parser.add_argument("--model", default="runs/digits")
    parser.add_argument("--images", type=int, default=297, help="test digits in the set")
    parser.add_argument("--singles", type=int, default=297, help="test digits by themselves")
    parser.add_argument("--noises", type=int, default=10, help="of the bound")
    parser.add_argument("--resume", action="store_true", help="measure only what the output lacks")
    arguments = parse(parser)
    pipeline, results = load_pipeline(arguments.model), known_results(arguments)
    levels = digits(max(arguments.images, arguments.singles))
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in {
            "set": lambda: measure_set(
                levels[: arguments.images], pipeline, arguments.model, Path(folder), arguments.noises
            ),
            "singles": lambda: measure_singles(levels[: arguments.singles], codec_of(pipeline, None, None, 1)),
            "rivals": lambda: rivals(levels[: arguments.images]),
        }.items():
            if name not in results:
                results[name] = measure()
                print(name, results[name], flush=True)
                save_report(arguments.output, results, model=arguments.model, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
