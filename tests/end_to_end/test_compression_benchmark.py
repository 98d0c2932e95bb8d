# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of the codec measures every part of what it writes, by a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from script_server import ScriptServer
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compression.py"


@pytest.mark.slow
def test_every_part_is_measured(scripts: ScriptServer, tmp_path: Path) -> None:
    chain = {"num_train_timesteps": 30, "beta_end": 0.4, "num_levels": 17, "variance_type": "optimal"}
    log_snr = DDPMPaperScheduler(**chain).diffusion.schedule.log_snr[1:]
    e = (0.25 * torch.sigmoid(-log_snr)).tolist()
    errors = DenoisingErrors(log_snr.tolist(), e, e, [1 + 0.02 * i for i in range(30)], 17)
    DDPMPaperPipeline(tiny_unet(sample_size=8), DDPMPaperScheduler(denoising_errors=errors, **chain)).save_pretrained(
        tmp_path / "model"
    )
    how = ["--num_images", 2, "--num_set_images", 6, "--num_inference_steps", 5, "--noises", 2, "--repetitions", 2]
    done = scripts.run(SCRIPT, "--model", tmp_path / "model", *how, "--output", tmp_path / "out" / "figures.json")
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "out" / "figures.json").read_text("utf-8"))["results"]
    assert found["set"]["decoded by a fresh process"] and found["set"]["images"] == 6
    assert found["set"]["bits/dim of the file"] == pytest.approx(found["set"]["file bytes"] * 8 / (6 * 64))
    assert found["steps"]["all come back, and every prefix decodes"]
    assert len(found["steps"]["mean squared error before and after each step"]) == len(found["steps"]["times"]) + 1
    assert 130 < found["steps"]["an ideal histogram per pixel, bits"] < 180
    assert found["singles"]["formats"]["ddpm-hf"][-1]["rmse"] == 0 and "PNG" in found["tiled"]
    for mode in ("set", "progressive"):
        assert math.isfinite(found["speed"][mode]["time over that of one pass of the model"]["median"])
    assert (tmp_path / "out" / "figures.png").stat().st_size > 1000
