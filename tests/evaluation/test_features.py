# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Fréchet distances of the features of networks: the networks and their input, the distance, and what a user sees."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import in_process
import numpy as np
import pytest
import torch
from hooks import few_digits
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn
from torch.nn.functional import interpolate
from training_runs import TINY, refused, train

from ddpm_hf.cli import evaluate
from ddpm_hf.conditioning.classes import of_classes
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation import efficientnet, inception, sample_quality
from ddpm_hf.evaluation.arguments import QualityArguments
from ddpm_hf.evaluation.efficientnet import efficientnet_features, load_efficientnet, normalised
from ddpm_hf.evaluation.features import PIXELS, Features, as_rgb, by_batches
from ddpm_hf.evaluation.frechet_distance import at_equal_numbers, frechet_distance, quality_of
from ddpm_hf.evaluation.inception import inception_features
from ddpm_hf.evaluation.quality_features import check_quality_features, load_quality_features
from ddpm_hf.evaluation.sample_quality import Judge
from ddpm_hf.results import checked


CPU = torch.device("cpu")
KEY = "frechet_distance_efficientnet_lite0"
BY_NETWORK = ["--quality_features", "pixels", "efficientnet_lite0"]


def lacks(*modules: str) -> bool:
    return any(importlib.util.find_spec(module) is None for module in modules)


needs_efficientnet = pytest.mark.skipif(
    lacks(efficientnet.NETWORK, efficientnet.PACKAGE), reason='EfficientNet-Lite0 needs the extra "features"'
)
needs_torchmetrics = pytest.mark.skipif(lacks("torchmetrics"), reason='torchmetrics needs the extra "features"')
needs_inception = pytest.mark.skipif(
    lacks("torchmetrics", "torch_fidelity"), reason="Inception needs torchmetrics and torch-fidelity"
)


@pytest.fixture(scope="module")
def network() -> Features:
    return efficientnet_features(CPU)


def photographs() -> Tensor:
    """Squares of scikit-learn's two photographs, `[6, 3, 427, 427]` in [0, 1]."""
    photos = [torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255 for photo in load_sample_images().images]
    return torch.stack([photo[:, :427, left : left + 427] for photo in photos for left in (0, 100, 213)])


def normal(count: int, dimensions: int, seed: int) -> Tensor:
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_moments(count: int, mean: Tensor, root: Tensor) -> Tensor:
    """Features whose mean is `mean`, and whose covariance is exactly rootᵀ root."""
    white = normal(count, len(mean), 0)
    white = torch.linalg.qr(white - white.mean(0)).Q * (count - 1) ** 0.5
    return white @ root + mean


# --- the distance ----------------------------------------------------------------------------------------------------


def test_the_distance_of_known_gaussians_is_its_closed_form() -> None:
    turn = torch.linalg.qr(normal(6, 6, 1)).Q
    first, second = torch.arange(1.0, 7.0, dtype=torch.float64), torch.tensor([2.0, 0.5, 3.0, 1.0, 0.0, 4.0])
    shift = normal(1, 6, 2)[0]
    a = with_moments(40, torch.zeros(6, dtype=torch.float64), first.diag() @ turn.T)
    b = with_moments(90, shift, second.double().diag() @ turn.T)
    expected = shift.square().sum() + (first - second).square().sum()  # the covariances commute
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-12)


def test_fewer_images_than_dimensions_have_a_distance_too() -> None:
    # In a subspace that the features of both sets span, the distance is that of the coordinates.
    plane = torch.linalg.qr(normal(500, 7, 3)).Q
    a, b = normal(30, 7, 4), 2 * normal(50, 7, 5) + 1
    assert frechet_distance(a @ plane.T, b @ plane.T) == pytest.approx(frechet_distance(a, b), rel=1e-12)
    # Features that stand upright on each other have no covariance in common: only means and traces remain.
    left, right = torch.zeros(20, 100).double(), torch.zeros(25, 100).double()
    left[:, :50], right[:, 50:] = normal(20, 50, 6), normal(25, 50, 7)
    apart = (left.mean(0) - right.mean(0)).square().sum() + left.var(0).sum() + right.var(0).sum()
    assert frechet_distance(left, right) == pytest.approx(apart.item(), rel=1e-12)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-10)


@needs_torchmetrics
@pytest.mark.parametrize("counts", [(200, 300), (20, 300), (12, 15)])  # of 24 dimensions
def test_torchmetrics_finds_the_same_distance(counts: tuple[int, int]) -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = normal(counts[0], 24, 8) @ normal(24, 24, 9), normal(counts[1], 24, 10) + 0.5
    theirs = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item()
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)


@needs_torchmetrics
def test_torchmetrics_finds_the_same_distance_of_images() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Extractor(nn.Module):
        num_features = 24

        def forward(self, images: Tensor) -> Tensor:
            return (images.double().flatten(1) @ normal(192, 24, 11)).tanh()

    real, fake = (torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)) for count in (90, 60))
    metric = FrechetInceptionDistance(Extractor(), input_img_size=(3, 8, 8))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = quality_of(fake, 1, real * 2 - 1, real[:0], [Features("inception", lambda x: Extractor()((x + 1) / 2))])
    assert ours["frechet_distance_inception"] == pytest.approx(metric.compute().item(), rel=1e-6)


# --- images ----------------------------------------------------------------------------------------------------------


def test_grey_is_repeated_and_transparent_images_lie_on_white() -> None:
    grey = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    assert torch.equal(as_rgb(grey), torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 1, 3))
    colour = torch.rand(1, 3, 4, 5) * 2 - 1
    assert torch.allclose(as_rgb(colour), (colour + 1) / 2)
    for alpha in (0, 51, 255):
        rgba = torch.randint(0, 256, (1, 4, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        rgba[:, 3] = alpha
        picture = Image.fromarray(rgba[0].permute(1, 2, 0).numpy(), "RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        expected = torch.from_numpy(np.array(white)).permute(2, 0, 1)[None] / 255
        assert torch.allclose(as_rgb(rgba / 127.5 - 1), expected, atol=0.6 / 255)
    with pytest.raises(ValueError, match="of 1, 3 or 4 channels, but these have 2"):
        as_rgb(torch.zeros(1, 2, 4, 4))


def test_features_do_not_depend_on_batches() -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.mean((2, 3))

    images = torch.rand(37, 1, 3, 3) * 2 - 1
    found = by_batches(network)(images)
    assert seen == [16, 16, 5] and torch.allclose(found, ((images + 1) / 2).mean((2, 3)).expand(-1, 3))


# --- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------


@needs_efficientnet
def test_the_network_sees_what_it_was_trained_on() -> None:
    """With the right input, features of photographs have the variances that the weights say they have."""
    model, photos = load_efficientnet(), photographs()
    ratios = []

    def compare(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        known = layer.running_var > 1e-4  # a few channels are dead
        ratios.append((inputs[0].var((0, 2, 3)) / layer.running_var)[known].log().median().item())

    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][:6]
    for layer in layers:
        layer.register_forward_pre_hook(compare)
    model.extract_features(normalised(photos))
    ours, ratios = torch.tensor(ratios), []
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of EfficientNet-B0
    resized = interpolate(photos, (224, 224), mode="bilinear", antialias=True)
    model.extract_features((resized - mean[:, None, None]) / deviation[:, None, None])
    assert len(ours) == 6 and ours.mean().abs() < 0.35 and torch.tensor(ratios).mean() > 2 * ours.mean().abs()


@needs_efficientnet
def test_the_network_names_what_is_in_a_photograph() -> None:
    """ImageNet's classes 442 and 985 are a bell cote and a daisy; the photographs show a temple and a flower."""
    model = load_efficientnet()
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    likely = model(normalised(photographs())).topk(3).indices
    assert all(442 in of_one for of_one in likely[:3]) and all(985 in of_one for of_one in likely[3:])


@needs_efficientnet
def test_features_are_the_input_of_the_last_layer(network: Features) -> None:
    photos = photographs()[[0, 3]]
    features = network.of(photos * 2 - 1)
    assert features.shape == (2, 1280) and features.dtype == torch.float32 and bool((features >= 0).all())
    model = load_efficientnet()
    assert torch.allclose(model._fc(features), model(normalised(photos)), atol=1e-4)
    assert torch.allclose(network.of(photos * 2 - 1), features)


@needs_efficientnet
def test_loading_a_network_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_efficientnet()
    assert torch.equal(before, torch.get_rng_state())


@needs_efficientnet
def test_worse_images_are_farther_away(network: Features) -> None:
    images = torch.from_numpy(load_digits().images[:24, None] / 8 - 1).float()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    of_images = network.of(images)
    assert frechet_distance(of_images, of_images) == pytest.approx(0, abs=1e-6)
    other, *worse = (frechet_distance(network.of((images + s * noise).clamp(-1, 1)), of_images) for s in (0.1, 0.3, 1))
    assert 0 < other < worse[0] < worse[1]


@needs_efficientnet
def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = efficientnet.weights_of_package().read_bytes()
    package = tmp_path / "a_package"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    weights = package / efficientnet.WEIGHTS_OF_PACKAGE
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package")
    sentence = re.escape(f"`quality_features` efficientnet_lite0: {weights} is not the file it should be; reinstall")
    with pytest.raises(ValueError, match=sentence):
        load_efficientnet()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=sentence):
        load_efficientnet()
    weights.write_bytes(whole)
    assert efficientnet.weights_of_package() == weights


@pytest.mark.parametrize("missing", ["PACKAGE", "NETWORK"])
def test_without_its_package_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(efficientnet, missing, "no_such_package")
    with pytest.raises(ValueError, match=r'efficientnet_lite0 is not installed: pip install "ddpm_hf\[features\]"\.'):
        check_quality_features(QualityArguments(quality_features=["efficientnet_lite0"]))


# --- Inception -------------------------------------------------------------------------------------------------------


@needs_inception
def test_inception_is_that_of_torchmetrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With weights of one's own, since those of the FID are not in any package."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance

    monkeypatch.setattr(torch, "load", lambda *_, **__: None)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    torch.manual_seed(0)
    random = FeatureExtractorInceptionV3("own", ["2048"], feature_extractor_weights_path="none")
    monkeypatch.undo()
    path = tmp_path / inception.WEIGHTS
    torch.save(random.state_dict(), path)
    with pytest.raises(ValueError, match=r"is damaged or another file; it must be pt_inception-2015-12-05-6726825d"):
        inception_features(str(path), CPU)
    monkeypatch.setattr(inception, "CHECKSUM", inception.sha256_of(path))
    levels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = inception_features(str(path), CPU).of(levels / 127.5 - 1)
    assert features.shape == (9, 2048)
    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(path))
    assert torch.allclose(features, metric.inception(levels), atol=1e-5)
    metric.update(levels[:5], real=True)
    metric.update(levels[5:], real=False)
    assert frechet_distance(features[:5], features[5:]) == pytest.approx(metric.compute().item(), rel=1e-3)


@pytest.fixture
def both_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "PACKAGES", {"json": "json"})


def test_weights_that_cannot_be_used_are_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, both_installed: None
) -> None:
    wanted = re.escape(inception.WEIGHTS)
    with pytest.raises(ValueError, match=rf"inception needs its weights: pass --inception_weights with {wanted}\."):
        check_quality_features(QualityArguments(quality_features=["inception"]))
    with pytest.raises(ValueError, match=rf"`inception_weights` nowhere is not a file; it must be {wanted}\."):
        check_quality_features(QualityArguments(quality_features=["inception"], inception_weights="nowhere"))
    other = tmp_path / inception.WEIGHTS
    other.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=rf"is damaged or another file; it must be {wanted}\."):
        check_quality_features(QualityArguments(quality_features=["inception"], inception_weights=str(other)))
    with pytest.raises(ValueError, match="`inception_weights` is for `quality_features` inception, which is not"):
        check_quality_features(QualityArguments(inception_weights=str(other)))
    monkeypatch.setattr(inception, "PACKAGES", {"json": "json", "no_such_package": "torch-fidelity"})
    with pytest.raises(ValueError, match=r"inception needs torch-fidelity: pip install torch-fidelity\."):
        check_quality_features(QualityArguments(quality_features=["inception"], inception_weights=str(other)))


def test_the_checksum_is_the_one_in_the_name_of_the_file() -> None:
    assert inception.CHECKSUM.startswith(inception.WEIGHTS.removesuffix(".pth").rsplit("-", 1)[1])


# --- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [[], ["fid"], ["pixels", "pixels"], ["pixels", "efficientnet_lite0", "resnet"]], ids=str
)
def test_unknown_features_are_refused(names: list[str]) -> None:
    sentence = "`quality_features` must be one or several of pixels, efficientnet_lite0, inception, each once, but is"
    with pytest.raises(ValueError, match=re.escape(f"{sentence} {names}")):
        check_quality_features(QualityArguments(quality_features=names))


def test_features_of_no_samples_are_refused() -> None:
    check_quality_features(QualityArguments(num_quality_samples=0))
    with pytest.raises(ValueError, match="needs samples: `num_quality_samples` must be at least 2, but is 0"):
        check_quality_features(QualityArguments(num_quality_samples=0, quality_features=["efficientnet_lite0"]))


def test_pixels_alone_are_the_default() -> None:
    assert load_quality_features(QualityArguments(), CPU) == [PIXELS]


def test_features_are_compared_in_equal_numbers() -> None:
    """Of one distribution all kinds are equally far, though there are fewer images than features."""
    project = normal(48, 600, 12).float()
    wide = Features("efficientnet_lite0", lambda images: images.flatten(1) @ project)
    images = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    train, test, samples = images[:200] * 2 - 1, images[200:250] * 2 - 1, images[250:]
    figures = quality_of(samples, 10, train, test, [wide])
    checked(figures)
    assert "frechet_distance_pixels" not in figures and "quality_resolution" not in figures
    assert (figures["quality_samples"], figures["quality_training_images"]) == (150, 200)
    equal = figures[f"{KEY}_at_equal_numbers"]
    assert (equal["images"], equal["reference_images"]) == (50, 150)
    kinds = [equal[kind] for kind in ("samples", "training_images", "test_images")]
    assert max(kinds) < 1.2 * min(kinds) and figures[KEY] < 0.7 * min(kinds)
    rows = wide.of(train)
    held_back, others = rows[::4], rows[torch.arange(200) % 4 != 0]
    assert equal["training_images"] == pytest.approx(frechet_distance(held_back, others), rel=1e-9)
    assert at_equal_numbers(rows, rows[:7], rows) is None


def test_a_judge_compares_every_feature() -> None:
    def twice(images: Tensor) -> Tensor:
        return 2 * PIXELS.of(images)

    data = load_digits()
    levels = torch.from_numpy(data.images[:, None]).to(torch.uint8)
    train, test = (
        LevelImages.in_memory(levels[part], 17, of_classes(data.target[part].tolist()))
        for part in (slice(200), slice(200, 300))
    )
    judge, pixels_alone = Judge(train, test, [PIXELS, Features("doubled", twice)]), Judge(train, test)
    samples = test.batch(0, 50)[0] / 2 + 0.5
    figures, usual = judge.figures(samples), pixels_alone.figures(samples)
    assert figures.pop("frechet_distance_doubled") == pytest.approx(4 * usual["frechet_distance_pixels"])
    assert figures == usual and set(usual) == {"frechet_distance_pixels", "frechet_distance_features", "agreement"}
    without = Judge(train, test, [Features("doubled", twice)]).figures(samples)
    assert set(without) == {"frechet_distance_doubled", "frechet_distance_features", "agreement"}
    assert judge.references(test, 50)["frechet_distance_doubled"] > 0
    assert judge.figures(samples * math.nan) == {}


# --- what a user sees ------------------------------------------------------------------------------------------------


@needs_efficientnet
def test_a_run_is_judged_by_the_features_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate, "save_evaluation", lambda *_: None)
    monkeypatch.setattr(sample_quality, "IMAGES_OF_A_DATA_SET", 24)
    run = tmp_path / "run"
    few = ["--max_train_steps", 1, "--validation_steps", 0, "--checkpointing_steps", 0]
    output = train(run, *TINY, *few, *BY_NETWORK, digits=few_digits(40, 12))
    report, card = json.loads((run / "metrics.json").read_text()), (run / "README.md").read_text(encoding="utf-8")
    equal, name = report[f"{KEY}_at_equal_numbers"], "Fréchet distance of EfficientNet-Lite0 features"
    assert report["frechet_distance_pixels"] > 0 and report[KEY] > 0
    assert (report["quality_samples"], equal["images"], equal["reference_images"]) == (4, 4, 36)
    assert f"{report[KEY]:.4f} {name} between the training images and 4 samples of 6 steps\n" in output
    assert (
        f"  of 4 images of each kind from the other 36 training images: {equal['samples']:.4f} of samples,"
        f" {equal['training_images']:.4f} of training images, {equal['test_images']:.4f} of test images\n"
    ) in output
    assert f"| 4 images | {name} to the other 36 training images |" in card
    for value in (report[KEY], *(equal[kind] for kind in ("samples", "training_images", "test_images"))):
        assert f"| {value:.4f} |" in card
    assert f"type: {KEY}" in card
    arguments = ["--model_name_or_path", run, "--output_dir", tmp_path / "judged", "--max_images", 12]
    arguments += ["--few_steps", 2, "--num_quality_samples", 6, "--num_evaluations", 2]
    done = in_process.run("evaluate.py", *arguments, *BY_NETWORK)
    assert done.code == 0, done.output
    found = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert all(row[KEY] > 0 for row in found["few_steps"]) and found["quality_samples"] == 6
    assert found["quality_training_images"] == 24
    real = found["test_images_as_samples"]
    assert real["images"] == 6 and name in done.output
    assert (
        f"are of 6 samples from {found['quality_training_images']} training images; of 6 real images:" in done.output
    )
    assert f"{real[KEY]:.4f} {name}" in done.output


def test_a_run_refuses_features_before_it_starts(tmp_path: Path) -> None:
    weights = ["--inception_weights", tmp_path / "none.pth"]
    assert "must be one or several of" in refused(tmp_path / "x", *TINY, "--quality_features", "fid")
    assert "which is not among them" in refused(tmp_path / "x", *TINY, *weights)
    none = ["--num_quality_samples", 0, "--quality_features", "efficientnet_lite0"]
    assert "needs samples" in refused(tmp_path / "x", *TINY, *none)
    assert not (tmp_path / "x").exists()
    done = in_process.run("evaluate.py", "--quality_features", "efficientnet_lite0", "--output_dir", tmp_path / "y")
    assert done.code == 2 and "needs samples" in done.output
