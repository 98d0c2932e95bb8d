# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision in examples/train.py: the model computes in half precision, everything else in float32."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hooks import few_digits
from in_process import a_process
from training_runs import TINY

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.cli.train import main
from ddpm_hf.data.batches import Batch
from ddpm_hf.training import step
from ddpm_hf.training.state import TrainState


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
    seen, losses_of = {"loss": set()}, step.losses_of

    def look(state: TrainState, batch: Batch, t: torch.Tensor, *rest: Any) -> torch.Tensor:
        def see(model: object, arguments: tuple, output: tuple) -> None:
            seen.update(x_0=batch.x_0, x_t=arguments[0], t=t, output=output[0].dtype)

        handles = [
            state.model.register_forward_hook(see),
            state.model.conv_in.register_forward_hook(lambda *told: seen.update(convolution=told[-1].dtype)),
        ]
        losses = losses_of(state, batch, t, *rest)
        for handle in handles:
            handle.remove()
        seen["loss"].add(losses.dtype)
        seen["weights"] = {parameter.dtype for parameter in state.model.parameters()}
        seen["averages"] = {value.dtype for average in state.averages for value in average.averages}
        return losses

    with mock.patch.object(step, "losses_of", look):
        yield seen


def train_by_the_command(*arguments: object) -> None:
    """`ddpm-hf train`, whose step is the library's own, in this process."""
    with few_digits(), a_process(), mock.patch.object(sys, "argv", ["ddpm-hf train", *map(str, arguments)]):
        main()


@pytest.mark.parametrize(("precision", "convolution"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_noise_loss_and_averages_are_float32(tmp_path: Path, precision: str, convolution: torch.dtype) -> None:
    with looked_at() as seen:
        train_by_the_command(*RUN, "--mixed_precision", precision, "--output_dir", tmp_path / "run")
    assert seen["convolution"] == convolution  # the model does compute in this precision
    assert seen["x_t"].dtype == seen["output"] == torch.float32
    assert seen["loss"] == seen["averages"] == seen["weights"] == {torch.float32}
    # x_t is what float64 makes of x_0, and noise arrives at the least noisy timesteps, where bfloat16 would lose it.
    assert (seen["x_t"] - seen["x_0"]).abs().amax(dim=(1, 2, 3)).min() > 0
    x_0, x_t = seen["x_0"].double(), seen["x_t"].double()
    abar = DDPMPaperScheduler().alphas_cumprod.double()[seen["t"]].reshape(-1, 1, 1, 1)
    noise = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel()) and abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.numel())
