# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf info`: what a file of `ddpm-hf compress` says of itself; it needs no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..compression.file_format import Contents, unpacked
from ..runtime.arguments import help_text
from ..runtime.errors import user_errors
from ..runtime.words import plural
from .running import run_script


@dataclass
class InfoArguments:
    """Which file is read."""

    _argument_group_name = "compression"
    _first_arguments = "file"

    file: list[str] = field(default_factory=list, metadata=help_text("The file; the verb's first argument."))


def main() -> None:
    run_script(info, InfoArguments)


def info(script: str, arguments: InfoArguments) -> None:
    """Print the header of a file."""
    with user_errors(script):
        if len(arguments.file) != 1:
            raise ValueError("Name one file: `ddpm-hf info F`.")
        print(described(unpacked(Path(arguments.file[0]).read_bytes())))


def described(file: Contents) -> str:
    """The lines that the verb prints."""
    header = file.header
    total = file.header_bytes + file.names_bytes + len(file.payload)
    names = ", ".join(header.names[:3]) + (", …" if len(header.names) > 3 else "")
    cut = "" if file.is_whole else f" of {header.payload}: the file is cut"
    if header.mode == "set":
        chain = f"chain: {header.steps} steps, {header.spacing}; {header.direct} images coded directly"
    else:
        chain = "lossy: cut to a budget" if header.is_lossy else "lossless"
    return "\n".join(
        [
            f"{header.mode}: {plural(header.images, 'image')} of {header.channels} channels,"
            f" {header.height}x{header.width} pixels, {header.levels} levels; {names}",
            chain + ("; with classes" if header.is_labelled else ""),
            f"{total} bytes, {8 * total / (header.images * header.dimensions):.4f} bits/dim"
            f" = header {file.header_bytes} + names {file.names_bytes} + payload {len(file.payload)}{cut}",
            f"model {header.fingerprint.hex()}",
        ]
    )
