# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The reverse process as an animated picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..runtime.output_folder import write_file
from .figures import grid_picture


MOST_IMAGES = 36
WIDEST = 256  # pixels of the model side by side in a grid
SMALLEST_CELL = 40  # pixels of an image; noise hardly compresses, so that a file grows with the area of its frames
COLOURS = 64  # of all frames but the last
FRAME_MS, LAST_FRAME_MS = 100, 3000
TITLE_SIZE, TITLE_HEIGHT, GAP = 16, 26, 12  # pixels


def check_animation(path: Path) -> None:
    """Raise ValueError unless a file of this name can hold an animation."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"`gif` {path} must end in .gif.")


def images_shown(count: int, shape: tuple[int, ...]) -> int:
    """How many of `count` images of the shape `[C, H, W]` an animation shows."""
    columns = max(1, WIDEST // max(shape[1:]))
    return min(count, columns**2, MOST_IMAGES)


def save_animation(frames: Tensor, timesteps: list[int], path: Path, smallest_cell: int = SMALLEST_CELL) -> None:
    """x_t beside the predicted x_0 at some timesteps, then the samples alone, which stay for a longer time.

    Args:
        frames: `[N, F, 2, C, H, W]` in [0, 1].
        timesteps: of the first F − 1 frames.
        path: of the file.
        smallest_cell: pixels; smaller images are enlarged by a whole factor.
    """
    titles = [(f"x_t at timestep {t}", "predicted x_0") for t in timesteps] + [("samples",)]
    *moving, last = [_frame(frames[:, k], title, smallest_cell) for k, title in enumerate(titles)]
    pictures = [*(_in_colours(picture, COLOURS) for picture in moving), _in_colours(last, 256)]
    durations = [FRAME_MS] * len(timesteps) + [LAST_FRAME_MS]

    def write(partial: Path) -> None:
        pictures[0].save(partial, save_all=True, append_images=pictures[1:], duration=durations, loop=0)

    write_file(path, write)


def _frame(pair: Tensor, titles: tuple[str, ...], cell: int) -> Image.Image:
    """The grids of `[N, 2, C, H, W]` side by side under their titles; with one title the first, in the middle."""
    grids = [_opaque(grid_picture(pair[:, side], smallest_cell=cell)) for side in range(len(titles))]
    width, height = grids[0].size
    picture = Image.new(grids[0].mode, (2 * width + GAP, height + TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TITLE_SIZE)
    margin = (2 - len(grids)) * (width + GAP) // 2
    for side, (grid, title) in enumerate(zip(grids, titles, strict=True)):
        left = margin + side * (width + GAP)
        picture.paste(grid, (left, TITLE_HEIGHT))
        draw.text((left + 4, 4), title, fill="black", font=font)
    return picture


def _in_colours(picture: Image.Image, colours: int) -> Image.Image:
    """The picture with so many colours; grey ones have 256 at most anyway."""
    is_whole = picture.mode == "L" and colours == 256
    return picture if is_whole else picture.quantize(colours, dither=Image.Dither.NONE)


def _opaque(grid: Image.Image) -> Image.Image:
    if grid.mode != "RGBA":
        return grid
    return Image.alpha_composite(Image.new("RGBA", grid.size, "white"), grid).convert("RGB")
