# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperPipeline`: the images of stock's pipeline, what it adds to them, and repositories that stock can read."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, ImagePipelineOutput, UNet2DModel
from PIL import Image
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from ddpm_hf.pipelines.pipeline_ddpm_paper import DenoisingStep


pytestmark = pytest.mark.processes(1)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(unet: UNet2DModel | None = None, T: int = 20, **options: object) -> DDPMPaperPipeline:
    return quiet(DDPMPaperPipeline(unet or tiny_unet(), DDPMPaperScheduler(num_train_timesteps=T, **options)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_exact_tables(scheduler: DDPMScheduler) -> DDPMScheduler:
    """Stock's scheduler, linear schedule, with float64 tables in place of its float32 ones."""
    scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


# --- the images of stock --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory) -> str:
    """What stock's pipeline saves."""
    folder = tmp_path_factory.mktemp("stock")
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("K", [50, 200, pytest.param(1000, marks=pytest.mark.slow)])
def test_images_are_those_of_stock_but_for_its_float32_tables(stock_folder: str, K: int):
    pipe = quiet(DDPMPaperPipeline.from_pretrained(stock_folder))
    stock, exact = (quiet(DDPMPipeline.from_pretrained(stock_folder)) for _ in range(2))
    with_exact_tables(exact.scheduler)
    mine, theirs, corrected = (
        torch.as_tensor(p(2, seeded(), num_inference_steps=K, output_type="pt").images) for p in (pipe, stock, exact)
    )
    difference, explained = float((mine - theirs).abs().max()), float((theirs - corrected).abs().max())
    remaining = float((mine - corrected).abs().max())
    print(f"{K} steps: ours to stock {difference:.1e}, stock to stock with exact tables {explained:.1e},", end=" ")
    print(f"ours to stock with exact tables {remaining:.1e}; a grey level is {1 / 255:.1e}")
    assert bool(mine.std() > 0.1)  # not one grey
    assert difference < 0.1 / 255
    assert remaining < 1e-5
    assert remaining < difference / 2


def test_call_takes_the_arguments_of_stock_in_its_order():
    stock, mine = (list(inspect.signature(cls.__call__).parameters) for cls in (DDPMPipeline, DDPMPaperPipeline))
    assert mine[: len(stock)] == stock


def test_8_bit_images_are_those_of_stock(stock_folder: str):
    pipes = [quiet(cls.from_pretrained(stock_folder)) for cls in (DDPMPaperPipeline, DDPMPipeline)]
    mine, theirs = (p(3, seeded(), num_inference_steps=20, output_type="pil").images for p in pipes)
    for image, expected in zip(mine, theirs, strict=True):
        assert (image.mode, image.size) == (expected.mode, expected.size)
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


def test_options_of_stock_decide_the_images(tmp_path):
    options = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False}
    scheduler = DDPMScheduler(num_train_timesteps=200, **options)
    DDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path)
    pipes = [quiet(cls.from_pretrained(tmp_path)) for cls in (DDPMPaperPipeline, DDPMPipeline)]
    mine, theirs = (p(2, seeded(), num_inference_steps=20, output_type="pt").images for p in pipes)
    np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=0, atol=1e-4)


def test_learned_variance_samples_as_in_stock():
    unet, options = (
        tiny_unet(channels=2, out_channels=4),
        {"num_train_timesteps": 50, "variance_type": "learned_range"},
    )
    mine, theirs = (
        quiet(pipe)(2, seeded(), num_inference_steps=50, output_type="pt").images
        for pipe in (
            DDPMPaperPipeline(unet, DDPMPaperScheduler(**options)),
            DDPMPipeline(unet, DDPMScheduler(**options)),
        )
    )
    np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=0, atol=1e-4)
    images = ours(unet, variance_type="learned")(2, seeded(), output_type="pt").images
    assert images.shape == (2, 2, 4, 4)
    assert bool(images.isfinite().all())
    with pytest.raises(ValueError, match=r"`model_output`.*fixed_small"):
        ours(unet, variance_type="fixed_small")(2, seeded(), output_type="pt")


# --- schedulers that are not ours -----------------------------------------------------------------------------------


def test_scheduler_of_another_pipeline_is_converted_on_loading(tmp_path):
    options = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "clip_sample": False}
    theirs = DDIMScheduler(num_train_timesteps=100, **options)
    DDIMPipeline(tiny_unet(), theirs).save_pretrained(tmp_path)
    scheduler = DDPMPaperPipeline.from_pretrained(tmp_path).scheduler
    assert type(scheduler) is DDPMPaperScheduler
    for name in ("num_train_timesteps", "beta_schedule", "prediction_type", "clip_sample"):
        assert scheduler.config[name] == theirs.config[name]


def test_scheduler_passed_in_is_converted_or_kept(stock_folder: str):
    unet, scheduler = tiny_unet(), DDPMPaperScheduler(num_train_timesteps=20)
    assert DDPMPaperPipeline(unet, scheduler).scheduler is scheduler
    theirs = DDIMScheduler(num_train_timesteps=30)
    loaded = DDPMPaperPipeline.from_pretrained(stock_folder, scheduler=theirs)
    stock = DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=30))
    again = DDPMPaperPipeline.from_pipe(stock)
    for pipe in (DDPMPaperPipeline(unet, theirs), loaded, again):
        assert type(pipe.scheduler) is DDPMPaperScheduler
        assert len(pipe.scheduler) == 30
    assert again.unet is unet


@pytest.mark.parametrize("cls", [DDPMPaperScheduler, DDPMScheduler, DDIMScheduler])
def test_scheduler_whose_arguments_were_given_by_position_keeps_them(cls: type, tmp_path):
    """diffusers takes those for defaults, which converting from one class to another in memory leaves out."""
    pipe = DDPMPaperPipeline(tiny_unet(), cls(20, 0.01, 0.2))
    assert len(pipe.scheduler) == 20
    pipe.save_pretrained(tmp_path)
    for loaded in (DDPMPaperPipeline.from_pretrained(tmp_path), DDPMPipeline.from_pretrained(tmp_path)):
        config = loaded.scheduler.config
        assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (20, 0.01, 0.2)


# --- saving ---------------------------------------------------------------------------------------------------------


READ_WITHOUT_DDPM_HF = """
import json, logging, sys, warnings
sys.modules["ddpm_hf"] = None  # importing it raises
import torch
from diffusers import DDPMPipeline, DiffusionPipeline
records = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: records.append(record.getMessage())
logging.getLogger("diffusers").addHandler(handler)
report = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name, cls in (("DDPMPipeline", DDPMPipeline), ("DiffusionPipeline", DiffusionPipeline)):
        pipe = cls.from_pretrained(sys.argv[1])
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        report[name] = {
            "classes": [type(x).__name__ for x in (pipe, pipe.unet, pipe.scheduler)],
            "weights": {key: value.double().sum().item() for key, value in pipe.unet.state_dict().items()},
            "config": {k: v for k, v in pipe.scheduler.config.items() if k[0] != "_" and k != "trained_betas"},
            "image": pipe(1, generator, num_inference_steps=4, output_type="np").images.tolist(),
        }
        pipe.save_pretrained(sys.argv[2])
report["complaints"] = records + [str(w.message) for w in caught if "diffusers" in w.filename]
print(json.dumps(report))
"""


def test_saved_pipeline_needs_no_ddpm_hf_and_comes_back_whole(tmp_path):
    schedule = NoiseSchedule.linear_log_snr(20, 6.5, -9.0)
    scheduler = DDPMPaperScheduler.from_schedule(schedule, variance_type="fixed_large", num_levels=17)
    pipe = quiet(DDPMPaperPipeline(tiny_unet(), scheduler))
    pipe.save_pretrained(tmp_path / "ours")
    index = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert "ddpm_hf." not in json.dumps(index)
    weights = [path.name for path in (tmp_path / "ours" / "unet").iterdir() if path.suffix != ".json"]
    assert weights == ["diffusion_pytorch_model.safetensors"]

    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_DDPM_HF, str(tmp_path / "ours"), str(tmp_path / "theirs")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["complaints"] == []
    image = pipe(1, seeded(), num_inference_steps=4, output_type="np").images
    for name in ("DDPMPipeline", "DiffusionPipeline"):
        read = report[name]
        assert read["classes"] == ["DDPMPipeline", "UNet2DModel", "DDPMScheduler"]
        assert read["weights"] == {key: value.double().sum().item() for key, value in pipe.unet.state_dict().items()}
        assert read["config"] == {key: scheduler.config[key] for key in read["config"]}
        np.testing.assert_allclose(np.array(read["image"]), image, rtol=0, atol=1e-4)

    for folder in ("ours", "theirs"):  # written by us; read and written again by stock
        back = DDPMPaperPipeline.from_pretrained(tmp_path / folder)
        assert back.scheduler.num_levels == 17
        assert torch.equal(back.scheduler.betas, scheduler.betas)
        assert back.scheduler.config.variance_type == "fixed_large"
        for key, value in pipe.unet.state_dict().items():
            assert torch.equal(back.unet.state_dict()[key], value)


@pytest.mark.parametrize(
    "variance_type",
    ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"],
)
def test_every_variance_type_can_be_sampled_by_stock_and_comes_back(variance_type: str, tmp_path):
    learned = variance_type.startswith("learned")
    pipe = ours(tiny_unet(out_channels=2 if learned else 1), T=50, variance_type=variance_type)
    pipe.save_pretrained(tmp_path / "ours")
    stock = quiet(DDPMPipeline.from_pretrained(tmp_path / "ours"))
    mine, theirs = (p(2, seeded(), num_inference_steps=50, output_type="np").images for p in (pipe, stock))
    assert np.isfinite(theirs).all()
    if variance_type != "learned":  # which has nothing in stock that is the same
        np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-4)
    stock.save_pretrained(tmp_path / "theirs")
    assert DDPMPaperPipeline.from_pretrained(tmp_path / "theirs").scheduler.variance_type == variance_type


def test_loading_and_sampling_log_no_warning(stock_folder: str, caplog):
    with caplog.at_level(logging.WARNING):
        diffusers_logger = logging.getLogger("diffusers")
        diffusers_logger.addHandler(caplog.handler)
        try:
            for options in ({}, {"scheduler": DDIMScheduler(num_train_timesteps=5)}):
                pipe = quiet(DDPMPaperPipeline.from_pretrained(stock_folder, **options))
                pipe(1, num_inference_steps=2)
        finally:
            diffusers_logger.removeHandler(caplog.handler)
    assert caplog.messages == []


def test_a_scheduler_of_another_kind_put_in_afterwards_is_saved_as_it_is(tmp_path):
    pipe = ours(num_levels=17, variance_type="fixed_large")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False)
    pipe.save_pretrained(tmp_path)
    stock = DDPMPipeline.from_pretrained(tmp_path)
    assert type(stock.scheduler) is DDIMScheduler
    assert stock.scheduler.config.set_alpha_to_one is False
    back = DDPMPaperPipeline.from_pretrained(tmp_path).scheduler
    assert (len(back), back.num_levels, back.variance_type) == (20, 17, "fixed_large")


def test_saving_leaves_the_pipeline_as_it_is(tmp_path):
    pipe = ours()
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config


# --- randomness -----------------------------------------------------------------------------------------------------


def test_image_depends_on_its_own_generator_alone():
    pipe = ours()
    together = pipe(4, [seeded(i) for i in range(4)], output_type="pt").images
    for i in range(4):
        alone = pipe(1, [seeded(i)], output_type="pt").images
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-4)
    another = pipe(2, [seeded(3), seeded(9)], output_type="pt").images
    torch.testing.assert_close(another[:1], together[3:], rtol=0, atol=1e-4)
    assert float((another[1] - together[1]).abs().max()) > 0.01


def test_generator_decides_the_images():
    pipe = ours()
    first, again, other = (pipe(2, seeded(seed), output_type="pt").images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    unseeded = [pipe(2, output_type="pt").images for _ in range(2)]
    assert not torch.equal(*unseeded)


# --- shapes and outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_size", [4, (4, 8), [6, 2]])
def test_images_have_the_size_of_the_model(sample_size, tmp_path):
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    pipe = ours(tiny_unet(sample_size=sample_size), T=2)
    assert pipe(2, output_type="pt").images.shape == (2, 1, height, width)
    assert pipe(2, output_type="np").images.shape == (2, height, width, 1)
    assert pipe(2, output_type="pil").images[0].size == (width, height)
    pipe.save_pretrained(tmp_path)
    loaded = quiet(DDPMPaperPipeline.from_pretrained(tmp_path))
    assert loaded(1, output_type="pt").images.shape == (1, 1, height, width)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_output_types(channels: int):
    pipe = ours(tiny_unet(channels), T=3, clip_sample=False)
    tensor = pipe(3, seeded(), output_type="pt").images
    array = pipe(3, seeded(), output_type="np").images
    assert tensor.shape == (3, channels, 4, 4)
    assert tensor.dtype == torch.float32
    assert array.shape == (3, 4, 4, channels)
    assert array.dtype == np.float32
    assert array.min() >= 0
    assert array.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    if channels in (1, 3, 4):
        images = pipe(3, seeded(), output_type="pil").images
        assert [image.mode for image in images] == [{1: "L", 3: "RGB", 4: "RGBA"}[channels]] * 3
        levels = np.stack([np.asarray(image) for image in images]).reshape(array.shape)
        np.testing.assert_array_equal(levels, np.round(array * 255))


def test_samples_from_minus_one_to_one_become_images_from_black_to_white():
    pipe = ours(T=1, prediction_type="sample")
    samples = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 0.25]).repeat(2).reshape(1, 1, 4, 4)
    pipe.unet = _Constant(pipe.unet, samples)
    pipe.scheduler = DDPMPaperScheduler(num_train_timesteps=1, prediction_type="sample", clip_sample=False)
    array = pipe(1, output_type="np").images
    np.testing.assert_allclose(array.flatten()[:8], [0, 0, 0.25, 0.5, 0.75, 1, 1, 0.625], rtol=0, atol=1e-6)
    image = pipe(1).images[0]
    assert isinstance(image, Image.Image)
    assert np.asarray(image).flatten()[:8].tolist() == [0, 0, 64, 128, 191, 255, 255, 159]


class _Constant(torch.nn.Module):
    """A model that predicts the same whatever it sees."""

    def __init__(self, unet: UNet2DModel, prediction: Tensor) -> None:
        super().__init__()
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device
        self.prediction = prediction

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.prediction.expand_as(sample),)


def test_returns_an_output_or_a_tuple():
    pipe = ours(T=3)
    output = pipe(2, seeded(), output_type="pt")
    assert isinstance(output, ImagePipelineOutput)
    fields = pipe(2, seeded(), output_type="pt", return_dict=False)
    assert isinstance(fields, tuple)
    assert len(fields) == 1
    assert torch.equal(fields[0], output.images)
    assert len(pipe(batch_size=5).images) == 5
    assert not output.images.requires_grad


# --- classes --------------------------------------------------------------------------------------------------------


def of_classes(num_class_embeds: int | None = 3, class_embed_type: str | None = None) -> UNet2DModel:
    config = {key: value for key, value in tiny_unet().config.items() if not key.startswith("_")}
    config |= {"num_class_embeds": num_class_embeds, "class_embed_type": class_embed_type}
    torch.manual_seed(0)
    return UNet2DModel(**config).eval()


def test_an_image_of_a_mixed_batch_is_that_of_its_class_alone():
    pipe, labels = ours(of_classes()), [2, 0, 1, 2]
    together = pipe(4, [seeded(i) for i in range(4)], output_type="pt", class_labels=labels).images
    for i, label in enumerate(labels):
        for alone in (label, [label], torch.tensor(label)):
            image = pipe(1, [seeded(i)], output_type="pt", class_labels=alone).images
            torch.testing.assert_close(image, together[i : i + 1], rtol=0, atol=1e-4)
    other = pipe(1, [seeded(0)], output_type="pt", class_labels=0).images
    assert float((other - together[:1]).abs().max()) > 0.01


def test_labels_are_what_the_model_is_told_at_every_step():
    pipe = ours(of_classes())
    told: list[Tensor] = []
    pipe.unet.class_embedding.register_forward_pre_hook(lambda module, args: told.append(args[0]))
    by_class = {}
    for label in range(3):
        told.clear()
        by_class[label] = pipe(2, [seeded(0), seeded(1)], 5, "pt", class_labels=label).images
        assert [labels.tolist() for labels in told] == [[label] * 2] * 5
        assert all(labels is told[0] for labels in told)  # moved once
        assert told[0].dtype == torch.int64
    for one, other in itertools.combinations(by_class.values(), 2):
        assert float((one - other).abs().max()) > 0.01
    for labels in ([0, 1], (0, 1), torch.tensor([0, 1]), torch.tensor([0, 1], dtype=torch.int32), np.array([0, 1])):
        mixed = pipe(2, [seeded(0), seeded(1)], 5, "pt", class_labels=labels).images
        expected = torch.stack([by_class[0][0], by_class[1][1]])
        torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-4)


def test_the_chain_of_a_class_is_that_of_a_model_that_knows_this_class_alone():
    """The class's embedding is added to that of the timestep, as a bias of the latter's last layer would be."""
    pipe = ours(of_classes())
    steps = list(pipe.iterate(2, seeded(), num_inference_steps=10, class_labels=[1, 1]))
    plain = of_classes(None)
    weights = {key: value for key, value in pipe.unet.state_dict().items() if not key.startswith("class_embedding")}
    weights["time_embedding.linear_2.bias"] = (
        weights["time_embedding.linear_2.bias"] + pipe.unet.class_embedding.weight[1]
    )
    plain.load_state_dict(weights)
    for step, expected in zip(steps, ours(plain).iterate(2, seeded(), num_inference_steps=10), strict=True):
        torch.testing.assert_close(step.prev_sample, expected.prev_sample, rtol=0, atol=1e-4)


def test_a_class_conditional_pipeline_is_saved_in_stocks_layout_and_comes_back(tmp_path):
    pipe = ours(of_classes())
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    back = quiet(DDPMPaperPipeline.from_pretrained(tmp_path))
    assert back.unet.config.num_class_embeds == 3
    images, again = (p(2, seeded(), 5, "pt", class_labels=[0, 2]).images for p in (pipe, back))
    assert torch.equal(images, again)
    with pytest.raises(ValueError, match="class_labels"):  # why this pipeline has them
        quiet(DDPMPipeline.from_pretrained(tmp_path))(1, num_inference_steps=2)


@needs_cuda
def test_images_of_classes_on_a_cuda_device_are_those_of_the_cpu():
    pipe = ours(of_classes())
    expected = pipe(2, [seeded(0), seeded(1)], output_type="pt", class_labels=[2, 1]).images
    pipe.to("cuda")
    for labels in ([2, 1], torch.tensor([2, 1], device="cuda")):
        images = pipe(2, [seeded(0), seeded(1)], output_type="pt", class_labels=labels).images
        torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (None, "must be given.*3 classes"),
        ([0], "2, but there are 1"),
        ([0, 1, 2], "2, but there are 3"),
        ([], "2, but there are 0"),
        (torch.tensor([1]), "2, but there are 1"),
        (1.0, "ints, but is 1.0"),
        (True, "ints, but is True"),
        ("01", "ints, but is '01'"),
        ([0, 1.0], "ints"),
        ([0, None], "ints"),
        ({0, 1}, "ints"),
        (torch.tensor([0.0, 1.0]), "ints"),
        (torch.tensor([True, False]), "ints"),
        (torch.tensor([[0], [1]]), "ints"),
        (-1, "0 ... 2, but is -1"),
        ([0, 3], r"0 ... 2, but is \[0, 3\]"),
        (torch.tensor(3), "0 ... 2"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused_before_the_model_runs(labels: object, named: str):
    pipe = ours(of_classes(), T=20)
    pipe.scheduler.set_timesteps(7)
    seen = recorded(pipe)
    for draw in (pipe, pipe.iterate):  # when called, not when read
        with pytest.raises(ValueError, match=f"`class_labels`.*{named}"):
            draw(2, num_inference_steps=2, class_labels=labels)
    assert seen == []
    assert len(pipe.scheduler.timesteps) == 7  # nothing has begun


@pytest.mark.parametrize("labels", [0, [0, 1], torch.tensor([0, 1])], ids=str)
def test_labels_for_a_model_without_classes_are_refused(labels: object):
    pipe = ours(T=20)
    seen = recorded(pipe)
    with pytest.raises(ValueError, match="`class_labels` must be None"):
        pipe(2, class_labels=labels)
    assert seen == []


@pytest.mark.parametrize("class_embed_type", ["timestep", "identity"])
@pytest.mark.parametrize("labels", [None, 0], ids=str)
def test_a_model_that_does_not_embed_classes_by_number_is_refused(class_embed_type: str, labels: int | None):
    pipe = ours(of_classes(None, class_embed_type))
    seen = recorded(pipe)
    with pytest.raises(ValueError, match=f"`class_labels`.*`class_embed_type` '{class_embed_type}'"):
        pipe(1, class_labels=labels)
    assert seen == []


# --- the chain ------------------------------------------------------------------------------------------------------


def recorded(pipe: DDPMPaperPipeline) -> list[int]:
    """The timesteps that the model sees from now on."""
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    return seen


def test_all_timesteps_are_visited_unless_fewer_are_asked_for():
    pipe = ours(T=20)
    seen = recorded(pipe)
    pipe(1)
    assert seen == list(range(19, -1, -1))
    seen.clear()
    pipe(1, num_inference_steps=5)
    assert seen == [16, 12, 8, 4, 0]
    seen.clear()
    pipe(1, timesteps=[19, 7, 3])
    assert seen == [19, 7, 3]
    seen.clear()
    pipe(1)
    assert len(seen) == 20


def test_iterate_yields_the_chain_as_it_runs():
    pipe = ours(T=20)
    chain = pipe.iterate(2, seeded(), num_inference_steps=10)
    assert isinstance(chain, Iterator)
    steps = list(chain)
    assert [step.timestep for step in steps] == pipe.scheduler.timesteps.tolist() == list(range(18, -1, -2))
    torch.testing.assert_close(steps[0].sample, torch.randn(2, 1, 4, 4, generator=seeded()), rtol=0, atol=0)
    for step, following in itertools.pairwise(steps):
        assert following.sample is step.prev_sample
    with torch.no_grad():
        for step in steps:
            x_t = step.sample
            p = pipe.scheduler.p_mean_variance(pipe.unet(x_t, step.timestep).sample, x_t, step.timestep)
            torch.testing.assert_close(step.pred_original_sample, p.pred_original_sample, rtol=0, atol=1e-6)
    images = pipe(2, seeded(), num_inference_steps=10, output_type="pt").images
    torch.testing.assert_close((steps[-1].prev_sample / 2 + 0.5).clamp(0, 1), images, rtol=0, atol=0)
    assert not steps[-1].prev_sample.requires_grad


def test_iterate_runs_no_further_than_it_is_read():
    pipe = ours(T=20)
    seen = recorded(pipe)
    first = next(pipe.iterate(1))
    assert isinstance(first, DenoisingStep)
    assert seen == [19]
    with pytest.raises(AttributeError):
        first.sample = None


def test_progress_bar_can_be_disabled(capfd):
    pipe = ours(T=3)
    pipe(1)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe(1)
    assert "3/3" in capfd.readouterr().err


# --- precision and devices ------------------------------------------------------------------------------------------


def test_half_precision_stays_near_float32():
    full = list(ours(T=1000).iterate(4, seeded(), num_inference_steps=20))
    pipe = ours(T=1000).to(torch.bfloat16)
    half = list(pipe.iterate(4, seeded(), num_inference_steps=20))
    assert {step.prev_sample.dtype for step in half} == {torch.bfloat16}
    assert all(bool(step.prev_sample.isfinite().all()) for step in half)
    for a, b in zip(half[:3], full[:3], strict=True):
        torch.testing.assert_close(a.prev_sample.float(), b.prev_sample, rtol=0, atol=0.1)
    images = pipe(2, seeded(), num_inference_steps=5, output_type="pil").images  # NumPy has no bfloat16
    assert images[0].mode == "L"
    assert pipe(2, seeded(), num_inference_steps=5, output_type="np").images.dtype == np.float32


def test_offloading_is_prepared_and_ended(monkeypatch: pytest.MonkeyPatch):
    """Offloading itself needs an accelerator; what it asks of a pipeline does not."""
    assert DDPMPaperPipeline.model_cpu_offload_seq == DDPMPipeline.model_cpu_offload_seq == "unet"
    freed: list[int] = []
    monkeypatch.setattr(DDPMPaperPipeline, "maybe_free_model_hooks", lambda self: freed.append(1))
    pipe = ours(T=3)
    seen = recorded(pipe)
    chain = pipe.iterate(1)
    next(chain)
    assert freed == []
    list(chain)
    assert (len(seen), len(freed)) == (3, 1)
    pipe(1)
    assert len(freed) == 2


@needs_cuda
def test_offloaded_model_goes_back_to_the_cpu():
    pipe = ours(T=5)
    expected = pipe(2, [seeded(0), seeded(1)], output_type="pt").images
    pipe.enable_model_cpu_offload()
    images = pipe(2, [seeded(0), seeded(1)], output_type="pt").images
    assert images.device.type == "cuda"
    assert next(pipe.unet.parameters()).device.type == "cpu"
    torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-3)


@needs_cuda
def test_images_on_a_cuda_device_are_those_of_the_cpu():
    pipe = ours(T=20)
    expected = pipe(2, seeded(), output_type="pt").images
    images = pipe.to("cuda")(2, seeded(), output_type="pt").images
    torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-3)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": 0}, "`batch_size`.*0"),
        ({"batch_size": -1}, "`batch_size`.*-1"),
        ({"batch_size": 2.0}, "`batch_size`.*2.0"),
        ({"batch_size": 2, "generator": [torch.Generator()]}, "`generator`.*2.*1"),
        ({"batch_size": 1, "generator": []}, "`generator`.*1.*0"),
        ({"generator": 5}, "`generator`"),
        ({"output_type": "latent"}, "`output_type`.*latent"),
        ({"num_inference_steps": 0}, "`num_inference_steps`.*0"),
        ({"num_inference_steps": 21}, "`num_inference_steps`.*21"),
        ({"num_inference_steps": 2, "timesteps": [3, 1]}, "`num_inference_steps`.*`timesteps`"),
        ({"timesteps": [20, 0]}, "`timesteps`"),
        ({"timesteps": [3, 3]}, "`timesteps`"),
    ],
)
def test_bad_argument_is_named_before_the_model_runs(arguments: dict, named: str):
    pipe = ours(T=20)
    seen = recorded(pipe)
    with pytest.raises(ValueError, match=named):
        pipe(**arguments)
    if "output_type" not in arguments:
        with pytest.raises(ValueError, match=named):
            pipe.iterate(**arguments)  # when called, not when read
    assert seen == []


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_without_an_image_mode_are_refused(channels: int):
    pipe = ours(tiny_unet(channels), T=2)
    seen = recorded(pipe)
    with pytest.raises(ValueError, match=f"`output_type` 'pil'.*{channels} channels"):
        pipe(1)
    assert seen == []


def test_scheduler_of_another_kind_put_in_afterwards_is_refused():
    pipe = ours()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=r"`scheduler`.*DDIMScheduler"):
        pipe(1)


def test_model_without_a_sample_size_is_refused():
    pipe = ours(tiny_unet(sample_size=None), T=2)
    with pytest.raises(ValueError, match="`sample_size`"):
        pipe(1)


def test_epsilon_at_zero_signal_to_noise_ratio_is_refused_before_the_model_runs():
    pipe = ours(T=20, rescale_betas_zero_snr=True)
    seen = recorded(pipe)
    with pytest.raises(ValueError, match="`prediction_type`"):
        pipe(1)
    assert seen == []
    assert len(pipe(1, num_inference_steps=10).images) == 1  # a chain that does not visit that timestep
