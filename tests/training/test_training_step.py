# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The training step: its copy in examples/train.py, user-defined steps, and a task that is new to the trainer."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.conditioning.columns import Columns
from ddpm_hf.conditioning.conditioner import Conditioner, Conditioners
from ddpm_hf.conditioning.denoiser import ConditionalDenoiser
from ddpm_hf.data.batches import Batch
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.diffusion.denoiser import Denoiser
from ddpm_hf.runtime.randomness import noise_like
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.training import step as library
from ddpm_hf.training.finish import finish
from ddpm_hf.training.loop import train
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.step import StepResult, training_step


SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"
TINY = shlex.split(
    "--block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --ddpm_num_steps 20 --train_batch_size 32"
    " --checkpointing_steps 0 --validation_steps 0 --save_images_epochs 0 --max_train_steps 3 --num_paths 0"
    " --num_quality_samples 0 --num_evaluations 2 --max_measured_images 64 --eval_batch_size 4"
)


# --- the copy -------------------------------------------------------------------------------------------------------


def functions(path: Path) -> dict[str, str]:
    source = path.read_text("utf-8")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) for node in nodes}


def test_the_example_has_the_librarys_algorithm() -> None:
    copies, originals = functions(SCRIPT), functions(Path(library.__file__))
    assert copies == originals
    assert {"training_step", "draw_timesteps", "losses_of", "objective"} == set(copies)


def test_the_example_fits_on_two_screens_and_passes_its_step_on() -> None:
    source = SCRIPT.read_text("utf-8")
    assert len(source.splitlines()) <= 150
    assert source.rstrip().endswith('if __name__ == "__main__":\n    main(training_step)')


# --- steps of a user's own ------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    """Makes a training run in this process."""

    def make(*flags: object, task: type[ImageTask] = ImageTask) -> TrainState:
        argv = [*TINY, *map(str, flags), "--output_dir", str(tmp_path / "run"), "--overwrite_output_dir"]
        state = prepare_run(parse("train.py", *run_arguments(task), argv=argv), task)
        torch.set_num_threads(1)
        return state

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def by_hand(state: TrainState, batches: Iterator[Batch]) -> StepResult:
    """The noise of L_simple at the times 0 … 31, to the fourth power."""
    (x_0, *_), size = next(batches), state.shard.total
    t = torch.arange(size) % len(state.scheduler)
    noise = noise_like(x_0, 0, state.training.seed, state.step)
    output = state.denoise(state.scheduler.add_noise(x_0, noise, t), t)
    losses = (output - noise).pow(4).flatten(1).mean(1)
    state.accelerator.backward(losses.mean())
    norm = state.clip_gradients()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.lr_scheduler.step()
    return StepResult(t, losses.detach(), 1.0, 1.0, norm)


def test_a_step_of_ones_own_trains(made: Any) -> None:
    flags = ["--objective", "simple", "--variance_type", "fixed_small", "--prediction_type", "epsilon"]
    state = made(*flags, "--max_train_steps", 40, "--lr_warmup_steps", 0, "--timestep_sampling", "uniform")
    losses: list[float] = []

    def noted(state: TrainState, batches: Iterator[Batch]) -> StepResult:
        result = by_hand(state, batches)
        losses.append(result.losses.mean().item())
        return result

    train(state, SimpleNamespace(caught=None, awaited=iter), noted)
    assert state.step == len(losses) == 40
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_loss_of_a_step_is_algorithm_1_by_hand(made: Any) -> None:
    state = made("--objective", "simple", "--variance_type", "fixed_small", "--prediction_type", "epsilon")
    state.prepared.eval()  # without dropout
    batch = next(iter(state.batches))
    noise = noise_like(batch.x_0, 0, state.training.seed, 0)
    with torch.no_grad():
        t, weights, _ = library.draw_timesteps(state)
        alpha = state.scheduler.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * batch.x_0 + (1 - alpha).sqrt() * noise
        expected = (state.model(x_t, t).sample - noise).square().flatten(1).mean(1)
    result = training_step(state, iter(state.batches))
    torch.testing.assert_close(result.losses, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(result.timesteps, t) and torch.equal(result.sampling_weights, weights)


# --- a family that the trainer has never seen -----------------------------------------------------------------------

WORDS = ("dark", "light")


class Captions(Conditioner):
    """One word for each image; no word is the null value."""

    columns = ("prompt",)
    arguments = ("encoder_hidden_states",)
    has_null = True

    def fault(self, column: str, value: Any) -> str | None:
        return None if value in WORDS else f"is called {value!r}"

    def check(self, columns: Columns) -> None:
        if "prompt" not in columns:
            raise ValueError("The data have no captions.")

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        self.check(columns)
        places = torch.tensor([WORDS.index(word) for word in columns["prompt"]])
        return {"encoder_hidden_states": nn.functional.one_hot(places, 8).float()[:, None].to(device)}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {"encoder_hidden_states": torch.zeros(count, 1, 8, device=device)}

    def variety(self) -> Columns:
        return {"prompt": list(WORDS)}


class CaptionPipeline(DDPMPaperPipeline):
    """Images for prompts. A family of its own would not inherit; this one has what the trainer calls."""

    @property
    def conditioners(self) -> Conditioners:
        return Conditioners((Captions(),))

    def denoiser(self, guidance: object = None) -> ConditionalDenoiser:
        return ConditionalDenoiser(lambda *arguments, **options: self.unet(*arguments, **options).sample)

    def _conditioning(self, class_labels: object, batch_size: int, guidance: object) -> dict[str, Tensor]:
        return self.conditioners.make({"prompt": self.prompt}, self._execution_device)

    def __call__(self, *arguments: Any, prompt: list[str], **options: Any) -> Any:
        self.prompt = prompt
        return super().__call__(*arguments, **options)


class CaptionTask(ImageTask):
    """Dark and light images, named so."""

    def load_data(self) -> ImageData:
        words = [WORDS[k % 2] for k in range(64)]
        levels = torch.tensor([16 * WORDS.index(word) for word in words], dtype=torch.uint8)
        images = LevelImages.in_memory(levels.view(-1, 1, 1, 1).repeat(1, 1, 8, 8), 17, {"prompt": words})
        return ImageData("named", images, images, images)

    def build_model(self, data: ImageData) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            block_out_channels=(16,),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=4,
        )

    def model_settings(self, model: UNet2DConditionModel) -> dict[str, Any]:
        return {}

    def conditioners(self, model: UNet2DConditionModel) -> Conditioners:
        return Conditioners((Captions(),))

    def denoiser(self, model: nn.Module) -> Denoiser:
        return lambda x_t, t, **conditioning: model(x_t, t, **conditioning).sample.float()

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> CaptionPipeline:
        return CaptionPipeline(model, scheduler)


def test_another_family_is_a_task_and_a_pipeline(made: Any, tmp_path: Path) -> None:
    flags = ["--objective", "simple", "--variance_type", "fixed_small", "--conditioning_dropout_prob", 0.25]
    state = made(*flags, "--max_train_steps", 40, "--learning_rate", 8e-3, "--lr_warmup_steps", 5, task=CaptionTask)
    told: list[Tensor] = []
    state.prepared.register_forward_pre_hook(
        lambda model, arguments, options: told.append(options["encoder_hidden_states"]), with_kwargs=True
    )
    train(state, SimpleNamespace(caught=None, awaited=iter))
    dropped = (torch.cat(told) == 0).all(dim=(1, 2)).double().mean()
    assert 0.2 < dropped < 0.3
    finish(state)
    assert {"model_index.json", "samples.png", "metrics.json", "README.md"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    images = state.pipeline()(4, prompt=["dark", "light"] * 2, output_type="pt").images.mean(dim=(1, 2, 3))
    assert images[::2].max() < 0.5 < images[1::2].min()
