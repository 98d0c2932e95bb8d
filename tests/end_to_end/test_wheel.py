# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Environments without a checkout: one with diffusers only, and one with ddpm_hf installed from a wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import environment
from loopback_hub import LoopbackHub
from training_runs import TINY

from ddpm_hf.cli import VERBS


pytestmark = pytest.mark.processes(1)

ROOT = Path(__file__).resolve().parents[2]

PUSH = """
import sys, torch
from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from diffusers import UNet2DModel
import ddpm_hf
torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",), norm_num_groups=4, layers_per_block=1, mid_block_type=None,
)
schedule = NoiseSchedule.linear_log_snr(20, 6.5, -9.0)
pipe = DDPMPaperPipeline(unet, DDPMPaperScheduler.from_schedule(schedule, num_levels=17))
pipe.push_to_hub("owner/wheel", token="hf_owner")
pipe.set_progress_bar_config(disable=True)
image = pipe(1, torch.Generator().manual_seed(0), 4, output_type="np").images
print(ddpm_hf.__file__, float(image.sum()))
"""

STOCK = """
import importlib.util, json, logging, sys, warnings
assert importlib.util.find_spec("ddpm_hf") is None
import torch
from diffusers import DDPMPipeline, DiffusionPipeline
complaints = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: complaints.append(record.getMessage())
logging.getLogger("diffusers").addHandler(handler)
sums = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for cls in (DDPMPipeline, DiffusionPipeline):
        pipe = cls.from_pretrained("owner/wheel")
        pipe.set_progress_bar_config(disable=True)
        sums.append(float(pipe(1, torch.Generator().manual_seed(0), 4, output_type="np").images.sum()))
complaints += [str(w.message) for w in caught if "diffusers" in w.filename]
print(json.dumps({"sums": sums, "complaints": complaints}))
"""


class Machine:
    """A virtual environment that sees this one's packages, except ddpm_hf, which is here by an editable install."""

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=False)
        self.folder, self.python = folder, folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        # The folder that a .pth file names is searched, but not the .pth files in it, as that of an editable install.
        (folder / "lib" / version / "site-packages" / "theirs.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, wheel: Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps", "--no-index", wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(
        self, *command: object, hub: LoopbackHub, folder: Path | None = None, token: str | None = None
    ) -> subprocess.CompletedProcess:
        """A command of this machine's, which names no folder of the checkout."""
        env = environment(hub, self.folder / "home", token)
        env.pop("PYTHONPATH", None)
        words = [str(self.folder / "bin" / str(command[0])), *map(str, command[1:])]
        return subprocess.run(words, env=env, cwd=folder or self.folder, capture_output=True, text=True, timeout=300)

    def run(self, code: str, hub: LoopbackHub) -> str:
        """The last line that the code prints."""
        done = self.start("python", "-c", code, hub=hub)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that no build leaves anything beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "ddpm_hf", source / "ddpm_hf", ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        out,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("ddpm_hf-*.whl")
    return built


# What the installed wheel does in processes of its own is slow to test. The fast tests know the files and the command
# that it brings, here; what a process without ddpm_hf loads, in tests/pipelines/test_pipeline.py; what is pushed, in
# tests/hub/test_hub.py.


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        yield hub


@pytest.fixture(scope="module")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One with the wheel."""
    machine = Machine(tmp_path_factory.mktemp("with"))
    machine.install(wheel)
    return machine


def test_the_wheel_holds_the_package_its_template_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ddpm_hf").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == modules | {
        "ddpm_hf/hub/autoencoder_card.md",
        "ddpm_hf/hub/image_encoder_card.md",
        "ddpm_hf/hub/unclip_card.md",
        "ddpm_hf/hub/model_card.md",
        "ddpm_hf/py.typed",
    }
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert "ddpm-hf = ddpm_hf.cli:main" in zipfile.ZipFile(wheel).read(entry_points).decode()
    assert (ROOT / "model_card.md").read_text() == (ROOT / "ddpm_hf" / "hub" / "model_card.md").read_text()


@pytest.mark.slow
def test_what_an_installed_wheel_pushes_stock_alone_loads(
    machine: Machine, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    where, total = machine.run(PUSH, hub).split()
    assert Path(where).is_relative_to(machine.folder)
    card = hub.repos["owner/wheel"].files()["README.md"].decode()
    assert "# owner/wheel" in card and 'DDPMPaperPipeline.from_pretrained("owner/wheel")' in card

    report = json.loads(Machine(tmp_path_factory.mktemp("without")).run(STOCK, hub))
    assert report["complaints"] == []
    assert report["sums"] == pytest.approx([float(total)] * 2, abs=1e-3)


@pytest.mark.slow
def test_the_command_tells_its_verbs_and_refuses_others(machine: Machine, hub: LoopbackHub) -> None:
    told = machine.start("ddpm-hf", "--help", hub=hub)
    assert told.returncode == 0 and told.stdout == machine.start("python", "-m", "ddpm_hf", "--help", hub=hub).stdout
    for verb in VERBS:
        assert f"  {verb} " in told.stdout
    refused = machine.start("ddpm-hf", "nonsense", hub=hub)
    assert (refused.returncode, refused.stdout) == (2, "") and len(refused.stderr.splitlines()) == 1
    assert "'nonsense'" in refused.stderr and ", ".join(VERBS) in refused.stderr


COMMANDS = {
    "train": [*TINY, "--max_train_steps", 20, "--output_dir", "run"],
    "sample": ["--model_name_or_path", "run", "--num_images", 4, "--num_inference_steps", 2, "--output", "drawn.png"],
    "evaluate": ["--model_name_or_path", "run", "--max_images", 16, "--num_evaluations", 2, "--output_dir", "scored"],
    "measure": ["--model_name_or_path", "run", "--max_images", 16, "--output_dir", "measured"],
    "push": ["--output_dir", "run", "--hub_model_id", "owner/installed"],
}


@pytest.mark.slow
def test_every_command_works_in_an_empty_folder(machine: Machine, hub: LoopbackHub, tmp_path: Path) -> None:
    for verb, arguments in COMMANDS.items():
        done = machine.start("ddpm-hf", verb, *arguments, hub=hub, folder=tmp_path, token="hf_owner")
        assert done.returncode == 0, (verb, done.stderr)
        assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run", "drawn.png", "scored", "measured"}
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["bits_per_dim"] > 0 and report["train_steps"] == 20 and report["train_seconds"] > 0
    assert json.loads((tmp_path / "scored" / "evaluation.json").read_text())["num_examples"] == 16
    pushed = hub.repos["owner/installed"].files()
    assert {"README.md", "metrics.json", "samples.png", "model_index.json"} <= pushed.keys()
    assert f"{report['bits_per_dim']:.4f}" in pushed["README.md"].decode()
