# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a saved pipeline of any family, which its index names."""

from __future__ import annotations

import os
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub.errors import EntryNotFoundError

from ..hub.push import lacks_index
from ..hub_errors import hub_errors
from .pipeline_ddpm_paper import DDPMPaperPipeline
from .pipeline_ddpm_paper_super_resolution import DDPMPaperSuperResolutionPipeline
from .pipeline_ddpm_paper_text_to_image import DDPMPaperTextToImagePipeline
from .sampling_pipeline import SamplingPipeline


# By the class that the index names, which is a stock one.
FAMILIES: dict[str, type[SamplingPipeline]] = {
    "IFPipeline": DDPMPaperTextToImagePipeline,
    "IFSuperResolutionPipeline": DDPMPaperSuperResolutionPipeline,
}


def load_pipeline(name: str | os.PathLike, **kwargs: Any) -> SamplingPipeline:
    """The pipeline that a folder or a repository on the Hub holds; arguments and errors as `from_pretrained`."""
    return pipeline_class(name, kwargs.get("revision")).from_pretrained(name, **kwargs)


def pipeline_class(name: str | os.PathLike, revision: str | None = None) -> type[SamplingPipeline]:
    """The class for a saved pipeline; `DDPMPaperPipeline` for every index that names no other family, or for none.

    Raises:
        HubError: as `from_pretrained`.
    """
    with hub_errors(str(name), revision):
        try:
            config = DiffusionPipeline.load_config(name, revision=revision)
        except (OSError, EntryNotFoundError) as error:
            if not lacks_index(error):
                raise
            config = {}
    return FAMILIES.get(config.get("_class_name", ""), DDPMPaperPipeline)
