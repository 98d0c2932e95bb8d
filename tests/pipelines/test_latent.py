# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperLatentPipeline`, against diffusers' Stable Diffusion, LDM and DiT pipelines, and against loops by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from tiny_models import tiny_unet
from tiny_pipelines import SIZE, autoencoder, diffusion_transformer, latent_unconditional, stable_diffusion
from tiny_text import save_encoder, text_unet
from torch import Tensor
from transformers import CLIPTokenizer

from ddpm_hf import (
    DDPMPaperLatentPipeline,
    DDPMPaperScheduler,
    latent_bits_per_dim,
    measure_denoising_errors,
)
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.likelihood.decoder_law import measured_decoder_scale
from ddpm_hf.pipelines.autoencoders import Autoencoder, decoder_law_config, with_scaling_factor
from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.pipelines.pipeline_ddpm_paper_latent import STOCK


pytestmark = pytest.mark.filterwarnings("ignore")  # of the stock pipelines

# As they are shipped: Stable Diffusion 1.5, ldm-celebahq-256, DiT-XL-2-256.
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHIPPED: dict[str, Callable[[], DiffusionPipeline]] = {
    "StableDiffusionPipeline": lambda: stable_diffusion(
        PNDMScheduler(**SCALED, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    ),
    "LDMPipeline": lambda: latent_unconditional(DDIMScheduler(beta_start=0.0015, beta_end=0.0195, clip_sample=False)),
    "DiTPipeline": lambda: diffusion_transformer(DDIMScheduler(clip_sample=False)),
}
CALLS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"prompt": ["a cat", "big"], "guidance_scale": 4.0},
    "LDMPipeline": {"batch_size": 2},
    "DiTPipeline": {"class_labels": [1, 7], "guidance_scale": 4.0},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(one: Any, other: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=atol)


def differ(one: Any, other: Any) -> bool:
    return bool((torch.as_tensor(one) - torch.as_tensor(other)).abs().max() > 0.01)


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.randint(256, (count, 3, size, size), generator=seeded()) / 127.5 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny folders that stock pipelines saved."""
    saved = {family: tmp_path_factory.mktemp("stock") / family for family in SHIPPED}
    for family, folder in saved.items():
        SHIPPED[family]().save_pretrained(folder)
    return saved


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def loaded(folder: Path, **options: Any) -> DDPMPaperLatentPipeline:
    return quiet(load_pipeline(folder, **options))


def stock(folder: Path, scheduler: SchedulerMixin | None = None) -> DiffusionPipeline:
    pipeline = quiet(DiffusionPipeline.from_pretrained(folder, safety_checker=None))
    if scheduler is not None:
        pipeline.scheduler = scheduler
    return pipeline


def drawn(pipeline: Any, family: str, **options: Any) -> np.ndarray:
    """Images by five steps; noise of later steps is from the global generator, as `LDMPipeline` draws it."""
    given = {"num_inference_steps": 5, "output_type": "np", **CALLS[family], **options}
    torch.manual_seed(1)
    return pipeline(**given).images


def x_T(family: str) -> Tensor:
    return torch.randn(2, 3 if family == "LDMPipeline" else 4, 8, 8, generator=seeded())


# --- as stock does it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", STOCK)
def test_a_stock_folder_is_loaded(family: str, folders: dict[str, Path]) -> None:
    pipeline, original = loaded(folders[family]), stock(folders[family])
    assert type(pipeline) is DDPMPaperLatentPipeline and type(original).__name__ == family
    assert pipeline.image_shape == (3, SIZE, SIZE) and pipeline.example_shape[1:] == (8, 8)
    assert pipeline.scheduler.diffusion.num_levels is None
    close(pipeline.scheduler.alphas_cumprod, original.scheduler.alphas_cumprod.double(), 1e-5)
    assert pipeline.scheduler.variance_type == ("learned_range" if family == "DiTPipeline" else "fixed_small")


@pytest.mark.parametrize("family", STOCK)
def test_images_without_noise_are_those_of_stock(family: str, folders: dict[str, Path]) -> None:
    pipeline, original = loaded(folders[family]), stock(folders[family])
    original.scheduler = DDIMScheduler.from_config(original.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    found = drawn(pipeline, family, eta=0.0, generator=seeded())
    close(found, drawn(original, family, generator=seeded()))
    assert found.shape == (2, SIZE, SIZE, 3) and found.std() > 0.05
    assert differ(found, drawn(pipeline, family, eta=0.0, generator=seeded(1)))


SD_CALLS = {
    "one prompt": {"prompt": "a cat", "guidance_scale": 1.0},
    "negative prompts": {"negative_prompt": ["dark", "red"], "guidance_scale": 3.0},
    "two of each": {"num_images_per_prompt": 2, "guidance_scale": 2.0},
    "rescaled": {"guidance_scale": 3.0, "guidance_rescale": 0.7},
    "a larger image": {"height": 32, "width": 24},
}


@pytest.mark.parametrize("way", SD_CALLS)
def test_prompts_are_those_of_stable_diffusion(way: str, folders: dict[str, Path]) -> None:
    """By ancestral sampling, whose noise both draw from the generator."""
    folder, options = folders["StableDiffusionPipeline"], SD_CALLS[way]
    pipeline = loaded(folder)
    original = stock(folder, pipeline.scheduler.to_stock())
    found = drawn(pipeline, "StableDiffusionPipeline", generator=seeded(), **options)
    close(found, drawn(original, "StableDiffusionPipeline", generator=seeded(), **options))


def test_embeddings_are_those_of_stable_diffusion(folders: dict[str, Path]) -> None:
    """Of as many tokens as the tokenizer says, and from an encoder that is not told of padding."""
    pipeline, original = (load(folders["StableDiffusionPipeline"]) for load in (loaded, stock))
    states, mask = pipeline.encode_prompt(["a cat", "big"])
    expected, _ = original.encode_prompt(["a cat", "big"], "cpu", 1, False)
    assert mask is None and states.shape[1] == 12 and torch.equal(states, expected)


def test_ancestral_samples_are_those_of_ldm(folders: dict[str, Path]) -> None:
    """Stock draws the noise of a step from the global generator."""
    pipeline = loaded(folders["LDMPipeline"])
    original = stock(folders["LDMPipeline"], pipeline.scheduler.to_stock())
    found = drawn(pipeline, "LDMPipeline", latents=x_T("LDMPipeline"))
    close(found, drawn(original, "LDMPipeline", generator=seeded()))


def test_ancestral_samples_are_those_of_a_dit_that_learns_no_variance() -> None:
    """Without guidance, for which stock draws the noise of the unconditional half too."""
    original = quiet(diffusion_transformer(DDPMScheduler(clip_sample=False)))
    torch.manual_seed(0)
    fixed = DiTTransformer2DModel.from_config({**original.transformer.config, "out_channels": 4}).eval()
    original.register_modules(transformer=fixed)
    pipeline = quiet(DDPMPaperLatentPipeline.from_stock(original))
    assert pipeline.scheduler.variance_type == "fixed_small"
    found = drawn(pipeline, "DiTPipeline", latents=x_T("DiTPipeline"), guidance_scale=1.0)
    close(found, drawn(original, "DiTPipeline", generator=seeded(), guidance_scale=1.0))


def test_the_learned_variance_of_a_dit_is_used(folders: dict[str, Path]) -> None:
    """As stock's scheduler uses it, if its pipeline did not drop it."""
    pipeline = loaded(folders["DiTPipeline"])
    found = drawn(pipeline, "DiTPipeline", latents=x_T("DiTPipeline"), guidance_scale=3.0, output_type="latent")
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(5)
    latents, labels = x_T("DiTPipeline"), torch.tensor([1, 7, 1000, 1000])
    torch.manual_seed(1)
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = pipeline.unet(torch.cat([latents] * 2), t.expand(4), class_labels=labels).sample
            (given, variance), (without, _) = (half.chunk(2, dim=1) for half in both.chunk(2))
            output = torch.cat([without + 3 * (given - without), variance], dim=1)
            latents = scheduler.step(output, t, latents).prev_sample
    close(found, latents, 1e-3)


def test_the_null_class_of_a_dit_is_the_one_after_its_classes(folders: dict[str, Path]) -> None:
    (conditioner,) = loaded(folders["DiTPipeline"]).conditioners.members
    assert (conditioner.num_classes, conditioner.null_class) == (1000, 1000)


# --- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", STOCK)
def test_what_is_saved_is_loaded_by_stock_and_draws_the_same_images(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = loaded(folders[family])
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == family and index["scheduler"] == ["diffusers", "DDPMScheduler"]
    again, original = loaded(tmp_path), stock(tmp_path)
    assert type(original).__name__ == family
    ours, saved = ({**each.scheduler.config, "_use_default_values": None} for each in (pipeline, again))
    assert ours == saved
    close(*(drawn(each, family, generator=seeded()) for each in (again, pipeline)), 1e-6)
    if family != "DiTPipeline":  # which drops the learned variance
        found = drawn(again, family, latents=x_T(family), generator=None)
        given = {"latents": x_T(family)} if family == "StableDiffusionPipeline" else {"generator": seeded()}
        close(found, drawn(original, family, **given))
    original.scheduler = DDIMScheduler.from_config(original.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    close(drawn(again, family, eta=0.0, generator=seeded()), drawn(original, family, generator=seeded()))


def test_names_of_classes_are_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    names = {"1": "cat, tom", "7": "dog"}  # as JSON has them
    pipeline = DDPMPaperLatentPipeline.from_stock(stock(folders["DiTPipeline"]), names)
    pipeline.save_pretrained(tmp_path)
    assert stock(tmp_path).labels == {"cat": 1, "tom": 1, "dog": 7}
    again = loaded(tmp_path)
    assert again.with_scheduler(again.scheduler).config["id2label"] == names


def test_latents_with_a_shift_and_a_scale_by_channel_are_saved_for_stock(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = loaded(folders["StableDiffusionPipeline"])
    scales = {"latents_mean": [0.4, -0.2, 0.1, 0.0], "latents_std": [0.5, 1.0, 2.0, 1.5]}
    pipeline.vae.register_to_config(**scales)
    found = drawn(pipeline, "StableDiffusionPipeline", latents=x_T("StableDiffusionPipeline"))
    before = pipeline.autoencoder.posterior(images())
    pipeline.save_pretrained(tmp_path)
    assert pipeline.vae.config.latents_mean == scales["latents_mean"]  # is left as it is
    close(found, drawn(stock(tmp_path), "StableDiffusionPipeline", latents=x_T("StableDiffusionPipeline")))
    again = loaded(tmp_path)
    assert again.autoencoder.latent_scale.is_one_number
    after = again.autoencoder.posterior(images())
    close(after.mean, before.mean, 1e-5)
    close(after.log_variance, before.log_variance, 1e-5)


def test_an_autoencoder_with_one_scale_is_itself() -> None:
    model = autoencoder(4)
    assert with_scaling_factor(model) is model
    shifted = autoencoder(4)
    shifted.register_to_config(shift_factor=0.3)
    folded = Autoencoder(with_scaling_factor(shifted))
    assert folded.latent_scale.is_one_number
    with torch.no_grad():
        close(folded.encode(images()), Autoencoder(shifted).encode(images()), 1e-5)
        z = torch.randn(2, 4, 8, 8, generator=seeded())
        close(folded.decode(z), Autoencoder(shifted).decode(z), 1e-5)


def test_a_named_text_encoder_is_loaded_and_not_saved(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    unet = stable_diffusion(DDPMScheduler()).unet
    unet.register_to_config(**TextSettings(10, attention_mask=True, encoder=str(encoder)).to_config())
    pipeline = DDPMPaperLatentPipeline(autoencoder(4), unet, DDPMScheduler())._with_named_encoder({})
    pipeline.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "text_encoder").exists()
    again = loaded(tmp_path / "model")
    options = {"prompt": "a red cat", "guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "np"}
    assert np.array_equal(*(quiet(each)(generator=seeded(), **options).images for each in (pipeline, again)))
    without = loaded(tmp_path / "model", text_encoder=None, tokenizer=None)
    with pytest.raises(ValueError, match=r"`prompt_embeds`, and with guidance .* must be given"):
        without("a red cat")


# --- the likelihood, and few optimal steps --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["StableDiffusionPipeline", "DiTPipeline"])
def test_a_stock_folder_is_scored_and_sampled_in_ten_optimal_steps(family: str, folders: dict[str, Path]) -> None:
    pipeline, x = loaded(folders[family]), images(8)
    denoiser = pipeline.denoiser()
    columns = {"prompt": ["a cat"] * 8} if family == "StableDiffusionPipeline" else {"class_labels": torch.arange(8)}
    conditioning = denoiser.conditioners.make(columns, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"has no p\(x \| z\).*`ddpm-hf measure` gives it the scale"):
        pipeline.bits_per_dim(denoiser, pipeline.scheduler, [(x, conditioning)])
    law = measured_decoder_scale(pipeline.autoencoder, [x], generator=seeded())
    pipeline.vae.register_to_config(**decoder_law_config(law))
    with torch.no_grad():
        z = pipeline.autoencoder.posterior(x).mean
    errors = measure_denoising_errors(
        denoiser, pipeline.scheduler, [(z, conditioning)], num_noise_levels=16, generator=seeded()
    )
    measured = DDPMPaperScheduler.from_config(pipeline.scheduler.config, denoising_errors=errors)
    pipeline = quiet(pipeline.with_scheduler(measured))
    few = drawn(pipeline, family, num_inference_steps=10, timestep_spacing="optimal", generator=seeded())
    assert few.shape == (2, SIZE, SIZE, 3) and len(pipeline.scheduler.timesteps) <= 10
    bound = pipeline.bits_per_dim(denoiser, pipeline.scheduler, [(x, conditioning)], generator=seeded())
    expected = latent_bits_per_dim(
        denoiser, pipeline.scheduler, [(x, conditioning)], Autoencoder(pipeline.vae), generator=seeded()
    )
    assert bound.total == expected.total and 0 < bound.reconstruction < 9
    assert bound.timesteps == sorted(pipeline.scheduler.timesteps.tolist())
    paths = pipeline.importance_weighted_bits_per_dim(
        denoiser, pipeline.scheduler, [(x, conditioning)], num_paths=2, generator=seeded()
    )
    assert paths.num_paths == 2 and paths.total < bound.total + 4 * bound.standard_error


def test_the_law_is_saved_with_the_pipeline(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = loaded(folders["DiTPipeline"])
    law = measured_decoder_scale(pipeline.autoencoder, [images()], generator=seeded())
    pipeline.vae.register_to_config(**decoder_law_config(law))
    pipeline.save_pretrained(tmp_path)
    assert loaded(tmp_path).autoencoder.require_likelihood().numbers == law.numbers


def test_a_model_without_a_posterior_samples_and_is_not_scored(folders: dict[str, Path]) -> None:
    pipeline = loaded(folders["LDMPipeline"])
    with pytest.raises(ValueError, match=r"A VQModel has no posterior .* and so no likelihood"):
        pipeline.bits_per_dim(pipeline.denoiser(), pipeline.scheduler, [images()])


def test_a_tiny_autoencoder_decodes_stable_diffusion(folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    tiny = AutoencoderTiny(**channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()
    pipeline = loaded(folders["StableDiffusionPipeline"], vae=tiny)
    assert pipeline.vae is tiny
    original = stock(folders["StableDiffusionPipeline"], pipeline.scheduler.to_stock())
    original.vae = tiny
    close(*(drawn(each, "StableDiffusionPipeline", generator=seeded()) for each in (pipeline, original)))


# --- calls ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unconditional() -> DDPMPaperLatentPipeline:
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(20, 9.0, -9.0), clip_sample=False)
    return quiet(DDPMPaperLatentPipeline(autoencoder(4), tiny_unet(4, sample_size=8), scheduler))


def test_latents_are_returned_and_decoded(unconditional: DDPMPaperLatentPipeline) -> None:
    options = {"batch_size": 2, "num_inference_steps": 4}
    latents = unconditional(**options, generator=seeded(), output_type="latent").images
    decoded = unconditional(**options, generator=seeded(), output_type="pt").images
    assert latents.shape == (2, 4, 8, 8)
    close((unconditional.images_of(latents) / 2 + 0.5).clamp(0, 1), decoded)
    assert unconditional(**options)[0][0].size == (SIZE, SIZE)
    *_, last = unconditional.iterate(**options, generator=seeded())
    assert torch.equal(last.prev_sample, latents)


def test_an_image_depends_on_its_own_generator_alone(unconditional: DDPMPaperLatentPipeline) -> None:
    options = {"num_inference_steps": 4, "output_type": "pt"}
    both = unconditional(batch_size=2, generator=[seeded(3), seeded(4)], **options).images
    close(both[1:], unconditional(generator=[seeded(4)], **options).images)


def test_the_callback_is_called_after_every_other_step(unconditional: DDPMPaperLatentPipeline) -> None:
    seen: list[tuple[int, int]] = []
    unconditional(num_inference_steps=4, callback=lambda k, t, x_s: seen.append((k, t)), callback_steps=2)
    timesteps = unconditional.scheduler.timesteps.tolist()
    assert seen == [(0, timesteps[0]), (2, timesteps[2])]


def test_encoded_images_are_restored_as_far_as_the_autoencoder_does(unconditional: DDPMPaperLatentPipeline) -> None:
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(100, 6.0, -2.0), clip_sample=False)
    pipeline = quiet(unconditional.with_scheduler(scheduler))
    with torch.no_grad():  # random weights make a rough vector field
        for parameter in pipeline.unet.conv_out.parameters():
            parameter.mul_(0.1)
        z = pipeline.autoencoder.encode(images())
    latents = pipeline.encode(images())
    restored = pipeline(batch_size=2, latents=latents, eta=0.0, output_type="latent").images
    assert (restored - z).square().mean() < 1e-3 * z.square().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(unconditional: DDPMPaperLatentPipeline, dtype: torch.dtype) -> None:
    drawn_ = unconditional.to(dtype)(num_inference_steps=3, output_type="pt", generator=seeded()).images
    assert bool(drawn_.isfinite().all())


def test_classes_and_guidance_of_a_unet() -> None:
    unet = tiny_unet(4, sample_size=8, num_class_embeds=4)
    unet.register_to_config(_ddpm_hf={"null_class": 3})
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(20, 9.0, -9.0), clip_sample=False)
    pipeline = quiet(DDPMPaperLatentPipeline(autoencoder(4), unet, scheduler))
    options = {"num_inference_steps": 4, "output_type": "pt", "class_labels": [0, 2]}
    plain, guided = (pipeline(**options, generator=seeded(), guidance_scale=w).images for w in (1.0, 3.0))
    assert plain.shape == guided.shape == (2, 3, SIZE, SIZE) and differ(plain, guided)


def test_several_images_are_drawn_of_each_class_or_of_none(folders: dict[str, Path]) -> None:
    options = {"num_inference_steps": 2, "output_type": "pt"}
    for family, given, same in (
        ("StableDiffusionPipeline", {}, {"batch_size": 3}),
        ("LDMPipeline", {}, {"batch_size": 3}),
        ("DiTPipeline", {"class_labels": 7}, {"class_labels": [7, 7, 7]}),
        ("DiTPipeline", {"class_labels": [1, 7]}, {"class_labels": [1, 1, 1, 7, 7, 7]}),
        ("DiTPipeline", {"class_labels": torch.tensor([1, 7])}, {"class_labels": [1, 1, 1, 7, 7, 7]}),
    ):
        pipeline = loaded(folders[family])
        found = pipeline(**given, num_images_per_prompt=3, generator=seeded(), **options).images
        assert torch.equal(found, pipeline(**same, generator=seeded(), **options).images)


def test_several_images_keep_what_is_known_of_each(folders: dict[str, Path]) -> None:
    pipeline, mask = loaded(folders["StableDiffusionPipeline"]), torch.zeros(2, SIZE, SIZE)
    mask[0, :, :8], mask[1, :8] = 1, 1
    options = {"num_inference_steps": 2, "output_type": "pt", "jump_n_sample": 1}
    found = pipeline(image=images(), mask_image=mask, num_images_per_prompt=2, generator=seeded(), **options).images
    known = (mask < 1).repeat_interleave(2, 0)[:, None].expand_as(found)
    expected = (images() / 2 + 0.5).repeat_interleave(2, 0)
    torch.testing.assert_close(found[known], expected[known], rtol=0, atol=1e-6)
    assert differ(found[~known], expected[~known])


IMAGE_WAYS = {
    "an image for each prompt": {"image": images(), "strength": 0.6},
    "one image": {"image": images(1), "strength": 0.9, "guidance_scale": 3.0},
    "a larger image": {"image": images(1, 32), "strength": 0.5},
    "a list of generators": {"image": images(), "generator": "list"},
}


@pytest.mark.parametrize("way", IMAGE_WAYS)
def test_images_from_images_are_those_of_stock(way: str, folders: dict[str, Path]) -> None:
    """By ancestral sampling from noised latents, whose draws both take from the generator in one order."""
    pipeline = loaded(folders["StableDiffusionPipeline"])
    original = StableDiffusionImg2ImgPipeline(**stock(folders["StableDiffusionPipeline"]).components)
    original.scheduler = pipeline.scheduler.to_stock()
    is_list = IMAGE_WAYS[way].get("generator") == "list"

    def made(each: Any) -> np.ndarray:
        generator = [seeded(k) for k in range(2)] if is_list else seeded()
        options = {**IMAGE_WAYS[way], "generator": generator, "num_inference_steps": 10}
        return drawn(quiet(each), "StableDiffusionPipeline", **options)

    close(made(pipeline), made(original))


def test_an_image_at_little_strength_stays_as_it_is(unconditional: DDPMPaperLatentPipeline) -> None:
    with torch.no_grad():
        z = unconditional.autoencoder.encode(images())
    options = {"image": images(), "num_inference_steps": 20, "batch_size": 2, "output_type": "latent"}
    near, far = (unconditional(**options, strength=s, generator=seeded()).images for s in (0.05, 1.0))
    steps = list(unconditional.iterate(image=images(), strength=0.5, batch_size=2, num_inference_steps=20))
    assert len(steps) == 10
    assert (near - z).square().mean() < 0.1 * (far - z).square().mean()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_parts_that_do_not_fit() -> None:
    scheduler, vae = DDPMScheduler(), autoencoder(4)
    with pytest.raises(ValueError, match="`unet` must take the 4 channels of the latents of `vae`, but takes 3"):
        DDPMPaperLatentPipeline(vae, tiny_unet(3, sample_size=8), scheduler)
    with pytest.raises(ValueError, match="`text_encoder` must be None: the model is not told of text"):
        DDPMPaperLatentPipeline(vae, tiny_unet(4, sample_size=8), scheduler, None, text_unet())
    with pytest.raises(ValueError, match="`vae` must be an AutoencoderKL, a VQModel or an AutoencoderTiny"):
        DDPMPaperLatentPipeline(tiny_unet(4), tiny_unet(4), scheduler)
    with pytest.raises(ValueError, match="`tokenizer` knows no words, only special tokens"):
        parts = DDPMPaperLatentPipeline.from_stock(stable_diffusion(DDPMScheduler())).components
        DDPMPaperLatentPipeline(**{**parts, "tokenizer": CLIPTokenizer()})
    with pytest.raises(ValueError, match="flow matching"):
        DDPMPaperLatentPipeline(vae, tiny_unet(4, sample_size=8), FlowMatchEulerDiscreteScheduler())


def test_calls_that_do_not_fit(unconditional: DDPMPaperLatentPipeline, folders: dict[str, Path]) -> None:
    told = loaded(folders["StableDiffusionPipeline"])
    for pipeline, options, message in (
        (unconditional, {"prompt": "a cat"}, "`prompt` and `negative_prompt` must be None: the model is not told"),
        (unconditional, {"class_labels": 1}, "`class_labels` must be None: the model is not class-conditional"),
        (unconditional, {"output_type": "jpg"}, "`output_type` must be one of 'pil', 'np', 'pt', 'latent'"),
        (unconditional, {"height": 15}, "`height` must be a multiple of 2, by which the autoencoder and the model"),
        (unconditional, {"latents": torch.zeros(1, 4, 4, 4)}, r"`latents` must be of shape \[1, 4, 8, 8\]"),
        (unconditional, {"image": images(), "strength": 0}, r"`strength` must lie in \(0, 1\], but is 0"),
        (unconditional, {"image": images(3), "batch_size": 2}, "`image` must be one, or one for each of 2 images"),
        (unconditional, {"image": images(1), "height": 16}, "`height` and `width` must be left out with"),
        (unconditional, {"image": images(1, 15)}, "`height` must be a multiple of 2"),
        (told, {"class_labels": 1}, "`class_labels` must be None: the model is told of text"),
        (told, {"prompt": "a", "width": 18}, "`width` must be a multiple of 4, by which"),
        (loaded(folders["DiTPipeline"]), {"class_labels": 1, "height": 32}, "`height` must be 16, the only one"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(**options)
    with pytest.raises(ValueError, match=r"`images` must be of shape \[1, 3, 16, 16\], but is \[1, 3, 32, 32\]"):
        unconditional.encode(torch.zeros(1, 3, 32, 32))


def test_folders_of_other_families(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a DDPMPipeline, but a DDPMPaperLatentPipeline loads what"):
        DDPMPaperLatentPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`pipeline` must be a StableDiffusionPipeline, LDMPipeline, DiTPipe"):
        DDPMPaperLatentPipeline.from_stock(DDPMPipeline.from_pretrained(tmp_path))


def test_solvers_that_ship_with_a_dit_are_converted() -> None:
    original = diffusion_transformer(DPMSolverMultistepScheduler())
    scheduler = DDPMPaperLatentPipeline.from_stock(original).scheduler
    assert scheduler.variance_type == "learned_range"
    close(scheduler.alphas_cumprod, original.scheduler.alphas_cumprod.double(), 1e-5)
