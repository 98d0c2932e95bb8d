# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training models that enlarge images: what they are given, exact resumption, and the cascades that they make."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import in_process
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, IFSuperResolutionPipeline
from PIL import Image
from script_server import ScriptServer
from tiny_pipelines import text_parts
from torch import Tensor
from training_runs import ended, reports_of_equal_weights

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.super_resolution import SuperResolutionTrainingArguments
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.conditioning.box_means import box_mean
from ddpm_hf.conditioning.low_resolution import (
    LowResolutionConditioner,
    LowResolutionSettings,
    enlarged,
    low_resolution_of,
    noised,
    standard_noising,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import BatchShard
from ddpm_hf.data.level_images import LevelImages, scaled
from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.reporting.figures import save_grid
from ddpm_hf.runtime.randomness import BatchAddress, Use, generator_of
from ddpm_hf.tasks import super_resolution
from ddpm_hf.tasks.images import load_labelled_images
from ddpm_hf.tasks.super_resolution import SuperResolutionTask
from ddpm_hf.training.loop import train
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.step import training_step


CPU = torch.device("cpu")
COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 230), "green": (20, 180, 60)}
TINY = shlex.split(
    "--block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --cross_attention_dim 8 --attention_head_dim 2"
    " --addition_embed_type_num_heads 2 --down_block_types DownBlock2D CrossAttnDownBlock2D --up_block_types"
    " CrossAttnUpBlock2D UpBlock2D --ddpm_num_steps 20 --train_batch_size 8 --timestep_sampling stratified"
    " --checkpointing_steps 0 --validation_steps 0 --save_images_epochs 0 --max_train_steps 4 --num_quality_samples 0"
    " --num_paths 0 --num_evaluations 2 --eval_batch_size 4 --max_measured_images 8 --ddpm_num_inference_steps 3"
    " --tokenizer_max_length 6 --test_fraction 0.25"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 8x8 pixels with captions, and a tiny text encoder in `encoder`."""
    folder = tmp_path_factory.mktemp("data")
    draws, rows = np.random.default_rng(0), []
    for k in range(24):
        name = list(COLOURS)[k % 3]
        picture = np.clip(np.array(COLOURS[name]) + draws.normal(0, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / "images" / f"{k}.png")
        rows.append({"file_name": f"{k}.png", "text": name})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "images" / "metadata.jsonl").write_text(lines)
    for part in text_parts().values():
        part.save_pretrained(folder / "encoder")
    return folder


def data_of(images: Path) -> list[str]:
    where = ["--train_data_dir", images / "images", "--text_encoder", images / "encoder", "--cache_dir", images]
    return list(map(str, where))


@pytest.fixture
def made(images: Path, tmp_path: Path) -> Any:
    """Makes a training of super-resolution in this process."""

    def make(*flags: object, folder: str = "run") -> TrainState:
        argv = [*TINY, *data_of(images), *map(str, flags), "--output_dir", str(tmp_path / folder)]
        classes = run_arguments(SuperResolutionTask, SuperResolutionTrainingArguments)
        state = prepare_run(parse("super_resolution.py", *classes, argv=argv), SuperResolutionTask)
        torch.set_num_threads(1)
        return state

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def run(state: TrainState) -> None:
    """All of its steps, without what comes after the last."""
    train(state, SimpleNamespace(caught=None, awaited=iter))


def watched(state: TrainState) -> list[dict[str, Any]]:
    """What the model is given from now on, call by call."""
    calls: list[dict[str, Any]] = []

    def note(model: Any, arguments: tuple, options: dict[str, Any]) -> None:
        calls.append({"joined": arguments[0].clone(), **options})

    state.prepared.register_forward_pre_hook(note, with_kwargs=True)
    return calls


# --- what the model is given ----------------------------------------------------------------------------------------


def test_the_model_is_given_the_images_in_low_resolution_with_noise(made: Any) -> None:
    state = made("--max_noise_level", 50)
    calls, (batch, *_) = watched(state), zip(state.batches, range(1), strict=False)
    batch = batch[0]
    training_step(state, iter([batch]))
    low = low_resolution_of(batch.x_0, 2, 256)
    assert torch.equal(batch.columns["image"], low) and low.shape == (8, 3, 4, 4)
    levels, noise = batch.columns["noise_level"], batch.columns["noise"]
    assert levels.dtype == torch.int64 and noise.shape == batch.x_0.shape
    expected = noised(enlarged(low, 8, 8), noise, levels, standard_noising())
    assert calls[0]["joined"].shape == (8, 6, 8, 8)
    torch.testing.assert_close(calls[0]["joined"][:, 3:], expected, rtol=0, atol=1e-6)
    assert torch.equal(calls[0]["class_labels"], levels)


def test_noise_levels_are_uniform_and_noise_is_independent() -> None:
    conditioner = LowResolutionConditioner(LowResolutionSettings(2, 17, max_noise_level=4))
    x_0 = scaled(torch.randint(17, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0)), 17)
    columns = [conditioner.derive_for_training(x_0, BatchAddress(3, step, 0, 64)) for step in range(100)]
    counts = Counter(torch.cat([each["noise_level"] for each in columns]).tolist())
    assert sorted(counts) == [0, 1, 2, 3, 4]
    n = sum(counts.values())
    assert max(abs(count - n / 5) for count in counts.values()) < 5 * math.sqrt(n * 0.16)
    noise = torch.stack([each["noise"] for each in columns])
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.numel())


def test_what_is_drawn_depends_on_the_place_in_the_step_alone(made: Any) -> None:
    """One process with the whole batch, windows, and two processes draw the same levels and noise."""
    state = made()
    (whole, _), *_ = zip(state.batches, range(1), strict=False)
    parts: dict[tuple[int, int], dict[str, Any]] = {}
    for rank in range(2):
        shard = BatchShard(2, accumulation=2, rank=rank, processes=2)
        batches = state.task.open_batches(state.data, shard, (0, 1), state.training.seed, CPU, None)
        parts |= {(window, rank): batch.columns for window, batch in enumerate(batches)}
    for name in ("image", "noise_level", "noise"):
        together = torch.cat([parts[key][name] for key in sorted(parts)])
        assert torch.equal(together, whole.columns[name])
    later = state.task.open_batches(state.data, BatchShard(8), (3, 4), state.training.seed, CPU, None)
    from_start = state.task.open_batches(state.data, BatchShard(8), (0, 4), state.training.seed, CPU, None)
    assert torch.equal(next(iter(later)).columns["noise"], list(from_start)[3].columns["noise"])


@pytest.mark.slow
def test_two_processes_train_as_one(scripts: ScriptServer, images: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    common = [*TINY, *data_of(images), "--with_text", "--dropout", 0, "--max_train_steps", 6, "--learning_rate", 1e-3]
    ended(scripts.start("super_resolution.py", *common, "--output_dir", one))
    divided = [*common, "--train_batch_size", 4, "--output_dir", two]
    for each in scripts.start_together(2, "super_resolution.py", *divided):
        ended(each)
    figures = reports_of_equal_weights(one, two, atol=1e-3)
    assert figures[0]["bits_per_dim"] == pytest.approx(figures[1]["bits_per_dim"], rel=1e-2)


def test_training_drops_the_text_and_keeps_the_image(made: Any) -> None:
    state = made("--with_text", "--conditioning_dropout_prob", 0.5)
    conditioners, calls = state.conditioners, watched(state)
    assert conditioners.has_null and [each.is_kept for each in conditioners.members] == [True, False]
    dropped = state.draw_dropped()
    batch = next(iter(state.batches))
    training_step(state, iter([batch]))
    null = conditioners.members[1].null(8, CPU)["encoder_hidden_states"]
    states = calls[0]["encoder_hidden_states"]
    is_null = (states == null).flatten(1).all(dim=1)
    assert torch.equal(is_null, dropped) and 0 < dropped.sum() < 8
    expected = conditioners.members[0].make(batch.columns, CPU)["low_resolution"]
    torch.testing.assert_close(calls[0]["joined"][:, 3:], expected, rtol=0, atol=0)


def test_squares_are_at_random_places_and_scores_are_of_whole_images(made: Any) -> None:
    state = made("--crop_size", 4)
    assert state.data.train.shape == (3, 4, 4) and state.data.test.shape == (3, 8, 8)
    assert state.model.config.sample_size == 8
    whole = {tuple(image.flatten().tolist()) for image in _all_squares(state.data.train.read.images)}
    batches = list(state.batches)
    seen = {tuple(image.flatten().tolist()) for batch in batches for image in batch.x_0}
    assert seen <= whole and len(seen) > 24
    assert torch.equal(batches[0].columns["image"], low_resolution_of(batches[0].x_0, 2, 256))
    run(state)


def _all_squares(images: LevelImages) -> Tensor:
    x_0, _ = images.batch(0, len(images))
    return x_0.unfold(2, 4, 1).unfold(3, 4, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 4, 4)


@pytest.mark.parametrize("flags", [(), ("--with_text",), ("--crop_size", 4)], ids=str)
def test_a_run_goes_on_exactly(made: Any, flags: tuple[object, ...]) -> None:
    flags = (*flags, "--checkpointing_steps", 2, "--dropout", 0.1)
    whole = made(*flags)
    run(whole)
    resumed = made(*flags, "--resume_from_checkpoint", "checkpoint-2")
    assert resumed.step == 2
    run(resumed)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="max_noise_level was 200 and is 10"):
        made(*flags, "--max_noise_level", 10, "--resume_from_checkpoint", "checkpoint-2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--factor", 3), "`factor` must be at least 2, and divide height and width of the images, 8x8, but is 3"),
        (("--factor", 1), "`factor` must be at least 2"),
        (("--max_noise_level", 1000), r"`max_noise_level` must be in 0 \.\.\. 999, but is 1000"),
        (("--crop_size", 3), "`crop_size` must be a multiple of `factor`, 2, and at most 8"),
        (("--crop_size", 16), "`crop_size` must be a multiple of `factor`, 2, and at most 8"),
        (("--crop_size", 4, "--num_quality_samples", 9), "`num_quality_samples` must be 0 with `crop_size`"),
        (
            ("--with_text", "--validation_prompts", "a", " "),
            r"`validation_prompts` must not be empty, but are \['a', ' ",
        ),
        (("--conditioning_dropout_prob", 0.1), "`conditioning_dropout_prob` must be 0 for a model without"),
        (("--low_resolution_of", 20, "--resolution", 8), "`low_resolution_of` must be a multiple of `resolution`, 8"),
        (("--low_resolution_of", 16), "`low_resolution_of` must be a multiple of `resolution`, None"),
    ],
)
def test_what_cannot_be_trained_is_refused(made: Any, flags: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(*flags)


def test_prompts_without_text_are_refused_before_the_data_are_read(made: Any) -> None:
    message = "`validation_prompts` are ['a'], but the model is not told of text; pass --with_text too."
    with mock.patch.object(super_resolution, "load_plain_images") as load, pytest.raises(ValueError) as refused:
        made("--validation_prompts", "a")
    assert str(refused.value) == message and not load.called


def test_a_preset_leaves_what_the_data_decide(images: Path, tmp_path: Path) -> None:
    """Data of the user are taken without captions unless these are asked for; the preset comes later."""
    for flags, has_text in (((), False), (("--with_text",), True)):
        argv = [*data_of(images), *flags, "--max_train_steps", "1", "--output_dir", str(tmp_path / "run")]
        classes = run_arguments(SuperResolutionTask, SuperResolutionTrainingArguments)
        model, data, diffusion, training, _ = parse("super_resolution.py", *classes, argv=argv)
        task = SuperResolutionTask(model, data, diffusion)
        loaded = task.load_data()
        training, preset = task.settle(loaded, training)
        assert (preset, training.learning_rate) == ("32", 1e-3)
        assert task.model_arguments.with_text == has_text
        assert task.diffusion.conditioning_dropout_prob == (0.1 if has_text else 0.0)
        kinds = task.build_model(loaded).config.down_block_types
        assert any("CrossAttn" in kind for kind in kinds) == has_text


# --- stage one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_stage_one_trains_on_what_stage_two_is_given(images: Path, lazy: bool, monkeypatch: Any) -> None:
    if lazy:
        monkeypatch.setattr("ddpm_hf.data.loading.LARGEST_IN_MEMORY", 0)
    where = {"train_data_dir": str(images / "images"), "center_crop": True}
    large = load_labelled_images(DataArguments(**where, resolution=8))
    small = load_labelled_images(DataArguments(**where, resolution=4, low_resolution_of=8))
    assert small.train.shape == (3, 4, 4)
    for part in ("train", "test"):
        x_0, low = (getattr(data, part).batch(0, 50)[0] for data in (large, small))
        assert torch.equal(low_resolution_of(x_0, 2, 256), low)
        reduced, _ = getattr(large, part).reduced(2).batch(0, 50)
        assert torch.equal(reduced, low)


def test_digits_have_a_low_resolution_too() -> None:
    large, small = (
        load_labelled_images(DataArguments(**kinds)) for kinds in ({}, {"resolution": 4, "low_resolution_of": 8})
    )
    assert small.train.shape == (1, 4, 4) and small.train.num_levels == 17
    assert torch.equal(small.test.pixels, box_mean(large.test.pixels, 2))


# --- whole runs and cascades ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cascade(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs: of images of 4x4 pixels with captions, and from these to 8x8."""
    low, high = (tmp_path_factory.mktemp("runs") / name for name in ("low", "high"))
    sizes = ["--resolution", 4, "--low_resolution_of", 8]
    for script, flags, folder in (
        ("text_to_image.py", sizes, low),
        ("super_resolution.py", ["--with_text", "--num_retrieval_images", 0], high),
    ):
        done = in_process.run(script, *TINY, *data_of(images), *flags, "--output_dir", folder)
        assert done.code == 0, done.output
    return low, high


def test_a_run_is_saved_as_stock_and_ours_load_it(cascade: tuple[Path, Path]) -> None:
    _, high = cascade
    figures = json.loads((high / "metrics.json").read_text())
    assert figures["image_shape"] == [3, 8, 8] and math.isfinite(figures["bits_per_dim"])
    assert (figures["settings"]["factor"], figures["settings"]["with_text"]) == (2, True)
    assert math.isfinite(figures["caption_information_bits"]) and "caption_retrieval_accuracy" not in figures
    assert (high / "samples.png").exists() and (high / "README.md").exists()
    pipeline = load_pipeline(high)
    assert pipeline.conditioners.members[0] == LowResolutionConditioner(LowResolutionSettings(2, 256, 200))
    stock = IFSuperResolutionPipeline.from_pretrained(high)
    assert isinstance(stock.image_noising_scheduler, DDPMScheduler)


def test_a_cascade_is_scored_by_all_of_its_stages(cascade: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    """The figures are those of evaluating each stage on its own images."""
    data = ["--train_data_dir", images / "images", "--test_fraction", 0.25, "--num_evaluations", 3]
    found = {}
    for name, flags in {
        "cascade": ["--cascade", *cascade],
        "noisy": ["--cascade", *cascade, "--noise_level", 150],
        "first": ["--model_name_or_path", cascade[0], "--resolution", 4, "--low_resolution_of", 8],
        "second": ["--model_name_or_path", cascade[1]],
        "second noisy": ["--model_name_or_path", cascade[1], "--noise_level", 150],
    }.items():
        done = in_process.run("evaluate.py", *data, *flags, "--output_dir", tmp_path / name)
        assert done.code == 0, done.output
        assert done.output.count("1 caption is longer than 6 tokens, and truncated.") == 1  # of both stages together
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    for name, second in (("cascade", "second"), ("noisy", "second noisy")):
        total = found["first"]["total"] / 4 + found[second]["total"]
        assert math.isclose(found[name]["bits_per_dim_cascade"], total, rel_tol=1e-6)
        assert [stage["bits_per_dim"] for stage in found[name]["stages"]] == pytest.approx(
            [found["first"]["total"], found[second]["total"]], rel=1e-6
        )
    assert found["cascade"]["num_examples"] == 6 and found["cascade"]["bits_per_dim_cascade_standard_error"] > 0
    assert found["noisy"]["bits_per_dim_cascade"] != found["cascade"]["bits_per_dim_cascade"]


@pytest.mark.slow
def test_a_cascade_in_few_steps(cascade: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    """Its bounds are those of its stages in as many steps, and its samples are compared with training images."""
    data = ["--train_data_dir", images / "images", "--test_fraction", 0.25, "--num_evaluations", 3, "--few_steps", 3]
    rows, more = {}, ["--num_quality_samples", 4]
    for name, flags in {
        "cascade": ["--cascade", *cascade, *more],
        "first": ["--model_name_or_path", cascade[0], "--resolution", 4, "--low_resolution_of", 8],
        "second": ["--model_name_or_path", cascade[1]],
    }.items():
        done = in_process.run("evaluate.py", *data, *flags, "--output_dir", tmp_path / name)
        assert done.code == 0, done.output
        rows[name] = json.loads((tmp_path / name / "evaluation.json").read_text())["few_steps"]
    for row, first, second in zip(rows["cascade"], rows["first"], rows["second"], strict=True):
        assert row["timestep_spacing"] == first["timestep_spacing"] == second["timestep_spacing"]
        assert row["bits_per_dim"] == pytest.approx(first["bits_per_dim"] / 4 + second["bits_per_dim"], rel=1e-6)
        assert row["frechet_distance_pixels"] > 0


def test_a_cascade_is_sampled_stage_after_stage(cascade: tuple[Path, Path], tmp_path: Path) -> None:
    grids = []
    for name, more in {"one": [], "by_two": ["--batch_size", 2], "noisy": ["--noise_level", 150]}.items():
        output = tmp_path / f"{name}.png"
        asked = ["--prompt", "red", "blue", "--num_images", 3, "--num_inference_steps", 3, "--guidance_scale", 2]
        done = in_process.run("sample.py", "--cascade", *cascade, *asked, *more, "--output", output)
        assert done.code == 0, done.output
        grids.append(np.asarray(Image.open(output)).astype(int))
    assert abs(grids[0] - grids[1]).max() <= 1  # an image does not depend on the batch
    assert abs(grids[0] - grids[2]).max() > 1


@pytest.mark.parametrize(
    ("order", "flags", "message"),
    [
        ((1, 0), (), "enlarges images, so it cannot be the first stage."),
        ((0, 0), (), "does not enlarge images, so it must be the first stage."),
        ((0,), (), "`cascade` must name at least two models, but names 1."),
        ((0, 1, 1), (), "enlarges images of 4x4 pixels and 3 channels, but those of"),
        ((0, 1), ("--gif", "a.gif"), "`gif` is for one model; leave it out with `cascade`."),
        ((0, 1), ("--model_name_or_path", "a"), "`model_name_or_path` is for one model; leave it out with `cascade`."),
        ((0, 1), ("--noise_level", 500, "--num_inference_steps", 2), "`noise_level` must be in 0 ... 200, the levels"),
    ],
)
def test_models_that_make_no_cascade_are_refused(
    cascade: tuple[Path, Path], tmp_path: Path, order: tuple[int, ...], flags: tuple[object, ...], message: str
) -> None:
    stages = [cascade[k] for k in order]
    done = in_process.run("sample.py", "--cascade", *stages, *flags, "--output", tmp_path / "grid.png")
    assert done.code == 2 and message in done.output.rstrip().splitlines()[-1], done.output


def test_files_are_enlarged(cascade: tuple[Path, Path], tmp_path: Path) -> None:
    """As the pipeline enlarges them, with prompts by turns, and in any size."""
    generator, files, pictures = torch.Generator().manual_seed(0), [], []
    for name in ("one.png", "two.webp"):
        pictures.append(torch.randint(256, (6, 8, 3), generator=generator).numpy().astype(np.uint8))
        Image.fromarray(pictures[-1]).save(tmp_path / name, lossless=True)
        files.append(tmp_path / name)
    asked = ["--image", *files, "--noise_level", 150, "--num_inference_steps", 3, "--prompt", "red"]
    done = in_process.run("sample.py", "--model_name_or_path", cascade[1], *asked, "--output", tmp_path / "grid.png")
    assert done.code == 0 and "2 samples in" in done.output, done.output
    pipeline = load_pipeline(cascade[1])
    images = [torch.from_numpy(picture).movedim(-1, 0) / 127.5 - 1 for picture in pictures]
    generators = [generator_of(Use.SAMPLING, 0, k) for k in range(2)]
    how = {"num_inference_steps": 3, "noise_level": 150, "generator": generators, "output_type": "pt"}
    save_grid(pipeline(["red"] * 2, image=images, **how).images, tmp_path / "expected.png", captions=["red"] * 2)
    grids = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("grid.png", "expected.png")]
    assert abs(grids[0] - grids[1]).max() <= 1


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        (1, (), "The model enlarges images: name their files in --image, or name the model in --cascade"),
        (0, ("--image", "a.png"), "a.png"),
        (1, ("--image", "a.png", "--mask_image", "a.png"), "`mask_image` is ['a.png'], but the model enlarges whole"),
        (1, ("--image", "none.png"), "none.png"),
        (1, ("--image", __file__), f"`image`: {__file__} is not an image that can be read: it is of no known format."),
    ],
)
def test_files_that_cannot_be_enlarged_are_refused(
    cascade: tuple[Path, Path], tmp_path: Path, stage: int, flags: tuple[str, ...], message: str
) -> None:
    done = in_process.run(
        "sample.py", "--model_name_or_path", cascade[stage], *flags, "--output", tmp_path / "grid.png"
    )
    assert done.code == 2 and message in done.output.rstrip().splitlines()[-1], done.output


def test_a_noise_level_is_for_models_that_enlarge_images(
    cascade: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    data = ["--train_data_dir", images / "images", "--resolution", 4, "--output_dir", tmp_path / "evaluation"]
    for script, more in (("evaluate.py", data), ("sample.py", ["--output", tmp_path / "grid.png"])):
        done = in_process.run(script, "--model_name_or_path", cascade[0], *more, "--noise_level", 3)
        message = "`noise_level` must be 0 for a model that does not enlarge images, but is 3."
        assert done.code == 2 and done.output.rstrip().endswith(message), done.output
    assert not (tmp_path / "grid.png").exists()
