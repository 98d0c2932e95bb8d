# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Draw a grid of images from a saved model or a name on the Hub (Ho et al. 2020, Algorithm 2).

    python examples/sample.py --model_name_or_path runs/digits --num_images 64 --output digits.png

Image i depends on --seed and i alone, whatever the batch size.
"""

from __future__ import annotations


from threads import use_all_cores  # isort: skip - before torch

from pathlib import Path

from arguments import ModelPathArguments, SampleArguments, parse, user_errors
from figures import save_grid
from output_folder import claim_file
from sampling import draw_images
from scoring import load_pipeline


def main() -> None:
    script = Path(__file__).name
    model, sampling = parse(script, ModelPathArguments, SampleArguments)
    with user_errors(script):
        for name in ("num_images", "batch_size"):
            if getattr(sampling, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(sampling, name)}.")
        output = claim_file(sampling.output)
        pipeline = load_pipeline(model)
        pipeline.scheduler.set_timesteps(sampling.num_inference_steps or len(pipeline.scheduler))
    use_all_cores(pipeline.device)
    images = draw_images(
        pipeline, sampling.num_images, sampling.batch_size, sampling.num_inference_steps, sampling.seed
    )
    save_grid(images, output)
    print(f"{sampling.num_images} samples in {output}")


if __name__ == "__main__":
    main()
