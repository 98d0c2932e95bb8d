# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A stopped run resumes exactly: its results are the same as without the stop, byte by byte."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate.utils.other import load
from hooks import Killed, killed_at, losses_of, signal_at
from safetensors.torch import load_file, save_file
from training_runs import EVERYTHING, GOES_ON, LATEST, TINY, assert_same, last_line, left, refused, train

from ddpm_hf import DDPMPaperPipeline
from ddpm_hf.runtime import randomness
from ddpm_hf.runtime.checksums import CHECKSUMS, damage_of, write_checksums
from ddpm_hf.training import setup
from ddpm_hf.training.checkpoints import find_checkpoint
from ddpm_hf.training.tracking import Progress


WAYS = {
    "simple, stratified, classes, workers": "--objective simple --snr_gamma 5 --timestep_sampling stratified"
    " --num_class_embeds 10 --dataloader_num_workers 2 --random_flip --max_train_steps 12",
    "vlb, uniform, learned variance, no average": "--objective vlb --variance_type learned_range"
    " --timestep_sampling uniform --use_ema False --gradient_accumulation_steps 3 --max_train_steps 8",
}


# --- exactly ---------------------------------------------------------------------------------------------------------


def test_a_run_stopped_again_and_again_ends_as_one_never_stopped(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    output = train(folder, *EVERYTHING, *LATEST, code=143, during=(signal_at(13, "SIGTERM"),))
    assert f"There is no checkpoint in {folder} yet; starting from the beginning." in output
    # It was in the first of the two windows of step 7.
    assert last_line(output) == (f"train.py: SIGTERM stopped it. {folder / 'checkpoint-7'} is whole. {GOES_ON}")
    by_name = ["--resume_from_checkpoint", "checkpoint-7"]
    output = train(folder, *EVERYTHING, *by_name, code=130, during=(signal_at(8, "SIGINT"),))
    assert f"Going on from {folder / 'checkpoint-7'}, after step 7 of 20." in output
    assert last_line(output).startswith(f"train.py: SIGINT stopped it. {folder / 'checkpoint-11'} is whole.")
    output = train(folder, *EVERYTHING, *LATEST)
    assert f"Going on from {folder / 'checkpoint-11'}, after step 11 of 20." in output
    assert_same(folder, whole)
    assert [row["step"] for row in json.loads((folder / "metrics.json").read_text())["validation"]] == [6, 12, 18]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_train_is_gone_on_with_exactly(tmp_path: Path, way: str) -> None:
    arguments = [*TINY, "--dropout", 0.1, "--checkpointing_steps", 100, *shlex.split(way)]
    train(tmp_path / "unstopped", *arguments)
    train(tmp_path / "run", *arguments, code=143, during=(signal_at(5, "SIGTERM"),))
    train(tmp_path / "run", *arguments, *LATEST)
    shutil.rmtree(min((tmp_path / "run").glob("checkpoint-?")))  # where it was stopped
    assert_same(tmp_path / "run", tmp_path / "unstopped")


def test_a_run_goes_on_with_another_division_of_the_batch(tmp_path: Path) -> None:
    arguments = [*TINY, *shlex.split("--max_train_steps 14 --dropout 0 --random_flip")]
    division = ["--train_batch_size", 8, "--gradient_accumulation_steps", 2]
    with losses_of() as whole:
        train(tmp_path / "unstopped", *arguments)
    with losses_of() as halves:
        train(tmp_path / "run", *arguments, code=143, during=(signal_at(7, "SIGTERM"),))
        train(tmp_path / "run", *arguments, *division, *LATEST)
    assert len(whole) == 14
    assert halves == pytest.approx(whole, rel=1e-4)


def test_every_step_and_every_image_draws_anew(tmp_path: Path) -> None:
    arguments = shlex.split("--max_train_steps 3 --train_batch_size 16 --gradient_accumulation_steps 2")
    drawn, times, noise_like, add = [], [], randomness.noise_like, Progress.add

    def drawn_noise(x_0: torch.Tensor, first: int, *address: int) -> torch.Tensor:
        noise = noise_like(x_0, first, *address)
        drawn.append((first, noise))
        return noise

    def drawn_times(self: Progress, t: torch.Tensor, *rest: Any) -> None:
        times.append(t)
        add(self, t, *rest)

    recorded = (
        mock.patch.object(randomness, "noise_like", drawn_noise),  # from which the script takes its own
        mock.patch.object(Progress, "add", drawn_times),
    )
    train(tmp_path / "run", *TINY, *arguments, during=recorded)
    assert [first for first, _ in drawn] == [0, 16] * 3
    assert len({noise.numpy().tobytes() for _, noise in drawn}) == 6
    assert len({tuple(t.tolist()) for t in times}) == 3


def test_checkpointing_of_gradients_changes_no_number(tmp_path: Path) -> None:
    arguments = [*TINY, "--max_train_steps", 8, "--dropout", 0.1]
    with losses_of() as one:
        train(tmp_path / "plain", *arguments)
    with losses_of() as other:
        train(tmp_path / "checkpointed", *arguments, "--gradient_checkpointing")
    assert one == pytest.approx(other, rel=1e-6)
    one, other = (
        load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("plain", "checkpointed")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


@contextlib.contextmanager
def traced() -> Iterator[list[str]]:
    """Models are compiled without the compiler, which takes minutes; yields the classes of those that are."""
    compiled, made, compile = [], setup.Accelerator, torch.compile

    def told(model: Any, *arguments: Any, **options: Any) -> Any:
        compiled.append(type(model).__name__)
        return compile(model, *arguments, **options)

    def without_compiler(*arguments: Any, **options: Any) -> Any:
        return made(*arguments, **options | {"dynamo_backend": "eager"})

    with mock.patch.object(setup, "Accelerator", without_compiler), mock.patch.object(torch, "compile", told):
        yield compiled
    torch._dynamo.reset()


def test_a_compiled_model_is_saved_averaged_and_gone_on_with_by_its_own_names(tmp_path: Path) -> None:
    arguments = [*TINY, "--max_train_steps", 8, "--checkpointing_steps", 100, "--checkpoints_total_limit", -1]
    train(tmp_path / "plain", *arguments)
    folder = tmp_path / "run"
    with traced() as compiled:
        train(folder, *arguments, "--torch_compile", code=143, during=(signal_at(4, "SIGTERM"),))
        train(folder, *arguments, "--torch_compile", *LATEST)
    assert compiled == ["UNet2DModel"] * 2
    for name in ("unet/diffusion_pytorch_model.safetensors", "ema-0.safetensors"):
        one, other = (load_file(run / "checkpoint-8" / name) for run in (tmp_path / "plain", folder))
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    assert DDPMPaperPipeline.from_pretrained(folder)(1, num_inference_steps=2).images


# --- from where ------------------------------------------------------------------------------------------------------


def test_a_finished_run_that_goes_on_just_finishes_again(whole: Path, finished: Path) -> None:
    for name in ("metrics.json", "samples.png"):
        (finished / name).unlink()
    assert "after step 20 of 20" in train(finished, *EVERYTHING, *LATEST)
    assert_same(finished, whole)


def test_a_run_goes_on_on_other_terms_of_scoring(finished: Path) -> None:
    record = finished / "checkpoint-20" / "training.json"
    state = json.loads(record.read_text())
    state["fingerprint"]["num_paths"] = 0  # of a checkpoint that is older than its indifference
    record.write_text(json.dumps(state))
    train(finished, *EVERYTHING, *LATEST, "--num_paths", 2, "--max_measured_images", 32)
    assert json.loads((finished / "metrics.json").read_text())["importance_weighted"]["paths"] == 2


def test_a_run_goes_on_for_longer_but_not_for_less(finished: Path) -> None:
    sentence = refused(finished, *EVERYTHING, *LATEST, "--max_train_steps", 12)
    assert "it is after step 20, and the run would end after 12" in sentence
    train(finished, *EVERYTHING, *LATEST, "--max_train_steps", 22)
    assert json.loads((finished / "metrics.json").read_text())["train_steps"] == 22
    assert load_file(finished / "checkpoint-22" / "unet" / "diffusion_pytorch_model.safetensors")


def test_later_checkpoints_of_a_course_that_was_left_go(whole: Path, finished: Path) -> None:
    from_before = ["--resume_from_checkpoint", finished / "checkpoint-16", "--max_train_steps", 30]
    train(finished, *EVERYTHING, *from_before, code=143, during=(signal_at(2, "SIGTERM"),))
    # The learning rate of 30 steps falls more slowly: what was checkpoint-20 is of another run.
    assert sorted(path.name for path in finished.glob("checkpoint*")) == ["checkpoint-16", "checkpoint-17"]
    assert_same(finished / "checkpoint-16", whole / "checkpoint-16")


def test_a_checkpoint_that_is_not_there(finished: Path) -> None:
    sentence = refused(finished, *EVERYTHING, "--resume_from_checkpoint", "checkpoint-9")
    assert "`resume_from_checkpoint` checkpoint-9 is no checkpoint" in sentence
    assert sentence.endswith("holds checkpoint-16, checkpoint-20.")


def test_a_checkpoint_of_other_settings_is_refused_with_each_of_them(whole: Path, finished: Path) -> None:
    others = ["--learning_rate", 0.1, "--ema_max_decay", 0.5, "--gradient_accumulation_steps", 1]
    sentence = refused(finished, *EVERYTHING, *LATEST, *others)
    told = sentence.partition("its settings are others: ")[2]
    assert told.split("; ") == [
        "ema_max_decay was [0.99, 0.9] and is [0.5]",
        "images in a step was 10 and is 5",
        "learning_rate was 0.004 and is 0.1.",
    ]
    assert_same(finished, whole)


def test_a_finished_run_without_a_checkpoint_is_not_begun_again(finished: Path) -> None:
    for checkpoint in finished.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = left(finished)
    assert "holds a finished run without a checkpoint" in refused(finished, *EVERYTHING, *LATEST)
    assert "already holds another run" in refused(finished, *EVERYTHING)
    assert left(finished) == before


def test_a_run_that_is_written_over_leaves_no_checkpoint(finished: Path) -> None:
    (finished / ".checkpoint-24.partial").mkdir()
    others = ["--learning_rate", 0.1, "--overwrite_output_dir", "--max_train_steps", 1, "--checkpointing_steps", 0]
    train(finished, *EVERYTHING, *others)
    assert not list(finished.glob("*checkpoint-*"))


def test_a_run_begins_in_a_folder_of_its_own_from_anothers_checkpoint(
    whole: Path, finished: Path, tmp_path: Path
) -> None:
    anothers = ["--resume_from_checkpoint", whole / "checkpoint-16"]
    shutil.rmtree(finished / "checkpoint-16")
    assert "already holds another run" in refused(finished, *EVERYTHING, *anothers)
    train(tmp_path / "new", *EVERYTHING, *anothers)
    assert_same(tmp_path / "new" / "checkpoint-20", whole / "checkpoint-20")


def test_a_run_that_saved_its_model_but_no_checkpoint_begins_anew(tmp_path: Path) -> None:
    arguments = [*TINY, "--max_train_steps", 13, "--save_model_epochs", 1, "--checkpointing_steps", 0]
    with pytest.raises(Killed):
        train(tmp_path / "run", *arguments, during=(killed_at(12),))
    assert (tmp_path / "run" / "model_index.json").exists()
    output = train(tmp_path / "run", *arguments, *LATEST)
    assert "yet; starting from the beginning." in output
    assert "holds a finished run without a checkpoint" in refused(tmp_path / "run", *arguments, *LATEST)


def test_what_was_due_when_a_run_was_stopped_is_done_when_it_goes_on(whole: Path, tmp_path: Path) -> None:
    # Of two windows each: the run is stopped in step 15, which ends the epoch.
    folder = tmp_path / "run"
    train(folder, *EVERYTHING, code=143, during=(signal_at(30, "SIGTERM"),))
    assert (folder / "checkpoint-15").is_dir() and not (folder / "samples").exists()
    train(folder, *EVERYTHING, *LATEST)
    shutil.rmtree(folder / "checkpoint-15", ignore_errors=True)
    assert_same(folder, whole)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_run_made_longer_follows_its_new_learning_rate_at_once(tmp_path: Path, schedule: str) -> None:
    arguments = [*TINY, "--lr_scheduler", schedule, "--lr_warmup_steps", 2, "--learning_rate", 0.01]
    arguments += ["--logger", "tensorboard", "--checkpointing_steps", 1, "--checkpoints_total_limit", -1]
    folder = tmp_path / "run"
    train(folder, *arguments, "--max_train_steps", 4)
    train(folder, *arguments, "--max_train_steps", 6, *LATEST)
    rates = [torch.load(folder / f"checkpoint-{k}" / "optimizer.bin", weights_only=True) for k in range(1, 7)]
    rates = [state["param_groups"][0]["lr"] for state in rates]  # of the step after each
    share = {"cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)), "linear": lambda done: 1 - done}[schedule]
    assert rates[4:] == pytest.approx([0.01 * share((step - 2) / 4) for step in (5, 6)], abs=1e-9)


# --- what a checkpoint holds -----------------------------------------------------------------------------------------


class Malice:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_a_checkpoint_holds_nothing_that_is_unpickled(whole: Path) -> None:
    names = set()
    for path in (whole / "checkpoint-20").rglob("*"):
        names.add(str(path.relative_to(whole / "checkpoint-20")))
        if path.suffix == ".safetensors":
            assert load_file(path)
        elif path.suffix == ".json":
            assert json.loads(path.read_text())
        elif path.is_file():
            assert load(path, weights_only=True)
    assert names == {
        *("unet", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "training.json", "checksums.json"),
        *("ema-0.safetensors", "ema-1.safetensors", "importance.safetensors"),
    }


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin"])
@pytest.mark.parametrize("save", [torch.save, lambda malice, path: path.write_bytes(pickle.dumps(malice))])
def test_a_malicious_checkpoint_is_refused_and_does_nothing(finished: Path, tmp_path: Path, name: str, save) -> None:
    save(Malice(tmp_path / "bitten"), finished / "checkpoint-20" / name)
    write_checksums(finished / "checkpoint-20")  # who changes one file can change another
    assert "checkpoint-20 cannot be gone on from" in refused(finished, *EVERYTHING, *LATEST)
    assert not (tmp_path / "bitten").exists()
    with contextlib.suppress(RuntimeError):
        torch.load(finished / "checkpoint-20" / name, weights_only=False)
    assert (tmp_path / "bitten").exists()  # it would have been


def test_random_states_are_not_needed(whole: Path, finished: Path, tmp_path: Path) -> None:
    # What is drawn depends on the seed and the step: a checkpoint of fewer processes lacks some of these files.
    shutil.rmtree(finished / "checkpoint-20")
    torch.save(Malice(tmp_path / "bitten"), finished / "checkpoint-16" / "random_states_0.pkl")
    write_checksums(finished / "checkpoint-16")
    train(finished, *EVERYTHING, *LATEST)
    assert not (tmp_path / "bitten").exists()
    for name in ("random_states_0.pkl", CHECKSUMS):
        shutil.copy(whole / "checkpoint-16" / name, finished / "checkpoint-16")
    assert_same(finished, whole)


def other_shape(path: Path) -> None:
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in load_file(path).items()}, path)


DAMAGES = {
    "weights cut off": ("unet/diffusion_pytorch_model.safetensors", lambda path: path.write_bytes(b"\x10" + bytes(9))),
    "average of another model": ("ema-1.safetensors", other_shape),
    "average cut off": ("ema-0.safetensors", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "moments empty": ("importance.safetensors", lambda path: path.write_bytes(b"")),
    "optimizer cut off": ("optimizer.bin", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "optimizer empty": ("optimizer.bin", lambda path: path.write_bytes(b"")),
    "scheduler garbage": ("scheduler.bin", lambda path: path.write_bytes(b"garbage")),
    "state no JSON": ("training.json", lambda path: path.write_text('{"step": 20, "seco')),
    "state another JSON": ("training.json", lambda path: path.write_text('{"fingerprint": [1]}')),
    "state missing": ("training.json", Path.unlink),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_in_a_sentence(finished: Path, name: str, damage) -> None:
    damage(finished / "checkpoint-20" / name)
    write_checksums(finished / "checkpoint-20")  # as if it had been written so
    sentence = refused(finished, *EVERYTHING, *LATEST)
    assert f"{finished / 'checkpoint-20'} cannot be gone on from: " in sentence


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES.keys())
def test_the_last_whole_checkpoint_stands_in_for_a_damaged_one(
    finished: Path, capsys: pytest.CaptureFixture, name: str, damage
) -> None:
    damage(finished / "checkpoint-20" / name)
    assert find_checkpoint(finished, "latest") == finished / "checkpoint-16"
    told = capsys.readouterr().err
    assert f"{finished / 'checkpoint-20'} is damaged and is left out: {name}" in told
    with pytest.raises(ValueError, match=r"`resume_from_checkpoint` .*checkpoint-20 is damaged: .*; choose another"):
        find_checkpoint(finished, "checkpoint-20")


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_seen(finished: Path) -> None:
    checkpoint = finished / "checkpoint-20"
    assert damage_of(checkpoint) is None
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        before = path.read_bytes()
        flip_a_bit(path)
        damage = damage_of(checkpoint)
        assert damage is not None and (path.name in damage or path.name == CHECKSUMS), path
        path.write_bytes(before)
    assert damage_of(checkpoint) is None


def test_a_run_with_a_flipped_bit_goes_on_from_the_checkpoint_before_and_ends_the_same(
    whole: Path, finished: Path
) -> None:
    flip_a_bit(finished / "checkpoint-20" / "unet" / "diffusion_pytorch_model.safetensors")
    output = train(finished, *EVERYTHING, *LATEST)
    assert (
        "checkpoint-20 is damaged and is left out: unet/diffusion_pytorch_model.safetensors differs from what"
        in output
    )
    assert "Going on from" in output and "checkpoint-16, after step 16 of 20." in output
    assert_same(finished, whole)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(finished: Path) -> None:
    for step in (16, 20):
        flip_a_bit(finished / f"checkpoint-{step}" / "optimizer.bin")
    sentence = refused(finished, *EVERYTHING, *LATEST)
    assert f"`resume_from_checkpoint` latest: all checkpoints of {finished} are damaged." in sentence


def test_a_checkpoint_from_before_there_were_checksums_is_gone_on_from(whole: Path, finished: Path) -> None:
    shutil.rmtree(finished / "checkpoint-20")
    (finished / "checkpoint-16" / CHECKSUMS).unlink()
    train(finished, *EVERYTHING, *LATEST)
    shutil.copy(whole / "checkpoint-16" / CHECKSUMS, finished / "checkpoint-16")
    assert_same(finished, whole)
