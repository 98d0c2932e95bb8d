# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Draw a grid of images from a saved model or a name on the Hub (Ho et al. 2020, Algorithm 2).

    python examples/sample.py --model_name_or_path runs/digits --num_images 64 --output digits.png
    accelerate launch --multi_gpu examples/sample.py …      the same images, drawn by several processes

Image i depends on --seed and i alone, whatever the batch size and the number of processes.
"""

from __future__ import annotations


from threads import use_all_cores  # isort: skip - before torch

from accelerate import Accelerator
from arguments import ModelPathArguments, SampleArguments, user_errors
from figures import save_grid
from output_folder import claim_file
from sampling import draw_images
from scoring import load_pipeline
from stopping import run_script

from ddpm_hf.gaussian_process import check_eta
from ddpm_hf.model_card import number_of_classes


def main() -> None:
    run_script(__file__, sample, ModelPathArguments, SampleArguments)


def sample(script: str, model: ModelPathArguments, sampling: SampleArguments) -> None:
    """Draw, with all processes together; the main one writes."""
    with user_errors(script):
        for name in ("num_images", "batch_size"):
            if getattr(sampling, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(sampling, name)}.")
        if sampling.eta is not None:
            check_eta(sampling.eta)
        output = claim_file(sampling.output)
        accelerator = Accelerator()
        pipeline = load_pipeline(model, accelerator.device)
        steps = len(pipeline.scheduler) if sampling.num_inference_steps is None else sampling.num_inference_steps
        pipeline.scheduler.set_timesteps(steps, timestep_spacing=sampling.timestep_spacing)
        pipeline.set_progress_bar_config(disable=not accelerator.is_main_process)
        check_classes(number_of_classes(pipeline.unet.config), sampling.class_labels)
    use_all_cores(accelerator.device)
    images = draw_images(
        pipeline,
        sampling.num_images,
        sampling.batch_size,
        steps,
        sampling.seed,
        accelerator,
        sampling.class_labels,
        sampling.timestep_spacing,
        sampling.eta,
    )
    if accelerator.is_main_process:
        save_grid(images, output)
        print(f"{sampling.num_images} samples in {output}")


def check_classes(known: int | None, asked: list[int] | None) -> None:
    """Raise ValueError for classes that the model does not know."""
    if asked is not None and not (known and asked and all(0 <= label < known for label in asked)):
        what = f"knows the classes 0 ... {known - 1}" if known else "is not class-conditional"
        raise ValueError(f"`class_labels` are {asked}, but the model {what}.")


if __name__ == "__main__":
    main()
