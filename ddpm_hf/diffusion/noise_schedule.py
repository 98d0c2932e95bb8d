# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The noise schedule: how much of the data is left at every time.

The forward process of DDPM (Ho et al. 2020, Eq. 2 and 4) adds noise of variance β_t at the times t = 1 … T, so that

    ᾱ_t = Π_{i ≤ t} (1 − β_i),    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),    ᾱ_0 = 1.

The schedule stores one number per time, log ᾱ_t in float64. Everything else is computed from it, for any times s < t:

    β_{t|s} = 1 − ᾱ_t / ᾱ_s = −expm1(log ᾱ_t − log ᾱ_s),    SNR_t = ᾱ_t / (1 − ᾱ_t).

This keeps all digits of 1 − ᾱ_t close to the data. There ᾱ_t rounds to one, and float32 tables have relative errors of
up to 3e-3.

`ContinuousSchedule` is the same process at real times, which the probability-flow ODE needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .numerics import Times, log1mexp, move_coefficients, to_float64


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A discrete variance-preserving noise schedule over the times t = 0 … T, where t = 0 is the data.

    Args:
        log_alphas_cumprod: log ᾱ_t, float64 `[T + 1]`; starts at 0, strictly decreasing, finite but for the last
            entry, which may be −inf (zero terminal signal-to-noise ratio).

    Raises:
        ValueError: if `log_alphas_cumprod` is anything else.
    """

    log_alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        log_alphas_cumprod = self.log_alphas_cumprod
        is_tensor = isinstance(log_alphas_cumprod, Tensor)
        kind = (
            f"{log_alphas_cumprod.dtype} {list(log_alphas_cumprod.shape)}" if is_tensor else type(log_alphas_cumprod)
        )
        if not is_tensor or log_alphas_cumprod.dtype != torch.float64 or log_alphas_cumprod.ndim != 1:
            raise ValueError(f"`log_alphas_cumprod` must be a float64 tensor [T + 1], but is {kind}.")
        if len(log_alphas_cumprod) < 2:
            raise ValueError(f"`log_alphas_cumprod` must have T + 1 >= 2 entries, but is {kind}.")
        if log_alphas_cumprod[0] != 0 or not bool((log_alphas_cumprod.diff() < 0).all()):
            raise ValueError(
                "`log_alphas_cumprod` must start at 0 and decrease strictly at every time; only its last entry may"
                " be -inf. A beta below the resolution of float64 makes two entries equal."
            )

    # --- constructors -------------------------------------------------------------------------------------------

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float], *, argument: str = "betas") -> NoiseSchedule:
        """The schedule with the given β_1 … β_T, each in (0, 1]; only β_T may be 1.

        Args:
            betas: `[T]`.
            argument: the name of `betas` in error messages.

        Raises:
            ValueError: if `betas` is not a non-empty list of numbers in this range.
        """
        betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"`{argument}` must be a list of T >= 1 numbers, but has shape {list(betas.shape)}.")
        wrong = torch.nonzero(~((betas > 0) & (betas <= 1)))
        if len(wrong) == 0:
            wrong = torch.nonzero(betas[:-1] == 1)  # after a step that leaves nothing there is nothing to diffuse
        if len(wrong) > 0:
            t = int(wrong[0])
            raise ValueError(
                f"`{argument}` must lie in (0, 1], and only the last may be 1, but {argument}[{t}] is"
                f" {betas[t].item()}."
            )
        return cls._from_log_alphas(torch.log1p(-betas))

    @classmethod
    def linear(cls, T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """β_t in T equal steps from `beta_start` to `beta_end` (Ho et al. 2020, section 4)."""
        _check_beta_range(T, beta_start, beta_end)
        return cls.from_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64, device="cpu"))

    @classmethod
    def scaled_linear(cls, T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """√β_t in T equal steps (Rombach et al. 2022, the schedule of latent diffusion)."""
        _check_beta_range(T, beta_start, beta_end)
        return cls.from_betas(
            torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64, device="cpu") ** 2
        )

    @classmethod
    def sigmoid(cls, T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """β_t along a logistic curve over (−6, 6) from `beta_start` to `beta_end` (Xu et al. 2022, GeoDiff)."""
        _check_beta_range(T, beta_start, beta_end)
        curve = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64, device="cpu"))
        return cls.from_betas(beta_start + (beta_end - beta_start) * curve)

    @classmethod
    def cosine(cls, T: int, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """ᾱ(u) = cos²(π/2 · (u + s)/(1 + s)) at u = t/T, β capped at `max_beta` (Nichol & Dhariwal 2021, Eq. 17)."""
        _check_T(T)
        _check_number("s", s, 0 < s < math.inf, "positive")
        _check_number("max_beta", max_beta, 0 < max_beta <= 1, "in (0, 1]")
        angles = (torch.arange(T + 1, dtype=torch.float64, device="cpu") / T + s) / (1 + s) * (math.pi / 2)
        step = math.pi / 2 / (T * (1 + s))
        # cos(a + d)/cos(a) − 1 = −2 sin²(d/2) − tan(a) sin(d); the right side does not cancel, the left side does.
        ratio = -2 * math.sin(step / 2) ** 2 - torch.tan(angles[:-1]) * math.sin(step)
        if max_beta == 1:
            ratio[-1] = -1  # cos(π/2) is 0, but its floating-point value is not
        return cls._from_log_alphas((2 * torch.log1p(ratio.clamp(min=-1))).clamp(min=_log1m(max_beta)))

    @classmethod
    def laplace(cls, T: int, max_beta: float = 0.999) -> NoiseSchedule:
        """Stock diffusers' "laplace" curve: ᾱ(u) = √(SNR/(1 + SNR)), log SNR = −½ sign(½ − u) log(1 − 2|½ − u| +
        1e-6).

        Hang & Gu (2024) propose log-SNRs that follow a Laplace distribution. The constants, the square root and the
        cap on β (`max_beta`) come from diffusers, so its configurations mean the same here.
        """
        _check_T(T)
        _check_number("max_beta", max_beta, 0 < max_beta <= 1, "in (0, 1]")
        u = torch.arange(T + 1, dtype=torch.float64, device="cpu") / T
        sign = torch.where(u > 0.5, -1.0, 1.0).to(torch.float64)
        log_snr = -0.5 * sign * torch.log(1 - 2 * (0.5 - u).abs() + 1e-6)
        log_curve = 0.5 * torch.nn.functional.logsigmoid(log_snr)
        return cls._from_log_alphas(log_curve.diff().clamp(min=_log1m(max_beta)))

    @classmethod
    def linear_log_snr(cls, T: int, log_snr_max: float, log_snr_min: float) -> NoiseSchedule:
        """log SNR_t in T equal steps from `log_snr_max` at t = 1 to `log_snr_min` at t = T.

        On this schedule L_simple weights every noise level as the likelihood does (Kingma et al. 2021, Eq. 17). Choose
        `log_snr_max` so that the first noise level fits the data: with K levels in [−1, 1], σ_1 = e^(−log_snr_max/2)
        should be a little below the half-bin 1/(K − 1): about 6 for 17 levels, 12 for 256.

        Raises:
            ValueError: unless `log_snr_max` > `log_snr_min`, both finite.
        """
        _check_T(T)
        if not (math.isfinite(log_snr_max) and math.isfinite(log_snr_min) and log_snr_max > log_snr_min):
            raise ValueError(
                f"`log_snr_max` must exceed `log_snr_min`, both finite, but they are {log_snr_max} and {log_snr_min}."
            )
        log_snr = torch.linspace(log_snr_max, log_snr_min, T, dtype=torch.float64, device="cpu")
        log_alphas_cumprod = torch.nn.functional.logsigmoid(log_snr)  # ᾱ = sigmoid(log SNR)
        return cls(torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), log_alphas_cumprod]))

    @classmethod
    def _from_log_alphas(cls, log_alphas: Tensor) -> NoiseSchedule:
        return cls(torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), torch.cumsum(log_alphas, dim=0)]))

    def rescale_zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule with √ᾱ shifted and scaled so that √ᾱ_T = 0 and √ᾱ_1 is kept (Lin et al. 2024, Algorithm 1).

        Raises:
            ValueError: if T = 1, since √ᾱ_1 cannot be both 0 and kept.
        """
        if self.T == 1:
            raise ValueError("`rescale_betas_zero_snr` needs at least 2 timesteps, but there is 1.")
        if self.has_zero_terminal_snr:
            return self
        log_a = 0.5 * self.log_alphas_cumprod[1:]  # log √ᾱ_t
        first, last = log_a[0], log_a[-1]
        # √ᾱ'_t = √ᾱ_1 (√ᾱ_t − √ᾱ_T) / (√ᾱ_1 − √ᾱ_T). To avoid cancellation, the log of the fraction is computed from
        # its distance to 1 where it is near 1, and from its numerator and denominator elsewhere.
        below_one = torch.expm1(log_a - first) / -torch.expm1(last - first)
        from_one = torch.log1p(below_one.clamp(min=-0.5))
        from_zero = torch.log(torch.expm1(log_a - last)) - torch.log(torch.expm1(first - last))
        log_alphas_cumprod = 2 * (first + torch.where(below_one > -0.5, from_one, from_zero))
        return NoiseSchedule(torch.cat([self.log_alphas_cumprod[:1], log_alphas_cumprod]))

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule with its table on another device."""
        moved = move_coefficients(self.log_alphas_cumprod, torch.device(device))
        schedule = object.__new__(NoiseSchedule)  # skips the checks, which would synchronise with the device
        object.__setattr__(schedule, "log_alphas_cumprod", moved)
        return schedule

    # --- what follows from log ᾱ --------------------------------------------------------------------------------

    @property
    def T(self) -> int:
        """Number of diffusion steps."""
        return len(self.log_alphas_cumprod) - 1

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_0 … ᾱ_T, `[T + 1]`."""
        return torch.exp(self.log_alphas_cumprod)

    @property
    def betas(self) -> Tensor:
        """β_1 … β_T, `[T]`."""
        return -torch.expm1(self.log_alphas_cumprod.diff())

    @property
    def log_snr(self) -> Tensor:
        """log SNR_t = log ᾱ_t − log(1 − ᾱ_t) for t = 0 … T, `[T + 1]`; +inf at t = 0."""
        return self.log_alphas_cumprod - log1mexp(self.log_alphas_cumprod)

    @property
    def has_zero_terminal_snr(self) -> bool:
        """Whether ᾱ_T = 0, so that x_T is pure noise."""
        return bool(torch.isneginf(self.log_alphas_cumprod[-1]))

    def log_alpha_cumprod(self, t: Times) -> Tensor:
        """log ᾱ_t at the given times: `[]` for an int, the shape of `t` for an integer tensor.

        Raises:
            ValueError: if a time is outside 0 … T. Tensors are checked only on the CPU.
        """
        schedule = self._on(t.device) if isinstance(t, Tensor) else self
        return schedule._at(schedule.log_alphas_cumprod, t)

    def marginal_coefficients(self, t: Times) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t) at the given times; shapes and errors as in `log_alpha_cumprod`."""
        schedule = self._on(t.device) if isinstance(t, Tensor) else self
        alphas, sigmas = schedule._marginals
        return schedule._at(alphas, t), schedule._at(sigmas, t)

    @cached_property
    def continuous(self) -> ContinuousSchedule:
        """The same process at real times."""
        return ContinuousSchedule(self)

    @cached_property
    def _marginals(self) -> tuple[Tensor, Tensor]:
        return torch.exp(0.5 * self.log_alphas_cumprod), torch.sqrt(-torch.expm1(self.log_alphas_cumprod))

    def _on(self, device: torch.device) -> NoiseSchedule:
        """The schedule with its tables on a device; they are moved there once."""
        if device == self.log_alphas_cumprod.device:
            return self
        if device not in self._moved:
            self._moved[device] = self.to(device)
        return self._moved[device]

    @cached_property
    def _moved(self) -> dict[torch.device, NoiseSchedule]:
        return {}

    def _at(self, table: Tensor, t: Times) -> Tensor:
        if isinstance(t, Tensor):
            if t.is_floating_point() or t.dtype == torch.bool:
                raise ValueError(f"Times must be integers, but are {t.dtype}.")
            t = t.long()
            if t.device.type == "cpu" and t.numel() > 0:
                low, high = map(int, torch.aminmax(t))
                if not 0 <= low <= high <= self.T:
                    raise ValueError(f"Times must lie in 0 ... {self.T}, but {low} ... {high} was given.")
            return table.take(t)  # indexing with a one-element tensor would synchronise
        if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t <= self.T:
            raise ValueError(f"A time must be an int in 0 ... {self.T}, but is {t!r}.")
        return table[t].clone()


@dataclass(frozen=True, eq=False)
class ContinuousSchedule:
    """The variance-preserving SDE that has the chain's transition kernels between integer times.

    dx = −½ β(t) x dt + √β(t) dw (Song et al. 2021, Eq. 11) has the kernels N(√(ᾱ_t/ᾱ_s) x_s, (1 − ᾱ_t/ᾱ_s) I) with
    log ᾱ_t = −∫_0^t β. Here log ᾱ is linear and β(t) constant between neighbouring integer times. Times are real, in
    0 … `last_time`; results are float64 in the shape and on the device of the argument.

    Args:
        schedule: the chain's noise schedule.
    """

    schedule: NoiseSchedule

    @property
    def last_time(self) -> int:
        """T, or T − 1 if ᾱ_T = 0, which no finite rate β(t) reaches in finite time."""
        return self.schedule.T - self.schedule.has_zero_terminal_snr

    def log_alpha_cumprod(self, t: float | Tensor) -> Tensor:
        """log ᾱ_t at real times; at integer times it equals the chain's value exactly.

        Args:
            t: a number or a tensor of any shape, in the units of the chain's times.

        Raises:
            ValueError: for times outside 0 … `last_time`. Tensors are checked only on the CPU.
        """
        t, end = self._piece(t)
        table = self._table_on(t.device)
        return torch.lerp(table.take(end - 1), table.take(end), t - (end - 1).to(t.dtype))

    def beta(self, t: float | Tensor) -> Tensor:
        """β(t) = −d log ᾱ_t / dt, per unit of the chain's time; at an integer, the rate of the piece that ends there.

        Arguments and errors as in `log_alpha_cumprod`. The chain's β_t is 1 − e^−β(t).
        """
        t, end = self._piece(t)
        table = self._table_on(t.device)
        return table.take(end - 1) - table.take(end)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """log SNR_t at real times, +inf at 0; arguments and errors as in `log_alpha_cumprod`."""
        log_alpha_cumprod = self.log_alpha_cumprod(t)
        return log_alpha_cumprod - log1mexp(log_alpha_cumprod)

    def time_at(self, log_snr: float | Tensor) -> Tensor:
        """The real time at which the log-SNR has the given value: the inverse of `log_snr`.

        Args:
            log_snr: a number or a tensor of any shape, in nats.

        Raises:
            ValueError: for a log-SNR below the one at `last_time`. Tensors are checked only on the CPU.
        """
        log_snr = _real("log_snr", log_snr)
        log_alpha_cumprod = torch.nn.functional.logsigmoid(log_snr)
        table = self._table_on(log_snr.device)
        if log_snr.device.type == "cpu" and log_snr.numel() > 0:
            least = self.log_snr(float(self.last_time))
            # The tolerance lets rounding errors count as the last time.
            if not bool((log_snr >= least - 1e-9 * (1 + least.abs())).all()):
                raise ValueError(
                    f"`log_snr` must be at least {least.item():.6g}, its value at t = {self.last_time}, but"
                    f" {log_snr.min().item():.6g} was given."
                )
        end = torch.searchsorted(-table, -log_alpha_cumprod).clamp(1, self.last_time)
        before, after = table.take(end - 1), table.take(end)
        return end - 1 + ((before - log_alpha_cumprod) / (before - after)).clamp(0, 1)

    def _piece(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """The times in float64, and for each the integer time at which its piece ends."""
        t = _real("t", t)
        if t.device.type == "cpu" and t.numel() > 0:
            low, high = torch.aminmax(t)
            if not bool((low >= 0) & (high <= self.last_time)):
                raise ValueError(
                    f"Real times must lie in 0 ... {self.last_time}, but {low.item():g} ... {high.item():g} was given."
                )
        return t, torch.ceil(t).long().clamp(1, max(self.last_time, 1))

    def _table_on(self, device: torch.device) -> Tensor:
        table = self.schedule.log_alphas_cumprod
        return table if table.device == device else move_coefficients(table, device)


def _real(name: str, values: float | Tensor) -> Tensor:
    """Real numbers as a float64 tensor."""
    if isinstance(values, Tensor):
        fits = not (values.dtype == torch.bool or values.is_complex())
    else:
        fits = isinstance(values, (int, float)) and not isinstance(values, bool)
    if not fits:
        kind = values.dtype if isinstance(values, Tensor) else repr(values)
        raise ValueError(f"`{name}` must be a real number or a tensor of them, but is {kind}.")
    return to_float64(
        values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64, device="cpu")
    )


def _check_T(T: int) -> None:
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"`num_train_timesteps`, T, must be an int >= 1, but is {T!r}.")


def _check_number(name: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {allowed}, but is {value}.")


def _check_beta_range(T: int, beta_start: float, beta_end: float) -> None:
    _check_T(T)
    for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
        _check_number(name, beta, 0 < beta <= 1, "in (0, 1]")


def _log1m(beta: float) -> float:
    return math.log1p(-beta) if beta < 1 else -math.inf
