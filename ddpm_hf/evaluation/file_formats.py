# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Lossless files of a picture in the usual formats, each as small as Pillow makes it."""

from __future__ import annotations

import importlib
import importlib.util
import io
from typing import Any

from PIL import Image


JPEG_XL = "JXL"
OF_PLUGINS = {JPEG_XL: "pillow_jxl"}  # formats that Pillow has only by a plugin, and its module
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
    JPEG_XL: {"lossless": True, "effort": 9},
}


def formats_there() -> list[str]:
    """The names of the formats that this installation can write; JPEG XL needs the package pillow-jxl-plugin."""
    found = []
    for name in FORMATS:
        plugin = OF_PLUGINS.get(name)
        if plugin is not None:
            if importlib.util.find_spec(plugin) is None:
                continue
            importlib.import_module(plugin)  # registers the format
        found.append(name)
    return found


def file_of(picture: Image.Image, name: str) -> bytes:
    """The picture as a file of a format that is there, without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, name, **FORMATS[name])
    return buffer.getvalue()
