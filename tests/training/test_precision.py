# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision in examples/train.py: the model computes in half precision, what surrounds it in float32."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from training_runs import TINY, train

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.data.batches import Batch
from ddpm_hf.training import loop
from ddpm_hf.training.state import Job


RUN = [
    *TINY,
    *shlex.split(
        "--max_train_steps 2 --train_batch_size 64 --num_quality_samples 0 --validation_steps 0 --ddpm_num_steps 1000"
        " --ddpm_num_inference_steps 2 --timestep_sampling stratified --ddpm_beta_schedule linear"
    ),
]


@contextlib.contextmanager
def looked_at() -> Iterator[dict[str, Any]]:
    """Yields what was seen of the last step: the model's input and output, the loss, the weights and averages."""
    seen, losses_of = {"loss": set()}, loop.losses_of

    def look(job: Job, batch: Batch, t: torch.Tensor, first: int) -> torch.Tensor:
        def see(model: object, arguments: tuple, output: tuple) -> None:
            seen.update(x_0=batch.images, x_t=arguments[0], t=t, output=output[0].dtype)

        handles = [
            job.unet.register_forward_hook(see),
            job.unet.conv_in.register_forward_hook(lambda *told: seen.update(convolution=told[-1].dtype)),
        ]
        losses = losses_of(job, batch, t, first)
        for handle in handles:
            handle.remove()
        seen["loss"].add(losses.dtype)
        seen["weights"] = {parameter.dtype for parameter in job.unet.parameters()}
        seen["averages"] = {value.dtype for average in job.averages for value in average.averages}
        return losses

    with mock.patch.object(loop, "losses_of", look):
        yield seen


@pytest.mark.parametrize(("precision", "convolution"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_noise_loss_and_averages_are_float32(tmp_path: Path, precision: str, convolution: torch.dtype) -> None:
    with looked_at() as seen:
        train(tmp_path / "run", *RUN, "--mixed_precision", precision)
    assert seen["convolution"] == convolution  # the model does compute in this precision
    assert seen["x_t"].dtype == seen["output"] == torch.float32
    assert seen["loss"] == seen["averages"] == seen["weights"] == {torch.float32}
    # x_t is what float64 makes of x_0, and noise arrives at the least noisy timesteps, where bfloat16 would lose it.
    assert (seen["x_t"] - seen["x_0"]).abs().amax(dim=(1, 2, 3)).min() > 0
    x_0, x_t = seen["x_0"].double(), seen["x_t"].double()
    abar = DDPMPaperScheduler().alphas_cumprod.double()[seen["t"]].reshape(-1, 1, 1, 1)
    noise = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel()) and abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.numel())
