# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model of `ddpm-hf compress` and `ddpm-hf decompress`."""

from __future__ import annotations

import torch

from ..evaluation.arguments import ModelPathArguments
from ..evaluation.scoring import load_pipeline
from ..pipelines.sampling_pipeline import SamplingPipeline


def load_for_codec(name: str | None) -> SamplingPipeline:
    """The model that `--model` names, on a GPU if there is one.

    Raises:
        ValueError, OSError: if it names none, or the model cannot be loaded.
    """
    if name is None:
        raise ValueError("`model` must name a folder or a model on the Hub.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_pipeline(ModelPathArguments(name), device, "model")
