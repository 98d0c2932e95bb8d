# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `ddpm-hf`: one module per verb; the scripts in examples/ call the same modules."""

from __future__ import annotations


from ..runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

import importlib
import sys


VERBS = {
    "train": "train a model, draw samples, score it and save it",
    "text_to_image": "the same for a model of images with captions",
    "super_resolution": "train a model that enlarges images, for a cascade",
    "autoencoder": "train an autoencoder with a likelihood, whose latents a diffusion can model",
    "latent": "train a diffusion of an autoencoder's latents",
    "unclip": "train DALL-E 2: an image encoder, a prior of its embeddings, and a decoder",
    "image_encoder": "train an encoder of images against an encoder of text, for a prior",
    "prior": "train a diffusion of embeddings of images, given captions",
    "sample": "draw images from a saved model",
    "evaluate": "score a saved model in bits/dim",
    "measure": "measure a model's denoising errors, and save the optimal variance and timesteps",
    "classify": "classify images by Bayes' rule, or retrieve their captions, with a conditional model",
    "compress": "compress PNG files by a model, at its bound",
    "decompress": "the PNG files in a compressed file",
    "info": "what a compressed file says of itself",
    "app": "a page to click: sample, score and compress with a model",
    "push": "push a finished run, or a page for it, to the Hugging Face Hub",
}


def usage() -> str:
    """The text of `ddpm-hf --help`."""
    verbs = "\n".join(f"  {verb:18}{text}" for verb, text in VERBS.items())
    return f"usage: ddpm-hf VERB [settings.yaml] [--flag value ...]\n\n{verbs}\n\nddpm-hf VERB --help lists its flags."


def main() -> None:
    """Run the verb on the command line with the arguments that follow it."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
    elif verb not in VERBS:
        print(f"ddpm-hf: error: there is no verb {verb!r}; it must be one of {', '.join(VERBS)}.", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"ddpm-hf {verb}", *arguments]
        importlib.import_module(f".{verb}", __package__).main()
