# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Code that the scripts share: averaged weights, output folders, configurations."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from PIL import Image
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from tiny_models import tiny_unet
from torch import nn

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from ddpm_hf.cli.parsing import parse
from ddpm_hf.conditioning.classes import of_classes
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation.features import PIXELS
from ddpm_hf.evaluation.frechet_distance import at_equal_numbers, frechet_distance
from ddpm_hf.evaluation.sample_quality import Judge
from ddpm_hf.evaluation.sampling import draw_images
from ddpm_hf.reporting.figures import save_grid
from ddpm_hf.runtime.output_folder import claim_folder, replace_folder, write_file, write_folder
from ddpm_hf.tasks.arguments import DiffusionArguments, ModelArguments
from ddpm_hf.tasks.building import build_scheduler, build_unet
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.flat_weights import FlatWeights
from ddpm_hf.training.weight_averages import WeightAverage, averaged


CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_flat", [False, True])
def test_the_average_follows_its_recursion_and_is_swapped_back(is_flat: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    flat = FlatWeights(model) if is_flat else None
    average = WeightAverage(model, inv_gamma=1.0, power=0.75, max_decay=0.9, flat=flat)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for step in range(1, 40):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(torch.randn_like(tensor) if tensor.is_floating_point() else 1)
        average.update()
        decay = min(0.9, 1 - step**-0.75)
        for name in expected:
            expected[name] = decay * expected[name] + (1 - decay) * model.state_dict()[name].double()
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with averaged(average, model):
        for name, tensor in expected.items():
            torch.testing.assert_close(model.state_dict()[name].double(), tensor, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, last[name]) for name, tensor in model.state_dict().items())


def test_flat_weights_are_stepped_as_the_models_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(2, 2))  # the last is not used
    own, before = copy.deepcopy(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flat = FlatWeights(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() % 64 == 0, "where an allocation of its own could begin"
    steps = [torch.optim.AdamW(p, lr=0.1, weight_decay=0.0) for p in (own.parameters(), [flat.parameter])]
    x = torch.randn(4, 5)
    for _ in range(5):
        for each, optimizer, parameters in (
            (own, steps[0], list(own.parameters())),
            (model, steps[1], [flat.parameter]),
        ):
            for window in x.split(2):  # gradients add up
                each[:3](window).square().sum().backward()
            if each is model:
                flat.take_gradients()
                assert all(parameter.grad is None for parameter in model.parameters())
            norm = nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
            optimizer.zero_grad()
            each.norm_seen = norm
        torch.testing.assert_close(model.norm_seen, own.norm_seen)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, own.state_dict()[name])
        assert torch.equal(tensor, before[name]) == name.startswith("3.")
    assert torch.equal(flat.views(flat.parameter)["2.bias"], model[2].bias)


def test_a_model_on_flat_weights_is_copied_saved_and_loaded_as_any(tmp_path: Path) -> None:
    unet = tiny_unet()
    expected = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    flat = FlatWeights(unet)
    unet.save_pretrained(tmp_path)
    loaded, copied = UNet2DModel.from_pretrained(tmp_path).state_dict(), copy.deepcopy(unet)
    with torch.no_grad():
        flat.parameter.add_(1)
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor) and torch.equal(copied.state_dict()[name], tensor)
        assert torch.equal(unet.state_dict()[name], tensor + 1)
    unet.load_state_dict(expected)
    assert torch.equal(flat.views(flat.parameter)["conv_in.weight"], expected["conv_in.weight"])


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_file_that_fails_half_way_never_looks_whole(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    (tmp_path / "kept.json").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "kept.json", fail)
    assert (tmp_path / "kept.json").read_text() == "old"
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path, lambda partial: (partial.mkdir(), fail(partial / "weights")), last="index")
    assert not (tmp_path / "weights").exists()


def test_a_folder_in_use_is_claimed_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert claim_folder(str(tmp_path / "run"), overwrite=False).is_dir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds another run"):
        claim_folder(str(tmp_path / "run"), overwrite=False)
    assert claim_folder(str(tmp_path / "run"), overwrite=True).is_dir()


def test_a_grid_shows_every_image_where_it_belongs(tmp_path: Path) -> None:
    images = torch.linspace(0, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 64, 64)
    save_grid(images, tmp_path / "grid.png", columns=3, margin=2)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 66 + 2, 3 * 66 + 2)
    assert [int(grid[34 + 66 * (k // 3), 34 + 66 * (k % 3)]) for k in range(5)] == [0, 64, 128, 191, 255]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(folder: Path, name: str) -> None:
        folder.mkdir()
        (folder / name).write_text("whole")

    def fail(folder: Path) -> None:
        fill(folder, "half")
        raise OSError("disk full")

    replace_folder(tmp_path / "kept", lambda folder: fill(folder, "old"))
    with pytest.raises(OSError, match="disk full"):
        replace_folder(tmp_path / "kept", fail)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["old"]
    replace_folder(tmp_path / "kept", lambda folder: fill(folder, "new"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# --- quality --------------------------------------------------------------------------------------------------------


def test_the_frechet_distance_of_gaussians_is_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((5, 5))
    a = torch.from_numpy(rng.standard_normal((400, 5)) @ mix + 1.0)
    b = torch.from_numpy(rng.standard_normal((300, 5)))
    sigma_a, sigma_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = means + np.trace(sigma_a + sigma_b - 2 * sqrtm(sigma_a @ sigma_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Scaled and shifted, the covariances commute: ‖shift‖² + Σ (scale − 1)² variance.
    moved = 3 * a + 2
    shift = ((moved.mean(0) - a.mean(0)) ** 2).sum().item()
    assert frechet_distance(moved, a) == pytest.approx(shift + 4 * np.trace(sigma_a), rel=1e-9)


def pixel_frechet_distance(images: torch.Tensor, others: torch.Tensor) -> float:
    return frechet_distance(PIXELS.of(images), PIXELS.of(others))


def test_the_distance_of_pixels_needs_no_more_images_than_pixels() -> None:
    train, test = (torch.from_numpy(load_digits().images)[:, None].float() / 8 - 1).split([1500, 297])
    distance = pixel_frechet_distance(test, train)
    assert 1.2 < distance < 1.5  # other writers: not 0, though the digits are as real
    # Averaged down, each pixel fourfold is the pixel itself.
    enlarged = [images.repeat_interleave(4, -1).repeat_interleave(4, -2) for images in (test[:50], train[:60])]
    small = [images.repeat_interleave(2, -1).repeat_interleave(2, -2) for images in (test[:50], train[:60])]
    assert pixel_frechet_distance(*enlarged) == pytest.approx(pixel_frechet_distance(*small), rel=1e-5)


def digits(first: int, last: int, labelled: bool = True) -> LevelImages:
    data = load_digits()
    columns = of_classes(data.target[first:last].tolist()) if labelled else {}
    return LevelImages.in_memory(torch.from_numpy(data.images[first:last, None]).to(torch.uint8), 17, columns)


def test_real_images_and_samples_are_compared_in_equal_numbers() -> None:
    # Of one distribution 100 images are as far from the others as any 100 are, and farther than 400 are.
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1000, 1, 4, 4, generator=generator) * 2 - 1
    train, test, samples = images[:500], images[500:600], images[600:]
    of_samples, of_train, of_test = map(PIXELS.of, (samples, train, test))
    equal = at_equal_numbers(of_samples, of_train, of_test)
    assert (equal["images"], equal["reference_images"]) == (100, 400)
    of_each = [equal[kind] for kind in ("samples", "training_images", "test_images")]
    assert max(of_each) < 1.5 * min(of_each)
    assert pixel_frechet_distance(samples, train) < 0.6 * min(of_each)
    held_back, others = train[::5], train[torch.arange(500) % 5 != 0]
    assert equal["training_images"] == pytest.approx(pixel_frechet_distance(held_back, others))
    alone = at_equal_numbers(of_samples, of_train, of_test[:0])
    assert (alone["images"], alone["test_images"]) == (125, None)
    assert at_equal_numbers(of_samples, of_train[:7], of_test) is None


def test_a_judge_knows_real_images_from_noise() -> None:
    judge = Judge(digits(0, 1500), digits(1500, 1797))
    real, test = (images.batch(0, 1500)[0] / 2 + 0.5 for images in (digits(0, 1500), digits(1500, 1797)))
    noise = torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    figures, of_noise = judge.figures(real), judge.figures(noise)
    machine = SVC(gamma=0.001).fit(load_digits().data[:1500], load_digits().target[:1500])
    score = machine.score(load_digits().data[1500:], load_digits().target[1500:])
    assert figures["agreement"] == pytest.approx(score, abs=0.01)  # of the training images it is the classifier itself
    assert figures["frechet_distance_pixels"] == pytest.approx(0, abs=1e-6)
    assert figures["frechet_distance_features"] == pytest.approx(0, abs=1e-6)
    assert of_noise["agreement"] < 0.5
    assert of_noise["frechet_distance_features"] > 10 * judge.figures(test)["frechet_distance_features"]
    assert judge.references(digits(1500, 1797), 99) == judge.figures(test[::3])
    assert judge.figures(torch.full_like(noise, math.nan)) == {}
    blank = judge.figures(torch.zeros(20, 1, 8, 8))  # all alike: of one class
    assert blank["agreement"] == pytest.approx(0.1, abs=0.05)


def test_a_judge_of_images_without_classes_looks_at_pixels() -> None:
    judge = Judge(digits(0, 100, labelled=False), digits(100, 150, labelled=False))
    assert set(judge.figures(torch.rand(20, 1, 8, 8))) == {"frechet_distance_pixels"}


# --- models and schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shape", "parameters"),
    [("cifar10.yaml", (3, 32, 32), 35_746_307), ("images256.yaml", (3, 256, 256), 113_673_219)],
)
def test_the_papers_models_have_the_published_sizes(config: str, shape: tuple[int, ...], parameters: int) -> None:
    classes = (ModelArguments, DataArguments, DiffusionArguments, TrainingArguments)
    model, _, diffusion, _ = parse("train.py", *classes, argv=[str(CONFIGS / config)])
    images = LevelImages.in_memory(torch.zeros((1, *shape), dtype=torch.uint8), num_levels=256)
    with torch.device("meta"):
        unet = build_unet(model, diffusion, images)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    scheduler = build_scheduler(diffusion, 256)
    assert torch.equal(scheduler.schedule.log_alphas_cumprod, NoiseSchedule.linear(1000).log_alphas_cumprod)


def test_a_recipe_sets_what_its_paper_did_and_gives_way_to_what_is_said(tmp_path: Path) -> None:
    def diffusion(*argv: str) -> DiffusionArguments:
        return parse("train.py", ModelArguments, DiffusionArguments, argv=argv)[1]

    ddpm, improved = diffusion("--recipe", "ddpm"), diffusion("--recipe=improved")
    assert (ddpm.objective, ddpm.prediction_type, ddpm.ddpm_beta_schedule) == ("simple", "epsilon", "linear")
    assert (improved.objective, improved.variance_type, improved.ddpm_num_steps) == ("hybrid", "learned_range", 4000)
    assert diffusion() == DiffusionArguments()
    assert (diffusion().variance_type, diffusion().vlb_weight) == ("learned_range", 0.1)
    assert (diffusion().variance_stride, improved.variance_stride) == (20, 1)  # the paper's bound is of all steps
    assert diffusion("--variance_steps", "30").variance_stride == 34
    assert diffusion("--objective", "simple").variance_type == "optimal"  # which that objective does not train
    settings = tmp_path / "settings.yaml"
    settings.write_text("recipe: improved\nobjective: vlb\nddpm_num_steps: 100\n")
    given = diffusion(str(settings), "--ddpm_num_steps", "50")
    assert (given.objective, given.variance_type, given.ddpm_num_steps) == ("vlb", "learned_range", 50)
    assert diffusion(str(settings), "--recipe", "ddpm").prediction_type == "epsilon"


# --- samples ---------------------------------------------------------------------------------------------------------


def test_neighbouring_seeds_share_no_image() -> None:
    pipeline = DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(20, clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    drawn = [
        draw_images(pipeline, 5, size, 2, seed, Accelerator(), eta=0.0) for seed, size in ((0, 5), (0, 2), (1, 5))
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-4)  # whatever the batch
    assert torch.cdist(drawn[0].flatten(1), drawn[2].flatten(1)).min() > 0.1
