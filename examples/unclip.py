# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train DALL-E 2 (unCLIP, Ramesh et al. 2022) whole, and score it in bits of the embedding and of the picture.

    accelerate launch examples/unclip.py                OpenMoji, 16x16, all three in 20 minutes on two cores
    accelerate launch examples/unclip.py --prior runs/unclip-prior --output_dir runs/another-decoder

Without --prior it trains, in folders of their own,

    runs/unclip-image-encoder    as examples/image_encoder.py: embeddings of images, against a frozen text encoder
    runs/unclip-prior            as examples/prior.py: a diffusion of embeddings, given the caption
    runs/unclip                  the decoder: a diffusion of images, given an embedding and the caption

The last folder is a whole pipeline, with samples.png (text to picture), variations.png, interpolations.png, and
metrics.json with the bound and its parts. The training is that of examples/train.py, Algorithm 1 of Ho et al. (2020).
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from ddpm_hf.cli.unclip import main


if __name__ == "__main__":
    main()
