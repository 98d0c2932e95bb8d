# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Inputs of the likelihoods: each works as users expect, or raises one sentence that names the argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from tiny_models import tiny_unet
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ddpm_hf import (
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    bits_per_dim,
    classifier_free_guidance,
    importance_weighted_bits_per_dim,
    measure_denoising_errors,
    ode_bits_per_dim,
    ode_sample,
)


T = 20


def unet(channels: int = 3, **settings: Any) -> UNet2DModel:
    return tiny_unet(channels, **settings).requires_grad_(False)


def stock(**settings: Any) -> DDPMScheduler:
    return DDPMScheduler(T, clip_sample=False, **settings)


def images(count: int = 5) -> Tensor:
    levels = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    return levels / 127.5 - 1


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def own(scheduler: DDPMScheduler) -> DDPMPaperScheduler:
    return DDPMPaperScheduler.from_scheduler(scheduler)


# --- what works -----------------------------------------------------------------------------------------------------


def test_a_model_and_a_stock_scheduler_are_scored_as_they_are() -> None:
    model, x = unet(), images()
    expected = bits_per_dim(lambda x_t, t: model(x_t, t).sample, own(stock()), [x], generator=seed())
    assert bits_per_dim(model, stock(), [x], generator=seed()) == expected
    assert bits_per_dim(lambda x_t, t: model(x_t, t), stock(), [x], generator=seed()) == expected
    assert bits_per_dim(lambda x_t, t: model(x_t, t, return_dict=False), stock(), [x], generator=seed()) == expected
    in_half = unet().to(torch.bfloat16)
    assert bits_per_dim(in_half, stock(), [x], generator=seed()).total == pytest.approx(expected.total, rel=0.05)


def test_a_model_itself_serves_every_likelihood_and_guidance() -> None:
    model, x, scheduler = unet(num_class_embeds=4), images(), stock()
    batch = [(x, {"class_labels": torch.arange(5) % 3})]

    def denoise(x_t: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return model(x_t, t, class_labels=class_labels).sample

    def all_figures(denoise: Any) -> list[Any]:
        errors = measure_denoising_errors(denoise, scheduler, batch, num_noise_levels=2, generator=seed())
        weighted = importance_weighted_bits_per_dim(denoise, scheduler, batch, num_paths=2, generator=seed())
        by_ode = ode_bits_per_dim(denoise, scheduler, batch, num_steps=2, generator=seed())
        sample = ode_sample(denoise, scheduler, x, batch[0][1], num_steps=2).sample.tolist()
        guided = classifier_free_guidance(denoise, {"class_labels": 3}, guidance_scale=2.0)
        return [errors, weighted, by_ode, sample, bits_per_dim(guided, scheduler, batch, generator=seed())]

    assert all_figures(model) == all_figures(denoise)


def test_a_data_loader_of_images_alone_gives_batches() -> None:
    expected = bits_per_dim(unet(), stock(), images().split(2), generator=seed())
    loader = DataLoader(TensorDataset(images()), batch_size=2)
    assert bits_per_dim(unet(), stock(), loader, generator=seed()) == expected


@pytest.mark.parametrize("make", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler])
def test_a_stock_scheduler_that_is_not_set_stands_for_all_its_timesteps(make: Callable[[int], Any]) -> None:
    assert bits_per_dim(unet(), make(T), [images(1)]).timesteps == list(range(T))


@pytest.mark.parametrize("make", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_a_stock_scheduler_that_is_set_stands_for_the_chain_it_visits(make: Callable[[int], Any]) -> None:
    scheduler = make(T)
    scheduler.set_timesteps(5)
    visited = bits_per_dim(unet(), scheduler, [images(1)]).timesteps
    assert visited == scheduler.timesteps.tolist()[::-1]
    assert len(visited) == 5


def test_inference_mode_changes_nothing() -> None:
    model, labels = unet(num_class_embeds=3), torch.arange(5) % 3
    model.requires_grad_(True)  # as it is loaded

    def figures(x: Tensor, labels: Tensor) -> list[Any]:
        batch = [(x, {"class_labels": labels})]
        bound = bits_per_dim(model, stock(), batch, generator=seed())
        return [bound, ode_bits_per_dim(model, stock(), batch, num_steps=2, generator=seed())]

    expected = figures(images(), labels)
    with torch.inference_mode():
        assert figures(images(), labels % 3) == expected


def test_numbers_are_measured_like_images() -> None:
    scheduler = DDPMPaperScheduler(T, num_levels=None)
    x_0 = torch.randn(40, generator=seed())
    errors = measure_denoising_errors(lambda x_t, t: 0 * x_t, scheduler, [x_0], num_noise_levels=4)
    as_column = measure_denoising_errors(lambda x_t, t: 0 * x_t, scheduler, [x_0[:, None]], num_noise_levels=4)
    assert len(errors.errors) == len(as_column.errors) == 4


# --- what is refused ------------------------------------------------------------------------------------------------


REFUSED = {
    "one tensor": (lambda: {"batches": images()}, "`batches` must be an iterable of batches, .* pass \\[x\\]"),
    "nothing": (lambda: {"batches": None}, "`batches` must be an iterable of batches, but is NoneType"),
    "labels": (
        lambda: {"batches": DataLoader(TensorDataset(images(), torch.arange(5)))},
        "`batches` .*'class_labels': labels.* gave a list of Tensor, Tensor",
    ),
    "pictures": (lambda: {"batches": [Image.new("RGB", (4, 4))]}, "`batches` .* gave a picture .* \\[-1, 1\\]"),
    "a list of pictures": (
        lambda: {"batches": [[Image.new("L", (4, 4))]]},
        "`batches` .* gave a list of Image; convert .* to tensors",
    ),
    "arrays": (lambda: {"batches": [images().numpy()]}, "`batches` must give tensors .* gave ndarray"),
    "a row of a data set": (lambda: {"batches": [{"image": images()}]}, "`batches` .* gave a dict of image"),
    "a number": (lambda: {"batches": [torch.tensor(0.5)]}, "`batches` of shape \\[\\] does not fit"),
    "bytes": (
        lambda: {"batches": [torch.zeros(2, 3, 4, 4, dtype=torch.uint8)]},
        "`batches` must be a floating-point tensor, but is torch.uint8; scale images to \\[-1, 1\\]",
    ),
    "[0, 1]": (lambda: {"batches": [(images() + 1) / 2]}, "they lie in \\[0, 1\\]: scale them with 2 \\* x - 1"),
    "[0, 255]": (lambda: {"batches": [(images() + 1) * 127.5]}, "they lie in \\[0, 255\\]: scale them with x / 127.5"),
    "other levels": (lambda: {"batches": [images() * 0.99]}, "set `num_levels` to the number of levels of the data"),
    "a seed": (lambda: {"generator": 0}, "`generator` must be a torch.Generator or None, .*manual_seed\\(0\\)"),
    "generators": (lambda: {"generator": [seed()]}, "`generator` must be a torch.Generator or None, but is list"),
    "a pipeline": (lambda: {"denoise": DDPMPaperPipeline(unet(), stock())}, "`denoise` .* pass its `unet`"),
    "a name": (lambda: {"denoise": "google/ddpm-cifar10-32"}, "`denoise` must be a model or a function .* is str"),
    "an output without a sample": (lambda: {"denoise": lambda x_t, t: None}, "`denoise` must return a tensor"),
    "the name of a schedule": (lambda: {"scheduler": "linear"}, "`scheduler` must be a DDPMPaperScheduler, .* is str"),
    "a model for a scheduler": (lambda: {"scheduler": unet()}, "`scheduler` must be a scheduler of diffusers"),
    "gray images": (
        lambda: {"batches": [images()[:, :1]]},
        "takes images of shape \\[B, 3, H, W\\], .* \\[5, 1, 4, 4\\]",
    ),
    "channels last": (
        lambda: {"batches": [images().permute(0, 2, 3, 1)]},
        "\\[B, 3, H, W\\], .* \\[5, 4, 4, 3\\]; move the channels by x.permute\\(0, 3, 1, 2\\)",
    ),
    "one image": (
        lambda: {"batches": [images()[0]]},
        "\\[B, 3, H, W\\], .* \\[3, 4, 4\\]; one image x needs a batch dimension, x\\[None\\]",
    ),
    "active dropout": (
        lambda: {"denoise": unet(dropout=0.1).train()},
        "`denoise` must be in evaluation mode, but its dropout is active .*p = 0.1\\); call its `.eval\\(\\)`",
    ),
    "another device": (lambda: {"denoise": unet().to("meta")}, "model is on meta, but the examples are on cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_told_in_one_sentence(case: str) -> None:
    make, message = REFUSED[case]
    arguments = {"denoise": unet(), "scheduler": stock(), "batches": [images()], "generator": None} | make()
    denoise, scheduler, batches = (arguments.pop(name) for name in ("denoise", "scheduler", "batches"))
    functions = [bits_per_dim, ode_bits_per_dim, importance_weighted_bits_per_dim, measure_denoising_errors]
    for function in functions:
        settings = {"num_noise_levels": 2} if function is measure_denoising_errors else {}
        settings |= {"num_steps": 2} if function is ode_bits_per_dim else {}
        with pytest.raises(ValueError, match=message):
            function(denoise, scheduler, batches, **arguments, **settings)


def test_a_scheduler_that_visits_times_between_two_of_a_chain_is_refused() -> None:
    for make in (EulerDiscreteScheduler, HeunDiscreteScheduler):
        scheduler = make(T)
        scheduler.set_timesteps(5)
        with pytest.raises(ValueError, match=r"`scheduler`, a \w+, visits 14.25, between two"):
            bits_per_dim(unet(), scheduler, [images(1)])


def test_a_step_is_refused_a_seed_for_its_generator() -> None:
    scheduler, x_t = own(stock()), images()
    with pytest.raises(ValueError, match="`generator` must be a torch\\.Generator"):
        scheduler.step(x_t, 5, x_t, generator=0)


def test_a_pipeline_is_refused_what_is_no_model_of_a_sample_and_a_timestep() -> None:
    size = {"block_out_channels": (8,), "norm_num_groups": 4}
    with pytest.raises(ValueError, match=r"`unet` must be a model of a sample and a timestep, .* is AutoencoderKL"):
        DDPMPaperPipeline(AutoencoderKL(**size), stock())
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "cross_attention_dim": 8}
    with pytest.raises(ValueError, match="UNet2DConditionModel, which takes sample, timestep, encoder_hidden_states"):
        DDPMPaperPipeline(UNet2DConditionModel(mid_block_type=None, **size, **blocks), stock())


# --- what is shown --------------------------------------------------------------------------------------------------


def test_results_are_shown_in_a_few_lines_and_told_in_full() -> None:
    arguments = (unet(), stock(), [images()])
    bound = bits_per_dim(*arguments, generator=seed())
    results = [
        bound,
        importance_weighted_bits_per_dim(*arguments, num_paths=3, generator=seed()),
        ode_bits_per_dim(*arguments, num_steps=2, generator=seed()),
    ]
    for result in results:
        lines = str(result).splitlines()
        assert 1 <= len(lines) <= 5 and max(map(len, lines)) <= 119
        assert f"{result.total:.4f} bits/dim" in lines[0] and "standard error" in lines[0]
        assert len(repr(result)) < 120 and repr(result).startswith(type(result).__name__)
        told = json.loads(json.dumps(result.to_dict()))
        assert told["total"] == result.total and told["per_example"] == result.per_example
        rows = pandas.DataFrame(result.table("example"))
        assert list(rows.example) == list(range(result.num_examples))
        assert rows.bits_per_dim.mean() == pytest.approx(result.total, rel=1e-12)
        with pytest.raises(ValueError, match=r"`by` must be one of .*'example', but is 'pixel'"):
            result.table("pixel")
    assert f"{bound.estimation_error:.4f}" in str(bound)
    terms = pandas.DataFrame(bound.table())
    assert list(terms.timestep) == list(range(T))
    assert terms.bits_per_dim.sum() == pytest.approx(bound.rate + bound.decoder)
    by_paths = pandas.DataFrame(results[1].table())
    assert list(by_paths.paths) == [1, 2, 3] and by_paths.bits_per_dim.iloc[-1] == results[1].total
    errors = measure_denoising_errors(*arguments, num_noise_levels=8, per_element=True)
    assert len(repr(errors)) < 200 and "8 noise levels" in repr(errors)


class Wrapped(torch.nn.Module):
    """A model as DistributedDataParallel holds it."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


@pytest.mark.parametrize(
    "wrap", [Wrapped, lambda model: torch.compile(model, backend="eager")], ids=["ddp", "compiled"]
)
def test_a_wrapped_model_is_told_from_images_of_another_shape(wrap: Callable[[UNet2DModel], Any]) -> None:
    with pytest.raises(ValueError, match=r"takes images of shape \[B, 3, H, W\], .* \[5, 1, 4, 4\]\."):
        bits_per_dim(wrap(unet()), stock(), [images()[:, :1]])
    with pytest.raises(ValueError, match="its dropout is active"):
        bits_per_dim(wrap(unet(dropout=0.1).train()), stock(), [images()])


def test_a_failure_that_is_not_about_the_shape_stays_as_it_is() -> None:
    class Broken(torch.nn.Module):
        config = unet().config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            raise error

    out_of_memory = torch.cuda.OutOfMemoryError("CUDA out of memory")
    for error, x in ((RuntimeError("broken"), images()), (out_of_memory, images()[:, :1])):
        with pytest.raises(type(error), match=str(error)):
            bits_per_dim(Broken(), stock(), [x])


def test_a_model_that_takes_more_channels_than_the_images_is_called_by_a_function() -> None:
    model, mask = unet(4, out_channels=3), torch.ones(5, 1, 4, 4)
    bound = bits_per_dim(lambda x_t, t: model(torch.cat([x_t, mask], dim=1), t), stock(), [images()])
    assert bound.num_examples == 5


def test_dropout_that_is_off_or_never_drops_is_scored() -> None:
    expected = bits_per_dim(unet(), stock(), [images()], generator=seed())
    assert bits_per_dim(unet(dropout=0.1), stock(), [images()], generator=seed()) == expected
    assert bits_per_dim(unet(dropout=0.0).train(), stock(), [images()], generator=seed()) == expected


def test_a_training_step_calls_a_model_with_active_dropout() -> None:
    model, x = unet(dropout=0.5).train(), images()
    output = own(stock()).diffusion.model_output(model, x, torch.full((5,), 3))
    assert output.shape == x.shape
