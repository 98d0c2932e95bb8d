# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a DDPM (Ho et al. 2020, Algorithm 1), draw samples, and score it in bits/dim.

    accelerate launch examples/train.py                                    the digits, in minutes on two cores
    accelerate launch examples/train.py examples/configs/cifar10.yaml      the paper's model and settings
    accelerate launch examples/train.py --train_data_dir my_images --resolution 64

Leaves in --output_dir a saved pipeline, samples.png, metrics.json and a model card (README.md); with --push_to_hub,
on the Hub too.
"""

from ddpm_hf.cli.train import main


if __name__ == "__main__":
    main()
