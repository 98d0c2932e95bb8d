# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The digits in few steps: bits/dim and sample quality by number of model calls, for our and stock's samplers.

    accelerate launch examples/train.py examples/configs/digits_best.yaml
    python benchmarks/few_steps.py --model runs/digits_best --output results.json

All samplers use the same weights and the same noise for each image. Samplers that do not support a learned variance
get the model without it. Bits/dim are those of the test images; for the ODE they are an approximation with this number
of steps. Samples are compared with training images by the Fréchet distance of pixels and of a classifier's features,
and by agreement: a support vector classifier trained on the training images labels the samples, another one is trained
on them, and the agreement is its accuracy on the test images. The table is printed, drawn next to the output (.png),
and written as JSON, which gets every row as soon as it is complete; --resume continues from it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accelerate
import diffusers
import sklearn
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from report import known_results, parse, parser_of, save_report
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.conditioning.columns import Columns
from ddpm_hf.conditioning.denoiser import ConditionalDenoiser
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.diffusion.numerics import standard_error
from ddpm_hf.evaluation.arguments import EvaluationArguments, ModelPathArguments
from ddpm_hf.evaluation.few_steps import LEAST_CALLS_OF_ODE
from ddpm_hf.evaluation.measuring import measured_errors, with_errors
from ddpm_hf.evaluation.sample_quality import Judge
from ddpm_hf.evaluation.sampling import by_number, draw_images, draw_images_by_ode
from ddpm_hf.evaluation.scoring import load_pipeline, score
from ddpm_hf.evaluation.subject import Subject
from ddpm_hf.reporting.by_calls import FIGURES, save_by_calls
from ddpm_hf.runtime.threads import use_all_cores
from ddpm_hf.tasks.images import load_labelled_images


BATCH = 128


@dataclass(frozen=True)
class Method:
    """A way to sample with K model calls, and the bits/dim of its chain if this has a bound."""

    samples: Callable[[int, int, int], Tensor]  # (K, count, seed) -> images in [0, 1]
    bits: Callable[[int], dict[str, float]] | None = None


@dataclass(frozen=True)
class Trial:
    """The model, data and settings that all methods share.

    Attributes:
        unet: the model without its variance.
        images: the data.
        evaluations, flow_images, seed: the script's arguments.
        machine: Accelerate's, with one process.
    """

    unet: UNet2DModel
    images: ImageData
    evaluations: int
    flow_images: int
    seed: int
    machine: accelerate.Accelerator

    def of_chain(
        self,
        chain: DDPMPaperScheduler,
        spacing: str,
        eta: float | None = None,
        model: UNet2DModel | None = None,
        order: int = 1,
    ) -> Method:
        """Ancestral sampling along a chain, DDIM, or DPM-Solver++(2M), of order 2."""
        chained = DDPMPaperPipeline(self.unet if model is None else model, chain)
        chained.set_progress_bar_config(disable=True)

        def samples(K: int, count: int, seed: int) -> Tensor:
            return draw_images(chained, count, BATCH, K, seed, self.machine, None, spacing, eta, None, order)

        def bits(K: int) -> dict[str, float]:
            chain.set_timesteps(K, timestep_spacing=spacing)
            return bits_of_chain(
                chained.denoiser(), chain, self.images.test, self.machine, self.evaluations, self.seed
            )

        return Method(samples, bits if eta is None and self.evaluations else None)

    def of_ode(self, scheduler: DDPMPaperScheduler) -> Method:
        """The probability-flow ODE."""
        alone = DDPMPaperPipeline(self.unet, scheduler)
        options = EvaluationArguments(num_flow_images=self.flow_images, batch_size=BATCH, seed=self.seed)

        def bits(K: int) -> dict[str, float]:
            if K < LEAST_CALLS_OF_ODE:
                return {}
            found = Subject(alone, self.images.test, options, self.machine).likelihood_by_ode(K)
            return {name.removeprefix("flow_"): value for name, value in found.items() if name.startswith("flow_")}

        def samples(K: int, count: int, seed: int) -> Tensor:
            return draw_images_by_ode(alone, count, BATCH, K, seed, self.machine)

        return Method(samples, bits if self.flow_images else None)

    def of_stock(self, kind: type, config: Any, **options: Any) -> Method:
        """One of diffusers' own schedulers."""

        def samples(K: int, count: int, seed: int) -> Tensor:
            return stock_samples(self.unet, kind.from_config(config, **options), K, count, seed, self.machine)

        return Method(samples)


def methods_of(
    pipeline: DDPMPaperPipeline, images: ImageData, evaluations: int, flow_images: int, seed: int
) -> dict[str, Method]:
    """All methods that are compared."""
    unet = without_variance(pipeline.unet)
    trial = Trial(unet, images, evaluations, flow_images, seed, accelerate.Accelerator())
    plain = DDPMPaperScheduler.from_config(
        pipeline.scheduler.config, variance_type="fixed_small", first_variance=None, denoising_errors=None
    )
    train, denoiser = images.train, DDPMPaperPipeline(unet, plain).denoiser()
    errors = measured_errors(
        denoiser, plain, train.batches_with_columns(256), len(train), train.shape, seed, torch.device("cpu")
    )
    best, stock = with_errors(plain, errors), plain.to_stock().config

    def fixed(variance_type: str) -> DDPMPaperScheduler:
        chain = DDPMPaperScheduler.from_config(plain.config, variance_type=variance_type)
        return with_errors(chain, errors, keeps_variance=True)

    def copy(scheduler: DDPMPaperScheduler) -> DDPMPaperScheduler:
        return DDPMPaperScheduler.from_config(scheduler.config)

    even = {"timestep_spacing": "linspace"}
    methods = {
        "β̃, even times": trial.of_chain(fixed("fixed_small"), "linspace"),
        "β, even times": trial.of_chain(fixed("fixed_large"), "linspace"),
        "σ*, even times": trial.of_chain(copy(best), "linspace"),
        "σ*, optimal times": trial.of_chain(copy(best), "optimal"),
        "DDIM, η = 0": trial.of_chain(copy(best), "linspace", eta=0.0),
        "DPM-Solver++(2M), even times": trial.of_chain(copy(best), "trailing", eta=0.0, order=2),
        "DPM-Solver++(2M), optimal times": trial.of_chain(copy(best), "optimal", eta=0.0, order=2),
        "ODE": trial.of_ode(best),
        "stock DDPM": trial.of_stock(DDPMScheduler, stock, variance_type="fixed_small", **even),
        "stock DDIM": trial.of_stock(DDIMScheduler, stock, **even),
        "stock DPMSolverMultistep": trial.of_stock(DPMSolverMultistepScheduler, stock, **even),
    }
    if pipeline.scheduler.process.learns_variance:
        for name, spacing in (("learned, even times", "linspace"), ("learned, optimal times", "optimal")):
            methods[name] = trial.of_chain(copy(pipeline.scheduler), spacing, model=pipeline.unet)
    return methods


def bits_of_chain(
    denoiser: ConditionalDenoiser,
    scheduler: DDPMPaperScheduler,
    images: LevelImages,
    machine: accelerate.Accelerator,
    evaluations: int,
    seed: int,
) -> dict[str, float]:
    """The bound of the scheduler's chain; a short chain gets several draws of noise for the same number of calls."""
    draws = [
        score(denoiser, scheduler, images, machine, BATCH, evaluations, seed + draw)
        for draw in range(max(1, evaluations // len(scheduler.timesteps)))
    ]
    per_example = torch.tensor([draw.per_example for draw in draws], dtype=torch.float64).mean(0)
    return {
        "bits_per_dim": per_example.mean().item(),
        "bits_per_dim_standard_error": standard_error(per_example),
        "bits_per_dim_estimation_error": math.hypot(*(draw.estimation_error for draw in draws)) / len(draws),
        "draws_of_noise": len(draws),
        "timesteps_visited": len(scheduler.timesteps),
    }


def without_variance(unet: UNet2DModel) -> UNet2DModel:
    """The same model without the variance channels."""
    channels = unet.config.in_channels
    if unet.config.out_channels == channels:
        return unet
    weights = unet.state_dict()
    weights |= {name: weights[name][:channels] for name in ("conv_out.weight", "conv_out.bias")}
    alone = UNet2DModel.from_config(unet.config, out_channels=channels)
    alone.load_state_dict(weights)
    return alone.eval()


@torch.no_grad()
def stock_samples(
    unet: UNet2DModel, scheduler: Any, K: int, count: int, seed: int, machine: accelerate.Accelerator
) -> Tensor:
    """Samples of one of diffusers' own schedulers, by the loop of its pipelines."""
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)

    def draw(generators: list[torch.Generator], columns: Columns) -> Tensor:
        scheduler.set_timesteps(K)  # again for every batch: some schedulers keep state
        x = randn_tensor((len(generators), *shape), generators) * scheduler.init_noise_sigma
        more = {} if isinstance(scheduler, DDIMScheduler) else {"generator": generators}  # which adds no noise here
        for t in scheduler.timesteps:
            output = unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x, **more).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    return by_number(draw, count, BATCH, seed, machine, {})


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as Markdown, one table each, with the standard deviation over sets of samples."""
    steps = sorted({K for by_calls in results.values() for K in by_calls}, key=int)
    lines = []
    measured = {name for by_calls in results.values() for figures in by_calls.values() for name in figures}
    for name, title in FIGURES.items():
        if name not in measured:
            continue
        lines += ["", f"| {title} | {' | '.join(steps)} |", f"| --- |{' --- |' * len(steps)}"]
        for method, by_calls in results.items():
            if any(name in figures for figures in by_calls.values()):
                cells = [cell(by_calls.get(K, {}), name) for K in steps]
                lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(figures: dict[str, float], name: str) -> str:
    """A figure as the table shows it."""
    if name not in figures:
        return "–"
    deviation = f" ± {figures[f'{name}_deviation']:.2f}" if f"{name}_deviation" in figures else ""
    return f"{figures[name]:.3f}{deviation}"


def arguments_of() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = parser_of(__doc__, "few_steps")
    parser.add_argument("--model", default="runs/digits", help="a folder, or a name on the Hub")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25, 50, 100, 1000], help="model calls")
    parser.add_argument("--samples", type=int, default=500, help="of every method and number of steps")
    parser.add_argument("--sets", type=int, default=3, help="of samples, each from other noise")
    parser.add_argument("--evaluations", type=int, default=400, help="model calls per image for bits/dim; 0 for none")
    parser.add_argument("--flow-images", type=int, default=297, help="scored by the ODE; 0 for none")
    parser.add_argument("--resume", action="store_true", help="leave out what the output knows already")
    parser.add_argument("--methods", nargs="+", help="some of the table's rows, by their names; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser)
    if min(arguments.steps) < 2:
        parser.error("--steps must be at least 2: a single call leaves none for a step of the ODE.")
    return parser, arguments


def main() -> None:
    parser, arguments = arguments_of()
    device = torch.device("cpu")
    use_all_cores(device)
    images = load_labelled_images(DataArguments())
    pipeline = load_pipeline(ModelPathArguments(arguments.model), device)
    judge = Judge(images.train, images.test)
    methods = methods_of(pipeline, images, arguments.evaluations, arguments.flow_images, arguments.seed)
    if unknown := set(arguments.methods or ()) - set(methods):
        parser.error(f"There is no method {', '.join(sorted(unknown))}; there are {'; '.join(methods)}.")
    references = judge.references(images.test, arguments.samples)
    facts = {
        "test images": references | {"images": min(len(images.test), arguments.samples)},
        "threads": torch.get_num_threads(),
    }
    if arguments.flow_images:
        options = EvaluationArguments(num_flow_images=arguments.flow_images, batch_size=BATCH, seed=arguments.seed)
        subject = Subject(pipeline, images.test, options, accelerate.Accelerator())
        facts["likelihood by the ODE"] = subject.likelihood_by_ode()
        print(facts["likelihood by the ODE"])
    known = known_results(arguments)
    results = {name: known.get(name, {}) for name in methods}
    asked = [(K, name) for K in arguments.steps for name in methods if name in (arguments.methods or methods)]
    bar = tqdm([(K, name) for K, name in asked if str(K) not in results[name]], unit="row")
    for K, name in bar:
        bar.set_postfix_str(f"{name}, {K} calls")
        results[name][str(K)] = row_of(methods[name], judge, K, arguments.samples, arguments.sets, arguments.seed)
        save_report(arguments.output, results, diffusers, sklearn, **facts)
    print(table(results))
    by_calls = {name: {int(K): row for K, row in rows.items()} for name, rows in results.items()}
    comparable = references if len(images.test) >= arguments.samples else {}  # of fewer images distances are larger
    save_by_calls(by_calls, comparable, arguments.output.with_suffix(".png"))
    print(f"written to {arguments.output}")


def row_of(method: Method, judge: Judge, K: int, count: int, sets: int, seed: int) -> dict[str, Any]:
    """The figures of a method with K calls: means over the sets of samples, and standard deviations."""
    began = time.perf_counter()
    found = [judge.figures(method.samples(K, count, seed + k)) for k in range(sets)]
    row = {"samples": count, "sets": sets, "seconds_of_sampling": time.perf_counter() - began}
    for name in found[0] if all(found) else ():
        values = torch.tensor([figures[name] for figures in found], dtype=torch.float64)
        row[name] = values.mean().item()
        if sets > 1:
            row[f"{name}_deviation"] = values.std().item()
    return row | ({} if method.bits is None else method.bits(K))


if __name__ == "__main__":
    main()
