# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Ordinary differential equations solved by torchdiffeq (the extra `ode`), with adaptive or fixed steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from .gaussian_process import unknown
from .numerics import mean_flat, require_count, require_positive


# "fehlberg2" is left out: it underestimates its error by a factor of hundreds here.
ADAPTIVE_METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED_METHODS = ("euler", "midpoint", "rk4", "heun2", "heun3")  # the last two in newer versions of torchdiffeq


State = Tensor | tuple[Tensor, ...]


# --- the solver -----------------------------------------------------------------------------------------------------


S = TypeVar("S", Tensor, tuple[Tensor, ...])
Field = Callable[[Tensor, S], S]


def solve_adaptively(
    field: Field[S], state: S, start: float, end: float, rtol: float, atol: float, method: str | None
) -> S:
    """The state at `end`, by steps as large as the tolerance allows."""
    require_positive(rtol=rtol, atol=atol)
    method = _check_method("dopri5" if method is None else method, ADAPTIVE_METHODS, " for adaptive steps")
    first = state[0] if isinstance(state, tuple) else state
    times = torch.tensor([start, end], dtype=first.dtype, device=first.device)
    # The last step ends exactly at `end`: interpolation between steps is less accurate than the steps.
    options = {"norm": _largest_of_examples, "step_t": times[1:], "dtype": times.dtype}
    return _solve(field, state, times, method, options, rtol=rtol, atol=atol)


def grid(start: float, end: float, num_steps: int, like: Tensor) -> Tensor:
    """A grid of `num_steps` steps from log s̄ = `start` to `end`, on the device of `like`."""
    require_count(num_steps=num_steps)
    return torch.linspace(start, end, num_steps + 1, dtype=like.dtype, device=like.device)


def solve_on(grid: Tensor, field: Field[S], state: S, method: str | None) -> S:
    """The state at the end of the grid, with one solver step per grid step."""
    method = _check_method("midpoint" if method is None else method, FIXED_METHODS, " with `num_steps`")
    return _solve(field, state, grid[[0, -1]], method, {"grid_constructor": lambda *_: grid})


def _solve(
    field: Field[S], state: S, times: Tensor, method: str, options: Mapping[str, Any], **tolerances: float
) -> S:
    """The state at the second of two times, by torchdiffeq."""
    odeint = _odeint()
    try:
        solution = odeint(field, state, times, method=method, options=options, **tolerances)
    except AssertionError as error:
        if not str(error).startswith(("underflow in dt", "non-finite values")):
            raise
        raise ValueError(_NOT_SOLVED) from error
    return _end_of(solution)


def _end_of(solution: Any) -> Any:
    """The last entry of a solution, or of each part of it."""
    if isinstance(solution, tuple):
        return tuple(require_solved(part[-1]) for part in solution)
    return require_solved(solution[-1])


def require_solved(x: Tensor) -> Tensor:
    """The tensor, if all of it is finite; a ValueError otherwise."""
    if not bool(x.isfinite().all()):
        raise ValueError(_NOT_SOLVED)
    return x


NOT_FOLLOWED = "The ODE could not be solved to its end: "
_NOT_SOLVED = NOT_FOLLOWED + "the output of `denoise` is too large, or changes too fast."


def _largest_of_examples(state: State) -> Tensor:
    """The solver's norm: the largest root mean square of any example, so that a batch does not average errors away."""
    parts = state if isinstance(state, tuple) else (state,)
    return torch.stack([mean_flat(part**2).amax() for part in parts]).amax().sqrt()


def _odeint() -> Callable[..., Any]:
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The probability-flow ODE is solved by torchdiffeq, which is not installed: `pip install torchdiffeq`, or"
            " ddpm_hf with its extra `ode`."
        ) from error
    return odeint


def _check_method(method: str, allowed: tuple[str, ...], where: str = "") -> str:
    """The method; ValueError unless it is one of those allowed."""
    if method not in allowed:
        raise ValueError(unknown("method", method, allowed)[:-1] + f"{where}.")
    return method
