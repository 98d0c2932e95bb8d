# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Networks and settings by the resolution of images: which there are, and which one fits.

The digits' settings were chosen by experiments (benchmarks/choose_hyperparameters.py). The others keep their pattern
and follow what was published for such resolutions: attention at 16x16 pixels and below (Ho et al. 2020), width and
depth that grow with the resolution, learning rates that fall with it, longer averages (Nichol & Dhariwal 2021; Karras
et al. 2022). benchmarks/presets.py measures what each one costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.arguments import given_in


AUTO = "auto"
ATTENTION = 16  # pixels: blocks of this resolution and below have attention
# Where one of these is given, the user has a network of their own.
NETWORK = {"model_config_name_or_path", "block_out_channels", "down_block_types", "up_block_types"}

Preset = Mapping[str, Any]
"""Arguments of model and training by name."""


def _network(resolution: int, *channels: int, groups: int, head: int) -> dict[str, Any]:
    sides = [resolution // 2**depth for depth in range(len(channels))]
    kinds = ["" if side > ATTENTION or side == resolution else "Attn" for side in sides]
    return {
        "block_out_channels": list(channels),
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "norm_num_groups": groups,
        "attention_head_dim": head,
    }


def _text_network(resolution: int, *channels: int, groups: int) -> dict[str, Any]:
    """Attention, to the caption and within the picture, at 16x16 pixels and below; not at the first of several."""
    sides = [resolution // 2**depth for depth in range(len(channels))]
    kinds = ["" if side > ATTENTION or side == resolution else "CrossAttn" for side in sides]
    return {
        "block_out_channels": list(channels),
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "norm_num_groups": groups,
    }


def _fit(batch_size: int, steps: int, warmup: int, rate: float, average: float, dropout: float) -> dict[str, Any]:
    return {
        "train_batch_size": batch_size,
        "max_train_steps": steps,
        "lr_warmup_steps": warmup,
        "learning_rate": rate,
        "adam_weight_decay": 0.05,
        "ema_max_decay": [average],
        "dropout": dropout,
    }


def _score(num_quality_samples: int, eval_batch_size: int, **others: int) -> dict[str, Any]:
    """Samples and scores that cost no more than a short training: model calls grow with the square of the side."""
    return {"num_quality_samples": num_quality_samples, "eval_batch_size": eval_batch_size, **others}


# Arguments of train.py by the side of the images; what is not named keeps its default.
PRESETS: dict[str, Preset] = {
    "8": {},  # the digits': all defaults
    "16": _network(16, 32, 64, 128, groups=8, head=16) | _fit(64, 5_000, 50, 2e-3, 0.995, 0.1) | _score(200, 36),
    "32": _network(32, 48, 96, 144, groups=16, head=48) | _fit(64, 10_000, 50, 1e-3, 0.999, 0.1) | _score(100, 36),
    "64": _network(64, 64, 64, 128, 256, groups=32, head=32)
    | _fit(32, 50_000, 100, 5e-4, 0.9995, 0.1)
    | _score(36, 36, num_paths=0),
    "128": _network(128, 64, 64, 128, 128, 256, groups=32, head=32)
    | _fit(16, 100_000, 250, 2e-4, 0.9999, 0.0)
    | _score(0, 16, num_paths=0),
    "256": _network(256, 64, 64, 128, 128, 256, 256, groups=32, head=32)
    | _fit(8, 200_000, 250, 1e-4, 0.9999, 0.0)
    | _score(0, 9, num_paths=0),
}


# The same for models of text to image. The smallest is for OpenMoji in minutes on two CPU cores.
TEXT_PRESETS: dict[str, Preset] = {
    "16": _text_network(16, 32, 64, 128, groups=16)
    | _fit(16, 4_000, 50, 2e-3, 0.998, 0.0)
    | _score(144, 36, num_paths=0, num_evaluations=20),
    "32": _text_network(32, 64, 128, 192, groups=32) | _fit(32, 20_000, 100, 5e-4, 0.999, 0.1) | _score(100, 36),
    "64": _text_network(64, 96, 192, 288, 384, groups=32)
    | _fit(32, 100_000, 500, 2e-4, 0.9999, 0.1)
    | _score(36, 36, num_paths=0),
}


# The same for models of super-resolution, by the side of the enlarged images. The smallest is for OpenMoji on two CPU
# cores.
SUPER_RESOLUTION_PRESETS: dict[str, Preset] = {
    "32": _text_network(32, 32, 64, 96, groups=16)
    | _fit(8, 3_000, 50, 1e-3, 0.998, 0.0)
    | _score(0, 36, num_paths=0, num_evaluations=8, max_measured_images=512, num_retrieval_images=0),
    "64": _text_network(64, 64, 96, 128, 192, groups=32)
    | _fit(32, 50_000, 200, 3e-4, 0.9995, 0.1)
    | _score(0, 36, num_paths=0, num_retrieval_images=0),
    "128": _text_network(128, 64, 64, 128, 192, 256, groups=32)
    | _fit(16, 100_000, 500, 2e-4, 0.9999, 0.1)
    | _score(0, 16, num_paths=0, num_retrieval_images=0),
}


def _coder(
    *channels: int, groups: int, layers: int, batch_size: int, steps: int, rate: float, average: float
) -> dict[str, Any]:
    return {
        "block_out_channels": list(channels),
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "train_batch_size": batch_size,
        "max_train_steps": steps,
        "lr_warmup_steps": 100,
        "learning_rate": rate,
        "adam_weight_decay": 0.01,
        "ema_max_decay": [average],
    }


# The same for autoencoders. The smallest is for OpenMoji in minutes on two CPU cores: its latents are half as wide and
# high as the images, since emoji have outlines of one pixel. Others are 4 times smaller, and from 256 on 8 times.
AUTOENCODER_PRESETS: dict[str, Preset] = {
    "32": _coder(16, 32, groups=8, layers=1, batch_size=16, steps=9_000, rate=2e-3, average=0.995)
    | {"mid_block_add_attention": False},
    "64": _coder(32, 64, 128, groups=16, layers=1, batch_size=32, steps=20_000, rate=1e-3, average=0.999),
    "128": _coder(64, 128, 256, groups=32, layers=2, batch_size=16, steps=100_000, rate=2e-4, average=0.9995),
    "256": _coder(128, 256, 512, 512, groups=32, layers=2, batch_size=8, steps=200_000, rate=1e-4, average=0.9999),
}


# The same for diffusions of latents, by the side of the latents. The first two are for OpenMoji on two CPU cores.
LATENT_PRESETS: dict[str, Preset] = {
    "8": _network(8, 64, 96, groups=16, head=48) | _fit(32, 1_200, 50, 2e-3, 0.995, 0.1) | _score(100, 36),
    "16": _network(16, 32, 64, groups=16, head=32)
    | _fit(16, 2_000, 50, 2e-3, 0.995, 0.0)
    | _score(36, 36, num_paths=0, num_evaluations=20),
    "32": _network(32, 128, 256, 384, groups=32, head=64)
    | _fit(32, 100_000, 500, 2e-4, 0.9995, 0.1)
    | _score(36, 36, num_paths=0),
    "64": _network(64, 128, 256, 384, 512, groups=32, head=64)
    | _fit(16, 200_000, 1_000, 1e-4, 0.9999, 0.0)
    | _score(0, 16, num_paths=0),
}

# And with text.
LATENT_TEXT_PRESETS: dict[str, Preset] = {
    "8": _text_network(8, 64, 96, groups=16) | _fit(16, 1_400, 50, 2e-3, 0.995, 0.0) | _score(36, 36, num_paths=0),
    "16": _text_network(16, 32, 64, groups=16)
    | _fit(16, 1_400, 50, 2e-3, 0.995, 0.0)
    | _score(36, 36, num_paths=0, num_evaluations=20),
    "32": _text_network(32, 128, 256, 384, groups=32)
    | _fit(32, 100_000, 500, 2e-4, 0.9995, 0.1)
    | _score(36, 36, num_paths=0),
    "64": _text_network(64, 128, 256, 384, 512, groups=32)
    | _fit(16, 200_000, 1_000, 1e-4, 0.9999, 0.0)
    | _score(0, 16, num_paths=0),
}


def _vision(patch: int, width: int, layers: int, batch_size: int, steps: int, rate: float) -> dict[str, Any]:
    return {
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "train_batch_size": batch_size,
        "max_train_steps": steps,
        "lr_warmup_steps": 50,
        "learning_rate": rate,
        "adam_weight_decay": 0.2,
        "ema_max_decay": [0.99],
        "save_images_epochs": 0,
    }


# The same for image encoders, trained against a text encoder. The smallest is for OpenMoji on two CPU cores.
IMAGE_ENCODER_PRESETS: dict[str, Preset] = {
    "16": _vision(4, 128, 3, batch_size=128, steps=150, rate=1e-3),
    "32": _vision(4, 192, 4, batch_size=256, steps=5_000, rate=5e-4),
    "64": _vision(8, 256, 6, batch_size=512, steps=20_000, rate=5e-4),
}


# The same for decoders of embeddings (unCLIP). The smallest is for OpenMoji on two CPU cores.
UNCLIP_PRESETS: dict[str, Preset] = {
    "16": _text_network(16, 32, 64, 128, groups=16)
    | _fit(16, 3_000, 50, 2e-3, 0.998, 0.0)
    | _score(0, 36, num_paths=0, num_evaluations=20),
    "32": _text_network(32, 64, 128, 192, groups=32) | _fit(32, 20_000, 100, 5e-4, 0.999, 0.1) | _score(0, 36),
    "64": _text_network(64, 96, 192, 288, 384, groups=32)
    | _fit(32, 100_000, 500, 2e-4, 0.9999, 0.1)
    | _score(0, 36, num_paths=0),
}


def check_preset(name: str, presets: Mapping[str, Preset]) -> None:
    """Raise ValueError for a name that is neither auto nor that of a preset."""
    if name not in (AUTO, *presets):
        raise ValueError(f"`preset` must be one of {', '.join((AUTO, *presets))}, but is {name!r}.")


def preset_for(
    presets: Mapping[str, Preset], model: Any, height: int, width: int, used_before: str | None = None
) -> str | None:
    """The name of the preset to train with; None where the user gives a network of their own.

    Args:
        presets: those of the family.
        model: the arguments of the model.
        height, width: of the images.
        used_before: the preset of the run that is resumed, if it was chosen in the same way.

    Raises:
        ValueError: if the preset asked for, or any, does not fit the size.
    """
    if model.preset != AUTO:
        _require_fit(presets, model.preset, height, width)
        return model.preset
    if NETWORK & given_in(model):
        return None
    return used_before or _nearest(presets, height, width)


def settled(presets: Mapping[str, Preset], name: str | None, given: frozenset[str]) -> Preset:
    """The arguments of a preset, without its number of steps where the user says how long to train."""
    values = {} if name is None else presets[name]
    return {key: value for key, value in values.items() if key != "max_train_steps" or "num_epochs" not in given}


def _nearest(presets: Mapping[str, Preset], height: int, width: int) -> str:
    """The smallest preset of at least the images' resolution that takes them, or else the largest below.

    That has at least half of their resolution: with less it would attend to too many pixels.
    """
    side = max(height, width)
    as_large = [name for name in presets if int(name) >= side]
    smaller = [name for name in reversed(presets) if side / 2 <= int(name) < side]
    fitting = (name for name in (*as_large, *smaller) if _fits(presets[name], height, width))
    name = next(fitting, None)
    if name is None:
        _require_fit(presets, next(iter(as_large), list(presets)[-1]), height, width)
        raise ValueError(
            f"The largest `preset` is {list(presets)[-1]}, too small for images of {height}x{width}; pass another"
            " --resolution, a --preset all the same, or a network such as --block_out_channels."
        )
    return name


def multiple_of(preset: Preset) -> int:
    """What the sides of the images must be a multiple of."""
    return 2 ** (len(preset.get("block_out_channels", (0, 0))) - 1)


def _fits(preset: Preset, height: int, width: int) -> bool:
    return height % multiple_of(preset) == width % multiple_of(preset) == 0


def _require_fit(presets: Mapping[str, Preset], name: str, height: int, width: int) -> None:
    if not _fits(presets[name], height, width):
        step, side = multiple_of(presets[name]), max(height, width)
        near = " or ".join(str(each) for each in (side // step * step, -(-side // step) * step) if each)
        raise ValueError(
            f"`preset` {name} takes images whose sides are multiples of {step}, but these are {height}x{width}; pass"
            f" --resolution {near}, or another network by --preset or --block_out_channels."
        )
