# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Names of files as bytes: places in the file as nothing, numbered names as a pattern, others compressed by zlib."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence


LIST, PATTERN, PLACES = 0, 1, 2
MOST_PER_NAME = 4096  # bytes: a longer list is damage
MOST = 2**28
MOST_DIGITS = 9  # of the number in a name


def names_by_place(count: int) -> tuple[str, ...]:
    """Names of images that have none, such as `07.png` of the eighth of twenty."""
    width = len(str(count - 1))
    return tuple(f"{i:0{width}d}.png" for i in range(count))


def packed_names(names: Sequence[str]) -> bytes:
    """The names in order, none of which contains a zero byte."""
    if tuple(names) == names_by_place(len(names)):
        return bytes([PLACES])
    pattern = _pattern(names)
    if pattern is not None:
        return bytes([PATTERN]) + "\0".join(map(str, pattern)).encode("utf-8", "surrogateescape")
    packer = zlib.compressobj(9, wbits=-15)  # without a header
    return bytes([LIST]) + packer.compress("\0".join(names).encode("utf-8", "surrogateescape")) + packer.flush()


def unpacked_names(content: bytes, count: int) -> tuple[str, ...]:
    """The `count` names.

    Raises:
        ValueError: if the bytes hold something else.
    """
    try:
        if count > MOST:
            raise ValueError("There are too many names.")
        if content[0] == PLACES:
            return names_by_place(count)
        if content[0] == PATTERN:
            before, after, width, first = _text(content[1:]).split("\0")
            if int(width) > MOST_DIGITS:
                raise ValueError("The names are too long.")
            return tuple(f"{before}{int(first) + i:0{int(width)}d}{after}" for i in range(count))
        reader = zlib.decompressobj(-15)
        names = tuple(_text(reader.decompress(content[1:], min(count * MOST_PER_NAME, MOST) + 1)).split("\0"))
    except (ValueError, IndexError, zlib.error) as error:
        raise ValueError("The file is damaged: its names cannot be read.") from error
    if len(names) != count:
        raise ValueError("The file is damaged: it has another number of names than of images.")
    return names


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _pattern(names: Sequence[str]) -> tuple[str, str, int, int] | None:
    """What stands before and after the number, its width, and the first number; None for other names."""
    found = re.fullmatch(rf"(.*?)(\d{{1,{MOST_DIGITS}}})(\D*)", names[0], re.DOTALL | re.ASCII)
    if found is None:
        return None
    before, digits, after = found.groups()
    is_numbered = all(name == f"{before}{int(digits) + i:0{len(digits)}d}{after}" for i, name in enumerate(names))
    return (before, after, len(digits), int(digits)) if is_numbered else None
