# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bits of an embedding by a prior: those of z ~ q(z | x), less the entropy of q(z | x), which coding z gives back.

It is the bound on the divergence of p(z | c) from q(z | x), and does not depend on the scale of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..results import PriorFigures


def entropy_bits(width: int, posterior_std: float) -> float:
    """The entropy of q(z | x) = N(e(x), s² I), bits."""
    return 0.5 * width * math.log2(2 * math.pi * math.e * posterior_std**2)


def prior_figures(report: Mapping[str, Any], width: int, posterior_std: float) -> PriorFigures:
    """The figures of a prior, in bits per image, from those of a diffusion of embeddings, in bits per dimension.

    Args:
        report: the bound on test embeddings, and perhaps what captions are worth.
        width: D, the dimensions of an embedding.
        posterior_std: s.
    """
    if "bits_per_dim" not in report:
        return {}
    entropy = entropy_bits(width, posterior_std)
    figures: PriorFigures = {
        "prior_bits_per_image": width * report["bits_per_dim"] - entropy,
        "prior_bits_per_image_standard_error": width * report["bits_per_dim_standard_error"],
    }
    if "caption_information_bits" not in report:
        return figures
    error = report["bits_per_dim_unconditional_standard_error"]
    figures["prior_bits_per_image_unconditional"] = width * report["bits_per_dim_unconditional"] - entropy
    figures["prior_bits_per_image_unconditional_standard_error"] = width * error
    for name in ("bits", "bits_standard_error", "bits_shuffled", "bits_shuffled_standard_error"):
        figures[f"prior_caption_information_{name}"] = report[f"caption_information_{name}"]  # type: ignore[literal-required]
    return figures
