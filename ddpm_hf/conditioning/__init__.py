# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Conditioning: the arguments that a denoiser takes besides x_t and the timestep, made from columns of data.

    columns         values of examples by name, from data or the user: class labels, captions, images
    conditioner     `Conditioner`, the interface of one kind of conditioning; `Conditioners`, several used as one
    dropout         which examples of a training step lose their conditioning
    classes         the conditioner of class labels, for `UNet2DModel`
    text            the conditioner of captions, for `UNet2DConditionModel`
    low_resolution  the conditioner of low-resolution images, for `UNet2DConditionModel`
    box_means       images in low resolution
    truncation      values that a model takes only the beginning of
    denoiser        a denoiser together with its conditioners

The trainer, the scores and the samplers use `Conditioners` and never name a kind of conditioning.
"""
