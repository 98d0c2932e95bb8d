# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training of text to image from its command to its end, and the commands that use the model."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import in_process
import pytest
import torch
from clients import as_client
from diffusers import IFPipeline
from hooks import losses_of, signal_at
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file
from script_server import ScriptServer
from tiny_text import COLOURS, SHADES, bert, ours, save_encoder, save_images, text_unet
from training_runs import LATEST, assert_same, ended, last_line, reports_of_equal_weights

from ddpm_hf import DDPMPaperTextToImagePipeline
from ddpm_hf.cli import evaluate
from ddpm_hf.conditioning.conditioner import Conditioners
from ddpm_hf.conditioning.text import TextConditioner, TextEncoder, TextSettings
from ddpm_hf.conditioning.text_encoders import load_text_encoder
from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.results import CaptionFigures
from ddpm_hf.tasks.captioned_images import load_captioned_images
from ddpm_hf.tasks.text_to_image import TextToImageTask
from ddpm_hf.training import finish, worth


TINY = shlex.split(
    "--block_out_channels 8 8 --down_block_types DownBlock2D CrossAttnDownBlock2D --up_block_types CrossAttnUpBlock2D"
    " UpBlock2D --norm_num_groups 4 --cross_attention_dim 8 --attention_head_dim 2 --addition_embed_type_num_heads 2"
    " --tokenizer_max_length 8 --ddpm_num_steps 6 --train_batch_size 16 --eval_batch_size 4 --num_quality_samples 4"
    " --num_paths 0 --num_evaluations 2 --save_images_epochs 0 --max_measured_images 4 --max_train_steps 4"
    " --test_fraction 0.4 --lr_warmup_steps 1"
)
UNSCORED = shlex.split("--test_fraction 0 --num_quality_samples 0")
FIGURES = set(CaptionFigures.__annotations__)


# --- data, an encoder, and runs in the test's own process ------------------------------------------------------------


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, images with several captions, and an encoder."""
    folder = tmp_path_factory.mktemp("text")
    save_images(folder / "images")
    save_images(folder / "several", several=True)
    save_encoder(folder / "encoder", positions=16)
    return folder


def arguments(assets: Path, *more: object, images: str = "images") -> list[object]:
    given = ["--train_data_dir", assets / images, "--cache_dir", assets / "cache"]
    return [*TINY, *given, "--text_encoder", assets / "encoder", *more]


def train(
    assets: Path,
    folder: Path,
    *more: object,
    code: int = 0,
    during: tuple[AbstractContextManager, ...] = (),
    **options: Any,
) -> str:
    with contextlib.ExitStack() as stack:
        for hook in (mock.patch.object(worth, "RETRIEVAL_EVALUATIONS", 2), *during):  # most of a short run's time
            stack.enter_context(hook)
        done = in_process.run("text_to_image.py", *arguments(assets, *more, **options), "--output_dir", folder)
    assert done.code == code, done.output
    return done.output


def command(script: str, *given: object, code: int = 0) -> str:
    done = in_process.run(script, *given)
    assert done.code == code, done.output
    return done.output


@pytest.fixture(scope="session")
def run(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to its end, with a checkpoint at its end; what it printed lies beside it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    more = ["--checkpointing_steps", 2, "--checkpoints_total_limit", -1, "--dropout", 0.1]
    folder.with_name("output.txt").write_text(train(assets, folder, *more, "--validation_prompts", "big cat", "dark"))
    return folder


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_its_figures_and_pictures(run: Path) -> None:
    report = json.loads((run / "metrics.json").read_text())
    assert report.keys() >= FIGURES
    assert (report["test_images"], report["train_images"]) == (24, 36)
    assert (report["caption_retrieval_candidates"], report["caption_retrieval_images"]) == (16, 128)
    for name in ("caption_retrieval_accuracy", "caption_retrieval_accuracy_training"):
        assert 0 <= report[name] <= 1
    saved = report["bits_per_dim_unconditional"] - report["bits_per_dim"]
    assert report["caption_information_bits"] == pytest.approx(saved * 3 * 8 * 8, abs=1e-6)
    assert report["caption_information_bits_standard_error"] > 0
    for picture in ("caption_information.png", "samples.png"):
        assert Image.open(run / picture).size[0] > 50
    output = run.with_name("output.txt").read_text()
    assert "captions of up to 8 tokens" in output
    assert "bits/dim without captions: a caption is worth" in output


def test_the_model_samples_and_scores(run: Path, assets: Path) -> None:
    pipeline = DDPMPaperTextToImagePipeline.from_pretrained(run)
    settings = pipeline.conditioners.members[0].settings
    assert (settings.max_length, settings.attention_mask, settings.null) == (8, True, True)
    assert pipeline.tokenizer.get_vocab() == bert()[0].get_vocab()
    saved, given = (load_file(folder / "model.safetensors") for folder in (run / "text_encoder", assets / "encoder"))
    assert saved.keys() == given.keys() and all(torch.equal(saved[name], given[name]) for name in saved)
    images = pipeline(["a red square", "a light blue square"], guidance_scale=2.0).images
    assert len(images) == 2 and images[0].size == (8, 8)


def test_grids_show_the_validation_prompts_first(assets: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    call = DDPMPaperTextToImagePipeline.__call__

    def noted(self: Any, prompt: Any = None, *rest: Any, **options: Any) -> Any:
        asked.extend(prompt)
        return call(self, prompt, *rest, **options)

    with mock.patch.object(DDPMPaperTextToImagePipeline, "__call__", noted):
        train(assets, tmp_path / "run", "--validation_prompts", "big cat", "dark", "--max_train_steps", 1, *UNSCORED)
    assert asked[:2] == ["big cat", "dark"]
    assert all(words.endswith("square") for words in asked[2:4]) and asked[2] != asked[3]
    grid = Image.open(tmp_path / "run" / "samples.png")
    assert grid.height > grid.width  # as many rows as columns, with the prompts below the samples


# --- exactly the same ------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run: Path, assets: Path, tmp_path: Path) -> None:
    more = ["--checkpointing_steps", 2, "--checkpoints_total_limit", -1, "--dropout", 0.1]
    more += ["--validation_prompts", "big cat", "dark"]
    train(assets, tmp_path / "run", *more, code=143, during=(signal_at(3, "SIGTERM"),))
    train(assets, tmp_path / "run", *more, *LATEST)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")  # where it was stopped
    assert_same(tmp_path / "run", run)


@pytest.mark.slow
def test_embeddings_that_are_not_stored_train_the_same(run: Path, assets: Path, tmp_path: Path) -> None:
    with losses_of() as stored:
        train(assets, tmp_path / "stored", *UNSCORED)
    with losses_of() as anew:
        train(assets, tmp_path / "anew", *UNSCORED, "--pre_compute_text_embeddings", "False")
    assert anew == pytest.approx(stored, rel=1e-4)


def test_the_captions_are_embedded_once_for_all_runs(assets: Path, tmp_path: Path) -> None:
    embedded: list[int] = []
    encode = TextEncoder.encode

    def counted(self: TextEncoder, captions: Any, device: Any) -> Any:
        embedded.append(len(captions))
        return encode(self, captions, device)

    cache = ["--cache_dir", tmp_path / "cache", "--max_train_steps", 1, *UNSCORED]
    counts = []
    for name in ("first", "second"):
        embedded.clear()
        with mock.patch.object(TextEncoder, "encode", counted), mock.patch.object(finish, "draw", nothing_drawn):
            train(assets, tmp_path / name, *cache)
        counts.append(sum(embedded))
    assert counts == [9 + 1, 0]  # the captions, and the empty one


def nothing_drawn(state: Any, count: int) -> torch.Tensor:
    return torch.zeros(count, *state.data.train.shape)


def test_an_image_of_several_captions_has_another_one_each_time(assets: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    make = TextEncoder.encode

    def noted(self: TextEncoder, captions: Any, device: Any) -> Any:
        seen.update(captions)
        return make(self, captions, device)

    with mock.patch.object(TextEncoder, "encode", noted):
        train(assets, tmp_path / "run", *UNSCORED, "--pre_compute_text_embeddings", "False", images="several")
    assert {f"a {shade} {colour} square" for colour in COLOURS for shade in SHADES} <= seen
    assert len({f"{colour} {shade}" for colour in COLOURS for shade in SHADES} & seen) > 4


def test_a_stream_is_trained_on_and_gone_on_with(assets: Path, tmp_path: Path) -> None:
    more = ["--streaming", "--shuffle_buffer_size", 8, *UNSCORED]
    told = last_line(train(assets, tmp_path / "run", *more, code=2))
    assert "`validation_prompts` must be given, since there are no test captions to draw samples of." in told
    more += ["--validation_prompts", "a cat", "--checkpointing_steps", 2, "--checkpoints_total_limit", -1]
    train(assets, tmp_path / "whole", *more)
    train(assets, tmp_path / "run", *more, code=143, during=(signal_at(3, "SIGTERM"),))
    train(assets, tmp_path / "run", *more, *LATEST)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_what_captions_are_worth_is_known_of_a_stream(assets: Path, tmp_path: Path) -> None:
    train(assets, tmp_path / "run", "--streaming", "--num_quality_samples", 0)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() >= FIGURES


@pytest.mark.slow
def test_two_processes_train_as_one(scripts: ScriptServer, assets: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    common = arguments(assets, "--cache_dir", tmp_path / "cache", "--dropout", 0, "--max_train_steps", 6)
    ended(scripts.start("text_to_image.py", *common, "--output_dir", one))
    divided = [*common, "--train_batch_size", 8, "--output_dir", two, "--cache_dir", tmp_path / "another"]
    for each in scripts.start_together(2, "text_to_image.py", *divided):
        ended(each)
    reports = reports_of_equal_weights(one, two, atol=2e-3)
    for name in ("bits_per_dim", "bits_per_dim_unconditional"):
        assert reports[0][name] == pytest.approx(reports[1][name], rel=1e-2)


# --- what is refused, and what is left out ---------------------------------------------------------------------------


def test_another_encoder_does_not_go_on(run: Path, assets: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    other = save_encoder(tmp_path / "other", positions=16, seed=5)
    more = ["--checkpointing_steps", 2, "--checkpoints_total_limit", -1, "--dropout", 0.1, *LATEST]
    told = last_line(train(assets, folder, *more, "--text_encoder", other, code=2))
    assert told.startswith("text_to_image.py: error: ") and "its settings are others: text encoder was" in told
    moved = Path(shutil.copytree(assets / "encoder", tmp_path / "moved"))
    prompts = ["--validation_prompts", "big cat", "dark"]
    train(assets, folder, *more, *prompts, "--text_encoder", moved)  # the same one in another place


def test_a_model_that_always_has_a_caption_has_no_worth(assets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(assets, folder, "--conditioning_dropout_prob", 0)
    report = json.loads((folder / "metrics.json").read_text())
    assert not report.keys() & FIGURES and "bits_per_dim" in report
    assert not (folder / "caption_information.png").exists()
    sample = ["--model_name_or_path", folder, "--output", tmp_path / "grid.png"]
    told = last_line(command("sample.py", *sample, "--prompt", "a", "--guidance_scale", 2, code=2))
    assert "`guidance_scale` must be 1, but is 2.0: the model has no unconditional prediction" in told
    told = last_line(command("sample.py", *sample, code=2))
    assert "`prompt` must be given: the model was not trained without text." in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--text_encoder", "nowhere/at/all"],
            "Could not load nowhere/at/all: that is neither a folder here nor a name",
        ),
        (["--tokenizer_max_length", 0], "`tokenizer_max_length` must be at least 1, but is 0."),
        (["--tokenizer_max_length", 17], "`tokenizer_max_length` must be at most 16, that of"),
        (["--validation_prompts", "a", " "], "`validation_prompts` must not be empty, but are ['a', ' ']."),
        (["--preset", "9"], "`preset` must be one of auto, 16, 32, 64, but is '9'."),
        (["--conditioning_dropout_prob", 1], "`conditioning_dropout_prob` must be in [0, 1), but is 1.0."),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value[0]),
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    assets: Path, tmp_path: Path, flags: list, message: str
) -> None:
    told = last_line(train(assets, tmp_path / "run", *flags, code=2))
    assert told.startswith("text_to_image.py: error: ") and message in told
    assert not (tmp_path / "run").exists()


def test_an_encoder_without_the_vocabulary_of_its_tokenizer_is_refused(assets: Path, tmp_path: Path) -> None:
    shutil.copytree(assets / "encoder", tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "encoder" / name).unlink()
    told = last_line(train(assets, tmp_path / "run", "--text_encoder", tmp_path / "encoder", code=2))
    assert told.startswith("text_to_image.py: error: `text_encoder` ") and "its tokenizer knows no words" in told
    assert not (tmp_path / "run").exists()


def test_an_encoder_with_too_few_embeddings_is_refused(assets: Path, tmp_path: Path) -> None:
    tokenizer, model = bert()
    tokenizer.add_tokens(["dog"])
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "encoder")
    told = last_line(train(assets, tmp_path / "run", "--text_encoder", tmp_path / "encoder", code=2))
    assert told.startswith("text_to_image.py: error: `text_encoder` ")
    assert f"its tokenizer has {len(tokenizer)} tokens, but the encoder embeds only {len(tokenizer) - 1}" in told


def test_images_without_captions_are_refused(assets: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 20)
    (tmp_path / "images" / "metadata.jsonl").unlink()
    told = last_line(train(assets, tmp_path / "run", "--train_data_dir", tmp_path / "images", code=2))
    assert "has no column of captions" in told


def test_captions_that_are_too_long_are_told_of(assets: Path, tmp_path: Path) -> None:
    output = train(assets, tmp_path / "run", "--tokenizer_max_length", 5, "--max_train_steps", 1, *UNSCORED)
    assert told_of_truncation(output) == [
        "9 captions are longer than 5 tokens, and truncated; --tokenizer_max_length changes that."
    ]


def save_captions(folder: Path, captions: list[Any]) -> Path:
    """Images with these captions in turn."""
    save_images(folder)
    rows = [{"file_name": f"{k:03}.png", "text": captions[k % len(captions)]} for k in range(60)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def told_of_truncation(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if "truncated" in line]


def test_captions_of_a_stream_that_are_too_long_are_counted(assets: Path, tmp_path: Path) -> None:
    """An epoch of 60 images, in which every third caption is too long, and another one after the run goes on."""
    data = save_captions(tmp_path / "images", ["a big dark red square", "red", "blue"])
    more = ["--train_data_dir", data, "--streaming", "--shuffle_buffer_size", 8, *UNSCORED, "--train_batch_size", 20]
    more += [
        "--tokenizer_max_length",
        5,
        "--validation_prompts",
        "a red cat on the square",
        "--checkpointing_steps",
        3,
    ]
    for steps, flags, when in ((3, [], "in training"), (6, LATEST, "since step 3")):
        told = told_of_truncation(train(assets, tmp_path / "run", *more, "--max_train_steps", steps, *flags))
        assert len(told) == 3
        advice = "longer than 5 tokens, and truncated; --tokenizer_max_length changes that."
        assert told[0] == f"1 validation prompt is {advice}"
        first = re.fullmatch(rf"Of the first (20|40) images of the stream, (\d+) captions? (is|are) {advice}", told[1])
        assert first is not None and 1 <= int(first[2]) <= 20
        assert told[2] == f"Of the 60 images read {when}, 20 captions are longer than 5 tokens, and truncated."


def test_captions_of_the_test_images_of_a_stream_are_counted_at_the_start(tmp_path: Path) -> None:
    data = save_captions(tmp_path / "images", ["a dark cat", "a light cat", "red"])
    where = {"train_data_dir": str(data), "streaming": True, "test_fraction": 0.5, "validation_fraction": 0.1}
    settings = TextSettings(4, attention_mask=True)
    told = Conditioners((TextConditioner(TextEncoder(*bert(), 4), settings),))
    sentence = "images, 2 captions are longer than 4 tokens, and truncated; --tokenizer_max_length changes that."
    assert load_captioned_images(CaptionedDataArguments(**where)).reading(told).notes[-1] == (
        f"Of the test and validation {sentence}"
    )
    del where["validation_fraction"]
    assert load_captioned_images(CaptionedDataArguments(**where)).reading(told).notes[-1] == f"Of the test {sentence}"


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("evaluate.py", ["--num_evaluations", 2, "--few_steps", 2, "--num_quality_samples", 4]),
        ("classify.py", ["--num_evaluations", 2, "--num_candidates", 2]),
        ("measure.py", ["--max_images", 8]),
    ],
    ids=["evaluate", "classify", "measure"],
)
def test_captions_that_are_too_long_are_told_of_once(run: Path, tmp_path: Path, script: str, flags: list) -> None:
    """Of several captions scores take the first."""
    long = ["a big dark red square on the cat", "a big dark blue square on the cat"]
    captions = [[long[0], "red"], [long[1], "blue"], ["red", f"{long[0]} a"], ["blue", f"{long[1]} a"]]
    data = ["--train_data_dir", save_captions(tmp_path / "images", captions), "--test_fraction", 0.4]
    output = command(script, "--model_name_or_path", run, *data, *flags, "--output_dir", tmp_path / "out")
    assert told_of_truncation(output) == ["2 captions are longer than 8 tokens, and truncated."]


# --- the encoder in the run's folder ---------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells a file that was written again: the number and the time of each file of the frozen parts."""
    files = [path for name in TextToImageTask.frozen_parts for path in (folder / name).iterdir()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_the_encoder_is_written_once(assets: Path, tmp_path: Path) -> None:
    folder, saves, written = tmp_path / "run", [], []
    save = finish._save_pipeline

    def noted(state: Any) -> None:
        save(state)
        saves.append(stamps(folder))
        written.append((folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_ino)

    more = [*UNSCORED, "--checkpointing_steps", 2, "--save_model_epochs", 1, "--max_train_steps", 8]
    with mock.patch.object(finish, "_save_pipeline", noted):
        train(assets, folder, *more, code=143, during=(signal_at(4, "SIGTERM"),))
        train(assets, folder, *more, *LATEST)
    assert len(saves) >= 3 and all(each == saves[0] for each in saves) and len(set(written)) > 1
    assert DDPMPaperTextToImagePipeline.from_pretrained(folder).text_encoder is not None
    other = save_encoder(tmp_path / "other", positions=16, seed=5)
    train(assets, folder, "--text_encoder", other, "--max_train_steps", 1, *UNSCORED, "--overwrite_output_dir")
    saved = [load_file(place / "model.safetensors") for place in (folder / "text_encoder", other)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.slow
def test_an_encoder_that_an_earlier_try_left_is_written_over(assets: Path, tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint, and begins again with another encoder."""
    folder = tmp_path / "run"
    train(assets, folder, "--checkpointing_steps", 0, "--max_train_steps", 1, *UNSCORED)
    (folder / "metrics.json").unlink()
    other = save_encoder(tmp_path / "other", positions=16, seed=5)
    train(assets, folder, "--text_encoder", other, "--max_train_steps", 1, *UNSCORED, *LATEST)
    saved = [load_file(place / "model.safetensors") for place in (folder / "text_encoder", other)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        yield hub


def on_the_hub(hub: LoopbackHub, folder: Path, **options: Any) -> str:
    """A small encoder in a repository; the commit that it was before others were added."""
    hub.create("owner/encoder")
    save_encoder(folder, **options)
    return hub.repos["owner/encoder"].commit({path.name: path.read_bytes() for path in folder.iterdir()})


def test_a_run_is_pushed_with_its_encoder_and_loaded(hub: LoopbackHub, assets: Path, tmp_path: Path) -> None:
    with as_client(hub, tmp_path / "home", "hf_owner"):
        pushed = ["--push_to_hub", "--hub_model_id", "owner/run", "--max_train_steps", 1]
        output = train(assets, tmp_path / "run", *UNSCORED, *pushed)
        files = hub.repos["owner/run"].files()
        pipeline = DDPMPaperTextToImagePipeline.from_pretrained("owner/run")
        command("sample.py", "--model_name_or_path", "owner/run", "--prompt", "a", "--output", tmp_path / "x.png")
    assert "Could not" not in output
    encoder = {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "text_encoder/config.json"}
    weights = {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}
    rest = {"unet/config.json", "scheduler/scheduler_config.json", "model_index.json", "README.md", "metrics.json"}
    assert set(files) == encoder | weights | rest | {"samples.png", ".gitattributes"}
    assert b"pipeline_tag: text-to-image" in files["README.md"] and b"| text_encoder | encoder |" in files["README.md"]
    assert str(tmp_path).encode() not in b"".join(files.values())  # nor where anything lay
    assert str(assets).encode() not in b"".join(files.values())
    assert len(pipeline("a red square", 2).images) == 1


def test_an_encoder_of_the_hub_is_saved_by_its_name(hub: LoopbackHub, assets: Path, tmp_path: Path) -> None:
    first = on_the_hub(hub, tmp_path / "first")
    on_the_hub(hub, tmp_path / "second", seed=5)  # which is the newest
    folder, named = tmp_path / "run", ["--text_encoder", "owner/encoder", "--text_encoder_revision", first]
    with as_client(hub, tmp_path / "home", None):
        train(assets, folder, *UNSCORED, *named, "--max_train_steps", 1)
        assert not (folder / "text_encoder").exists() and not (folder / "tokenizer").exists()
        index = json.loads((folder / "model_index.json").read_text())
        assert index["text_encoder"] == index["tokenizer"] == [None, None]
        pipeline = DDPMPaperTextToImagePipeline.from_pretrained(folder)
        command("sample.py", "--model_name_or_path", folder, "--prompt", "a", "--output", tmp_path / "x.png")
        newest = load_text_encoder("owner/encoder", 8)
    settings = pipeline.conditioners.members[0].settings
    assert (settings.encoder, settings.encoder_revision) == ("owner/encoder", first)
    given = [load_file(place / "model.safetensors") for place in (tmp_path / "first", tmp_path / "second")]
    for model, expected in ((pipeline.text_encoder, given[0]), (newest.model, given[1])):
        assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)
    pipeline.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["model_index.json", "scheduler", "unet"]
    with pytest.raises(OSError, match=r"Could not load owner/encoder"):  # which is out of reach now
        DDPMPaperTextToImagePipeline.from_pretrained(folder)
    parts = {"tokenizer": pipeline.tokenizer, "text_encoder": pipeline.text_encoder}
    for cls in (DDPMPaperTextToImagePipeline, IFPipeline):
        loaded = cls.from_pretrained(folder, **parts)
        assert loaded.text_encoder is pipeline.text_encoder and len(loaded("a cat", num_inference_steps=2).images) == 1


def test_a_private_encoder_is_loaded_with_the_token_given(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.create("owner/encoder", private=True)
    on_the_hub(hub, tmp_path / "encoder")
    settings = TextSettings(8, encoder="owner/encoder")
    ours(*bert(), text_unet(settings=settings)).save_pretrained(tmp_path / "run")
    with as_client(hub, tmp_path / "home", None):
        with pytest.raises(OSError, match="owner/encoder"):
            DDPMPaperTextToImagePipeline.from_pretrained(tmp_path / "run")
        where = {"token": "hf_owner", "cache_dir": tmp_path / "cache"}
        pipeline = DDPMPaperTextToImagePipeline.from_pretrained(tmp_path / "run", **where)
    given = load_file(tmp_path / "encoder" / "model.safetensors")
    assert all(torch.equal(pipeline.text_encoder.state_dict()[name], given[name]) for name in given)
    assert [path.name for path in (tmp_path / "cache").glob("models--*")] == ["models--owner--encoder"]


# --- the commands ----------------------------------------------------------------------------------------------------


def test_sample_draws_a_grid_of_prompts(run: Path, tmp_path: Path) -> None:
    common = ["--model_name_or_path", run, "--num_images", 4, "--num_inference_steps", 3]
    grids = {}
    for name, flags in {
        "red": ["--prompt", "a red square", "a blue square"],
        "guided": ["--prompt", "a red square", "a blue square", "--guidance_scale", 4],
        "away": ["--prompt", "a red square", "a blue square", "--guidance_scale", 4, "--negative_prompt", "dark"],
        "none": [],
    }.items():
        command("sample.py", *common, *flags, "--output", tmp_path / f"{name}.png")
        grids[name] = Image.open(tmp_path / f"{name}.png")
    assert len({grid.tobytes() for grid in grids.values()}) == 4
    assert grids["red"].height > grids["none"].height  # the captions need room
    command("sample.py", *common, "--prompt", "a cat", "--output", tmp_path / "x.png", "--gif", tmp_path / "x.gif")
    assert (tmp_path / "x.gif").stat().st_size > 0
    for beside in ([], ["--prompt", "a cat"]):
        classes = ["--class_labels", 1, *beside, "--output", tmp_path / "y.png"]
        told = last_line(command("sample.py", *common, *classes, code=2))
        assert "`class_labels` are [1], but the model is not class-conditional." in told
    told = last_line(command("sample.py", *common, "--negative_prompt", "a", "--output", tmp_path / "y.png", code=2))
    assert "`negative_prompt` needs a `guidance_scale` other than 1, and no `guidance_model`." in told


def test_guidance_scales_are_checked_before_anything_is_scored(run: Path, assets: Path, tmp_path: Path) -> None:
    data = ["--model_name_or_path", run, "--train_data_dir", assets / "images", "--output_dir", tmp_path / "evaluated"]
    told = last_line(command("evaluate.py", *data, "--guidance_scales", 1, -2, code=2))
    assert "`guidance_scale` must be a finite number >= 0, but is -2.0." in told
    assert not (tmp_path / "evaluated").exists()


def test_evaluate_scores_captions_and_scales(run: Path, assets: Path, tmp_path: Path) -> None:
    data = ["--train_data_dir", assets / "images", "--test_fraction", 0.4]
    scales = ["--guidance_scales", 0, 1, 3, "--num_evaluations", 2]
    output = command(
        "evaluate.py", "--model_name_or_path", run, *data, *scales, "--output_dir", tmp_path / "evaluated"
    )
    report = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    rows = report["guidance"]
    assert [row["guidance_scale"] for row in rows] == [0, 1, 3]
    assert rows[0]["bits_per_dim"] == pytest.approx(report["bits_per_dim_unconditional"], rel=1e-6)
    assert rows[1]["bits_per_dim"] == pytest.approx(report["total"], rel=1e-9)
    assert rows[1]["excess_bits_per_dim"] == rows[1]["excess_bits_per_dim_standard_error"] == 0
    excess = rows[0]["excess_bits_per_dim"] * 3 * 8 * 8
    assert report["caption_information_bits"] == pytest.approx(excess, rel=1e-4, abs=1e-4)
    for picture in ("guidance.png", "caption_information.png", "evaluation.png"):
        assert Image.open(tmp_path / "evaluated" / picture).size[0] > 50
    assert "bits/dim guided by 3" in output and "A caption is worth" in output
    again = ["--model_name_or_path", run, *data, "--guidance_scale", 3, "--num_evaluations", 2]
    with mock.patch.object(evaluate, "save_evaluation"):  # takes a second
        command("evaluate.py", *again, "--output_dir", tmp_path / "guided")
    guided = json.loads((tmp_path / "guided" / "evaluation.json").read_text())
    assert guided["total"] == pytest.approx(rows[2]["bits_per_dim"], rel=1e-9)
    assert "caption_information_bits" not in guided


def test_samples_are_of_the_first_of_several_captions(run: Path, assets: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    call = DDPMPaperTextToImagePipeline.__call__

    def noted(self: Any, prompt: Any = None, **options: Any) -> Any:
        asked.extend(prompt)
        return call(self, prompt, **options)

    data = ["--model_name_or_path", run, "--train_data_dir", assets / "several", "--test_fraction", 0.4]
    few = ["--num_evaluations", 2, "--max_images", 4, "--few_steps", 2, "--num_quality_samples", 4]
    with (
        mock.patch.object(DDPMPaperTextToImagePipeline, "__call__", noted),
        mock.patch.object(evaluate, "save_evaluation"),
    ):
        command("evaluate.py", *data, *few, "--output_dir", tmp_path / "evaluated")
    assert len(asked) >= 4 and all(words.endswith("square") for words in asked)


def test_classify_retrieves_captions(run: Path, assets: Path, tmp_path: Path) -> None:
    data = ["--model_name_or_path", run, "--train_data_dir", assets / "images", "--test_fraction", 0.4]
    output = command("classify.py", *data, "--num_candidates", 8, "--output_dir", tmp_path / "found")
    report = json.loads((tmp_path / "found" / "classification.json").read_text())
    assert (report["candidates"], report["images"]) == (8, 24)
    assert 0 < report["accuracy"] <= 1
    assert last_line(output).endswith("of 24 test images find their caption among 8; by chance 0.1250")
    told = last_line(command("classify.py", *data, "--num_candidates", 25, "--output_dir", tmp_path / "x", code=2))
    assert "`num_candidates` must be in 2 ... 24, the test images, but is 25." in told


def test_measure_saves_the_model_with_its_encoder(run: Path, assets: Path, tmp_path: Path) -> None:
    data = ["--train_data_dir", assets / "images", "--test_fraction", 0.4, "--max_images", 8]
    command("measure.py", "--model_name_or_path", run, *data, "--output_dir", tmp_path / "measured")
    pipeline = DDPMPaperTextToImagePipeline.from_pretrained(tmp_path / "measured")
    assert pipeline.scheduler.denoising_errors is not None
    assert len(pipeline("a red square").images) == 1


def test_data_without_captions_are_not_scored(run: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 20)
    (tmp_path / "images" / "metadata.jsonl").unlink()
    flags = ["--model_name_or_path", run, "--train_data_dir", tmp_path / "images", "--output_dir", tmp_path / "x"]
    assert "has no column of captions" in last_line(command("evaluate.py", *flags, code=2))
