# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sample quality: the distance from training images, and the accuracy of a classifier trained on samples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from ..conditioning.classes import classes_of
from ..data.level_images import LevelImages
from .classification import support_vector_classifier
from .features import IMAGES_OF_A_DATA_SET, PIXELS, Features
from .frechet_distance import Gaussian


HIDDEN_UNITS = 64
ROUNDS = 500  # largest number of passes over the training images
LEARNED = "frechet_distance_features"  # of the network that classifies the training images


class Judge:
    """Compares samples with training images, and, if these have classes, by classifiers trained on them.

    Args:
        train: images that samples are compared with; up to `IMAGES_OF_A_DATA_SET` of them are used.
        test: images on which a classifier trained on samples is tested.
        features: the features that are compared.
    """

    def __init__(self, train: LevelImages, test: LevelImages, features: Sequence[Features] = (PIXELS,)):
        train, test = (images.spread(IMAGES_OF_A_DATA_SET) for images in (train, test))
        self.features, self.images = tuple(features), len(train)
        classes, self.classes = classes_of(train.columns), classes_of(test.columns)
        self.has_classes = classes is not None and self.classes is not None
        rows = {each.key: each.of_data_set(train) for each in features}
        if self.has_classes:
            pixels, self.test = PIXELS.of_data_set(train), PIXELS.of_data_set(test)
            self.classify = support_vector_classifier(pixels, classes)
            self.network = MLPClassifier((HIDDEN_UNITS,), max_iter=ROUNDS, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # features need no convergence
                self.network.fit(pixels.numpy(), classes.numpy())
            rows[LEARNED] = self._learned(pixels)
        self.reference = {key: Gaussian.of(of_train) for key, of_train in rows.items()}

    def figures(self, samples: Tensor) -> dict[str, float]:
        """The figures of samples `[N, C, H, W]` in [0, 1], N ≥ 2; {} if a sampler diverged and they are not finite.

        Returns:
            The Fréchet distances from the training images, of the features and of those of a network that classifies
            the training images; and the agreement: a support vector classifier trained on the training images labels
            the samples, another one is trained on the labelled samples, and the agreement is its accuracy on test
            images. The last two figures need classes.
        """
        return self._figures(samples * 2 - 1) if bool(samples.isfinite().all()) else {}

    def references(self, images: LevelImages, count: int) -> dict[str, float]:
        """The same figures of up to `count` real images."""
        real, _ = images.spread(count).batch(0, count)
        return self._figures(real) if len(real) > 1 else {}

    def report(self, images: LevelImages, count: int) -> dict[str, Any]:
        """How many samples are compared with how many training images, and the same figures of real images.

        Args:
            images: the real ones; `count` of them, or fewer, of which distances are larger.
            count: how many samples there are.
        """
        figures = self.references(images, count)
        return {
            "quality_samples": count,
            "quality_training_images": self.images,
            "test_images_as_samples": {**figures, "images": min(count, len(images))} if figures else {},
        }

    def _figures(self, images: Tensor) -> dict[str, float]:
        rows, pixels = {each.key: each.of(images) for each in self.features}, PIXELS.of(images)
        if self.has_classes:
            rows[LEARNED] = self._learned(pixels)
        figures = {key: Gaussian.of(features).distance(self.reference[key]) for key, features in rows.items()}
        if self.has_classes:
            again = support_vector_classifier(pixels, self.classify(pixels))
            figures["agreement"] = (again(self.test) == self.classes).double().mean().item()
        return figures

    def _learned(self, pixels: Tensor) -> Tensor:
        """The features that the network has learned to tell the classes apart by, `[N, 64]`."""
        weight, bias = self.network.coefs_[0], self.network.intercepts_[0]
        return torch.from_numpy(pixels.double().numpy() @ weight + bias).clamp(min=0)
