# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf compress`, `decompress` and `info`, run in the test's own process."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_disks
from PIL import Image
from script_server import ScriptServer
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors
from ddpm_hf.cli import main


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddpm-hf", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    e = DenoisingErrors([4.0, 0.0, -4.0], [0.01, 0.1, 0.2], [0.01, 0.1, 0.2], [0.3, 1.0, 2.0], 17)
    settings = {"num_train_timesteps": 30, "beta_end": 0.4, "num_levels": 17, "denoising_errors": e}
    DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(variance_type="optimal", **settings)).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, value in enumerate((0, 128, 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(folder / f"{i}.png")
    return folder


def test_a_folder_there_and_back(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "set.ddpc", tmp_path / "out"
    code, told, _ = run("compress", pictures, "--model", model, "--output", file, "--num_inference_steps", 5)
    assert code == 0 and f"{file.stat().st_size} bytes" in told and "for 3 images, lossless" in told
    code, told, _ = run("info", file)
    assert code == 0 and told.startswith("set: 3 images of 1 channels, 4x4 pixels, 17 levels; 0.png, 1.png, 2.png")
    code, told, _ = run("decompress", file, "--model", model, "--output", out)
    assert code == 0 and "3 images, as they were compressed" in told
    for path in pictures.iterdir():
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(out / path.name)))


def test_a_prefix_of_one_image(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.ddpc"
    how = ("--model", model, "--mode", "progressive")
    assert run("compress", pictures / "1.png", *how, "--output", file)[0] == 0
    size = file.stat().st_size - 1
    code, told, _ = run("decompress", file, "--model", model, "--output", tmp_path / "out", "--max_bytes", size)
    assert code == 0 and "1 image, an approximation from a part of the file" in told
    short = tmp_path / "short.ddpc"
    assert "1 image, lossy" in run("compress", pictures / "1.png", *how, "--output", short, "--max_bytes", size)[1]
    assert short.stat().st_size == size and "lossy: cut to a budget" in run("info", short)[1]
    short.write_bytes(file.read_bytes()[:-1])
    assert "the file is cut" in run("info", short)[1]


def test_mistakes_end_in_one_sentence(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.ddpc"
    file.write_bytes(b"mine")
    to = ("--output", tmp_path / "new")
    for sentence, arguments in {
        "Name PNG files": ("compress", "--model", model, *to),
        "`model` must name": ("compress", pictures, *to),
        "`output` must name the file": ("compress", pictures, "--model", model),
        "already exists": ("compress", pictures, "--model", model, "--output", file),
        "neither a folder here nor a name on the Hub": ("compress", pictures, "--model", tmp_path / "nothing", *to),
        "codes one image, but 3": ("compress", pictures, "--model", model, "--mode", "progressive", *to),
        "the length of the header": (
            *("compress", pictures / "0.png", "--model", model, "--mode", "progressive", "--max_bytes", 5, *to),
        ),
        "no file of `ddpm-hf compress`": ("decompress", file, "--model", model, *to),
        "no file of `ddpm-hf": ("info", file),
        "Name one file": ("info",),
    }.items():
        code, _, told = run(*arguments)
        assert code == 2 and sentence in told.splitlines()[-1], told
        assert not (tmp_path / "new").exists() and file.read_bytes() == b"mine"


def test_a_model_without_a_decoder_of_levels_is_told_of(run: Run, pictures: Path, tmp_path: Path) -> None:
    continuous = DDPMPaperScheduler(num_train_timesteps=30, beta_end=0.4, num_levels=None)
    DDPMPaperPipeline(tiny_unet(), continuous).save_pretrained(tmp_path / "continuous")
    to = ("--model", tmp_path / "continuous", "--output", tmp_path / "new")
    code, _, told = run("compress", pictures, *to)
    assert code == 2 and "no decoder of levels" in told.splitlines()[-1] and not (tmp_path / "new").exists()


def test_initial_bits_are_always_told_of(run: Run, pictures: Path, tmp_path: Path) -> None:
    unmeasured = DDPMPaperScheduler(num_train_timesteps=30, beta_end=0.4, num_levels=17)
    DDPMPaperPipeline(tiny_unet(), unmeasured).save_pretrained(tmp_path / "unmeasured")
    how = ("--model", tmp_path / "unmeasured", "--num_inference_steps", 5, "--batch_size", 1)
    code, told, _ = run("compress", pictures, *how, "--output", tmp_path / "new")
    found = re.search(r"0 images coded directly, in 0 bits; initial bits (\d+)", told)
    assert code == 0 and found is not None and int(found[1]) > 0


@pytest.mark.slow
def test_a_full_disk_is_told_of_and_nothing_is_left(
    scripts: ScriptServer, run: Run, model: Path, tmp_path: Path
) -> None:
    random, many = np.random.default_rng(0), tmp_path / "many"
    many.mkdir()
    for i in range(40):  # of which names alone take more than a page
        level = random.integers(0, 17, (4, 4)) * 255 / 16
        Image.fromarray(np.floor(level + 0.5).astype(np.uint8)).save(many / f"{i:02d} {random.bytes(80).hex()}.png")
    disk, good, how = tmp_path / "disk", tmp_path / "good", ("--model", model)
    assert run("compress", many, *how, "--output", good, "--num_inference_steps", 5)[0] == 0
    assert good.stat().st_size > 4096
    calls = [
        ("compress", many, *how, "--output", disk / "set", "--num_inference_steps", 5),
        ("decompress", good, *how, "--output", disk / "out"),
    ]
    case = tmp_path / "case.json"
    case.write_text(json.dumps({"disk": str(disk), "size": 4096, "verbs": [list(map(str, call)) for call in calls]}))
    done = scripts.run(small_disks.__file__, case)
    if done.code == small_disks.NO_MOUNTS:
        pytest.skip(f"no disk can be mounted: {done.output.strip()}")
    for code, told, files in json.loads(done.output.splitlines()[-1]):
        assert code == 2 and "No space left on device" in told.splitlines()[-1] and "Traceback" not in told
        assert files in ([], ["out/.lock"])


def test_no_constriction_is_told_of(
    run: Run, model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, told = run("compress", pictures, "--model", model, "--output", tmp_path / "new")
    assert code == 2 and "pip install constriction" in told
