# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the page computes, without a page: against the pipelines' own calls, training's images, and Pillow's files."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import tiny_text
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from in_process import run
from PIL import Image
from sklearn.datasets import load_digits
from tiny_models import tiny_unet
from tiny_pages import T, digits_pipeline, write_digit

from ddpm_hf import (
    DDPMPaperLatentPipeline,
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    bits_per_dim,
    compress,
    decompress,
)
from ddpm_hf.app.compressing import compress_picture, decode_file, decode_prefix
from ddpm_hf.app.examples import write_examples
from ddpm_hf.app.figures import bits_figure
from ddpm_hf.app.model import PageModel
from ddpm_hf.app.pixels import bits_by_pixel, has_pixels
from ddpm_hf.app.sampling import IN_TURN, SampleRequest, sample_pictures, spacings_of
from ddpm_hf.app.scoring import score_picture
from ddpm_hf.app.scratch import Scratch
from ddpm_hf.app.uploads import read_upload
from ddpm_hf.app.words import told_file, told_prefix, told_score, told_sizes
from ddpm_hf.compression.file_format import packed, unpacked
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.loading import load_images
from ddpm_hf.evaluation import file_formats
from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.pipelines.autoencoders import decoder_law_config
from ddpm_hf.runtime.randomness import Use, generator_of


@pytest.fixture(scope="module")
def model() -> PageModel:
    return PageModel("runs/digits", digits_pipeline())


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    write_digit(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def levels_of(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.rint(values.astype(float) * 16 / 255).astype(np.uint8))


# --- pictures that are uploaded --------------------------------------------------------------------------------------


def test_a_picture_of_the_model_is_taken_as_it_is(model: PageModel, digit: Path) -> None:
    upload = read_upload(digit, model)
    assert upload.changes == "" and upload.num_levels == 17
    assert torch.equal(upload.levels[0].double(), torch.from_numpy(load_digits().images[1500]))
    assert np.array_equal(np.asarray(upload.picture), np.asarray(Image.open(digit)))


@pytest.mark.parametrize("num_levels", [2, 3, 17, 100, 200, 255, 256])
def test_levels_come_back_whatever_their_number(tmp_path: Path, num_levels: int) -> None:
    """Training rounds down, which would take some levels for others."""
    scheduler = DDPMPaperScheduler(num_levels=num_levels)
    of_levels = PageModel("m", DDPMPaperPipeline(tiny_unet(1, 1, 16), scheduler))
    levels = torch.arange(256).reshape(16, 16) % num_levels
    values = np.floor(levels.numpy() * 255 / (num_levels - 1) + 0.5).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "levels.png")
    upload = read_upload(tmp_path / "levels.png", of_levels)
    assert torch.equal(upload.levels[0].long(), levels) and upload.changes == ""


@pytest.mark.parametrize(("mode", "size"), [("RGB", (60, 41)), ("RGBA", (8, 8)), ("L", (23, 90)), ("P", (30, 30))])
def test_other_pictures_are_converted_as_in_training(
    model: PageModel, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    picture = Image.fromarray(values).convert("RGB") if mode == "P" else Image.fromarray(values)
    for name in "ab":
        picture.convert(mode).save(folder / f"{name}.png")
    given = {"resolution": 8, "channels": 1, "num_levels": 17, "center_crop": True, "test_fraction": 0.0}
    trained = load_images(DataArguments(train_data_dir=str(folder), **given)).train
    upload = read_upload(folder / "a.png", model)
    assert torch.equal(upload.levels, trained.levels(0))
    assert upload.changes.startswith("As in training, the picture was ") and "rounded to" in upload.changes
    assert ("resized from" in upload.changes) == (size != (8, 8))
    assert (f"converted from {mode} to L" in upload.changes) == (mode in ("RGB", "RGBA"))


def test_what_is_no_picture_is_told_without_its_path(model: PageModel, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="The file is not an image") as told:
        read_upload(tmp_path / "secret.png", model)
    assert "secret" not in str(told.value)
    wide = PageModel("m", DDPMPaperPipeline(tiny_unet(1, 1, (4, 8)), DDPMPaperScheduler()))
    write_digit(tmp_path / "digit.png")
    with pytest.raises(ValueError, match="only square"):
        read_upload(tmp_path / "digit.png", wide)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ({"told": IN_TURN}, {"class_labels": [0, 1, 2]}),
        ({"told": 7, "guidance_scale": 3.0}, {"class_labels": 7, "guidance_scale": 3.0}),
        ({"told": None, "sampler": "DDIM", "eta": 0.5}, {"eta": 0.5}),
        ({"told": 1, "sampler": "DPM-Solver++(2M)"}, {"class_labels": 1, "eta": 0.0, "solver_order": 2}),
    ],
)
def test_samples_are_those_of_the_pipeline(model: PageModel, tmp_path: Path, asked: dict, called: dict) -> None:
    how = {"num_inference_steps": 6, "timestep_spacing": "optimal"}
    samples = sample_pictures(model, SampleRequest(count=3, seed=5, **how, **asked), tmp_path)
    generators = [generator_of(Use.SAMPLING, 5, i) for i in range(3)]
    expected = model.pipeline(batch_size=3, generator=generators, **how, **called).images
    assert [picture.size for picture in samples.pictures] == [(192, 192)] * 3
    for picture, wanted in zip(samples.pictures, expected, strict=True):
        assert np.array_equal(np.asarray(picture)[::24, ::24], np.asarray(wanted))
        assert np.array_equal(np.asarray(picture)[23::24, 23::24], np.asarray(wanted))
    with Image.open(samples.animation) as film:
        assert film.format == "GIF" and film.n_frames == 7


def test_the_model_says_what_can_be_asked() -> None:
    model = PageModel("runs/digits/", digits_pipeline())
    assert model.title == "digits" and model.class_names == [str(k) for k in range(10)] and model.can_be_guided
    assert spacings_of(model)[0] == "optimal" and "10 classes" in model.summary and "17 levels" in model.summary
    plain = PageModel("m", digits_pipeline(has_errors=False, classes=0))
    assert plain.class_names == [] and not plain.can_be_guided and "optimal" not in spacings_of(plain)
    dit = tiny_pipelines.diffusion_transformer(DDPMScheduler(), num_classes=3)
    names = {0: "cat", 1: "dog", 2: "bird"}
    assert PageModel("m", DDPMPaperLatentPipeline.from_stock(dit, names)).class_names == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"count": 17}, "`count` must lie in 1 ... 16, but is 17"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"sampler": "Euler"}, "`sampler` must be one of"),
        ({"told": 10}, "knows 10 classes, counted from 0; there is no 10"),
        ({"num_inference_steps": 1000}, "num_inference_steps"),
        ({"guidance_scale": 2.0}, "`guidance_scale` must be 1 for images of no class"),
    ],
)
def test_requests_that_the_model_cannot_follow(model: PageModel, tmp_path: Path, asked: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sample_pictures(model, SampleRequest(**asked), tmp_path)


def test_prompts_are_told(tmp_path: Path) -> None:
    settings = tiny_text.TextSettings(16, attention_mask=True, null=True)
    of_levels = DDPMPaperScheduler(num_train_timesteps=20, variance_type="learned_range")
    pipeline = tiny_text.ours(*tiny_text.bert(), tiny_text.text_unet(settings=settings), of_levels)
    pipeline.set_progress_bar_config(disable=True)
    model = PageModel("m", pipeline)
    assert model.is_told_of_text and not model.class_names
    pictures = {
        told: sample_pictures(model, SampleRequest(1, 4, told=told), Scratch().folder()).pictures[0]
        for told in ("a red circle", "a blue cat", "", None)
    }
    generators = [generator_of(Use.SAMPLING, 0, 0)]
    wanted = pipeline("a red circle", generator=generators, num_inference_steps=4).images[0]
    assert np.array_equal(np.asarray(pictures["a red circle"])[::24, ::24], np.asarray(wanted))
    assert pictures[""] == pictures[None] != pictures["a blue cat"] != pictures["a red circle"]
    write_digit(tmp_path / "digit.png")
    upload = read_upload(tmp_path / "digit.png", model)
    bits = {told: score_picture(model, upload, told, 20, 1).result.total for told in ("a red circle", "a cat", None)}
    assert len(set(bits.values())) == 3
    assert "Only models without conditioning or with classes" in model.fault_of_files


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "label"), [(3, 3), (None, 10)])
def test_a_score_is_the_bound_given_the_class(model: PageModel, digit: Path, told: int | None, label: int) -> None:
    """The null class is the eleventh."""
    shares: list[float] = []
    score = score_picture(model, read_upload(digit, model), told, 10, 4, seed=2, progress=shares.append)
    x_0 = torch.from_numpy(load_digits().images[1500]).float().expand(4, 1, 8, 8) / 8 - 1
    scheduler = DDPMPaperScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(T)
    batch = (x_0, {"class_labels": torch.full((4,), label)})
    how = {"num_evaluations": 10, "generator": generator_of(Use.SCORING, 2, 0)}
    bound = bits_per_dim(model.pipeline.unet, scheduler, [batch], **how)
    assert score.result.total == pytest.approx(bound.total, rel=1e-6)
    assert score.standard_error == pytest.approx(np.std(bound.per_example, ddof=1) / 2, rel=1e-5)
    assert score.calls == 10 and shares == pytest.approx([k / 10 for k in range(1, 11)])
    buffer = io.BytesIO()
    Image.open(digit).save(buffer, "PNG", optimize=True)
    assert (score.png_bytes, score.png_bits_per_dim) == (buffer.tell(), buffer.tell() / 8)
    assert f"{bound.total:.3f} ±" in told_score(score) and "| decoder |" in told_score(score)
    figure = bits_figure(score)
    assert figure.format == "PNG" and figure.width == 800 and len(figure.getcolors(100000) or []) > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_the_bits_of_the_pixels_add_up_to_the_bound(digit: Path, channels: int) -> None:
    """Of the same chain and the same noise."""
    unet = tiny_unet(channels, 2 * channels, 8)
    of_one = digits_pipeline(classes=0).scheduler
    model = PageModel("m", DDPMPaperPipeline(unet, of_one))
    upload = read_upload(digit, model)
    pixels = bits_by_pixel(model, upload, None, steps=20, draws=6, seed=4)
    scheduler = DDPMPaperScheduler.from_config(of_one.config)
    scheduler.set_timesteps(20, timestep_spacing="optimal")
    copies = upload.x_0.expand(6, -1, -1, -1)
    bound = bits_per_dim(unet, scheduler, [copies], generator=generator_of(Use.SCORING, 4, 1))
    assert has_pixels(model) and pixels.shape == (8, 8)
    assert pixels.mean().item() / channels == pytest.approx(bound.total, rel=1e-6)
    assert bits_figure(score_picture(model, upload, None, 5, 1), pixels).height > 1200


def test_a_pixel_that_the_model_does_not_expect_costs_more(digit: Path) -> None:
    """A model that always predicts black: grey and white pixels cost more, the whiter the more."""
    model = PageModel("m", digits_pipeline(classes=0))

    class Black(type(model.pipeline.unet)):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **options: object) -> tuple:
            alpha, sigma = model.pipeline.scheduler.schedule.marginal_coefficients(int(timestep[0]) + 1)
            v = (sample * float(alpha) + 1) / float(sigma)  # by which x_0 is -1
            return (torch.cat([v, torch.zeros_like(v)], dim=1),)

    model.pipeline.unet.__class__ = Black
    upload = read_upload(digit, model)
    pixels = bits_by_pixel(model, upload, None, steps=30, draws=4)
    levels = upload.levels[0]
    means = [pixels[levels == level].mean().item() for level in (0, 16)]
    assert means[1] > 10 * means[0] and pixels.min() > 0


def test_all_timesteps_are_the_most(model: PageModel, digit: Path) -> None:
    score = score_picture(model, read_upload(digit, model), None, 1000, 1)
    assert score.calls == T and math.isfinite(score.standard_error) and score.standard_error > 0


def test_latents_are_scored_in_bits_of_their_pictures(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=20, variance_type="learned_range")
    pipeline = DDPMPaperLatentPipeline.from_stock(tiny_pipelines.diffusion_transformer(scheduler, num_classes=3))
    model = PageModel("m", pipeline)
    assert "has no p(x | z)" in model.fault_of_scores
    assert "Only a UNet2DModel can compress" in model.fault_of_files
    pipeline.vae.register_to_config(**decoder_law_config(DecoderLaw([-1.0, -1.0, -1.0])))
    model = PageModel("m", pipeline)
    write_digit(tmp_path / "digit.png")
    upload = read_upload(tmp_path / "digit.png", model)
    assert model.fault_of_scores is None and upload.levels.shape == (3, 16, 16)
    score = score_picture(model, upload, 1, 5, 2)
    assert "| posterior entropy |" in told_score(score) and score.png_bits_per_dim == score.png_bytes * 8 / 768


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, 4])
def test_a_picture_there_and_back(model: PageModel, digit: Path, label: int | None) -> None:
    values = np.asarray(Image.open(digit))
    packed_picture = compress_picture(model, read_upload(digit, model), label)
    content = packed_picture.content
    for back in (decompress(content, model.pipeline), decode_file(model, content)):
        assert back.is_exact and [np.array_equal(np.asarray(each), values) for each in back.pictures.values()] == [
            True
        ]
    labels = None if label is None else [label]
    assert content == compress([Image.open(digit)], model.pipeline, mode="progressive", class_labels=labels).content
    for count in (packed_picture.least, len(content) // 2, len(content) - 1, len(content)):
        prefix = decode_prefix(model, packed_picture, count)
        count = max(count, packed_picture.least)
        by_hand = decompress(content, model.pipeline, max_bytes=count)
        assert np.array_equal(np.asarray(prefix.picture), np.asarray(by_hand.pictures["0.png"]))
        assert prefix.is_exact == (count == len(content)) == (prefix.psnr == math.inf)
        told = told_prefix(prefix, count, packed_picture)
        assert ("pixel for pixel" if prefix.is_exact else f"first {count} of {len(content)} bytes") in told
    assert "approximately" in told_file(decode_file(model, content[:-1]))


def test_the_signal_to_noise_ratio_of_a_prefix(model: PageModel, digit: Path) -> None:
    packed_picture = compress_picture(model, read_upload(digit, model))
    prefix = decode_prefix(model, packed_picture, len(packed_picture.content) - 3)
    found, wanted = levels_of(np.asarray(prefix.picture)), levels_of(np.asarray(Image.open(digit)))
    error = (found.double() - wanted.double()).square().mean().item()
    assert prefix.psnr == pytest.approx(10 * math.log10(16**2 / error))


def test_sizes_are_those_of_pillows_files(model: PageModel, digit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.open(digit)
    packed_picture = compress_picture(model, read_upload(digit, model))
    formats = [each for each in file_formats.file_formats() if each.lossless is not None]
    assert packed_picture.sizes == {each.name: len(each.file(picture)) for each in formats}
    for each in formats:
        back = Image.open(io.BytesIO(each.file(picture))).convert("L")
        assert np.array_equal(np.asarray(back), np.asarray(picture))
    table = told_sizes(packed_picture)
    assert f"| **this model** | {len(packed_picture.content)} |" in table
    assert ("JPEG XL" in table) and ("pip install" in table) == (importlib.util.find_spec("pillow_jxl") is None)
    monkeypatch.setattr(file_formats.importlib.util, "find_spec", lambda name: None)
    without = compress_picture(model, read_upload(digit, model))
    assert "JPEG XL" not in without.sizes and "pip install" in told_sizes(without)


def test_files_that_are_not_of_the_model(model: PageModel, digit: Path) -> None:
    content = compress_picture(model, read_upload(digit, model)).content
    other = PageModel("other", digits_pipeline(seed=1))
    many = packed(dataclasses.replace(unpacked(content).header, images=10**9), b"")  # with the name of one
    for of, file, sentence in (
        (model, b"GIF89a", "no file of `ddpm-hf compress`"),
        (model, content[:10], "The file is damaged"),
        (model, content[:20] + bytes([content[20] ^ 1]) + content[21:], "The file is damaged"),
        (model, content[:-1] + bytes([content[-1] ^ 64]), "damaged"),
        (model, content + b"more", "longer than its header says"),
        (other, content, "made by another model"),
        (model, many, "has 1000000000 images; at most 256"),
    ):
        with pytest.raises(ValueError, match=sentence):
            decode_file(of, file)


@pytest.mark.parametrize(
    ("pipeline", "scores", "files"),
    [
        (lambda: digits_pipeline(has_errors=False), None, "needs the model's `denoising_errors`"),
        (
            lambda: DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(num_levels=None)),
            "continuous",
            "`num_levels` is No",
        ),
        (lambda: DDPMPaperPipeline(tiny_unet(2), DDPMPaperScheduler()), "of 2 channels", "denoising_errors"),
        (
            lambda: DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(num_levels=1000)),
            "1000 levels",
            "`num_levels` must be at most 256",
        ),
    ],
)
def test_what_a_model_cannot_do_is_told(pipeline, scores: str | None, files: str, digit: Path) -> None:
    model = PageModel("m", pipeline())
    assert (scores is None and model.fault_of_scores is None) or scores in model.fault_of_scores
    assert files in model.fault_of_files
    with pytest.raises(ValueError, match=re.escape(files)):
        decode_file(model, b"anything")


# --- examples and temporary files ------------------------------------------------------------------------------------


def test_examples_are_digits_that_training_leaves_out(model: PageModel) -> None:
    scratch = Scratch()
    paths = write_examples(model, scratch)
    for i, path in enumerate(paths):
        upload = read_upload(path, model)
        assert torch.equal(upload.levels[0].double(), torch.from_numpy(load_digits().images[1500 + i]))
    other = PageModel("m", DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler()))
    assert len(paths) == 5 and write_examples(other, scratch) == []


def test_temporary_files_go_when_they_are_old() -> None:
    scratch = Scratch(age=60.0)
    kept, old, new = scratch.folder(is_kept=True), scratch.write("a.ddpc", b"a"), scratch.write("a.ddpc", b"b")
    for path in (kept, old.parent):
        os.utime(path, (time.time() - 61, time.time() - 61))
    scratch.folder()
    assert kept.exists() and new.read_bytes() == b"b" and not old.parent.exists()
    root = scratch.root
    del scratch
    assert not root.exists()


# --- the command -----------------------------------------------------------------------------------------------------


def test_mistakes_end_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("app.py", "--model", tmp_path / "nothing")
    assert done.code == 2 and "neither a folder here nor a name on the Hub" in done.output.splitlines()[-1]
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = run("app.py", "--model_name_or_path", tmp_path / "model")
    assert done.code == 2 and 'pip install "ddpm_hf[app]"' in done.output.splitlines()[-1]
