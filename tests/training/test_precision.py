# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision in examples/train.py: the model computes in half precision, what surrounds it in float32."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest
import torch
from script_server import ScriptServer

from ddpm_hf import DDPMPaperScheduler


# A real run of two steps, whose model, losses and averages are looked at on the way.
LOOK = """
import json, sys
sys.path.insert(0, {examples!r})
import ddpm_hf.runtime.threads, torch
from ddpm_hf.cli.train import main
from ddpm_hf.training import step

seen, losses_of = {{"loss": []}}, step.losses_of

def look(job, batch, t, first, dropped):
    def see(model, arguments, output):
        seen["input"], seen["output"] = str(arguments[0].dtype), str(output[0].dtype)
        seen["noise"] = (arguments[0] - batch.x_0).abs().amax(dim=(1, 2, 3)).tolist()
        seen["t"], seen["x_0"], seen["x_t"] = t.tolist(), batch.x_0.tolist(), arguments[0].tolist()
    handles = [job.model.register_forward_hook(see), job.model.conv_in.register_forward_hook(
        lambda model, arguments, output: seen.__setitem__("convolution", str(output.dtype)))]
    losses = losses_of(job, batch, t, first, dropped)
    for handle in handles:
        handle.remove()
    seen["loss"].append(str(losses.dtype))
    seen["weights"] = sorted({{str(p.dtype) for p in job.model.parameters()}})
    seen["averages"] = sorted({{str(a.dtype) for average in job.averages for a in average.averages}})
    return losses

step.losses_of = look
main()
json.dump(seen, open({result!r}, "w"))
"""
TINY = shlex.split(
    "--block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --train_batch_size 64 --eval_batch_size 4"
    " --num_quality_samples 0 --num_paths 0 --num_evaluations 2 --max_train_steps 2 --validation_steps 0"
    " --max_measured_images 64"
    " --save_images_epochs 0 --ddpm_num_inference_steps 2 --timestep_sampling stratified"
)


@pytest.mark.parametrize(("precision", "convolution"), [("bf16", "torch.bfloat16"), ("no", "torch.float32")])
def test_noise_loss_and_averages_are_float32(
    scripts: ScriptServer, tmp_path: Path, precision: str, convolution: str
) -> None:
    examples = str(Path(__file__).parents[2] / "examples")
    (tmp_path / "look.py").write_text(LOOK.format(examples=examples, result=str(tmp_path / "seen.json")))
    arguments = ["--mixed_precision", precision, "--ddpm_beta_schedule", "linear", "--output_dir", tmp_path / "run"]
    done = scripts.run(tmp_path / "look.py", *TINY, *arguments)
    assert done.code == 0, done.output
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["convolution"] == convolution  # the model does compute in this precision
    assert seen["input"] == seen["output"] == "torch.float32"
    assert set(seen["loss"]) == {"torch.float32"} and seen["averages"] == seen["weights"] == ["torch.float32"]
    # x_t is what float64 makes of x_0, and noise arrives at the least noisy timesteps, where bfloat16 would lose it.
    assert min(seen["noise"]) > 0
    t, x_0, x_t = torch.tensor(seen["t"]), *(torch.tensor(seen[name], dtype=torch.float64) for name in ("x_0", "x_t"))
    abar = DDPMPaperScheduler().alphas_cumprod.double()[t].reshape(-1, 1, 1, 1)
    noise = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel()) and abs(noise.var() - 1) < 5 * math.sqrt(2 / noise.numel())
