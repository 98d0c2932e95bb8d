# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Conditioning: conditioners and their columns, null values, and examples that lose their conditioning."""

from __future__ import annotations

import ast
import copy
import json
import math
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.utils import logging
from tiny_models import tiny_unet
from torch import Tensor

import ddpm_hf
from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.conditioning.classes import (
    LABELS,
    ClassConditioner,
    conditioners_of,
    null_class,
    number_of_classes,
    of_classes,
    with_null_class,
)
from ddpm_hf.conditioning.columns import Columns, chosen, joined, stacked
from ddpm_hf.conditioning.conditioner import Conditioner, Conditioners
from ddpm_hf.conditioning.dropout import draw_dropped
from ddpm_hf.data.batches import BatchShard
from ddpm_hf.training.loop import train
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.step import training_step


CPU = torch.device("cpu")
CLASSES = ClassConditioner(num_classes=3, null_class=3)


class Captions(Conditioner):
    """Text as it will be: a list of captions, embeddings of as many tokens as the longest has, and their mask."""

    columns = ("prompt",)
    arguments = ("encoder_hidden_states", "encoder_attention_mask")
    has_null = True

    def fault(self, column: str, value: Any) -> str | None:
        return None if isinstance(value, str) else "has no caption"

    def check(self, columns: Columns) -> None:
        if "prompt" not in columns:
            raise ValueError("The data have no captions.")

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        self.check(columns)
        words = [[len(word) for word in caption.split()] for caption in columns["prompt"]]
        length = max(1, *map(len, words))
        mask = torch.tensor([[k < len(each) for k in range(length)] for each in words])
        embeddings = torch.tensor([[[float(n)] for n in each + [0] * (length - len(each))] for each in words])
        return {"encoder_hidden_states": embeddings.to(device), "encoder_attention_mask": mask.to(device)}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return self.make({"prompt": [""] * count}, device)

    def drop(self, conditioning: dict[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        keep = ~dropped[:, None]
        states, mask = (conditioning[name] for name in self.arguments)
        return dict(zip(self.arguments, (states * keep[..., None], mask & keep), strict=True))

    def variety(self) -> Columns:
        return {"prompt": ["a cat", "two big dogs"]}


class LowResolution(Conditioner):
    """Super-resolution as it will be: an image that is joined to x_t, and the noise level in it."""

    columns = ("image", "noise_level")
    arguments = ("image", "noise_level")
    has_null = True

    def fault(self, column: str, value: Any) -> str | None:
        return None

    def check(self, columns: Columns) -> None:
        pass

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return {name: columns[name].to(device) for name in self.columns}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {"image": torch.zeros(count, 1, 2, 2), "noise_level": torch.full((count,), 999)}

    def variety(self) -> Columns:
        return {}


# --- columns and conditioners ---------------------------------------------------------------------------------------


def test_values_of_every_kind_are_stacked_chosen_and_joined() -> None:
    columns = {
        "number": stacked([3, 1, 2]),
        "text": stacked(["a", "b", "c"]),
        "image": stacked(list(torch.arange(12.0).view(3, 2, 2))),
    }
    assert columns["number"].dtype == torch.int64 and columns["text"] == ["a", "b", "c"]
    for index in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        some = chosen(columns, index)
        assert some["number"].tolist() == [1, 2] and some["text"] == ["b", "c"]
        both = joined([chosen(columns, slice(1)), some])
        assert both["text"] == columns["text"]
        assert all(torch.equal(both[name], columns[name]) for name in ("number", "image"))


def test_classes_are_made_dropped_and_left_out() -> None:
    conditioners = Conditioners((CLASSES,))
    made = conditioners.make(of_classes([0, 2, 1]), CPU)
    assert made[LABELS].tolist() == [0, 2, 1] and made[LABELS].dtype == torch.int64
    assert conditioners.drop(made, torch.tensor([False, True, False]))[LABELS].tolist() == [0, 3, 1]
    assert conditioners.drop(made, None)[LABELS].tolist() == [0, 2, 1]
    # Dropping all of it, asking for none, and the null value are one and the same.
    for null in (conditioners.unconditional(made), conditioners.null(3, CPU)):
        assert null[LABELS].tolist() == [3, 3, 3] and null[LABELS].dtype == torch.int64
    assert conditioners.variety()[LABELS].tolist() == [0, 1, 2]


def test_kinds_that_are_used_together_are_dropped_together() -> None:
    conditioners = Conditioners((CLASSES, Captions(), LowResolution()))
    columns = {
        **of_classes([0, 1]),
        "prompt": ["a cat", "two big dogs"],
        "image": torch.ones(2, 1, 2, 2),
        "noise_level": torch.tensor([5, 7]),
        "another": torch.zeros(2),
    }
    assert conditioners.read(columns).keys() == columns.keys() - {"another"}
    made = conditioners.make(columns, CPU)
    assert set(made) == set(conditioners.arguments)
    assert made["encoder_hidden_states"][..., 0].tolist() == [[1, 3, 0], [3, 3, 4]]
    dropped = conditioners.drop(made, torch.tensor([False, True]))
    for name in conditioners.arguments:
        assert torch.equal(dropped[name][0], made[name][0])
    assert dropped[LABELS][1] == 3 and dropped["noise_level"][1] == 999
    for name in ("encoder_hidden_states", "encoder_attention_mask", "image"):
        assert not dropped[name][1].any()
    assert all(torch.equal(x, y) for x, y in zip(
        conditioners.unconditional(made).values(), conditioners.drop(made, torch.tensor([True, True])).values(),
        strict=True,
    ))  # fmt: skip


def test_a_sample_grid_shows_the_variety_of_all_kinds() -> None:
    both = Conditioners((CLASSES, Captions())).variety()
    assert both[LABELS].tolist() == [0, 1, 2] and both["prompt"] == ["a cat", "two big dogs", "a cat"]
    assert Conditioners((CLASSES, LowResolution())).variety() == {}
    assert Conditioners().variety() == {}


def test_nothing_is_made_of_nothing() -> None:
    none = Conditioners()
    none.check({})
    assert none.make(of_classes([1]), CPU) == none.null(2, CPU) == none.read(of_classes([1])) == {}
    assert not none.has_null and none.columns == none.arguments == ()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"^The model knows 3 classes, but the data have none; name a `label_column`\.$"),
        (of_classes([0, 3]), r"^The data have a class 3, but the model knows 3, counted from 0\.$"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: Columns, message: str) -> None:
    for refuse in (Conditioners((CLASSES,)).check, lambda columns: CLASSES.make(columns, CPU)):
        with pytest.raises(ValueError, match=message):
            refuse(columns)


@pytest.mark.parametrize(("value", "is_good"), [(0, True), (2, True), (3, False), (-1, False), (None, False)])
def test_the_value_of_one_example_is_judged(value: Any, is_good: bool) -> None:
    told = Conditioners((Captions(), CLASSES)).fault(LABELS, value)
    assert told == (None if is_good else f"is of class {value}; the model knows 0 ... 2")


def test_a_model_that_needs_its_class_has_no_null_value() -> None:
    classes = Conditioners((ClassConditioner(3),))
    assert not classes.has_null
    with pytest.raises(ValueError, match="The model has no null class"):
        classes.null(2, CPU)


# --- the null class in a configuration ------------------------------------------------------------------------------


def class_unet(embeddings: int, null: bool = True) -> UNet2DModel:
    config = {key: value for key, value in tiny_unet().config.items() if not key.startswith("_")}
    unet = UNet2DModel(**config | {"num_class_embeds": embeddings}).eval()
    if null:
        unet.register_to_config(_ddpm_hf={"null_class": embeddings - 1})
    return unet


def test_the_null_class_is_found_again_when_a_model_is_loaded(tmp_path: Path) -> None:
    unet = class_unet(4)
    assert conditioners_of(unet.config) == Conditioners((CLASSES,))
    assert (number_of_classes(unet.config), null_class(unet.config)) == (3, 3)
    assert unet.config.items() >= with_null_class(3).items()
    pipeline = DDPMPaperPipeline(unet, DDPMPaperScheduler(10))
    pipeline.to(torch.float64).save_pretrained(tmp_path / "first")
    again = DDPMPaperPipeline.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    for loaded in (again, DDPMPaperPipeline.from_pretrained(tmp_path / "second")):
        assert loaded.conditioners == Conditioners((CLASSES,))
    assert conditioners_of(copy.deepcopy(unet).config) == conditioners_of(UNet2DModel.from_config(unet.config).config)


def test_stock_diffusers_loads_it_without_a_warning_and_keeps_the_null_class(tmp_path: Path, caplog: Any) -> None:
    DDPMPaperPipeline(class_unet(4), DDPMPaperScheduler(10)).save_pretrained(tmp_path / "ours")
    logging.enable_propagation()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stock = DDPMPipeline.from_pretrained(tmp_path / "ours")
    logging.disable_propagation()
    assert not [record for record in caplog.records if record.name.startswith("diffusers")]
    assert stock.unet.config.num_class_embeds == 4
    stock.save_pretrained(tmp_path / "stock")
    assert DDPMPaperPipeline.from_pretrained(tmp_path / "stock").conditioners == Conditioners((CLASSES,))


def test_a_class_conditional_model_without_a_null_class_is_as_before(tmp_path: Path) -> None:
    DDPMPaperPipeline(class_unet(4, null=False), DDPMPaperScheduler(10)).save_pretrained(tmp_path)
    assert "_ddpm_hf" not in json.loads((tmp_path / "unet" / "config.json").read_text())
    loaded = DDPMPaperPipeline.from_pretrained(tmp_path)
    assert loaded.conditioners == Conditioners((ClassConditioner(4),))
    with pytest.raises(ValueError, match="`class_labels` must be given: the model is conditional on one of 4 classes"):
        loaded(1, num_inference_steps=2)


@pytest.mark.parametrize(
    "stored", [{"null_class": 2}, {"null_class": 4}, {"null": 3}, {}, 3, {"null_class": 3, "x": 1}], ids=str
)
def test_another_null_class_is_refused(stored: Any) -> None:
    config = {"num_class_embeds": 4, "_ddpm_hf": stored}
    with pytest.raises(ValueError, match="must name the last class as null class, after at least one other, but is"):
        number_of_classes(config)


# --- dropout in training --------------------------------------------------------------------------------------------


def test_as_many_examples_lose_their_conditioning_as_asked() -> None:
    drawn = torch.stack([draw_dropped(0.3, 64, seed=5, step=step, device=CPU) for step in range(200)])
    count, n = int(drawn.sum()), drawn.numel()
    assert abs(count - 0.3 * n) < 5 * math.sqrt(0.3 * 0.7 * n)
    assert len({tuple(row.tolist()) for row in drawn}) == 200
    per_place = drawn.double().mean(0)
    assert (per_place - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 200)  # whatever the place in the batch
    assert not torch.equal(drawn[0], draw_dropped(0.3, 64, seed=6, step=0, device=CPU))
    assert draw_dropped(0.0, 64, seed=5, step=0, device=CPU) is None


TINY = shlex.split(
    "--block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --ddpm_num_steps 20 --train_batch_size 32"
    " --num_class_embeds 10 --dropout 0 --timestep_sampling stratified --checkpointing_steps 0 --validation_steps 0"
    " --save_images_epochs 0 --max_train_steps 6"
)
DROPPING = ["--conditioning_dropout_prob", "0.4"]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Makes a training run of classes in this process."""

    def make(*flags: object, folder: str = "run") -> TrainState:
        argv = [*TINY, *map(str, flags), "--output_dir", str(tmp_path / folder)]
        state = prepare_run(parse("train.py", *run_arguments(), argv=argv))
        torch.set_num_threads(1)
        return state

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def watched(state: TrainState) -> list[dict[str, Tensor]]:
    """What the model is given from now on, call by call."""
    calls: list[dict[str, Tensor]] = []

    def note(model: Any, arguments: tuple, options: dict[str, Any]) -> None:
        calls.append({"x_t": arguments[0].clone(), "t": arguments[1], LABELS: options[LABELS]})

    state.prepared.register_forward_pre_hook(note, with_kwargs=True)
    return calls


def run(state: TrainState) -> None:
    """All of its steps, without what comes after the last."""
    train(state, SimpleNamespace(caught=None, awaited=iter))


def together(calls: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([call[name] for call in calls])


def test_what_is_dropped_does_not_depend_on_how_the_batch_is_divided(made: Any) -> None:
    whole = made(*DROPPING)
    expected = watched(whole)
    run(whole)
    labels = together(expected, LABELS)
    assert 0.25 < (labels == 10).double().mean() < 0.55
    windows = made(*DROPPING, "--train_batch_size", 8, "--gradient_accumulation_steps", 4, folder="windows")
    seen = watched(windows)
    run(windows)
    assert torch.equal(together(seen, LABELS), labels)
    assert torch.equal(together(seen, "x_t"), together(expected, "x_t"))
    for one, other in zip(whole.model.parameters(), windows.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_what_is_dropped_does_not_depend_on_the_processes(made: Any) -> None:
    state = made(*DROPPING)
    expected = watched(state)
    with_all = iter(state.batches)
    training_step(state, with_all)
    parts: dict[tuple[int, int], Tensor] = {}
    for rank in range(2):
        part = made(*DROPPING, folder=f"rank_{rank}")
        part.shard = BatchShard(8, accumulation=2, rank=rank, processes=2)
        part.accelerator.gradient_accumulation_steps = 2
        part.batches = part.task.open_batches(part.data, part.shard, (0, 6), part.training.seed, CPU, None)
        calls = watched(part)
        training_step(part, iter(part.batches))
        parts |= {(window, rank): call[LABELS] for window, call in enumerate(calls)}
    assert torch.equal(torch.cat([parts[key] for key in sorted(parts)]), expected[0][LABELS])


def test_dropping_draws_no_other_random_number(made: Any) -> None:
    plain, dropping = made(), made("--conditioning_dropout_prob", 0.9, folder="dropping")
    dropping.model.load_state_dict(
        {
            name: torch.cat([tensor, tensor[:1]]) if name == "class_embedding.weight" else tensor
            for name, tensor in plain.model.state_dict().items()
        }
    )
    calls = [watched(state) for state in (plain, dropping)]
    for state in (plain, dropping):
        run(state)
    for one, other in zip(*calls, strict=True):
        assert torch.equal(one["x_t"], other["x_t"]) and torch.equal(one["t"], other["t"])
        kept = other[LABELS] != 10
        assert torch.equal(one[LABELS][kept], other[LABELS][kept])


def test_a_model_without_conditioning_to_drop_is_refused(made: Any, tmp_path: Path) -> None:
    argv = [*TINY, *DROPPING, "--output_dir", str(tmp_path / "none")]
    at = argv.index("--num_class_embeds")
    arguments = parse("train.py", *run_arguments(), argv=argv[:at] + argv[at + 2 :])
    with pytest.raises(ValueError, match="`conditioning_dropout_prob` must be 0 for a model without conditioning"):
        prepare_run(arguments)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, math.nan])
def test_a_probability_that_is_none_is_refused(made: Any, tmp_path: Path, probability: float) -> None:
    with pytest.raises(ValueError, match=r"`conditioning_dropout_prob` must be in \[0, 1\), but is"):
        made("--conditioning_dropout_prob", probability, folder="none")
    assert not (tmp_path / "none").exists()


def test_a_run_that_drops_goes_on_exactly(made: Any) -> None:
    flags = [*DROPPING, "--checkpointing_steps", 3, "--dropout", 0.1, "--timestep_sampling", "importance"]
    whole = made(*flags)
    run(whole)
    resumed = made(*flags, "--resume_from_checkpoint", "checkpoint-3")
    assert resumed.step == 3
    run(resumed)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"conditioning_dropout_prob was 0\.4 and is 0\.5"):
        made(*flags, "--conditioning_dropout_prob", 0.5, "--resume_from_checkpoint", "checkpoint-3")


def test_the_settings_of_a_run_name_the_classes_and_not_the_embeddings(made: Any) -> None:
    from ddpm_hf.training.fingerprint import settings

    state = made(*DROPPING)
    assert state.model.config.num_class_embeds == 11
    assert (settings(state)["num_class_embeds"], settings(state)["conditioning_dropout_prob"]) == (10, 0.4)


# --- the seam -------------------------------------------------------------------------------------------------------

PACKAGE = Path(ddpm_hf.__file__).parent
NAMES_A_KIND = {  # what a user calls by its name, and what answers to it
    "cli/cascades.py",
    "cli/classify.py",
    "cli/compress.py",
    "cli/sample_requests.py",
    "data/arguments.py",
    "data/class_names.py",
    "evaluation/arguments.py",
    "evaluation/cascade_few_steps.py",
    "evaluation/cascades.py",
    "evaluation/classification.py",
    "evaluation/sample_quality.py",
    "evaluation/subject.py",
    "hub/in_stock.py",
    "hub/pipeline_card.py",
    "pipelines/class_labels.py",
    "pipelines/compressing.py",
    "pipelines/guidance.py",
    "pipelines/latent_parts.py",
    "pipelines/pipeline_ddpm_paper.py",
    "pipelines/pipeline_ddpm_paper_latent.py",
    "pipelines/pipeline_ddpm_paper_prior.py",
    "pipelines/pipeline_ddpm_paper_super_resolution.py",
    "pipelines/pipeline_ddpm_paper_unclip.py",
}


def words(path: Path) -> set[str]:
    """All names, arguments, attributes and strings of a module that are one word."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    found = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "arg", "module")}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in found | strings if isinstance(word, str) and word}


def test_no_other_code_names_a_kind_of_conditioning() -> None:
    kinds = {LABELS, "num_class_embeds", "null_class", "label_column", "conditioning.classes"}
    kinds |= {"low_resolution", "noise_level", "max_noise_level", "conditioning.low_resolution"}
    rooms = ("data", "evaluation", "training", "cli", "pipelines", "reporting", "hub", "runtime")
    paths = [path for room in rooms for path in (PACKAGE / room).glob("*.py")]
    found = {str(path.relative_to(PACKAGE)) for path in paths if words(path) & kinds}
    assert found <= NAMES_A_KIND, sorted(found - NAMES_A_KIND)
