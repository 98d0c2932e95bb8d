# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a model that enlarges images, the second stage of a cascade, and score it in bits/dim.

    accelerate launch examples/text_to_image.py --low_resolution_of 32 --resolution 16 --output_dir runs/emoji_16
    accelerate launch examples/super_resolution.py                         OpenMoji from 16x16 to 32x32
    ddpm-hf sample --cascade runs/emoji_16 runs/emoji_32 --prompt "red heart" "blue heart" --guidance_scale 3
    ddpm-hf evaluate --cascade runs/emoji_16 runs/emoji_32 --resolution 32

The training is that of examples/train.py, Algorithm 1 of Ho et al. (2020). The image in low resolution, which is a
function of the image itself, and perhaps a caption are the conditioning.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from ddpm_hf.cli.super_resolution import main


if __name__ == "__main__":
    main()
