# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The scripts in examples/ on real images, and their messages for a user's mistakes."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hooks import few_digits
from huggingface_hub import ModelCard
from in_process import run
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from tiny_models import tiny_unet
from training_runs import TINY_MODEL, names_in

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.cli import evaluate
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.loading import load_images
from ddpm_hf.evaluation.arguments import EvaluationArguments
from ddpm_hf.evaluation.sampling import draw_images, draw_images_by_ode
from ddpm_hf.evaluation.subject import Subject
from ddpm_hf.training import diffusion_scores


TINY_RUN = ["--ddpm_num_steps", "20", "--max_train_steps", "4", "--train_batch_size", "64", "--eval_batch_size", "4"]
TINY_RUN += ["--max_measured_images", "1", "--num_paths", "0", "--num_quality_samples", "8"]


@pytest.fixture(autouse=True)
def few() -> Iterator[None]:
    """A training gets few of the digits; whoever loads a model has all of them."""
    with few_digits():
        yield


def fails(script: str, *arguments: object) -> str:
    """What the script says to a mistake: one sentence, with exit status 2."""
    code, output = run(script, *arguments)
    assert code == 2, output
    lines = output.strip().splitlines()
    assert lines[-1].startswith(f"{script}: error: ") and "Traceback" not in output
    return lines[-1]


# --- train.py --------------------------------------------------------------------------------------------------------


def test_training_leaves_a_pipeline_samples_metrics_and_a_card(trained: Path) -> None:
    report = json.loads((trained / "metrics.json").read_text())
    assert report["bits_per_dim"] == pytest.approx(
        report["bits_per_dim_prior"] + report["bits_per_dim_rate"] + report["bits_per_dim_decoder"], rel=1e-9
    )
    assert report["bits_per_dim_standard_error"] > 0 and report["train_seconds"] > 0
    weighted = report["importance_weighted"]
    assert (weighted["paths"], weighted["images"]) == (4, 297) and 2 <= weighted["steps"] <= 20
    assert 0 < weighted["bits_per_dim"] < report["bits_per_dim"]
    assert report["num_levels"] == 17 and report["train_images"] == 1500 and report["test_images"] == 297
    assert Image.open(trained / "samples.png").mode == "L"
    pipeline = DDPMPaperPipeline.from_pretrained(trained)
    assert pipeline.scheduler.num_levels == 17
    assert pipeline.scheduler.variance_type == report["variance_type"] == "learned_range"
    assert pipeline.scheduler.denoising_errors.shape == ()
    assert not list(trained.rglob("*partial*"))
    output = trained.with_name("output.txt").read_text()
    assert "bits/dim on 297 test images" in output
    # The best times for the bound may be fewer than the 20 that there are.
    by_paths = r"bits/dim by 4 weighted paths of \d+ steps, a chain whose bound with one path is (\d\.\d{4})\n"
    bounds = weighted["bits_per_dim_by_number_of_paths"]
    assert re.search(by_paths, output)[1] == f"{bounds['1']:.4f}" and bounds["1"] > weighted["bits_per_dim"]


def test_sample_grids_are_drawn_along_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [*TINY_MODEL, *TINY_RUN, "--train_batch_size", 50, "--save_images_epochs", 1]
    assert run("train.py", *settings, "--output_dir", folder).code == 0
    assert [path.name for path in (folder / "samples").iterdir()] == ["step_0000003.png"]  # 3 steps an epoch, 4 in all


def test_errors_are_measured_on_so_many_images(tmp_path: Path) -> None:
    settings = [*TINY_MODEL, *TINY_RUN, "--max_train_steps", 1, "--max_measured_images", 1]
    done = run("train.py", *settings, "--output_dir", tmp_path / "run")
    assert done.code == 0, done.output
    errors = DDPMPaperPipeline.from_pretrained(tmp_path / "run").scheduler.denoising_errors
    assert len(errors.log_snr) == 8  # an image is seen at eight noise levels


def test_the_card_carries_the_figures_of_the_run(trained: Path) -> None:
    card = ModelCard.load(trained / "README.md")
    report = json.loads((trained / "metrics.json").read_text())
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    tighter, steps = (report["importance_weighted"][key] for key in ("bits_per_dim", "steps"))
    expected = {key: round(report[key], 4) for key in ("bits_per_dim", "frechet_distance_pixels")}
    assert values == expected | {"bits_per_dim_importance_weighted": round(tighter, 4)}
    assert f"of the chain of {steps} steps, with 4 paths per\nimage" in card.text
    assert f"{tighter:.4f} ±" in card.text
    assert f"| {report['frechet_distance_pixels']:.4f} |" in card.text
    assert f"{report['bits_per_dim']:.4f} ± {report['bits_per_dim_standard_error']:.4f}" in card.text
    assert "{{" not in card.text and "None" not in card.text


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    for name in "ab":
        done = run("train.py", *TINY_MODEL, *TINY_RUN, "--output_dir", tmp_path / name, "--seed", 3)
        assert done.code == 0, done.output
    weights = [DDPMPaperPipeline.from_pretrained(tmp_path / name).unet.state_dict() for name in "ab"]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_training_follows_a_settings_file_and_flags_win(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "block_out_channels: [8, 8]\nlayers_per_block: 1\nnorm_num_groups: 4\nattention_head_dim: 4\n"
        "ddpm_num_steps: 20\nmax_train_steps: 50\ntrain_batch_size: 64\neval_batch_size: 4\n"
        "max_measured_images: 1\nnum_paths: 0\nnum_quality_samples: 8\nnum_evaluations: 2\n"
        "variance_type: learned_range\nobjective: vlb\nprediction_type: v_prediction\nlearning_rate: 1e-3\n"
        f"output_dir: {tmp_path / 'run'}\n"
    )
    done = run("train.py", settings, "--max_train_steps", 2)
    assert done.code == 0, done.output
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (report["train_steps"], report["variance_type"], report["objective"]) == (2, "learned_range", "vlb")
    assert DDPMPaperPipeline.from_pretrained(tmp_path / "run").unet.config.out_channels == 2


@pytest.mark.parametrize(("recipe", "variance_type"), [("ddpm", "fixed_large"), ("improved", "learned_range")])
def test_training_by_the_recipe_of_a_paper(tmp_path: Path, recipe: str, variance_type: str) -> None:
    more = ["--recipe", recipe, "--timestep_sampling", "importance", "--output_dir", tmp_path / "run"]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *more)
    assert done.code == 0, done.output
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["variance_type"] == variance_type and report["bits_per_dim"] > 0
    config = DDPMPaperPipeline.from_pretrained(tmp_path / "run").scheduler.config
    assert (config.prediction_type, config.variance_type) == ("epsilon", variance_type)


def test_training_on_a_folder_of_rectangular_colour_images(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", [("RGB", (8, 16))] * 12)
    done = run("train.py", *TINY_MODEL, *TINY_RUN, "--train_data_dir", images, "--output_dir", tmp_path / "run")
    assert done.code == 0, done.output
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["image_shape"] == [3, 16, 8] and report["num_levels"] == 256
    assert report["train_images"] + report["test_images"] == 12
    pipeline = DDPMPaperPipeline.from_pretrained(tmp_path / "run")
    assert pipeline(2, num_inference_steps=2).images[0].size == (8, 16)


def test_training_on_a_data_set_of_parquet_files(tmp_path: Path) -> None:
    files = sorted(save_images(tmp_path / "images", [("L", (8, 8))] * 10).iterdir())
    data = datasets.Dataset.from_dict({"picture": [str(file) for file in files], "label": list(range(10))})
    data = data.cast_column("picture", datasets.Image())
    (tmp_path / "data").mkdir()
    data.select(range(7)).to_parquet(tmp_path / "data" / "train.parquet")
    data.select(range(7, 10)).to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run", "--num_levels", 4]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *arguments)
    assert done.code == 0, done.output
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (report["train_images"], report["test_images"], report["num_levels"]) == (7, 3, 4)


# --- sample.py and evaluate.py --------------------------------------------------------------------------------------


def test_samples_do_not_depend_on_the_batch_they_are_drawn_in(trained: Path, tmp_path: Path) -> None:
    grids = []
    for batch_size in (5, 2):
        output = tmp_path / f"{batch_size}.png"
        done = run(
            "sample.py", "--model_name_or_path", trained, "--num_images", 5, "--batch_size", batch_size,
            "--output", output,
        )  # fmt: skip
        assert done.code == 0, done.output
        grids.append(np.asarray(Image.open(output)).astype(int))
    assert np.abs(grids[0] - grids[1]).max() <= 1  # of 255: convolutions of another batch size round differently


def test_evaluation_repeats_the_score_of_the_training(trained: Path, tmp_path: Path) -> None:
    arguments = ["--model_name_or_path", trained, "--output_dir", tmp_path / "evaluation", "--num_evaluations", 0]
    done = run("evaluate.py", *arguments, "--max_images", 100)
    assert done.code == 0, done.output
    result = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    report = json.loads((trained / "metrics.json").read_text())
    error = (result["standard_error"] ** 2 + report["bits_per_dim_standard_error"] ** 2) ** 0.5
    assert abs(result["total"] - report["bits_per_dim"]) < 4 * error
    assert [row["timestep"] for row in result["per_timestep"]] == list(range(20))
    bits = [row["bits_per_dim"] for row in result["per_timestep"]]
    assert sum(bits) + result["prior"] == pytest.approx(result["total"], rel=1e-9)
    picture = Image.open(tmp_path / "evaluation" / "evaluation.png")
    assert picture.width > 800 and len(set(picture.convert("L").tobytes())) > 50


def test_a_measured_model_keeps_its_promise_in_few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fixed, measured = tmp_path / "fixed", tmp_path / "measured"
    done = run("train.py", *TINY_MODEL, *TINY_RUN, "--variance_type", "fixed_small", "--output_dir", fixed)
    assert done.code == 0, done.output
    before = DDPMPaperPipeline.from_pretrained(fixed)
    assert before.scheduler.first_variance == "measured" and before.scheduler.process.measures_decoder
    told = run(
        "measure.py", "--model_name_or_path", fixed, "--output_dir", measured, "--num_noise_levels", 20,
        "--num_evaluations", 20, "--max_images", 150,
    )  # fmt: skip
    assert told.code == 0, told.output
    promised = float(re.search(r"^ +5 steps +([\d.]+) bits/dim$", told.output, re.MULTILINE)[1])
    config = json.loads((measured / "scheduler" / "scheduler_config.json").read_text())
    assert config["variance_type"] == "fixed_small"  # for stock diffusers, which loads it too
    assert config["_ddpm_hf"]["variance_type"] == "optimal"
    assert DDPMPaperPipeline.from_pretrained(measured).scheduler.denoising_errors.shape == (1, 8, 8)
    DDPMPipeline.from_pretrained(measured)

    monkeypatch.setattr(evaluate, "save_evaluation", lambda *_: None)  # as another test sees it

    def score(model: Path, name: str, *more: object) -> dict[str, Any]:
        arguments = [
            "--model_name_or_path",
            model,
            "--output_dir",
            tmp_path / name,
            "--split",
            "train",
            "--max_images",
            150,
        ]
        done = run("evaluate.py", *arguments, "--num_evaluations", 0, "--num_inference_steps", 5, *more)
        assert done.code == 0, done.output
        return json.loads((tmp_path / name / "evaluation.json").read_text())

    best, even = score(measured, "best", "--timestep_spacing", "optimal"), score(measured, "even")
    assert best["rate"] + best["decoder"] == pytest.approx(promised, rel=0.02)
    assert best["total"] < even["total"] < score(fixed, "before")["total"]
    done = run(
        "sample.py", "--model_name_or_path", measured, "--num_images", 4, "--num_inference_steps", 5,
        "--timestep_spacing", "optimal", "--output", tmp_path / "few.png",
    )  # fmt: skip
    assert done.code == 0, done.output


def test_the_optimal_variance_is_measured_when_the_model_is_trained(tmp_path: Path) -> None:
    for name, per_element, shape in (("by_pixel", True, (1, 8, 8)), ("one", False, ())):
        more = ["--variance_type", "optimal", "--per_element", per_element, "--output_dir", tmp_path / name]
        done = run("train.py", *TINY_MODEL, *TINY_RUN, *more)
        assert done.code == 0, done.output
        scheduler = DDPMPaperPipeline.from_pretrained(tmp_path / name).scheduler
        assert scheduler.variance_type == "optimal" and scheduler.denoising_errors.shape == shape


def test_a_model_that_stock_saved_is_measured(tmp_path: Path) -> None:
    unet = tiny_unet(sample_size=8)
    torch.nn.init.zeros_(unet.conv_out.weight)  # it predicts no noise at all: x̂_0 is x_t/√ᾱ, clipped
    torch.nn.init.zeros_(unet.conv_out.bias)
    DDPMPipeline(unet, DDPMScheduler(20, 0.01, 0.5)).save_pretrained(tmp_path / "stock")
    arguments = ["--output_dir", tmp_path / "measured", "--max_images", 64, "--num_noise_levels", 20]
    done = run("measure.py", "--model_name_or_path", tmp_path / "stock", *arguments, "--num_evaluations", 20)
    assert done.code == 0, done.output
    scheduler = DDPMPaperPipeline.from_pretrained(tmp_path / "measured").scheduler
    errors = scheduler.denoising_errors
    assert scheduler.variance_type == "optimal" and errors.log_snr == tuple(scheduler.schedule.log_snr[1:].tolist())
    images = torch.from_numpy(load_digits().images[np.arange(64) * 1500 // 64, None] / 8 - 1).float()
    for t in (1, 10, 20):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(t))
        x_t = scheduler.add_noise(images, noise, t - 1)
        guess = (x_t / scheduler.alphas_cumprod[t - 1].sqrt()).clamp(-1, 1)
        expected = ((guess - images) ** 2).mean().item()
        assert torch.tensor(errors.errors[t - 1]).mean().item() == pytest.approx(expected, rel=0.2)


def test_a_model_that_learns_its_variance_can_be_measured_for_its_times(trained: Path, tmp_path: Path) -> None:
    arguments = ["--model_name_or_path", trained, "--output_dir", tmp_path / "measured", "--num_noise_levels", 5]
    done = run("measure.py", *arguments)
    assert done.code == 0, done.output
    scheduler = DDPMPaperPipeline.from_pretrained(tmp_path / "measured").scheduler
    assert scheduler.variance_type == "learned_range" and len(scheduler.denoising_errors.log_snr) == 5
    scheduler.set_timesteps(4, timestep_spacing="optimal")


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned of the digits' classes."""
    folder = tmp_path_factory.mktemp("by_class") / "run"
    many = ["--max_train_steps", 80, "--lr_warmup_steps", 10, "--num_class_embeds", 10, "--block_out_channels", 16, 16]
    quick = ["--num_evaluations", 2, "--num_quality_samples", 0, "--save_images_epochs", 0, "--learning_rate", 1e-2]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *many, *quick, "--output_dir", folder)
    assert done.code == 0, done.output
    return folder


def classified(model: Path, folder: Path, *arguments: object) -> dict[str, Any]:
    """What classify.py reports of test images."""
    told = run("classify.py", "--model_name_or_path", model, *arguments, "--output_dir", folder)
    assert told.code == 0, told.output
    return json.loads((folder / "classification.json").read_text())


def test_images_are_classified_by_their_bounds(by_class: Path, tmp_path: Path) -> None:
    report = classified(by_class, tmp_path / "c", "--num_evaluations", 5, "--max_images", 60)
    assert (report["paths"], report["model_evaluations_per_image_and_class"]) == (0, 5)
    confusion = np.array(report["confusion"])
    index = 1500 + np.arange(60) * 297 // 60
    labels = load_digits().target[index]
    assert confusion.sum(1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert np.trace(confusion) / 60 == pytest.approx(report["accuracy"])
    assert report["accuracy"] > 0.3  # by chance it were .1
    machine = SVC(gamma=0.001).fit(load_digits().data[:1500], load_digits().target[:1500])
    expected = machine.score(load_digits().data[index], labels)
    assert report["accuracy_of_a_support_vector_classifier"] == pytest.approx(expected)
    probabilities = np.array(report["probabilities"])
    assert probabilities.sum(1) == pytest.approx(np.ones(60))
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(report["accuracy"])
    # p(x) is at least p(class) p(x | class), and no class is a tenth as frequent as another.
    assert report["bits_per_dim_without_the_class"] <= report["bits_per_dim_of_the_true_class"] + np.log2(13) / 64


def test_images_are_classified_by_the_bounds_of_weighted_paths(by_class: Path, tmp_path: Path) -> None:
    asked = ["--num_inference_steps", 4, "--timestep_spacing", "optimal", "--num_paths", 3, "--max_images", 24]
    report = classified(by_class, tmp_path / "c", *asked)
    assert (report["steps"], report["paths"], report["model_evaluations_per_image_and_class"]) == (4, 3, 12)
    assert report["accuracy"] > 0.2
    # evaluate.py scores each image given its own class, from the same noise.
    done = run("evaluate.py", "--model_name_or_path", by_class, *asked, "--output_dir", tmp_path / "e")
    assert done.code == 0, done.output
    weighted = json.loads((tmp_path / "e" / "evaluation.json").read_text())["importance_weighted"]
    assert report["bits_per_dim_of_the_true_class"] == pytest.approx(weighted["bits_per_dim"], rel=1e-12)


def test_classification_is_refused_where_training_images_have_classes_unknown_to_the_model(
    trained: Path, tmp_path: Path
) -> None:
    images, model = save_images(tmp_path / "images", [("L", (4, 4))] * 4), tmp_path / "model"
    pipeline = DDPMPaperPipeline.from_pretrained(trained)
    config = {**pipeline.unet.config, "num_class_embeds": 1, "sample_size": 4}
    DDPMPaperPipeline(UNet2DModel.from_config(config), pipeline.scheduler).save_pretrained(model)
    for name in ("train", "test"):
        for label in ("a", "b") if name == "train" else ("a",):
            shutil.copytree(images, tmp_path / "data" / name / label)
    arguments = ["--model_name_or_path", model, "--train_data_dir", tmp_path / "data", "--output_dir", tmp_path / "c"]
    sentence = fails("classify.py", *arguments)
    assert "The data have a class 1, but the model knows 1" in sentence and not (tmp_path / "c").exists()


def test_a_model_without_classes_does_not_classify(trained: Path, tmp_path: Path) -> None:
    sentence = fails("classify.py", "--model_name_or_path", trained, "--output_dir", tmp_path / "c")
    assert "not class-conditional" in sentence and not (tmp_path / "c").exists()


def test_small_test_sets_are_scored_on_paths_unless_told_otherwise(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", [("L", (4, 4))] * 600)
    unasked = ["--train_data_dir", images, *TINY_MODEL, "--ddpm_num_steps", 2, "--max_train_steps", 1]
    unasked += ["--train_batch_size", 64, "--max_measured_images", 2, "--num_quality_samples", 0]
    for fraction, paths in ((0.85, 4), (0.86, None)):  # 510 and 516 test images
        folder = tmp_path / str(fraction)
        done = run("train.py", *unasked, "--test_fraction", fraction, "--output_dir", folder)
        assert done.code == 0, done.output
        report = json.loads((folder / "metrics.json").read_text())
        assert report.get("importance_weighted", {}).get("paths") == paths


def test_an_evaluation_tells_of_few_steps_of_paths_and_of_the_flow(
    monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate, "save_evaluation", lambda *_: None)  # as another test sees it
    arguments = ["--model_name_or_path", trained, "--output_dir", tmp_path / "all", "--max_images", 16]
    more = ["--few_steps", 3, 20, "--num_quality_samples", 8, "--num_flow_images", 4, "--num_evaluations", 0]
    more += ["--num_paths", 3]
    done = run("evaluate.py", *arguments, *more)
    assert done.code == 0, done.output
    result = json.loads((tmp_path / "all" / "evaluation.json").read_text())
    found = {(row["sampler"], row["steps"], row.get("timestep_spacing")): row for row in result["few_steps"]}
    ways = (
        *(("ancestral", "linspace"), ("ancestral", "optimal"), ("DDIM", "linspace")),
        *(("DPM-Solver++(2M)", "optimal"), ("ODE", None)),
    )
    assert set(found) == {(sampler, steps, spacing) for steps in (3, 20) for sampler, spacing in ways}
    assert all(row["frechet_distance_features"] > 0 and 0 <= row["agreement"] <= 1 for row in found.values())
    assert set(result["test_images_as_samples"]) == {
        "frechet_distance_pixels", "frechet_distance_features", "agreement", "images"
    }  # fmt: skip
    rows = {key[1:]: row for key, row in found.items() if key[0] == "ancestral"}
    assert rows[3, "optimal"]["bits_per_dim"] < rows[3, "linspace"]["bits_per_dim"]
    assert rows[20, "linspace"]["bits_per_dim"] == pytest.approx(result["total"], rel=1e-9)  # all times: one chain
    assert all(row["frechet_distance_pixels"] > 0 for row in found.values())
    weighted = result["importance_weighted"]
    assert (weighted["paths"], weighted["steps"], weighted["images"]) == (3, 20, 16)
    assert list(weighted["bits_per_dim_by_number_of_paths"]) == ["1", "2", "3"]
    assert rows[20, "linspace"]["importance_weighted"] == weighted
    assert f"{weighted['bits_per_dim']:.4f} ±" in done.output and f"{weighted['bits_per_dim']:.4f}  " in done.output
    for (steps, spacing), row in rows.items():
        assert row["timesteps_visited"] == steps or (spacing == "optimal" and row["timesteps_visited"] < steps)
    assert {name: result["flow"][name] for name in ("tolerance", "dequantisation")} == {
        "tolerance": 1e-3,
        "dequantisation": "uniform",
    }
    assert result["flow"]["images"] == 4 and 0 < result["flow"]["flow_bits_per_dim"] < 10
    assert Image.open(tmp_path / "all" / "few_steps.png").width > 800
    assert "bits/dim by the ODE on 4 images" in done.output


def test_the_flow_in_steps_comes_near_to_the_flow(trained: Path) -> None:
    pipeline, images = DDPMPaperPipeline.from_pretrained(trained), load_images(DataArguments()).test
    pipeline.unet.eval()
    subject = Subject(pipeline, images, EvaluationArguments(num_flow_images=4), Accelerator())
    exact, found = subject.likelihood_by_ode(), subject.likelihood_by_ode(100)
    assert (found["method"], found["num_steps"], found["model_calls_per_image"]) == ("rk4", 25, 100)
    assert found["flow_bits_per_dim"] == pytest.approx(exact["flow_bits_per_dim"], abs=0.05)


def test_samplers_start_from_the_same_noise(trained: Path) -> None:
    pipeline = DDPMPaperPipeline.from_pretrained(trained)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.eval()
    chained = DDPMPaperPipeline(
        pipeline.unet, DDPMPaperScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    )
    ddim = draw_images(chained, 6, 4, 15, 0, Accelerator(), None, "log_snr", eta=0.0)
    flow, other = (draw_images_by_ode(chained, 6, 6, 16, seed, Accelerator()) for seed in (0, 1))
    assert (ddim - flow).abs().mean() < 0.02 < (ddim - other).abs().mean()


# --- what a user gets wrong -----------------------------------------------------------------------------------------


def save_images(folder: Path, kinds: list[tuple[str, tuple[int, int]]]) -> Path:
    """Noise images of the given modes and sizes (width, height) as PNG files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i, (mode, (width, height)) in enumerate(kinds):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--ddpm_num_steps", 0, "num_train_timesteps"),
        ("--ddpm_beta_schedule", "exponential", "beta_schedule"),
        ("--variance_type", "fixed", "variance_type"),
        ("--prediction_type", "noise", "prediction_type"),
        ("--objective", "elbo", "objective"),
        ("--mixed_precision", "fp8", "mixed_precision"),
        ("--lr_scheduler", "sine", "lr_scheduler"),
        ("--ddpm_num_inference_steps", 2000, "num_inference_steps"),
        ("--train_batch_size", 0, "train_batch_size"),
        ("--num_evaluations", 1, "num_evaluations"),
        ("--num_paths", -1, "num_paths"),
        ("--max_measured_images", 0, "max_measured_images"),
        ("--max_grad_norm", -1, "max_grad_norm"),  # it would climb
        ("--max_grad_norm", "nan", "max_grad_norm"),
        ("--ema_inv_gamma", 0, "ema_inv_gamma"),
        ("--ema_power", "nan", "ema_power"),
        ("--lr_warmup_steps", -1, "lr_warmup_steps"),
        ("--resolution", -8, "resolution"),
        ("--dataloader_num_workers", -1, "dataloader_num_workers"),
        ("--log_snr_min", 20, "log_snr_min"),
        ("--variance_type", "learned --objective simple", "objective"),
        ("--objective", "hybrid --variance_type fixed_small", "variance_type"),
        ("--recipe", "ddim", "recipe"),
        ("--vlb_weight", -1, "vlb_weight"),
        ("--variance_steps", 1001, "`variance_steps` must be in 1 ... 1000"),
        ("--variance_steps", "50 --objective vlb", "variance_steps"),
        ("--num_levels", 1, "num_levels"),
        ("--channels", 2, "channels"),
        ("--resolution", 16, "resolution"),
        ("--train_batch_size", "many", "train_batch_size"),
        ("--no_such_flag", 1, "no_such_flag"),
        ("--block_out_channels", "8 8 8 8 8", "block_out_channels"),
    ],
)
def test_a_wrong_flag_is_named_in_one_sentence(tmp_path: Path, flag, value, named) -> None:
    arguments = [*TINY_MODEL, flag, *str(value).split(), "--output_dir", tmp_path / "run"]
    assert named in fails("train.py", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["measure.py", "push.py"])
def test_work_that_is_not_divided_is_refused_to_several_processes(
    monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path, script: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    folder = trained if script == "push.py" else tmp_path / "measured"
    assert "2 processes" in fails(script, "--output_dir", folder)
    assert not (tmp_path / "measured").exists()


def test_the_flow_without_its_solver(monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchdiffeq" else installed(name))
    arguments = ["--model_name_or_path", trained, "--output_dir", tmp_path / "flow", "--num_flow_images", 4]
    assert "pip install torchdiffeq" in fails("evaluate.py", *arguments)


def test_another_run_is_not_written_over(trained: Path) -> None:
    before = (trained / "metrics.json").read_bytes()
    assert "already holds another run" in fails("train.py", "--output_dir", trained)
    assert (trained / "metrics.json").read_bytes() == before


def test_settings_with_an_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("learning_rat: 1\n")
    assert "learning_rat" in fails("train.py", tmp_path / "settings.yaml")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("num_epochs:", "None"),
        ("max_train_steps: 10.5", "10.5"),
        ("train_batch_size: true", "True"),
        ("learning_rate: [1, 2]", "[1, 2]"),
        ("use_ema: perhaps", "'perhaps'"),
    ],
)
def test_a_settings_file_with_a_value_that_no_flag_could_give(tmp_path: Path, line, value) -> None:
    (tmp_path / "settings.yaml").write_text(f"{line}\n")
    sentence = fails("train.py", tmp_path / "settings.yaml")
    assert f"settings.yaml has {value} for `{line.partition(':')[0]}`." in sentence


def test_a_data_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    arguments = ["--train_data_dir", tmp_path / "empty", "--output_dir", tmp_path / "run"]
    assert "empty holds no images" in fails("train.py", *arguments)
    arguments[1] = tmp_path / "missing"
    assert "is not a folder" in fails("train.py", *arguments)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", [("RGB", (16, 16))] * 6)
    whole = (images / "003.png").read_bytes()
    (images / "003.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["--train_data_dir", images, "--output_dir", tmp_path / "run"]
    assert "003.png" in fails("train.py", *arguments)
    (images / "003.png").write_bytes(b"not an image at all")
    assert "003.png" in fails("train.py", *arguments)


def test_a_model_configuration_of_classes_that_the_data_have_not(tmp_path: Path) -> None:
    UNet2DModel.from_config(tiny_unet(sample_size=8).config, num_class_embeds=5).save_config(tmp_path / "model")
    arguments = ["--model_config_name_or_path", tmp_path / "model", *TINY_RUN, "--output_dir", tmp_path / "run"]
    assert "class 9, but the model knows 5" in fails("train.py", *arguments)
    images = save_images(tmp_path / "images", [("L", (8, 8))] * 6)
    more = ["--train_data_dir", images, "--channels", 1]
    assert "the data have none" in fails("train.py", *arguments, *more)
    assert not (tmp_path / "run").exists()


def test_what_is_told_of_a_model_is_its_own_configuration(tmp_path: Path) -> None:
    unet = tiny_unet(sample_size=8)
    unet.save_config(tmp_path / "model")
    arguments = ["--model_config_name_or_path", tmp_path / "model", "--dropout", 0.3, "--output_dir", tmp_path / "run"]
    done = run("train.py", *TINY_RUN, *arguments)
    assert done.code == 0, done.output
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"]
    assert told["dropout"] == unet.config.dropout
    assert told["block_out_channels"] == list(unet.config.block_out_channels)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr_scheduler", "piecewise_constant"], "`lr_scheduler` must be one of linear"),
        (["--attention_head_dim", 0], "`attention_head_dim` must be in 1 ... 64, the channels"),
        (["--attention_head_dim", 100], "`attention_head_dim` must be in 1 ... 64, the channels"),
        (["--ema_max_decay", 0.9, 0.9], "`ema_max_decay` must be in [0, 1], each another"),
        (["--validation_fraction", 0.9999], "leaves none for validation or for training"),
        (["--validation_fraction", 0.0001], "leaves none for validation or for training"),
        (["--num_class_embeds", 0], "`num_class_embeds` must be at least 1"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, arguments: list, sentence: str) -> None:
    assert sentence in fails("train.py", *arguments, "--output_dir", tmp_path / "run")


def test_a_data_set_that_is_a_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "old.py").write_text("import datasets\n")
    arguments = ["--dataset_name", tmp_path / "old", "--output_dir", tmp_path / "run"]
    assert "old holds no images that can be read: " in fails("train.py", *arguments)


def test_one_image_is_trained_on_and_scored(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", [("L", (8, 8))] * 2)
    arguments = ["--train_data_dir", images, "--test_fraction", 0.5, "--checkpointing_steps", 0]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *arguments, "--output_dir", tmp_path / "run")
    assert done.code == 0, done.output
    text = (tmp_path / "run" / "metrics.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert report["bits_per_dim_standard_error"] is None and report["bits_per_dim"] > 0
    assert "frechet_distance_pixels" not in report


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_all_images_are_trained_on_if_none_are_to_be_held_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, streaming: list[str]
) -> None:
    monkeypatch.setattr(diffusion_scores, "IMAGES_OF_A_DATA_SET", 24)  # of a stream that nobody has counted
    images = save_images(tmp_path / "images", [("L", (8, 8))] * 12)
    arguments = ["--train_data_dir", images, "--test_fraction", 0, *streaming, "--ema_max_decay", 0.9, 0.5]
    more = ["--validation_steps", 2, "--num_paths", 2, "--train_batch_size", 6, "--output_dir", tmp_path / "run"]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *arguments, *more)
    assert done.code == 0, done.output
    assert "there were no test images to score" in done.output
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "bits_per_dim" not in report and report["frechet_distance_pixels"] > 0 and report["validation"] == []
    assert report["train_images"] == (None if streaming else 12)
    assert "bits/dim" not in ModelCard.load(tmp_path / "run" / "README.md").text.split("```")[0]
    asked = ["--model_name_or_path", tmp_path / "run", *arguments[:4], "--output_dir", tmp_path / "evaluation"]
    told = run("evaluate.py", *asked)
    assert told.code == 2 and "There are no test images; pass a `test_fraction` above 0." in told.output


def test_a_run_that_is_written_over_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ["--ema_max_decay", 0.9, 0.5, "--save_images_epochs", 1, "--train_batch_size", 50]
    assert run("train.py", *TINY_MODEL, *TINY_RUN, *first, "--output_dir", folder).code == 0
    assert (folder / "unet_ema_0.5").is_dir() and list((folder / "samples").iterdir())
    more = ["--save_images_epochs", 0, "--overwrite_output_dir", "--max_train_steps", 2, "--checkpointing_steps", 0]
    done = run("train.py", *TINY_MODEL, *TINY_RUN, *more, "--output_dir", folder)
    assert done.code == 0, done.output
    assert set(names_in(folder)) == {
        "unet",
        "scheduler",
        "model_index.json",
        "samples.png",
        "metrics.json",
        "README.md",
    }


def test_half_precision_without_a_gpu_is_told(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("train.py", *TINY_MODEL, *TINY_RUN, "--mixed_precision", "fp16", "--output_dir", tmp_path / "run")
    assert done.code == 0 and "fp16 needs a GPU, and there is none: training in float32." in done.output


def test_images_of_mixed_modes_and_sizes_need_a_decision(tmp_path: Path) -> None:
    modes = save_images(tmp_path / "modes", [("RGB", (8, 8))] * 4 + [("L", (8, 8))] * 2)
    sentence = fails("train.py", "--train_data_dir", modes, "--output_dir", tmp_path / "run")
    assert "mixed modes" in sentence and "--channels" in sentence
    sizes = save_images(tmp_path / "sizes", [("L", (8, 8))] * 4 + [("L", (16, 8))] * 2)
    sentence = fails("train.py", "--train_data_dir", sizes, "--output_dir", tmp_path / "run")
    assert "--resolution" in sentence


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_a_path_that_is_no_model(tmp_path: Path, script: str) -> None:
    output = ["--output", tmp_path / "x.png"] if script == "sample.py" else ["--output_dir", tmp_path / "x"]
    for path in (tmp_path / "missing", tmp_path):
        assert str(path) in fails(script, "--model_name_or_path", path, *output)
    assert not any(tmp_path.iterdir())


def test_sampling_does_not_write_over_a_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.png").write_bytes(b"kept")
    arguments = ["--model_name_or_path", trained, "--output", tmp_path / "kept.png"]
    assert "already exists" in fails("sample.py", *arguments)
    assert (tmp_path / "kept.png").read_bytes() == b"kept"
    arguments = ["--model_name_or_path", trained, "--output", tmp_path / "new.png", "--num_inference_steps"]
    for steps in (21, 0):
        assert "num_inference_steps" in fails("sample.py", *arguments, steps)


def test_samples_to_be_compared_without_a_chain_to_draw_them_along(trained: Path, tmp_path: Path) -> None:
    arguments = ["--model_name_or_path", trained, "--output_dir", tmp_path / "x", "--num_quality_samples", 8]
    assert "few_steps" in fails("evaluate.py", *arguments)


def test_evaluation_of_images_that_the_model_was_not_made_for(trained: Path, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", [("RGB", (8, 8))] * 4)
    arguments = ["--model_name_or_path", trained, "--train_data_dir", images, "--output_dir", tmp_path / "x"]
    assert "1 channels of 8x8" in fails("evaluate.py", *arguments)
