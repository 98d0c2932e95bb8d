# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card, and pushing to the Hugging Face Hub."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:  # the same names once more; `as` marks them as exported
    from .card_sections import merge_cards as merge_cards
    from .model_card import fill_card as fill_card
    from .push import INDEX as INDEX
    from .push import claim_repository as claim_repository
    from .push import model_files as model_files
    from .push import push_folder as push_folder
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "push": ("INDEX", "claim_repository", "model_files", "push_folder"),
            "card_sections": ("merge_cards",),
            "model_card": ("fill_card",),
        },
    )
