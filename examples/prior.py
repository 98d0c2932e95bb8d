# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train the prior of DALL-E 2 (Ramesh et al. 2022): a diffusion of embeddings of images, given their captions.

    accelerate launch examples/image_encoder.py --output_dir runs/unclip-image-encoder
    accelerate launch examples/prior.py --image_encoder runs/unclip-image-encoder --output_dir runs/unclip-prior

The training is that of examples/train.py, Algorithm 1 of Ho et al. (2020), on x_0 = z ~ q(z | x), embeddings with a
little noise that is drawn anew every time, so that they have a density. metrics.json has the bits of an embedding,
given its caption and without it.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from ddpm_hf.cli.prior import main


if __name__ == "__main__":
    main()
