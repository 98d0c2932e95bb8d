# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card: filled from the files of a saved pipeline, and merged with an existing card.

`model_card.md` is the template. It consists of sections, each between `<!-- ddpm_hf: name -->` and
`<!-- /ddpm_hf: name -->`. In a filled card the opening mark of each section contains a checksum, which shows whether
somebody has edited the section or it may be replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import RepoCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from safetensors import SafetensorError, safe_open

from ..conditioning.classes import CLASSES_OF_DIT, OWN_CONFIG_KEY, embeds_classes, number_of_classes
from ..conditioning.low_resolution import JOINED, LowResolutionSettings
from ..conditioning.text import TextSettings, is_told_of_text
from ..results import DIGITS, FRECHET_DISTANCES, MEASURES, METRICS, Metrics, measured, understood
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .autoencoder_card import (
    AUTOENCODER_INDEX,
    AUTOENCODER_TAGS,
    AUTOENCODER_TEMPLATE,
    autoencoder_facts,
    is_autoencoder,
)
from .image_encoder_card import (
    IMAGE_ENCODER_INDEX,
    IMAGE_ENCODER_TAGS,
    IMAGE_ENCODER_TEMPLATE,
    image_encoder_facts,
    is_image_encoder,
)
from .unclip_card import FOLDERS, UNCLIP_TAGS, UNCLIP_TEMPLATE, unclip_facts, unclip_family


TEMPLATE = Path(__file__).with_name("model_card.md")
CARD, SAMPLES = "README.md", "samples.png"
NOTES = {  # on the features of each network
    "efficientnet_lite0": (
        "The features are the 1280 by which EfficientNet-Lite0 classifies photographs. This is not the FID of the"
        "\nliterature, which compares features of another network."
    ),
    "inception": (
        "The features are the 2048 of Inception, as for the FID of the literature. That is usually the FID of 50,000"
        "\nsamples; with fewer it is larger."
    ),
}
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"

# The Hub's names of the tasks.
STOCK_NULL_CLASS = 1000  # of DiTPipeline, whatever model it has
UNCONDITIONAL = ("unconditional-image-generation", "Unconditional Image Generation")
TEXT_TO_IMAGE = ("text-to-image", "Text-to-Image")
ENLARGING = ("image-to-image", "Image-to-Image")
ENCODING = ("image-feature-extraction", "Image Feature Extraction")
TAGS = ["ddpm_hf", "ddpm", "diffusion"]

_SECTION = re.compile(r"<!-- ddpm_hf: (\w+)(?: (\w+))? -->\n(.*?)\n?<!-- /ddpm_hf: \1 -->", re.DOTALL)


def fill_card(
    folder: Path,
    name: str,
    metrics: dict[str, Any] | None = None,
    beside: Collection[str] = (),
    license: str | None = None,
) -> str:
    """The card of the pipeline, or of the autoencoder, saved in `folder`.

    Args:
        folder: the saved pipeline or autoencoder.
        name: the name that users pass to `from_pretrained`: a name on the Hub, or the folder's path.
        metrics: the content of a metrics.json; if None, of the folder's. Unknown keys are ignored.
        beside: files of the same repository that are not in the folder, such as another variant's weights.
        license: the Hub's name of a licence. If None, a model of the built-in digits is under this package's licence,
            and the card of any other model names none: the data are not ours.

    Raises:
        ValueError: for weights or a metrics.json that cannot be read.
    """
    if metrics is None:
        metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    figures = understood(metrics)
    has_samples = SAMPLES in beside or (folder / SAMPLES).is_file()
    title = folder.resolve().name if Path(name).resolve() == folder.resolve() else name
    facts = {"metrics": figures, "name": name, "title": title, "has_samples": has_samples}
    license = license or ("apache-2.0" if figures.get("data") == DIGITS else None)
    template = TEMPLATE.read_text("utf-8")
    if is_autoencoder(folder):
        facts |= autoencoder_facts(read_json(folder / AUTOENCODER_INDEX))
        facts["parameters"] = sum(map(count_parameters, folder.glob("*.safetensors")))
        metadata = _metadata(name, figures, license, ENCODING, AUTOENCODER_TAGS)
        template = _with_training(AUTOENCODER_TEMPLATE, template)
    elif is_image_encoder(folder):
        facts |= image_encoder_facts(read_json(folder / IMAGE_ENCODER_INDEX))
        facts["parameters"] = sum(map(count_parameters, folder.glob("model*.safetensors")))
        metadata = _metadata(name, figures, license, ENCODING, IMAGE_ENCODER_TAGS)
        template = _with_training(IMAGE_ENCODER_TEMPLATE, template)
    elif (family := unclip_family(folder)) is not None:
        facts |= _unclip_facts(folder, family) | {"prompt": json.dumps(_prompt(figures), ensure_ascii=False)}
        task = TEXT_TO_IMAGE if facts["is_whole"] else ENCODING
        metadata = _metadata(name, figures, license, task, UNCLIP_TAGS)
        template = _with_training(UNCLIP_TEMPLATE, template)
    else:
        facts |= _facts(folder, beside)
        facts["network_distances"] = _network_distances(figures)
        facts["prompt"] = json.dumps(_prompt(figures), ensure_ascii=False)
        task = ENLARGING if facts["low"] else TEXT_TO_IMAGE if facts["text"] else UNCONDITIONAL
        metadata = _metadata(name, figures, license, task, TAGS)
    card = ModelCard.from_template(metadata, template_str=template, **facts)
    card.text = _SECTION.sub(lambda section: _stamped(section[1], section[3]), card.text)
    return str(card)


def _with_training(own: Path, template: str) -> str:
    """A family's own template with the section on the training of the common one."""
    shared = (match[0] for match in _SECTION.finditer(template) if match[1] == "training")
    return own.read_text("utf-8") + "".join(shared) + "\n"


def check_license(name: str | None, argument: str = "license") -> None:
    """Raise ValueError, naming the argument, for what cannot be the Hub's name of a licence; None is allowed."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise ValueError(f"`{argument}` must be one of the names at {LICENSES}, such as cc-by-4.0, but is {name!r}.")


def merge_cards(existing: str, filled: str, are_figures_gone: bool = False, license: str | None = None) -> str:
    """The existing card with its sections replaced by those of `filled`; everything written by hand is kept.

    Text outside of sections stays, edited sections stay as they are, and removed sections stay removed. Metadata are
    only added. In `model-index`, results of the same metric on the same data are replaced; `are_figures_gone` removes
    the results of our own measures. `license` replaces the existing card's licence.

    Raises:
        ValueError: if the existing card's metadata cannot be read.
    """
    old, new = parse_card(existing), parse_card(filled)
    sections = {match[1]: match[0] for match in _SECTION.finditer(new.text)}
    if _SECTION.search(old.text):
        old.text = _SECTION.sub(lambda match: _newer(match, sections), old.text)
    else:
        old.text = old.text.rstrip() + "\n\n" + "\n\n".join(sections.values()) + "\n"
    if are_figures_gone and old.data.get("model-index") is not None:
        old.data["model-index"] = _without_measures(old.data["model-index"])
    for key, value in new.data.to_dict().items():
        old.data[key] = _merged_metadata(key, old.data.get(key), value)
    if license is not None:
        old.data["license"] = license
    return str(old)


# --- sections ---


def _checksum(text: str) -> str:
    """The checksum of a section; it ignores changes to line ends and trailing space."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _stamped(name: str, text: str) -> str:
    return f"<!-- ddpm_hf: {name} {_checksum(text)} -->\n{text.strip()}\n<!-- /ddpm_hf: {name} -->"


def _newer(section: re.Match[str], sections: dict[str, str]) -> str:
    name, checksum, text = section.groups()
    return sections.get(name, section[0]) if checksum == _checksum(text) else section[0]


# --- metadata ---


def parse_card(card: str) -> RepoCard:
    """A card with its metadata.

    Raises:
        ValueError: if the metadata cannot be read.
    """
    try:
        return RepoCard(card.replace("\r\n", "\n"))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"the metadata of the model card cannot be read: {problem}") from error


def _metadata(
    name: str, metrics: Metrics, license: str | None, task: tuple[str, str], tags: list[str]
) -> ModelCardData:
    data = metrics.get("data", "unknown")
    results = [
        EvalResult(
            task_type=task[0],
            task_name=task[1],
            dataset_type=metrics.get("dataset_name") or re.sub(r"\W+", "-", data).strip("-").lower(),
            dataset_name=data,
            dataset_split="test",
            metric_type=measure.metric,
            metric_name=measure.label,
            metric_value=round(value, 4),
        )
        for measure, value in measured(metrics)
    ]
    return ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=task[0],
        tags=list(tags),
        datasets=[metrics["dataset_name"]] if metrics.get("dataset_name") else None,
        model_name=name.rstrip("/").split("/")[-1] if results else None,
        eval_results=results or None,
    )


def _merged_metadata(key: str, old: Any, new: Any) -> Any:
    if old is None:
        return new
    if key in ("tags", "datasets"):
        old = old if isinstance(old, list) else [old]
        return old + [value for value in new if value not in old]
    return _merged_results(old, new) if key == "model-index" else old


def _merged_results(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two model indices merged; new results replace old ones of the same metric on the same data."""
    name, kept = _results(old)
    _, fresh = _results(new)

    def what(result: EvalResult) -> tuple:
        return result.unique_identifier, result.metric_type

    replaced = {what(result) for result in fresh}
    return eval_results_to_model_index(name, [*(result for result in kept if what(result) not in replaced), *fresh])


def _without_measures(index: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """A model index without the results of this package; None, which is not written, if nothing is left."""
    name, results = _results(index)
    ours = {measure.metric for measure in MEASURES}
    kept = [result for result in results if result.metric_type not in ours]
    return eval_results_to_model_index(name, kept) if kept else None


def _results(index: list[dict[str, Any]]) -> tuple[str, list[EvalResult]]:
    try:
        return model_index_to_eval_results(index)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"the `model-index` of the model card is invalid: {error!r}") from error


# --- facts ---


def _network_distances(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The Fréchet distances of features of networks, with what the card says of each."""
    distances = []
    for name, note in NOTES.items():
        key = f"frechet_distance_{name}"
        if key in metrics:
            words, equal = FRECHET_DISTANCES[name], metrics.get(f"{key}_at_equal_numbers", {})
            distances.append({"words": words, "note": note, "value": metrics[key], "equal": equal})
    return distances


def _facts(folder: Path, beside: Collection[str]) -> dict[str, Any]:
    """The template's values that come from the saved pipeline."""
    model = "transformer" if (folder / "transformer").is_dir() else "unet"
    unet, stored = read_json(folder / model / "config.json"), read_json(folder / "scheduler/scheduler_config.json")
    scheduler = DDPMPaperScheduler.from_config(stored)
    size = unet["sample_size"]
    weights = sorted((folder / model).glob("*.safetensors"))
    variants = _variants(path.name for path in weights)
    loadable = variants | _variants(path for path in beside if re.fullmatch(rf"{model}/.*\.safetensors", path))
    text, latent = _text_facts(folder, unet), _latent_facts(folder, unet)
    size = [size, size] if isinstance(size, int) else size
    low = LowResolutionSettings.of(unet) if JOINED in (unet.get(OWN_CONFIG_KEY) or {}) else None
    return {
        "low": low,
        "latent": latent,
        "channels": unet["in_channels"] // (1 if low is None else 2) if latent is None else latent["channels"],
        "size": size if latent is None or size is None else [latent["factor"] * side for side in size],
        "parameters": sum(map(count_parameters, weights)) // max(1, len(variants)),
        "variant": min(loadable, default=""),  # "" sorts first: these weights load without naming a variant
        "scheduler": scheduler,
        "schedule": _describe_schedule(scheduler),
        "kind": unet.get("_class_name", "UNet2DModel"),
        "num_classes": None if low else number_of_classes(unet),
        "embeds_classes": low is None and embeds_classes(unet),
        "text": text,
        "in_stock": in_stock(scheduler)
        + ([] if text is None else text_in_stock(text["settings"]))
        + ([] if latent is None else latent["in_stock"]),
    }


def _unclip_facts(folder: Path, family: str) -> dict[str, Any]:
    """The values of the template of unCLIP that come from the saved pipeline."""
    model, process = FOLDERS[family]
    names = {"prior", "image_encoder", model}
    facts = unclip_facts(family, {name: read_json(folder / name / "config.json") for name in names})
    scheduler = DDPMPaperScheduler.from_config(read_json(folder / process / "scheduler_config.json"))
    parameters = sum(map(count_parameters, (folder / model).glob("*.safetensors")))
    return {**facts, "scheduler": scheduler, "parameters": parameters, "in_stock": in_stock(scheduler)}


def _prompt(metrics: Metrics) -> str:
    """A prompt for an example: the first that the training itself drew samples of."""
    asked = metrics.get("settings", {}).get("validation_prompts")
    return asked[0] if asked else "red heart"


def _text_facts(folder: Path, unet: dict[str, Any]) -> dict[str, Any] | None:
    """How a model is told of text; None if it is not."""
    if unet.get("_class_name") != "UNet2DConditionModel" or not is_told_of_text(unet):
        return None
    config = folder / "text_encoder" / "config.json"
    kinds = read_json(config).get("architectures") if config.is_file() else None
    return {"settings": TextSettings.of(unet), "encoder": kinds[0] if kinds else None}


def _latent_facts(folder: Path, unet: dict[str, Any]) -> dict[str, Any] | None:
    """The autoencoder of a latent diffusion; None if there is none."""
    config = next((path for name in ("vae", "vqvae") if (path := folder / name / "config.json").is_file()), None)
    if config is None:
        return None
    autoencoder = read_json(config)
    family = read_json(folder / "model_index.json").get("_class_name")
    return {
        "kind": autoencoder.get("_class_name", "AutoencoderKL"),
        "family": family,
        "channels": autoencoder["in_channels"],
        "factor": 2 ** (len(autoencoder["block_out_channels"]) - 1),
        "latent_channels": unet["in_channels"],
        "in_stock": latent_in_stock(family, autoencoder, unet),
    }


def latent_in_stock(family: str | None, autoencoder: Mapping[str, Any], unet: Mapping[str, Any]) -> list[str]:
    """Sentences on how stock diffusers treats a diffusion of latents differently.

    Args:
        family: the stock pipeline that loads it.
        autoencoder, unet: the configurations of the two models.
    """
    learns_variance = unet.get("out_channels") == 2 * unet["in_channels"]
    sentences = []
    if family == "DiTPipeline" and learns_variance:
        sentences.append("It drops the variance that the model has learned, and samples with `fixed_small`.")
    classes = unet.get(CLASSES_OF_DIT)
    if family == "DiTPipeline" and classes != STOCK_NULL_CLASS:
        sentences.append(
            f"Its guidance takes {STOCK_NULL_CLASS} for the null class, which is {classes} here, and fails: pass"
            " `guidance_scale=1`."
        )
    if family == "StableDiffusionPipeline" and learns_variance:
        sentences.append("With guidance it extrapolates the learned variance too, and draws other images.")
    if family == "StableDiffusionPipeline" and OWN_CONFIG_KEY in unet:
        sentences.append(
            "It does not tell the text encoder which tokens are padding, and pads prompts to as many tokens as the"
            " tokenizer takes: it draws other images."
        )
    if family in ("LDMPipeline", "DiTPipeline"):
        sentences.append("It draws the noise of the steps from torch's global generator, whatever `generator` is.")
    if autoencoder.get("latents_std") is not None or autoencoder.get("shift_factor"):
        sentences.append(
            "It uses the autoencoder's `scaling_factor` alone, and decodes latents with a wrong shift and scale."
        )
    return sentences


def text_in_stock(settings: TextSettings) -> list[str]:
    """Sentences on how stock diffusers treats a model that is told of text in this way differently."""
    sentences = []
    if settings.encoder is not None:
        sentences.append(
            f"It does not load the text encoder, which is `{settings.encoder}` on the Hub: pass `text_encoder` and"
            " `tokenizer` to `from_pretrained`."
        )
    if settings.attention_mask:
        sentences.append(
            "It passes no attention mask to the model, which was trained to ignore padding, and pads prompts to 77"
            f" tokens in place of {settings.max_length}: it draws other images, which heed the prompt less."
        )
    return sentences


def in_stock(scheduler: DDPMPaperScheduler) -> list[str]:
    """Sentences on how stock diffusers treats a model with this scheduler differently."""
    sentences = []
    if scheduler.config.prediction_type == "mean":
        sentences.append("It cannot sample from this model, which predicts the posterior mean; ddpm_hf can.")
    if scheduler.variance_type == "learned":
        sentences.append(
            "Its `learned` variance does not work: it samples with `learned_range`, a variance interpolated from β̃ and"
            " β, instead of the one that this model has learned."
        )
    if scheduler.variance_type == "fixed_large_log":
        sentences.append("It uses the name `fixed_large` for the same variance.")
    if scheduler.variance_type == "optimal":
        sentences.append("It does not have the `optimal` variance, and samples with `fixed_small`.")
    if scheduler.config.trained_betas is not None:
        sentences.append(
            "It has no name for the noise schedule, which is saved as its betas; it stores them in float32."
        )
    return sentences


def _describe_schedule(scheduler: DDPMPaperScheduler) -> str:
    config = scheduler.config
    if config.trained_betas is None:
        return f"`{config.beta_schedule}`"
    log_abar = scheduler.schedule.log_alphas_cumprod[[1, -1]].tolist()
    first, last = (value - math.log(-math.expm1(value)) if value > -math.inf else value for value in log_abar)
    return f"given by its betas, with a log signal-to-noise ratio from {first:.2f} to {last:.2f}"


def weights_of(path: str) -> tuple[str, str] | None:
    """Name and variant of the weights in a file, a shard or an index of shards; None for other files."""
    shard = r"(?:-\d+-of-\d+)?"
    file = re.fullmatch(rf"(.+?){shard}(?:\.([^./]+?))?{shard}\.(?:safetensors|bin)", path)
    index = re.fullmatch(r"(.+?)\.(?:safetensors|bin)\.index(?:\.([^./]+))?\.json", path)
    found = index or file
    return found and (found[1], found[2] or "")


def _variants(paths: Iterable[str]) -> set[str]:
    return {found[1] for found in map(weights_of, paths) if found}


def count_parameters(path: Path) -> int:
    """The number of parameters in a weights file, from its header; ValueError if the file is incomplete."""
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; ValueError if it is not a mapping of names to values."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of names to values.")
    return content
