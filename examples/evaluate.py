# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Score a saved model, or one on the Hub, in bits/dim: the variational bound over a data set (Ho et al. 2020, Eq. 5).

    python examples/evaluate.py --model_name_or_path runs/digits --output_dir digits_evaluation
    python examples/evaluate.py --num_inference_steps 100 --timestep_spacing optimal --num_paths 8
    python examples/evaluate.py --few_steps 5 10 25 50 100 --num_quality_samples 500 --num_flow_images 128
    accelerate launch --multi_gpu examples/evaluate.py …      the same figures, from several processes

The script writes evaluation.json, with one row per timestep, and evaluation.png, with the bits of every timestep and
the forward process next to the reverse process. With --few_steps it also writes few_steps.png, which compares the
chain, DDIM and the ODE at these numbers of steps. Name the data as for train.py; the default is the digits.
"""

from ddpm_hf.cli.evaluate import main


if __name__ == "__main__":
    main()
