# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The file: a header that tells what is needed to decode it, the names of the images, and the payload.

    "DDPC", version                                      5 bytes
    length of the rest of the header with the names      varint
    mode, flags, spacing                                 1 byte each
    C, H, W, levels − 2, images, steps                   varints
    bins per deviation, images side by side, growth, images coded directly, seed     varints
    length of the payload                                varint
    fingerprint of the model and its chains              8 bytes
    checksum of the pixels and the names                 4 bytes (CRC-32)
    names
    checksum of all of the header and the names          2 bytes (CRC-16)
    payload
    checksum of the payload                              4 bytes, for sets

Numbers are little-endian; a varint has seven bits in each byte, the low ones first. A progressive file may be cut
anywhere after its names.
"""

from __future__ import annotations

import binascii
import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from .names import packed_names, unpacked_names


MAGIC = b"DDPC"
VERSION = 1
MODES = ("set", "progressive")
BILEVEL, LABELLED, LOSSY = 1, 2, 4  # flags
SPACINGS = ("all", "optimal", "log_snr", "linspace", "leading", "trailing", "quadratic")
FINGERPRINT_BYTES, PIXEL_BYTES, CHECK_BYTES, PAYLOAD_BYTES = 8, 4, 2, 4
NUMBERS = (
    *("channels", "height", "width", "levels", "images", "steps"),
    *("resolution", "batch_size", "growth", "direct", "seed", "payload"),
)
MOST = 2**40  # a number beyond it is damage


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        mode: one of `MODES`.
        spacing: how the steps of the chain are spaced, one of `SPACINGS`.
        channels, height, width: of every image.
        levels: the number of levels.
        images: how many.
        steps: of the chain of a set.
        resolution, batch_size, growth, direct: see `codec`.
        seed: of the shared noise.
        payload: its length in bytes.
        fingerprint: of the model and its chains.
        pixels: the checksum of the pixels and the names.
        names: of the images, in order.
        is_bilevel: whether the files are black and white (mode "1" of Pillow).
        is_labelled: whether every image has a class.
        is_lossy: whether the payload was cut to a budget.
    """

    mode: str
    spacing: str
    channels: int
    height: int
    width: int
    levels: int
    images: int
    steps: int
    resolution: int
    batch_size: int
    growth: int
    direct: int
    seed: int
    payload: int
    fingerprint: bytes
    pixels: int
    names: tuple[str, ...]
    is_bilevel: bool = False
    is_labelled: bool = False
    is_lossy: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def dimensions(self) -> int:
        """The number of elements of an image."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class Contents:
    """A file that has been read.

    Attributes:
        header: what it says of itself.
        payload: the payload, or what there is of it.
        header_bytes: the length of everything but names and payload.
        names_bytes: the length of the names.
    """

    header: Header
    payload: bytes
    header_bytes: int
    names_bytes: int

    @property
    def is_whole(self) -> bool:
        return len(self.payload) == self.header.payload


def packed(header: Header, payload: bytes) -> bytes:
    """The bytes of a file; the header takes the payload's length from the payload."""
    header = dataclasses.replace(header, payload=len(payload))
    flags = BILEVEL * header.is_bilevel | LABELLED * header.is_labelled | LOSSY * header.is_lossy
    values = dataclasses.asdict(header) | {"levels": header.levels - 2}
    body = bytes([MODES.index(header.mode), flags, SPACINGS.index(header.spacing)])
    body += b"".join(map(_varint, (values[name] for name in NUMBERS)))
    body += header.fingerprint + header.pixels.to_bytes(PIXEL_BYTES, "little") + packed_names(header.names)
    start = MAGIC + bytes([VERSION]) + _varint(len(body)) + body
    end = zlib.crc32(payload).to_bytes(PAYLOAD_BYTES, "little") if header.mode == "set" else b""
    return start + binascii.crc_hqx(start, 0).to_bytes(CHECK_BYTES, "little") + payload + end


def unpacked(content: bytes, most_images: int | None = None) -> Contents:
    """A file from its bytes.

    Args:
        content: the bytes.
        most_images: how many images it may hold, for files of strangers: a short one may claim many.

    Raises:
        ValueError: if they are not such a file, of a later version, damaged, or of too many images; a progressive file
            may be cut.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError("It is no file of `ddpm-hf compress`.")
    if len(content) > len(MAGIC) and content[len(MAGIC)] != VERSION:
        raise ValueError(
            f"The file has version {content[len(MAGIC)]} of the format, this ddpm_hf reads version {VERSION}; use a"
            " later ddpm_hf."
        )
    reader = _Bytes(content, len(MAGIC) + 1)
    size = reader.varint()
    start = reader.place
    body = reader.take(size)
    check = int.from_bytes(reader.take(CHECK_BYTES), "little")
    if binascii.crc_hqx(content[: start + size], 0) != check:
        raise ValueError("The file is damaged: the checksum of its header differs.")
    header, names_bytes = _header(body, most_images)
    rest = content[reader.place :]
    if header.mode == "progressive":
        if len(rest) > header.payload:
            raise ValueError("The file is damaged: it is longer than its header says.")
        return Contents(header, rest, reader.place - names_bytes, names_bytes)
    if len(rest) != header.payload + PAYLOAD_BYTES:
        is_short = len(rest) < header.payload + PAYLOAD_BYTES
        raise ValueError(f"The file is damaged: it is {'shorter' if is_short else 'longer'} than its header says.")
    payload = rest[: header.payload]
    if zlib.crc32(payload) != int.from_bytes(rest[header.payload :], "little"):
        raise ValueError("The file is damaged: the checksum of its payload differs.")
    return Contents(header, payload, reader.place - names_bytes + PAYLOAD_BYTES, names_bytes)


def _header(body: bytes, most_images: int | None) -> tuple[Header, int]:
    """The header from its bytes, and the length of the names."""
    reader = _Bytes(body, 0)
    mode, flags, spacing = reader.take(3)
    if mode >= len(MODES) or spacing >= len(SPACINGS):
        raise ValueError("The file is damaged: its header names a mode that there is not.")
    numbers = {name: reader.varint() for name in NUMBERS}
    numbers["levels"] += 2
    if most_images is not None and numbers["images"] > most_images:
        raise ValueError(f"The file has {numbers['images']} images; at most {most_images} are read here.")
    fingerprint = reader.take(FINGERPRINT_BYTES)
    pixels = int.from_bytes(reader.take(PIXEL_BYTES), "little")
    names_bytes = len(body) - reader.place
    header = Header(
        mode=MODES[mode],
        spacing=SPACINGS[spacing],
        **numbers,
        fingerprint=fingerprint,
        pixels=pixels,
        names=unpacked_names(reader.take(names_bytes), numbers["images"]),
        is_bilevel=bool(flags & BILEVEL),
        is_labelled=bool(flags & LABELLED),
        is_lossy=bool(flags & LOSSY),
    )
    return header, names_bytes


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


class _Bytes:
    """Reads bytes from a place on; ValueError where there are too few."""

    def __init__(self, content: bytes, place: int):
        self.content, self.place = content, place

    def take(self, count: int) -> bytes:
        found = self.content[self.place : self.place + count]
        if len(found) < count:
            raise ValueError("The file is damaged: it ends within its header.")
        self.place += count
        return found

    def varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self.take(1)
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if number > MOST:
                raise ValueError("The file is damaged: its header holds a number that is too large.")
        return number


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError unless every name is a relative path within a folder, and none comes twice."""
    seen = set()
    for name in names:
        parts = name.split("/")
        if (
            not name
            or "\\" in name
            or "\0" in name
            or ":" in parts[0]
            or any(part in ("", ".", "..") for part in parts)
        ):
            raise ValueError(f"The name {name!r} is not that of a file within a folder.")
        if name in seen:
            raise ValueError(f"The name {name!r} comes twice; compress the files in several steps.")
        seen.add(name)
