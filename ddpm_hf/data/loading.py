# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading images: a data set that `datasets` can read, a local folder, or the default data if none are named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..conditioning.columns import Values
from .arguments import DataArguments
from .class_names import check_stream
from .colours import colour_of
from .data_columns import Column, FindColumns, no_columns, usable
from .digits import load_digits
from .image_files import MODES, TAKE_OUT, BadImage, Header, ImageShape, content_of, name_of, usable_header
from .image_streams import ImageStream, open_stream, own_splits
from .level_images import ImageData, LevelImages
from .notes import HeaderCounts, alternatives_notes, split_note
from .openmoji import load_openmoji
from .sources import image_column, open_source, told_of_archives
from .squares import INTERPOLATIONS


LARGEST_IN_MEMORY = 2 * 2**30  # bytes of decoded pixels that are kept in memory
datasets.disable_progress_bars()


LoadDefault = Callable[[DataArguments, FindColumns], ImageData]
"""load(arguments, find_columns) -> the images if the arguments name no data."""

PACKAGED: dict[str, LoadDefault] = {"digits": load_digits, "openmoji": load_openmoji}
"""Data that packages hold, by the names that the arguments call them."""


def load_images(
    arguments: DataArguments, find_columns: FindColumns = no_columns, load_default: LoadDefault = load_digits
) -> ImageData:
    """The images that the arguments name, of a package, a folder or the Hub; the default data if they name none.

    Args:
        arguments: the data arguments.
        find_columns: finds the columns that accompany the images.
        load_default: loads the default data; scikit-learn's digits if unset.

    Raises:
        ValueError: if there are no images, if one cannot be read, or if they differ in mode or size and no argument
            says how to convert them.
    """
    _check(arguments)
    load = _loader(arguments, load_default)
    if load is not None:
        return load(arguments, find_columns)
    name, splits, notes, listed, identity = open_source(arguments)
    is_local = Path(name).exists()
    features = splits["train"].features or splits["train"]._resolve_features().features
    image, columns = image_column(features, name, arguments.image_column), find_columns(features, name)
    if arguments.streaming:
        check_stream(features, arguments, name)
    splits = {split: _selected(data, image, columns) for split, data in splits.items()}
    try:
        with told_of_archives(name):
            parts = (_streamed if arguments.streaming else _mapped)(splits, image, columns, name, arguments)
    except BadImage as error:
        raise BadImage(f"{error} {TAKE_OUT}") from error
    label = Path(name).resolve().name if is_local else name
    notes = (split_note(label, parts, listed), *alternatives_notes(columns, parts), *parts.pop("notes", ()), *notes)
    return ImageData(name=label, hub_name=None if is_local else name, notes=notes, identity=identity, **parts)


def loads(arguments: DataArguments, load_default: LoadDefault, data: LoadDefault) -> bool:
    """Whether `load_images` takes these data of a package, with `load_default` for the default."""
    return _loader(arguments, load_default) is data


def _loader(arguments: DataArguments, load_default: LoadDefault) -> LoadDefault | None:
    """What loads the data of a package; None for others."""
    return PACKAGED.get(arguments.dataset_name or "") if arguments.names_data else load_default


def _check(arguments: DataArguments) -> None:
    most = 2**16 if arguments.preserve_input_precision else 256
    if arguments.num_levels is not None and not 2 <= arguments.num_levels <= most:
        raise ValueError(f"`num_levels` must be in 2 ... {most}, but is {arguments.num_levels}.")
    if arguments.interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise ValueError(f"`interpolation` must be one of {known}, but is {arguments.interpolation!r}.")
    if arguments.channels is not None and arguments.channels not in MODES:
        raise ValueError(f"`channels` must be 1, 3 or 4, but is {arguments.channels}.")
    colour_of(arguments.background)
    for name in ("test_fraction", "validation_fraction"):
        if not 0 <= getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be in [0, 1), but is {getattr(arguments, name)}.")
    for name in ("shuffle_buffer_size", "max_held_out_images", "resolution"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}.")
    _check_low_resolution(arguments)
    if arguments.dataloader_num_workers < 0:
        raise ValueError(f"`dataloader_num_workers` must be at least 0, but is {arguments.dataloader_num_workers}.")


def _check_low_resolution(arguments: DataArguments) -> None:
    larger, side = arguments.low_resolution_of, arguments.resolution
    if larger is not None and (side is None or larger <= side or larger % side):
        raise ValueError(f"`low_resolution_of` must be a multiple of `resolution`, {side}, but is {larger}.")


# --- data sets that `datasets` reads --------------------------------------------------------------------------------


def _selected(data: Any, image: str, columns: tuple[Column, ...]) -> Any:
    """The data with these columns only, and undecoded images."""
    selected = data.select_columns(list(dict.fromkeys([image, *(column.source for column in columns)])))
    return selected.cast_column(image, datasets.Image(decode=False))


@dataclass(frozen=True)
class StoredImages:
    """Reads images of a data set one at a time.

    Attributes:
        data: undecoded images.
        image: the column of images.
        split: the name of the split.
        rows: numbers of the images in the split.
        form: the shape that every image is converted to.
    """

    data: datasets.Dataset
    image: str
    split: str
    rows: Tensor
    form: ImageShape | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """What the images depend on: the data set, by the fingerprint of `datasets`, and how they are read."""
        return repr((self.data._fingerprint, self.image, self.rows.tolist(), self.form))

    def entry(self, i: int) -> tuple[dict[str, Any] | None, str]:
        """An undecoded image, and its name in messages."""
        row = int(self.rows[i])
        entry = self.data[row][self.image]
        return entry, name_of(entry, f"Image {row} of split {self.split}")

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        entry, name = self.entry(i)
        return self.form.levels(content_of(entry, name), name, crop)

    def only(self, kept: list[int] | range) -> StoredImages:
        """The images with these numbers."""
        return dataclasses.replace(self, rows=self.rows[list(kept)])


def _mapped(
    splits: dict[str, datasets.Dataset],
    image: str,
    columns: tuple[Column, ...],
    name: str,
    arguments: DataArguments,
) -> dict[str, Any]:
    """Train, test and validation images of data that are not streamed."""
    if len(splits["train"]) < 2:
        raise ValueError(f"{name} holds no training images (split 'train' of at least 2).")
    parts = _divide({split: _all_of(data, image, split) for split, data in splits.items()}, arguments)
    bad: list[str] = []
    rows = parts["train"].rows
    parts = {part: _with_good_values(stored, columns, arguments, bad) for part, stored in parts.items()}
    counts = HeaderCounts()
    parts["train"], form = _formed(parts["train"], arguments, bad, counts)
    images = {
        part: _level_images(
            dataclasses.replace(stored, form=form), columns, arguments, bad, rows if part == "train" else None
        )
        for part, stored in parts.items()
    }
    return _parts(images) | {"bad_images": tuple(bad), "notes": counts.notes(arguments)}


def _parts(images: dict[str, LevelImages | ImageStream]) -> dict[str, Any]:
    """All parts: test images may be an empty set, and replace missing validation images."""
    test = images.get("test") or LevelImages.none_like(images["train"])
    return {"validation": test, **images, "test": test}


def _row(rows: Tensor, good: Tensor) -> Tensor | None:
    """For each of `rows`, the index of the next row that is in `good`, a subset of them in the same order."""
    if len(good) == len(rows):
        return None
    is_good = torch.isin(rows, good)
    return (is_good.cumsum(0) - is_good.long()) % len(good)


def _all_of(data: datasets.Dataset, image: str, split: str) -> StoredImages:
    return StoredImages(data, image, split, torch.arange(len(data)))


def _divide(splits: dict[str, StoredImages], arguments: DataArguments) -> dict[str, StoredImages]:
    """Training, test and perhaps validation images: the data set's own splits if it has them."""
    parts = {"train": splits["train"], **own_splits(splits)}
    for part, share in (("test", arguments.test_fraction), ("validation", arguments.validation_fraction)):
        if part not in parts and share > 0:
            parts["train"], parts[part] = _split(parts["train"], part, share)
    return parts


def _split(images: StoredImages, part: str, share: float) -> tuple[StoredImages, StoredImages]:
    """The images in random order, divided into all but a share of them, and that share."""
    count = math.ceil(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"`{part}_fraction` {share} of {len(images)} images leaves none for testing or for training.")
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    return images.only(order[count:]), images.only(order[:count])


def _with_good_values(
    images: StoredImages, columns: tuple[Column, ...], arguments: DataArguments, bad: list[str]
) -> StoredImages:
    """The images with good values in all required columns; any other is an error unless bad images are skipped."""
    faulty = {
        i: (column, value)
        for column in columns
        if column.is_required
        for i, value in enumerate(_values_of(images, column))
        if column.fault(value) is not None
    }
    for i, (column, value) in sorted(faulty.items()):
        try:
            column.check(value, images.entry(i)[1])
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
    if faulty and len(faulty) == len(images):
        raise ValueError(f"None of the images of split {images.split} can be used: {bad[-1]}")
    return images.only([i for i in range(len(images)) if i not in faulty]) if faulty else images


def _formed(
    images: StoredImages, arguments: DataArguments, bad: list[str], counts: HeaderCounts
) -> tuple[StoredImages, ImageShape]:
    """The images with readable headers, and the shape that fits them; a bad image is an error unless skipped."""
    good: list[int] = []

    def headers() -> Iterator[Header]:
        for i in range(len(images)):
            try:
                yield usable_header(*images.entry(i), arguments)
                good.append(i)
            except BadImage as error:
                if not arguments.skip_bad_images:
                    raise
                bad.append(str(error))
        if not good and bad:
            raise ValueError(f"None of the training images can be read: {bad[0]}")

    form = ImageShape.of(counts.counted(headers()), arguments)
    return (images if len(good) == len(images) else images.only(good)), form


def _level_images(
    images: StoredImages, columns: tuple[Column, ...], arguments: DataArguments, bad: list[str], rows: Tensor | None
) -> LevelImages:
    """The images, in memory if they fit, otherwise read on demand.

    Args:
        rows: the rows of the training images including bad ones; None for other images.
    """
    is_training = rows is not None

    def made(images: StoredImages, pixels: Tensor | None) -> LevelImages:
        row = _row(rows, images.rows) if is_training else None
        read = images if pixels is None else None
        return LevelImages(len(images), read, form.num_levels, form.of_tensor, _values(images, columns), pixels, row)

    form, dtype = images.form, torch.uint8 if images.form.num_levels <= 256 else torch.int32
    size = len(images) * math.prod(form.of_tensor) * dtype.itemsize
    is_lazy = size > LARGEST_IN_MEMORY or (is_training and form.is_random)
    if is_lazy and (is_training or not arguments.skip_bad_images):
        return made(images, None)
    pixels, good = None if is_lazy else torch.empty(len(images), *form.of_tensor, dtype=dtype), []
    for i in range(len(images)):
        try:
            levels = images(i)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
            continue
        if pixels is not None:
            pixels[len(good)] = levels
        good.append(i)
    if not good:
        raise ValueError(f"None of the images of split {images.split} can be read: {bad[-1]}")
    return made(images.only(good), None if pixels is None else pixels[: len(good)])


def _values(images: StoredImages, columns: tuple[Column, ...]) -> dict[str, Values]:
    """The columns that have a good value for every image."""
    return usable(columns, {column.source: _values_of(images, column) for column in columns})


def _values_of(images: StoredImages, column: Column) -> list[Any]:
    """The value of every image in the column."""
    of_split = images.data.select_columns([column.source])[:][column.source]
    return [of_split[row] for row in images.rows.tolist()]


def _streamed(
    splits: dict[str, datasets.IterableDataset],
    image: str,
    columns: tuple[Column, ...],
    name: str,
    arguments: DataArguments,
) -> dict[str, Any]:
    """Training images as a stream, and test and validation images in memory."""
    counts = HeaderCounts()
    train, held_out, bad = open_stream(splits, image, columns, name, arguments, counts.counted)
    kept = {
        part: LevelImages.in_memory(torch.stack(images), train.num_levels, values)
        for part, (images, values) in held_out.items()
    }
    notes = counts.notes(arguments, is_stream=True)
    return _parts({"train": train, **kept}) | {"bad_images": tuple(bad), "notes": notes}
