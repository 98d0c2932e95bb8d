# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The command line: accepted arguments, messages for mistakes, and --help."""

from __future__ import annotations

import re
from dataclasses import MISSING
from pathlib import Path

import pytest

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import run_arguments
from ddpm_hf.evaluation.arguments import EvaluationArguments, ModelPathArguments, SampleArguments
from ddpm_hf.reporting.figures import check_picture
from ddpm_hf.runtime.output_folder import claim_file
from ddpm_hf.tasks.arguments import RECIPES
from ddpm_hf.tasks.presets import PRESETS


def refusal(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """The sentence that a training's command line is refused with."""
    with pytest.raises(SystemExit) as stop:
        parse("train.py", *run_arguments(), argv=[*map(str, argv)])
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("train.py: error: ")
    return told


def shown(capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as stop:
        parse("train.py", *run_arguments(), argv=["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--learning_rat", "learning_rate"),
        ("--train_batchsize=3", "train_batch_size"),
        ("--train-data-dirr", "train_data_dir"),
    ],
)
def test_a_mistyped_flag_is_met_with_the_nearest(capsys: pytest.CaptureFixture, flag: str, meant: str) -> None:
    assert refusal(capsys, flag, 1).endswith(f"there is no argument {flag.split('=')[0]}. Did you mean --{meant}?")


def test_a_flag_like_no_other_is_met_with_the_way_to_all(capsys: pytest.CaptureFixture) -> None:
    assert refusal(capsys, "--xyzzy", 1).endswith("there is no argument --xyzzy. --help lists the arguments.")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rat: 1", "names arguments that do not exist: learning_rat. Did you mean learning_rate?"),
        ("help: true", "names arguments that do not exist: help."),
        ("2: 3\ntrue: 4", "names arguments that do not exist: 2, True."),
        ("seed: 1\nseed: 2", "cannot be read: 'seed' comes twice"),
        ("[1, 2]: 3", "cannot be read: "),
        ("- seed", "must hold a mapping of argument names to values."),
    ],
)
def test_a_mistake_in_a_settings_file_is_told(
    capsys: pytest.CaptureFixture, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert sentence in refusal(capsys, tmp_path / "settings.yaml")


def test_a_name_that_comes_twice_in_json_is_told(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"seed": 1, "seed": 2}')
    assert "cannot be read: 'seed' comes twice" in refusal(capsys, tmp_path / "settings.json")


# --- the home folder ------------------------------------------------------------------------------------------------


def test_the_home_folder_is_known_in_files_and_after_an_equals_sign(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "settings.yaml").write_text("output_dir: ~/o2\ncache_dir: a~b\n")
    argv = [str(tmp_path / "settings.yaml"), "--train_data_dir=~/images"]
    _, data, _, training, _ = parse("train.py", *run_arguments(), argv=argv)
    assert training.output_dir == str(tmp_path / "o2")
    assert (data.train_data_dir, data.cache_dir) == (str(tmp_path / "images"), "a~b")


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_shows_every_argument_once_in_groups_with_its_default(capsys: pytest.CaptureFixture) -> None:
    text = shown(capsys)
    flags = re.findall(r"^  --(\S+)", text, flags=re.MULTILINE)
    known = [name for group in run_arguments() for name in group.__dataclass_fields__]
    assert sorted(flags) == sorted(known)
    assert all(f"\n{group}:\n" in text for group in ("model", "data", "diffusion", "training", "Hub"))
    sections = re.split(r"^  --", text, flags=re.MULTILINE)[1:]
    for group in run_arguments():
        for name, field in group.__dataclass_fields__.items():
            default = field.default if field.default_factory is MISSING else field.default_factory()
            section = " ".join(next(each for each in sections if each.split()[0] == name).split())
            values = default if isinstance(default, list) else [default]
            shown_default = f"Default: {' '.join(map(str, values))}"
            assert default is None or f"{shown_default}." in section or f"{shown_default}, or the " in section, section


def test_help_tells_which_defaults_a_preset_or_a_recipe_replaces(capsys: pytest.CaptureFixture) -> None:
    sections = re.split(r"^  --", shown(capsys), flags=re.MULTILINE)[1:]
    for flag, rows in (("preset", PRESETS), ("recipe", RECIPES)):
        told = {each.split()[0] for each in sections if re.search(rf"or\s+the\s+{flag}'s\.|The\s+{flag}\s+may", each)}
        assert told == {name for row in rows.values() for name in row}


def test_help_of_a_command_without_presets_names_none(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse("evaluate.py", ModelPathArguments, EvaluationArguments, argv=["--help"])
    text = capsys.readouterr().out
    assert "--num_paths" in text and "preset" not in text


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_saved_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("grid", "grid.xyz", "grid.txt"):
        with pytest.raises(ValueError, match=r"`output` .* must end in the suffix of an image format"):
            check_picture(tmp_path / name, 3)
    with pytest.raises(ValueError, match=r"`output` .*grid.jpg cannot hold images of 4 channels"):
        check_picture(tmp_path / "grid.jpg", 4)
    for name, channels in (("grid.jpg", 3), ("grid.PNG", 4), ("grid.webp", 4), ("grid.png", 1)):
        check_picture(tmp_path / name, channels)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`output` .* is not a folder"):
        claim_file(str(tmp_path / "file" / "grid.png"))


def test_the_default_name_of_samples_is_a_picture() -> None:
    _, sampling = parse("sample.py", ModelPathArguments, SampleArguments, argv=["--model_name_or_path", "m"])
    check_picture(Path(sampling.output), 3)
