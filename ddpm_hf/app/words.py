# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the page says of scores and files, in Markdown."""

from __future__ import annotations

import math

from ..evaluation.file_formats import JPEG_XL
from ..pipelines.compressing import Decompressed
from ..runtime.words import plural
from .compressing import PackedPicture, Prefix
from .scoring import Score


PLUGIN = "JPEG XL is left out: `pip install pillow-jxl-plugin` adds it."


def told_score(score: Score) -> str:
    """The figures of a score."""
    result = score.result
    rows = [(name, f"{bits:.4f}") for name, bits in result.parts.items()]
    table = "\n".join(f"| {name} | {bits} |" for name, bits in rows)
    return (
        f"### {result.total:.3f} ± {score.standard_error:.3f} bits/dim\n\n"
        f"The PNG file of the same pixels has {score.png_bytes} bytes, **{score.png_bits_per_dim:.3f}** bits/dim.\n\n"
        f"| part | bits/dim |\n| --- | --- |\n{table}\n\n"
        f"An upper bound on −log₂ p per pixel and channel: the mean of {result.num_examples} draws of the noise, each"
        f" with {score.calls} model calls. ± is the standard error from noise and timesteps."
    )


def told_sizes(packed: PackedPicture) -> str:
    """The lengths of a picture's files, the shortest first."""
    sizes = {"this model": len(packed.content), **packed.sizes}
    rows = "\n".join(
        f"| {_bold(name, name == 'this model')} | {size} | {size * 8 / packed.dimensions:.3f} |"
        for name, size in sorted(sizes.items(), key=lambda row: row[1])
    )
    missing = "" if JPEG_XL.name in packed.sizes else f"\n\n{PLUGIN}"
    head = f"{packed.head} of the model's bytes are the header, which names the model and checks the pixels."
    return f"| file | bytes | bits/dim |\n| --- | --- | --- |\n{rows}\n\n{head}{missing}"


def told_prefix(prefix: Prefix, count: int, packed: PackedPicture) -> str:
    """What the slider has decoded."""
    count = max(count, packed.least)
    if prefix.is_exact:
        return f"All {count} bytes: the picture, pixel for pixel."
    psnr = "" if math.isinf(prefix.psnr) else f", PSNR {prefix.psnr:.1f} dB"
    return f"The first {count} of {len(packed.content)} bytes: an approximation{psnr}."


def told_file(found: Decompressed) -> str:
    """What an uploaded file held."""
    count = plural(len(found.pictures), "picture")
    return (
        f"{count}, as compressed, pixel for pixel." if found.is_exact else f"{count}, approximately: the file is cut."
    )


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text
