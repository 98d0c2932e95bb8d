# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Score a saved model, or one on the Hub, in bits/dim: the variational bound over a data set (Ho et al. 2020, Eq. 5).

    python examples/evaluate.py --model_name_or_path runs/digits --output_dir digits_evaluation
    python examples/evaluate.py --num_inference_steps 100 --timestep_spacing optimal --num_paths 8
    python examples/evaluate.py --few_steps 5 10 25 50 100 --num_quality_samples 500 --num_flow_images 128
    accelerate launch --multi_gpu examples/evaluate.py …      the same figures, from several processes

Leaves evaluation.json, with one row per timestep, and evaluation.png: where the bits are spent, and the forward
process next to the reverse. With --few_steps also few_steps.png: what so many steps are worth, of the chain, of DDIM
and of the ODE. The data are named as for train.py; without a name, the digits.
"""

from ddpm_hf.cli.evaluate import main


if __name__ == "__main__":
    main()
