# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversion of pixels: transparency, colour profiles, orientation, frames, and long images."""

from __future__ import annotations

import io
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import load
from PIL import Image, ImageCms, ImageOps
from training_runs import TINY, train

from ddpm_hf.data import squares
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.colours import colour_of
from ddpm_hf.data.image_files import ImageShape, header_of
from ddpm_hf.data.squares import square_of


pytestmark = pytest.mark.processes(1)


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def made(content: bytes, **arguments: object) -> np.ndarray:
    """What is trained on, `[H, W, C]`, and its levels."""
    shape = ImageShape.of([header_of({"bytes": content, "path": None}, "it")], DataArguments(**arguments))
    return shape.levels(content, "it").permute(1, 2, 0).numpy()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def notes(folder: Path, contents: list[bytes], **arguments: object) -> str:
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"{i}.png").write_bytes(content)
    return "\n".join(load(folder, test_fraction=0, **arguments).notes)


# --- transparency ---------------------------------------------------------------------------------------------------


def on(colour: tuple[int, int, int], rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(float) / 255
    return np.rint(rgba[..., :3] * alpha + np.array(colour) * (1 - alpha))


@pytest.mark.parametrize("background", ["white", "black", "#3060c0", "rgb(10%, 20%, 30%)", "hsl(120, 100%, 25%)"])
@pytest.mark.parametrize("channels", [None, 3])
def test_transparent_images_are_put_on_the_background(background: str, channels: int | None) -> None:
    pixels = noise(16, 16, 4)
    pixels[:4, :, 3], pixels[4:8, :, 3] = 0, 255
    found = made(encoded(pixels), background=background, channels=channels)
    assert found.shape == (16, 16, 3)
    expected = on(colour_of(background), pixels)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(found[:8], expected[:8])  # where it is clear, and where it is not


def test_grey_images_stay_grey_on_the_background() -> None:
    pixels = noise(8, 8, 2)
    pixels[:4, :, 1] = 0
    content = encoded(Image.fromarray(pixels, mode="LA"))
    found = made(content)
    assert found.shape == (8, 8, 1) and (found[:4] == 255).all()
    assert (made(content, background="black")[:4] == 0).all()
    grey = made(content, background="#204060")[:4]
    assert (grey == Image.new("RGB", (1, 1), (32, 64, 96)).convert("L").getpixel((0, 0))).all()
    assert made(content, channels=3).shape == (8, 8, 3) and (made(content, channels=3)[:4] == 255).all()


def test_what_is_clear_and_black_does_not_show() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    for channels in (None, 1, 3):
        assert (made(encoded(pixels), channels=channels) == 255).all()


def test_four_channels_keep_transparency() -> None:
    pixels = noise(8, 8, 4)
    np.testing.assert_array_equal(made(encoded(pixels), channels=4, background="red"), pixels)
    assert (made(encoded(pixels[..., :3]), channels=4)[..., 3] == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF", "TGA", "ICO"])
def test_formats_with_transparency(form: str) -> None:
    pixels = np.full((16, 16, 4), (255, 0, 0, 255), np.uint8)
    pixels[:8] = 255, 0, 0, 0
    content = encoded(pixels, form, **({"lossless": True} if form == "WEBP" else {}))
    found = made(content, background="blue")
    assert (found[:8] == (0, 0, 255)).all() and (found[8:] == (255, 0, 0)).all()


@pytest.mark.parametrize("clear", [1, bytes([255, 0, 255])])
def test_palettes_with_a_transparent_entry(clear: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]] * 3, np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    content = encoded(image, transparency=clear)
    assert made(content, background="white")[0].tolist() == [[0, 0, 0], [255, 255, 255], [0, 255, 0]]
    assert made(content, channels=1)[0, 1] == 255
    assert made(content, channels=4)[0, :, 3].tolist() == [255, 0, 255]


def test_one_clear_colour_of_an_image_without_alpha() -> None:
    colour, grey = np.zeros((2, 2, 3), np.uint8), np.array([[0, 7], [200, 255]], np.uint8)
    colour[0, 0] = 9, 8, 7
    found = made(encoded(Image.fromarray(colour), transparency=(9, 8, 7)), background="lime")
    assert found[0, 0].tolist() == [0, 255, 0] and (found[1] == 0).all()
    assert made(encoded(Image.fromarray(grey), transparency=7))[..., 0].tolist() == [[0, 255], [200, 255]]
    two = Image.fromarray(np.eye(2) > 0)
    assert made(encoded(two, transparency=0), background="gray")[..., 0].tolist() == [[255, 128], [128, 255]]


def test_a_clear_level_of_16_bits() -> None:
    levels = np.array([[0, 1000], [65535, 1000]], np.uint16)
    content = encoded(Image.fromarray(levels), transparency=1000)
    found = made(content, preserve_input_precision=True)
    assert found[..., 0].tolist() == [[0, 65535], [65535, 65535]]
    assert made(content, preserve_input_precision=True, channels=4)[..., 3].tolist() == [[65535, 0], [65535, 0]]


def test_images_with_and_without_transparency_are_trained_on_together_and_told(tmp_path: Path) -> None:
    contents = [encoded(noise(8, 8, 4)), encoded(noise(8, 8, 3)), encoded(noise(8, 8, 4, seed=1))]
    said = notes(tmp_path / "data", contents, background="#808080")
    assert (
        "2 of 3 training images have transparency. They are put on a background of #808080 (--background);"
        " --channels 4 keeps the transparency." in said
    )
    assert "transparency" not in notes(tmp_path / "four", contents, channels=4)
    assert "transparency" not in notes(tmp_path / "opaque", [encoded(noise(8, 8, 3))] * 2)


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_run_on_icons_is_told_of_the_background(tmp_path: Path, streaming: list[str]) -> None:
    for i in range(8):
        path = tmp_path / "data" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(4, 4, 4, seed=i)).save(path)
    more = shlex.split("--train_batch_size 4 --max_train_steps 2 --num_quality_samples 0 --checkpointing_steps 0")
    output = train(
        tmp_path / "run", *TINY, *more, *streaming, "--train_data_dir", tmp_path / "data", "--test_fraction", 0
    )
    assert "are put on a background of white (--background)" in output
    assert '"in_channels": 3' in (tmp_path / "run" / "unet" / "config.json").read_text()


@pytest.mark.parametrize("name", ["snowy", "", "#12345", "rgb(1,2)", 7, None])
def test_a_background_that_is_no_colour_is_refused(name: object) -> None:
    with pytest.raises(
        ValueError, match=r"`background` must be a colour that Pillow knows, such as white, .*, but is"
    ):
        colour_of(name)


# --- colour profiles ------------------------------------------------------------------------------------------------


def profile_of(gamma: float, red: tuple[float, float] = (0.64, 0.33), space: bytes = b"RGB ") -> bytes:
    """A profile of a plain gamma with the white of D50, and in RGB with the other primaries of AdobeRGB."""

    def s15(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    columns = {b"rXYZ": (0.60974, 0.31111, 0.01947), b"gXYZ": (0.20528, 0.62567, 0.06087)}
    columns[b"bXYZ"] = (0.14919, 0.06322, 0.74457)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": b"XYZ " + bytes(4) + s15(*white)}
    if space == b"RGB ":
        tags |= {name: b"XYZ " + bytes(4) + s15(*column) for name, column in columns.items()}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags |= {b"kTRC": curve}
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"lcms", 0x02400000, b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    header += bytes(68 - len(header)) + s15(*white)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


def profile_of_a_press() -> bytes:
    """A CMYK profile: a table of two values of each ink, to colours in Lab that are none of Pillow's."""
    lab = [(255 - 60 * (c + m + y) // 1 - 70 * k if c + m + y < 4 else 20) for c, m, y, k in np.ndindex(2, 2, 2, 2)]
    table = b"".join(
        bytes([max(10, value), 128 + 50 * m - 40 * c, 128 + 60 * y - 45 * c])
        for value, (c, m, y, _) in zip(lab, np.ndindex(2, 2, 2, 2), strict=True)
    )
    identity = b"".join(struct.pack(">i", value << 16) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    tag = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    start = 128 + 4 + 12
    header = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(tag), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", bytes(12), b"acsp"
    )
    header += bytes(68 - len(header)) + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    return header + bytes(128 - len(header)) + struct.pack(">I4sII", 1, b"A2B0", start, len(tag)) + tag


ADOBE, GREY, SRGB = profile_of(2.2), profile_of(1.8, space=b"GRAY"), ImageCms.createProfile("sRGB")
SRGB_BYTES = ImageCms.ImageCmsProfile(SRGB).tobytes()


def by_lcms(image: Image.Image, profile: bytes) -> np.ndarray:
    return np.asarray(ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB, outputMode="RGB"))


def test_colours_of_another_space_become_srgb() -> None:
    image = Image.fromarray(noise(16, 16, 3))
    expected = by_lcms(image, ADOBE)
    assert np.abs(expected.astype(int) - np.asarray(image)).max() > 14
    for form in ("PNG", "TIFF", "WEBP"):
        content = encoded(image, form, icc_profile=ADOBE, **({"lossless": True} if form == "WEBP" else {}))
        np.testing.assert_array_equal(made(content), expected)
        grey = np.asarray(Image.fromarray(expected).convert("L"))
        np.testing.assert_array_equal(made(content, channels=1)[..., 0], grey)


def test_colours_in_srgb_stay_exactly_as_they_are() -> None:
    pixels = noise(64, 64, 3)
    np.testing.assert_array_equal(made(encoded(pixels, icc_profile=SRGB_BYTES)), pixels)


def test_transparency_stays_where_colours_change() -> None:
    pixels = noise(8, 8, 4)
    pixels[:4, :, 3] = 0
    content = encoded(pixels, icc_profile=ADOBE)
    found = made(content, channels=4)
    np.testing.assert_array_equal(found[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(found[..., :3], by_lcms(Image.fromarray(pixels[..., :3]), ADOBE))
    assert (made(content, background="#3060c0")[:4] == (0x30, 0x60, 0xC0)).all()


def test_grey_profiles_change_grey_images() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = by_lcms(Image.fromarray(pixels), GREY)[..., 0]
    assert np.abs(expected.astype(int) - pixels).max() > 10
    np.testing.assert_array_equal(made(encoded(pixels, icc_profile=GREY))[..., 0], expected)
    both = np.stack([pixels, np.full_like(pixels, 255)], -1)
    content = encoded(Image.fromarray(both, mode="LA"), icc_profile=GREY)
    np.testing.assert_array_equal(made(content)[..., 0], expected)


def test_palettes_and_cmyk_with_a_profile() -> None:
    image = Image.fromarray(noise(8, 8), mode="P")
    image.putpalette(noise(256, 3).ravel().tolist())
    np.testing.assert_array_equal(made(encoded(image, icc_profile=ADOBE)), by_lcms(image.convert("RGB"), ADOBE))
    inks, press = Image.fromarray(noise(8, 8, 4), mode="CMYK"), profile_of_a_press()
    expected = by_lcms(inks, press)
    assert np.abs(expected.astype(int) - np.asarray(inks.convert("RGB"))).max() > 30
    np.testing.assert_array_equal(made(encoded(inks, "TIFF", icc_profile=press), channels=3), expected)
    np.testing.assert_array_equal(made(encoded(inks, "TIFF"), channels=3), np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("profile", [b"nonsense", ADOBE[:200], GREY])
def test_a_profile_of_no_use_changes_nothing(profile: bytes) -> None:
    pixels = noise(8, 8, 3)
    np.testing.assert_array_equal(made(encoded(pixels, icc_profile=profile)), pixels)


def test_profiles_are_told(tmp_path: Path) -> None:
    contents = [encoded(noise(8, 8, 3), icc_profile=ADOBE), encoded(noise(8, 8, 3))]
    said = notes(tmp_path / "data", contents)
    assert "1 of 2 training images have a colour profile. They are converted to sRGB." in said


# --- orientation ----------------------------------------------------------------------------------------------------


def png_with(pixels: np.ndarray, chunk: bytes, content: bytes, at_the_end: bool) -> bytes:
    plain = encoded(pixels)
    place = plain.index(b"IEND") - 4 if at_the_end else plain.index(b"IDAT") - 4
    told = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    return plain[:place] + told + plain[place:]


def exif(orientation: int) -> bytes:
    return b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def in_words(orientation: int) -> bytes:
    """As ImageMagick writes it."""
    content = b"Exif\x00\x00" + exif(orientation)
    return b"Raw profile type exif\x00\nexif\n%8d\n" % len(content) + content.hex().encode() + b"\n"


XMP = b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + b'<x tiff:Orientation="6"/>'


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_is_upright_wherever_it_tells_how(at_the_end: bool, orientation: int) -> None:
    pixels = noise(32, 48, 3)
    tags = Image.Exif()
    tags[0x0112] = orientation
    reference = Image.open(io.BytesIO(encoded(pixels, exif=tags)))
    expected = np.asarray(ImageOps.exif_transpose(reference))
    for chunk, content in ((b"eXIf", exif(orientation)), (b"tEXt", in_words(orientation))):
        found = png_with(pixels, chunk, content, at_the_end)
        header = header_of({"bytes": found, "path": None}, "it")
        assert header.size == ((32, 48) if orientation > 4 else (48, 32))
        np.testing.assert_array_equal(made(found), expected)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_orientation_in_xmp(at_the_end: bool) -> None:
    pixels = noise(32, 48, 3)
    np.testing.assert_array_equal(made(png_with(pixels, b"iTXt", XMP, at_the_end)), np.rot90(pixels, -1))


def test_orientation_that_is_nonsense_turns_nothing() -> None:
    pixels = noise(32, 48, 3)
    for chunk, content in ((b"eXIf", b"nonsense"), (b"tEXt", b"Raw profile type exif\x00\nexif\n 3\nxyz\n")):
        for at_the_end in (False, True):
            np.testing.assert_array_equal(made(png_with(pixels, chunk, content, at_the_end)), pixels)


def test_a_folder_of_pictures_on_their_side(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png_with(noise(32, 48, 3, seed=i), b"eXIf", exif(6), True))
    assert load(tmp_path).train.shape == (3, 48, 32)


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_used_and_that_is_told(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (made(content) == (255, 0, 0)).all()
    said = notes(tmp_path / "data", [content, encoded(noise(8, 8, 3))])
    assert "1 of 2 training images have several frames. They are reduced to their first frame." in said


# --- long images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 100), (301, 7), (5000, 4), (2, 99)])
@pytest.mark.parametrize("crop", [None, (0.0, 0.0), (0.999, 0.999), (0.3, 0.7)])
@pytest.mark.parametrize("interpolation", ["lanczos", "bicubic", "bilinear", "box"])
def test_cutting_before_resizing_gives_the_pixels_of_resizing_before_cutting(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], crop: tuple[float, float] | None, interpolation: str
) -> None:
    pixels = noise(*size, 3)
    for side in (8, 32):
        for values, top in ((pixels, None), (pixels.astype(np.int64) * 257, 65535)):
            found = square_of(values, side, interpolation, crop, top).astype(int)
            with monkeypatch.context() as patch:
                patch.setattr(squares, "LONG", 10**9)
                expected = square_of(values, side, interpolation, crop, top)
            differences = np.abs(found - expected)
            assert found.shape == (side, side, 3)
            # Of two pixels that are equally near, `box` may take the other one.
            allowed = 0.05 if interpolation == "box" else 0.0
            assert (differences > (1 if top is None else 257)).mean() <= allowed


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (64, 100), (100, 30), (7, 50)])
def test_ordinary_images_are_resized_as_ever(size: tuple[int, int]) -> None:
    pixels, side = noise(*size), 16
    scale = side / min(size)
    width, height = max(side, round(size[1] * scale)), max(side, round(size[0] * scale))
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.LANCZOS))
    left, top = (width - side) // 2, (height - side) // 2
    expected = resized[top : top + side, left : left + side]
    np.testing.assert_array_equal(made(encoded(pixels), resolution=side, center_crop=True)[..., 0], expected)


def test_a_thin_image_needs_little_memory(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded(noise(4000, 1, seed=i)))
    code = (
        "import resource, sys\n"
        "from ddpm_hf.data.arguments import DataArguments\n"
        "from ddpm_hf.data.loading import load_images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "arguments = DataArguments(train_data_dir=sys.argv[1], resolution=256, center_crop=True, test_fraction=.5)\n"
        "assert load_images(arguments).train.shape == (1, 256, 256)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000  # KiB


def test_transparency_is_gone_before_an_image_is_made_smaller() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = 255  # a white square, and nothing black around it
    content = encoded(pixels)
    found = made(content, resolution=16)
    assert torch.tensor(found).eq(255).all()
