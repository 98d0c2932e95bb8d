# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A rewrite of diffusers' train_unconditional.py with the same calls of Accelerate and diffusers in the same order.

The script itself needs torchvision. The differences make the rewrite faster: images are tensors in memory that only
need scaling, nothing is written to tensorboard, and it uses all cores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ddpm_hf.runtime.threads import use_all_cores


STEPS_BETWEEN_CHECKPOINTS = 500  # both recipes' default
STEPS_WITHOUT_END = 10**6
STOCK_RATE, TUNED_RATE = 1e-4, 2e-3  # the script's default, and one that suits the digits
STOCK_WARMUP = 500


class ScaledItems(Dataset):
    """Images one by one, as the script's transforms leave them; it would decode, resize and crop them too."""

    def __init__(self, pixels: Tensor, num_levels: int, random_flip: bool = False):
        self.pixels, self.num_levels, self.random_flip = pixels, num_levels, random_flip

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        image = self.pixels[i].float() / (self.num_levels - 1)
        if self.random_flip and torch.rand(1) < 0.5:
            image = image.flip(-1)
        return {"input": (image - 0.5) / 0.5}


@dataclass
class Stock:
    """The recipe of diffusers' script, prepared; `step` counts on."""

    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    loader: Any
    lr_scheduler: Any
    noise_scheduler: DDPMScheduler
    ema: EMAModel
    weight_dtype: torch.dtype
    folder: Path
    step: int = 0

    def train(self) -> Iterator[None]:
        """Its loop without end; gives way after every step."""
        for epoch in itertools.count():
            self.model.train()
            bar = tqdm(total=len(self.loader), disable=not self.accelerator.is_local_main_process)
            bar.set_description(f"Epoch {epoch}")
            for batch in self.loader:
                self._take_step(batch, bar)
                yield
            bar.close()
            self.accelerator.wait_for_everyone()

    def _take_step(self, batch: dict[str, Tensor], bar: tqdm) -> None:
        accelerator = self.accelerator
        x_0 = batch["input"].to(self.weight_dtype)
        noise = torch.randn(x_0.shape, dtype=self.weight_dtype, device=x_0.device)
        t = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(x_0),), device=x_0.device).long()
        x_t = self.noise_scheduler.add_noise(x_0, noise, t)
        with accelerator.accumulate(self.model):
            output = self.model(x_t, t).sample[:, : noise.shape[1]]  # which may have a variance beside
            loss = mse_loss(output.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.step(self.model.parameters())
            bar.update(1)
            self.step += 1
            if self.step % STEPS_BETWEEN_CHECKPOINTS == 0:
                self.save()
        logs = {"loss": loss.detach().item(), "lr": self.lr_scheduler.get_last_lr()[0], "step": self.step}
        logs["ema_decay"] = self.ema.cur_decay_value
        bar.set_postfix(**logs)
        accelerator.log(logs, step=self.step)

    def save(self) -> None:
        """A checkpoint."""
        self.accelerator.save_state(str(self.folder / f"checkpoint-{self.step}"))


@dataclass(frozen=True)
class StockSettings:
    """What varies of it."""

    batch_size: int
    learning_rate: float = STOCK_RATE
    precision: str = "no"
    compiled: bool = False
    num_workers: int = 0
    random_flip: bool = False


def prepare_stock(
    pixels: Tensor, num_levels: int, unet_config: dict[str, Any], settings: StockSettings, folder: Path
) -> Stock:
    """Stock's recipe with --use_ema and everything else at its default, but for `settings`."""
    accelerator = Accelerator(
        gradient_accumulation_steps=1,
        mixed_precision=settings.precision,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        dynamo_backend="inductor" if settings.compiled else None,  # as `accelerate launch` can ask for
    )
    use_all_cores(accelerator.device)
    model = UNet2DModel.from_config(unet_config)
    ema = EMAModel(
        model.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=3 / 4,
        model_cls=UNet2DModel,
        model_config=model.config,
    )
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    items = ScaledItems(pixels, num_levels, settings.random_flip)
    loader = DataLoader(items, batch_size=settings.batch_size, shuffle=True, num_workers=settings.num_workers)
    lr_scheduler = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=STOCK_WARMUP, num_training_steps=STEPS_WITHOUT_END
    )
    prepared = accelerator.prepare(model, optimizer, loader, lr_scheduler)
    ema.to(accelerator.device)
    _save_weights_as_the_script_does(accelerator, ema)
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.precision]
    return Stock(accelerator, *prepared, noise_scheduler, ema, dtype, folder)


def _save_weights_as_the_script_does(accelerator: Accelerator, ema: EMAModel) -> None:
    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        ema.save_pretrained(os.path.join(folder, "unet_ema"))
        for model in models:
            model.save_pretrained(os.path.join(folder, "unet"))
            weights.pop()

    accelerator.register_save_state_pre_hook(save)
