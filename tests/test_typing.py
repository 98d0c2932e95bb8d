# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The types that users see. mypy checks this file too, and the `assert_type`s in it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import ddpm_hf
from ddpm_hf import (
    BitsPerDim,
    DDPMPaperScheduler,
    DenoisingErrors,
    GaussianDiffusion,
    ImportanceWeightedBits,
    NoiseSchedule,
    bits_per_dim,
    importance_weighted_bits_per_dim,
    measure_denoising_errors,
    ode_bits_per_dim,
)
from ddpm_hf.likelihood import OdeBitsPerDim


PACKAGE = Path(ddpm_hf.__file__).parent
LAZY = [path for path in PACKAGE.rglob("__init__.py") if "lazy_names(" in path.read_text(encoding="utf-8")]


def package_of(path: Path) -> str:
    return ".".join(("ddpm_hf", *path.parent.relative_to(PACKAGE).parts))


def shown_to_checkers(path: Path) -> Iterator[tuple[str, str]]:
    """The modules and names under `if TYPE_CHECKING` that a package exports: `import name as name`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` the name is not exported"
            yield "." * node.level + (node.module or ""), alias.name


@pytest.mark.parametrize("path", LAZY, ids=package_of)
def test_type_checkers_see_the_names_that_load_on_first_use(path: Path) -> None:
    package = importlib.import_module(package_of(path))
    shown = list(shown_to_checkers(path))
    assert sorted(name for _, name in shown) == sorted(set(package.__all__) - {"__version__"})
    for module, name in shown:
        assert getattr(package, name) is getattr(importlib.import_module(module, package.__name__), name)


def test_the_package_says_that_it_has_types() -> None:
    assert len(LAZY) == 5
    assert (PACKAGE / "py.typed").read_bytes() == b""


class Zero(nn.Module):
    """A model that always predicts no noise."""

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x_t)


def function(x_t: Tensor, timesteps: Tensor) -> Tensor:
    return torch.zeros_like(x_t)


def counted(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    yield from batches


def test_what_users_pass_has_the_types_that_the_likelihoods_ask_for() -> None:
    x = torch.ones(3, 1, 2, 2)
    scheduler = DDPMPaperScheduler(4, variance_type="fixed_large")
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(4), range(1, 5))
    bound = bits_per_dim(Zero(), scheduler, [x])
    assert_type(bound, BitsPerDim)
    assert_type(bound.total, float)
    assert_type(bits_per_dim(function, diffusion, x.split(2), progress=counted), BitsPerDim)
    labelled: list[tuple[Tensor, dict[str, Tensor]]] = [(x, {"class_labels": torch.arange(3)})]
    weighted = importance_weighted_bits_per_dim(Zero(), scheduler, labelled, num_paths=2, progress=counted)
    assert_type(weighted, ImportanceWeightedBits)
    assert_type(weighted.standard_error, float)
    assert_type(ode_bits_per_dim(lambda x_t, t: 0 * x_t, diffusion, [[x]], num_steps=2), OdeBitsPerDim)
    errors = measure_denoising_errors(Zero(), scheduler, [x], num_noise_levels=2)
    assert_type(errors, DenoisingErrors)
    same = DenoisingErrors(list(errors.log_snr), list(errors.errors), errors.decoder_variances, errors.decoder_costs)
    assert_type(same.log_decoder_variance(torch.zeros(1)), Tensor)
    assert bound.num_examples == weighted.num_examples == 3 and same.errors == errors.errors


def test_a_scheduler_is_made_with_its_own_type() -> None:
    scheduler = DDPMPaperScheduler(4)
    assert_type(scheduler, DDPMPaperScheduler)
    assert_type(scheduler.diffusion, GaussianDiffusion)
    assert_type(DDPMPaperScheduler.from_schedule(NoiseSchedule.cosine(4)), DDPMPaperScheduler)
    config: dict[str, Any] = dict(scheduler.config)
    assert_type(DDPMPaperScheduler.from_config(config), DDPMPaperScheduler)
    again, unused = DDPMPaperScheduler.from_config({**config, "other": 1}, return_unused_kwargs=True)
    assert_type(again, DDPMPaperScheduler)
    assert unused["other"] == 1 and again.schedule.T == 4
