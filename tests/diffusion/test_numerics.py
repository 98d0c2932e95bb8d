# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""numerics: log(1 − eˣ) against 50-digit arithmetic, broadcasting and its errors, dtypes in and out."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from oracles import double

from ddpm_hf.diffusion.numerics import (
    LOG_2,
    cast_back,
    expand_like,
    log1mexp,
    mean_flat,
    move_coefficients,
    nats_to_bits,
    require_samples,
    to_float64,
    upcast,
)


# From where 1 − eˣ ≈ −x to where it is one but for the last digits of a denormal, dense around the switch at −log 2.
EXPONENTS = double(
    [-(10.0**k) for k in range(-300, 3, 7)]
    + [-LOG_2 * (1 + d) for d in (-0.5, -1e-3, -1e-15, 0, 1e-15, 1e-3, 0.5)]
    + [-37.0, -300.0, -700.0]
)


def test_log1mexp_has_full_relative_precision():
    with mpmath.workdps(400):
        expected = double([float(mpmath.log(1 - mpmath.exp(mpmath.mpf(x)))) for x in EXPONENTS.tolist()])
    torch.testing.assert_close(log1mexp(EXPONENTS), expected, rtol=4e-16, atol=0)


def test_log1mexp_reaches_its_limits():
    assert log1mexp(double([0.0, -math.inf])).tolist() == [-math.inf, 0.0]


def test_log1mexp_has_the_exact_derivative_on_both_branches():
    x = EXPONENTS[EXPONENTS > -500].clone().requires_grad_()
    log1mexp(x).sum().backward()
    with mpmath.workdps(400):
        expected = double([float(-1 / mpmath.expm1(-mpmath.mpf(value))) for value in x.tolist()])
    torch.testing.assert_close(x.grad, expected, rtol=1e-14, atol=0)


def test_log1mexp_sends_no_nan_backwards_from_the_branch_not_taken():
    x = double([-1e-320, -1e-30, -1.0, -1e4, -math.inf]).requires_grad_()
    log1mexp(x)[1:].sum().backward()
    assert not x.grad.isnan().any()


@pytest.mark.parametrize("shape", [[3], [3, 2], [3, 2, 4], [3, 2, 4, 5], [3, 2, 4, 5, 6]])
@pytest.mark.parametrize("coefficient_shape", [[], [1], [3]])
def test_expand_like_multiplies_example_by_example(shape: list[int], coefficient_shape: list[int]):
    coefficient = double(range(1, 4)).reshape(3)[: math.prod(coefficient_shape)].reshape(coefficient_shape)
    product = expand_like(coefficient, torch.ones(shape)) * torch.ones(shape)
    assert product.shape == torch.Size(shape)
    for b in range(3):
        assert (product[b] == (coefficient[b] if coefficient_shape == [3] else 1.0)).all()


@pytest.mark.parametrize("bad_shape", [[2], [4], [3, 1], [1, 3], [0], [1, 1]])
def test_expand_like_raises_where_torch_would_broadcast_along_another_dimension(bad_shape: list[int]):
    with pytest.raises(ValueError, match=r"does not broadcast over the batch"):
        expand_like(torch.ones(bad_shape, dtype=torch.float64), torch.ones(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_expand_like_casts_to_the_dtype_of_the_sample(dtype: torch.dtype):
    expanded = expand_like(double([0.1, 0.2]), torch.ones(2, 3, dtype=dtype))
    assert expanded.dtype == dtype
    assert torch.equal(expanded[:, 0], double([0.1, 0.2]).to(dtype))


def test_expand_like_leaves_numbers_alone():
    assert expand_like(0.1, torch.ones(3, 4)) == 0.1


def test_mean_flat_keeps_the_batch():
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert mean_flat(x).tolist() == [5.5, 17.5]
    assert mean_flat(x[:, 0, 0]).tolist() == [0.0, 12.0]


def test_a_bit_is_log_2_nats():
    assert nats_to_bits(double([math.log(2), math.log(256), 0.0])).tolist() == [1.0, 8.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_to_float32_and_back(dtype: torch.dtype):
    x = torch.tensor([0.1, -3.0], dtype=dtype)
    assert upcast(x).dtype == torch.float32
    assert torch.equal(cast_back(upcast(x), dtype), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_not_copied(dtype: torch.dtype):
    x = torch.ones(2, dtype=dtype)
    assert upcast(x) is x
    assert cast_back(x, dtype) is x


def test_coefficients_stay_float64_where_the_device_has_it():
    assert to_float64(torch.ones(2)).dtype == torch.float64
    moved = move_coefficients(double([0.1]), torch.device("meta"))
    assert moved.dtype == torch.float64
    assert moved.device.type == "meta"


@pytest.mark.parametrize(
    "tensors",
    [
        {"first": torch.ones(2, 3), "second": torch.ones(2, 3, dtype=torch.int64)},
        {"first": torch.ones(2, 3), "second": torch.ones(2, 3, dtype=torch.bool)},
        {"first": torch.ones(2, 3), "second": torch.ones(2, 3, dtype=torch.complex64)},
        {"first": torch.ones(2, 3), "second": [[1.0, 1.0, 1.0]] * 2},
        {"first": torch.ones(2, 3), "second": torch.ones(3, 2)},
        {"first": torch.ones(2, 3), "second": torch.ones(2, 1)},
        {"second": torch.tensor(1.0)},
    ],
)
def test_samples_that_do_not_fit_are_named(tensors: dict[str, torch.Tensor]):
    with pytest.raises(ValueError, match="`second`"):
        require_samples(**tensors)


def test_samples_of_one_shape_pass_in_any_floating_dtype():
    require_samples(first=torch.ones(2, 3), second=torch.ones(2, 3, dtype=torch.bfloat16))
