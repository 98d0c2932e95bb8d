# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The pipelines of DALL-E 2: side by side with the loops of stock diffusers, saved and loaded, and their bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from tiny_text import SIZE, bert, stock, text_unet
from tiny_unclip import (
    POSTERIOR_STD,
    TOKENS,
    WIDTH,
    decoder,
    image_encoder,
    prior,
    prior_pipeline,
    unclip,
)
from torch import Tensor
from transformers import CLIPTokenizer, CLIPVisionModelWithProjection

from ddpm_hf import DDPMPaperPriorPipeline, DDPMPaperScheduler, DDPMPaperUnCLIPPipeline, slerp
from ddpm_hf.conditioning.prior_text import caption_sequence
from ddpm_hf.conditioning.text import MASK
from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.hub.model_card import fill_card
from ddpm_hf.hub.push import model_files
from ddpm_hf.likelihood import EmbeddingModel, bits_per_dim, unclip_bits_per_dim
from ddpm_hf.pipelines.loading import load_pipeline


PROMPTS = ["a red cat", "big blue square"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 2, seed: int = 0) -> Tensor:
    levels = torch.randint(256, (count, 3, SIZE, SIZE), generator=seeded(seed))
    return levels.float() / 127.5 - 1


# --- side by side with stock -----------------------------------------------------------------------------------------


class WithSentences(torch.nn.Module):
    """A text encoder with `text_embeds`, which the stock pipeline asks for."""

    def __init__(self, encoder: Any, tokenizer: Any):
        super().__init__()
        self.encoder, self.pad = encoder, tokenizer.pad_token_id
        self.device, self.dtype = encoder.device, encoder.dtype

    def forward(self, ids: Tensor) -> SimpleNamespace:
        states = self.encoder(ids, attention_mask=(ids != self.pad).long())[0]
        return SimpleNamespace(text_embeds=states[:, 0], last_hidden_state=states)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("per_prompt", [1, 2])
def test_embeddings_are_those_of_stocks_loop(guidance_scale: float, per_prompt: int) -> None:
    """`KandinskyV22PriorPipeline` draws the same, once the model is given our sequence for its captions."""
    model, (tokenizer, encoder) = prior(), bert()
    tokenizer.model_max_length = TOKENS
    own = prior_pipeline(prior=model, tokenizer=tokenizer, text_encoder=encoder)
    process = UnCLIPScheduler(clip_sample=False, prediction_type="sample", variance_type="fixed_small_log")
    parts = {"prior": model, "image_encoder": own.image_encoder, "tokenizer": tokenizer, "scheduler": process}
    theirs = KandinskyV22PriorPipeline(**parts, text_encoder=WithSentences(encoder, tokenizer), image_processor=None)
    theirs.set_progress_bar_config(disable=True)

    def with_captions(module: Any, args: Any, given: dict[str, Any]) -> Any:
        made = caption_sequence(given.pop("encoder_hidden_states"), given["attention_mask"])
        return args, {**given, **made}

    hook = model.register_forward_pre_hook(with_captions, with_kwargs=True)
    try:
        how = {"num_images_per_prompt": per_prompt, "guidance_scale": guidance_scale}
        expected = theirs(PROMPTS, num_inference_steps=6, generator=seeded(), **how).image_embeds
    finally:
        hook.remove()
    timesteps = process.timesteps.tolist()
    found = own(PROMPTS, timesteps=timesteps, generator=seeded(), **how).image_embeds
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # stock's tables are float32
    other = own("light", timesteps=timesteps, generator=seeded(), batch_size=1).image_embeds
    assert not torch.allclose(other, found[:1], atol=1e-2)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_images_are_those_of_stocks_loop(guidance_scale: float) -> None:
    """`IFPipeline` draws the same, once the model is given the embeddings and the mask."""
    (tokenizer, encoder), model = bert(), decoder()
    own = unclip(unet=model, tokenizer=tokenizer, text_encoder=encoder)
    embeds = torch.randn(2, WIDTH, generator=seeded(1))
    how = {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    found = own(PROMPTS, image_embeds=embeds, generator=seeded(), output_type="pt", **how).images
    (states, mask), (empty, empty_mask) = own.encode_prompt(PROMPTS), own.encode_prompt([""] * 2)
    is_guided = guidance_scale != 1
    labels = torch.cat([torch.zeros_like(embeds), embeds]) if is_guided else embeds
    masks = torch.cat([empty_mask, mask]) if is_guided else mask
    given = {"class_labels": labels, MASK: masks}
    hook = model.register_forward_pre_hook(lambda m, a, k: (a, k | given), with_kwargs=True)
    try:
        pipeline = stock(tokenizer, encoder, model)
        texts = {"prompt_embeds": states, "negative_prompt_embeds": empty}
        expected = pipeline(**texts, generator=seeded(), output_type="pt", **how).images
    finally:
        hook.remove()
    torch.testing.assert_close(found, expected / 2 + 0.5 if expected.min() < 0 else expected, rtol=0, atol=2e-3)


def test_a_prior_takes_text_with_any_number_of_masked_positions() -> None:
    pipeline, how = prior_pipeline(), {"num_inference_steps": 4, "guidance_scale": 2.0}
    expected = pipeline(PROMPTS, generator=seeded(), **how).image_embeds
    states, mask = pipeline.encode_prompt(PROMPTS)
    further = torch.randn(2, 5, 8, generator=seeded(1)), torch.zeros(2, 5, dtype=torch.bool)
    longer = [torch.cat(each, dim=1) for each in zip((states, mask), further, strict=True)]
    for its_states, its_mask in (longer, (states[:, :6], mask[:, :6])):
        given = {"prompt_embeds": its_states, "prompt_attention_mask": its_mask}
        assert torch.equal(pipeline(**given, generator=seeded(), **how).image_embeds, expected)


# --- from words and from images --------------------------------------------------------------------------------------


def test_an_image_is_drawn_given_the_embedding_that_the_prior_draws() -> None:
    pipeline, generator = unclip(), seeded()
    how = {"num_inference_steps": 4, "output_type": "pt"}
    found = pipeline(PROMPTS, generator=seeded(), prior_num_inference_steps=3, prior_guidance_scale=2.0, **how).images
    of_prior = {"num_inference_steps": 3, "guidance_scale": 2.0}
    embeds = pipeline.prior_pipeline(PROMPTS, generator=generator, **of_prior).image_embeds
    assert torch.equal(found, pipeline(PROMPTS, image_embeds=embeds, generator=generator, **how).images)
    other = pipeline(PROMPTS, image_embeds=embeds.flip(0), generator=seeded(), **how).images
    assert not torch.allclose(found, other)


def test_variations_are_images_given_the_embedding_of_one() -> None:
    pipeline, x = unclip(), pictures(1)
    how = {"num_inference_steps": 3, "output_type": "pt"}
    found = pipeline(image=x, batch_size=3, generator=seeded(), **how).images
    embeds = pipeline.image_encoder(x).image_embeds
    assert torch.equal(found, pipeline(image_embeds=embeds, batch_size=3, generator=seeded(), **how).images)
    assert not torch.equal(found[0], found[1])
    picture = Image.fromarray(((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    torch.testing.assert_close(pipeline.embed_images(picture), embeds, rtol=0, atol=1e-5)
    assert len(pipeline(image=pictures(2), generator=seeded(), **how).images) == 2


def test_several_images_are_drawn_of_each_image_or_of_none() -> None:
    pipeline, how = unclip(), {"num_inference_steps": 3, "output_type": "pt"}
    for given, same in (
        ({}, {"batch_size": 2}),
        ({"image": pictures(1)}, {"image": pictures(1), "batch_size": 2}),
        ({"image": pictures(2)}, {"image": pictures(2)[[0, 0, 1, 1]]}),
        ({"image": pictures(2), "prompt": PROMPTS}, {"image": pictures(2)[[0, 0, 1, 1]], "prompt": PROMPTS}),
    ):
        same = {"num_images_per_prompt": 2 if "prompt" in same else 1, **same}
        found = pipeline(**given, num_images_per_prompt=2, generator=seeded(), **how).images
        assert torch.equal(found, pipeline(**same, generator=seeded(), **how).images)
    drawn = prior_pipeline()(num_images_per_prompt=3, num_inference_steps=2).image_embeds
    assert drawn.shape == (3, WIDTH)


def test_a_list_of_generators_draws_each_image_alone() -> None:
    pipeline, how = unclip(), {"num_inference_steps": 3, "output_type": "pt"}
    together = pipeline(PROMPTS, generator=[seeded(k) for k in range(2)], **how).images
    alone = [pipeline(PROMPTS[k], generator=[seeded(k)], **how).images for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_interpolations_go_along_the_sphere_from_one_image_to_the_other() -> None:
    pipeline, (a, b) = unclip(), pictures(2)
    how = {"num_inference_steps": 3, "output_type": "pt", "eta": 0.0}
    found = pipeline.interpolate(a, b, 3, generator=seeded(), **how).images
    x_T = torch.randn(1, 3, SIZE, SIZE, generator=seeded())
    z = [pipeline.encoder.standardised(pipeline.embed_images(each)) for each in (a, b)]
    between = torch.cat([z[0], slerp(*z, 0.5), z[1]])
    embeds = pipeline.encoder.unstandardised(between)
    expected = [pipeline(image_embeds=each[None], latents=x_T, **how).images for each in embeds]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_noise_and_embedding_restore_an_image() -> None:
    x, model = pictures(2) / 4, decoder()
    with torch.no_grad():
        model.conv_out.weight *= 0.005  # a smooth flow
    pipeline = unclip(unet=model, scheduler=DDPMPaperScheduler(variance_type="learned_range", clip_sample=False))
    x_T = pipeline.encode(x, PROMPTS, 50)
    how = {"num_inference_steps": 50, "eta": 0.0, "output_type": "pt"}
    found = pipeline(PROMPTS, image=x, latents=x_T, **how).images
    torch.testing.assert_close(found, x / 2 + 0.5, rtol=0, atol=0.04)


# --- saved and loaded ------------------------------------------------------------------------------------------------


def test_a_prior_is_saved_and_loaded(tmp_path: Path) -> None:
    pipeline = prior_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is DDPMPaperPriorPipeline
    how = {"num_inference_steps": 3}
    found, expected = (each("a cat", generator=seeded(), **how).image_embeds for each in (loaded, pipeline))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # attention may be another implementation
    assert loaded.encoder.posterior_std == POSTERIOR_STD
    theirs = KandinskyV22PriorPipeline.from_pretrained(tmp_path, image_processor=None)
    assert torch.equal(theirs.prior.clip_std, pipeline.prior.clip_std)
    assert "PriorTransformer" in fill_card(tmp_path, "a/prior")


def test_a_whole_pipeline_is_saved_and_loaded_by_ours_and_its_parts_by_stock(tmp_path: Path) -> None:
    pipeline = unclip()
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is DDPMPaperUnCLIPPipeline
    how = {"num_inference_steps": 3, "output_type": "pt"}
    ways: list[dict[str, Any]] = [{"prompt": "a cat"}, {"image": pictures(1)}]
    for way in ways:
        ours, theirs = (each(**way, generator=seeded(), **how).images for each in (pipeline, loaded))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # attention may be another implementation
    absent = dict.fromkeys(("text_proj", "super_res_first", "super_res_last", "super_res_scheduler"))
    stock_pipeline = UnCLIPPipeline.from_pretrained(tmp_path, **absent)
    assert isinstance(stock_pipeline.decoder, UNet2DConditionModel)
    assert isinstance(stock_pipeline.prior, PriorTransformer)
    encoder = CLIPVisionModelWithProjection.from_pretrained(tmp_path, subfolder="image_encoder")
    found, expected = (each(pictures()).image_embeds for each in (encoder, pipeline.image_encoder))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    names = {path.relative_to(tmp_path).parts[0] for path in model_files(tmp_path)}
    assert names >= {"decoder", "prior", "image_encoder", "text_encoder", "decoder_scheduler", "prior_scheduler"}
    assert "DDPMPaperUnCLIPPipeline" in fill_card(tmp_path, "a/model")


def test_parts_that_are_there_are_not_written(tmp_path: Path) -> None:
    pipeline, parts = unclip(), ("prior", "image_encoder", "text_encoder", "tokenizer", "prior_scheduler")
    pipeline.save_pretrained(tmp_path / "some", parts_there=parts)
    assert not any((tmp_path / "some" / part).exists() for part in parts)
    pipeline.save_pretrained(tmp_path / "all")
    index = [(tmp_path / name / "model_index.json").read_text() for name in ("some", "all")]
    assert index[0] == index[1]


# --- bits ------------------------------------------------------------------------------------------------------------


def test_bits_are_those_of_the_models_called_by_hand() -> None:
    pipeline, x = unclip(), pictures(3)
    scheduler = pipeline.with_scheduler(pipeline.scheduler).scheduler
    scheduler.set_timesteps(4)
    pipeline.prior_scheduler.set_timesteps(3)
    denoiser = pipeline.denoiser()
    batch = denoiser.batch(x, {"prompt": ["a", "red", "cat"]}, torch.device("cpu"), seeded(9))
    found = pipeline.bits_per_dim(denoiser, scheduler, [batch], generator=seeded())
    model, mean, std = pipeline.prior, pipeline.prior.clip_mean, pipeline.prior.clip_std

    def posterior(x: Tensor) -> DiagonalGaussian:
        z = (pipeline.image_encoder(x).image_embeds - mean) / std
        return DiagonalGaussian(z, torch.full_like(z, POSTERIOR_STD**2).log())

    def of_prior(conditioning: Any) -> dict[str, Tensor]:
        return caption_sequence(conditioning["encoder_hidden_states"], conditioning[MASK])

    by_hand = EmbeddingModel(
        posterior,
        lambda z_t, t, **given: model(z_t, t, **given).predicted_image_embedding,
        pipeline.prior_scheduler,
        lambda z, conditioning: {**conditioning, "class_labels": z * std + mean},
        of_prior,
    )
    expected = unclip_bits_per_dim(pipeline.unet, scheduler, [batch], by_hand, generator=seeded())
    assert found.per_example == pytest.approx(expected.per_example, rel=1e-5)
    assert found.num_model_evaluations == 3 * (4 + 3)
    weighted = pipeline.importance_weighted_bits_per_dim(denoiser, scheduler, [batch], num_paths=2)
    assert weighted.num_model_evaluations == 3 * 2 * (4 + 3)


def test_a_batch_of_the_denoiser_has_embeddings_of_its_images() -> None:
    pipeline, x = unclip(), pictures(2)
    denoiser = pipeline.denoiser()
    _, conditioning = denoiser.batch(
        x[:1].expand(4000, -1, -1, -1), {"prompt": ["cat"] * 4000}, torch.device("cpu"), seeded()
    )
    z = pipeline.encoder.standardised(conditioning["class_labels"])
    mean = pipeline.encoder.posterior(x[:1]).mean
    torch.testing.assert_close(z.mean(0, keepdim=True), mean, rtol=0, atol=5 * POSTERIOR_STD / 4000**0.5)
    torch.testing.assert_close(z.std(0), torch.full((WIDTH,), POSTERIOR_STD), rtol=0.06, atol=0)
    null = denoiser.conditioners.unconditional(conditioning)
    assert not null["class_labels"].any()
    bound = bits_per_dim(
        denoiser, pipeline.scheduler, [denoiser.batch(x[:2], {"prompt": PROMPTS}, "cpu")], num_evaluations=2
    )
    assert bound.num_examples == 2


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"image": pictures(1), "image_embeds": torch.zeros(1, WIDTH)}, "must not both be given"),
    "a width": ({"image_embeds": torch.zeros(1, 3)}, r"`image_embeds` must be a tensor \[B, 6\], but is \[1, 3\]"),
    "a NaN": ({"image_embeds": torch.full((1, WIDTH), torch.nan)}, "`image_embeds` must be finite"),
    "a size": ({"image": torch.zeros(1, 3, 4, 4)}, "`image_encoder` is for 3 channels of 8x8 pixels"),
    "a number": ({"image": pictures(2), "batch_size": 3}, "`image` must be one, or one for each of 3 images"),
    "guidance without words": ({"prior_guidance_scale": 2.0}, "Of the prior: `guidance_scale` must be 1 without a"),
    "a negative prompt": ({"prompt": "a", "negative_prompt": "b"}, "`negative_prompt` needs a `guidance_scale`"),
    "steps": ({"prompt": "a", "prior_num_inference_steps": 2000}, "Of the prior: "),
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_call_is_refused_before_anything_is_drawn(way: str) -> None:
    given, sentence = REFUSED[way]
    with pytest.raises(ValueError, match=sentence):
        unclip().iterate(**given)


PARTS: dict[str, tuple[Any, str]] = {
    "no embedding": (lambda: {"unet": text_unet()}, "`unet` must be given embeddings of 6 numbers"),
    "an image size": (lambda: {"image_encoder": image_encoder(4)}, "`image_encoder` is for 3 channels of 4x4 pixels"),
    "a width": (lambda: {"image_encoder": image_encoder(width=5)}, "`prior` must model embeddings of 5 numbers"),
    "tokens": (lambda: {"prior": prior(num_embeddings=5)}, "`prior` must have 14 places for 10 tokens, but has 8"),
    "hidden states": (lambda: {"prior": prior(encoder_hid_proj_type="linear")}, "`encoder_hid_proj_type` None"),
    "text": (
        lambda: {"prior": prior(text_width=5)},
        "`text_encoder` gives embeddings of width 8, but the model takes 5",
    ),
    "words": (lambda: {"tokenizer": CLIPTokenizer()}, "`tokenizer` knows no words, only special tokens"),
}


@pytest.mark.parametrize("way", PARTS)
def test_parts_that_do_not_fit_are_refused(way: str) -> None:
    make, sentence = PARTS[way]
    parts = make()
    with pytest.raises(ValueError, match=sentence):
        unclip(**parts)


def test_moments_that_were_never_set_are_refused() -> None:
    model = prior()
    model.clip_std.zero_()  # as stock has them at first
    with pytest.raises(ValueError, match="`clip_std` of the prior must be above 0"):
        prior_pipeline(prior=model)


def test_interpolations_need_one_image_each_and_two_in_all() -> None:
    pipeline, x = unclip(), pictures(2)
    with pytest.raises(ValueError, match="must be one image each, but are 2 and 1"):
        pipeline.interpolate(x, x[0], 3)
    with pytest.raises(ValueError, match="`num_interpolations` must be at least 2"):
        pipeline.interpolate(x[0], x[1], 1)
