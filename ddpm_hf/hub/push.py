# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushing a model to the Hugging Face Hub: which files, in one commit, with retries after transient failures."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.hf_api import ModelInfo

from ..hub_errors import HubError, hub_errors
from ..results import METRICS
from .autoencoder_card import autoencoder_files, is_autoencoder
from .card_sections import merge_cards
from .image_encoder_card import image_encoder_files, is_image_encoder
from .model_card import CARD, SAMPLES, check_license, fill_card
from .saved_files import count_parameters, read_json, weights_of


INDEX = "model_index.json"

# Files of a tokenizer that are not JSON.
VOCABULARIES = {"vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"}

RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try
LONGEST_WAIT = 60.0  # seconds, even if the Hub's rate limit asks for more

# The client itself retries these before it raises them.
_RETRIED_BY_THE_CLIENT = re.compile(r"/preupload/|\.git/info/lfs/")

logger = logging.getLogger(__name__)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    path_in_repo: str = "",
    license: str | None = None,
) -> CommitInfo:
    """Push a saved pipeline, or an autoencoder, to the Hub: weights, configurations, model card, sample grid, figures.

    Everything goes into one commit, so that nobody loads half of a model. The commit removes what it supersedes: the
    same weights in other shards, and, if the weights change, old figures and samples that it does not replace. After a
    transient failure it tries up to five more times, with pauses that double from 1 s. If nothing has changed, there
    is no commit. `folder` is not changed.

    Args:
        folder: a folder that `DDPMPaperPipeline.save_pretrained`, examples/train.py or examples/autoencoder.py wrote.
        repo_id: "name" or "owner/name"; the repository is created if it does not exist.
        private: create a private repository; True refuses to push to an existing public one.
        token: a token with write permission; None takes that of `hf auth login` or HF_TOKEN.
        create_pr: open a pull request instead of committing to the main branch.
        path_in_repo: a folder in the repository.
        license: the Hub's name of the model's licence, which the card then names; None keeps what the cards in the
            folder and on the Hub name, and fills a new card as `fill_card` does.

    Raises:
        ValueError: if `folder` holds no complete pipeline, or no safetensors, or for a malformed `license`.
        HubError: if the Hub refuses or cannot be reached; it says what to do next.
    """
    folder = Path(folder)
    check_license(license)
    files = model_files(folder)
    _check_for_token([*files, folder / CARD], token or get_token())
    api = HfApi(token=token)

    def push() -> CommitInfo:
        repo = _claim_repository(api, repo_id, private)
        message = commit_message or "Upload model"
        return _commit(api, repo, folder, files, path_in_repo, message, create_pr, license)

    return with_retries(repo_id, push)


def with_retries(repo_id: str, push: Callable[[], CommitInfo]) -> CommitInfo:
    """The commit of `push`, which is called again after a transient failure, up to five more times.

    Args:
        repo_id: the repository, for messages.
        push: may be called again after it has failed.

    Raises:
        HubError: if the Hub refuses or cannot be reached.
    """
    waits = iter(RETRY_WAITS)
    while True:
        try:
            with hub_errors(repo_id, doing="push to"):
                return push()
        except HubError as error:
            wait = next(waits, None)
            if wait is None or not _may_help_to_retry(error):
                raise
            wait = max(wait, min(_asked_to_wait(error), LONGEST_WAIT))
            logger.warning("%s Trying again in %.0f s.", error, wait)
        time.sleep(wait)


def claim_repository(repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Create the repository if it does not exist, check that it can be pushed to, and return its full name.

    Raises:
        HubError: if it cannot be pushed to, or is public although `private` is True.
    """
    with hub_errors(repo_id, doing="push to"):
        api = HfApi(token=token)
        repo = _claim_repository(api, repo_id, private)
        api.auth_check(repo.id, write=True)
        return repo.id


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that users of the model need: no optimizer states, logs, checkpoints or pickles.

    Raises:
        ValueError: if the folder holds no complete pipeline, or no safetensors.
    """
    if is_autoencoder(folder) and not (folder / INDEX).is_file():
        files = autoencoder_files(folder)
    elif is_image_encoder(folder) and not (folder / INDEX).is_file():
        files = image_encoder_files(folder)
    else:
        files = _pipeline_files(folder)
    weights = [file for file in files if file.suffix == ".safetensors"]
    if not weights:
        raise ValueError(f"{folder} has no safetensors; only those are pushed: save with safe_serialization=True.")
    for file in weights:
        count_parameters(file)
    return files + [folder / name for name in (SAMPLES, METRICS) if (folder / name).is_file()]


def _pipeline_files(folder: Path) -> list[Path]:
    """The files of all components of a pipeline, and its index."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} is not a saved pipeline: it has no {INDEX}.")
    files = [folder / INDEX]
    for component, source in read_json(folder / INDEX).items():
        if not component.startswith("_") and isinstance(source, list) and source[0] is not None:
            files += _component_files(folder, component)
    return files


def _component_files(folder: Path, component: str) -> list[Path]:
    """Configurations and weights of one component of a pipeline."""
    if Path(component).name != component:
        raise ValueError(f"{folder / INDEX} names a component {component!r} outside of the folder.")
    settings, weights = (sorted((folder / component).glob(f"*.{end}")) for end in ("json", "safetensors"))
    shards = {name for file in settings for name in read_json(file).get("weight_map", {}).values()}
    missing = sorted(shards - {file.name for file in weights})
    if not settings or missing:
        lacking = missing[0] if missing else "configuration"
        raise ValueError(f"{folder} is not a complete pipeline: its {component} lacks its {lacking}.")
    return settings + weights + [file for file in sorted((folder / component).iterdir()) if file.name in VOCABULARIES]


def _claim_repository(api: HfApi, repo_id: str, private: bool | None) -> ModelInfo:
    """The current state of the repository, which is created if it does not exist."""
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    repo = api.model_info(name)
    require_private(name, repo.private, private)
    return repo


def require_private(name: str, is_private: bool | None, wanted: bool | None) -> None:
    """Raise HubError for a public repository if a private one was requested: an existing one is left as it is."""
    if wanted and not is_private:
        raise HubError(
            f"{name} is public on the Hub, but a private repository was requested; nothing was pushed. Make it private"
            " in its settings, or choose another name."
        )


def _commit(
    api: HfApi,
    repo: ModelInfo,
    folder: Path,
    files: list[Path],
    prefix: str,
    message: str,
    create_pr: bool,
    license: str | None,
) -> CommitInfo:
    """Push everything in one commit on top of the one whose card was merged."""
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    there = {sibling.rfilename for sibling in repo.siblings or []}
    added = [CommitOperationAdd(prefix + file.relative_to(folder).as_posix(), _content(file)) for file in files]
    paths = {operation.path_in_repo for operation in added}
    gone = _superseded(there, paths)
    are_others = _are_other_weights(api, repo, added, there, gone)
    if are_others:  # the existing figures and samples belong to the old weights
        gone |= {prefix + SAMPLES, prefix + METRICS} & (there - paths)
    are_figures_gone = are_others and prefix + METRICS not in paths
    card = _card(api, repo, folder, prefix, there - gone, are_figures_gone, license)
    operations = [*added, CommitOperationAdd(prefix + CARD, card.encode())]
    operations += [CommitOperationDelete(path) for path in sorted(gone)]
    parent = None if create_pr else repo.sha
    return api.create_commit(repo.id, operations, commit_message=message, create_pr=create_pr, parent_commit=parent)


def _content(file: Path) -> str | bytes:
    """A file's path, or the content of a configuration without the local path that it was loaded from."""
    if file.suffix == ".json":
        config = read_json(file)
        if config.pop("_name_or_path", None) is not None:
            return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()  # as diffusers writes it
    return str(file)


def _card(
    api: HfApi,
    repo: ModelInfo,
    folder: Path,
    prefix: str,
    staying: set[str],
    are_figures_gone: bool,
    license: str | None,
) -> str:
    """The card, filled from the folder and the files that stay on the Hub; text written by hand is kept."""

    def there(name: str) -> Path | None:
        """A file of the repository, downloaded; None if there is none."""
        if prefix + name not in staying:
            return None
        return Path(api.hf_hub_download(repo.id, prefix + name, revision=repo.sha))

    metrics = None if (folder / METRICS).is_file() else there(METRICS)
    beside = {path.removeprefix(prefix) for path in staying if path.startswith(prefix)}
    card = fill_card(folder, repo.id, read_json(metrics) if metrics else None, beside, license)
    for written in (folder / CARD, there(CARD)):
        if written is not None and written.is_file():
            card = merge_cards(written.read_text(encoding="utf-8"), card, are_figures_gone, license)
    return card


def _superseded(there: set[str], added: set[str]) -> set[str]:
    """Weights in the repository that are added again in other shards, or were pickled."""
    replaced = {weights_of(path) for path in added} - {None}
    return {path for path in there - added if weights_of(path) in replaced}


def _are_other_weights(
    api: HfApi, repo: ModelInfo, added: list[CommitOperationAdd], there: set[str], superseded: set[str]
) -> bool:
    """Whether the push replaces the repository's weights (without variant) by different ones."""
    weights = {op.path_in_repo: op for op in added if op.path_in_repo.endswith(".safetensors")}
    weights = {path: op for path, op in weights.items() if (found := weights_of(path)) and found[1] == ""}
    if superseded and weights:
        return True
    known = api.get_paths_info(repo.id, sorted(weights.keys() & there), revision=repo.sha) if weights else []
    return any(file.lfs is None or file.lfs.sha256 != weights[file.path].upload_info.sha256.hex() for file in known)


def _check_for_token(files: list[Path], token: str | None) -> None:
    """Raise ValueError if a text file that would be pushed contains the token."""
    for file in files:
        is_text = file.suffix in (".json", ".md") and file.is_file()
        if token and is_text and token in file.read_text(encoding="utf-8"):
            raise ValueError(f"{file} contains your Hub token; nothing was pushed. Remove the token from it.")


def _may_help_to_retry(error: HubError) -> bool:
    """Whether the failure may be transient, and the client has not already retried."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return error.is_transient and not _RETRIED_BY_THE_CLIENT.search(str(cause.response.url))
    # The client raises RuntimeError after its own retries of an upload.
    return error.is_transient and not isinstance(cause, RuntimeError)


def _asked_to_wait(error: HubError) -> float:
    cause = error.__cause__
    asked = cause.response.headers.get("Retry-After", "") if isinstance(cause, HfHubHTTPError) else ""
    return float(asked) if asked.isdigit() else 0.0


def lacks_index(error: BaseException | None) -> bool:
    """Whether loading a model failed because it has no index: an OSError for a folder, a 404 from the Hub."""
    while error is not None:
        if INDEX in str(error) and (isinstance(error, EntryNotFoundError) or "no file named" in str(error)):
            return True
        error = error.__cause__
    return False
