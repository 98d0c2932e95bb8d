# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The schema of metrics.json: what may be written, what is read, and the code that uses it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import get_type_hints

import ddpm_hf
from ddpm_hf import ImportanceWeightedBits
from ddpm_hf.evaluation.features import PIXELS, Features
from ddpm_hf.evaluation.frechet_distance import quality_of
from ddpm_hf.evaluation.scoring import paths_report
from ddpm_hf.results import (
    FRECHET_DISTANCES,
    MEASURES,
    InvalidResult,
    Metrics,
    QualityFigures,
    WeightedBound,
    checked,
    measured,
    understood,
)
from ddpm_hf.runtime.errors import run_errors


NAMES = {  # of version 0.1, which users' scripts read
    *("bits_per_dim", "bits_per_dim_standard_error", "bits_per_dim_estimation_error"),
    *("bits_per_dim_prior", "bits_per_dim_rate", "bits_per_dim_decoder"),
    *("test_images", "model_evaluations_per_test_image", "importance_weighted"),
    *("frechet_distance_pixels", "frechet_distance_pixels_of_test_images"),
    *("quality_resolution", "quality_samples", "quality_inference_steps"),
    *("train_seconds", "seconds_by_phase", "validation", "validation_bits_per_dim_by_ema_decay", "step_of_training"),
    *(
        "data",
        "dataset_name",
        "attribution",
        "train_images",
        "bad_images_passed_over",
        "train_steps",
        "train_batch_size",
    ),
    *("cpu_threads", "image_shape", "num_levels", "parameters", "prediction_type", "variance_type"),
    *("timesteps", "objective", "seed", "settings"),
}
TEMPLATE = Path(ddpm_hf.__file__).parent / "hub" / "model_card.md"
NAN = math.nan


def test_no_name_of_the_file_has_changed() -> None:
    assert get_type_hints(Metrics).keys() >= NAMES


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"bits_per_dim": NAN}, "bits_per_dim"),
        ({"bits_per_dim": 1.5, "frechet_distance_pixels": NAN}, "frechet_distance_pixels"),
        ({"bits_per_dim_standard_error": NAN}, "bits_per_dim_standard_error"),
        ({"importance_weighted": {"bits_per_dim": NAN}}, "importance_weighted.bits_per_dim"),
        (
            {"importance_weighted": {"bits_per_dim_by_number_of_paths": {1: 2.0, 8: NAN}}},
            "importance_weighted.bits_per_dim_by_number_of_paths.8",
        ),
        ({"validation": [{"step": 5, "bits_per_dim": 2.0}, {"bits_per_dim": NAN}]}, "validation[1].bits_per_dim"),
        ({"validation_bits_per_dim_by_ema_decay": {"0.9": NAN}}, "validation_bits_per_dim_by_ema_decay.0.9"),
        ({"bits_per_dim": math.inf}, "bits_per_dim"),
        ({"bits_per_dim": "1.5"}, "bits_per_dim"),
        ({"train_steps": 2.5}, "train_steps"),
        ({"seed": True}, "seed"),
        ({"image_shape": [1, "8"]}, "image_shape[1]"),
        ({"importance_weighted": 1.5}, "importance_weighted"),
    ],
)
def test_what_is_no_result_is_not_written(metrics: Any, name: str) -> None:
    with pytest.raises(InvalidResult, match=re.escape(f"`{name}` of metrics.json is ")):
        checked(metrics)


def test_a_key_that_is_not_in_the_schema_is_not_written() -> None:
    with pytest.raises(InvalidResult, match="`bits_per_dimension` is not a key"):
        checked({"bits_per_dimension": 1.5})


def test_an_error_that_is_not_known_is_a_result() -> None:
    metrics: Metrics = {"bits_per_dim": 1, "bits_per_dim_standard_error": math.inf, "train_images": None}
    assert checked(metrics) is metrics


def test_a_run_that_has_no_result_ends_with_a_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped, run_errors("train.py"):
        checked({"bits_per_dim": NAN})
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told == "train.py: error: `bits_per_dim` of metrics.json is nan, which is not a valid result.\n"


def test_a_file_of_another_version_is_read_as_far_as_it_is_understood() -> None:
    known = {
        "bits_per_dim": 1.5,
        "bits_per_dim_standard_error": None,
        "validation": [{"step": 5, "bits_per_dim": 2.0, "later": "x"}],
        "settings": {"learning_rate": 0.1, "snr_gamma": None},
        "importance_weighted": {"bits_per_dim": 1.25, "paths": 8},
    }
    later = {"caption_information_bits": [1, 2], "train_steps": "many", "frechet_distance_pixels": NAN, "data": None}
    assert understood(json.loads(json.dumps({**later, **known}))) == known


def test_what_is_measured_is_found_inside_too() -> None:
    metrics: Metrics = {"importance_weighted": {"bits_per_dim": 1.25}, "frechet_distance_pixels": 0.5}
    found = {measure.metric: value for measure, value in measured(metrics)}
    assert found == {"bits_per_dim_importance_weighted": 1.25, "frechet_distance_pixels": 0.5}
    assert list(measured({})) == []


def test_the_card_reads_nothing_that_is_not_in_the_schema() -> None:
    template = TEMPLATE.read_text(encoding="utf-8")
    read = set(re.findall(r"\bmetrics\.(\w+)", template)) | set(re.findall(r'"(bits_per_dim_\w+)"', template))
    assert {"bits_per_dim", "train_seconds", "bits_per_dim_prior"} <= read
    assert read <= get_type_hints(Metrics).keys()
    inside = set(re.findall(r"\bmetrics\.importance_weighted\.(\w+)", template))
    assert inside and inside <= get_type_hints(WeightedBound).keys()
    for measure in MEASURES:
        outer, _, inner = measure.key.rpartition(".")
        assert inner in (get_type_hints(WeightedBound) if outer == "importance_weighted" else get_type_hints(Metrics))


def test_reports_have_the_keys_of_the_schema() -> None:
    weighted = paths_report(ImportanceWeightedBits({1: 1.5, 2: 1.25}, [1.0, 1.5], 40))
    assert weighted.keys() == get_type_hints(WeightedBound).keys()
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    features = [PIXELS, *(Features(name, PIXELS.of) for name in FRECHET_DISTANCES if name != "pixels")]
    quality = quality_of(images, 10, images.repeat(4, 1, 1, 1), images, features)
    assert quality.keys() == get_type_hints(QualityFigures).keys()
    checked({"importance_weighted": weighted, **quality})


def test_samples_that_are_not_finite_are_no_result() -> None:
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidResult, match="samples are not finite"):
        quality_of(images / 0, 10, images, images)
