# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Colour profiles and transparency of 8-bit images: they become sRGB, with a background behind transparent pixels."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms, ImageColor


Colour = tuple[int, int, int]

WITH_ALPHA = {"LA": "L", "PA": "RGB", "RGBA": "RGB", "La": "L", "RGBa": "RGB"}  # modes with and without alpha
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour spaces of profiles, and the modes that they apply to
# Lossless conversions of other modes before a profile is applied.
FITTING = {
    "RGB": {"RGB": "RGB", "RGBX": "RGB", "P": "RGB", "L": "RGB"},
    "L": {"L": "L"},
    "CMYK": {"CMYK": "CMYK"},
}


def colour_of(name: str) -> Colour:
    """The colour that Pillow knows by this name, such as white, #80c0ff or rgb(0, 0, 0).

    Raises:
        ValueError: naming `background`, if the name is not a colour, or the colour is transparent.
    """
    try:
        red, green, blue, alpha = (*ImageColor.getrgb(name), 255)[:4]
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            "`background` must be a colour that Pillow knows, such as white, #80c0ff or rgb(0, 0, 0), but is"
            f" {name!r}."
        ) from error
    if alpha != 255:
        raise ValueError(f"`background` must be a colour without transparency, but is {name!r}.")
    return red, green, blue


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has an alpha channel, or a transparent colour or palette entry."""
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def on_background(image: Image.Image, colour: Colour) -> Image.Image:
    """The image on an opaque background, RGB; an image without transparency is returned unchanged."""
    if not is_transparent(image):
        return image
    canvas = Image.new("RGBA", image.size, colour)
    canvas.alpha_composite(with_alpha(image))
    return canvas.convert("RGB")


def with_alpha(image: Image.Image) -> Image.Image:
    """The image as RGBA."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return image.convert("RGBA")


def in_srgb(image: Image.Image) -> Image.Image:
    """The image converted to sRGB by its profile; unchanged if there is no profile, or it does not fit the mode.

    Transparency is kept.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if is_transparent(image):
        clear = with_alpha(image)
        grey = image.mode in ("LA", "La", "L")
        opaque = clear.convert("RGB").convert("L") if grey else clear.convert("RGB")
        found = _applied(opaque, profile)
        return image if found is None else _joined(found.convert("RGB"), clear.getchannel("A"))
    found = _applied(image, profile)
    return image if found is None else found


def _joined(image: Image.Image, alpha: Image.Image) -> Image.Image:
    joined = image.convert("RGBA")
    joined.putalpha(alpha)
    return joined


def _applied(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image without transparency in sRGB; None if its profile changes nothing or cannot be used."""
    space = _space(profile)
    mode = FITTING.get(space, {}).get(image.mode)
    transform = None if mode is None else _to_srgb(profile, mode)
    return None if transform is None else ImageCms.applyTransform(image.convert(mode), transform)


@functools.lru_cache(maxsize=64)
def _space(profile: bytes) -> str | None:
    """The mode of images that a profile applies to; None if it cannot be read, or applies to other modes."""
    try:
        return SPACES.get(ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip())
    except (ImageCms.PyCMSError, OSError, ImportError):  # some builds of Pillow lack littlecms
        return None


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from this mode to sRGB; None for a profile that is itself sRGB, to within rounding."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "CMYK":
        return transform
    probe = _all_kinds_of_colours().convert(mode)
    changed = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(changed).max() <= 1 else transform


def _all_kinds_of_colours() -> Image.Image:
    """An image of 18³ colours spread over the RGB cube."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
