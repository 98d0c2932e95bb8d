# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A machine with diffusers alone, and one where ddpm_hf was installed from a wheel, away from any checkout."""

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

    def run(self, code: str, hub: LoopbackHub, home: str) -> str:
        env = environment(hub, self.folder / home, token=None)
        done = subprocess.run(
            [self.python, "-c", code], env=env, cwd=self.folder, capture_output=True, text=True, timeout=300
        )
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


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        yield hub


def test_the_wheel_holds_the_package_its_template_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ddpm_hf").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == modules | {"ddpm_hf/hub/model_card.md"}
    assert (ROOT / "model_card.md").read_text() == (ROOT / "ddpm_hf" / "hub" / "model_card.md").read_text()


def test_what_an_installed_wheel_pushes_stock_alone_loads(
    wheel: Path, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    machine = Machine(tmp_path_factory.mktemp("with"))
    install = [sys.executable, "-m", "pip", "--python", machine.python, "install", "--no-deps", "--no-index", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, total = machine.run(PUSH, hub, "home").split()
    assert Path(where).is_relative_to(machine.folder)
    card = hub.repos["owner/wheel"].files()["README.md"].decode()
    assert "# owner/wheel" in card and 'DDPMPaperPipeline.from_pretrained("owner/wheel")' in card

    report = json.loads(Machine(tmp_path_factory.mktemp("without")).run(STOCK, hub, "home"))
    assert report["complaints"] == []
    assert report["sums"] == pytest.approx([float(total)] * 2, abs=1e-3)
