# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""PNG files through a `UNet2DModel` and back: pixel for pixel, also in another process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors, compress, decompress
from ddpm_hf.conditioning.classes import with_null_class
from ddpm_hf.pipelines.exact_models import fingerprint_of, in_float64
from ddpm_hf.pipelines.loading import load_pipeline


pytestmark = pytest.mark.processes(1)

T = 30
PROGRAM = """
import json, sys
import torch
from ddpm_hf import decompress
torch.set_num_threads(int(sys.argv[3]))
torch.backends.mkldnn.enabled = False
for file in json.loads(sys.argv[1]):
    decompress(file, sys.argv[2], file + ".out", batch_size=3)
"""


def errors(num_levels: int = 17) -> DenoisingErrors:
    """Of no model in particular."""
    log_snr = DDPMPaperScheduler(num_train_timesteps=T, beta_end=0.4).diffusion.schedule.log_snr[1:]
    e = (0.25 * torch.sigmoid(-log_snr)).tolist()
    return DenoisingErrors(log_snr.tolist(), e, e, [0.3 + 0.02 * i for i in range(T)], num_levels)


def pipeline(channels: int = 1, num_levels: int = 17, seed: int = 0, **settings: object) -> DDPMPaperPipeline:
    torch.manual_seed(seed)
    unet = tiny_unet(channels, dropout=0.2, **settings)
    if seed:
        torch.nn.init.normal_(unet.conv_out.weight)
    return DDPMPaperPipeline(
        unet,
        DDPMPaperScheduler(
            num_train_timesteps=T,
            beta_end=0.4,
            variance_type="optimal",
            num_levels=num_levels,
            denoising_errors=errors(num_levels),
        ),
    )


def write_images(folder: Path, count: int, mode: str = "L", num_levels: int = 17) -> dict[str, np.ndarray]:
    """Random 4x4 images in two subfolders; their values by name, in order."""
    rng, values = np.random.default_rng(0), {}
    for i in range(count):
        level = rng.integers(0, num_levels, (4, 4, 3) if mode == "RGB" else (4, 4, 4) if mode == "RGBA" else (4, 4))
        value = np.floor(level * 255 / (num_levels - 1) + 0.5).astype(np.uint8)
        name = f"{'ab'[2 * i // count]}/picture {i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value).convert(mode).save(folder / name)
        values[name] = np.asarray(Image.open(folder / name))
    return values


def values_in(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(path for path in folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in files}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


@pytest.mark.parametrize("mode, channels, levels", [("L", 1, 17), ("RGB", 3, 256), ("RGBA", 4, 256), ("1", 1, 2)])
def test_pngs_come_back_pixel_for_pixel(tmp_path: Path, mode: str, channels: int, levels: int) -> None:
    model, values = pipeline(channels, levels), write_images(tmp_path / "in", 5, mode, levels)
    result = compress(tmp_path / "in", model, tmp_path / "set.ddpc", num_inference_steps=6)
    back = decompress(tmp_path / "set.ddpc", model, tmp_path / "out")
    assert same(values_in(tmp_path / "out"), values) and list(back.pictures) == list(values) and back.is_exact
    assert all(picture.mode == mode for picture in back.pictures.values())
    assert (tmp_path / "set.ddpc").read_bytes() == result.content


def test_a_file_decodes_in_another_process_with_other_threads_and_kernels(tmp_path: Path) -> None:
    model, values = pipeline(seed=1), write_images(tmp_path / "in", 9)
    model.save_pretrained(tmp_path / "model")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compress(tmp_path / "in", model, tmp_path / "set", batch_size=4, num_inference_steps=6)
        first = tmp_path / "in" / next(iter(values))
        compress(first, model, tmp_path / "one", mode="progressive")
    finally:
        torch.set_num_threads(threads)
    files = json.dumps([str(tmp_path / "set"), str(tmp_path / "one")])
    subprocess.run(
        [sys.executable, "-c", PROGRAM, files, str(tmp_path / "model"), "1"], check=True, capture_output=True
    )
    assert same(values_in(tmp_path / "set.out"), values)
    assert same(values_in(tmp_path / "one.out"), {first.name: values[f"a/{first.name}"]})


def test_bytes_open_files_and_pictures() -> None:
    model, picture = pipeline(), Image.fromarray(np.full((4, 4), 128, np.uint8))
    png = io.BytesIO()
    picture.save(png, format="PNG")
    output = io.BytesIO()
    results = [
        compress(each, model, mode="progressive") for each in (png.getvalue(), io.BytesIO(png.getvalue()), picture)
    ]
    compress([picture], model, output, mode="progressive")
    assert {each.content for each in results} == {output.getvalue()}
    back = decompress(io.BytesIO(output.getvalue()), model)
    assert np.array_equal(np.asarray(back.pictures["0.png"]), np.asarray(picture))


def test_classes_come_with_the_images(tmp_path: Path) -> None:
    model, values = pipeline(**with_null_class(3)), write_images(tmp_path / "in", 6)
    labels = [0, 2, 1, 1, 0, 2]
    compress(tmp_path / "in", model, tmp_path / "with", class_labels=labels, num_inference_steps=6)
    compress(tmp_path / "in", model, tmp_path / "without", num_inference_steps=6)
    for name in ("with", "without"):
        decompress(tmp_path / name, model, tmp_path / f"{name}.out")
        assert same(values_in(tmp_path / f"{name}.out"), values)
    for fault, given in {"one for each image": [0], "knows 3": [0, 1, 2, 3, 0, 1]}.items():
        with pytest.raises(ValueError, match=fault):
            compress(tmp_path / "in", model, class_labels=given)
    with pytest.raises(ValueError, match="no null class"):
        compress(tmp_path / "in", pipeline(num_class_embeds=3))
    with pytest.raises(ValueError, match="for class-conditional models"):
        compress(tmp_path / "in", pipeline(), class_labels=labels)


def test_a_stock_model_without_measured_errors_compresses_sets(tmp_path: Path) -> None:
    unet, values = tiny_unet(3), write_images(tmp_path / "in", 3, "RGB", 256)
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=T, beta_end=0.4)).save_pretrained(tmp_path / "stock")
    result = compress(tmp_path / "in", tmp_path / "stock", tmp_path / "set", num_inference_steps=8)
    assert result.direct_images == 0 and result.initial_bits > 0
    decompress(tmp_path / "set", tmp_path / "stock", tmp_path / "out")
    assert same(values_in(tmp_path / "out"), values)
    one = tmp_path / "in" / next(iter(values))
    with pytest.raises(ValueError, match="`ddpm-hf measure` measures them"):
        compress([one], tmp_path / "stock", mode="progressive")
    measured = load_pipeline(tmp_path / "stock")
    settings = {"variance_type": "fixed_small", "denoising_errors": errors(256), "num_levels": 256}
    measured.scheduler = DDPMPaperScheduler.from_config(measured.scheduler.config, **settings)
    for mode, given in {"progressive": [one], "set": tmp_path / "in"}.items():
        result = compress(given, measured, mode=mode, **({} if mode == "progressive" else {"num_inference_steps": 8}))
        back = decompress(result.content, measured)
        assert np.array_equal(np.asarray(next(iter(back.pictures.values()))), np.asarray(Image.open(one)))
    assert result.direct_images > 0


def test_files_keep_their_names_and_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    model, files = pipeline(), []
    for value, name in ((0, "b"), (255, "ä 1"), (128, "a")):
        files.append(tmp_path / f"{name}.png")
        Image.new("L", (4, 4), value).save(files[-1])
    back = decompress(compress(files, model, batch_size=1, num_inference_steps=5).content, model)
    assert list(back.pictures) == ["b.png", "ä 1.png", "a.png"]
    assert [picture.getpixel((0, 0)) for picture in back.pictures.values()] == [0, 255, 128]


def test_a_model_in_float64_from_the_timestep_on() -> None:
    unet = tiny_unet(1, flip_sin_to_cos=True)
    exact, x = in_float64(unet), torch.randn(3, 1, 4, 4)
    t = torch.tensor([0, 7, 999])
    with torch.no_grad():
        assert exact(x.double(), t).sample.sub(unet(x, t).sample).abs().max() < 1e-4
        assert exact.time_proj(t).dtype == torch.float64
    rates = 10000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = t.double()[:, None] * rates
    assert exact.time_proj(t).allclose(torch.cat([angles.cos(), angles.sin()], dim=1), atol=1e-12)
    assert next(unet.parameters()).dtype == torch.float32 and not exact.training
    with pytest.raises(ValueError, match="Only a UNet2DModel can compress"):
        in_float64(torch.nn.Linear(1, 1))


def test_a_fingerprint_tells_weights_settings_and_chains_apart() -> None:
    model = pipeline()
    mine = fingerprint_of(model.unet, model.scheduler)
    assert fingerprint_of(pipeline().unet, pipeline().scheduler) == mine
    assert fingerprint_of(pipeline(seed=1).unet, model.scheduler) != mine
    assert (
        fingerprint_of(model.unet, DDPMPaperScheduler.from_config(model.scheduler.config, clip_sample=False)) != mine
    )
    assert fingerprint_of(tiny_unet(1, act_fn="gelu"), model.scheduler) != mine


def test_bad_input_is_told_of_and_nothing_is_written(tmp_path: Path) -> None:
    model = pipeline()
    write_images(tmp_path / "in", 3)
    file = tmp_path / "set"
    compress(tmp_path / "in", model, file, num_inference_steps=6)
    content = file.read_bytes()
    (tmp_path / "empty").mkdir()
    others = tmp_path / "others"
    others.mkdir()
    Image.new("L", (5, 4)).save(others / "wide.png")
    Image.new("RGB", (4, 4)).save(others / "colour.png")
    Image.new("L", (4, 4), 3).save(others / "between.png")
    Image.new("L", (4, 4)).save(others / "photo.jpg")
    (others / "broken.png").write_bytes(b"nothing")
    for fault, images in {
        "wide.png has 5x4 pixels, the model is for 4x4": others / "wide.png",
        "colour.png is of mode RGB": others / "colour.png",
        "between.png has other values than the model's 17 levels": others / "between.png",
        "photo.jpg is a JPEG file": others / "photo.jpg",
        "photo.jpg is no PNG file": others,
        "broken.png is not an image that can be read": others / "broken.png",
        "holds no PNG files": tmp_path / "empty",
        "There is no file or folder": tmp_path / "nothing",
        "holds none": [],
        "already exists; choose another name": tmp_path / "in",
    }.items():
        output = file if "already" in fault else tmp_path / "new"
        with pytest.raises(ValueError, match=fault):
            compress(images, model, output)
        assert file.read_bytes() == content and not (tmp_path / "new").exists()
    for fault, damaged, by in [
        ("its payload differs", content[:-6] + bytes([content[-6] ^ 1]) + content[-5:], model),
        ("shorter than its header says", content[:-1], model),
        ("no file of `ddpm-hf compress`", b"PNG" + content, model),
        ("another model: the fingerprints differ", content, pipeline(seed=1)),
    ]:
        with pytest.raises(ValueError, match=fault):
            decompress(damaged, by, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is not empty"):
        decompress(file, model, tmp_path / "in")
    with pytest.raises(ValueError, match="`timestep_spacing` must be one of"):
        compress(tmp_path / "in", model, timestep_spacing="even")
