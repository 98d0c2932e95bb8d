# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Which images. The names are those of diffusers' `train_unconditional.py` where it has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text


@dataclass
class DataArguments:
    """Which images; without any of these, scikit-learn's handwritten digits (8x8, 17 grey levels)."""

    _argument_group_name = "data"

    dataset_name: str | None = field(default=None, metadata=help_text("A data set on the Hub, or a local one's path."))
    dataset_config_name: str | None = field(default=None, metadata=help_text("The configuration of that data set."))
    train_data_dir: str | None = field(default=None, metadata=help_text("A local folder of images."))
    cache_dir: str | None = field(default=None, metadata=help_text("Where downloads are kept."))
    resolution: int | None = field(
        default=None, metadata=help_text("Side of the square images; the data's own if unset.")
    )
    interpolation: str = field(
        default="lanczos",
        metadata=help_text("To resize with: lanczos, bicubic, bilinear, as diffusers' script, or box."),
    )
    center_crop: bool = field(default=False, metadata=help_text("Crop the middle; a random place if unset."))
    random_flip: bool = field(default=False, metadata=help_text("Mirror half of the training images."))
    preserve_input_precision: bool = field(
        default=False,
        metadata=help_text("Keep images of more than 8 bits: 65536 levels, 32-bit ones scaled to these."),
    )
    channels: int | None = field(
        default=None,
        metadata=help_text("Convert to 1, 3 or 4 channels; the data's without transparency if unset. 4 keep it."),
    )
    background: str = field(
        default="white",
        metadata=help_text("The colour under what is transparent: a name, #rrggbb or rgb(r, g, b)."),
    )
    num_levels: int | None = field(
        default=None, metadata=help_text("Quantise 8-bit images to this many levels, <= 256.")
    )
    image_column: str | None = field(
        default=None, metadata=help_text("The column of images; the one called `image`, or the only one, if unset.")
    )
    label_column: str | None = field(
        default=None,
        metadata=help_text("The column of classes, numbers or names; the first of type ClassLabel if unset."),
    )
    test_fraction: float = field(
        default=0.1,
        metadata=help_text("Held out where the data set has no test split, 0 for none; the digits have theirs."),
    )
    validation_fraction: float = field(
        default=0.0,
        metadata=help_text(
            "Held out to watch the training by where there is no validation split; if 0, the test images."
        ),
    )
    skip_bad_images: bool = field(default=False, metadata=help_text("Go on without images that cannot be read."))
    streaming: bool = field(
        default=False,
        metadata=help_text("Read a data set from its files or the Hub as it is needed; it need not fit."),
    )
    shuffle_buffer_size: int = field(
        default=4096, metadata=help_text("Encoded images that a process keeps of a stream, to shuffle them.")
    )
    max_held_out_images: int = field(
        default=2048, metadata=help_text("Of a stream, the most test and the most validation images that are kept.")
    )
    dataloader_num_workers: int = field(default=0, metadata=help_text("Processes that read images, of every process."))
