# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The variational bound over a data set, in bits per dimension (Ho et al. 2020, Eq. 5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.finiteness import FiniteTerms
from ..diffusion.gaussian_diffusion import DiffusionSource, diffusion_of
from ..diffusion.numerics import mean_flat, standard_error, to_float64
from .batches import Batches, Progress, checked_batches, require_no_dropout
from .summary import Summary, in_parts, pooled_error, pooled_mean, pooled_means


SMALL_BATCH = 16  # below it no control variate is fitted, and examples draw their places in a stratum independently


@dataclass(frozen=True, repr=False)
class BitsPerDim(Summary):
    """The bound over a data set. All figures except timesteps and counts are in bits/dim.

    `print` shows the figures in three lines, `to_dict` returns all of them, and `table` the terms of the bound,
    or the bound of each example with `by="example"`.

    Attributes:
        total: prior + rate + decoder, an upper bound on the mean negative log-likelihood.
        prior: the prior term L_T.
        rate: Σ L_{t−1} over the visited times except the first.
        decoder: the decoder term L_0.
        standard_error: standard error of `total` for the population that the examples were drawn from. It includes the
            spread of the examples, of the noise and, in an estimate from few model calls, of the drawn times. It
            treats the times of different examples as independent. Since a batch covers them evenly, the true error is
            smaller.
        estimation_error: standard error of `total` as an estimate of the bound of these examples, due to the
            drawn noise and times. It is an overestimate: the variance of each stratum's term over a batch includes the
            differences between the examples. For a batch of one example it compares neighbouring strata, and includes
            their differences.
        per_example: the bound of each example, in order; their mean is `total`.
        per_timestep: the term of each of `timesteps`; in an estimate each is the mean over its stratum.
        timesteps: the visited timesteps (diffusers' indices, ascending).
        num_examples: number of examples scored.
        num_model_evaluations: number of model calls in total, counted for each example.
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

    HEADLINES = ("total", "standard_error", "num_examples")

    @property
    def parts(self) -> dict[str, float]:
        """The parts that add up to the total, by name."""
        return {"prior": self.prior, "rate": self.rate, "decoder": self.decoder}

    def __str__(self) -> str:
        return (
            f"{self.first_line}\n"
            f"= {in_parts(self.parts)}\n"
            f"{self.last_line}; standard error from noise and timesteps alone: {self.estimation_error:.4f}"
        )

    @property
    def _tables(self) -> dict[str, tuple[Iterable[int], Iterable[float]]]:
        return {"timestep": (self.timesteps, self.per_timestep), **super()._tables}

    @classmethod
    def merged(cls, parts: Sequence[BitsPerDim]) -> BitsPerDim:
        """The bound over several sets of examples together, each scored separately along the same times.

        Raises:
            ValueError: for no parts, or parts with different timesteps.
        """
        if not parts or any(part.timesteps != parts[0].timesteps for part in parts):
            raise ValueError("`parts` must be at least one bound, all along the same timesteps.")
        per_example = [value for part in parts for value in part.per_example]
        return cls(
            total=pooled_mean(parts, (part.total for part in parts)),
            prior=pooled_mean(parts, (part.prior for part in parts)),
            rate=pooled_mean(parts, (part.rate for part in parts)),
            decoder=pooled_mean(parts, (part.decoder for part in parts)),
            standard_error=standard_error(torch.tensor(per_example, dtype=torch.float64, device="cpu")),
            estimation_error=pooled_error(parts, (part.estimation_error for part in parts)),
            per_example=per_example,
            per_timestep=pooled_means(parts, [part.per_timestep for part in parts]),
            timesteps=parts[0].timesteps,
            num_examples=len(per_example),
            num_model_evaluations=sum(part.num_model_evaluations for part in parts),
        )


@torch.no_grad()
def bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    *,
    num_evaluations: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> BitsPerDim:
    """The variational bound of a model over a data set, in bits/dim (Ho et al. 2020, Eq. 5 and section 4.3).

    It follows the scheduler's visited timesteps: after `scheduler.set_timesteps(50)` it is the bound of the 50-step
    chain.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, or a model such as a `UNet2DModel`, in evaluation mode.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`; a stock scheduler is converted, with its timesteps.
        batches: tensors `[B, *anything]` in [−1, 1] on the model's device, alone or as the only item of a list; or
            pairs of such a tensor and a dictionary of conditioning. A `DataLoader` yields such batches.
        num_evaluations: None for the full sum, K model calls per example; or M in 2 … K for an unbiased estimate from
            M calls. L_0 is always computed. The other terms are cut into M − 1 strata, and each example draws one
            time of each stratum, spread evenly over the batch. Strata have equal expected cost, and costlier times
            are drawn more often. The scheduler's `expected_terms` are these costs; they are best with
            `denoising_errors`, and the estimate is unbiased for any costs. `BitsPerDim.estimation_error` is its
            uncertainty.
        generator: for the noise and the times; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: if there are no examples, `num_evaluations` is outside 2 … K, values are not levels of the data,
            the model's dropout is active, or its output is not finite; the message names the timesteps.
    """
    require_no_dropout(denoise)
    diffusion = diffusion_of(scheduler)
    diffusion.require_determined()
    times = torch.tensor(diffusion.times, device="cpu")
    times_generator = _host_generator(generator)
    strata = _strata(len(times), num_evaluations, diffusion.expected_terms)
    sums = torch.zeros(len(strata), dtype=torch.float64, device="cpu")
    priors, totals, variances = [], [], []
    for x_0, conditioning in checked_batches(batches, diffusion.num_levels, progress):
        terms, finite = [], []
        for stratum in strata:
            index, weights = stratum.draw(len(x_0), times_generator)
            noise = randn_like(x_0, generator)
            x_t = diffusion.q_sample(x_0, noise, times[index])
            model_output = diffusion.model_output(denoise, x_t, times[index], conditioning)
            term = to_float64(diffusion.vlb_terms(model_output, x_0, x_t, index))
            finite.append(FiniteTerms.of(term, model_output, times[index] - 1))
            terms.append(
                _controlled(term * weights.to(term, non_blocking=True), mean_flat(to_float64(noise) ** 2) - 1)
            )
        FiniteTerms.require(finite, "The bound")
        stacked, prior = torch.stack(terms), to_float64(diffusion.prior_bits(x_0))  # [M, B], [B]
        sums += stacked.sum(dim=1).cpu()
        priors.append(prior.cpu())
        totals.append((stacked.sum(dim=0) + prior).cpu())
        variances.append(_estimation_variance(stacked).cpu())
    if not totals:
        raise ValueError("`batches` holds no examples.")
    return _summary(sums, torch.cat(priors), torch.cat(totals), torch.stack(variances), strata, times - 1)


def _summary(
    sums: Tensor, priors: Tensor, totals: Tensor, variances: Tensor, strata: list[_Stratum], timesteps: Tensor
) -> BitsPerDim:
    n = len(totals)
    means = (sums / n).tolist()
    return BitsPerDim(
        total=totals.mean().item(),
        prior=priors.mean().item(),
        rate=sum(means[1:]),
        decoder=means[0],
        standard_error=standard_error(totals),
        estimation_error=math.sqrt(variances.sum().item()) / n,
        per_example=totals.tolist(),
        per_timestep=[mean / len(each.terms) for mean, each in zip(means, strata, strict=True) for _ in each.terms],
        timesteps=timesteps.tolist(),
        num_examples=n,
        num_model_evaluations=n * len(strata),
    )


def _controlled(values: Tensor, control: Tensor) -> Tensor:
    """Values `[B]` minus the part explained by the control variate ‖ε‖²/D − 1, which has mean zero.

    At low noise, the error of x̂_0 is the noise itself. Each half of the batch uses the coefficient fitted on the
    other half, so the estimate stays unbiased.
    """
    half = len(values) // 2
    if len(values) < SMALL_BATCH:
        return values
    parts = [(values[:half], control[:half]), (values[half:], control[half:])]
    slopes = [((x - x.mean()) * (c - c.mean())).sum() / (c - c.mean()).square().sum() for x, c in parts]
    return torch.cat([x - slope * c for (x, c), slope in zip(parts, reversed(slopes), strict=True)])


def _estimation_variance(terms: Tensor) -> Tensor:
    """An estimate of the variance that noise and times cause in the sum of all `terms` `[M, B]`; `[]`.

    There is one term per stratum and example. The estimate's expectation is at least the variance: noise and times of
    different strata are independent, and the variance over a batch includes the variance between the examples.
    """
    if terms.shape[1] > 1:
        return len(terms[0]) * terms.var(dim=1).sum()
    return _variance_by_neighbours(terms[:, 0])


def _variance_by_neighbours(terms: Tensor) -> Tensor:
    """`_estimation_variance` for one example's terms `[M]`, from pairs of neighbouring strata; `[]`.

    E (a − b)² is the sum of both variances and of the squared difference of the means (Cochran 1977, section 5A.12).
    The decoder term and a single stratum have no comparable neighbour: their squares bound their variances.
    """
    decoder, rate = terms[0], terms[1:]
    if len(rate) < 2:
        return terms.square().sum()
    differences = rate.diff()
    pairs = differences[::2].square().sum()
    # With an odd number, the last stratum is compared with the one before it, which is also in another pair.
    last = differences[-1].square() if len(rate) % 2 else 0.0
    return decoder.square() + pairs + last


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Contiguous terms of the bound; each example draws one of them."""

    terms: range
    probabilities: Tensor  # `[len(terms)]`

    @classmethod
    def of(cls, terms: range, costs: Tensor) -> _Stratum:
        """A stratum whose probabilities are nine tenths proportional to the costs and one tenth uniform."""
        of_terms = costs[terms.start : terms.stop]
        return cls(terms, 0.1 / len(terms) + 0.9 * of_terms / of_terms.sum())

    def draw(self, batch_size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A term for each example, and 1/probability, `[B]`; the batch covers the stratum evenly.

        Each example has its own B-th part of the stratum. In a large batch all share one random place within their
        parts. In a small batch, whose parts are wide, the places are independent: with a shared place, terms that
        alternate from time to time would be large for all examples or small for all, and the spread between the
        examples would not show this error.
        """
        n = len(self.terms)
        if n == 1:
            terms = torch.full((batch_size,), self.terms.start, device="cpu")
            return terms, torch.ones(batch_size, dtype=torch.float64, device="cpu")
        parts = torch.randperm(batch_size, generator=generator, device="cpu")
        places = torch.rand(batch_size if batch_size < SMALL_BATCH else 1, generator=generator, device="cpu")
        u = (parts + places) / batch_size
        cumulative = torch.cumsum(self.probabilities, dim=0)
        place = torch.searchsorted(cumulative, u.double() * cumulative[-1], right=True).clamp(max=n - 1)
        return self.terms.start + place, 1 / self.probabilities[place]


def _strata(num_terms: int, num_evaluations: int | None, costs: Tensor) -> list[_Stratum]:
    """The terms 0 … K − 1 cut into contiguous strata: the first alone, the others into M − 1 of about equal cost.

    Args:
        num_terms: K.
        num_evaluations: M, or None for one stratum per term.
        costs: the expected cost of each term, `[K]`.
    """
    ends = _ends(num_terms, num_evaluations, costs)
    return [_Stratum.of(range(*each), costs) for each in itertools.pairwise(ends)]


def _ends(num_terms: int, num_evaluations: int | None, costs: Tensor) -> list[int]:
    """The index at which each stratum begins, and the index at which the last one ends."""
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
        ends.append(min(max(end, ends[-1] + 1), num_terms - (count - m)))  # no stratum is empty
    return [*ends, num_terms]


def _host_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """A CPU generator seeded from the given one: times are drawn on the CPU, where tables are looked up."""
    check_generator(generator)
    if generator is None or generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device="cpu").manual_seed(int(seed))
