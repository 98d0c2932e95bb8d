# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""autoencoders: the scale and shift of latents, p(x | z), and what autoencoders without a likelihood say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from tiny_models import tiny_unet
from tiny_pipelines import SIZE, autoencoder
from torch import Tensor

from ddpm_hf.likelihood.decoder_law import DecoderLaw, measured_decoder_scale
from ddpm_hf.pipelines.autoencoders import Autoencoder, LatentScale, decoder_law_config


SCALES = [
    {"scaling_factor": 0.5},
    {"scaling_factor": 0.5, "shift_factor": 0.3},
    {"scaling_factor": 0.5, "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.0, 2.0, 4.0]},
]


def tiny(dtype: torch.dtype = torch.float32, **config: object) -> AutoencoderKL:
    model = autoencoder(4).to(dtype)
    model.register_to_config(**config)
    return model


def images(count: int = 3, size: int = SIZE) -> Tensor:
    levels = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(0))
    return levels / 127.5 - 1


def vq_model() -> VQModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return VQModel(block_out_channels=(4, 8), norm_num_groups=4, num_vq_embeddings=16, **blocks).eval()


def tiny_autoencoder() -> AutoencoderTiny:
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    return AutoencoderTiny(**channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()


# --- scale and shift -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SCALES)
@torch.no_grad()
def test_latents_are_scaled_as_stock_pipelines_scale_them(config: dict[str, object]) -> None:
    model = tiny(**config)
    stock = model.encode(images()).latent_dist
    if "latents_mean" in config:  # StableDiffusionXLImg2ImgPipeline
        mean, std = (torch.tensor(config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
        expected = (stock.mean - mean) * 0.5 / std
        deviation = stock.std * 0.5 / std
    else:  # StableDiffusion3Img2ImgPipeline
        expected = (stock.mean - config.get("shift_factor", 0.0)) * 0.5
        deviation = stock.std * 0.5
    q = Autoencoder(model).posterior(images())
    torch.testing.assert_close(q.mean, expected)
    torch.testing.assert_close((0.5 * q.log_variance).exp(), deviation)
    torch.testing.assert_close(Autoencoder(model).encode(images()), q.mean)


@pytest.mark.parametrize("config", SCALES)
@torch.no_grad()
def test_decoding_undoes_the_scale(config: dict[str, object]) -> None:
    model = tiny(**config)
    ours, stock = Autoencoder(model), model.encode(images()).latent_dist
    torch.testing.assert_close(ours.decode(ours.posterior(images()).mean), model.decode(stock.mean).sample)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 5, 5)])
def test_latents_of_any_shape_are_scaled_by_channel(shape: tuple[int, ...]) -> None:
    scale = LatentScale((1.0, 2.0, 3.0, 4.0), (0.0, 0.1, 0.2, 0.3))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = scale.scaled(latents)
    torch.testing.assert_close(z[:, 2], 3 * (latents[:, 2] - 0.2))
    torch.testing.assert_close(scale.unscaled(z), latents)


def test_the_posterior_and_the_decoder_pass_gradients() -> None:
    model = tiny(**SCALES[1])
    ours = Autoencoder(model)
    q = ours.posterior(images())
    log_scale = torch.zeros(3, requires_grad=True)
    bits = ours.log_likelihood(images(), q.sample(torch.ones_like(q.mean)), DecoderLaw(log_scale)) + q.entropy()
    bits.sum().backward()
    assert all(bool(each.grad.abs().sum() > 0) for each in (log_scale, model.quant_conv.weight))
    assert model.decoder.conv_out.weight.grad is not None


# --- p(x | z) --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_law_is_kept_by_stock_and_gives_the_likelihood(tmp_path: Path) -> None:
    model, law = tiny(), DecoderLaw([-1.0, -1.5, -0.5], 256)
    model.register_to_config(**decoder_law_config(law))
    model.save_pretrained(tmp_path / "ours")
    stock = AutoencoderKL.from_pretrained(tmp_path / "ours")  # stock loads and saves it
    stock.save_pretrained(tmp_path / "stock")
    ours = Autoencoder(AutoencoderKL.from_pretrained(tmp_path / "stock").eval())
    assert ours.law is not None
    assert (ours.law.numbers, ours.law.num_levels) == (law.numbers, law.num_levels)
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = law.log_likelihood(images(), stock.eval().decode(z / 0.5).sample)
    torch.testing.assert_close(ours.log_likelihood(images(), z), expected, rtol=1e-5, atol=1e-3)


def test_a_stock_autoencoder_gets_its_scale_by_measuring() -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"has no p\(x \| z\).*`ddpm-hf measure` gives it the scale"):
        Autoencoder(model).log_likelihood(images(), torch.zeros(3, 4, 8, 8))
    law = measured_decoder_scale(Autoencoder(model), images(8).split(3))
    model.register_to_config(**decoder_law_config(law))
    bits = -Autoencoder(model).log_likelihood(images(), torch.zeros(3, 4, 8, 8)) / math.log(2) / (3 * SIZE**2)
    assert bool((bits < 10).all())  # 8 for levels that are all as likely


def test_settings_of_a_later_version_are_refused() -> None:
    model = tiny(_ddpm_hf={"autoencoder": {"log_scale": [0.0] * 3, "law": "logistic"}})
    with pytest.raises(ValueError, match="which this version does not know; they may come from a later version"):
        Autoencoder(model).require_likelihood()


# --- autoencoders without a posterior --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vq_model, tiny_autoencoder])
@torch.no_grad()
def test_an_autoencoder_without_a_posterior_encodes_and_decodes_but_has_no_likelihood(make) -> None:
    model = make()
    ours = Autoencoder(model)
    z = ours.encode(images())
    torch.testing.assert_close(z, model.encode(images()).latents * model.config.scaling_factor)
    assert tuple(z.shape[1:]) == ours.latent_shape((3, SIZE, SIZE))
    torch.testing.assert_close(ours.decode(z), model.decode(model.encode(images()).latents).sample)
    for call in (lambda: ours.posterior(images()), ours.require_likelihood):
        with pytest.raises(ValueError, match=f"A {type(model).__name__} has no posterior .* and so no likelihood"):
            call()


# --- sizes, precision, bad input -------------------------------------------------------------------------------------


def test_shapes() -> None:
    ours = Autoencoder(tiny())
    assert ours.factor == 2 and (ours.image_channels, ours.latent_channels) == (3, 4)
    assert ours.latent_shape((3, 16, 32)) == (4, 8, 16) and ours.image_shape((4, 8, 16)) == (3, 16, 32)
    with pytest.raises(
        ValueError, match="sides that are multiples of 2, the factor of the autoencoder, but are 15x16"
    ):
        ours.posterior(torch.zeros(1, 3, 15, 16))
    with pytest.raises(ValueError, match="must have the autoencoder's 3 channels, not 1"):
        ours.encode(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="The latents must have the autoencoder's 4 channels, not 3"):
        ours.decode(torch.zeros(1, 3, 8, 8))


@torch.no_grad()
def test_half_precision_slices_and_tiles() -> None:
    full, ours = Autoencoder(tiny()), Autoencoder(tiny(torch.bfloat16))
    q, expected = ours.posterior(images()), full.posterior(images())
    assert q.mean.dtype == q.log_variance.dtype == ours.decode(q.mean).dtype == torch.float32
    torch.testing.assert_close(q.mean, expected.mean, rtol=0.05, atol=0.05)
    large = images(2, 2 * SIZE)
    whole = full.decode(full.encode(large))
    full.model.enable_slicing()
    torch.testing.assert_close(full.decode(full.encode(large)), whole)
    full.model.enable_tiling()  # blends overlapping tiles, which changes the images
    tiled = full.decode(full.encode(large))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)


@torch.no_grad()
def test_overflow_in_half_precision_is_named_with_what_helps() -> None:
    model = tiny(torch.float16)
    model.decoder.conv_in.weight.mul_(1e4)
    with pytest.raises(ValueError, match=r"not finite in float16; decode in float32 .*sdxl-vae-fp16-fix"):
        Autoencoder(model).decode(100 * torch.ones(1, 4, 8, 8))


def test_models_and_configurations_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match="must be an AutoencoderKL, a VQModel or an AutoencoderTiny, but is UNet2DMod"
    ):
        Autoencoder(tiny_unet())
    for config in ({"latents_mean": [0.0] * 4}, {"latents_mean": [0.0], "latents_std": [1.0], "shift_factor": 1.0}):
        with pytest.raises(ValueError, match="`latents_mean` and `latents_std` must be set together"):
            Autoencoder(tiny(**config))
    with pytest.raises(ValueError, match="`scaling_factor` and `latents_std` must be positive numbers, but are 0"):
        Autoencoder(tiny(scaling_factor=0))
