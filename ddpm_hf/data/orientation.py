# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The orientation of the camera. Files store it before the pixels, except some PNG files, which store it after."""

from __future__ import annotations

import struct
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps


TOLD_IN = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # keys of an image's `info`
TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # the PNG chunks that they come from


def is_on_its_side(image: Image.Image, source: BinaryIO) -> bool:
    """Whether width and height of an opened image are swapped when it is turned upright.

    Args:
        source: the file that the image was opened from.
    """
    if image.format == "TIFF":  # Pillow itself turns these upright
        return False
    if not any(key in image.info for key in TOLD_IN) and not (
        image.format == "PNG" and _has_text_after_pixels(source)
    ):
        return False
    return _orientation(image) in (5, 6, 7, 8)


def upright(image: Image.Image) -> Image.Image:
    """A loaded image, turned upright."""
    return ImageOps.exif_transpose(image) if _orientation(image) in range(2, 9) else image


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # invalid metadata do not make the pixels unreadable
        return None


def _has_text_after_pixels(source: BinaryIO) -> bool:
    """Whether a PNG file has text chunks after its pixels; the position in the file is restored."""
    place = source.tell()
    try:
        source.seek(8)
        seen_pixels = False
        while len(head := source.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if seen_pixels and kind in TEXTS:
                return True
            seen_pixels = seen_pixels or kind == b"IDAT"
            source.seek(length + 4, 1)
        return False
    finally:
        source.seek(place)
