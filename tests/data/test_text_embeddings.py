# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of captions on disk: computed once, never confused, and computed anew where a file is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_text import bert, bert_tokenizer
from torch import Tensor

from ddpm_hf.conditioning.text import TextConditioner, TextEncoder, TextSettings
from ddpm_hf.data.text_embeddings import AT_ONCE, FOLDER, StoredEmbeddings, cache_folder


CPU = torch.device("cpu")
LENGTH = 8
CAPTIONS = ["a red cat", "big", "a blue circle on the square", ""]


class Counted:
    """An encoder that counts the captions that it embeds."""

    def __init__(self, **options: Any):
        tokenizer, self.model = bert(**options)
        self.encoder = TextEncoder(tokenizer, self.model, LENGTH)
        self.sizes: list[int] = []
        self.model.register_forward_pre_hook(lambda module, arguments: self.sizes.append(len(arguments[0])))

    @property
    def total(self) -> int:
        return sum(self.sizes)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def stored(encoder: TextEncoder, folder: Path, keeps_padding: bool = False) -> StoredEmbeddings:
    return StoredEmbeddings(encoder, keeps_padding, folder, CPU)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one.states, other.states, rtol=0, atol=1e-6)
    assert torch.equal(one.mask, other.mask) and one.mask.dtype == torch.bool


def tensors_of(path: Path) -> dict[str, Tensor]:
    """A copy, which does not change with the file."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def assert_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("keeps_padding", [False, True])
def test_they_are_those_of_the_encoder(counted: Counted, tmp_path: Path, keeps_padding: bool) -> None:
    kept = stored(counted.encoder, tmp_path, keeps_padding)
    assert kept.prepare(CAPTIONS) == ()
    asked = ["big", "", "a red cat", "big"]
    found, expected = kept.encode(asked, CPU), counted.encoder.encode(asked, CPU)
    if not keeps_padding:
        expected = expected._replace(states=expected.states * expected.mask[..., None])
        assert not found.states[~found.mask].any()
    assert_same(found, expected)


def test_they_are_computed_once_and_read_by_others(counted: Counted, tmp_path: Path) -> None:
    first = stored(counted.encoder, tmp_path)
    first.prepare(CAPTIONS)
    first.prepare(CAPTIONS[::-1])
    assert counted.total == len(CAPTIONS)
    again = Counted()  # as in another process
    second = stored(again.encoder, tmp_path)
    second.prepare([*CAPTIONS, *CAPTIONS])
    assert_same(first.encode(CAPTIONS, CPU), second.encode(CAPTIONS, CPU))
    assert (counted.total, again.total) == (4, 0)
    assert len(files(tmp_path)) == 1


def test_more_captions_are_added(counted: Counted, tmp_path: Path) -> None:
    kept = stored(counted.encoder, tmp_path)
    kept.prepare(CAPTIONS)
    kept.prepare(["a green cat", *CAPTIONS])
    assert counted.total == 5 and len(files(tmp_path)) == 2
    asked = ["a green cat", *CAPTIONS, "a green cat"]
    assert_same(kept.encode(asked, CPU), stored_alone(asked, tmp_path / "other"))
    total = counted.total
    assert_same(kept.encode(["a dark cat"], CPU), counted.encoder.encode(["a dark cat"], CPU))
    assert counted.total == total + 2  # nobody had prepared it


def stored_alone(captions: list[str], folder: Path) -> Any:
    kept = stored(Counted().encoder, folder)
    kept.prepare(captions)
    return kept.encode(captions, CPU)


def test_many_captions_are_computed_in_batches(counted: Counted, tmp_path: Path) -> None:
    words = ("red", "blue", "green", "dark", "light", "big")
    captions = [f"a {one} {two} {three}" for one in words for two in words for three in words][:150]
    stored(counted.encoder, tmp_path).prepare(captions)
    assert counted.sizes == [AT_ONCE, AT_ONCE, 150 - 2 * AT_ONCE]


def others() -> Iterator[tuple[str, TextEncoder, bool]]:
    tokenizer, model = bert()
    yield "other weights", TextEncoder(*bert(seed=5), LENGTH), False
    yield "another length", TextEncoder(tokenizer, model, LENGTH + 1), False
    yield "padding kept", TextEncoder(tokenizer, model, LENGTH), True
    words = bert_tokenizer()
    words.add_tokens(["cat on"])
    yield "other tokens", TextEncoder(words, model, LENGTH), False


@pytest.mark.parametrize(("name", "encoder", "keeps_padding"), others(), ids=lambda value: str(value)[:15])
def test_another_encoder_is_not_confused_with_it(
    counted: Counted, tmp_path: Path, name: str, encoder: TextEncoder, keeps_padding: bool
) -> None:
    stored(counted.encoder, tmp_path).prepare(CAPTIONS)
    stored(encoder, tmp_path, keeps_padding).prepare(CAPTIONS)
    assert len(files(tmp_path)) == 2


def test_a_file_of_something_else_is_written_anew(counted: Counted, tmp_path: Path) -> None:
    """By its name it would be the right one, but its contents say what they are of."""
    stored(counted.encoder, tmp_path).prepare(CAPTIONS)
    (right,) = files(tmp_path)
    stored(counted.encoder, tmp_path / "other").prepare(["a dark cat", *CAPTIONS[1:]])
    (other,) = files(tmp_path / "other")
    content = tensors_of(right)
    right.write_bytes(other.read_bytes())
    kept = stored(Counted().encoder, tmp_path)
    kept.prepare(CAPTIONS)
    assert_tensors(tensors_of(right), content)
    assert_same(kept.encode(CAPTIONS, CPU), stored_alone(CAPTIONS, tmp_path / "alone"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_file_is_computed_anew(counted: Counted, tmp_path: Path, damage: Any) -> None:
    first = stored(counted.encoder, tmp_path)
    first.prepare(CAPTIONS)
    expected, (path,) = first.encode(CAPTIONS, CPU), files(tmp_path)
    content = tensors_of(path)
    path.write_bytes(damage(path.read_bytes()))
    again = Counted()
    second = stored(again.encoder, tmp_path)
    second.prepare(CAPTIONS)
    assert again.total == len(CAPTIONS)
    assert_tensors(tensors_of(path), content)
    assert_same(second.encode(CAPTIONS, CPU), expected)


def test_several_at_once_compute_them_once(tmp_path: Path) -> None:
    each = [Counted() for _ in range(4)]
    with ThreadPool(4) as pool:
        pool.map(lambda one: stored(one.encoder, tmp_path).prepare(CAPTIONS), each)
    assert sum(one.total for one in each) == len(CAPTIONS) and len(files(tmp_path)) == 1


def test_captions_that_are_too_long_are_told_of(counted: Counted, tmp_path: Path) -> None:
    long = "a big red cat on the big green square"
    kept = stored(counted.encoder, tmp_path)
    told = kept.prepare([*CAPTIONS, long])
    assert told == ("1 caption is longer than 8 tokens, and truncated; --tokenizer_max_length changes that.",)
    assert kept.lengths([long, "big"]) == [11, 3]
    assert kept.encode([long], CPU).mask.all()


@pytest.mark.parametrize("keeps_padding", [False, True])
def test_embeddings_that_are_not_finite_are_refused(counted: Counted, tmp_path: Path, keeps_padding: bool) -> None:
    with torch.no_grad():
        counted.model.encoder.layer[0].output.LayerNorm.bias[2] = torch.nan
    with pytest.raises(
        ValueError, match="The embeddings of the captions are not finite; run the text encoder in float"
    ):
        stored(counted.encoder, tmp_path, keeps_padding).prepare(CAPTIONS)
    assert files(tmp_path) == [] and not list(tmp_path.glob("*.partial*"))


def test_padding_at_the_beginning_is_refused(tmp_path: Path) -> None:
    tokenizer, model = bert()
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="`padding_side` of the tokenizer must be 'right'"):
        stored(TextEncoder(tokenizer, model, LENGTH), tmp_path).prepare(CAPTIONS)


def test_a_conditioner_makes_the_same_of_stored_embeddings(counted: Counted, tmp_path: Path) -> None:
    for has_mask in (True, False):
        settings = TextSettings(LENGTH, has_mask)
        kept = stored(counted.encoder, tmp_path, keeps_padding=not has_mask)
        made = []
        for encoder in (counted.encoder, kept):
            conditioner = TextConditioner(encoder, settings)
            conditioner.prepare({"prompt": CAPTIONS[:3]})
            made.append(conditioner.make({"prompt": CAPTIONS[:3]}, CPU) | {"null": conditioner.null(2, CPU)})
        nulls = [each.pop("null") for each in made]
        for one, other in (made, nulls):
            assert one.keys() == other.keys()
            for name in one:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


def test_where_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(str(tmp_path)) == tmp_path / FOLDER
    assert cache_folder(None).name == FOLDER
    kept = stored(Counted().encoder, cache_folder(str(tmp_path)))
    kept.prepare(CAPTIONS)
    (path,) = files(tmp_path / FOLDER)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header["__metadata__"]["encoder"] == kept.fingerprint
