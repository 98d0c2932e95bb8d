# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The documents: the names in them exist, everything public is documented, and the examples run."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny_pipelines
import tiny_text
import tiny_unclip
import torch
from tiny_models import tiny_unet
from tiny_text import text_unet

import ddpm_hf
from ddpm_hf import DDPMPaperLatentPipeline, DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors, NoiseSchedule
from ddpm_hf.cli.app import AppArguments, PageModelArguments
from ddpm_hf.cli.autoencoder import AutoencoderTrainingArguments
from ddpm_hf.cli.compress import CompressionArguments
from ddpm_hf.cli.decompress import DecompressionArguments
from ddpm_hf.cli.info import InfoArguments
from ddpm_hf.cli.latent import LatentTrainingArguments
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.text_to_image import TextTrainingArguments
from ddpm_hf.cli.train import run_arguments
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.evaluation.arguments import (
    ClassificationArguments,
    EvaluationArguments,
    GuidanceArguments,
    MeasurementArguments,
    ModelPathArguments,
    SampleArguments,
)
from ddpm_hf.hub.arguments import PushArguments
from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.pipelines.autoencoders import decoder_law_config
from ddpm_hf.tasks.autoencoder import AutoencoderTask
from ddpm_hf.tasks.latent import LatentTask
from ddpm_hf.tasks.text_to_image import TextToImageTask


ROOT = Path(__file__).resolve().parents[1]
MATHEMATICS = ROOT / "docs" / "mathematics.md"
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
GUIDES = [ROOT / "docs" / "quick_start.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
CORE = (
    "diffusion.noise_schedule",
    "diffusion.gaussian_process",
    "diffusion.denoiser",
    "diffusion.reverse_process",
    "diffusion.constraints",
    "diffusion.guidance",
    "diffusion.discretized_likelihood",
    "diffusion.diagonal_gaussian",
    "diffusion.bound_terms",
    "diffusion.guidance",
    "diffusion.losses",
    "diffusion.timestep_sampling",
    "diffusion.timestep_spacing",
    "diffusion.probability_flow",
    "diffusion.multistep",
    "diffusion.langevin",
    "diffusion.gaussian_diffusion",
    "likelihood.batches",
    "likelihood.variational",
    "likelihood.information",
    "likelihood.cascade",
    "likelihood.latents",
    "likelihood.decoder_law",
    "likelihood.ode",
)
MATHEMATICS_ROOMS = ("diffusion", "likelihood", "schedulers")

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
VERB = "train|text_to_image|autoencoder|latent|sample|evaluate|measure|classify|compress|decompress|info|app|push"
COMMAND = re.compile(rf"(?:ddpm-hf |examples/)({VERB})(?:\.py)?(?= |$)(.*)")
ARGUMENTS = {
    "train": run_arguments(),
    "text_to_image": run_arguments(TextToImageTask, TextTrainingArguments),
    "autoencoder": run_arguments(AutoencoderTask, AutoencoderTrainingArguments),
    "latent": run_arguments(LatentTask, LatentTrainingArguments),
    "sample": (ModelPathArguments, SampleArguments, GuidanceArguments),
    "evaluate": (ModelPathArguments, CaptionedDataArguments, EvaluationArguments, GuidanceArguments),
    "measure": (ModelPathArguments, CaptionedDataArguments, MeasurementArguments),
    "classify": (ModelPathArguments, CaptionedDataArguments, ClassificationArguments),
    "compress": (CompressionArguments,),
    "decompress": (DecompressionArguments,),
    "info": (InfoArguments,),
    "app": (PageModelArguments, AppArguments),
    "push": (PushArguments,),
}
DOTTED_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")


def python_blocks(document: Path) -> list[str]:
    """The ```python blocks of a document, on the lines that they have there, so that a traceback points into it."""
    text = document.read_text(encoding="utf-8")
    matches = [match for match in FENCE.finditer(text) if match[1] == "python"]
    return ["\n" * text[: match.start(2)].count("\n") + match[2] for match in matches]


def prose(document: Path) -> str:
    """The document without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def dotted_names(document: Path) -> set[str]:
    """The `module.name`s in code font, without arguments."""
    matches = (DOTTED_NAME.fullmatch(span) for span in CODE_SPAN.findall(prose(document)))
    return {match[1] for match in matches if match}


MODULES = {  # of the mathematics, by their own names: the document names no rooms
    module.name: f"ddpm_hf.{room}.{module.name}"
    for room in MATHEMATICS_ROOMS
    for module in pkgutil.iter_modules([str(ROOT / "ddpm_hf" / room)])
}


def resolve(name: str) -> Any:
    """What a dotted name means: in a module of the mathematics, in ddpm_hf, or in a package by itself."""
    root, *path = name.split(".")
    if root in MODULES:
        value = importlib.import_module(MODULES[root])
    else:
        value = getattr(ddpm_hf, root) if hasattr(ddpm_hf, root) else importlib.import_module(root)
    for part in path:
        value = field_of(value, part) if inspect.isclass(value) and not hasattr(value, part) else getattr(value, part)
    return value


def field_of(cls: type, name: str) -> Any:
    """A field that only instances have."""
    if dataclasses.is_dataclass(cls):
        return {field.name: field for field in dataclasses.fields(cls)}[name]
    return getattr(cls(), name)


def public_names(module: ModuleType) -> Iterator[str]:
    """Functions, and methods and properties of classes, that the module defines: "module.function"."""
    prefix = module.__name__.rpartition(".")[2]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield f"{prefix}.{name}"
        elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            kinds = (property, cached_property, classmethod, staticmethod)
            for member, attribute in vars(value).items():
                if not member.startswith("_") and (inspect.isfunction(attribute) or isinstance(attribute, kinds)):
                    yield f"{prefix}.{name}.{member}"


def name_of(document: Path) -> str:
    """Relative to the repository."""
    return document.relative_to(ROOT).as_posix()


def commands() -> Iterator[str]:
    """The commands of ours in the documents, such as "train --seed 1"."""
    for document in DOCUMENTS:
        for match in FENCE.finditer(document.read_text(encoding="utf-8")):
            lines = match[2].replace("\\\n", " ").splitlines() if match[1] == "bash" else []
            yield from (command[1] + command[2] for command in map(COMMAND.search, lines) if command)


@cache
def messages() -> list[str]:
    """The strings in the package, with "…" in the place of values."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "ddpm_hf").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    formatted = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [
        *plain,
        *(
            "".join(getattr(part, "value", "") if isinstance(part, ast.Constant) else "…" for part in parts)
            for parts in formatted
        ),
    ]


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(dotted_names(MATHEMATICS)))
def test_every_name_exists(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize("module", CORE)
def test_everything_public_is_mentioned(module: str) -> None:
    names = set(public_names(importlib.import_module(f"ddpm_hf.{module}")))
    assert names
    assert names - dotted_names(MATHEMATICS) == set()


def test_the_mathematics_runs() -> None:
    namespace: dict[str, Any] = {}
    blocks = python_blocks(MATHEMATICS)
    assert len(blocks) > 5
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, str(MATHEMATICS), "exec"), namespace)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that the guides name: tiny, untrained, with learned variances and measured errors."""
    folder = tmp_path_factory.mktemp("guides")
    log_snr = torch.linspace(9, -9, 10).tolist()
    scheduler = DDPMPaperScheduler.from_schedule(
        NoiseSchedule.linear_log_snr(1000, 9.0, -9.0),
        prediction_type="v_prediction",
        variance_type="learned_range",
        num_levels=17,
        denoising_errors=DenoisingErrors(log_snr, [1 / (1 + math.exp(value)) for value in log_snr]),
    )
    classes = {"num_class_embeds": 11, "_ddpm_hf": {"null_class": 10}}
    for name, of_classes in (("digits", {}), ("guided", classes)):
        unet = tiny_unet(1, 2, 8, **{key: value for key, value in of_classes.items() if key[0] != "_"})
        unet.register_to_config(**of_classes)
        DDPMPaperPipeline(unet, scheduler).save_pretrained(folder / "runs" / name)
    dit = DDPMPaperLatentPipeline.from_stock(tiny_pipelines.diffusion_transformer(scheduler))
    dit.vae.register_to_config(**decoder_law_config(DecoderLaw([-1.0, -1.0, -1.0])))
    dit.save_pretrained(folder / "runs" / "latent")
    of_levels = DDPMPaperScheduler.from_config(scheduler.config, num_levels=256)
    told_of_text = text_unet(settings=TextSettings(16, attention_mask=True))
    tiny_text.ours(*tiny_text.bert(), told_of_text, of_levels).save_pretrained(folder / "runs" / "emoji")
    tiny_unclip.unclip(scheduler=of_levels).save_pretrained(folder / "runs" / "unclip")
    return folder


@pytest.mark.parametrize("document", GUIDES, ids=name_of)
def test_the_guides_run(document: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, where their models lie."""
    monkeypatch.chdir(shutil.copytree(runs, tmp_path / "guides"))
    namespace: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for block in python_blocks(document):
            exec(compile(block, str(document), "exec"), namespace)


@pytest.mark.parametrize("name", ["lucidrains", "improved_diffusion"])
def test_models_of_others_are_scored(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With stand-ins, of what the pages say that those have: attributes, and the way a model is called."""
    unet = tiny_unet(1, 2 if name == "improved_diffusion" else 1, 8)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return unet(x, timesteps).sample

    diffusion = SimpleNamespace(
        model=Model(), betas=torch.linspace(1e-4, 0.02, 1000), objective="pred_v", num_timesteps=1000
    )
    diffusion.rescale_timesteps = True
    levels = torch.randint(256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    namespace = {"diffusion": diffusion, "model": Model(), "batch": levels, "images": levels * 2 - 1}
    for block in python_blocks(ROOT / "docs" / "coming_from" / f"{name}.md"):
        exec(compile(block, name, "exec"), namespace)
    assert "bits/dim" in capsys.readouterr().out


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path != MATHEMATICS], ids=name_of)
def test_other_examples_compile(document: Path) -> None:
    for block in python_blocks(document):
        compile(block, str(document), "exec")


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_taken(command: str) -> None:
    """Every command of the documents that is ours names arguments that there are, with values that can be read."""
    verb, *arguments = shlex.split(command, comments=True)
    if arguments and arguments[0].endswith(".yaml"):
        arguments[0] = str(ROOT / arguments[0])
    parse(verb, *ARGUMENTS[verb], argv=arguments)


@pytest.mark.parametrize("quote", re.findall(r'^\| "(.+?)" \|', TROUBLESHOOTING.read_text(encoding="utf-8"), re.M))
def test_quoted_messages_are_messages(quote: str) -> None:
    parts = [re.escape(part) for part in quote.split("…")]
    assert any(re.search("…".join(parts), message) for message in messages())


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", prose(document)):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        made_by_the_site = anchor.startswith("ddpm_hf.")
        assert not anchor or made_by_the_site or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_inline_formulas_end_on_their_line(document: Path) -> None:
    """GitHub does not set a formula that is broken over two lines."""
    lines = CODE_SPAN.sub("", prose(document)).splitlines()
    assert [line for line in lines if line.count("$") % 2 and line.strip() != "$$"] == []


@pytest.mark.parametrize("document", ["docs/guides/text_to_image.md", "benchmarks/README.md"])
def test_the_time_of_text_to_image_is_told_in_one_way(document: str) -> None:
    told = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert "The run took 10 min 38 s on two idle cores of a current server CPU (an AMD EPYC of 2024), and" in told
    assert "takes about twice as long on cores half as fast." in told
