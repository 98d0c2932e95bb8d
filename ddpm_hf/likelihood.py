# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""The variational bound on the negative log-likelihood, in bits per dimension (Ho et al. 2020, Eq. 5):

    −log p_θ(x_0) ≤ L_T + Σ_{t > 1} L_{t−1} + L_0
        L_T     = KL(q(x_T | x_0) ‖ N(0, I))
        L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t))
        L_0     = −log p_θ(x_0 | x_1)

over the visited times of a chain. Since both means of L_{t−1} are c₁ x_0 + c₂ x_t with another x_0, it is written in
their difference, which loses no digits where c₁ is small:

    L_{t−1} = ½ (β̃/σ² − 1 − log(β̃/σ²)) + c₁² (x_0 − x̂_0)² / (2σ²)

L_0 is what the decoder makes of the data (`decoders`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .decoders import decoder_nll
from .finiteness import FiniteTerms
from .noise_schedule import NoiseSchedule
from .numerics import (
    check_num_levels,
    expand_like,
    mean_flat,
    nats_to_bits,
    promote,
    require_samples,
    standard_error,
    to_float64,
)
from .reverse_process import ReverseCoefficients, ReverseProcess, ReverseStep


def prior_kl(schedule: NoiseSchedule, x_0: Tensor, t: int) -> Tensor:
    """L_T = KL(q(x_t | x_0) ‖ N(0, I)) at the last visited time, nats per dimension, `[B]`.

    ½ (ᾱ x_0² − ᾱ − log(1 − ᾱ)), the last two terms together so that nothing cancels where ᾱ is tiny.
    """
    require_samples(original_samples=x_0)
    alpha_cumprod = math.exp(schedule.log_alpha_cumprod(t))
    if alpha_cumprod > 0.01:
        constant = -math.log1p(-alpha_cumprod) - alpha_cumprod
    else:
        constant = sum(alpha_cumprod**k / k for k in range(2, 10))
    return 0.5 * (alpha_cumprod * mean_flat(to_float64(x_0) ** 2) + constant)


def posterior_kl(row: ReverseCoefficients, p: ReverseStep, x_0: Tensor) -> Tensor:
    """L_{t−1} = KL(q(x_s | x_t, x_0) ‖ p_θ(x_s | x_t)), nats per dimension, `[B]`.

    Args:
        row: coefficients of the pairs (s, t), s ≥ 1, float64 `[]` or `[B]`.
        p: the reverse step; x_0: `[B, *anything]`.
    """
    # The variances meet in float64 where they are fixed: their ratio is next to one on most of the chain.
    log_ratio = expand_like(row.posterior_log_variance, to_float64(p.mean)) - to_float64(p.log_variance)
    variance_term = 0.5 * (torch.expm1(log_ratio) - log_ratio)
    weight = 0.5 * expand_like(row.mean_coef_x0, p.mean) ** 2 * torch.exp(-p.log_variance)
    error_term = weight * (promote(x_0) - p.pred_original_sample) ** 2
    return mean_flat(variance_term.expand_as(error_term)) + mean_flat(error_term)


def vlb_terms(
    process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor, num_levels: int | None
) -> Tensor:
    """The term of the bound that belongs to each example's pair: L_{t−1}, or L_0 for the first; bits/dim, `[B]`.

    Args:
        process: the chain.
        model_output, x_0, x_t: as in `ReverseProcess.p_mean_variance`.
        index: 0 … K − 1, the pair of each example, `[]` or `[B]`.
        num_levels: levels of the data, None for continuous data.
    """
    require_samples(noisy_samples=x_t, original_samples=x_0)
    p = process.p_mean_variance(model_output, x_t, index)
    decoder = num_levels, process.measures_decoder
    index = index.long().expand(len(x_0))
    first, known = index == 0, index.device.type == "cpu"  # looking costs no synchronisation: compute what is used
    if len(process.times) == 1 or (known and bool(first.all())):
        return nats_to_bits(decoder_nll(p, x_0, *decoder)).expand(len(x_0))
    # β̃ of the first pair is 0; a finite one stands in for it, so that the term not used passes on no NaN.
    kl = posterior_kl(process.coefficients(index.clamp(min=1)), p, x_0)
    if not known:
        return nats_to_bits(torch.where(first.to(kl.device), decoder_nll(p, x_0, *decoder), kl))
    rows = first.nonzero()[:, 0].to(kl.device)
    if len(rows) > 0:
        costs = decoder_nll(p.of_examples(rows), x_0[rows], *decoder)
        kl = kl.to(costs.dtype).index_put((rows,), costs)
    return nats_to_bits(kl)


# --- over a data set ------------------------------------------------------------------------------------------------

Denoiser = Callable[..., Tensor]
"""denoise(x_t, timesteps, **conditioning) -> model output; timesteps are diffusers' indices, int64 `[B]`."""


Batches = Iterable[Tensor | tuple[Tensor, Mapping[str, Any]]]
"""Tensors `[B, *anything]`, or pairs of one and its conditioning."""


class BoundedScheduler(Protocol):
    """What `bits_per_dim` asks of a scheduler; `DDPMPaperScheduler` has it all."""

    timesteps: Tensor
    num_levels: int | None
    expected_terms: Tensor

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...
    def vlb_loss(
        self, model_output: Tensor, original_samples: Tensor, noisy_samples: Tensor, timesteps: Tensor
    ) -> Tensor: ...
    def prior_loss(self, original_samples: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class BitsPerDim:
    """The bound over a data set; every figure but those of timesteps and counts in bits/dim.

    Attributes:
        total: prior + rate + decoder, an upper bound on the mean negative log-likelihood.
        prior: L_T.
        rate: Σ L_{t−1} over the visited times but the first.
        decoder: L_0.
        standard_error: of `total` as an estimate for the population that the examples were drawn from; it contains the
            spread of the examples, of the noise, and, in an estimate from few model calls, of the times drawn; of
            those it sees each example's own and not that a batch covers them evenly, so that it then errs on the
            large side.
        estimation_error: the standard error of `total` as an estimate of the bound of these very examples, which the
            noise and the times drawn leave open; on the large side, since neighbouring strata count as one.
        per_example: the bound of each example, in order; their mean is `total`.
        per_timestep: the term of each of `timesteps`; in an estimate each is the mean over its stratum.
        timesteps: the visited timesteps (diffusers' indices, ascending).
        num_examples: examples scored.
        num_model_evaluations: images that went through the model, in total.
    """

    total: float
    prior: float
    rate: float
    decoder: float
    standard_error: float
    estimation_error: float
    per_example: list[float]
    per_timestep: list[float]
    timesteps: list[int]
    num_examples: int
    num_model_evaluations: int

    @classmethod
    def merged(cls, parts: Sequence[BitsPerDim]) -> BitsPerDim:
        """The bound over several sets of examples together, each scored by itself along the same times.

        Raises:
            ValueError: for no parts, or parts of other chains.
        """
        if not parts or any(part.timesteps != parts[0].timesteps for part in parts):
            raise ValueError("`parts` must be at least one bound, all along the same timesteps.")
        n = sum(part.num_examples for part in parts)

        def mean(values: Iterable[float]) -> float:
            return math.fsum(part.num_examples * value for part, value in zip(parts, values, strict=True)) / n

        per_example = [value for part in parts for value in part.per_example]
        return cls(
            total=mean(part.total for part in parts),
            prior=mean(part.prior for part in parts),
            rate=mean(part.rate for part in parts),
            decoder=mean(part.decoder for part in parts),
            standard_error=standard_error(torch.tensor(per_example, dtype=torch.float64, device="cpu")),
            estimation_error=math.sqrt(sum((part.num_examples * part.estimation_error) ** 2 for part in parts)) / n,
            per_example=per_example,
            per_timestep=[mean(values) for values in zip(*(part.per_timestep for part in parts), strict=True)],
            timesteps=parts[0].timesteps,
            num_examples=n,
            num_model_evaluations=sum(part.num_model_evaluations for part in parts),
        )


@torch.no_grad()
def bits_per_dim(
    denoise: Denoiser,
    scheduler: BoundedScheduler,
    batches: Batches,
    *,
    num_evaluations: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] | None = None,
) -> BitsPerDim:
    """The variational bound of a model over a data set, in bits/dim (Ho et al. 2020, Eq. 5 and section 4.3).

    Follows the scheduler's visited timesteps: after `scheduler.set_timesteps(50)` it is the 50-step chain's bound.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode.
        scheduler: a `DDPMPaperScheduler`.
        batches: tensors `[B, *anything]` in [−1, 1] on the model's device, or pairs of one and its conditioning.
        num_evaluations: None for the full sum, K model calls per example; or M in 2 … K for an unbiased estimate from
            M calls: L_0 always, the other terms cut into M − 1 strata of which each example draws one time, spread
            evenly over the batch. By what the scheduler expects of each term the strata are worth as much as each
            other, and dear times are drawn more often: best with `denoising_errors`, but the estimate is unbiased
            whatever is expected. See `BitsPerDim.estimation_error` for what it leaves open.
        generator: for the noise and the times; on the device of the batches, or the CPU.
        progress: wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: for no examples, a `num_evaluations` outside 2 … K, values that are not levels of the data, or a
            model whose output is not finite, with the timesteps where it is not.
    """
    timesteps = torch.sort(scheduler.timesteps.cpu()).values
    times_generator = _host_generator(generator)
    strata, worth = _strata(len(timesteps), num_evaluations, scheduler.expected_terms)
    sums = torch.zeros(len(strata), dtype=torch.float64, device="cpu")
    priors, totals, spreads = [], [], []
    for x_0, conditioning in checked_batches(batches, scheduler.num_levels, progress):
        terms, finite = [], []
        for stratum in strata:
            index, weights = stratum.draw(len(x_0), times_generator)
            t = timesteps[index]
            noise = randn_like(x_0, generator)
            x_t = scheduler.add_noise(x_0, noise, t)
            model_output = denoise(x_t, t.to(x_0.device, non_blocking=True), **conditioning)
            term = to_float64(scheduler.vlb_loss(model_output, x_0, x_t, t))
            finite.append(FiniteTerms.of(term, model_output, t))
            terms.append(
                _controlled(term * weights.to(term, non_blocking=True), mean_flat(to_float64(noise) ** 2) - 1)
            )
        terms, prior = torch.stack(terms), to_float64(scheduler.prior_loss(x_0))  # [M, B], [B]
        FiniteTerms.require(finite, "The bound")
        sums += terms.sum(dim=1).cpu()
        priors.append(prior.cpu())
        totals.append((terms.sum(dim=0) + prior).cpu())
        spreads.append(_spread(terms, worth).cpu())
    if not totals:
        raise ValueError("`batches` holds no examples.")
    return _summary(sums, torch.cat(priors), torch.cat(totals), torch.cat(spreads), strata, timesteps)


def _summary(
    sums: Tensor, priors: Tensor, totals: Tensor, spreads: Tensor, strata: list[_Stratum], timesteps: Tensor
) -> BitsPerDim:
    n = len(totals)
    means = (sums / n).tolist()
    return BitsPerDim(
        total=totals.mean().item(),
        prior=priors.mean().item(),
        rate=sum(means[1:]),
        decoder=means[0],
        standard_error=standard_error(totals),
        estimation_error=math.sqrt(spreads.sum().item()) / n,
        per_example=totals.tolist(),
        per_timestep=[mean / len(each.terms) for mean, each in zip(means, strata, strict=True) for _ in each.terms],
        timesteps=timesteps.tolist(),
        num_examples=n,
        num_model_evaluations=n * len(strata),
    )


def _controlled(values: Tensor, control: Tensor) -> Tensor:
    """Values `[B]` less what is explained by a control variate of mean zero, ‖ε‖²/D − 1.

    Where there is little noise, the error of x̂_0 is the noise itself. Each half of the batch takes the coefficient of
    the other, whose noise has nothing to do with its own: that leaves the mean exactly what it is.
    """
    half = len(values) // 2
    if half < 8:  # too few to tell
        return values
    parts = [(values[:half], control[:half]), (values[half:], control[half:])]
    slopes = [((x - x.mean()) * (c - c.mean())).sum() / (c - c.mean()).square().sum() for x, c in parts]
    return torch.cat([x - slope * c for (x, c), slope in zip(parts, reversed(slopes), strict=True)])


def _spread(terms: Tensor, worth: Tensor) -> Tensor:
    """The variance of each example's sum over strata `[M, B]`, of which each was seen once; `[B]`, on the large side.

    Neighbouring strata are collapsed into one, as if they differed by what they are `worth` alone, `[M]` (Cochran
    1977, section 5A.12). The decoder has no neighbour: how it differs between the examples of the batch stands for
    what the noise does to it.
    """
    decoder, rate, worth = terms[0], terms[1:], worth[1:, None].to(terms)
    rate = rate - worth * (rate.sum(0) / worth.sum(0))
    pairs = rate[: len(rate) // 2 * 2].reshape(-1, 2, terms.shape[1])
    spread = (pairs[:, 0] - pairs[:, 1]).square().sum(0)
    if len(rate) % 2:  # the last by itself
        spread = spread + ((rate[-1] - rate[-2]).square() / 2 if len(rate) > 1 else _variance(terms[-1]))
    return spread + _variance(decoder)


def _variance(values: Tensor) -> Tensor:
    """Over the batch; of one example nothing is known but its size."""
    return values.var() if len(values) > 1 else values.square()


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Contiguous terms of the bound, of which each example draws one."""

    terms: range
    probabilities: Tensor  # `[len(terms)]`

    @classmethod
    def of(cls, terms: range, costs: Tensor) -> _Stratum:
        """With probabilities like the costs, but a tenth of them uniform."""
        of_terms = costs[terms.start : terms.stop]
        return cls(terms, 0.1 / len(terms) + 0.9 * of_terms / of_terms.sum())

    def draw(self, batch_size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A term for each example, the batch as a whole covering the stratum evenly, and 1/probability, `[B]`."""
        n = len(self.terms)
        if n == 1:
            terms = torch.full((batch_size,), self.terms.start, device="cpu")
            return terms, torch.ones(batch_size, dtype=torch.float64, device="cpu")
        places = torch.randperm(batch_size, generator=generator, device="cpu")
        u = (places + torch.rand((), generator=generator, device="cpu")) / batch_size
        cumulative = torch.cumsum(self.probabilities, dim=0)
        place = torch.searchsorted(cumulative, u.double() * cumulative[-1], right=True).clamp(max=n - 1)
        return self.terms.start + place, 1 / self.probabilities[place]


def _strata(num_terms: int, num_evaluations: int | None, costs: Tensor) -> tuple[list[_Stratum], Tensor]:
    """The terms 0 … K − 1 cut into contiguous strata: the first alone, the others into M − 1 that cost about the same.

    Args:
        costs: what to expect of each term, `[K]`.

    Returns:
        The strata, and what to expect of each, `[M]`.
    """
    strata = [
        _Stratum.of(range(*ends), costs) for ends in itertools.pairwise(_ends(num_terms, num_evaluations, costs))
    ]
    return strata, torch.stack([costs[each.terms.start : each.terms.stop].sum() for each in strata])


def _ends(num_terms: int, num_evaluations: int | None, costs: Tensor) -> list[int]:
    """Where each stratum begins, and where the last one ends."""
    if num_evaluations is None:
        return list(range(num_terms + 1))
    if (
        isinstance(num_evaluations, bool)
        or not isinstance(num_evaluations, int)
        or not 2 <= num_evaluations <= num_terms
    ):
        raise ValueError(
            f"`num_evaluations` must be an int in 2 ... {num_terms} (the number of visited timesteps) or None, but is"
            f" {num_evaluations!r}."
        )
    count = num_evaluations - 1
    cumulative = torch.cumsum(costs[1:], dim=0)
    wanted = cumulative[-1] * torch.arange(1, count, dtype=torch.float64, device="cpu") / count
    ends = [0, 1]
    for m, end in enumerate((2 + torch.searchsorted(cumulative, wanted)).tolist(), start=1):
        ends.append(min(max(end, ends[-1] + 1), num_terms - (count - m)))  # none is empty
    return [*ends, num_terms]


def _host_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator in main memory that follows from the given one: times are drawn where tables are looked up."""
    if generator is None or generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device="cpu").manual_seed(int(seed))


def randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise like x, drawn on the generator's device in at least float32."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=promote(x).dtype).to(x)


def checked_batches(
    batches: Batches, num_levels: int | None, progress: Callable[[Batches], Batches] | None = None
) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    """The examples of each batch that has any, checked by `check_levels`, and their conditioning."""
    for batch in batches if progress is None else progress(batches):
        x_0, conditioning = batch if isinstance(batch, (tuple, list)) else (batch, {})
        if len(x_0) > 0:
            check_levels(x_0, num_levels)
            yield x_0, conditioning


def check_levels(x_0: Tensor, num_levels: int | None) -> None:
    """Raise ValueError unless every value of x_0 is finite, and (nearly) one of `num_levels` levels in [−1, 1]."""
    require_samples(original_samples=x_0)
    if num_levels is None:
        if not bool(x_0.isfinite().all()):
            raise ValueError("The examples must be finite numbers, but some are NaN or infinite.")
        return
    check_num_levels(num_levels)
    level = (to_float64(x_0) + 1) / 2 * (num_levels - 1)
    distance = (level - level.round().clamp(0, num_levels - 1)).abs().max()
    if not bool(distance.isfinite()):
        raise ValueError(
            f"The examples must take {num_levels} evenly spaced levels in [-1, 1], but some are NaN or infinite."
        )
    if not distance < 0.1:
        raise ValueError(
            f"The examples must take {num_levels} evenly spaced levels in [-1, 1], but a value lies"
            f" {distance.item():.3g} levels off; set `num_levels` to that of the data, or to None for continuous data."
        )
