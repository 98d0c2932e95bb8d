# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments for the images. Where diffusers' `train_unconditional.py` has the argument, the name is the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text


@dataclass
class DataArguments:
    """The images; by default scikit-learn's handwritten digits (8x8, 17 grey levels)."""

    _argument_group_name = "data"

    dataset_name: str | None = field(
        default=None, metadata=help_text("A data set on the Hub, a local path, or digits or openmoji, from packages.")
    )
    dataset_config_name: str | None = field(default=None, metadata=help_text("The configuration of that data set."))
    train_data_dir: str | None = field(default=None, metadata=help_text("A local folder of images."))
    cache_dir: str | None = field(default=None, metadata=help_text("Folder for downloads."))
    resolution: int | None = field(
        default=None, metadata=help_text("Side to resize the images to, as squares; their own size if unset.")
    )
    low_resolution_of: int | None = field(
        default=None,
        metadata=help_text(
            "For a lower stage of a cascade: resize to this side, a multiple of --resolution, and average down to"
            " --resolution as the next stage does."
        ),
    )
    interpolation: str = field(
        default="lanczos",
        metadata=help_text("Method of resizing: lanczos, bicubic, bilinear (as diffusers' script) or box."),
    )
    center_crop: bool = field(default=False, metadata=help_text("Crop the middle; if unset, crop at a random place."))
    random_flip: bool = field(default=False, metadata=help_text("Mirror half of the training images."))
    preserve_input_precision: bool = field(
        default=False,
        metadata=help_text("Keep more than 8 bits: 65536 levels; 32-bit images are scaled to them."),
    )
    channels: int | None = field(
        default=None,
        metadata=help_text("Convert to 1, 3 or 4 channels (4 keep transparency); the data's without it if unset."),
    )
    background: str = field(
        default="white",
        metadata=help_text("The colour behind transparent pixels: a name, #rrggbb or rgb(r, g, b)."),
    )
    num_levels: int | None = field(
        default=None, metadata=help_text("Quantise 8-bit images to this many levels, <= 256.")
    )
    image_column: str | None = field(
        default=None, metadata=help_text("The column of images; if unset, the one called `image`, or the only one.")
    )
    label_column: str | None = field(
        default=None,
        metadata=help_text("The column of classes, numbers or names; if unset, the first of type ClassLabel."),
    )
    test_fraction: float = field(
        default=0.1,
        metadata=help_text("Fraction held out for testing if there is no test split; 0 for none."),
    )
    validation_fraction: float = field(
        default=0.0,
        metadata=help_text(
            "Fraction held out for validation if there is no validation split; 0 uses the test images."
        ),
    )
    skip_bad_images: bool = field(default=False, metadata=help_text("Skip images that cannot be read."))
    streaming: bool = field(
        default=False,
        metadata=help_text("Read the data set while training; it need not fit in memory or on the disk."),
    )
    shuffle_buffer_size: int = field(
        default=4096, metadata=help_text("Encoded images of a stream that a process shuffles together.")
    )
    max_held_out_images: int = field(
        default=2048, metadata=help_text("Maximum number of test, and of validation, images taken from a stream.")
    )
    dataloader_num_workers: int = field(default=0, metadata=help_text("Workers that read images, per process."))

    @property
    def names_data(self) -> bool:
        """Whether the data are named, and not the default ones."""
        return self.dataset_name is not None or self.train_data_dir is not None


@dataclass
class EmojiDataArguments(DataArguments):
    """The images; by default OpenMoji's emoji (32x32 unless resized)."""


@dataclass
class CaptionedDataArguments(DataArguments):
    """The images and their captions; by default OpenMoji's emoji with their names (16x16 unless resized)."""

    caption_column: str | None = field(
        default=None,
        metadata=help_text("The column of captions; if unset, one called text, caption, captions, prompt or txt."),
    )


@dataclass
class SuperResolutionDataArguments(CaptionedDataArguments):
    """The images, at the resolution that they are enlarged to; by default OpenMoji's emoji (32x32 unless resized)."""

    crop_size: int | None = field(
        default=None,
        metadata=help_text("Side of random squares of the images to train on; the whole images if unset."),
    )
