# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf decompress`: the PNG files in a file of `ddpm-hf compress`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from ..compression.entropy_coders import require_constriction
from ..pipelines.compressing import decompress as decompress_file
from ..runtime.arguments import help_text
from ..runtime.errors import user_errors
from ..runtime.progress import progress_bar
from ..runtime.threads import use_all_cores
from ..runtime.words import plural
from .codec_models import load_for_codec
from .running import run_script


@dataclass
class DecompressionArguments:
    """Which file is decompressed, and where to."""

    _argument_group_name = "compression"
    _first_arguments = "file"

    file: list[str] = field(default_factory=list, metadata=help_text("The file; the verb's first argument."))
    model: str | None = field(default=None, metadata=help_text("The model that made the file."))
    output: str | None = field(default=None, metadata=help_text("The folder to write; must be new or empty."))
    max_bytes: int | None = field(
        default=None, metadata=help_text("How many bytes of a progressive file to read; all if unset.")
    )
    batch_size: int = field(default=16, metadata=help_text("Images per call of the model, at most."))


def main() -> None:
    run_script(decompress, DecompressionArguments)


def decompress(script: str, arguments: DecompressionArguments) -> None:
    """Write the images of a file into a folder."""
    with user_errors(script):
        require_constriction()
        if len(arguments.file) != 1:
            raise ValueError("Name one file: `ddpm-hf decompress F --model M --output DIR`.")
        if arguments.output is None:
            raise ValueError("`output` must name the folder to write.")
        pipeline = load_for_codec(arguments.model)
    use_all_cores(pipeline.device)
    with user_errors(script):
        result = decompress_file(
            arguments.file[0],
            pipeline,
            arguments.output,
            max_bytes=arguments.max_bytes,
            batch_size=arguments.batch_size,
            progress=functools.partial(progress_bar, desc="decoding", unit="group"),
        )
    kind = "as they were compressed" if result.is_exact else "an approximation from a part of the file"
    print(f"{plural(len(result.pictures), 'image')}, {kind}: {arguments.output}")
