# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks that raise an error for NaN and infinite results, and messages that say where these came from.

The checks stay on the device until a result is read anyway, so that they do not synchronise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self


NO_TIMESTEP_0 = (
    " A UNet whose `time_embedding_type` is 'fourier' divides by its timestep and takes its logarithm, and so has no"
    " timestep 0: give it t + 1 in its place, in training too, or leave timestep 0 out of the chain by"
    " `set_timesteps(timesteps=...)`."
)
MOST_LISTED = 5  # timesteps that a message lists


class FiniteTerms(NamedTuple):
    """Whether each term of a result is finite, and whether the model output behind it is.

    Attributes:
        terms: whether each term is finite, bool `[N]`.
        outputs: whether each term's model output is finite, bool `[N]`.
        timesteps: diffusers' timesteps, `[N]`.
    """

    terms: Tensor
    outputs: Tensor
    timesteps: Tensor

    @classmethod
    def of(cls, terms: Tensor, model_output: Tensor, timesteps: Tensor | int) -> Self:
        """From terms and outputs `[B, *anything]`, one term per example; no value is read from the device."""
        timesteps = torch.as_tensor(timesteps, device="cpu").expand(len(terms))
        return cls(finite_examples(terms), finite_examples(model_output), timesteps)

    @classmethod
    def require(cls, parts: Sequence[Self], what: str) -> None:
        """Raise ValueError unless all terms are finite; `what` names the result, such as "The bound"."""
        if bool(torch.cat([part.terms for part in parts]).all()):
            return
        terms, outputs, timesteps = (torch.cat([each.cpu() for each in column]) for column in zip(*parts, strict=True))
        if bool(outputs[~terms].all()):
            at = _listed(timesteps[~terms])
            raise ValueError(f"{what} is not finite at {at}, though the output of `denoise` is: it is too large.")
        raise ValueError(f"{what} is not finite: {outputs_sentence(timesteps[~terms & ~outputs])}")


def finite_examples(x: Tensor) -> Tensor:
    """Whether all values of each example are finite, bool `[B]`, on the device of `x`."""
    return x.isfinite().reshape(len(x), -1).all(dim=1)


def outputs_sentence(timesteps: Tensor) -> str:
    """A message with the timesteps of outputs that are not finite, and advice if this is timestep 0 only."""
    sentence = f"`denoise` gives values that are not finite at {_listed(timesteps)}."
    return sentence if bool(timesteps.any()) else sentence + NO_TIMESTEP_0


def require_finite(**tensors: Tensor) -> None:
    """Raise ValueError unless the named arguments are finite."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"`{name}` must be finite, but holds values that are not.")


def _listed(timesteps: Tensor) -> str:
    """ "timesteps 1, 2, 3, 4, 5 and 7 more"."""
    distinct = timesteps.unique().tolist()
    listed = ", ".join(f"{t:g}" for t in distinct[:MOST_LISTED])
    more = f" and {len(distinct) - MOST_LISTED} more" if len(distinct) > MOST_LISTED else ""
    return f"timestep{'s' if len(distinct) > 1 else ''} {listed}{more}"
