# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The digits in few steps: bits/dim and sample quality by number of model calls, ours and stock diffusers' samplers.

    accelerate launch examples/train.py
    python benchmarks/few_steps.py --model runs/digits --output results.json

All sample from the same weights; what does not know of a learned variance is given the model without it. Bits/dim are
those of the test images; samples are compared with training images by the Fréchet distance of their pixels and of a
classifier's features, and by agreement: how many test images a support vector classifier gets right that has learned
from the samples, labelled by one that has learned from the training images. The table is printed, drawn beside the
output (.png), and written as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import matplotlib
import sklearn
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from report import parse, parser_of, write_report
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, flow_sample
from ddpm_hf.numerics import standard_error


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from arguments import DataArguments, EvaluationArguments, ModelPathArguments  # noqa: E402
from chains import score_by_flow  # noqa: E402
from classifying import levels_of, support_vector_classifier  # noqa: E402
from image_data import ImageData, LevelImages, load_images  # noqa: E402
from measuring import measured_errors, with_errors  # noqa: E402
from quality import frechet_distance, pixel_frechet_distance  # noqa: E402
from sampling import draw_images  # noqa: E402
from scoring import denoiser, image_shape, load_pipeline, score  # noqa: E402
from threads import use_all_cores  # noqa: E402


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


BATCH = 128
FIGURES = {
    "bits_per_dim": "bits/dim",
    "frechet_distance_pixels": "Fréchet distance, pixels",
    "frechet_distance_features": "Fréchet distance, features",
    "agreement": "agreement",
}


@dataclass(frozen=True)
class Method:
    """A way to sample in K model calls, and the bits/dim of the chain that it walks, if it is one of a bound."""

    samples: Callable[[int, int], Tensor]  # (K, count) -> images in [0, 1]
    bits: Callable[[int], dict[str, float]] | None = None


class Judge:
    """What samples are compared with: training images, and classifiers that learned from these."""

    def __init__(self, images: ImageData):
        self.levels, self.labels = levels_of(images.train), images.train.labels
        self.test_levels, self.test_labels = levels_of(images.test), images.test.labels
        self.num_levels = images.train.num_levels
        self.label = support_vector_classifier(self.levels, self.labels, self.num_levels)
        self.network = MLPClassifier((64,), max_iter=500, random_state=0).fit(self._rows(self.levels), self.labels)
        self.features = self._features(self.levels)

    def _rows(self, levels: Tensor) -> Any:
        return (levels / (self.num_levels - 1)).flatten(1).numpy()

    def _features(self, levels: Tensor) -> Tensor:
        weight, bias = self.network.coefs_[0], self.network.intercepts_[0]
        return torch.from_numpy(self._rows(levels) @ weight + bias).clamp(min=0)

    def figures(self, images: Tensor) -> dict[str, float]:
        """Of images `[N, C, H, W]` in [0, 1]; none of samples that are not finite, which some samplers end with."""
        if not bool(images.isfinite().all()):
            return {}
        levels = (images * (self.num_levels - 1)).round()
        scaled, train = (2 * each / (self.num_levels - 1) - 1 for each in (levels, self.levels))
        learned = support_vector_classifier(levels, self.label(levels), self.num_levels)
        return {
            "frechet_distance_pixels": pixel_frechet_distance(scaled, train),
            "frechet_distance_features": frechet_distance(self._features(levels), self.features),
            "agreement": (learned(self.test_levels) == self.test_labels).double().mean().item(),
        }


def methods_of(pipeline: DDPMPaperPipeline, images: ImageData, evaluations: int, seed: int) -> dict[str, Method]:
    """All the ways to sample that are compared."""
    unet = without_variance(pipeline.unet)
    some = list(images.train.labelled_batches(256))
    plain = DDPMPaperScheduler.from_config(
        pipeline.scheduler.config, variance_type="fixed_small", first_variance=None, denoising_errors=None
    )
    errors = measured_errors(unet, plain, some, len(images.train), seed, torch.device("cpu"))
    scheduler = with_errors(plain, errors)
    machine = accelerate.Accelerator()

    def ours(chain: DDPMPaperScheduler, spacing: str, eta: float | None = None, model: Any = None) -> Method:
        chained = DDPMPaperPipeline(unet if model is None else model, chain)
        chained.set_progress_bar_config(disable=True)

        def samples(K: int, count: int) -> Tensor:
            return draw_images(chained, count, BATCH, K, seed, machine, None, spacing, eta)

        def bits(K: int) -> dict[str, float]:
            chain.set_timesteps(K, timestep_spacing=spacing)
            return bits_of_chain(chained.unet, chain, images.test, machine, evaluations, seed)

        return Method(samples, bits if eta is None else None)

    def fixed(variance_type: str) -> DDPMPaperScheduler:
        chain = DDPMPaperScheduler.from_config(plain.config, variance_type=variance_type)
        return with_errors(chain, errors, keeps_variance=True)

    def stock(kind: type, **options: Any) -> Method:
        config = plain.to_stock().config
        return Method(lambda K, count: stock_samples(unet, kind.from_config(config, **options), K, count, seed))

    methods = {
        "β̃, even times": ours(fixed("fixed_small"), "linspace"),
        "β, even times": ours(fixed("fixed_large"), "linspace"),
        "σ*, even times": ours(scheduler, "linspace"),
        "σ*, optimal times": ours(DDPMPaperScheduler.from_config(scheduler.config), "optimal"),
        "DDIM, η = 0": ours(DDPMPaperScheduler.from_config(scheduler.config), "linspace", eta=0.0),
        "ODE": Method(lambda K, count: flow_samples(unet, scheduler, K, count, seed)),
        "stock DDPM": stock(DDPMScheduler, variance_type="fixed_small", timestep_spacing="linspace"),
        "stock DDIM": stock(DDIMScheduler, timestep_spacing="linspace"),
        "stock DPMSolverMultistep": stock(DPMSolverMultistepScheduler, timestep_spacing="linspace"),
    }
    if pipeline.scheduler.process.learns_variance:
        for name, spacing in (("learned, even times", "linspace"), ("learned, optimal times", "optimal")):
            learned = DDPMPaperScheduler.from_config(pipeline.scheduler.config)
            methods[name] = ours(learned, spacing, model=pipeline.unet)
    return methods


def bits_of_chain(
    unet: UNet2DModel,
    scheduler: DDPMPaperScheduler,
    images: LevelImages,
    machine: accelerate.Accelerator,
    evaluations: int,
    seed: int,
) -> dict[str, float]:
    """Of the chain that the scheduler visits; a short one gets several draws of noise, in as many calls as a long."""
    draws = [
        score(unet, scheduler, images, machine, BATCH, evaluations, seed + draw)
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
    """The model that predicts the same, and no variance."""
    channels = unet.config.in_channels
    if unet.config.out_channels == channels:
        return unet
    weights = unet.state_dict()
    weights |= {name: weights[name][:channels] for name in ("conv_out.weight", "conv_out.bias")}
    alone = UNet2DModel.from_config(unet.config, out_channels=channels)
    alone.load_state_dict(weights)
    return alone.eval()


def flow_samples(unet: UNet2DModel, scheduler: DDPMPaperScheduler, K: int, count: int, seed: int) -> Tensor:
    """Samples along the probability-flow ODE."""
    if K < 2:
        return torch.full((count, *image_shape(unet)), math.nan)  # no call is left for a step
    # Heun's method asks the model twice a step, and the end once more; of few calls Euler's makes more steps.
    options = {"method": "euler", "num_steps": K - 1} if K < 10 else {"method": "heun2", "num_steps": (K - 1) // 2}
    noise = torch.randn((count, *image_shape(unet)), generator=torch.Generator().manual_seed(seed))
    parts = [flow_sample(denoiser(unet), scheduler, part, **options).sample for part in noise.split(BATCH)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def stock_samples(unet: Any, scheduler: Any, K: int, count: int, seed: int) -> Tensor:
    """Samples of one of diffusers' own schedulers, by the loop of its pipelines."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for first in range(0, count, BATCH):
        scheduler.set_timesteps(K)  # anew: some keep what they have seen of the batch before
        x = (
            torch.randn((min(BATCH, count - first), *image_shape(unet)), generator=generator)
            * scheduler.init_noise_sigma
        )
        more = {} if isinstance(scheduler, DDIMScheduler) else {"generator": generator}  # which adds no noise here
        for t in scheduler.timesteps:
            output = unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x, **more).prev_sample
        drawn.append((x / 2 + 0.5).clamp(0, 1))
    return torch.cat(drawn)


def save_plot(results: dict[str, dict[str, dict[str, float]]], references: dict[str, float], path: Path) -> None:
    """Every figure by the number of model calls."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    for axis, (name, title) in zip(axes.flat, FIGURES.items(), strict=True):
        for k, (method, by_calls) in enumerate(results.items()):
            points = [(int(K), figures[name]) for K, figures in by_calls.items() if name in figures]
            if points:
                style = {"linestyle": "--" if method.startswith("stock") else "-", "marker": "ov^s"[k % 4]}
                axis.plot(
                    *zip(*points, strict=True),
                    label=method,
                    color=plt.get_cmap("tab20")(2 * k % 20 + k // 10),
                    markersize=4,
                    **style,
                )
        if name in references:
            axis.axhline(references[name], color="black", linewidth=0.8, linestyle=":", label="test images")
        axis.set(xscale="log", xlabel="model calls", ylabel=title)
        if name != "agreement":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(results: dict[str, dict[str, dict[str, float]]], steps: list[int]) -> str:
    """The figures as Markdown, one table each."""
    lines = []
    for name, title in FIGURES.items():
        lines += ["", f"| {title} | {' | '.join(map(str, steps))} |", f"| --- |{' --- |' * len(steps)}"]
        for method, by_calls in results.items():
            cells = [by_calls.get(str(K), {}).get(name) for K in steps]
            if any(cell is not None for cell in cells):
                shown = ["–" if cell is None else f"{cell:.3f}" for cell in cells]
                lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__, "few_steps")
    parser.add_argument("--model", default="runs/digits", help="a folder, or a name on the Hub")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25, 50, 100, 1000], help="model calls")
    parser.add_argument("--samples", type=int, default=500, help="of every method and number of steps")
    parser.add_argument("--evaluations", type=int, default=400, help="model calls per image for the bits/dim")
    parser.add_argument("--flow-images", type=int, default=64, help="scored by the ODE; 0 for none")
    parser.add_argument("--methods", nargs="+", help="some of the table's rows, by their names; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser)
    device = torch.device("cpu")
    use_all_cores(device)
    images = load_images(DataArguments())
    pipeline = load_pipeline(ModelPathArguments(arguments.model), device)
    judge = Judge(images)
    methods = methods_of(pipeline, images, arguments.evaluations, arguments.seed)
    if unknown := set(arguments.methods or ()) - set(methods):
        parser.error(f"There is no method {', '.join(sorted(unknown))}; there are {'; '.join(methods)}.")
    methods = {name: method for name, method in methods.items() if name in (arguments.methods or methods)}
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    bar = tqdm([(K, name) for K in arguments.steps for name in methods], unit="run")
    for K, name in bar:
        bar.set_postfix_str(f"{name}, {K} calls")
        began = time.perf_counter()
        figures = judge.figures(methods[name].samples(K, arguments.samples))
        figures["seconds_of_sampling"] = time.perf_counter() - began
        if methods[name].bits is not None:
            figures |= methods[name].bits(K)
        results[name][str(K)] = figures
        told = {"method": name, "model calls": K} | figures
        bar.write(json.dumps(told, ensure_ascii=False))  # what is known outlasts a run that is stopped
    references = judge.figures((levels_of(images.test) / (images.test.num_levels - 1))[: arguments.samples])
    facts = {"test images": references, "samples": arguments.samples, "threads": torch.get_num_threads()}
    if arguments.flow_images:
        options = EvaluationArguments(num_flow_images=arguments.flow_images, batch_size=BATCH, seed=arguments.seed)
        facts["likelihood by the ODE"] = score_by_flow(pipeline, images.test, options, accelerate.Accelerator())
        print(facts["likelihood by the ODE"])
    print(table(results, arguments.steps))
    write_report(arguments.output, results, diffusers, sklearn, **facts)
    save_plot(results, references, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
