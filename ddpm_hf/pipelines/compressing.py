# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`compress` and `decompress`: PNG files to one file at the model's bound, and back."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image
from torch import Tensor

from ..compression.codec import Codec
from ..compression.entropy_coders import require_constriction
from ..compression.file_format import SPACINGS, check_names, unpacked
from ..compression.images import Compressed
from ..compression.names import names_by_place
from ..conditioning.classes import LABELS, ClassConditioner
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .exact_models import fingerprint_of, in_float64
from .loading import load_pipeline
from .picture_files import Picture, find_pictures, pictures_of, read_pictures
from .sampling_pipeline import SamplingPipeline


STEPS = 50  # of a set's chain: half as many cost 1 % more bits on the digits, twice as many save half a percent
Model = str | os.PathLike | SamplingPipeline
File = str | os.PathLike | bytes | BinaryIO


@dataclass(frozen=True)
class Decompressed:
    """The pictures of a file.

    Attributes:
        pictures: by name, in order.
        is_exact: whether they are those that were compressed; otherwise an approximation from a prefix.
    """

    pictures: Mapping[str, Image.Image]
    is_exact: bool


def compress(
    images: str | os.PathLike | Picture | Sequence[Picture],
    model: Model,
    output: str | os.PathLike | BinaryIO | None = None,
    *,
    mode: str = "set",
    max_bytes: int | None = None,
    batch_size: int = 16,
    num_inference_steps: int | None = None,
    timestep_spacing: str | None = None,
    class_labels: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> Compressed:
    """Compress images by a model of such images, without loss unless `max_bytes` asks for it.

    The file is decoded once before this function returns. Its pixels are those of the images; their metadata, such as
    colour profiles, are not kept.

    Args:
        images: a folder of PNG files, with its subfolders; a PNG file, or several, each by its path, its bytes or an
            open file; or pictures of Pillow.
        model: a pipeline, a folder, or a name on the Hub.
        output: a path of a file that does not exist yet, or an open file; None to return the bytes alone.
        mode: "set", the smallest for several images; or "progressive", for one image: any prefix of the file is an
            image, better with every byte.
        max_bytes: the longest file of the mode "progressive".
        batch_size: images of a set that are coded side by side, at most; more are faster, and need more memory.
        num_inference_steps: steps of a set's chain, by default at most 50.
        timestep_spacing: "optimal" by default where the model's errors have been measured, else "log_snr".
        class_labels: one for each image, for a class-conditional model; None for the null class.
        seed: of the noise that encoder and decoder share.
        progress: a function that wraps the iteration over groups of images, such as `tqdm.tqdm`.

    Raises:
        ValueError: for images that are not the model's, a model that cannot compress, or arguments out of range; all
            before the images are coded.
        OSError: if the model cannot be loaded, or the file cannot be written.
    """
    require_constriction()
    if isinstance(output, (str, os.PathLike)) and Path(output).exists():
        raise ValueError(f"`output` {output} already exists; choose another name.")
    named = _named(images)
    check_names([name for name, _ in named])
    pipeline = _pipeline(model)
    codec = codec_of(pipeline, num_inference_steps, timestep_spacing, batch_size)
    read = read_pictures(named, codec.num_levels, codec.shape)
    read = replace(read, labels=_checked_labels(pipeline, class_labels, len(named)))
    compressed = codec.compress(read, mode, batch_size, seed, max_bytes, progress)
    if output is not None:
        _write(output, compressed.content)
    return compressed


def decompress(
    file: File,
    model: Model,
    output_dir: str | os.PathLike | None = None,
    *,
    max_bytes: int | None = None,
    batch_size: int = 16,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> Decompressed:
    """The images of a file of `compress`, checked by their checksum.

    Args:
        file: its path, its bytes, or an open file.
        model: the model that made it: a pipeline, a folder, or a name on the Hub.
        output_dir: a folder for PNG files, which is new or empty; None to return the pictures alone.
        max_bytes: how much of a file of the mode "progressive" to read.
        batch_size: images per call of the model, at most.
        progress: a function that wraps the iteration over groups of images.

    Raises:
        ValueError: for another file, a damaged one, or one of a later version or of another model; nothing is written.
        OSError: if the model cannot be loaded, or the files cannot be written.
    """
    require_constriction()
    if output_dir is not None and Path(output_dir).exists() and any(Path(output_dir).iterdir()):
        raise ValueError(f"`output_dir` {output_dir} is not empty; choose another.")
    content = _content(file)
    header = unpacked(content).header
    check_names(header.names)
    codec = codec_of(_pipeline(model), header.steps, header.spacing, batch_size)
    images = codec.decompress(content, max_bytes, progress)
    pictures = dict(zip(images.names, pictures_of(images, codec.num_levels), strict=True))
    if output_dir is not None:
        _write_pictures(Path(output_dir), pictures)
    return Decompressed(pictures, images.is_exact)


def codec_of(
    pipeline: SamplingPipeline, num_inference_steps: int | None, timestep_spacing: str | None, most_at_once: int
) -> Codec:
    """The codec of a pipeline along a chain; arguments as in `compress`.

    Raises:
        ValueError: if the model cannot compress, or there is no such chain.
    """
    members = pipeline.conditioners.members
    classes = [each.num_classes for each in members if isinstance(each, ClassConditioner)]
    if len(classes) < len(members):
        raise ValueError("Only models without conditioning or with classes can compress.")
    scheduler = pipeline.scheduler
    scheduler = DDPMPaperScheduler.from_config(scheduler.config)
    spacing = timestep_spacing or _usual_spacing(scheduler)
    if spacing not in SPACINGS:
        raise ValueError(f"`timestep_spacing` must be one of {', '.join(SPACINGS)}, but is {spacing!r}.")
    if spacing == "all":
        scheduler.set_timesteps(len(scheduler))
    else:
        steps = min(STEPS, len(scheduler)) if num_inference_steps is None else num_inference_steps
        scheduler.set_timesteps(steps, timestep_spacing=spacing)
    unet, device = in_float64(pipeline.unet), pipeline.unet.device

    def condition(labels: Tensor | None, count: int) -> Mapping[str, Any]:
        if not members:
            return {}
        if labels is None:
            return pipeline.conditioners.null(count, device)
        return pipeline.conditioners.make({LABELS: labels}, device)

    return Codec(
        unet,
        scheduler.diffusion,
        pipeline.example_shape,
        fingerprint_of(pipeline.unet, scheduler),
        spacing,
        condition,
        classes[0] if classes else 0,
        device,
        most_at_once,
    )


def _usual_spacing(scheduler: DDPMPaperScheduler) -> str:
    if scheduler.process.learns_of_neighbours:
        return "all"
    return "log_snr" if scheduler.denoising_errors is None else "optimal"


def _checked_labels(pipeline: SamplingPipeline, labels: Sequence[int] | None, count: int) -> Tensor | None:
    """The classes of `count` images, int64, or None for the null class."""
    conditioners = pipeline.conditioners
    if labels is None:
        if conditioners.members and not conditioners.has_null:
            raise ValueError("`class_labels` must give a class for each image: the model has no null class.")
        return None
    if not conditioners.members:
        raise ValueError("`class_labels` are for class-conditional models.")
    found = torch.as_tensor(labels)
    conditioners.check({LABELS: found})
    if len(found) != count:
        raise ValueError(f"`class_labels` must be {count}, one for each image, but are {len(found)}.")
    return found.long()


def _pipeline(model: Model) -> SamplingPipeline:
    return model if isinstance(model, SamplingPipeline) else load_pipeline(model)


def _named(images: Any) -> list[tuple[str, Picture]]:
    """Every picture with its name: that of its file, or its place."""
    if isinstance(images, (str, os.PathLike)):
        return list(find_pictures(Path(images)))
    pictures = [images] if isinstance(images, (bytes, io.IOBase, Image.Image)) else list(images)
    if not pictures:
        raise ValueError("`images` must hold at least one image, but holds none.")
    if len(pictures) == 1 and isinstance(pictures[0], (str, os.PathLike)):
        return list(find_pictures(Path(pictures[0])))
    named: list[tuple[str, Picture]] = []
    for place, picture in zip(names_by_place(len(pictures)), pictures, strict=True):
        if isinstance(picture, (str, os.PathLike)):
            if not Path(picture).is_file():
                raise ValueError(f"There is no file {picture}; name one folder, or files.")
            named.append((Path(picture).name, picture))
        else:
            named.append((place, picture))
    return named


def _content(file: Any) -> bytes:
    if isinstance(file, bytes):
        return file
    return Path(file).read_bytes() if isinstance(file, (str, os.PathLike)) else file.read()


def _write(output: Any, content: bytes) -> None:
    if not isinstance(output, (str, os.PathLike)):
        output.write(content)
        return
    from ..runtime.output_folder import claim_file, write_file

    write_file(claim_file(str(output)), lambda partial: partial.write_bytes(content))


def _write_pictures(folder: Path, pictures: Mapping[str, Image.Image]) -> None:
    from ..runtime.output_folder import claim_folder, write_folder

    def write(partial: Path) -> None:
        for name, picture in pictures.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(partial / name, format="PNG")

    write_folder(claim_folder(str(folder), overwrite=False), write, last="")
