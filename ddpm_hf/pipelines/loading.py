# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a saved pipeline of any family, which its index names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from ..hub.push import INDEX, lacks_index
from ..hub_errors import hub_errors
from .pipeline_ddpm_paper import DDPMPaperPipeline
from .pipeline_ddpm_paper_latent import STOCK, DDPMPaperLatentPipeline
from .pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline
from .pipeline_ddpm_paper_super_resolution import DDPMPaperSuperResolutionPipeline
from .pipeline_ddpm_paper_text_to_image import DDPMPaperTextToImagePipeline
from .pipeline_ddpm_paper_unclip import DDPMPaperUnCLIPPipeline
from .sampling_pipeline import SamplingPipeline


# By the class that the index names, which is a stock one.
FAMILIES: dict[str, type[SamplingPipeline]] = {
    **{
        family.stock_name: family
        for family in (
            DDPMPaperTextToImagePipeline,
            DDPMPaperSuperResolutionPipeline,
            DDPMPaperPriorPipeline,
            DDPMPaperUnCLIPPipeline,
        )
    },
    **dict.fromkeys(STOCK, DDPMPaperLatentPipeline),
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
            path = Path(name, INDEX) if Path(name).is_dir() else _downloaded(str(name), revision)
            named = json.loads(path.read_text("utf-8")).get("_class_name")
        except (OSError, EntryNotFoundError) as error:
            if not (isinstance(error, FileNotFoundError) or lacks_index(error)):
                raise
            named = None
        except (ValueError, AttributeError):  # a damaged index, of which `from_pretrained` tells
            named = None
    return FAMILIES.get(named, DDPMPaperPipeline)


def _downloaded(name: str, revision: str | None) -> Path:
    """The index of a repository, or that in the cache if the Hub cannot be reached."""
    try:
        HfApi().model_info(name, revision=revision)  # tells at once, without further tries
    except (httpx.ConnectError, OfflineModeIsEnabled):
        return Path(hf_hub_download(name, INDEX, revision=revision, local_files_only=True))
    return Path(hf_hub_download(name, INDEX, revision=revision))
