# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Cascades of saved models: what their stages are told, the bits of first stages of every kind, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_latents
import tiny_unclip
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from in_process import Done, run_verb
from PIL import Image
from tiny_pipelines import conditional_unet
from tiny_text import COLOURS, bert, ours, text_unet

from ddpm_hf import (
    DDPMPaperLatentPipeline,
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    DDPMPaperSuperResolutionPipeline,
    DDPMPaperTextToImagePipeline,
    DDPMPaperUnCLIPPipeline,
)
from ddpm_hf.conditioning.low_resolution import LowResolutionSettings, standard_noising
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.likelihood.decoder_law import LOGISTIC, DecoderLaw
from ddpm_hf.schedulers.configuration import OWN_CONFIG_KEY


pytestmark = pytest.mark.filterwarnings("ignore")  # of stock pipelines

LOW, HIGH, T = 8, 16, 20
TOLD = TextSettings(10, True)
ALWAYS_TOLD = TextSettings(10, True, null=False)
LAYERS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def scheduler(**options: Any) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(T, beta_end=0.3, variance_type="learned_range", **{"num_levels": 256, **options})


def of_pixels(**options: Any) -> DDPMPaperPipeline:
    unet = UNet2DModel(sample_size=LOW, in_channels=3, out_channels=6, **LAYERS, **options)
    return DDPMPaperPipeline(unet.eval(), scheduler())


def of_latents() -> DDPMPaperLatentPipeline:
    unet = UNet2DModel(sample_size=4, in_channels=2, out_channels=4, **LAYERS).eval()
    vae = tiny_latents.autoencoder(DecoderLaw((-1.0,) * 3, 256, family=LOGISTIC))
    return DDPMPaperLatentPipeline(vae, unet, scheduler(num_levels=None, clip_sample=False))


def of_unclip() -> DDPMPaperUnCLIPPipeline:
    return tiny_unclip.unclip(
        scheduler=scheduler(), prior_scheduler=tiny_unclip.prior_scheduler(num_train_timesteps=T)
    )


def enlarging(text: TextSettings | None) -> DDPMPaperSuperResolutionPipeline:
    own = LowResolutionSettings(2, 256, 200).to_config()[OWN_CONFIG_KEY]
    if text is None:
        of_images = {"mid_block_type": "UNetMidBlock2D", "class_embed_type": "timestep"}
        unet = UNet2DConditionModel(sample_size=HIGH, in_channels=6, out_channels=6, **LAYERS, **of_images).eval()
    else:
        unet = conditional_unet(6, 6, HIGH, class_embed_type="timestep")
        own = own | text.to_config()[OWN_CONFIG_KEY]
    unet.register_to_config(**{OWN_CONFIG_KEY: own})
    words = (None, None) if text is None else bert()
    return DDPMPaperSuperResolutionPipeline(*words, unet, scheduler(), standard_noising())


KINDS: dict[str, Callable[[], Any]] = {
    "text": lambda: ours(*bert(), text_unet(settings=TOLD), scheduler()),
    "always_text": lambda: ours(*bert(), text_unet(settings=ALWAYS_TOLD), scheduler()),
    "pixels": of_pixels,
    "classes": lambda: of_pixels(num_class_embeds=3),
    "latents": of_latents,
    "unclip": of_unclip,
    "large_text": lambda: enlarging(TOLD),
    "large_always_text": lambda: enlarging(ALWAYS_TOLD),
    "large": lambda: enlarging(None),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model by its kind."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            torch.manual_seed(0)
            KINDS[kind]().save_pretrained(root / kind)
        return root / kind

    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured squares of the high resolution with captions."""
    folder, noise, rows = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for k in range(12):
        colour = list(COLOURS)[k % 3]
        pixels = np.array(COLOURS[colour]) - noise.uniform(0, 40, (HIGH, HIGH, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k:02}.png")
        rows.append({"file_name": f"{k:02}.png", "text": f"a {colour} square"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def evaluate(images: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """Run `ddpm-hf evaluate` on the test images, and return evaluation.json and what it printed."""

    def evaluate(*arguments: object) -> tuple[dict[str, Any], str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        data = ("--train_data_dir", images, "--test_fraction", 0.34, "--num_evaluations", 2)
        done = run_verb("evaluate", *data, *arguments, "--output_dir", folder)
        assert done.code == 0, done.output
        return json.loads((folder / "evaluation.json").read_text()), done.output

    return evaluate


def alone(model: Path) -> tuple[object, ...]:
    """The arguments that score a first stage on its own images."""
    return ("--model_name_or_path", model, "--resolution", LOW, "--low_resolution_of", HIGH)


# --- likelihoods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pixels", "latents", "unclip"])
def test_a_first_stage_of_any_kind_has_the_bits_that_it_has_alone(
    saved: Callable[[str], Path], evaluate: Callable[..., tuple[dict[str, Any], str]], kind: str
) -> None:
    together, _ = evaluate("--cascade", saved(kind), saved("large"))
    first, _ = evaluate(*alone(saved(kind)))
    assert together["stages"][0]["bits_per_dim"] == pytest.approx(first["total"], rel=1e-6)
    assert together["stages"][0]["image_shape"] == [3, LOW, LOW]
    parts = [stage["bits_per_dim_of_the_cascade"] for stage in together["stages"]]
    assert together["bits_per_dim_cascade"] == pytest.approx(sum(parts), rel=1e-9)


def test_a_cascade_is_scored_without_its_captions(
    saved: Callable[[str], Path], evaluate: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    """By a guidance scale of 0: the sum of what the stages have without captions. It says which bits it counts."""
    low, high = saved("text"), saved("large_text")
    given, told = evaluate("--cascade", low, high)
    without, silent = evaluate("--cascade", low, high, "--guidance_scale", 0)
    first, _ = evaluate(*alone(low))
    second, _ = evaluate("--model_name_or_path", high)
    for report, name in ((given, "total"), (without, "bits_per_dim_unconditional")):
        assert report["bits_per_dim_cascade"] == pytest.approx(first[name] / 4 + second[name], rel=1e-5)
    assert "the bits of the images given their captions; --guidance_scale 0 scores" in told
    assert "captions" not in silent.splitlines()[-1]
    assert given["stages"][0]["conditioning"] == ["prompt"]


def test_enlarged_images_without_conditioning_are_openmoji_by_default(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    few = ("--max_images", 3, "--num_evaluations", 2, "--output_dir", tmp_path / "evaluation")
    done = run_verb("evaluate", "--cascade", saved("pixels"), saved("large"), *few)
    assert done.code == 0 and "OpenMoji" in done.output, done.output


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """The class, the prompts and the embeddings of every call of a pipeline, which draws as it does otherwise."""
    seen: list[tuple[str, Any, Any]] = []
    for kind in (DDPMPaperTextToImagePipeline, DDPMPaperSuperResolutionPipeline, DDPMPaperUnCLIPPipeline):

        def call(self: Any, *given: Any, _call: Any = kind.__call__, **options: Any) -> Any:
            seen.append((type(self).__name__, options.get("prompt"), options.get("image_embeds")))
            return _call(self, *given, **options)

        monkeypatch.setattr(kind, "__call__", call)
    return seen


def prompts_of(calls: list[tuple[str, Any, Any]], kind: str) -> list[str]:
    return [prompt for name, prompts, _ in calls if name == kind for prompt in prompts]


SAMPLES = ("--few_steps", 2, "--num_quality_samples", 3, "--num_inference_steps", 4)


@pytest.mark.parametrize("stages", [("text", "large_text"), ("always_text", "large_always_text")])
def test_samples_to_judge_have_the_captions_that_those_of_one_model_have(
    saved: Callable[[str], Path],
    evaluate: Callable[..., tuple[dict[str, Any], str]],
    calls: list[tuple[str, Any, Any]],
    images: Path,
    stages: tuple[str, str],
) -> None:
    low, high = map(saved, stages)
    evaluate("--cascade", low, high, *SAMPLES)
    told = [prompts_of(calls, kind) for kind in ("DDPMPaperTextToImagePipeline", "DDPMPaperSuperResolutionPipeline")]
    calls.clear()
    evaluate(*alone(low), *SAMPLES)
    of_one = prompts_of(calls, "DDPMPaperTextToImagePipeline")[:3]
    assert told == [of_one, of_one] and all(prompt.startswith("a ") for prompt in of_one)


def test_samples_to_judge_are_guided(
    saved: Callable[[str], Path], evaluate: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    chains, row = ("--cascade", saved("text"), saved("large_text"), *SAMPLES), "frechet_distance_pixels"
    plain, guided = (evaluate(*chains, "--guidance_scale", scale)[0]["few_steps"][0][row] for scale in (1, 4))
    assert plain > 0 and guided > 0 and plain != guided


def test_samples_to_judge_of_unclip_begin_with_the_prior(
    saved: Callable[[str], Path],
    evaluate: Callable[..., tuple[dict[str, Any], str]],
    calls: list[tuple[str, Any, Any]],
) -> None:
    """The embeddings of the test images would make variations of these."""
    report, _ = evaluate(*alone(saved("unclip")), *SAMPLES, "--num_flow_images", 2)
    assert prompts_of(calls, "DDPMPaperUnCLIPPipeline") and all(embeds is None for _, _, embeds in calls)
    assert {row["sampler"] for row in report["few_steps"]} == {"ancestral", "DDIM", "DPM-Solver++(2M)", "ODE"}
    assert all(row["frechet_distance_pixels"] > 0 for row in report["few_steps"])


def sample(saved: Callable[[str], Path], output: Path, *arguments: object) -> Done:
    few = ("--num_images", 2, "--num_inference_steps", 2)
    kinds = [saved(each) if each in KINDS else each for each in arguments]
    return run_verb("sample", *few, "--cascade", *kinds, "--output", output)


@pytest.mark.parametrize(
    "arguments",
    [
        ("pixels", "large_text", "--prompt", "a red square"),
        ("text", "large", "--prompt", "a red square"),
        ("classes", "large", "--class_labels", 1),
        ("latents", "large"),
        ("unclip", "large_text", "--prompt", "a red square"),
        ("text", "large", "--prompt", "a red square", "--negative_prompt", "big", "--guidance_scale", 2),
        ("text", "large", "--prompt", "a red square", "--solver_order", 2, "--eta", 0),
    ],
)
def test_each_stage_gets_what_it_is_told_of(
    saved: Callable[[str], Path], tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    done = sample(saved, tmp_path / "grid.png", *arguments)
    assert done.code == 0, done.output
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width >= 2 * HIGH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("always_text", "large"), "`prompt` must be given: the model was not trained without text."),
        (("text", "large_always_text"), "`prompt` must be given: the model was not trained without text."),
        (("text", "large_text", "--guidance_scale", 2), "`guidance_scale` must be 1 without a `prompt`, but is 2.0."),
        (("text", "large", "--num_inference_steps", 0), "`num_inference_steps` must be an int in 1 ... 20"),
        (
            ("text", "large", "--prompt", "a", "--negative_prompt", "big"),
            "`negative_prompt` needs a `guidance_scale` other than 1.",
        ),
        (
            ("text", "large", "--interpolate", "a.png", "b.png"),
            "`interpolate` is for one model; leave it out with `cascade`.",
        ),
        (("classes", "large_text"), "of classes; the stages must be told the same."),
        (("latents", "large_text", "--class_labels", 1), "`class_labels` are [1], but the model"),
    ],
)
def test_what_a_stage_cannot_draw_is_refused_before_any_image_is_drawn(
    saved: Callable[[str], Path],
    tmp_path: Path,
    calls: list[tuple[str, Any, Any]],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    done = sample(saved, tmp_path / "grid.png", *arguments)
    assert done.code == 2 and message in done.output.rstrip().splitlines()[-1], done.output
    assert not calls and not (tmp_path / "grid.png").exists()
