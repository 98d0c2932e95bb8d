# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a DDPM with diffusers alone, to have a stock checkpoint at hand: nothing here is ddpm_hf's.

    python examples/train_stock.py --output_dir runs/stock

The data are scikit-learn's digits, the training images of `examples/train.py`. Forty steps take seconds on a CPU.
README scores the pipeline that this script saves, and finds better timesteps for it.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch.nn import functional


TRAINING_IMAGES = 1500


def digits() -> torch.Tensor:
    """All digits, 17 levels scaled to [-1, 1], `[1797, 1, 8, 8]`; the first 1500 are there to train on."""
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


def train(steps: int, batch_size: int) -> DDPMPipeline:
    """Ho et al. (2020), Algorithm 1, on their linear schedule."""
    torch.manual_seed(0)
    images, scheduler = digits()[:TRAINING_IMAGES], DDPMScheduler(num_train_timesteps=1000)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    for _ in range(steps):
        x_0 = images[torch.randint(len(images), (batch_size,))]
        noise, t = torch.randn_like(x_0), torch.randint(1000, (batch_size,))
        loss = functional.mse_loss(unet(scheduler.add_noise(x_0, noise, t), t).sample, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return DDPMPipeline(unet.eval(), scheduler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/stock"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=128)
    asked = parser.parse_args()
    if asked.output_dir.exists():
        parser.error(f"`output_dir` {asked.output_dir} exists; name another.")
    train(asked.steps, asked.batch_size).save_pretrained(asked.output_dir)
    print(f"A stock DDPMPipeline is in {asked.output_dir}.")


if __name__ == "__main__":
    main()
