# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The trackers' own files after real runs: everything is recorded exactly once, and no secret is."""

from __future__ import annotations

import importlib.util
import io
import json
import shlex
import shutil
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from hooks import few_digits, signal_at
from PIL import Image
from script_server import ScriptServer
from training_runs import LATEST, TINY, ended, names_in, refused, start, train

from ddpm_hf.training.tracking import NOISE_LEVELS, Trackers, check_logger


TOKEN = "hf_ThisMustStayASecret"
# 24 steps make an epoch; ten timesteps fall into as many levels of noise.
RUN = [
    *TINY,
    *shlex.split(
        "--ddpm_num_steps 10 --num_paths 3 --num_validation_evaluations 2 --max_validation_images 16"
        " --save_images_epochs 1 --max_train_steps 30 --validation_steps 10 --checkpointing_steps 10"
    ),
    *("--hub_token", TOKEN),
]
DIGITS = 374  # to train on, 16 in a step

LEVELS = {f"loss_by_noise/t_{k:04d}" for k in range(NOISE_LEVELS)}
ALONG_THE_WAY = {"loss", "gradient_norm", "learning_rate", "images_per_second", "epoch", "ema_decay"} | LEVELS
VALIDATION = {"validation/bits_per_dim", "validation/bits_per_dim_standard_error"}
AT_THE_END = {"test/bits_per_dim", "test/bits_per_dim_standard_error", "test/frechet_distance_pixels"}
AT_THE_END |= {f"test/bits_per_dim_{part}" for part in ("importance_weighted", "prior", "rate", "decoder")}

Curves = dict[str, dict[int, float]]


def trained(folder: Path, *arguments: object, code: int = 0, **options: Any) -> None:
    """Train, and tell trackers."""
    train(folder, *RUN, *arguments, code=code, digits=few_digits(DIGITS, 24), **options)
    assert_secret(folder)


def assert_secret(folder: Path) -> None:
    assert [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def assert_complete(curves: Curves, folder: Path) -> None:
    """Everything is there at its steps, with the values that metrics.json tells."""
    report = report_of(folder)
    assert set(curves) == ALONG_THE_WAY | VALIDATION | AT_THE_END
    assert {tuple(curves[name]) for name in ALONG_THE_WAY - LEVELS} == {(10, 20, 24, 30)}  # an epoch ends with 24
    for name in VALIDATION:
        told = {each["step"]: each[name.removeprefix("validation/")] for each in report["validation"]}
        assert curves[name] == pytest.approx(told, rel=1e-6) and list(told) == [10, 20, 30]
    report["bits_per_dim_importance_weighted"] = report["importance_weighted"]["bits_per_dim"]
    for name in AT_THE_END:
        assert curves[name] == pytest.approx({30: report[name.removeprefix("test/")]}, rel=1e-6)
    rates = curves["learning_rate"]
    assert rates == pytest.approx({step: step / 50 * 4e-3 for step in rates}, rel=1e-6)  # of the warm-up
    assert min(curves["images_per_second"].values()) > 0 and min(curves["gradient_norm"].values()) > 0
    assert curves["epoch"] == {10: 0, 20: 0, 24: 1, 30: 1}  # of 374 images, 16 in a step
    # Noise hides what the model could get wrong: the losses fall with the noise level.
    ends = [np.mean(list(curves[name].values())) for name in (min(LEVELS), max(LEVELS))]
    assert ends[0] > 10 * ends[1]


def assert_settings(settings: dict[str, Any]) -> None:
    """What was asked for, as far as it is nobody's secret, and what it came to."""
    expected = {"max_train_steps": 30, "train_batch_size": 16, "ddpm_num_steps": 10, "learning_rate": 4e-3}
    expected |= {"objective": "rate", "prediction_type": "v_prediction", "block_out_channels": "[8, 8]"}
    expected |= {"data": "scikit-learn digits", "train_images": DIGITS, "images_in_a_step": 16, "num_levels": 17}
    assert {name: settings.get(name) for name in expected} == expected
    assert settings["parameters"] > 1000
    assert not {name for name in settings if "token" in name or name.endswith(("_dir", "_path"))}


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# --- tensorboard -----------------------------------------------------------------------------------------------------


def events(folder: Path) -> Any:
    """What TensorBoard shows of a run: what all of its files hold, less what was told again later."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list((folder / "logs").rglob("*tfevents*"))
    assert {file.parent for file in files} == {folder / "logs" / "ddpm_hf"}
    return EventAccumulator(str(files[0].parent), dict.fromkeys(("scalars", "images", "tensors"), 0)).Reload()


def curves_of(folder: Path) -> Curves:
    seen, curves = events(folder), {}
    for tag in seen.Tags()["scalars"]:
        steps = [event.step for event in seen.Scalars(tag)]
        assert steps == sorted(set(steps)), f"{tag} has a step twice, or goes back"
        curves[tag] = {event.step: event.value for event in seen.Scalars(tag)}
    return {tag: curve for tag, curve in curves.items() if curve}  # the others were taken back


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that told tensorboard."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("tracked") / "run"
    trained(folder, "--logger", "tensorboard", "--checkpoints_total_limit", -1)
    return folder


def test_tensorboard_holds_every_figure(run: Path) -> None:
    assert_complete(curves_of(run), run)


def test_tensorboard_holds_the_grids(run: Path) -> None:
    seen = events(run)
    assert seen.Tags()["images"] == ["samples"]
    shown = {event.step: Image.open(io.BytesIO(event.encoded_image_string)) for event in seen.Images("samples")}
    files = {24: run / "samples" / "step_0000024.png", 30: run / "samples.png"}  # the first epoch ends with step 24
    assert list(shown) == list(files)
    for step, file in files.items():
        assert np.array_equal(np.asarray(shown[step].convert("RGB")), picture(file))


def test_tensorboard_holds_the_settings_and_compares_runs_by_their_scores(run: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    seen = events(run)
    plugin = {tag: data.plugin_data.content for tag, data in seen.summary_metadata.items() if "hparams" in tag}
    start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert_settings(values)
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} <= set(seen.Tags()["scalars"])
    (text,) = seen.Tensors("settings/text_summary")
    assert b"| max_train_steps | 30 |" in text.tensor_proto.string_val[0]


def test_a_run_that_goes_on_from_before_has_one_curve(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = curves_of(run)
    trained(folder, "--logger", "tensorboard", "--resume_from_checkpoint", "checkpoint-20")
    after = curves_of(folder)
    assert_complete(after, folder)
    del before["images_per_second"], after["images_per_second"]
    assert after == before
    assert [event.step for event in events(folder).Images("samples")] == [24, 30]


def test_a_run_that_was_stopped_has_one_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    arguments = ["--logger", "tensorboard", *LATEST]
    trained(run, *arguments, code=128 + signal.SIGTERM, during=(signal_at(13, "SIGTERM"),))
    assert list(curves_of(run)["loss"]) == [10, 13]
    time.sleep(1 - time.time() % 1)  # TensorBoard orders its files by the second in which they begin
    trained(run, *arguments)
    curves = curves_of(run)
    assert list(curves["loss"]) == [10, 13, 20, 24, 30]
    assert set(curves) == ALONG_THE_WAY | VALIDATION | AT_THE_END
    assert list(curves["validation/bits_per_dim"]) == [10, 20, 30]


def test_a_run_over_another_starts_its_curves_anew(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    arguments = ["--overwrite_output_dir", "--max_train_steps", 3, "--validation_steps", 0]
    trained(folder, "--logger", "tensorboard", *arguments)
    curves = curves_of(folder)
    assert set(curves["loss"]) == {3} and not VALIDATION & set(curves)


@pytest.mark.slow
def test_of_two_processes_one_tells(scripts: ScriptServer, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    short = ["--max_train_steps", 3, "--validation_steps", 3, "--train_batch_size", 8, "--checkpointing_steps", 0]
    arguments = [*RUN, *short, "--logger", "tensorboard", "--output_dir", tmp_path]
    for run in scripts.start_together(2, "train.py", *arguments):
        ended(run)
    assert len(list(tmp_path.rglob("*tfevents*"))) == 1
    assert set(curves_of(tmp_path)["loss"]) == set(curves_of(tmp_path)["validation/bits_per_dim"]) == {3}


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures_of_all_modes_arrive(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("tensorboard")
    configuration = ProjectConfiguration(str(tmp_path), str(tmp_path / "logs"))
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_config=configuration)
    try:
        trackers = Trackers(accelerator, tmp_path, {}, "id", 0)
        pixels = np.random.default_rng(0).integers(256, size=(6, 9, 4), dtype=np.uint8)
        shown = Image.fromarray(pixels, "RGBA").convert(mode)
        trackers.log_picture("samples", shown, 3)
        (event,) = events(tmp_path).Images("samples")
        arrived = Image.open(io.BytesIO(event.encoded_image_string))
        assert event.step == 3 and np.array_equal(np.asarray(arrived.convert(mode)), np.asarray(shown))
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)


# --- wandb -----------------------------------------------------------------------------------------------------------


def records(file: Path) -> Iterator[Any]:
    """The messages in a .wandb file: LevelDB's log of blocks of 32 KiB, after seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, message = file.read_bytes(), 7, b""
    while place < len(data):
        rest = 32768 - place % 32768
        if rest < 7:  # no room for a header
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


@pytest.mark.slow
def test_wandb_without_a_network(scripts: ScriptServer, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        settings = {"WANDB_MODE": "offline", "WANDB_BASE_URL": address}
        few = f"hooks.few_digits({DIGITS}, 24)"
        output = ended(start(scripts, folder, *RUN, "--logger", "wandb", hooks=few, env=settings))
        assert_secret(folder)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
    assert "WARNING" not in output
    (file,) = (folder / "logs" / "wandb").glob("offline-run-*/*.wandb")
    assert not (Path.cwd() / "wandb").exists()
    curves, settings, pictures = {}, {}, {}
    for record in records(file):
        settings |= {item.key: json.loads(item.value_json) for item in record.config.update}
        values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        for name, value in values.items():
            if name in ALONG_THE_WAY | VALIDATION | AT_THE_END:
                curve = curves.setdefault(name, {})
                assert record.history.step.num > max(curve, default=0)
                curve[record.history.step.num] = json.loads(value)
        if "samples.filenames" in values:
            pictures[record.history.step.num] = json.loads(values["samples.filenames"])
    assert_complete(curves, folder)
    assert_settings(settings)
    files = {24: folder / "samples" / "step_0000024.png", 30: folder / "samples.png"}
    assert list(pictures) == list(files)
    for step, (name,) in pictures.items():
        assert np.array_equal(picture(file.parent / "files" / name), picture(files[step]))


@pytest.mark.slow
def test_wandb_that_cannot_start_is_told_and_leaves_nothing(scripts: ScriptServer, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "home").mkdir()
    no_key = {"HOME": str(tmp_path / "home"), "WANDB_API_KEY": "", "WANDB_MODE": "online"}
    no_key["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    output = ended(start(scripts, tmp_path / "run", *RUN, "--logger", "wandb", env=no_key), 2)
    assert len([line for line in output.splitlines() if line.startswith("train.py: error: `logger` wandb")]) == 1
    assert names_in(tmp_path / "run") == []  # so that the same command can be tried again


# --- trackio ---------------------------------------------------------------------------------------------------------


def test_trackio_in_its_own_file(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio wants another version of pillow than the pinned one")
    folder = tmp_path / "run"
    for go_on in ([], ["--resume_from_checkpoint", "checkpoint-20"]):
        trained(folder, "--logger", "trackio", *go_on)
    curves, pictures = {}, {}
    with sqlite3.connect(folder / "logs" / "ddpm_hf.db") as base:
        rows = [(step, json.loads(text)) for step, text in base.execute("SELECT step, metrics FROM metrics")]
        ((settings,),) = base.execute("SELECT config FROM configs")
    for step, values in rows:
        for name, value in values.items():
            assert step not in curves.get(name, {})
            (pictures if name == "samples" else curves).setdefault(name, {})[step] = value
    assert_complete(curves, folder)
    assert_settings(json.loads(settings))
    files = {24: folder / "samples" / "step_0000024.png", 30: folder / "samples.png"}
    assert list(pictures["samples"]) == list(files)
    for step, file in files.items():
        path = folder / "logs" / "media" / pictures["samples"][step]["file_path"]
        assert np.array_equal(picture(path), picture(file))


# --- trackers that are not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"`logger` {name} is not installed; `pip install {name}`"):
        check_logger(name)
    check_logger("none")


def test_a_folder_of_that_name_is_no_tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # wandb leaves a folder "wandb" where it ran, which Python takes for a package without files.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_tracker").mkdir()
    with pytest.raises(ValueError, match="is not installed"):
        check_logger("no_tracker")


def test_without_its_tracker_a_run_does_not_begin(tmp_path: Path) -> None:
    missing = [name for name in ("trackio", "wandb", "tensorboard") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed")
    sentence = refused(tmp_path / "run", *RUN, "--logger", missing[0])
    assert f"`logger` {missing[0]} is not installed" in sentence and not (tmp_path / "run").exists()
