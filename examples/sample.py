# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Draw a grid of images from a saved model or a name on the Hub (Ho et al. 2020, Algorithm 2).

    python examples/sample.py --model_name_or_path runs/digits --num_images 64 --output digits.png
    accelerate launch --multi_gpu examples/sample.py …      the same images, drawn by several processes

Image i depends only on --seed and i, not on the batch size or the number of processes.
"""

from ddpm_hf.cli.sample import main


if __name__ == "__main__":
    main()
