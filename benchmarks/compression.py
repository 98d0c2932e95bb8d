# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of test images: a set against the bound of its chain, images by themselves, and the usual formats.

    python benchmarks/compression.py --model runs/digits
    python benchmarks/compression.py --model runs/openmoji32 --dataset openmoji --resolution 32 --num_images 24

writes results/compression_<dataset>.json and .png:

    set       one file of all images, with its parts; the bound of its chain on the same images over several noises;
              and whether a fresh process with one thread and without oneDNN decodes it
    singles   a progressive file of each image, cut to several lengths, beside PNG, WebP, JPEG XL and JPEG
    steps     the error of x̂_0 after each step, and whether every prefix of every file decodes
    tiled     the usual lossless formats, of one picture with all images in it
    speed     images per second, and the time relative to the model calls of the same chain

Images are spread evenly over the test images. The number of steps follows from training images alone: the terms of the
bound that `train` measured.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import known_results, parse, parser_of, save_report, spread
from sklearn.datasets import load_digits
from torch import Tensor

from ddpm_hf import bits_per_dim, compress
from ddpm_hf.compression.codec import Codec
from ddpm_hf.compression.entropy_coders import SymbolReader
from ddpm_hf.compression.images import Images
from ddpm_hf.compression.names import names_by_place
from ddpm_hf.compression.shared_noise import SharedNoise
from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.evaluation.file_formats import file_formats
from ddpm_hf.evaluation.real_files import code_images, codec_of_singles
from ddpm_hf.pipelines.compressing import codec_of
from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.pipelines.picture_files import pictures_of
from ddpm_hf.pipelines.sampling_pipeline import SamplingPipeline
from ddpm_hf.reporting.rate_distortion import files_report, save_curve
from ddpm_hf.runtime.progress import progress_bar
from ddpm_hf.tasks.captioned_images import load_plain_images


FIRST = 1500  # of the test digits
FRESH = """
import sys, torch
torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False
from ddpm_hf import decompress
decompress(sys.argv[1], sys.argv[2], sys.argv[3])
"""


def test_images(arguments: Namespace) -> Tensor:
    """The test images as levels, `[N, C, H, W]`."""
    if arguments.dataset == "digits":
        return torch.from_numpy(load_digits().images[FIRST:].astype(np.uint8)).unsqueeze(1)
    images = load_plain_images(CaptionedDataArguments(resolution=arguments.resolution)).test
    return torch.stack([images.levels(i) for i in range(len(images))])


def some_of(levels: Tensor, count: int | None) -> Tensor:
    """So many of them, evenly spread; all for None."""
    if count is None or count >= len(levels):
        return levels
    return levels[torch.linspace(0, len(levels) - 1, count).round().long()]


def pictures(levels: Tensor, num_levels: int) -> list[Image.Image]:
    return pictures_of(Images(levels, names_by_place(len(levels))), num_levels)


def measure_set(levels: Tensor, pipeline: SamplingPipeline, arguments: Namespace, folder: Path) -> dict[str, Any]:
    """The file of a set, its time, the bound of its chain, and whether a fresh process decodes it."""
    codec = codec_of(pipeline, arguments.num_inference_steps, None, arguments.batch_size)
    originals, images = pictures(levels, codec.num_levels), folder / "images"
    images.mkdir()
    for name, picture in zip(names_by_place(len(levels)), originals, strict=True):
        picture.save(images / name)
    begin = time.perf_counter()
    how = {"num_inference_steps": arguments.num_inference_steps, "batch_size": arguments.batch_size}
    result = compress(images, pipeline, folder / "set.ddpc", **how, progress=progress_bar)
    seconds = time.perf_counter() - begin
    subprocess.run([sys.executable, "-c", FRESH, folder / "set.ddpc", arguments.model, folder / "back"], check=True)
    back = [np.asarray(Image.open(path)) for path in sorted((folder / "back").glob("*.png"))]
    chain = codec.sets.bits_back.chain
    rest = chain.scaled(levels[result.direct_images :]).split(arguments.batch_size)
    bounds = [
        bits_per_dim(chain.denoise, chain.diffusion, rest, generator=torch.Generator().manual_seed(seed)).total
        for seed in range(arguments.noises)
    ]
    return {
        "images": len(levels),
        "file bytes": len(result.content),
        "bits/dim of the file": result.bits_per_dim,
        "header bytes": result.header_bytes,
        "names bytes": result.names_bytes,
        "initial bits": result.initial_bits,
        "images coded directly": result.direct_images,
        "their bits": result.direct_bits,
        "net bits/dim of the others": result.net_bits_per_dim,
        "bound of the chain on them, bits/dim": statistics.fmean(bounds),
        "standard deviation over noises": statistics.stdev(bounds) if len(bounds) > 1 else None,
        "noises": len(bounds),
        "steps": len(chain.diffusion.times),
        "expected bits/dim on training images": chain.diffusion.expected_terms.sum().item() / math.log(2),
        "decoded by a fresh process": all(map(np.array_equal, back, map(np.asarray, originals))),
        "seconds to encode and decode": seconds,
    }


def measure_singles(levels: Tensor, pipeline: SamplingPipeline, arguments: Namespace) -> dict[str, Any]:
    """Progressive files, and the usual formats; draws both."""
    codec = codec_of_singles(pipeline)
    begin = time.perf_counter()
    files = code_images(codec, levels, progress=progress_bar)
    seconds = time.perf_counter() - begin
    save_curve(None, files, arguments.output.with_suffix(".png"))
    return files_report(files) | {
        "steps": len(codec.single.progressive.chain.diffusion.times),
        "seconds per image, encoded and decoded twice": seconds / len(levels),
    }


def measure_steps(levels: Tensor, pipeline: SamplingPipeline, arguments: Namespace) -> dict[str, Any]:
    """The payload of each image by itself, the error after each step, and whether every prefix decodes."""
    codec = codec_of_singles(pipeline)
    each = [watch_one(codec, image) for image in progress_bar(levels.split(1))]
    bits, means = [row["bits"] for row in each], np.mean([row["errors"] for row in each], axis=0).tolist()
    return {
        "images": len(levels),
        "mean payload bits": statistics.fmean(bits),
        "standard error": statistics.stdev(bits) / len(bits) ** 0.5,
        "all come back, and every prefix decodes": all(row["exact"] for row in each),
        "times": list(codec.single.progressive.chain.diffusion.times),
        "mean squared error before and after each step": means,
        "it never rises": means == sorted(means, reverse=True),
    } | ({"an ideal histogram per pixel, bits": histogram_bits(levels)} if arguments.dataset == "digits" else {})


def watch_one(codec: Codec, levels: Tensor) -> dict[str, Any]:
    """One image: the bits of its payload, and the error of x̂_0 before the first step and after each."""
    images, single = Images(levels, names_by_place(1)), codec.single
    payload = single.written(images, 0, seed=0).to_bytes()
    x_0, errors = single.progressive.chain.scaled(levels), []

    def watch(estimate: Tensor) -> None:
        errors.append((estimate - x_0).square().mean().item())

    noise, shape = SharedNoise(0, 0), tuple(levels.shape)
    decoded = single.progressive.read(SymbolReader(payload, is_whole=True).read, shape, {}, noise, watch)
    reads = [SymbolReader(payload[:size], size == len(payload)).read for size in range(len(payload), -1, -1)]
    prefixes = single.progressive.read_prefixes(reads, shape, {}, noise)
    exact = decoded.levels.equal(levels.long()) and prefixes[0].levels.equal(levels.long())
    return {"bits": 8 * len(payload), "errors": errors, "exact": exact and len(prefixes) == len(payload) + 1}


def histogram_bits(levels: Tensor) -> float:
    """The mean ideal length of a test digit by the histogram of each pixel over the training digits, plus one each."""
    counts = np.ones((8, 8, 17))
    for digit in load_digits().images[:FIRST].astype(np.int64):
        np.put_along_axis(counts, digit[..., None], np.take_along_axis(counts, digit[..., None], 2) + 1, 2)
    costs = -np.log2(counts / counts.sum(axis=2, keepdims=True))
    found = np.take_along_axis(costs[None], levels.numpy().astype(np.int64)[:, 0, :, :, None], 3)
    return float(found.sum() / len(levels))


def measure_tiled(levels: Tensor, pipeline: SamplingPipeline, arguments: Namespace) -> dict[str, Any]:
    """Bytes and bits/dim of one lossless picture with all images, in rows of the same length."""
    across = max(n for n in range(1, 28) if len(levels) % n == 0)
    rows = [torch.cat(list(row), dim=-1) for row in levels.split(across)]
    (sheet,) = pictures(torch.cat(rows, dim=-2)[None], codec_of_singles(pipeline).num_levels)
    sizes = {each.name: len(each.file(sheet)) for each in file_formats() if each.lossless is not None}
    return {name: {"bytes": size, "bits/dim": 8 * size / levels.numel()} for name, size in sizes.items()}


def measure_speed(levels: Tensor, pipeline: SamplingPipeline, arguments: Namespace) -> dict[str, Any]:
    """Images per second, and the time over that of the model calls along the same chain, interleaved."""
    sets = codec_of(pipeline, arguments.num_inference_steps, None, arguments.batch_size)
    some = some_of(levels, arguments.num_speed_images)
    images = Images(some, names_by_place(len(some)))
    one, single = Images(levels[:1], names_by_place(1)), codec_of_singles(pipeline)
    works: dict[str, tuple[Callable[[], Any], int, Any]] = {
        "set": (lambda: sets.compress(images, batch_size=arguments.batch_size), len(some), sets.sets.bits_back.chain),
        "progressive": (lambda: single.compress(one, "progressive"), 1, single.single.progressive.chain),
    }
    found: dict[str, Any] = {"repetitions": arguments.repetitions}
    for name, (work, count, chain) in works.items():
        ratios, rates = [], []
        x = chain.scaled(levels[:1].expand(count, *levels.shape[1:]))
        for _ in range(arguments.repetitions):
            calls = seconds_of(
                lambda x=x, chain=chain: [chain.step(x, k, {}) for k in range(len(chain.diffusion.times))]
            )
            seconds = seconds_of(work)
            ratios.append(seconds / calls)
            rates.append(count / seconds)
        found[name] = {
            "images": count,
            "model calls": len(chain.diffusion.times),
            "images per second, encoded and decoded": spread(rates),
            "time over that of one pass of the model": spread(ratios),
        }
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def parse_all() -> Namespace:
    first = ArgumentParser(add_help=False)
    first.add_argument("--dataset", choices=["digits", "openmoji"], default="digits")
    parser = parser_of(__doc__, f"compression_{first.parse_known_args()[0].dataset}")
    parser.add_argument("--dataset", default="digits", help="digits or openmoji (default: %(default)s)")
    parser.add_argument("--model", default="runs/digits")
    parser.add_argument("--resolution", type=int, default=32, help="of OpenMoji (default: %(default)s)")
    parser.add_argument("--num_images", type=int, help="images by themselves, evenly spread; all if unset")
    parser.add_argument("--num_set_images", type=int, help="images of the set, evenly spread; all if unset")
    parser.add_argument("--num_inference_steps", type=int, help="of a set; the default of `compress` if unset")
    parser.add_argument("--batch_size", type=int, default=16, help="images side by side (default: %(default)s)")
    parser.add_argument("--noises", type=int, default=5, help="of the bound (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="of the timings (default: %(default)s)")
    parser.add_argument("--num_speed_images", type=int, default=32, help="of the timed set (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["set", "singles", "steps", "tiled", "speed"])
    parser.add_argument("--resume", action="store_true", help="measure only what the output lacks")
    return parse(parser)


def main() -> None:
    arguments = parse_all()
    torch.set_num_threads(1)
    pipeline, results = load_pipeline(arguments.model), known_results(arguments)
    levels = test_images(arguments)
    some, of_set = some_of(levels, arguments.num_images), some_of(levels, arguments.num_set_images)
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in {
            "set": lambda: measure_set(of_set, pipeline, arguments, Path(folder)),
            "singles": lambda: measure_singles(some, pipeline, arguments),
            "steps": lambda: measure_steps(some, pipeline, arguments),
            "tiled": lambda: measure_tiled(of_set, pipeline, arguments),
            "speed": lambda: measure_speed(levels, pipeline, arguments),
        }.items():
            if name in arguments.parts and name not in results:
                results[name] = measure()
                print(name, results[name], flush=True)
                save_report(arguments.output, results, dataset=arguments.dataset, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
