# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Measure the denoising errors of a saved model on training images, and save it with the optimal variance.

    python examples/measure.py --model_name_or_path runs/digits --output_dir runs/digits_optimal
    python examples/evaluate.py --model_name_or_path runs/digits_optimal --num_inference_steps 10 \
        --timestep_spacing optimal --output_dir ten_steps

It works for any unconditional or class-conditional model, also one of stock diffusers. The saved pipeline has the
optimal variance (Bao et al. 2022), unless the model learned one, and can visit optimal times (Watson et al. 2021).
"""

from ddpm_hf.cli.measure import main


if __name__ == "__main__":
    main()
