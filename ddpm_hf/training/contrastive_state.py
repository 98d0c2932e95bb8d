# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The state of a training run of an image encoder."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..conditioning.columns import Columns
from ..conditioning.prior_text import sentence_embedding
from ..conditioning.text import MASK, STATES
from ..tasks.image_encoder import ImageEncoderTask
from ..tasks.image_encoder_model import ContrastiveEncoder
from ..tasks.unclip_arguments import ContrastiveArguments
from .run_state import RunState


@dataclasses.dataclass(kw_only=True)
class ContrastiveState(RunState):
    """Everything that a run of an image encoder needs, built and checked before it starts.

    Attributes:
        objective: the arguments of what the encoder learns.
        overall_std: the standard deviation of the embeddings of training images over all elements; None until it is
            measured at the end of the run.
    """

    task: ImageEncoderTask
    model: ContrastiveEncoder
    objective: ContrastiveArguments
    overall_std: float | None = None

    def sentences(self, columns: Columns) -> Tensor:
        """The embeddings of captions by the text encoder, `[B, W]`, on the device."""
        made = self.conditioners.make(columns, self.accelerator.device)
        return sentence_embedding(made[STATES], made[MASK]).float()
