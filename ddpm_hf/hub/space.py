# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A Space on the Hub that serves the page of a model: its files, and pushing them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, SpaceCardData
from huggingface_hub.utils import validate_repo_id

from ..hub_errors import hub_errors
from ..runtime.output_folder import replace_folder
from ..version import __version__
from .card_sections import parse_card
from .model_card import CARD, check_license
from .push import require_private, with_retries


SDK_VERSION = "6.31.0"  # of Gradio, which the Space installs itself
PYTHON_VERSION = "3.12"
APP, REQUIREMENTS = "app.py", "requirements.txt"
OURS = ("sdk", "sdk_version", "python_version", "app_file")  # metadata that a push sets; others it only adds

_APP = '''"""A page on which to sample from {name}, to score pictures and to compress them."""

import contextlib


with contextlib.suppress(ImportError):
    import spaces  # ZeroGPU has it, and it must come before torch

from ddpm_hf.app.serving import serve


if __name__ == "__main__":
    serve({quoted})
'''
_TEXT = """# {title}

Sample from [{name}](https://huggingface.co/{name}), see how many bits a picture of yours has, and compress it: any
prefix of its file is a picture. The page is by `ddpm_hf`.
"""


def space_files(
    model_id: str, requirement: str | None = None, license: str | None = None, existing: str | None = None
) -> dict[str, str]:
    """The files of a Space by name: its README with metadata, its program, and its requirements.

    Args:
        model_id: "owner/name" on the Hub.
        requirement: what pip installs ddpm_hf from, such as "ddpm_hf[app] @ git+https://…@v1"; None for this version
            by its name.
        license: the Hub's name of the page's licence; None names none.
        existing: the README of the Space, whose text and other metadata are kept.

    Raises:
        ValueError: for a name, a requirement or a licence that cannot be one, or an unreadable README.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise ValueError(f"`hub_model_id` must read owner/name for a Space, but is {model_id!r}.")
    validate_repo_id(model_id)
    requirement = f"ddpm_hf[app]=={__version__}" if requirement is None else requirement.strip()
    if "ddpm_hf" not in requirement or "\n" in requirement:
        raise ValueError(f"`space_requirement` must be one requirement of ddpm_hf, but is {requirement!r}.")
    check_license(license)
    return {
        CARD: _card(model_id, license, existing),
        APP: _APP.format(name=model_id, quoted=json.dumps(model_id)),
        REQUIREMENTS: f"{requirement}\n",
    }


def write_space(folder: str, files: Mapping[str, str]) -> Path:
    """The files in a folder that does not exist yet.

    Raises:
        ValueError: if it exists.
        OSError: if it cannot be written.
    """
    path = Path(folder)
    if path.exists():
        raise ValueError(f"`space_dir` {folder} already exists; choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(partial: Path) -> None:
        partial.mkdir()
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")

    replace_folder(path, write)
    return path


def push_space(
    model_id: str,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    requirement: str | None = None,
    license: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Push a Space that serves the page of a model on the Hub, in one commit, with the retries of `push_folder`.

    An existing README keeps its text, and all metadata but those that say how the Space runs; the other two files are
    replaced.

    Args:
        model_id: "owner/name" of the model.
        repo_id: "name" or "owner/name" of the Space, which is created if it does not exist.
        private, token, create_pr: as in `push_folder`.
        requirement: as in `space_files`.
        license: the Hub's name of the page's licence; None takes the model's.

    Raises:
        ValueError: as `space_files`.
        HubError: if there is no such model, or the Hub refuses or cannot be reached.
    """
    space_files(model_id, requirement, license)  # raises
    api = HfApi(token=token)
    with hub_errors(model_id, doing="show"):
        card = api.model_info(model_id).card_data
    license = license or (card.get("license") if card is not None else None)

    def push() -> CommitInfo:
        how: dict[str, Any] = {"repo_type": "space"}
        name = api.create_repo(repo_id, private=private, exist_ok=True, space_sdk="gradio", **how).repo_id
        space = api.space_info(name)
        require_private(name, space.private, private)
        there = {sibling.rfilename for sibling in space.siblings or []}
        existing = None
        if CARD in there:
            existing = Path(api.hf_hub_download(name, CARD, revision=space.sha, **how)).read_text(encoding="utf-8")
        files = space_files(model_id, requirement, license, existing)
        added = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
        parent = None if create_pr else space.sha
        message = commit_message or "Upload page"
        return api.create_commit(name, added, commit_message=message, create_pr=create_pr, parent_commit=parent, **how)

    return with_retries(repo_id, push)


def _card(model_id: str, license: str | None, existing: str | None) -> str:
    title = model_id.split("/")[-1]
    data = SpaceCardData(
        title=title,
        emoji="🎲",
        colorFrom="indigo",
        colorTo="purple",
        sdk="gradio",
        sdk_version=SDK_VERSION,
        python_version=PYTHON_VERSION,
        app_file=APP,
        license=license,
        models=[model_id],
        tags=["ddpm_hf"],
        short_description="Sample, score and compress with a diffusion model",
    )
    if existing is None:
        return f"---\n{data.to_yaml()}\n---\n\n{_TEXT.format(title=title, name=model_id)}"
    card = parse_card(existing)
    for key, value in data.to_dict().items():
        known = card.data.get(key)
        if key in OURS or known is None:
            card.data[key] = value
        elif key == "models":
            card.data[key] = list(dict.fromkeys([*known, *value]))
    if not card.text.strip():
        card.text = f"\n{_TEXT.format(title=title, name=model_id)}"
    return str(card)
