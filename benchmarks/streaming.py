# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Memory of a training on a stream of images, compared with other ways of reading the same data.

    python benchmarks/streaming.py --output results.json

It writes parquet files of noise, which PNG cannot compress, and trains a tiny model on them by examples/train.py. Each
way of reading has its own process, whose memory is sampled together with its workers'; shared memory counts once.
`anonymous` memory is held until the processes free it; the rest are pages of files, which the system drops when it
needs memory. Growth is the slope of a line through the samples after a tenth of the steps, per gigabyte read. Reading
is also timed separately, without a model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from report import parse, parser_of, write_report

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.loading import load_images


ROOT = Path(__file__).resolve().parents[1]


SIDE, RESOLUTION = 64, 8  # small, so that the model waits for the images
TINY = shlex.split(
    "--block_out_channels 4 4 --down_block_types DownBlock2D DownBlock2D --up_block_types UpBlock2D UpBlock2D"
    " --layers_per_block 1 --norm_num_groups 2 --attention_head_dim 4 --ddpm_num_steps 20 --num_evaluations 2"
    " --num_quality_samples 0 --eval_batch_size 4 --save_images_epochs 0 --validation_steps 0 --checkpointing_steps 0"
    " --test_fraction 0.01"
)
WAYS = {
    "stream": "--streaming",
    "stream, 2 workers": "--streaming --dataloader_num_workers 2",
    "files": "",
}
SECONDS_BETWEEN_SAMPLES = 0.5
MB, GB = 1e6, 1e9


def make_data(folder: Path, gigabytes: float, files: int) -> tuple[int, int]:
    """Parquet files of noise images; returns how many images, and their bytes."""
    folder.mkdir()
    schema = datasets.Features({"image": datasets.Image()}).arrow_schema
    generator = np.random.default_rng(0)
    count = total = 0
    for number in range(files):
        with pyarrow.parquet.ParquetWriter(folder / f"train-{number:05d}.parquet", schema) as writer:
            while total < gigabytes * GB * (number + 1) / files:
                rows = []
                for _ in range(500):
                    content = io.BytesIO()
                    pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
                    rows.append({"image": {"bytes": content.getvalue(), "path": None}})
                count, total = count + len(rows), total + sum(len(row["image"]["bytes"]) for row in rows)
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return count, total


def memory_of(process: psutil.Process) -> tuple[float, float]:
    """MB that a process and its children use in all, and of these the anonymous ones."""
    sums = {"Pss": 0, "Pss_File": 0}
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(OSError, psutil.Error):  # it has ended
            for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) * 1024
    return sums["Pss"] / MB, (sums["Pss"] - sums["Pss_File"]) / MB


def train(data: Path, way: str, steps: int, batch_size: int, image_bytes: float) -> dict[str, float]:
    """The memory of a training between its steps."""
    command = [sys.executable, ROOT / "examples" / "train.py", "--dataset_name", data, *TINY, *shlex.split(way)]
    command += [
        "--resolution",
        str(RESOLUTION),
        "--train_batch_size",
        str(batch_size),
        "--max_train_steps",
        str(steps),
    ]
    samples: list[tuple[int, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        command += ["--output_dir", f"{folder}/run", "--cache_dir", f"{folder}/cache"]
        output, begin = Path(folder, "output.txt"), time.monotonic()
        with output.open("wb") as file:
            process = psutil.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
        first = None
        while process.poll() is None:
            made = re.findall(rf"(\d+)/{steps} \[", output.read_text(errors="replace"))
            step = int(made[-1]) if made else 0
            first = first or (time.monotonic() if step else None)
            if 0 < step < steps:
                samples.append((step, *memory_of(process)))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        if process.returncode != 0:
            sys.exit(output.read_text(errors="replace"))
        seconds = json.loads(Path(folder, "run", "metrics.json").read_text())["train_seconds"]
    late = [sample for sample in samples if sample[0] >= steps / 10]
    read = np.array([step * batch_size * image_bytes / GB for step, _, _ in late])
    return {
        "seconds before the first step": first - begin,
        "images per second": steps * batch_size / seconds,
        "MB after a tenth": late[0][1],
        "MB at most": max(total for _, total, _ in samples),
        "anonymous MB after a tenth": late[0][2],
        "anonymous MB at most": max(anonymous for _, _, anonymous in samples),
        "growth, MB per GB read": float(np.polyfit(read, [total for _, total, _ in late], 1)[0]),
        "anonymous growth, MB per GB read": float(np.polyfit(read, [anonymous for _, _, anonymous in late], 1)[0]),
    }


def reading_speed(data: Path, way: str, batch_size: int, batches: int) -> float:
    """Images per second without a model, from the second tenth of the batches on."""
    workers = 2 if "num_workers 2" in way else 0
    with tempfile.TemporaryDirectory() as cache:
        arguments = DataArguments(
            dataset_name=str(data),
            cache_dir=cache,
            resolution=RESOLUTION,
            streaming="--streaming" in way,
            test_fraction=0.01,
        )
        images, before = load_images(arguments).train, batches // 10
        reader = TrainingBatches(images, BatchShard(batch_size), 0, batches, seed=0, num_workers=workers)
        with contextlib.closing(iter(reader)) as iterator:
            for _ in itertools.islice(iterator, before):
                pass
            begin = time.perf_counter()
            count = sum(len(batch.x_0) for batch in itertools.islice(iterator, batches - before))
            return count / (time.perf_counter() - begin)


def measure(data: Path, steps: int, batch_size: int, image_bytes: float) -> dict[str, dict[str, float]]:
    """The memory and the speed of every way, printed as they come."""
    results = {}
    for name, way in WAYS.items():
        results[name] = r = train(data, way, steps, batch_size, image_bytes)
        r["images per second of reading alone"] = speed = reading_speed(data, way, batch_size, min(steps, 40))
        print(
            f"{name:25} {r['MB after a tenth']:6.0f} MB, at most {r['MB at most']:6.0f},"
            f" growth {r['growth, MB per GB read']:7.1f} MB/GB; anonymous {r['anonymous MB after a tenth']:6.0f},"
            f" at most {r['anonymous MB at most']:6.0f}, growth {r['anonymous growth, MB per GB read']:7.1f};"
            f" {r['images per second']:6.0f} images/s, reading alone {speed:6.0f};"
            f" first step after {r['seconds before the first step']:.0f} s",
            flush=True,
        )
    return results


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "streaming")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of images")
    parser.add_argument("--files", type=int, default=16, help="that they are in")
    parser.add_argument("--share", type=float, default=0.7, help="of the images that a training reads")
    parser.add_argument("--batch-size", type=int, default=512, help="images in a step")
    arguments = parse(parser)
    if min(arguments.gigabytes, arguments.share) <= 0 or min(arguments.files, arguments.batch_size) < 1:
        sys.exit("--gigabytes and --share must be above 0, --files and --batch-size at least 1.")
    return arguments


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)  # of the reading alone
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        count, total = make_data(data, arguments.gigabytes, arguments.files)
        steps = int(arguments.share * count / arguments.batch_size)
        if steps < 20:
            sys.exit(f"{count} images are too few; pass more --gigabytes.")
        print(f"{count} images, {total / GB:.2f} GB, in {arguments.files} files; {steps} steps", flush=True)
        results = measure(data, steps, arguments.batch_size, total / count)
    settings = {
        "images": count,
        "GB of images": total / GB,
        "files": arguments.files,
        "pixels": [SIDE, SIDE, 3],
        "resolution": RESOLUTION,
        "steps": steps,
        "images in a step": arguments.batch_size,
        "shuffle buffer": DataArguments.shuffle_buffer_size,
    }
    write_report(arguments.output, results, datasets, settings=settings)


if __name__ == "__main__":
    main()
