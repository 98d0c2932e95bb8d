# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Image files as levels: conversions, refused files, and the names of unreadable files in messages."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import shlex
import shutil
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from image_folders import load
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from training_runs import LATEST, TINY, last_line, refused, train

from ddpm_hf.conditioning.classes import LABELS
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.image_files import BadImage, Header, ImageShape, header_of
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.tasks.images import load_labelled_images as load_images


RUN = [*TINY, *shlex.split("--train_batch_size 16 --max_train_steps 12 --num_levels 16")]


def noise(seed: int, shape: tuple[int, ...] = (8, 8), top: int = 256) -> np.ndarray:
    dtype = np.uint8 if top <= 256 else np.uint16
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, form, **options)
    return file.getvalue()


def save_noise(folder: Path, count: int = 12, shape: tuple[int, ...] = (8, 8)) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(encoded(noise(i, shape)))
    return folder


def levels_of(images: LevelImages) -> np.ndarray:
    batch, _ = images.batch(0, len(images))
    return ((batch + 1) / 2 * (images.num_levels - 1)).round().long().numpy()


def everything(folder: Path, **arguments: object) -> np.ndarray:
    """The levels of all images of a folder, sorted."""
    data = load_images(DataArguments(train_data_dir=str(folder), **arguments))
    return np.array(sorted(np.concatenate([levels_of(data.train), levels_of(data.test)]).tolist()))


def shape_of(content: bytes, **arguments: object) -> ImageShape:
    return ImageShape.of([header_of({"bytes": content, "path": None}, "it")], DataArguments(**arguments))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# --- eight bits and fewer -------------------------------------------------------------------------------------------


def test_the_digits_are_scikit_learns_in_order() -> None:
    data, truth = load_images(DataArguments()), load_digits().images
    assert (len(data.train), len(data.test), data.train.num_levels) == (1500, 297, 17)
    for images, levels in ((data.train, truth[:1500]), (data.test, truth[1500:])):
        batch = torch.cat(list(images.batches(400)))
        np.testing.assert_array_equal(((batch[:, 0] + 1) * 8).numpy(), levels)
    assert data.train.columns[LABELS].tolist() == load_digits().target[:1500].tolist()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_eight_bit_images_keep_their_pixels(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = noise(0, (5, 6, 4, channels))
    for i, image in enumerate(pixels):
        Image.fromarray(image[..., 0] if channels == 1 else image, mode=mode).save(tmp_path / f"{i}.png")
    expected = np.array(sorted(pixels.transpose(0, 3, 1, 2).tolist()))
    asked = 4 if channels == 4 else None  # transparency is kept where that is asked for
    np.testing.assert_array_equal(everything(tmp_path, test_fraction=0.2, channels=asked), expected)


def test_black_and_white_images_have_two_levels(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.eye(8) > i / 10).save(tmp_path / f"{i}.png")
    data = load_images(DataArguments(train_data_dir=str(tmp_path), test_fraction=0.25))
    assert data.train.num_levels == 2 and set(data.train[0].unique().tolist()) == {-1.0, 1.0}


def test_fewer_levels_keep_the_highest_bits(tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / f"{name}.png")
    data = load_images(DataArguments(train_data_dir=str(tmp_path), num_levels=32, test_fraction=0.4))
    np.testing.assert_array_equal(levels_of(data.train)[0].ravel(), np.arange(256) >> 3)


def test_resizing_crops_the_middle_or_where_it_is_told(tmp_path: Path) -> None:
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 255
    for name in "abc":
        Image.fromarray(wide).save(tmp_path / f"{name}.png")
    arguments = {"train_data_dir": str(tmp_path), "resolution": 8, "test_fraction": 0.4}
    middle = load_images(DataArguments(**arguments, center_crop=True)).train
    assert torch.equal(middle[0], torch.ones(1, 8, 8)) and middle.pixels is not None
    anywhere = load_images(DataArguments(**arguments)).train
    assert anywhere.pixels is None and torch.equal(anywhere[0], torch.ones(1, 8, 8))
    for place in range(17):
        expected = torch.from_numpy(wide[None, :, place : place + 8])
        for within in (0.01, 0.99):
            assert torch.equal(anywhere.levels(0, ((place + within) / 17, 0.5)), expected)


def test_an_image_is_upright_as_its_camera_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(0, (16, 24, 3)).repeat(4, 0).repeat(4, 1))
    content = encoded(image, "JPEG", exif=exif, quality=95)
    shape = shape_of(content)
    assert shape.size == (64, 96)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))).transpose(2, 0, 1)
    np.testing.assert_array_equal(shape.levels(content, "it").numpy(), upright)


def test_other_modes_are_converted_if_that_is_asked_for(tmp_path: Path) -> None:
    image = Image.fromarray(noise(0, (8, 8, 3)).repeat(4, 0).repeat(4, 1)).convert("CMYK")
    content = encoded(image, "JPEG", quality=95)
    with pytest.raises(ValueError, match="are of mode CMYK; pass --channels 1, 3 or 4 to convert them"):
        shape_of(content)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(shape_of(content, channels=3).levels(content, "it").numpy(), expected)
    grey = shape_of(encoded(noise(1, (32, 32))))
    with pytest.raises(BadImage, match="it is of mode CMYK, unlike those before; pass --channels"):
        grey.levels(content, "it")


def test_images_that_differ_need_an_argument(tmp_path: Path) -> None:
    headers = [Header("L", (8, 8)), Header("RGB", (8, 9))]
    with pytest.raises(ValueError, match="mixed modes"):
        ImageShape.of(headers, DataArguments())
    with pytest.raises(ValueError, match="2 different sizes; pass --resolution"):
        ImageShape.of(headers, DataArguments(channels=3))
    assert ImageShape.of(headers, DataArguments(channels=3, resolution=8)).of_tensor == (3, 8, 8)
    black_and_white = shape_of(encoded(Image.fromarray(np.eye(8) > 0)))
    with pytest.raises(BadImage, match="it is of mode L, those before are black and white"):
        black_and_white.levels(encoded(noise(0)), "it")


def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="no column of images"):
        load_images(DataArguments(dataset_name=str(tmp_path / "data")))


# --- more than eight bits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "form"), [("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF")])
def test_deep_images_keep_every_level(tmp_path: Path, mode: str, form: str) -> None:
    pixels = noise(0, (6, 8, 8), 2**16)
    pixels[0, 0, :2] = 0, 2**16 - 1
    for i, image in enumerate(pixels):
        stored = {"I;16": image, "I": image.astype(np.int32), "F": (image / 65535).astype(np.float32)}[mode]
        path = tmp_path / f"{i}.{form.lower()}"
        Image.fromarray(stored).save(path)
        assert Image.open(path).mode == mode
    with pytest.raises(ValueError, match=f"Images of mode {mode} have more than 8 bits; pass --preserve_input_prec"):
        everything(tmp_path)
    whole = everything(tmp_path, preserve_input_precision=True, test_fraction=0.2)
    np.testing.assert_array_equal(whole, np.array(sorted(pixels[:, None].tolist())))
    for channels in (3, 4):
        colour = everything(tmp_path, preserve_input_precision=True, test_fraction=0.2, channels=channels)
        np.testing.assert_array_equal(colour[:, :3], whole.repeat(3, 1))
        assert channels == 3 or (colour[:, 3] == 65535).all()
    coarse = everything(tmp_path, preserve_input_precision=True, test_fraction=0.2, num_levels=256)
    np.testing.assert_array_equal(coarse, np.array(sorted((pixels[:, None] >> 8).tolist())))


def test_deep_images_are_resized_as_numbers(tmp_path: Path) -> None:
    pixels = noise(0, (16, 16), 2**16)
    content = encoded(pixels)
    shape = shape_of(content, preserve_input_precision=True, resolution=8)
    expected = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((8, 8), Image.LANCZOS))
    np.testing.assert_array_equal(shape.levels(content, "it")[0].numpy(), np.rint(expected).clip(0, 65535))


def test_eight_bits_among_deep_images_are_spread_over_their_range() -> None:
    shape = shape_of(encoded(noise(0, (8, 8), 2**16)), preserve_input_precision=True)
    pixels = noise(1)
    np.testing.assert_array_equal(shape.levels(encoded(pixels), "it")[0].numpy(), pixels.astype(int) * 257)
    with pytest.raises(BadImage, match="it is of mode I;16, of more bits than those before"):
        shape_of(encoded(pixels)).levels(encoded(noise(0, (8, 8), 2**16)), "it")


@pytest.mark.parametrize(
    ("pixels", "top"),
    [
        (np.full((8, 8), -1, np.int32), "65535"),
        (np.full((8, 8), 65536, np.int32), "65535"),
        (np.full((8, 8), 1.5, np.float32), "1"),
        (np.full((8, 8), np.nan, np.float32), "1"),
    ],
)
def test_values_out_of_range_are_refused(pixels: np.ndarray, top: str) -> None:
    content = encoded(pixels, "TIFF")
    with pytest.raises(BadImage, match=rf"it of mode [IF] must have values in 0 \.\.\. {top}; scale it to these\."):
        shape_of(content, preserve_input_precision=True).levels(content, "it")


def test_several_channels_of_16_bits_are_not_halved_in_silence() -> None:
    pixels = noise(0, (8, 8, 3), 2**16)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    content = raw_png(8, 8, 16, 2, rows)
    with pytest.raises(ValueError, match="Only 8 bits can be read from images of mode"):
        shape_of(content, preserve_input_precision=True)
    np.testing.assert_array_equal(shape_of(content).levels(content, "it").numpy(), pixels.transpose(2, 0, 1) >> 8)
    deep = shape_of(encoded(noise(0, (8, 8), 2**16)), preserve_input_precision=True, channels=3)
    with pytest.raises(BadImage, match="it is of mode RGB;16, from which only 8 bits can be read"):
        deep.levels(content, "it")


# --- files that cannot be read --------------------------------------------------------------------------------------


BROKEN = {
    "a PNG cut off": encoded(noise(0, (64, 64)))[:2000],
    "a PNG cut off in its header": encoded(noise(0, (64, 64)))[:20],
    "a JPEG cut off": encoded(noise(0, (64, 64)), "JPEG")[:1500],
    "a TIFF cut off": encoded(noise(0, (64, 64)), "TIFF")[:1000],
    "an empty file": b"",
    "a text": b"this is not an image\n" * 20,
    "a damaged PNG": encoded(noise(0, (64, 64)))[:1000] + bytes(500) + encoded(noise(0, (64, 64)))[1500:],
    "a PNG that would fill the memory": raw_png(60_000, 60_000, 8, 2, bytes(1000)),
    "nothing": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_named_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.png"
    shape = ImageShape.of([Header("L", (64, 64))], DataArguments())
    sentences = set()
    for _ in range(2):
        if BROKEN[name] is None:
            with pytest.raises(BadImage) as caught:
                header_of({"bytes": None, "path": str(path)}, str(path))
        else:
            with pytest.raises(BadImage) as caught:
                shape.levels(BROKEN[name], str(path))
        sentences.add(str(caught.value))
    (sentence,) = sentences  # no address in memory, which is another each time
    assert sentence.startswith(f"{path} is not an image that can be read: ") and sentence.endswith(".")
    assert "\n" not in sentence and "0x" not in sentence


def test_an_entry_without_an_image_is_named() -> None:
    for entry in (None, {"bytes": None, "path": None}):
        with pytest.raises(BadImage, match="it is not an image that can be read: there is nothing in its place"):
            header_of(entry, "it")


def save_broken(folder: Path, names: tuple[str, ...]) -> Path:
    save_noise(folder, 40, (64, 64))
    for i, name in enumerate(names):
        (folder / f"{10 * i + 3:02d}.png").write_bytes(BROKEN[name])
    return folder


def test_files_without_a_header_stop_at_the_start_or_are_passed_over(tmp_path: Path) -> None:
    folder = save_broken(tmp_path / "images", ("a text", "an empty file", "a PNG that would fill the memory"))
    with pytest.raises(BadImage, match=r"images/\d\d\.png is not an image .*\. Pass --skip_bad_images to skip"):
        load_images(DataArguments(train_data_dir=str(folder)))
    data = load_images(DataArguments(train_data_dir=str(folder), skip_bad_images=True))
    assert len(data.train) + len(data.test) == 37
    assert sorted(Path(sentence.split()[0]).name for sentence in data.bad_images) == ["03.png", "13.png", "23.png"]


def test_labels_stay_with_their_images_when_others_are_passed_over(tmp_path: Path) -> None:
    for label in range(3):
        for i in range(8):
            path = tmp_path / str(label) / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(np.full((8, 8), 10 * label + i, np.uint8)))
    (tmp_path / "0" / "3.png").write_bytes(b"")
    content = encoded(noise(0, (8, 8)))
    (tmp_path / "1" / "3.png").write_bytes(content[: len(content) - 30])
    data = load_images(DataArguments(train_data_dir=str(tmp_path), skip_bad_images=True))
    assert len(data.bad_images) == 2 and len(data.train) + len(data.test) == 22
    for images in (data.train, data.test):
        assert images.columns[LABELS].tolist() == [int(levels.max()) // 10 for levels in levels_of(images)]


def test_a_column_of_classes_can_be_named(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": encoded(noise(i)), "path": None} for i in range(20)]}
    columns |= {"writer": [i % 7 for i in range(20)], "digit": [i % 3 for i in range(20)]}
    features = {"image": datasets.Image(), "writer": datasets.Value("int32"), "digit": datasets.ClassLabel(3)}
    (tmp_path / "data").mkdir()
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(tmp_path / "data" / "train.parquet")
    for streaming in (False, True):
        common = {"dataset_name": str(tmp_path / "data"), "streaming": streaming, "test_fraction": 0.5}
        for column, name in (("digit", None), ("digit", "digit"), ("writer", "writer")):
            images = load_images(DataArguments(**common, label_column=name)).test
            number = {noise(i).tobytes(): i for i in range(20)}
            shown = [number[levels.astype(np.uint8).tobytes()] for levels in levels_of(images)]
            assert images.columns[LABELS].tolist() == [columns[column][i] for i in shown]


def test_images_in_a_table_are_named_by_their_row(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": encoded(noise(i)), "path": None}} for i in range(20)]
    rows[13]["image"]["bytes"] = b"not an image"
    (tmp_path / "data").mkdir()
    data = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image()}))
    data.to_parquet(tmp_path / "data" / "train.parquet")
    loaded = load_images(DataArguments(dataset_name=str(tmp_path / "data"), skip_bad_images=True))
    assert loaded.bad_images == (
        "Image 13 of split train is not an image that can be read: it is of no known format.",
    )


def test_nothing_but_bad_images_is_refused(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="None of the training images can be read"):
        load_images(DataArguments(train_data_dir=str(tmp_path), skip_bad_images=True))


def test_images_that_are_read_when_needed_can_be_sent_to_another_process(tmp_path: Path) -> None:
    arguments = DataArguments(train_data_dir=str(save_noise(tmp_path / "images", shape=(8, 12))), resolution=8)
    images = load_images(arguments).train
    sent = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(sent.levels(i, (0.9, 0.1)), images.levels(i, (0.9, 0.1))) for i in range(len(images)))


# --- train.py -------------------------------------------------------------------------------------------------------


def passed_over(folder: Path) -> int:
    return json.loads((folder / "metrics.json").read_text())["bad_images_passed_over"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_off_stops_the_run_or_is_passed_over(tmp_path: Path, workers: int) -> None:
    folder = save_noise(tmp_path / "images", 40, (8, 12))
    for name in ("07.png", "21.png"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) - 40])
    common = [*RUN, "--train_data_dir", str(folder), "--resolution", "8", "--dataloader_num_workers", str(workers)]
    common += ["--test_fraction", "0.05"]  # not these two: crops at random places are read when they are needed
    last = last_line(train(tmp_path / "run", *common, code=1))
    assert last.startswith(f"train.py: {folder}/") and "Pass --skip_bad_images to skip such images" in last
    output = train(tmp_path / "skipped", *common, "--skip_bad_images")
    for name in ("07.png", "21.png"):
        assert output.count(f"{folder / name} is not an image that can be read") == 1, output
    assert passed_over(tmp_path / "skipped") == 2


@pytest.mark.parametrize("resolution", [[], ["--resolution", "6"]], ids=["in memory", "cropped at random"])
def test_a_run_goes_on_when_images_break_on_the_way(tmp_path: Path, resolution: list[str]) -> None:
    folder, run = save_noise(tmp_path / "images", 40, (8, 8)), tmp_path / "run"
    common = [*RUN, "--train_data_dir", str(folder), *resolution, "--test_fraction", "0.05", "--random_flip"]
    common += ["--max_train_steps", "12", "--checkpointing_steps", "6", "--checkpoints_total_limit", "-1"]
    train(run, *common)
    shutil.rmtree(run / "checkpoint-12")
    (run / "metrics.json").unlink()
    (folder / "07.png").write_bytes(b"")
    content = (folder / "21.png").read_bytes()
    (folder / "21.png").write_bytes(content[: len(content) - 40])
    assert "Pass --skip_bad_images to skip such images" in refused(run, *common, *LATEST)
    assert "after step 6 of 12" in train(run, *common, *LATEST, "--skip_bad_images")
    assert passed_over(run) == 2


@pytest.mark.parametrize("resolution", [None, 6])
def test_the_next_image_comes_where_one_broke_on_the_way(tmp_path: Path, resolution: int | None) -> None:
    folder = save_noise(tmp_path / "images", 30)
    arguments = DataArguments(train_data_dir=str(folder), resolution=resolution, test_fraction=0.1)

    def row(**options: bool) -> list[bytes]:
        images = load_images(dataclasses.replace(arguments, center_crop=True, **options)).train
        batches = list(TrainingBatches(images, BatchShard(9), 0, 9, seed=3))
        return [image.numpy().tobytes() for batch in batches for image in batch.x_0]

    before = row()
    train = load_images(dataclasses.replace(arguments, center_crop=True)).train
    in_order = [image.numpy().tobytes() for image in train.batch(0, len(train))[0]]
    rows = load_images(dataclasses.replace(arguments, resolution=6)).train.read.rows.tolist()
    for number, content in ((4, b""), (11, None)):
        path = folder / f"{rows[number]:02d}.png"
        path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    following = {in_order[number]: in_order[number + 1] for number in (4, 11)}
    after = row(skip_bad_images=True)
    assert after == [following.get(image, image) for image in before] and after != before


def test_a_file_without_a_header_stops_the_run_before_it_starts_or_is_passed_over(tmp_path: Path) -> None:
    folder = save_noise(tmp_path / "images", 40)
    (folder / "05.png").write_bytes(b"not an image")
    common = [*RUN, "--train_data_dir", str(folder)]
    assert f"train.py: error: {folder / '05.png'} is not an image" in refused(tmp_path / "stopped", *common)
    assert not (tmp_path / "stopped").exists()
    output = train(tmp_path / "skipped", *common, "--skip_bad_images")
    assert output.count(f"{folder / '05.png'} is not an image") == 1, output
    assert passed_over(tmp_path / "skipped") == 1


# --- notes ----------------------------------------------------------------------------------------------------------


def cropping_note(folder: Path, sizes: list[tuple[int, int]], **arguments: object) -> list[str]:
    """What is said of images of these sizes that are not square."""
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("L", size, i).save(folder / f"{i}.png")
    notes = load(folder, test_fraction=0, **arguments).notes
    return [note for note in notes if "unequal sides" in note]


def test_images_that_are_cropped_are_told(tmp_path: Path) -> None:
    mixed = [(8, 8), (12, 8), (8, 20)]
    assert cropping_note(tmp_path / "random", mixed, resolution=8) == [
        "2 of 3 training images have unequal sides. They are cropped to squares at random places in training;"
        " --center_crop takes the middle."
    ]
    assert cropping_note(tmp_path / "middle", mixed, resolution=8, center_crop=True) == [
        "2 of 3 training images have unequal sides. They are cropped to squares in the middle."
    ]
    assert cropping_note(tmp_path / "whole", [(12, 8)] * 2) == []  # the model is oblong too
    assert cropping_note(tmp_path / "squares", [(8, 8), (12, 12)], resolution=8) == []


def test_a_stream_tells_of_its_first_image_that_is_cropped(tmp_path: Path) -> None:
    (note,) = cropping_note(tmp_path / "data", [(12, 8)] * 4, resolution=8, streaming=True)
    assert note.startswith("The first image has unequal sides. Such images are cropped to squares at random places")
