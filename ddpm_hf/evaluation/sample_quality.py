# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sample quality: the distance from training images, and the accuracy of a classifier trained on samples."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from ..conditioning.classes import classes_of
from ..data.level_images import LevelImages
from .classification import support_vector_classifier
from .frechet_distance import IMAGES_OF_A_DATA_SET, compared_pixels, frechet_distance, pixels_of


FEATURES = 64
ROUNDS = 500  # largest number of passes over the training images


class Judge:
    """Compares samples with training images, and, if these have classes, by classifiers trained on them.

    Args:
        train: images that samples are compared with; up to `IMAGES_OF_A_DATA_SET` of them are used.
        test: images on which a classifier trained on samples is tested.
    """

    def __init__(self, train: LevelImages, test: LevelImages):
        train, test = (images.spread(IMAGES_OF_A_DATA_SET) for images in (train, test))
        self.train, self.test = pixels_of(train), pixels_of(test)
        classes, self.classes = classes_of(train.columns), classes_of(test.columns)
        self.has_classes = classes is not None and self.classes is not None
        if self.has_classes:
            self.classify = support_vector_classifier(self.train, classes)
            self.network = MLPClassifier((FEATURES,), max_iter=ROUNDS, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # features need no convergence
                self.network.fit(self.train.numpy(), classes.numpy())
            self.features = self._features(self.train)

    def figures(self, samples: Tensor) -> dict[str, float]:
        """The figures of samples `[N, C, H, W]` in [0, 1], N ≥ 2; {} if a sampler diverged and they are not finite.

        Returns:
            The Fréchet distances from the training images, of pixels and of the features of a classifying network; and
            the agreement: a support vector classifier trained on the training images labels the samples, another one
            is trained on the labelled samples, and the agreement is its accuracy on test images. The last two figures
            need classes.
        """
        return self._figures(compared_pixels(samples * 2 - 1)) if bool(samples.isfinite().all()) else {}

    def references(self, images: LevelImages, count: int) -> dict[str, float]:
        """The same figures of up to `count` real images."""
        pixels = pixels_of(images, count)
        return self._figures(pixels) if len(pixels) > 1 else {}

    def _figures(self, pixels: Tensor) -> dict[str, float]:
        figures = {"frechet_distance_pixels": frechet_distance(pixels, self.train)}
        if self.has_classes:
            figures["frechet_distance_features"] = frechet_distance(self._features(pixels), self.features)
            learned = support_vector_classifier(pixels, self.classify(pixels))
            figures["agreement"] = (learned(self.test) == self.classes).double().mean().item()
        return figures

    def _features(self, pixels: Tensor) -> Tensor:
        weight, bias = self.network.coefs_[0], self.network.intercepts_[0]
        return torch.from_numpy(pixels.double().numpy() @ weight + bias).clamp(min=0)
