# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The chain as a codec: sets of images at the bound, and single images that arrive step by step.

Read the modules in this order:

    distributions     frequencies in integer arithmetic, the same on every machine
    entropy_coders    a stack and a queue of symbols, over `constriction`
    exact_chain       the model's reverse steps, the same for every batch and number of threads
    bits_back         a set of images, at the bound of the chain
    shared_noise      random numbers that encoder and decoder share
    reverse_channel   a sample of q in about KL(q ‖ p) bits
    progressive       one image, of which every prefix is an image
    file_format       the header, and what is checked
    images, classes   what a file holds
    singles, sets     images one at a time, and many
    codec             `Codec`: images to files and back
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:  # the same names once more; `as` marks them as exported
    from .codec import Codec as Codec
    from .file_format import Header as Header
    from .images import Compressed as Compressed
    from .images import Images as Images
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {"codec": ("Codec",), "file_format": ("Header",), "images": ("Compressed", "Images")}
    )
