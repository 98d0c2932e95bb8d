# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card, and pushing to the Hugging Face Hub."""

from .._lazy import lazy_names


__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "push": ("INDEX", "claim_repository", "model_files", "push_folder"),
        "model_card": ("fill_card", "merge_cards"),
    },
)
