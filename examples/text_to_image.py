# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a model of text to image in pixels, with a frozen text encoder (GLIDE, Imagen), and score it in bits/dim.

    accelerate launch examples/text_to_image.py                            OpenMoji at 16x16, in minutes on two cores
    accelerate launch examples/text_to_image.py --train_data_dir my_images --resolution 32
    ddpm-hf sample --model_name_or_path runs/emoji --prompt "red heart" "blue heart" --guidance_scale 3

The training is that of examples/train.py, Algorithm 1 of Ho et al. (2020), with captions as the conditioning.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from ddpm_hf.cli.text_to_image import main


if __name__ == "__main__":
    main()
