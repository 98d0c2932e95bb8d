# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf compress`: compress PNG files by a model of such images."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from ..compression.entropy_coders import require_constriction
from ..compression.images import Compressed
from ..pipelines.compressing import compress as compress_images
from ..runtime.arguments import help_text
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_file
from ..runtime.progress import progress_bar
from ..runtime.threads import use_all_cores
from ..runtime.words import plural
from .codec_models import load_for_codec
from .running import run_script


@dataclass
class CompressionArguments:
    """What is compressed, and how."""

    _argument_group_name = "compression"
    _first_arguments = "images"

    images: list[str] = field(
        default_factory=list, metadata=help_text("A folder of PNG files, or PNG files; the verb's first arguments.")
    )
    model: str | None = field(default=None, metadata=help_text("The model: a folder, or a name on the Hub."))
    output: str | None = field(default=None, metadata=help_text("The file to write; must not exist."))
    mode: str = field(
        default="set",
        metadata=help_text("set, or progressive for one image, of which any prefix of the file is an image."),
    )
    max_bytes: int | None = field(
        default=None, metadata=help_text("The longest file in progressive mode, with its header; lossless if unset.")
    )
    class_labels: list[int] | None = field(
        default=None, metadata=help_text("The class of every image, for a class-conditional model; none if unset.")
    )
    num_inference_steps: int | None = field(
        default=None, metadata=help_text("Steps of a set's chain; at most 50 if unset.")
    )
    timestep_spacing: str | None = field(
        default=None, metadata=help_text("Of these steps: optimal if the errors have been measured, else log_snr.")
    )
    batch_size: int = field(
        default=16, metadata=help_text("Images of a set coded side by side: more are faster and need more memory.")
    )
    seed: int = 0


def main() -> None:
    run_script(compress, CompressionArguments)


def compress(script: str, arguments: CompressionArguments) -> None:
    """Compress the images, and print where the bits are."""
    with user_errors(script):
        require_constriction()
        if not arguments.images:
            raise ValueError("Name PNG files, or a folder of them: `ddpm-hf compress FOLDER --model M --output F`.")
        if arguments.output is None:
            raise ValueError("`output` must name the file to write.")
        output = claim_file(arguments.output)
        pipeline = load_for_codec(arguments.model)
    use_all_cores(pipeline.device)
    with user_errors(script):
        result = compress_images(
            arguments.images,
            pipeline,
            output,
            mode=arguments.mode,
            max_bytes=arguments.max_bytes,
            batch_size=arguments.batch_size,
            num_inference_steps=arguments.num_inference_steps,
            timestep_spacing=arguments.timestep_spacing,
            class_labels=arguments.class_labels,
            seed=arguments.seed,
            progress=functools.partial(progress_bar, desc="coding", unit="group"),
        )
    print(described(result, output))


def described(result: Compressed, output: Path) -> str:
    """The lines that the verb prints."""
    lines = [
        f"{len(result.content)} bytes, {result.bits_per_dim:.4f} bits/dim, for {plural(result.images, 'image')},"
        f" {'lossless' if result.is_exact else 'lossy'}: {output}",
        f"= header {result.header_bytes} + names {result.names_bytes} + payload {result.payload_bytes} bytes",
    ]
    if result.direct_images or result.initial_bits:  # in every set
        lines.append(
            f"{plural(result.direct_images, 'image')} coded directly, in {result.direct_bits} bits; initial bits"
            f" {result.initial_bits}"
        )
    if result.direct_images < result.images:
        lines.append(f"{result.net_bits_per_dim:.4f} bits/dim net")
    return "\n".join(lines)
