# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card: its description of a saved pipeline, its metadata, and the preservation of text written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from diffusers import DiTPipeline, LDMPipeline, UNet2DModel
from huggingface_hub import ModelCard
from loopback_hub import check_card
from PIL import Image
from tiny_models import tiny_unet
from tiny_pipelines import conditional_unet
from tiny_text import bert, ours, stock, text_unet

from ddpm_hf import (
    DDPMPaperLatentPipeline,
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    DDPMPaperSuperResolutionPipeline,
    NoiseSchedule,
)
from ddpm_hf.conditioning.low_resolution import LowResolutionSettings, standard_noising
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.loading import load_images
from ddpm_hf.hub.arguments import HubArguments, check_hub_arguments
from ddpm_hf.hub.card_sections import merge_cards
from ddpm_hf.hub.in_stock import in_stock
from ddpm_hf.hub.model_card import fill_card
from ddpm_hf.hub.push import push_folder


METRICS = {
    "bits_per_dim": 1.75214,
    "bits_per_dim_standard_error": 0.0161,
    "bits_per_dim_prior": 0.0001,
    "bits_per_dim_rate": 1.402,
    "bits_per_dim_decoder": 0.35,
    "test_images": 297,
    "model_evaluations_per_test_image": 100,
    "frechet_distance_pixels": 0.29871,
    "frechet_distance_pixels_of_test_images": 1.354,
    "quality_samples": 500,
    "quality_inference_steps": 100,
    "data": "uoft-cs/cifar10",
    "dataset_name": "uoft-cs/cifar10",
    "train_images": 1500,
    "train_seconds": 254.2,
    "train_steps": 2070,
    "train_batch_size": 64,
    "objective": "rate",
    "settings": {"learning_rate": 0.004, "lr_scheduler": "cosine"},
}


EQUAL = {
    "images": 297,
    "reference_images": 1203,
    "samples": 0.61234,
    "training_images": 0.7,
    "test_images": 1.4,
}


def saved(folder: Path, metrics: dict[str, Any] | None = None, **options: Any) -> Path:
    """A pipeline in a folder, with figures if given."""
    DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(**options)).save_pretrained(folder)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "run", METRICS, num_levels=17)


# --- what it says ---------------------------------------------------------------------------------------------------


def test_the_figures_stand_in_the_table_and_in_the_metadata(folder: Path) -> None:
    card = ModelCard(fill_card(folder, "me/digits"))
    assert "| total | 1.7521 ± 0.0161 (standard error) |" in card.text
    assert "| samples to training images | 0.2987 |" in card.text
    measured = {result.metric_type: result for result in card.data.eval_results}
    assert measured["bits_per_dim"].metric_value == 1.7521
    assert measured["frechet_distance_pixels"].metric_value == 0.2987
    for result in measured.values():
        assert (result.dataset_type, result.dataset_split) == ("uoft-cs/cifar10", "test")
        assert result.task_type == card.data.pipeline_tag == "unconditional-image-generation"
    assert (card.data.library_name, card.data.model_name) == ("diffusers", "digits")
    assert card.data.datasets == ["uoft-cs/cifar10"]
    assert {"ddpm_hf", "ddpm", "diffusion"} <= set(card.data.tags)


def test_the_metadata_are_what_the_hub_documents(tmp_path: Path, folder: Path) -> None:
    for card in (fill_card(folder, "me/digits"), fill_card(saved(tmp_path / "bare"), "me/bare")):
        assert check_card(card) == ([], [])
        assert str(ModelCard(card)) == card  # the client reads them as it would have written them


def test_the_data_and_settings_of_the_training_are_told(folder: Path) -> None:
    card = fill_card(folder, "me/digits")
    assert "On 1500 images of uoft-cs/cifar10" in card and "2070 steps of 64 images" in card
    assert "| learning_rate | 0.004 |" in card
    weights = sum(parameter.numel() for parameter in tiny_unet().parameters())
    assert f"{weights:,} parameters" in card and "17 levels" in card and "4×4 pixels" in card
    assert "inproceedings{ho2020denoising" in card


def test_only_the_digits_bring_a_licence_with_them(tmp_path: Path) -> None:
    own = saved(tmp_path / "own", {**METRICS, "data": "my photographs", "dataset_name": None})
    digits = saved(tmp_path / "digits", {**METRICS, "data": load_images(DataArguments()).name, "dataset_name": None})
    for folder, license in ((own, None), (digits, "apache-2.0"), (saved(tmp_path / "bare"), None)):
        assert ModelCard(fill_card(folder, "me/model")).data.license == license
    for folder in (own, digits):
        assert ModelCard(fill_card(folder, "me/model", license="cc-by-4.0")).data.license == "cc-by-4.0"


def test_a_licence_that_is_asked_for_replaces_the_one_of_an_existing_card(folder: Path) -> None:
    old = fill_card(folder, "me/digits", license="mit")
    kept = ModelCard(merge_cards(old, fill_card(folder, "me/digits")))
    replaced = ModelCard(merge_cards(old, fill_card(folder, "me/digits"), license="cc-by-4.0"))
    assert (kept.data.license, replaced.data.license) == ("mit", "cc-by-4.0")


@pytest.mark.parametrize("license", ["MIT", "cc by", "", "mit\n", "-"])
def test_a_malformed_licence_is_refused_before_anything_is_pushed(folder: Path, license: str) -> None:
    with pytest.raises(ValueError, match=f"`license` .* such as cc-by-4.0, but is {re.escape(repr(license))}"):
        push_folder(folder, "me/digits", license=license)
    with pytest.raises(ValueError, match="`hub_license` must be one of"):
        check_hub_arguments(HubArguments(hub_license=license))


def test_the_title_is_the_name_of_the_repository_or_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    for name, title in (("me/digits", "me/digits"), (str(folder), "run"), ("run", "run"), ("./run/", "run")):
        card = fill_card(Path(folder), name)
        assert re.findall("^# (.*)$", card, re.MULTILINE) == [title]
        assert f'from_pretrained("{name}")' in card


def test_both_ways_to_use_it_run_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", fill_card(folder, str(folder)), re.DOTALL)
    assert len(blocks) == 2 and "DDPMPaperPipeline" in blocks[0] and "import DDPMPipeline" in blocks[1]
    monkeypatch.chdir(folder.parent)
    for block in blocks:
        assert len(block.strip().splitlines()) == 3
        exec(block.replace("batch_size=4", "batch_size=4, num_inference_steps=2"), {})
        (folder.parent / "sample.png").unlink()


def of_classes(num_class_embeds: int | None, class_embed_type: str | None = None) -> UNet2DModel:
    config = {key: value for key, value in tiny_unet().config.items() if not key.startswith("_")}
    config |= {"num_class_embeds": num_class_embeds, "class_embed_type": class_embed_type}
    return UNet2DModel(**config)


@pytest.mark.parametrize(("num_classes", "labels"), [(10, "0, 1, 2, 3"), (3, "0, 1, 2, 0"), (1, "0, 0, 0, 0")])
def test_the_way_to_use_a_class_conditional_model_passes_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_classes: int, labels: str
) -> None:
    DDPMPaperPipeline(of_classes(num_classes), DDPMPaperScheduler()).save_pretrained(tmp_path / "run")
    card = fill_card(tmp_path / "run", str(tmp_path / "run"))
    assert check_card(card) == ([], [])
    assert f"class-conditional: it generates images of a given class, numbered from 0 to {num_classes - 1}." in card
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)  # and none for stock's pipeline
    assert f"pipeline(batch_size=4, class_labels=[{labels}])" in block and "DDPMPaperPipeline" in block
    monkeypatch.chdir(tmp_path)
    assert len(block.strip().splitlines()) == 3
    exec(block.replace("batch_size=4", "batch_size=4, num_inference_steps=2"), {})
    assert (tmp_path / "sample.png").is_file()
    assert "With diffusers alone" not in card and "cannot sample from it, since it passes no class labels" in card
    for leftover in ("{{", "{%", "None", "Undefined", "The same holds for ddpm_hf"):
        assert leftover not in card


@pytest.mark.parametrize("class_embed_type", ["timestep", "identity"])
def test_no_way_to_sample_is_claimed_of_a_model_that_no_pipeline_samples(
    tmp_path: Path, class_embed_type: str
) -> None:
    DDPMPaperPipeline(of_classes(5, class_embed_type), DDPMPaperScheduler()).save_pretrained(tmp_path)
    card = fill_card(tmp_path, "me/model")
    assert "batch_size" not in card and "The same holds for ddpm_hf" in card and "numbered" not in card
    assert len(re.findall(r"```python\n", card)) == 1 and check_card(card) == ([], [])


def test_a_model_without_classes_says_nothing_of_them(folder: Path) -> None:
    assert "class" not in fill_card(folder, "me/digits").split("## Figures")[0]


def test_weights_of_a_variant_alone_are_loaded_as_that_variant(tmp_path: Path) -> None:
    pipeline = DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler()).to(torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    card = fill_card(tmp_path, "me/half")
    assert card.count('from_pretrained("me/half", variant="fp16")') == 2


def test_parameters_are_counted_once_over_shards_and_variants(tmp_path: Path) -> None:
    pipeline = DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler())
    pipeline.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    count = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    assert f"{count:,} parameters" in fill_card(tmp_path, "me/model")


def test_what_stock_does_otherwise_is_told(tmp_path: Path) -> None:
    assert in_stock(DDPMPaperScheduler(variance_type="learned_range")) == []
    variances = ("learned", "fixed_large_log", "optimal")
    for options in ({"prediction_type": "mean"}, *({"variance_type": name} for name in variances)):
        (sentence,) = in_stock(DDPMPaperScheduler(**options))
        assert sentence in fill_card(saved(tmp_path / "run", **options), "me/model")
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(20, 6.5, -9.0))
    (sentence,) = in_stock(scheduler)
    DDPMPaperPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "betas")
    card = fill_card(tmp_path / "betas", "me/model")
    assert sentence in card and "from 6.50 to -9.00" in card


def test_a_bare_pipeline_has_a_card_without_figures(tmp_path: Path) -> None:
    card = fill_card(saved(tmp_path), "me/bare")
    assert "There are no measurements yet." in card and "There is no record of this model's training" in card
    assert "model-index" not in card and "samples.png" not in card
    for leftover in ("{{", "{%", "None", "Undefined", "nan"):
        assert leftover not in card


def test_samples_are_compared_with_as_many_real_images(tmp_path: Path) -> None:
    unequal = fill_card(saved(tmp_path / "old", METRICS), "me/digits")
    assert "1.354" not in unequal and "equal size" not in unequal  # 297 test images beside 500 samples
    key = "frechet_distance_pixels_at_equal_numbers"
    card = fill_card(saved(tmp_path / "new", METRICS | {key: EQUAL}), "me/digits")
    assert "only sets of equal size can be compared: here\n297 images of each kind, with the other 1203" in card
    for line in ("| samples | 0.6123 |", "| training images | 0.7000 |", "| test images | 1.4000 |"):
        assert line in card
    assert "| samples to training images | 0.2987 |" in card
    without = fill_card(saved(tmp_path / "few", METRICS | {key: EQUAL | {"test_images": None}}), "me/digits")
    assert "| training images | 0.7000 |" in without and "| test images |" not in without


@pytest.mark.parametrize("key", ["bits_per_dim", "frechet_distance_pixels", "train_steps", "train_seconds", "data"])
def test_some_figures_alone_make_a_card_too(tmp_path: Path, key: str) -> None:
    card = fill_card(saved(tmp_path, {key: METRICS[key]}), "me/model")
    assert check_card(card) == ([], [])
    shown = {"bits_per_dim": "| total | 1.7521 |", "frechet_distance_pixels": "0.2987", "train_steps": "2070 steps."}
    assert shown.get(key, "") in card
    assert ("There are no measurements yet." in card) == (key not in ("bits_per_dim", "frechet_distance_pixels"))
    for leftover in ("{{", "{%", "None", "Undefined"):
        assert leftover not in card


def test_the_attribution_of_the_data_is_shown(tmp_path: Path) -> None:
    credit = "OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0"
    card = fill_card(saved(tmp_path / "with", METRICS | {"attribution": credit}), "me/model")
    assert f"in 254 s.\n\nThe data are by {credit}.\n" in card and check_card(card) == ([], [])
    for figures in (METRICS, METRICS | {"attribution": None}):
        assert "The data are by" not in fill_card(saved(tmp_path / "without", figures), "me/model")


def test_a_figure_without_decimals_is_claimed_as_it_is_shown(tmp_path: Path) -> None:
    card = ModelCard(fill_card(saved(tmp_path, {"bits_per_dim": 2}), "me/model"))
    assert "| total | 2.0000 |" in card.text and card.data.eval_results[0].metric_value == 2


def test_figures_that_are_no_numbers_are_not_claimed(tmp_path: Path) -> None:
    card = fill_card(saved(tmp_path, {"bits_per_dim": float("nan")}), "me/model")
    assert "model-index" not in card and check_card(card) == ([], [])


def test_a_model_of_any_size(tmp_path: Path) -> None:
    DDPMPaperPipeline(tiny_unet(sample_size=None), DDPMPaperScheduler()).save_pretrained(tmp_path)
    assert "generates images with\n1 channel and 256 levels" in fill_card(tmp_path, "me/model")


def test_a_snapshot_says_how_far_the_training_is(tmp_path: Path) -> None:
    facts = {key: METRICS[key] for key in ("data", "train_images", "train_steps", "train_batch_size", "objective")}
    card = fill_card(saved(tmp_path, {**facts, "step_of_training": 500}), "me/run")
    assert (
        "after 500 of 2070 steps" in card
        and "500 steps of 64 images" in card
        and "There are no measurements yet." in card
    )


def test_samples_are_shown_if_there_are_some(folder: Path) -> None:
    assert "![samples](samples.png)" not in fill_card(folder, "me/digits")
    (folder / "samples.png").write_bytes(b"PNG")
    assert "![samples](samples.png)" in fill_card(folder, "me/digits")


@pytest.mark.parametrize("broken", ["metrics.json", "unet/diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_file_that_is_not_whole_is_named(folder: Path, broken: str) -> None:
    whole = (folder / broken).read_bytes()
    (folder / broken).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=re.escape(str(folder / broken))):
        fill_card(folder, "me/digits")


# --- what is there already ------------------------------------------------------------------------------------------


def test_new_figures_take_the_place_of_old_ones_and_nothing_else_changes(folder: Path) -> None:
    old = fill_card(folder, "me/digits")
    assert merge_cards(old, old) == old
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "bits_per_dim": 1.5}))
    new = fill_card(folder, "me/digits")
    assert new != old
    assert merge_cards(old, new) == new


def test_words_between_and_around_the_sections_are_kept(folder: Path) -> None:
    old = fill_card(folder, "me/digits")
    old = old.replace("<!-- ddpm_hf: figures", "Between.\n\n<!-- ddpm_hf: figures") + "\n## Limits\n\nNone known.\n"
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "bits_per_dim": 1.5}))
    merged = merge_cards(old, fill_card(folder, "me/digits"))
    assert "Between.\n\n<!-- ddpm_hf: figures" in merged and merged.endswith("\n## Limits\n\nNone known.\n")
    assert "| total | 1.5000 " in merged and "1.7521" not in merged


def test_an_edited_section_is_kept_and_the_others_are_renewed(folder: Path) -> None:
    old = fill_card(folder, "me/digits").replace("## Use\n", "## How I use it\n")
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "bits_per_dim": 1.5}))
    merged = merge_cards(old, fill_card(folder, "me/digits"))
    assert "## How I use it" in merged and "## Use\n" not in merged and "| total | 1.5000 " in merged
    again = merge_cards(merged, fill_card(folder, "me/digits"))
    assert again == merged


def test_a_section_that_was_taken_out_stays_out(folder: Path) -> None:
    new = fill_card(folder, "me/digits")
    old = re.sub(r"<!-- ddpm_hf: training .*?<!-- /ddpm_hf: training -->\n", "", new, flags=re.DOTALL)
    assert "## Training" not in old
    assert merge_cards(old, new) == old


def test_other_line_ends_are_no_edit(folder: Path) -> None:
    old = fill_card(folder, "me/digits").replace("\n", "\r\n")
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "bits_per_dim": 1.5}))
    merged = merge_cards(old, fill_card(folder, "me/digits"))
    assert "| total | 1.5000 " in merged and "1.7521" not in merged


def test_the_tighter_bound_is_told_with_what_it_is_of(folder: Path) -> None:
    weighted = {"bits_per_dim": 1.71234, "bits_per_dim_standard_error": 0.0123, "paths": 8, "steps": 100}
    weighted["bits_per_dim_by_number_of_paths"] = {"1": 1.74567, "8": 1.71234}
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "importance_weighted": weighted}))
    card = ModelCard(fill_card(folder, "me/digits"))
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["bits_per_dim_importance_weighted"] == 1.7123
    assert (
        "of the chain of 100 steps, with 8 paths per\nimage" in card.text and "1.7123 ± 0.0123 bits/dim" in card.text
    )
    assert "With one path the bound is\n1.7457." in card.text
    assert check_card(str(card)) == ([], [])
    del weighted["bits_per_dim_by_number_of_paths"]  # an older run's
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "importance_weighted": weighted}))
    assert "With one path" not in ModelCard(fill_card(folder, "me/digits")).text


def test_somebodys_own_card_is_kept_whole_and_gets_the_sections_after_it(folder: Path) -> None:
    own = "---\nlicense: mit\nlanguage: en\ntags:\n- mine\n---\n# My model\n\nMy words.\n"
    merged = ModelCard(merge_cards(own, fill_card(folder, "me/digits")))
    assert merged.text.startswith("# My model\n\nMy words.\n\n<!-- ddpm_hf: description")
    assert (merged.data.license, merged.data.language) == ("mit", "en")
    assert merged.data.tags[0] == "mine" and "ddpm_hf" in merged.data.tags
    assert check_card(str(merged)) == ([], [])


def test_a_card_without_metadata_gets_them(folder: Path) -> None:
    merged = ModelCard(merge_cards("Just words.\n", fill_card(folder, "me/digits")))
    assert merged.text.startswith("Just words.") and merged.data.license is None


def test_results_of_others_stay_and_ours_are_replaced(folder: Path) -> None:
    old = ModelCard(fill_card(folder, "me/digits"))
    index = old.data.to_dict()["model-index"]
    index[0]["results"].append(
        {
            "task": {"type": "unconditional-image-generation"},
            "dataset": {"type": "celeba", "name": "CelebA"},
            "metrics": [{"type": "fid", "value": 3.17}],
        }
    )
    yaml_block = json.dumps({"license": "mit", "model-index": index})  # JSON is YAML
    (folder / "metrics.json").write_text(json.dumps({**METRICS, "bits_per_dim": 1.5}))
    merged = ModelCard(merge_cards(f"---\n{yaml_block}\n---\n{old.text}", fill_card(folder, "me/digits")))
    values = [(result.dataset_type, result.metric_type, result.metric_value) for result in merged.data.eval_results]
    assert sorted(values) == [
        ("celeba", "fid", 3.17),
        ("uoft-cs/cifar10", "bits_per_dim", 1.5),
        ("uoft-cs/cifar10", "frechet_distance_pixels", 0.2987),
    ]


def test_figures_that_hold_no_more_are_taken_out_and_those_of_others_stay(tmp_path: Path, folder: Path) -> None:
    old, bare = fill_card(folder, "me/digits"), fill_card(saved(tmp_path / "bare"), "me/digits")
    merged = merge_cards(old, bare, are_figures_gone=True)
    assert "model-index" not in merged and "There are no measurements yet." in merged and "1.7521" not in merged
    assert "value: 1.7521" in merge_cards(old, bare)  # the same weights, without their figures at hand
    other = old.replace("type: bits_per_dim", "type: fid")
    (result,) = ModelCard(merge_cards(other, bare, are_figures_gone=True)).data.eval_results
    assert (result.metric_type, result.metric_value) == ("fid", 1.7521)


@pytest.mark.parametrize(
    "head", ["license: [", "- just\n- a list", "model-index: nothing", "model-index:\n- name: x\n  results: [{}]"]
)
def test_metadata_that_cannot_be_read_are_said_to_be_so(folder: Path, head: str) -> None:
    with pytest.raises(ValueError, match="model card"):
        merge_cards(f"---\n{head}\n---\nWords.\n", fill_card(folder, "me/digits"))


def test_a_template_value_is_not_a_template(tmp_path: Path) -> None:
    card = fill_card(saved(tmp_path, {**METRICS, "data": "{{ 7 * 6 }} [x](y)"}), "me/run")
    assert "{{ 7 * 6 }}" in card and "42 [x]" not in card


def test_a_model_of_rectangles_in_colour(tmp_path: Path) -> None:
    unet: UNet2DModel = tiny_unet(channels=3, sample_size=(4, 8))
    DDPMPaperPipeline(unet, DDPMPaperScheduler()).save_pretrained(tmp_path)
    assert "4×8 pixels, 3 channels" in fill_card(tmp_path, "me/model")


def test_figures_of_a_later_version_do_not_break_the_card(tmp_path: Path, folder: Path) -> None:
    later = {"caption_information_bits": {"mean": 3.5}, "bits_per_dim_unconditional": "unknown", "data": ["a", "b"]}
    nothing = dict.fromkeys(("bits_per_dim_rate", "train_steps", "frechet_distance_pixels", "importance_weighted"))
    (folder / "metrics.json").write_text(json.dumps({**METRICS, **later, **nothing}))
    card = fill_card(folder, "me/model")
    assert check_card(card) == ([], []) and "| total | 1.7521 ± 0.0161" in card
    for leftover in ("{{", "{%", "None", "Undefined", "caption"):
        assert leftover not in card
    null = fill_card(saved(tmp_path / "null", {"bits_per_dim": None}), "me/model")  # as a NaN was once written
    assert "There are no measurements yet." in null and "model-index" not in null


# --- models of text to image ----------------------------------------------------------------------------------------


CAPTIONS = {
    "bits_per_dim_unconditional": 1.8,
    "caption_information_bits": 12.345,
    "caption_information_bits_standard_error": 1.239,
    "caption_information_bits_shuffled": -3.5,
    "caption_information_bits_shuffled_standard_error": 0.5,
    "caption_retrieval_accuracy": 0.4375,
    "caption_retrieval_accuracy_training": 0.75,
    "caption_retrieval_candidates": 16,
    "caption_retrieval_images": 128,
    "attribution": "OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0",
    "settings": {"text_encoder": "all-MiniLM-L6-v2", "validation_prompts": ['a "big" cat', "dog"]},
}


def saved_text(folder: Path, settings: TextSettings | None, metrics: dict[str, Any] | None = None) -> Path:
    ours(*bert(), text_unet(settings=settings)).save_pretrained(folder)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def run_snippets(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to use the model, as the card shows them."""
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        namespace: dict[str, Any] = {}
        exec(block.replace(", guidance_scale", ", num_inference_steps=2, guidance_scale"), namespace)
        assert (folder / "sample.png").is_file()
        (folder / "sample.png").unlink()


def test_the_card_of_a_model_of_text_to_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_text(tmp_path / "run", TextSettings(16, True), METRICS | CAPTIONS)
    text = fill_card(folder, str(folder))
    card = ModelCard(text)
    assert check_card(text) == ([], [])
    assert card.data.pipeline_tag == "text-to-image"
    assert {result.task_type for result in card.data.eval_results} == {"text-to-image"}
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured["caption_information_bits"] == 12.345
    plain = " ".join(card.text.split())
    assert "It is a `UNet2DConditionModel` with" in plain
    assert (
        "by a frozen text encoder, a `BertModel` (all-MiniLM-L6-v2), in up to 16 tokens, whose padding is masked."
        in plain
    )
    assert "It was also trained without text, so that it can be guided." in plain
    assert "| bits per image that its own caption saves | 12.35 ± 1.24 |" in card.text
    assert "| another image's caption | -3.50 ± 0.50 |" in card.text
    assert "| captions retrieved, test images | 0.438 |" in card.text and "most likely among 16, by" in plain
    assert "It passes no attention mask to the model" in plain and "77 tokens in place of 16" in plain
    assert "The data are by OpenMoji (https://openmoji.org), licensed CC BY-SA 4.0." in plain
    assert 'pipeline("a \\"big\\" cat", guidance_scale=2.0)' in card.text
    assert "DDPMPaperTextToImagePipeline.from_pretrained(" in plain and "IFPipeline.from_pretrained(" in plain
    run_snippets(text, folder, monkeypatch)


def test_the_card_of_a_model_that_always_needs_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_text(tmp_path / "run", TextSettings(77, False, null=False))
    text = fill_card(folder, str(folder))
    assert "attention mask" not in text and "can be guided" not in text and "is masked" not in text
    assert 'pipeline("red heart").images[0]' in text and 'pipeline("red heart", guidance_scale=1.0)' in text
    run_snippets(text, folder, monkeypatch)


def test_the_card_names_an_encoder_on_the_hub(tmp_path: Path) -> None:
    folder = saved_text(tmp_path / "run", TextSettings(16, encoder="google/t5-v1_1-base"))
    text = " ".join(fill_card(folder, "me/run").split())
    assert "by a frozen text encoder, `google/t5-v1_1-base`, in up to 16 tokens." in text
    assert (
        "It does not load the text encoder, which is `google/t5-v1_1-base` on the Hub: pass `text_encoder` and" in text
    )


def test_the_card_of_a_model_that_stock_saved(tmp_path: Path) -> None:
    stock(*bert(), text_unet()).save_pretrained(tmp_path)
    assert "a `BertModel`, in up to 77 tokens." in " ".join(fill_card(tmp_path, "me/run").split())


@pytest.mark.parametrize("with_text", [True, False])
def test_the_card_of_a_model_that_enlarges_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_text: bool
) -> None:
    settings = [LowResolutionSettings(2), *([TextSettings(16)] if with_text else [])]
    own = {name: value for each in settings for name, value in each.to_config()["_ddpm_hf"].items()}
    unet = conditional_unet(6, 6, 8, class_embed_type="timestep")
    unet.register_to_config(_ddpm_hf=own)
    chain = DDPMPaperScheduler(num_train_timesteps=4, variance_type="learned_range")
    parts = bert() if with_text else (None, None)
    DDPMPaperSuperResolutionPipeline(*parts, unet, chain, standard_noising()).save_pretrained(tmp_path / "run")
    text = fill_card(tmp_path / "run", str(tmp_path / "run"))
    plain = " ".join(text.split())
    assert check_card(text) == ([], []) and ModelCard(text).data.pipeline_tag == "image-to-image"
    assert "it enlarges images by a factor of 2, for example to images with 8×8 pixels, 3 channels" in plain
    assert "from ddpm_hf import DDPMPaperSuperResolutionPipeline" in text
    assert ("It is told of a prompt" in plain) == with_text
    assert ("`IFSuperResolutionPipeline` of diffusers loads this model, but cannot sample" in plain) != with_text
    if with_text:
        monkeypatch.chdir(tmp_path)
        Image.new("RGB", (4, 4), "red").save("small.png")
        run_snippets(text, tmp_path, monkeypatch)


# --- latent models ---------------------------------------------------------------------------------------------------

LATENT_NOTES = {
    "StableDiffusionPipeline": "It does not tell the text encoder which tokens are padding, and pads prompts to as",
    "LDMPipeline": "It draws the noise of the steps from torch's global generator, whatever `generator` is.",
    "DiTPipeline": "It drops the variance that the model has learned, and samples with `fixed_small`.",
}


@pytest.mark.filterwarnings("ignore")  # of the stock pipelines
@pytest.mark.parametrize("family", LATENT_NOTES)
def test_the_card_of_a_latent_model(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = {
        "StableDiffusionPipeline": tiny_pipelines.stable_diffusion,
        "LDMPipeline": tiny_pipelines.latent_unconditional,
        "DiTPipeline": tiny_pipelines.diffusion_transformer,
    }[family]
    pipeline = DDPMPaperLatentPipeline.from_stock(build(DDPMPaperScheduler(num_train_timesteps=4)))
    if family == "StableDiffusionPipeline":
        pipeline.unet.register_to_config(**TextSettings(12).to_config())
    pipeline.save_pretrained(tmp_path / "run")
    text = fill_card(tmp_path / "run", str(tmp_path / "run"))
    plain = " ".join(text.split())
    assert check_card(text) == ([], [])
    kind = "VQModel" if family == "LDMPipeline" else "AutoencoderKL"
    channels = pipeline.unet.config.in_channels
    assert "generates images with 16×16 pixels, 3 channels, and estimates" in plain
    assert f"the latents of the `{kind}` beside it, which have {channels} channels and 1/2 of the images'" in plain
    assert "DDPMPaperLatentPipeline.from_pretrained(" in plain and f"{family}.from_pretrained(" in plain
    notes = {name for name, note in LATENT_NOTES.items() if note in plain}
    assert notes == ({"LDMPipeline", "DiTPipeline"} if family == "DiTPipeline" else {family})
    monkeypatch.setattr("diffusers.DiTPipeline.__call__", few_steps(DiTPipeline.__call__))
    monkeypatch.setattr("diffusers.LDMPipeline.__call__", few_steps(LDMPipeline.__call__))
    run_snippets(text, tmp_path / "run", monkeypatch)


def few_steps(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's call with two steps by default."""
    return lambda self, *arguments, **options: call(self, *arguments, **{"num_inference_steps": 2, **options})
