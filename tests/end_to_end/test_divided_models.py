# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Models that are divided among processes: FSDP on two real processes of the CPU trains, averages, saves and goes on
as one process does. DeepSpeed needs a GPU, or a compiler; what it is told is tested in test_accelerate_configs.py.
"""

from __future__ import annotations

import json
import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from diffusers import UNet2DModel
from launcher import launched
from script_server import READ_BY_IMPORTS, Script, ScriptServer
from training_runs import after

from ddpm_hf import DDPMPaperPipeline
from ddpm_hf.training import setup as preparation
from ddpm_hf.training.arguments import TrainingArguments


pytestmark = pytest.mark.processes(1)


ON_CPU = Path(__file__).parents[1] / "helpers" / "fsdp_on_cpu.py"
RUN = ["--block_out_channels", 8, 8, "--layers_per_block", 1, "--norm_num_groups", 4, "--ddpm_num_steps", 20]
RUN += ["--eval_batch_size", 3, "--num_quality_samples", 0, "--num_evaluations", 2, "--max_train_steps", 6]
RUN += ["--num_paths", 0, "--max_measured_images", 64, "--max_validation_images", 16]
RUN += ["--dropout", 0, "--learning_rate", 1e-3, "--lr_warmup_steps", 1, "--ema_max_decay", 0.9, 0.5]
RUN += ["--validation_steps", 3, "--checkpointing_steps", 3, "--save_images_epochs", 1, "--save_model_epochs", 1]
RUN += ["--num_validation_evaluations", 2, "--mixed_precision", "no"]


def environment() -> dict[str, str]:
    """What configs/accelerate/fsdp.yaml gives the processes."""
    given = {key: value for key, value in launched("fsdp")[1].items() if os.environ.get(key) != value}
    return {key: value for key, value in given.items() if not key.startswith(READ_BY_IMPORTS)} | {
        "ACCELERATE_USE_CPU": "0"  # which would leave FSDP out
    }


def on_few_digits(folder: Path, script: str | Path = ON_CPU, hook: str = "") -> Path:
    """The script, written beside the run: of 150 images, 25 for each of two processes are three steps an epoch."""
    return after(folder.parent, f"import hooks\nhooks.install(hooks.few_digits(), {hook})\n", script)


def trained_by_two(scripts: ScriptServer, folder: Path, *arguments: object, hook: str = "") -> list[Script]:
    script = on_few_digits(folder, hook=hook)
    arguments = ["train.py", *RUN, "--train_batch_size", 25, *arguments, "--output_dir", folder]
    runs = scripts.start_together(2, script, *arguments, env=environment())
    for run in runs:
        run.wait()
    return runs


@pytest.fixture(scope="module")
def divided(scripts: ScriptServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, three steps an epoch."""
    folder = tmp_path_factory.mktemp("divided") / "run"
    runs = trained_by_two(scripts, folder)
    assert [run.code for run in runs] == [0, 0], runs[0].output + runs[1].output
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return UNet2DModel.from_pretrained(folder).state_dict()


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=3e-4, rtol=0)


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(scripts: ScriptServer, divided: Path, tmp_path: Path) -> None:
    alone = tmp_path / "run"
    script = on_few_digits(alone, "train.py")
    run = scripts.run(script, *RUN, "--train_batch_size", 50, "--output_dir", alone)
    assert run.code == 0, run.output
    for part in ("unet", "unet_ema_0.5"):  # the averages of either decay
        assert_close(weights(divided / part), weights(alone / part))
    first, second = (weights(divided / part)["conv_in.bias"] for part in ("unet", "unet_ema_0.5"))
    assert not torch.equal(first, second)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, divided))
    errors = [
        DDPMPaperPipeline.from_pretrained(folder).scheduler.denoising_errors.errors for folder in (alone, divided)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.3)  # measured with other noise
    # Batches of another size draw other times: the scores agree within what that explains.
    assert abs(two["bits_per_dim"] - one["bits_per_dim"]) < 3 * (2**0.5) * one["bits_per_dim_standard_error"]
    assert [score["step"] for score in two["validation"]] == [3, 6]
    grids = [sorted(path.name for path in (folder / "samples").iterdir()) for folder in (alone, divided)]
    assert grids == [["step_0000003.png"]] * 2
    assert DDPMPaperPipeline.from_pretrained(divided)(1, num_inference_steps=2).images


@pytest.mark.slow
def test_a_divided_run_goes_on_exactly(scripts: ScriptServer, divided: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(divided, folder)
    shutil.rmtree(folder / "checkpoint-6")
    runs = trained_by_two(scripts, folder, "--resume_from_checkpoint", "latest")
    assert [run.code for run in runs] == [0, 0], runs[0].output + runs[1].output
    for part in ("unet", "unet_ema_0.5"):
        before, after = weights(divided / part), weights(folder / part)
        assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = (json.loads((path / "metrics.json").read_text()) for path in (divided, folder))
    assert after["bits_per_dim"] == before["bits_per_dim"] and after["validation"] == before["validation"]


# Undivided, either process is at fault in test_processes.py.
@pytest.mark.slow
@pytest.mark.parametrize(("rank", "size"), [(0, 20_000), (1, 3_000)])
def test_when_one_process_cannot_write_its_part_the_run_ends_with_the_last_checkpoint(
    scripts: ScriptServer, tmp_path: Path, rank: int, size: int
) -> None:
    limit = f"lambda: hooks.limit_files({size})"
    hook = f"hooks.done_in('ddpm_hf.training.due.write_state', {limit}, 2, [{rank}])"
    folder = tmp_path / "run"
    runs = trained_by_two(scripts, folder, hook=hook)
    assert [run.code for run in runs] == [1, 1], runs[0].output + runs[1].output
    told = [run.output.rstrip().splitlines()[-1] for run in runs]
    assert told[rank].startswith("train.py: The checkpoint of step 6 could not be written: "), told
    assert told[1 - rank].startswith("train.py: Another process has ended"), told
    for sentence in told:
        assert f"{folder / 'checkpoint-3'} is whole." in sentence
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.slow
def test_its_checkpoints_hold_no_part_of_one_process(divided: Path) -> None:
    names = {path.name for path in (divided / "checkpoint-3").iterdir()}
    assert {"pytorch_model_fsdp.bin", "optimizer.bin", "ema-0.safetensors", "ema-1.safetensors"} <= names
    for name in ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.bin"):
        torch.load(divided / "checkpoint-3" / name, weights_only=True)


PUSHED = """
import copy, sys, types
from pathlib import Path

import torch
from ddpm_hf.training import finish as outcome
from accelerate import Accelerator
from diffusers import UNet2DModel
from ddpm_hf.training.diffusion import Diffusion
from ddpm_hf.training.run_clock import RunClock
from ddpm_hf.training.weight_averages import WeightAverage, averaged
from torch.distributed.fsdp import fully_shard

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler

accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
torch.manual_seed(0)
unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4, 8),
    down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=2, layers_per_block=1)
twin = copy.deepcopy(unet)
expected, plain = WeightAverage(twin, 1.0, 0.75, 0.5), dict(twin.named_parameters())
mesh = torch.distributed.init_device_mesh("cpu", (2,))
fully_shard(unet, mesh=mesh)
average = WeightAverage(unet, 1.0, 0.75, 0.5)
for k in range(3):
    with torch.no_grad():
        for value in (*unet.parameters(), *plain.values()):
            value.mul_(1.5)
    average.update()
    expected.update()
held, whole = average.state_dict(), expected.state_dict()
assert all(torch.allclose(held[name], whole[name], atol=1e-6) for name in whole) and held.keys() == whole.keys()
average.load_state_dict({{name: value + 1 for name, value in held.items()}}, 7)
again = average.state_dict()
assert average.step == 7 and all(torch.equal(again[name], held[name] + 1) for name in held)
try:
    average.load_state_dict({{"conv_in.bias": held["conv_in.bias"]}}, 7)
except ValueError as error:
    assert "another model" in str(error)
else:
    raise AssertionError

class Pusher:
    is_busy = False

    def push_snapshot(self, step, write):
        write(folder)

outcome.training_facts = lambda state: {{}}
state = types.SimpleNamespace(accelerator=accelerator, model=unet, prepared=unet, average=average, is_divided=True,
    step=3, pipeline=lambda model: DDPMPaperPipeline(model, DDPMPaperScheduler()), folder=folder, clock=RunClock(),
    method=Diffusion(), pusher=Pusher() if accelerator.is_main_process else None)
outcome.push_snapshot(state)
if accelerator.is_main_process:
    pushed = DDPMPaperPipeline.from_pretrained(folder).unet.state_dict()
    assert all(torch.equal(pushed[name], again[name]) for name in again)
# Weights that FSDP keeps in one piece after a forward pass are not those of the pass before.
unet.eval()
with torch.no_grad():
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    own = unet(x, 3).sample
    with averaged(average, unet):
        other = unet(x, 3).sample
    assert torch.equal(unet(x, 3).sample, own) and not torch.equal(other, own)
    with averaged(average, unet):
        assert torch.equal(unet(x, 3).sample, other)
    after = {{name: value.full_tensor() for name, value in unet.named_parameters()}}
assert all(torch.equal(after[name], plain[name]) for name in plain)  # its own weights again
print("all is well")
"""


@pytest.mark.slow
def test_averages_of_a_divided_model_and_a_push_of_them(scripts: ScriptServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PUSHED.format())
    (tmp_path / "pushed").mkdir()
    runs = scripts.start_together(2, script, tmp_path / "pushed")
    for run in runs:
        assert run.wait() == 0 and "all is well" in run.output, run.output


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_without_a_meeting_place(scripts: ScriptServer, tmp_path: Path) -> None:
    run = scripts.run("train.py", "--output_dir", tmp_path / "run", env={"WORLD_SIZE": "2"})
    assert run.code == 2 and "Traceback" not in run.output and not (tmp_path / "run").exists(), run.output


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # each would train alone, into the same folder
    with pytest.raises(ValueError, match="2 processes were started, but only 1 found each other"):
        engine(monkeypatch, DistributedType.NO, deepspeed_plugin=None)


def engine(monkeypatch: pytest.MonkeyPatch, kind: DistributedType, **state: Any) -> None:
    made = types.SimpleNamespace(num_processes=1, distributed_type=kind, state=types.SimpleNamespace(**state))
    monkeypatch.setattr(preparation, "Accelerator", lambda **_: made)
    preparation._engine(TrainingArguments())


def test_divisions_that_cannot_be_sampled_from(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = types.SimpleNamespace
    with pytest.raises(ValueError, match="`fsdp_version` of the launcher's settings must be 2"):
        engine(monkeypatch, DistributedType.FSDP, fsdp_plugin=plugin(fsdp_version=1), deepspeed_plugin=None)
    with pytest.raises(ValueError, match="`zero_stage` of the launcher's settings must be at most 2"):
        engine(monkeypatch, DistributedType.DEEPSPEED, deepspeed_plugin=plugin(zero_stage=3))
    engine(monkeypatch, DistributedType.FSDP, fsdp_plugin=plugin(fsdp_version=2), deepspeed_plugin=None)
    engine(monkeypatch, DistributedType.DEEPSPEED, deepspeed_plugin=plugin(zero_stage=2))
