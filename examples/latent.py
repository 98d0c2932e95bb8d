# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a diffusion of an autoencoder's latents, as Stable Diffusion's, and score it in bits/dim of the images.

    accelerate launch examples/autoencoder.py --output_dir runs/autoencoder
    accelerate launch examples/latent.py --autoencoder runs/autoencoder        OpenMoji, 32x32, by latents of 8x8
    accelerate launch examples/latent.py --with_text --output_dir runs/words   told of captions, as Stable Diffusion
    accelerate launch examples/latent.py examples/configs/latent256.yaml

The training is that of examples/train.py, Algorithm 1 of Ho et al. (2020), on x_0 = z ~ q(z | x): latents drawn anew
every time an image is trained on. The bound adds what the image costs given its latents.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from ddpm_hf.cli.latent import main


if __name__ == "__main__":
    main()
