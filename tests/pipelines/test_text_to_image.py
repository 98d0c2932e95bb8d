# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperTextToImagePipeline`, against diffusers' own `IFPipeline` and against loops by hand."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import IFPipeline, PriorTransformer, UNet2DModel
from tiny_models import tiny_unet
from tiny_text import ENCODERS, SIZE, bert, ours, stock, stock_scheduler, text_unet
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, DDPMPaperTextToImagePipeline, bits_per_dim, slerp
from ddpm_hf.conditioning.text import MASK, STATES, TextSettings
from ddpm_hf.pipelines.loading import load_pipeline, pipeline_class


pytestmark = pytest.mark.processes(1)

PROMPTS = ["a red cat", "big"]
NEGATIVE = ["dark", "a blue circle on the square"]
MASKED = TextSettings(max_length=10, attention_mask=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(one: Any, other: Any, atol: float = 2e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=atol)


def differ(one: Any, other: Any) -> bool:
    return bool((torch.as_tensor(one) - torch.as_tensor(other)).abs().max() > 0.01)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    return bert()


@pytest.fixture
def masked(parts: Any) -> DDPMPaperTextToImagePipeline:
    """A pipeline whose model masks padding."""
    return ours(*parts, text_unet(settings=MASKED))


# --- as stock does it ------------------------------------------------------------------------------------------------


WAYS = {
    "one prompt": {"prompt": "a red cat", "guidance_scale": 1.0},
    "guided": {"prompt": PROMPTS, "guidance_scale": 3.0},
    "negative prompts": {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "guidance_scale": 3.0},
    "two of each": {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "guidance_scale": 2, "num_images_per_prompt": 2},
    "timesteps": {"prompt": PROMPTS, "guidance_scale": 1.5, "timesteps": [800, 500, 0]},
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("way", WAYS)
def test_images_are_those_of_stock(kind: str, way: str) -> None:
    options, parts = {"num_inference_steps": 5, "output_type": "np"} | WAYS[way], (*ENCODERS[kind](), text_unet())
    if "timesteps" in options:
        del options["num_inference_steps"]
    found = ours(*parts)(generator=seeded(), **options).images
    close(found, stock(*parts)(generator=seeded(), clean_caption=False, **options).images)
    others = {**options, "prompt": ["light"] * len(PROMPTS)}
    assert differ(found[:1], ours(*parts)(generator=seeded(), **others).images[:1])


def test_images_of_a_list_of_generators_are_those_of_stock(parts: Any) -> None:
    options = {"prompt": PROMPTS, "guidance_scale": 3.0, "num_inference_steps": 5, "num_images_per_prompt": 2}
    unet, generators = text_unet(), lambda: [seeded(k) for k in range(4)]
    found = ours(*parts, unet)(generator=generators(), output_type="np", **options).images
    expected = stock(*parts, unet)(generator=generators(), output_type="np", clean_caption=False, **options).images
    close(found, expected)


@pytest.mark.parametrize("kind", ENCODERS)
def test_embeddings_are_those_of_stock(kind: str) -> None:
    parts = (*ENCODERS[kind](), text_unet())
    states, mask = ours(*parts).encode_prompt(PROMPTS)
    expected, _ = stock(*parts).encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert mask is None and torch.equal(states, expected)


@pytest.mark.parametrize("negative", [None, NEGATIVE], ids=["empty prompt", "negative prompts"])
def test_stock_differs_by_the_mask_alone(masked: Any, parts: Any, negative: Any) -> None:
    """`IFPipeline` draws the same images once its model is given the mask, and its embeddings have our length."""
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "np"}
    found = masked(PROMPTS, negative_prompt=negative, generator=seeded(), **options).images
    pipeline, given = stock(*parts, masked.unet), [masked.encode_prompt(words) for words in (PROMPTS, negative or "")]
    states, masks = zip(*((each.expand(2, *each.shape[1:]) for each in one) for one in given), strict=True)

    def drawn() -> np.ndarray:
        embeddings = dict(zip(("prompt_embeds", "negative_prompt_embeds"), states, strict=True))
        return pipeline(generator=seeded(), **embeddings, **options).images

    assert differ(found, drawn())
    mask = torch.cat(masks[::-1])
    hook = masked.unet.register_forward_pre_hook(lambda m, a, k: (a, k | {MASK: mask}), with_kwargs=True)
    try:
        close(found, drawn())
    finally:
        hook.remove()


def test_the_guide_names_the_arguments_of_stock_that_there_are_not() -> None:
    theirs, own = (list(signature(each.__call__).parameters) for each in (IFPipeline, DDPMPaperTextToImagePipeline))
    shared = theirs.index("num_images_per_prompt") + 1
    assert own[:shared] == theirs[:shared]
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "text_to_image.md").read_text("utf-8")
    absent = guide.partition("There are no ")[2].partition(":")[0]
    assert re.findall("`(.*?)`", absent) == [name for name in theirs if name not in own]


# --- padding ---------------------------------------------------------------------------------------------------------


POOLED = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}
POOLED |= {"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}


@pytest.mark.parametrize("pooled", [{}, POOLED], ids=["", "pooled"])
def test_embeddings_of_padding_have_no_influence(parts: Any, pooled: dict) -> None:
    pipeline = ours(*parts, text_unet(settings=MASKED, **pooled))
    states, mask = pipeline.encode_prompt(PROMPTS)
    other = torch.where(mask[..., None], states, torch.randn(states.shape, generator=seeded(7)) * 9)
    options = {"num_inference_steps": 5, "output_type": "pt", "prompt_attention_mask": mask}
    images = [pipeline(prompt_embeds=each, generator=seeded(), **options).images for each in (states, other)]
    assert torch.equal(*images)
    assert torch.equal(images[0], pipeline(PROMPTS, 5, generator=seeded(), output_type="pt").images)


def test_the_length_of_padding_has_no_influence(parts: Any) -> None:
    """The same prompts padded to 10, to 77 and to 7 tokens; without the mask the images differ."""
    for has_mask in (True, False):
        drawn = []
        for length in (10, 77, 7):
            pipeline = ours(*parts, text_unet(settings=TextSettings(length, has_mask)))
            found = pipeline(PROMPTS, 5, guidance_scale=3.0, generator=seeded(), output_type="pt").images
            drawn.append(found)
        if has_mask:
            close(drawn[0], drawn[1])
            close(drawn[0], drawn[2])
        else:
            assert differ(drawn[0], drawn[1])


def padded(pipeline: Any, name: str, prompts: list[str], length: int, side: str = "right") -> dict[str, Tensor]:
    """Embeddings of prompts and their mask, with so many positions, of which the masked ones hold anything."""
    states, mask = pipeline.encode_prompt(prompts)
    more = torch.randn(len(states), max(0, length - states.shape[1]), 8, generator=seeded(8))
    states = torch.cat([states, more], 1)[:, :length]
    mask = torch.cat([mask, torch.zeros(more.shape[:2], dtype=torch.bool)], 1)[:, :length]
    given = {f"{name}_embeds": states, f"{name}_attention_mask": mask}
    return {key: value.flip(1) for key, value in given.items()} if side == "left" else given


def test_a_model_that_pools_gets_as_much_padding_as_in_training(parts: Any) -> None:
    """Its pooled embedding is over padding too, so that the images depend on how much of it there is."""
    pipeline = ours(*parts, text_unet(settings=MASKED, **POOLED))
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "pt"}
    expected = pipeline(PROMPTS, negative_prompt=NEGATIVE, generator=seeded(), **options).images
    for length, negative_length in ((10, 10), (24, 77), (77, 10), (7, 24)):
        given = padded(pipeline, "prompt", PROMPTS, length)
        negative = padded(pipeline, "negative_prompt", NEGATIVE, negative_length)
        assert torch.equal(pipeline(**given, **negative, generator=seeded(), **options).images, expected), length
        words = {"negative_prompt": NEGATIVE}
        assert torch.equal(pipeline(**given, **words, generator=seeded(), **options).images, expected), length
    given = padded(pipeline, "prompt", PROMPTS, 24, "left")
    close(pipeline(**given, negative_prompt=NEGATIVE, generator=seeded(), **options).images, expected)


def test_a_pooling_model_that_guides_gets_as_much_padding_as_in_training(masked: Any) -> None:
    options = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "pt"}
    options["guidance_model"] = text_unet(seed=5, settings=MASKED, **POOLED)
    expected = masked(PROMPTS, generator=seeded(), **options).images
    found = masked(**padded(masked, "prompt", PROMPTS, 24), generator=seeded(), **options).images
    assert torch.equal(found, expected)


def test_tokens_that_a_model_that_pools_has_no_room_for_are_refused(parts: Any) -> None:
    states, mask = torch.randn(2, 12, 8, generator=seeded()), torch.ones(2, 12, dtype=torch.bool)
    given = {"prompt_embeds": states, "prompt_attention_mask": mask}
    pipeline = ours(*parts, text_unet(settings=MASKED, **POOLED))
    with pytest.raises(
        ValueError, match=r"^`prompt_embeds` must have at most 10 tokens that are not masked, .* have 12\.$"
    ):
        pipeline(num_inference_steps=2, **given)
    mask[:, 10:] = False
    pipeline(num_inference_steps=2, **given)
    ours(*parts, text_unet(settings=MASKED))(num_inference_steps=2, **(given | {"prompt_attention_mask": mask | True}))


def test_a_prompt_that_is_too_long_is_truncated_and_told_of(masked: Any, caplog: Any) -> None:
    long = "a big red cat on the big green square"  # 9 words between two ends
    with caplog.at_level(logging.WARNING, "ddpm_hf"):
        states, mask = masked.encode_prompt([long, "a cat"])
    assert caplog.messages == [f"`prompt` has 11 tokens, and is truncated to 10: {long!r}"]
    assert states.shape == (2, 10, 8) and mask.sum(1).tolist() == [10, 4]


# --- loading and saving ----------------------------------------------------------------------------------------------


def assert_same_parts(one: Any, other: Any) -> None:
    for name in ("unet", "text_encoder"):
        weights, others = (getattr(pipeline, name).state_dict() for pipeline in (one, other))
        assert weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_stock_saved_is_loaded_sampled_and_scored(tmp_path: Path, kind: str) -> None:
    saved = stock(*ENCODERS[kind](), text_unet(), stock_scheduler(num_train_timesteps=20))
    saved.save_pretrained(tmp_path)
    assert pipeline_class(tmp_path) is DDPMPaperTextToImagePipeline
    pipeline = load_pipeline(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert_same_parts(pipeline, saved)
    options = {"num_inference_steps": 5, "guidance_scale": 2.0, "output_type": "np"}
    found = pipeline(PROMPTS, generator=seeded(), **options).images
    close(found, saved(PROMPTS, generator=seeded(), clean_caption=False, **options).images)
    scheduler = DDPMPaperScheduler.from_config(pipeline.scheduler.config, num_levels=256)
    denoiser, images = pipeline.denoiser(), torch.ones(2, 3, SIZE, SIZE)
    batch = denoiser.batch(images, {"prompt": PROMPTS}, torch.device("cpu"))
    plain = saved.unet.eval()
    states = saved.encode_prompt(PROMPTS, do_classifier_free_guidance=False)[0]
    by_hand = [(images, {STATES: states})]
    bits = [
        bits_per_dim(model, scheduler, batches, generator=seeded()).total
        for model, batches in ((denoiser, [batch]), (plain, by_hand))
    ]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6) and 0 < bits[0] < 1000


@pytest.mark.parametrize("kind", ["T5", "CLIP"])
def test_a_pipeline_without_the_vocabulary_of_its_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """transformers loads a tokenizer of special tokens alone."""
    ours(*ENCODERS[kind](), text_unet()).save_pretrained(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^`tokenizer` knows no words, only special tokens: its vocabulary file"):
        load_pipeline(tmp_path)
    assert load_pipeline(tmp_path, tokenizer=None, text_encoder=None).tokenizer is None


STOCK_ALONE = """
import json, sys
sys.modules["ddpm_hf"] = None  # cannot be imported
import numpy, torch
from diffusers import DDPMScheduler, DiffusionPipeline, IFPipeline
for folder in sys.argv[1:]:
    for cls in (IFPipeline, DiffusionPipeline):
        pipeline = cls.from_pretrained(folder)
        assert type(pipeline) is IFPipeline and type(pipeline.scheduler) is DDPMScheduler
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(["a red cat", "big"], generator=torch.Generator().manual_seed(0), num_inference_steps=5,
                     guidance_scale=3.0, output_type="np", clean_caption=False).images
    numpy.save(folder + "/drawn.npy", drawn)
"""


def test_stock_loads_what_ours_saved_without_ddpm_hf(tmp_path: Path) -> None:
    pipelines = {kind: ours(*make(), text_unet()) for kind, make in ENCODERS.items()}
    for kind, pipeline in pipelines.items():
        pipeline.save_pretrained(tmp_path / kind)
        index = json.loads((tmp_path / kind / "model_index.json").read_text())
        assert index["_class_name"] == "IFPipeline" and index["scheduler"] == ["diffusers", "DDPMScheduler"]
    command = [sys.executable, "-W", "ignore", "-c", STOCK_ALONE, *(str(tmp_path / kind) for kind in pipelines)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, pipeline in pipelines.items():
        found = pipeline(PROMPTS, 5, guidance_scale=3.0, generator=seeded(), output_type="np").images
        close(found, np.load(tmp_path / kind / "drawn.npy"))


@pytest.mark.slow
def test_loading_warns_of_nothing(tmp_path: Path, masked: Any) -> None:
    """Also not of torchvision, which nothing here needs."""
    masked.save_pretrained(tmp_path / "model")
    load = "import sys; from ddpm_hf.pipelines.loading import load_pipeline; load_pipeline(sys.argv[1])"
    quiet = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", load, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ours_saved_and_loaded_is_the_same(tmp_path: Path, parts: Any) -> None:
    scheduler = DDPMPaperScheduler(20, variance_type="learned_range", num_levels=17, clip_sample=False)
    pipeline = ours(*parts, text_unet(settings=MASKED), scheduler)
    pipeline.save_pretrained(tmp_path / "first")
    again = DDPMPaperTextToImagePipeline.from_pretrained(tmp_path / "first")
    assert again.scheduler.num_levels == 17
    stock_again = IFPipeline.from_pretrained(tmp_path / "first")
    stock_again.save_pretrained(tmp_path / "second")  # and stock loses nothing of it
    for loaded in (again, load_pipeline(tmp_path / "second")):
        loaded.set_progress_bar_config(disable=True)
        assert loaded.conditioners.members[0].settings == MASKED
        assert_same_parts(loaded, pipeline)
        images = [each(PROMPTS, generator=seeded(), output_type="pt").images for each in (pipeline, loaded)]
        assert torch.equal(*images)


def test_a_pipeline_without_an_encoder_is_saved_and_loaded(tmp_path: Path, masked: Any) -> None:
    alone = ours(None, None, masked.unet)
    alone.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_index.json", "scheduler", "unet"]
    loaded = DDPMPaperTextToImagePipeline.from_pretrained(tmp_path)
    assert loaded.text_encoder is None and loaded.tokenizer is None
    whole = DDPMPaperTextToImagePipeline.from_pretrained(
        tmp_path, tokenizer=masked.tokenizer, text_encoder=masked.text_encoder
    )
    images = [each(PROMPTS, 5, generator=seeded(), output_type="pt").images for each in (masked, whole)]
    assert torch.equal(*images)


# --- everything else that a pipeline does ----------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [{}, {"guidance_scale": 3.0, "negative_prompt": "dark"}], ids=str)
def test_embeddings_take_the_place_of_prompts(masked: Any, guided: dict) -> None:
    expected = masked(PROMPTS, 5, generator=seeded(), output_type="pt", **guided).images
    states, mask = masked.encode_prompt(PROMPTS)
    given = {"prompt_embeds": states, "prompt_attention_mask": mask}
    if guided:
        negative, its_mask = masked.encode_prompt(["dark"] * 2)
        given |= {
            "negative_prompt_embeds": negative,
            "negative_prompt_attention_mask": its_mask,
            "guidance_scale": 3.0,
        }
    for pipeline in (masked, ours(None, None, masked.unet)):
        found = pipeline(num_inference_steps=5, generator=seeded(), output_type="pt", **given).images
        assert torch.equal(found, expected)


def test_the_empty_prompt_has_the_length_of_the_embeddings(parts: Any) -> None:
    """As in stock, where prompts of another number of tokens than 77 are given as embeddings."""
    unet, options = text_unet(), {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "np"}
    states = torch.randn(2, 12, 8, generator=seeded(4))
    found = ours(*parts, unet)(prompt_embeds=states, generator=seeded(), **options).images
    close(found, stock(*parts, unet)(prompt_embeds=states, generator=seeded(), **options).images)


def test_no_prompt_and_scale_zero_are_the_empty_prompt(masked: Any) -> None:
    options = {"num_inference_steps": 5, "output_type": "pt"}
    empty = masked(["", ""], generator=seeded(), **options).images
    assert torch.equal(masked(batch_size=2, generator=seeded(), **options).images, empty)
    close(masked(PROMPTS, guidance_scale=0.0, generator=seeded(), **options).images, empty)
    assert len(masked(num_inference_steps=2).images) == 1


def test_several_images_are_drawn_without_a_prompt(masked: Any) -> None:
    options = {"num_inference_steps": 3, "output_type": "pt"}
    found = masked(num_images_per_prompt=4, generator=seeded(), **options).images
    assert torch.equal(found, masked(batch_size=4, generator=seeded(), **options).images)
    assert len(masked(num_images_per_prompt=4, batch_size=2, **options).images) == 2


@pytest.mark.parametrize("prompt", [None, PROMPTS], ids=["without prompts", "with prompts"])
def test_several_images_are_drawn_from_each_image(masked: Any, prompt: Any) -> None:
    images = torch.rand(2, 3, SIZE, SIZE, generator=seeded(1)) * 2 - 1
    masks = torch.rand(2, 1, SIZE, SIZE, generator=seeded(2))
    options = {"num_inference_steps": 4, "output_type": "pt", "num_images_per_prompt": 2, "prompt": prompt}
    for given in ({"image": images, "strength": 0.5}, {"image": images, "mask_image": masks, "jump_n_sample": 1}):
        of_each = {key: each.repeat_interleave(2, 0) if torch.is_tensor(each) else each for key, each in given.items()}
        if prompt is None:
            of_each["batch_size"] = 4
        found = masked(**given, generator=seeded(), **options).images
        assert torch.equal(found, masked(**of_each, generator=seeded(), **options).images)
    message = r"`image` must be one, one for each of 3 prompts, or one for each of 6 images, but are 2\."
    with pytest.raises(ValueError, match=message):
        masked(["a"] * 3, 2, image=images, num_images_per_prompt=2)


def test_iterate_yields_the_steps_of_a_call(masked: Any) -> None:
    options = {"guidance_scale": 2.0, "num_images_per_prompt": 2}
    steps = list(masked.iterate(PROMPTS, 5, generator=seeded(), **options))
    told: list[tuple[int, int, Tensor]] = []
    images = masked(
        PROMPTS, 5, generator=seeded(), output_type="pt", callback=lambda *step: told.append(step), **options
    ).images
    assert [step.timestep for step in steps] == masked.scheduler.timesteps.tolist()
    assert torch.equal((steps[-1].prev_sample / 2 + 0.5).clamp(0, 1), images)
    assert [(number, t) for number, t, _ in told] == [(k, step.timestep) for k, step in enumerate(steps)]
    assert all(torch.equal(x, step.prev_sample) for (_, _, x), step in zip(told, steps, strict=True))
    seen: list[int] = []
    masked("a cat", 5, callback=lambda number, t, x: seen.append(number), callback_steps=2)
    assert seen == [0, 2, 4]


def test_output_types_are_the_same_images(masked: Any) -> None:
    tensor, array, pictures = (
        masked("a cat", 3, generator=seeded(), output_type=kind).images for kind in ("pt", "np", "pil")
    )
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.asarray(pictures[0]), (array[0] * 255).round().astype("uint8"))
    (images,) = masked("a cat", 3, generator=seeded(), output_type="pt", return_dict=False)
    assert torch.equal(images, tensor)


def test_latents_spacings_and_solvers_are_passed_on(masked: Any) -> None:
    x_T = torch.randn(2, 3, SIZE, SIZE, generator=seeded(3))
    options = {"num_inference_steps": 6, "latents": x_T, "output_type": "pt", "eta": 0.0}
    drawn = masked(PROMPTS, **options).images
    assert torch.equal(drawn, masked(PROMPTS, **options).images)  # no noise is left
    assert differ(drawn, masked(PROMPTS, solver_order=2, **options).images)
    assert differ(drawn, masked(PROMPTS, timestep_spacing="trailing", **options).images)
    masked(PROMPTS, 6, timestep_spacing="trailing")
    assert masked.scheduler.timesteps[0] == 999
    found = masked(PROMPTS, timesteps=[900, 30, 0], latents=x_T, output_type="pt", eta=0.0).images
    x, (states, mask) = x_T, masked.encode_prompt(PROMPTS)
    with torch.no_grad():
        for t in (900, 30, 0):
            output = masked.unet(x, t, states, encoder_attention_mask=mask).sample
            x = masked.scheduler.ddim_step(output, t, x, eta=0.0).prev_sample
    close(found, (x / 2 + 0.5).clamp(0, 1))


def test_images_are_encoded_and_decoded(parts: Any) -> None:
    unet = text_unet(settings=MASKED)
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.005)  # a smooth flow
    pipeline = ours(*parts, unet, DDPMPaperScheduler(variance_type="learned_range", clip_sample=False))
    images = torch.rand(2, 3, SIZE, SIZE, generator=seeded()) - 0.5
    for words in (PROMPTS, "a cat", None):
        guided = {} if words is None else {"guidance_scale": 1.5}
        latents = pipeline.encode(images, words, 50, **guided)
        listed = [words] * 2 if isinstance(words, str) else words
        again = pipeline(listed, 50, latents=latents, eta=0.0, output_type="pt", batch_size=2, **guided).images
        close(again, images / 2 + 0.5, atol=0.04)
    assert slerp(latents[:1], latents[1:], 0.5).shape == (1, 3, SIZE, SIZE)


def test_an_image_depends_on_its_generator_and_prompt_alone(masked: Any) -> None:
    options = {"num_inference_steps": 5, "output_type": "pt", "guidance_scale": 2.0}
    whole = masked(PROMPTS, generator=[seeded(k) for k in range(4)], num_images_per_prompt=2, **options).images
    alone = [masked(PROMPTS[k // 2], generator=[seeded(k)], **options).images for k in range(4)]
    close(whole, torch.cat(alone))


@torch.no_grad()
def test_guidance_is_that_of_a_loop_by_hand(masked: Any) -> None:
    weaker = text_unet(seed=5, settings=MASKED)
    (states, mask), (null, its_mask) = (masked.encode_prompt(words) for words in (PROMPTS, ["", ""]))

    def by_hand(w: float, interval: tuple[float, float], other: Any = None) -> Tensor:
        generator = seeded()
        x = torch.randn(2, 3, SIZE, SIZE, generator=generator)
        masked.scheduler.set_timesteps(10)
        for t in masked.scheduler.timesteps.tolist():
            strong, variance = masked.unet(x, t, states, encoder_attention_mask=mask).sample.chunk(2, dim=1)
            if interval[0] <= t <= interval[1]:
                text = (null, its_mask) if other is None else (states, mask)
                weak = (other or masked.unet)(x, t, text[0], encoder_attention_mask=text[1]).sample[:, :3]
                strong = weak + w * (strong - weak)
            x = masked.scheduler.step(torch.cat([strong, variance], 1), t, x, generator=generator).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    options = {"num_inference_steps": 10, "output_type": "pt"}
    found = masked(PROMPTS, guidance_scale=4, guidance_interval=(200, 600), generator=seeded(), **options).images
    close(found, by_hand(4.0, (200, 600)))
    found = masked(PROMPTS, guidance_scale=4, guidance_model=weaker, generator=seeded(), **options).images
    close(found, by_hand(4.0, (0, 1000), weaker))
    guided = [masked(PROMPTS, guidance_scale=4, guidance_rescale=r, generator=seeded(), **options) for r in (0, 0.9)]
    assert differ(guided[0].images, guided[1].images)


def test_the_pipeline_runs_in_double_precision(masked: Any) -> None:
    single = masked(PROMPTS, 5, guidance_scale=2, generator=seeded(), output_type="pt").images
    x_T = torch.randn(2, 3, SIZE, SIZE, generator=seeded(1))
    single = masked(PROMPTS, 5, guidance_scale=2, latents=x_T, eta=0, output_type="pt").images
    pipeline = ours(masked.tokenizer, masked.text_encoder, text_unet(settings=MASKED).double())
    double = pipeline(PROMPTS, 5, guidance_scale=2, latents=x_T.double(), eta=0, output_type="pt").images
    assert double.dtype == torch.float64  # of the model, with an encoder in float32
    close(double.float(), single)


# --- refused ---------------------------------------------------------------------------------------------------------


STATES_OF_TWO = torch.zeros(2, 10, 8)
MASK_OF_TWO = torch.ones(2, 10, dtype=torch.bool)
EMBEDDED = {"prompt": None, "prompt_embeds": STATES_OF_TWO, "prompt_attention_mask": MASK_OF_TWO}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, r"`prompt` must be a string or a list of strings, but is \[\]\."),
        ({"prompt": ["a", 3]}, r"`prompt` must be a string or a list of strings, but is \['a', 3\]\."),
        ({"prompt": 3}, r"`prompt` must be a string or a list of strings, but is 3\."),
        ({"negative_prompt": [], "guidance_scale": 2}, r"`negative_prompt` must be a string or a list of strings"),
        (
            {"negative_prompt": ["a"] * 3, "guidance_scale": 2},
            r"`negative_prompt` must be one for all, or one for each of 2, but are 3\.",
        ),
        ({"negative_prompt": "dark"}, r"`negative_prompt` needs a `guidance_scale` other than 1, and no"),
        ({"num_images_per_prompt": 0}, r"`num_images_per_prompt` must be an int >= 1, but is 0"),
        ({"batch_size": 3}, r"`batch_size` must be left out, or 2, the prompts' images, but is 3\."),
        ({"prompt": None, "batch_size": 0}, r"`batch_size` must be an int >= 1, but is 0"),
        ({"prompt": None, "guidance_scale": 2}, r"`guidance_scale` must be 1 without a `prompt`, but is 2\."),
        ({"guidance_scale": -1}, r"`guidance_scale` must be a finite number >= 0, but is -1"),
        ({"guidance_interval": (5, 1)}, r"`guidance_interval` must be two numbers"),
        ({"guidance_rescale": 2, "guidance_scale": 2}, r"`guidance_rescale` must be a number in \[0, 1\]"),
        ({**EMBEDDED, "prompt": "a"}, r"`prompt` and `prompt_embeds` must not both be given\."),
        ({**EMBEDDED, "prompt_embeds": torch.zeros(2, 8)}, r"`prompt_embeds` must be a tensor \[B, L, width\]"),
        (
            {**EMBEDDED, "prompt_attention_mask": None},
            r"`prompt_attention_mask` of shape \[2, 10\] must be given with `prompt_embeds`: the model",
        ),
        (
            {**EMBEDDED, "prompt_attention_mask": MASK_OF_TWO.tolist()},
            r"^`prompt_attention_mask` must be a tensor \[B, L\], but is list\.$",
        ),
        (
            {"negative_prompt_embeds": STATES_OF_TWO, "negative_prompt_attention_mask": MASK_OF_TWO.numpy()}
            | {"guidance_scale": 2},
            r"^`negative_prompt_attention_mask` must be a tensor \[B, L\], but is ndarray\.$",
        ),
        ({**EMBEDDED, "prompt_attention_mask": MASK_OF_TWO[:, 1:]}, r"`prompt_attention_mask` of shape \[2, 10\]"),
        (
            {**EMBEDDED, "prompt_embeds": torch.zeros(2, 10, 7)},
            r"`prompt_embeds` must be floating-point numbers of width 8, but are torch.float32 of width 7\.",
        ),
        (
            {**EMBEDDED, "prompt_embeds": STATES_OF_TWO.long()},
            r"`prompt_embeds` must be floating-point numbers of width 8, but are torch.int64 of width 8\.",
        ),
        (
            {**EMBEDDED, "prompt_embeds": STATES_OF_TWO / 0},
            r"`prompt_embeds` must be finite, but holds values that are not\.",
        ),
        (
            {"negative_prompt_embeds": torch.zeros(2, 9, 8), "guidance_scale": 2}
            | {"negative_prompt_attention_mask": MASK_OF_TWO[:, 1:]},
            r"`negative_prompt_embeds` must have as many tokens as the prompts, 10, but have 9\.",
        ),
        (
            {"prompt_attention_mask": MASK_OF_TWO},
            r"`prompt_attention_mask` must be left out: there are no `prompt_embeds`\.",
        ),
        ({"generator": [1, 2]}, r"`generator` must be a torch.Generator"),
        ({"generator": [seeded()]}, r"`generator` must hold one generator per image: 2, but there are 1\."),
        ({"latents": torch.zeros(1, 3, 8, 8)}, r"`latents` must be of shape \[2, 3, 8, 8\]"),
        ({"eta": 2}, r"`eta` must lie in"),
        ({"solver_order": 2}, r"`solver_order`"),
        ({"num_inference_steps": 0}, r"`num_inference_steps` must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_is_refused_before_the_model_runs(masked: Any, options: dict, message: str) -> None:
    seen: list[int] = []
    masked.unet.register_forward_pre_hook(lambda *_: seen.append(1))
    for call in (masked, masked.iterate):
        with pytest.raises(ValueError, match=message):
            call(**{"prompt": PROMPTS, **options})
    assert not seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_type": "jpg"}, r"`output_type` must be one of"),
        ({"callback": print, "callback_steps": 0}, r"`callback_steps` must be an int >= 1, but is 0"),
    ],
)
def test_what_only_a_call_takes_is_refused(masked: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked(PROMPTS, **options)


def test_images_to_encode_that_do_not_fit_are_refused(masked: Any) -> None:
    images = torch.zeros(3, 3, SIZE, SIZE)
    for arguments, message in (
        ((images, PROMPTS), r"`prompt` must be one for all images, or one for each of 3, but are 2\."),
        ((images, []), r"`prompt` must be a string or a list of strings, but is \[\]\."),
        ((images[:, :1], PROMPTS), r"`images` must be of shape \[3, 3, 8, 8\]"),
        ((None, PROMPTS), r"`images` must be a tensor of at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            masked.encode(*arguments)


def test_a_model_that_was_not_trained_without_text(parts: Any) -> None:
    pipeline = ours(*parts, text_unet(settings=TextSettings(10, null=False)))
    with pytest.raises(ValueError, match=r"`prompt` must be given: the model was not trained without text\."):
        pipeline(batch_size=2)
    with pytest.raises(ValueError, match=r"`guidance_scale` must be 1, but is 3: the model has no unconditional"):
        pipeline(PROMPTS, guidance_scale=3)
    assert len(pipeline(PROMPTS, 2).images) == 2


def test_a_mask_for_a_model_that_takes_none_is_refused(parts: Any) -> None:
    with pytest.raises(ValueError, match=r"`prompt_attention_mask` must be left out: the model takes none\."):
        ours(*parts, text_unet())(**EMBEDDED)


def test_a_pipeline_without_an_encoder_needs_embeddings(masked: Any) -> None:
    alone = ours(None, None, masked.unet)
    message = "`prompt_embeds`, and with guidance `negative_prompt_embeds`, must be given: the pipeline has no text"
    for options in ({"prompt": PROMPTS}, {}, {**EMBEDDED, "guidance_scale": 2}):
        with pytest.raises(ValueError, match=message):
            alone(**options)
    for call in (alone.encode_prompt, lambda words: alone.encode(torch.zeros(2, 3, SIZE, SIZE), words)):
        with pytest.raises(ValueError, match="has no text encoder"):
            call(PROMPTS)
    with pytest.raises(ValueError, match="has no text encoder"):
        alone.conditioners.make({"prompt": PROMPTS}, torch.device("cpu"))


def test_an_encoder_of_another_width_is_refused(parts: Any) -> None:
    wide = text_unet(encoder_hid_dim=12, encoder_hid_dim_type="text_proj")
    with pytest.raises(ValueError, match=r"`text_encoder` gives embeddings of width 8, but the model takes 12; use"):
        DDPMPaperTextToImagePipeline(*parts, wide, stock_scheduler())
    fitting = text_unet(encoder_hid_dim=8, encoder_hid_dim_type="text_proj")
    assert ours(*parts, fitting)("a cat", 2).images


def test_a_weaker_model_of_another_kind_is_refused(masked: Any) -> None:
    other: UNet2DModel = tiny_unet(3, 6, SIZE)
    for weaker in (other, text_unet(settings=TextSettings(12, True))):
        with pytest.raises(ValueError, match="`guidance_model` must have the model's conditioning"):
            masked(PROMPTS, guidance_scale=2, guidance_model=weaker)


def test_what_is_no_model_does_not_guide(masked: Any) -> None:
    for given in ("x", masked, torch.nn.Linear(2, 2)):
        kind = type(given).__name__
        with pytest.raises(ValueError, match=f"^`guidance_model` must be a model of diffusers, but is a {kind}\\.$"):
            masked(PROMPTS, guidance_scale=2, guidance_model=given)
    prior = PriorTransformer(num_attention_heads=1, attention_head_dim=4, num_layers=1, embedding_dim=4)
    with pytest.raises(ValueError, match=r"^`guidance_model` must have the model's `in_channels`, 3, but has None\.$"):
        masked(PROMPTS, guidance_scale=2, guidance_model=prior)


def test_settings_of_a_later_version_are_refused(masked: Any) -> None:
    masked.unet.register_to_config(_ddpm_hf={"text": {"max_length": 10, "layers": [1, 2]}})
    with pytest.raises(ValueError, match=r"`_ddpm_hf` of the model has the settings .* which this version does not"):
        masked(PROMPTS)


def test_another_scheduler_is_refused_when_it_is_put_in_place(masked: Any) -> None:
    masked.scheduler = stock_scheduler()
    with pytest.raises(ValueError, match="`scheduler` must be a DDPMPaperScheduler, but is a DDPMScheduler"):
        masked(PROMPTS)
