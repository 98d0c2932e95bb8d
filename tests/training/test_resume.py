# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A run that was stopped goes on as if it had not been: what it leaves is the same, byte by byte."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.utils.other import load
from safetensors.torch import load_file, save_file
from script_server import ScriptServer
from training_runs import (
    EVERYTHING,
    LATEST,
    TINY,
    assert_same,
    ended,
    last_line,
    left,
    losses_in,
    losses_to,
    refused,
    signal_at,
    start,
)

from ddpm_hf import DDPMPaperPipeline


WAYS = {
    "simple, stratified, classes, workers": "--objective simple --snr_gamma 5 --timestep_sampling stratified"
    " --num_class_embeds 10 --dataloader_num_workers 2 --random_flip --max_train_steps 12",
    "vlb, uniform, learned variance, no average": "--objective vlb --variance_type learned_range"
    " --timestep_sampling uniform --use_ema False --gradient_accumulation_steps 3 --max_train_steps 8",
}


# --- exactly ---------------------------------------------------------------------------------------------------------


def test_a_run_stopped_again_and_again_ends_as_one_never_stopped(
    scripts: ScriptServer, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    output = ended(start(scripts, folder, *EVERYTHING, *LATEST, prelude=signal_at(13, "SIGTERM")), 143)
    assert f"There is no checkpoint in {folder} yet; starting from the beginning." in output
    # It was in the first of the two windows of step 7.
    assert last_line(output) == (
        f"train.py: SIGTERM stopped it. {folder / 'checkpoint-7'} is whole."
        " The same command with --resume_from_checkpoint latest goes on from there."
    )
    by_name = ["--resume_from_checkpoint", "checkpoint-7"]
    output = ended(start(scripts, folder, *EVERYTHING, *by_name, prelude=signal_at(8, "SIGINT")), 130)
    assert f"Going on from {folder / 'checkpoint-7'}, after step 7 of 20." in output
    assert last_line(output).startswith(f"train.py: SIGINT stopped it. {folder / 'checkpoint-11'} is whole.")
    output = ended(start(scripts, folder, *EVERYTHING, *LATEST))
    assert f"Going on from {folder / 'checkpoint-11'}, after step 11 of 20." in output
    assert_same(folder, whole)
    assert [row["step"] for row in json.loads((folder / "metrics.json").read_text())["validation"]] == [6, 12, 18]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_train_is_gone_on_with_exactly(scripts: ScriptServer, tmp_path: Path, way: str) -> None:
    arguments = [*TINY, "--dropout", 0.1, "--checkpointing_steps", 100, *shlex.split(way)]
    unstopped = start(scripts, tmp_path / "unstopped", *arguments)
    ended(start(scripts, tmp_path / "run", *arguments, prelude=signal_at(5, "SIGTERM")), 143)
    ended(start(scripts, tmp_path / "run", *arguments, *LATEST))
    ended(unstopped)
    shutil.rmtree(min((tmp_path / "run").glob("checkpoint-?")))  # where it was stopped
    assert_same(tmp_path / "run", tmp_path / "unstopped")


def test_a_run_goes_on_with_another_division_of_the_batch(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = [*TINY, *shlex.split("--max_train_steps 25 --dropout 0 --random_flip")]
    whole, halves = losses_to(tmp_path / "whole"), losses_to(tmp_path / "halves")
    unstopped = start(scripts, tmp_path / "unstopped", *arguments, prelude=whole)
    ended(start(scripts, tmp_path / "run", *arguments, prelude=halves + signal_at(7, "SIGTERM")), 143)
    division = ["--train_batch_size", 32, "--gradient_accumulation_steps", 2]
    ended(start(scripts, tmp_path / "run", *arguments, *division, *LATEST, prelude=halves))
    ended(unstopped)
    assert len(losses_in(tmp_path / "whole")) == 25
    assert losses_in(tmp_path / "halves") == pytest.approx(losses_in(tmp_path / "whole"), rel=1e-4)


DRAWN = """
import randomness, tracking
def drawn_noise(*arguments, draw=randomness.noise_like):
    noise = draw(*arguments)
    print("noise of", arguments[1], noise.flatten()[:3].tolist(), flush=True)
    return noise
def drawn_times(self, t, *arguments, add=tracking.Progress.add):
    print("times", t.tolist(), flush=True)
    add(self, t, *arguments)
randomness.noise_like, tracking.Progress.add = drawn_noise, drawn_times
"""


def test_every_step_and_every_image_draws_anew(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = shlex.split("--max_train_steps 3 --train_batch_size 16 --gradient_accumulation_steps 2")
    output = ended(start(scripts, tmp_path / "run", *TINY, *arguments, prelude=DRAWN))
    noise = [line.partition("noise of ")[2].split(" ", 1) for line in output.splitlines() if "noise of " in line]
    assert [first for first, _ in noise] == ["0", "16"] * 3
    times = [line.partition("times ")[2] for line in output.splitlines() if "times " in line]
    assert len({drawn for _, drawn in noise}) == 6 and len(set(times)) == 3


def test_checkpointing_of_gradients_changes_no_number(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = [*TINY, "--max_train_steps", 8, "--dropout", 0.1]
    plain = start(scripts, tmp_path / "plain", *arguments, prelude=losses_to(tmp_path / "one"))
    more = [*arguments, "--gradient_checkpointing"]
    ended(start(scripts, tmp_path / "checkpointed", *more, prelude=losses_to(tmp_path / "other")))
    ended(plain)
    assert losses_in(tmp_path / "one") == pytest.approx(losses_in(tmp_path / "other"), rel=1e-6)
    one, other = (
        load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("plain", "checkpointed")
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


COMPILED = """
import torch
from ddpm_hf.training import setup as preparation
def traced(*arguments, made=preparation.Accelerator, **options):  # without the compiler, which takes minutes
    return made(*arguments, **options | {"dynamo_backend": "eager"})
preparation.Accelerator = traced
def told(model, *arguments, compile=torch.compile, **options):
    print("compiled", type(model).__name__, flush=True)
    return compile(model, *arguments, **options)
torch.compile = told
"""


def test_a_compiled_model_is_saved_averaged_and_gone_on_with_by_its_own_names(
    scripts: ScriptServer, tmp_path: Path
) -> None:
    arguments = [*TINY, "--max_train_steps", 8, "--checkpointing_steps", 100, "--checkpoints_total_limit", -1]
    unstopped = start(scripts, tmp_path / "plain", *arguments)
    compiled = [*arguments, "--torch_compile"]
    folder = tmp_path / "run"
    ended(start(scripts, folder, *compiled, prelude=COMPILED + signal_at(4, "SIGTERM")), 143)
    output = ended(start(scripts, folder, *compiled, *LATEST, prelude=COMPILED))
    assert "compiled UNet2DModel" in output
    ended(unstopped)
    for name in ("unet/diffusion_pytorch_model.safetensors", "ema-0.safetensors"):
        one, other = (load_file(run / "checkpoint-8" / name) for run in (tmp_path / "plain", folder))
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    assert DDPMPaperPipeline.from_pretrained(folder)(1, num_inference_steps=2).images


# --- from where ------------------------------------------------------------------------------------------------------


def test_a_finished_run_that_goes_on_just_finishes_again(scripts: ScriptServer, whole: Path, finished: Path) -> None:
    for name in ("metrics.json", "samples.png"):
        (finished / name).unlink()
    assert "after step 20 of 20" in ended(start(scripts, finished, *EVERYTHING, *LATEST))
    assert_same(finished, whole)


def test_a_run_goes_on_on_other_terms_of_scoring(scripts: ScriptServer, finished: Path) -> None:
    record = finished / "checkpoint-20" / "training.json"
    state = json.loads(record.read_text())
    state["fingerprint"]["num_paths"] = 0  # of a checkpoint that is older than its indifference
    record.write_text(json.dumps(state))
    ended(start(scripts, finished, *EVERYTHING, *LATEST, "--num_paths", 2, "--max_measured_images", 32))
    assert json.loads((finished / "metrics.json").read_text())["importance_weighted"]["paths"] == 2


def test_a_run_goes_on_for_longer_but_not_for_less(scripts: ScriptServer, finished: Path) -> None:
    sentence = refused(scripts, finished, *EVERYTHING, *LATEST, "--max_train_steps", 12)
    assert "it is after step 20, and the run would end after 12" in sentence
    ended(start(scripts, finished, *EVERYTHING, *LATEST, "--max_train_steps", 22))
    assert json.loads((finished / "metrics.json").read_text())["train_steps"] == 22
    assert load_file(finished / "checkpoint-22" / "unet" / "diffusion_pytorch_model.safetensors")


def test_later_checkpoints_of_a_course_that_was_left_go(scripts: ScriptServer, whole: Path, finished: Path) -> None:
    from_before = ["--resume_from_checkpoint", finished / "checkpoint-16", "--max_train_steps", 30]
    ended(start(scripts, finished, *EVERYTHING, *from_before, prelude=signal_at(2, "SIGTERM")), 143)
    # The learning rate of 30 steps falls more slowly: what was checkpoint-20 is of another run.
    assert sorted(path.name for path in finished.glob("checkpoint*")) == ["checkpoint-16", "checkpoint-17"]
    assert_same(finished / "checkpoint-16", whole / "checkpoint-16")


def test_a_checkpoint_that_is_not_there(scripts: ScriptServer, finished: Path) -> None:
    sentence = refused(scripts, finished, *EVERYTHING, "--resume_from_checkpoint", "checkpoint-9")
    assert "`resume_from_checkpoint` checkpoint-9 is no checkpoint" in sentence
    assert sentence.endswith("holds checkpoint-16, checkpoint-20.")


def test_a_checkpoint_of_other_settings_is_refused_with_each_of_them(
    scripts: ScriptServer, whole: Path, finished: Path
) -> None:
    others = ["--learning_rate", 0.1, "--ema_max_decay", 0.5, "--train_batch_size", 25]
    sentence = refused(scripts, finished, *EVERYTHING, *LATEST, *others)
    told = sentence.partition("its settings are others: ")[2]
    assert told.split("; ") == [
        "ema_max_decay was [0.99, 0.9] and is [0.5]",
        "images in a step was 100 and is 50",
        "learning_rate was 0.004 and is 0.1.",
    ]
    assert_same(finished, whole)


def test_a_finished_run_without_a_checkpoint_is_not_begun_again(scripts: ScriptServer, finished: Path) -> None:
    for checkpoint in finished.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = left(finished)
    assert "holds a finished run without a checkpoint" in refused(scripts, finished, *EVERYTHING, *LATEST)
    assert "already holds another run" in refused(scripts, finished, *EVERYTHING)
    assert left(finished) == before


def test_a_run_that_is_written_over_leaves_no_checkpoint(scripts: ScriptServer, finished: Path) -> None:
    (finished / ".checkpoint-24.partial").mkdir()
    others = ["--learning_rate", 0.1, "--overwrite_output_dir", "--max_train_steps", 1, "--checkpointing_steps", 0]
    ended(start(scripts, finished, *EVERYTHING, *others))
    assert not list(finished.glob("*checkpoint-*"))


def test_a_run_begins_in_a_folder_of_its_own_from_anothers_checkpoint(
    scripts: ScriptServer, whole: Path, finished: Path, tmp_path: Path
) -> None:
    anothers = ["--resume_from_checkpoint", whole / "checkpoint-16"]
    shutil.rmtree(finished / "checkpoint-16")
    assert "already holds another run" in refused(scripts, finished, *EVERYTHING, *anothers)
    ended(start(scripts, tmp_path / "new", *EVERYTHING, *anothers))
    assert_same(tmp_path / "new" / "checkpoint-20", whole / "checkpoint-20")


def test_a_run_that_saved_its_model_but_no_checkpoint_begins_anew(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = [*TINY, "--max_train_steps", 30, "--save_model_epochs", 1, "--checkpointing_steps", 0]
    ended(start(scripts, tmp_path / "run", *arguments, prelude=signal_at(27, "SIGKILL")), -9)
    assert (tmp_path / "run" / "model_index.json").exists()
    output = ended(start(scripts, tmp_path / "run", *arguments, *LATEST))
    assert "yet; starting from the beginning." in output
    assert "holds a finished run without a checkpoint" in refused(scripts, tmp_path / "run", *arguments, *LATEST)


def test_what_was_due_when_a_run_was_stopped_is_done_when_it_goes_on(
    scripts: ScriptServer, whole: Path, tmp_path: Path
) -> None:
    # Of two windows each: the run is stopped in step 15, which ends the epoch.
    folder = tmp_path / "run"
    ended(start(scripts, folder, *EVERYTHING, prelude=signal_at(30, "SIGTERM")), 143)
    assert (folder / "checkpoint-15").is_dir() and not (folder / "samples").exists()
    ended(start(scripts, folder, *EVERYTHING, *LATEST))
    shutil.rmtree(folder / "checkpoint-15", ignore_errors=True)
    assert_same(folder, whole)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_run_made_longer_follows_its_new_learning_rate_at_once(
    scripts: ScriptServer, tmp_path: Path, schedule: str
) -> None:
    arguments = [*TINY, "--lr_scheduler", schedule, "--lr_warmup_steps", 2, "--learning_rate", 0.01]
    arguments += ["--logger", "tensorboard", "--checkpointing_steps", 1, "--checkpoints_total_limit", -1]
    folder = tmp_path / "run"
    ended(start(scripts, folder, *arguments, "--max_train_steps", 4))
    ended(start(scripts, folder, *arguments, "--max_train_steps", 6, *LATEST))
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
        *("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "training.json"),
        *("ema-0.safetensors", "ema-1.safetensors", "importance.safetensors"),
    }


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin"])
@pytest.mark.parametrize("save", [torch.save, lambda malice, path: path.write_bytes(pickle.dumps(malice))])
def test_a_malicious_checkpoint_is_refused_and_does_nothing(
    scripts: ScriptServer, finished: Path, tmp_path: Path, name: str, save
) -> None:
    save(Malice(tmp_path / "bitten"), finished / "checkpoint-20" / name)
    assert "checkpoint-20 cannot be gone on from" in refused(scripts, finished, *EVERYTHING, *LATEST)
    assert not (tmp_path / "bitten").exists()
    with contextlib.suppress(RuntimeError):
        torch.load(finished / "checkpoint-20" / name, weights_only=False)
    assert (tmp_path / "bitten").exists()  # it would have been


def test_random_states_are_not_needed(scripts: ScriptServer, whole: Path, finished: Path, tmp_path: Path) -> None:
    # What is drawn depends on the seed and the step: a checkpoint of fewer processes lacks some of these files.
    shutil.rmtree(finished / "checkpoint-20")
    torch.save(Malice(tmp_path / "bitten"), finished / "checkpoint-16" / "random_states_0.pkl")
    ended(start(scripts, finished, *EVERYTHING, *LATEST))
    assert not (tmp_path / "bitten").exists()
    shutil.copy(whole / "checkpoint-16" / "random_states_0.pkl", finished / "checkpoint-16")
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
def test_a_damaged_checkpoint_is_named_in_a_sentence(scripts: ScriptServer, finished: Path, name: str, damage) -> None:
    damage(finished / "checkpoint-20" / name)
    sentence = refused(scripts, finished, *EVERYTHING, *LATEST)
    assert f"{finished / 'checkpoint-20'} cannot be gone on from: " in sentence
