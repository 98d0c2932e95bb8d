# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Guidance of saved models: pipeline, bound, weighted paths, ODE and commands, against loops by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import (
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    bits_per_dim,
    importance_weighted_bits_per_dim,
    ode_bits_per_dim,
)
from ddpm_hf.cli import evaluate as evaluate_command
from ddpm_hf.cli import sample as sample_command
from ddpm_hf.conditioning.classes import LABELS, of_classes
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation.arguments import EvaluationArguments
from ddpm_hf.evaluation.sampling import draw_images, draw_images_by_ode
from ddpm_hf.evaluation.subject import Subject
from ddpm_hf.pipelines.guidance import Guidance
from ddpm_hf.runtime.randomness import Use, generator_of


LABELS_ASKED = [0, 2, 1]
K = 3  # classes; the label K stands for none


def class_unet(embeddings: int | None = K + 1, seed: int = 0, **others: Any) -> UNet2DModel:
    config = {key: value for key, value in tiny_unet(sample_size=8).config.items() if not key.startswith("_")}
    torch.manual_seed(seed)
    unet = UNet2DModel(**config | {"num_class_embeds": embeddings} | others).eval()
    if embeddings is not None:
        with torch.no_grad():
            unet.class_embedding.weight.mul_(3)
        unet.register_to_config(_ddpm_hf={"null_class": embeddings - 1})
    return unet


def quiet(pipeline: DDPMPaperPipeline) -> DDPMPaperPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline() -> DDPMPaperPipeline:
    return quiet(DDPMPaperPipeline(class_unet(), DDPMPaperScheduler(clip_sample=False)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def stock_samples(
    unet: UNet2DModel,
    w: float,
    steps: int,
    interval: tuple[float, float] = (0, math.inf),
    rescale: float = 0.0,
    weaker: UNet2DModel | None = None,
) -> Tensor:
    """The loop of diffusers' own pipelines, with its own scheduler, two calls of the model and no code of ours."""
    scheduler, generator = DDPMScheduler(clip_sample=False), seeded()
    scheduler.set_timesteps(steps)
    labels, null = torch.tensor(LABELS_ASKED), torch.full((3,), K)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    for t in scheduler.timesteps:
        conditional = noise = unet(x, t, labels).sample
        if interval[0] <= t <= interval[1]:
            weak = unet(x, t, null).sample if weaker is None else weaker(x, t).sample
            noise = weak + w * (conditional - weak)
            noise = rescale_noise_cfg(noise, conditional, rescale) if rescale else noise
        x = scheduler.step(noise, t, x, generator=generator).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


# --- the pipeline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        ({"guidance_scale": 3.0}, {"w": 3.0}),
        ({"guidance_scale": 0.5}, {"w": 0.5}),
        ({"guidance_scale": 0}, {"w": 0.0}),
        ({}, {"w": 1.0}),
        ({"guidance_scale": 4, "guidance_interval": (200, 600)}, {"w": 4.0, "interval": (200, 600)}),
        ({"guidance_scale": 4, "guidance_rescale": 0.7}, {"w": 4.0, "rescale": 0.7}),
    ],
    ids=str,
)
def test_a_guided_pipeline_is_stocks_loop_by_hand(pipeline: Any, options: dict, by_hand: dict) -> None:
    found = pipeline(3, seeded(), 20, "pt", class_labels=LABELS_ASKED, **options).images
    close(found, stock_samples(pipeline.unet, steps=20, **by_hand))
    if by_hand["w"] != 1:
        assert (found - stock_samples(pipeline.unet, 1.0, 20)).abs().max() > 0.01


def test_a_weaker_model_guides_by_stocks_loop_by_hand(pipeline: Any) -> None:
    weaker = class_unet(None, seed=1)
    found = pipeline(3, seeded(), 20, "pt", class_labels=LABELS_ASKED, guidance_scale=2, guidance_model=weaker).images
    close(found, stock_samples(pipeline.unet, 2.0, 20, weaker=weaker))


def test_a_weaker_model_of_the_same_classes_is_asked_for_the_same_classes(pipeline: Any) -> None:
    weaker, asked = class_unet(seed=1), {"class_labels": LABELS_ASKED, "guidance_scale": 0.0}
    found = pipeline(3, seeded(), 5, "pt", **asked, guidance_model=weaker).images
    alone = quiet(DDPMPaperPipeline(weaker, pipeline.scheduler))
    assert torch.equal(found, alone(3, seeded(), 5, "pt", class_labels=LABELS_ASKED).images)


def test_an_unconditional_model_is_guided_by_a_weaker_one() -> None:
    strong, weaker = class_unet(None), class_unet(None, seed=1)
    pipeline = quiet(DDPMPaperPipeline(strong, DDPMPaperScheduler(clip_sample=False)))
    found = pipeline(3, seeded(), 10, "pt", guidance_scale=2.5, guidance_model=weaker).images
    assert not torch.equal(found, pipeline(3, seeded(), 10, "pt").images)


def test_images_of_no_class_are_those_of_the_null_class(pipeline: Any) -> None:
    without = pipeline(3, seeded(), 10, "pt").images
    with torch.no_grad():
        plain = class_unet(None)
        weights = {k: v for k, v in pipeline.unet.state_dict().items() if not k.startswith("class_embedding")}
        bias = "time_embedding.linear_2.bias"
        weights[bias] = weights[bias] + pipeline.unet.class_embedding.weight[K]
        plain.load_state_dict(weights)
    alone = quiet(DDPMPaperPipeline(plain, pipeline.scheduler))
    close(without, alone(3, seeded(), 10, "pt").images)
    close(without, pipeline(3, seeded(), 10, "pt", class_labels=LABELS_ASKED, guidance_scale=0).images)


def test_both_predictions_come_from_one_call(pipeline: Any) -> None:
    sizes: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    options = {"class_labels": LABELS_ASKED, "guidance_scale": 2, "guidance_interval": (300, 700)}
    pipeline(3, seeded(), 10, "pt", **options)  # timesteps 900, 800, …, 0
    assert sizes == [3, 3, 6, 6, 6, 6, 6, 3, 3, 3]


@torch.no_grad()
def test_encoding_follows_the_guided_model(pipeline: Any) -> None:
    x_0 = torch.rand(3, 1, 8, 8, generator=seeded()) * 2 - 1
    found = pipeline.encode(x_0, 10, class_labels=LABELS_ASKED, guidance_scale=2.0)
    scheduler, labels = pipeline.scheduler, torch.tensor(LABELS_ASKED)
    visited = scheduler.timesteps.flip(0).tolist()
    x = x_0 * scheduler.alphas_cumprod[visited[0]].sqrt()
    for t in visited[:-1]:
        strong, weak = (pipeline.unet(x, t, each).sample for each in (labels, torch.full((3,), K)))
        x = scheduler.encode_step(weak + 2 * (strong - weak), t, x)
    close(found, x)
    assert (found - pipeline.encode(x_0, 10, class_labels=LABELS_ASKED)).abs().max() > 0.01


def test_learned_variances_are_those_of_the_conditional_model() -> None:
    unet = class_unet(out_channels=2)
    scheduler = DDPMPaperScheduler(variance_type="learned_range", clip_sample=False)
    found = quiet(DDPMPaperPipeline(unet, scheduler))(
        3, seeded(), 10, "pt", class_labels=LABELS_ASKED, guidance_scale=3.0
    )
    generator, labels = seeded(), torch.tensor(LABELS_ASKED)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in scheduler.timesteps:
            (strong, variance), (weak, _) = (
                unet(x, t, each).sample.chunk(2, dim=1) for each in (labels, torch.full((3,), K))
            )
            output = torch.cat([weak + 3 * (strong - weak), variance], dim=1)
            x = scheduler.step(output, int(t), x, generator=generator).prev_sample
    close(found.images, (x / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scale": -1}, "`guidance_scale` must be a finite number >= 0, but is -1"),
        ({"guidance_scale": "2"}, "`guidance_scale` must be a finite number >= 0, but is '2'"),
        (
            {"guidance_scale": 2, "guidance_rescale": 1.5},
            r"`guidance_rescale` must be a number in \[0, 1\]",
        ),
        ({"guidance_interval": (5, 1)}, "`guidance_interval` must be two numbers"),
        ({"guidance_scale": 2, "class_labels": None}, "`guidance_scale` must be 1 for images of no class, but is 2"),
    ],
)
def test_guidance_that_is_none_is_refused_before_the_model_runs(pipeline: Any, options: dict, message: str) -> None:
    seen: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda *_: seen.append(1))
    options = {"class_labels": LABELS_ASKED, **options}
    for call in (pipeline, pipeline.iterate):
        with pytest.raises(ValueError, match=message):
            call(3, **options)
    with pytest.raises(ValueError, match=message):
        pipeline.encode(torch.zeros(3, 1, 8, 8), **options)
    assert not seen


@pytest.mark.parametrize("embeddings", [None, K])
def test_a_model_that_cannot_do_without_conditioning_is_not_guided(embeddings: int | None) -> None:
    unet = class_unet(None) if embeddings is None else class_unet(embeddings)
    if embeddings is not None:
        unet.register_to_config(_ddpm_hf=None)
    pipeline, labels = quiet(DDPMPaperPipeline(unet, DDPMPaperScheduler())), None if embeddings is None else 0
    for w in (0, 2):
        with pytest.raises(ValueError, match=f"`guidance_scale` must be 1, but is {w}: the model has no"):
            pipeline(1, class_labels=labels, guidance_scale=w)
    assert len(pipeline(1, num_inference_steps=1, class_labels=labels, guidance_scale=1).images) == 1


@pytest.mark.parametrize(
    ("weaker", "message"),
    [
        (lambda: class_unet(sample_size=4), "the model's `sample_size`, 8, but has 4"),
        (lambda: class_unet(out_channels=2), "the model's `out_channels`, 1, but has 2"),
        (lambda: class_unet().double(), "the model's dtype, torch.float32, but has torch.float64"),
        (lambda: class_unet(K + 2), "the model's conditioning, such as its classes, or be unconditional"),
    ],
)
def test_a_weaker_model_that_does_not_fit_is_refused(pipeline: Any, weaker: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"`guidance_model` must have {message}"):
        pipeline(3, class_labels=LABELS_ASKED, guidance_scale=2, guidance_model=weaker())


# --- scores and samples ---------------------------------------------------------------------------------------------


def images(count: int = 12) -> LevelImages:
    levels = torch.randint(17, (count, 1, 8, 8), dtype=torch.uint8, generator=seeded(3))
    return LevelImages.in_memory(levels, 17, of_classes([k % K for k in range(count)]))


def by_hand(unet: UNet2DModel, w: float) -> Any:
    """A guided denoiser without any of ours."""

    def denoise(x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        strong = unet(x_t, timesteps, class_labels).sample
        weak = unet(x_t, timesteps, torch.full_like(class_labels, K)).sample
        return weak + w * (strong - weak)

    return denoise


def subject(pipeline: DDPMPaperPipeline, w: float, **evaluation: Any) -> Subject:
    scheduler = DDPMPaperScheduler.from_config(pipeline.scheduler.config, num_levels=17)
    scheduler.set_timesteps(8)
    settings = EvaluationArguments(num_evaluations=0, batch_size=12, **evaluation)
    return Subject(DDPMPaperPipeline(pipeline.unet, scheduler), images(), settings, Accelerator(), Guidance(w))


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 2.0])
def test_the_bound_is_that_of_the_guided_chain(pipeline: Any, w: float) -> None:
    evaluated = subject(pipeline, w, num_paths=3, num_flow_images=12)
    scheduler, (x_0, columns) = evaluated.pipeline.scheduler, images().batch(0, 12)
    batches, denoise = [(x_0, dict(columns))], by_hand(pipeline.unet, w)

    def generator() -> torch.Generator:
        return generator_of(Use.SCORING, 0, 0)

    expected = bits_per_dim(denoise, scheduler, batches, generator=generator()).total
    assert evaluated.bound().total == pytest.approx(expected, rel=1e-4)
    weighted = importance_weighted_bits_per_dim(denoise, scheduler, batches, num_paths=3, generator=generator())
    assert evaluated.bound_by_paths()["bits_per_dim"] == pytest.approx(weighted.total, rel=1e-4)
    options = {"method": "rk4", "num_steps": 5, "generator": generator()}
    flow = ode_bits_per_dim(denoise, scheduler, batches, **options).total
    assert evaluated.likelihood_by_ode(20)["flow_bits_per_dim"] == pytest.approx(flow, rel=1e-3)
    if w != 1:
        assert abs(expected - subject(pipeline, 1.0).bound().total) > 1e-3


def test_scale_zero_scores_without_the_classes(pipeline: Any) -> None:
    evaluated = subject(pipeline, 0.0)
    batch = images().batch(0, 12)[0], {LABELS: torch.full((12,), K)}
    scheduler, generator = evaluated.pipeline.scheduler, generator_of(Use.SCORING, 0, 0)
    expected = bits_per_dim(pipeline.denoiser(), scheduler, [batch], generator=generator)
    assert evaluated.bound().total == expected.total


def test_samples_of_several_batches_are_guided_alike(pipeline: Any) -> None:
    drawn = [draw_images(pipeline, 5, size, 6, 0, Accelerator(), guidance=Guidance(3.0)) for size in (5, 2)]
    close(*drawn)
    generators = [generator_of(Use.SAMPLING, 0, k) for k in range(5)]
    alone = pipeline(5, generators, 6, "pt", class_labels=[0, 1, 2, 0, 1], guidance_scale=3.0).images
    assert torch.equal(drawn[0], alone)


def test_the_odes_samples_are_guided(pipeline: Any) -> None:
    guided, plain = (draw_images_by_ode(pipeline, 3, 3, 30, 0, Accelerator(), None, Guidance(w)) for w in (2.0, 1.0))
    assert (guided - plain).abs().max() > 0.01


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, pipeline: Any) -> Path:
    scheduler = DDPMPaperScheduler(20, num_levels=17, clip_sample=False)
    DDPMPaperPipeline(pipeline.unet, scheduler).save_pretrained(tmp_path / "model")
    DDPMPaperPipeline(class_unet(seed=1), scheduler).save_pretrained(tmp_path / "weaker")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    monkeypatch.setattr(module, "use_all_cores", lambda device: None)  # so tiny a model runs faster on one
    module.main()


@pytest.fixture
def digits_of_three_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddpm_hf.data.level_images import ImageData
    from ddpm_hf.evaluation import scoring

    data = ImageData("three classes", images(), images(), images())
    monkeypatch.setattr(scoring, "load_labelled_images", lambda arguments: data)


def test_the_command_scores_the_guided_chain(monkeypatch: Any, saved: Path, digits_of_three_classes: None) -> None:
    bits = {}
    for name, flags in {
        "2": ["--guidance_scale", 2, "--few_steps", 5, "--num_quality_samples", 2],
        "0": ["--guidance_scale", 0],
        "weaker": ["--guidance_scale", 2, "--guidance_model_name_or_path", saved / "weaker"],
        "some": ["--guidance_scale", 2, "--guidance_interval", 5, 10, "--guidance_rescale", 0.5],
    }.items():
        where = ["--model_name_or_path", saved / "model", "--output_dir", saved / "runs" / name]
        command(monkeypatch, evaluate_command, *where, "--num_evaluations", 0, *flags)
        report = json.loads((saved / "runs" / name / "evaluation.json").read_text())
        bits[name] = report["total"]
        if name == "2":
            assert report["few_steps"][0]["bits_per_dim"] > report["total"]
            assert (saved / "runs" / "2" / "evaluation.png").exists()
            monkeypatch.setattr(evaluate_command, "save_evaluation", lambda *_: None)  # seconds each
    assert len(set(bits.values())) == 4
    assert (report["guidance_scale"], report["guidance_interval"], report["guidance_rescale"]) == (2, [5, 10], 0.5)
    pipeline = DDPMPaperPipeline.from_pretrained(saved / "model")
    x_0, columns = images().batch(0, 12)
    for w in (2.0, 0.0):
        denoise, generator = by_hand(pipeline.unet.eval(), w), generator_of(Use.SCORING, 0, 0)
        expected = bits_per_dim(denoise, pipeline.scheduler, [(x_0, dict(columns))], generator=generator)
        assert bits[f"{w:g}"] == pytest.approx(expected.total, rel=1e-4)


def test_the_command_draws_guided_samples(monkeypatch: Any, saved: Path) -> None:
    common = ["--model_name_or_path", saved / "model", "--num_images", 4, "--num_inference_steps", 5]
    for name, flags in {"plain": [], "guided": ["--guidance_scale", 4], "none": ["--guidance_scale", 0]}.items():
        command(monkeypatch, sample_command, *common, *flags, "--output", saved / f"{name}.png")
    assert len({(saved / f"{name}.png").read_bytes() for name in ("plain", "guided", "none")}) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guidance_scale", -1], "`guidance_scale` must be a finite number"),
        (["--guidance_scale", 2, "--guidance_interval", 3], "`guidance_interval` must be two numbers"),
        (["--guidance_model_name_or_path", "nowhere"], "nowhere"),
        (["--guidance_model_name_or_path", "other"], "must be of a model with the same noise schedule"),
        (["--guidance_model_name_or_path", "sample"], "must be of a model with prediction_type 'epsilon', but it has"),
    ],
)
def test_the_command_refuses_guidance_that_does_not_fit(
    monkeypatch: Any, capsys: Any, saved: Path, flags: list, message: str
) -> None:
    weaker = DDPMPaperPipeline.from_pretrained(saved / "weaker").unet
    other = DDPMPaperScheduler(20, beta_end=0.03, clip_sample=False)
    DDPMPaperPipeline(weaker, other).save_pretrained(saved / "other")
    kind = DDPMPaperScheduler(20, prediction_type="sample", clip_sample=False)
    DDPMPaperPipeline(weaker, kind).save_pretrained(saved / "sample")
    monkeypatch.chdir(saved)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, sample_command, "--model_name_or_path", "model", *flags, "--output", "grid.png")
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (saved / "grid.png").exists()
