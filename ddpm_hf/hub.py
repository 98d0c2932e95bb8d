# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The Hugging Face Hub: what of a model is pushed, in one commit, and what a user is told when that fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import httpx
from safetensors import SafetensorError

from .model_card import CARD, METRICS, SAMPLES, fill_card, merge_cards


INDEX = "model_index.json"

RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another try
LONGEST_WAIT = 60.0  # that a Hub which limits the rate may ask for

# These the client has tried again by itself before it gives up.
_RETRIED_BY_THE_CLIENT = re.compile(r"/preupload/|\.git/info/lfs/")
_TRANSIENT_STATUS = (408, 409, 412, 429, 500, 502, 503, 504)

logger = logging.getLogger(__name__)


class HubError(OSError):
    """What went wrong at the Hub, in a sentence that ends with the next thing to do.

    Attributes:
        is_transient: whether the same may succeed later: the Hub is not reached, fails, or is busy.
        status: the HTTP status that the Hub answered with, if it did.
    """

    def __init__(self, sentence: str, is_transient: bool = False, status: int | None = None):
        super().__init__(sentence)
        self.is_transient, self.status = is_transient, status


# --- pushing --------------------------------------------------------------------------------------------------------


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    path_in_repo: str = "",
) -> CommitInfo:
    """Push a saved pipeline to the Hub: its weights and configurations, model card, sample grid and figures.

    One commit brings all or nothing, so that nobody loads half of a model. Weights of the same name in other shards
    are taken out by it. Where another try can help there are up to five more, with pauses that double from 1 s;
    pushing what is there already makes no commit. Nothing in `folder` is changed.

    Args:
        folder: what `DDPMPaperPipeline.save_pretrained` or examples/train.py wrote.
        repo_id: "name" or "owner/name"; it is made if need be.
        private: make it private; True refuses to push to a public repository that is there already.
        token: with write permission; the one of `hf auth login` or HF_TOKEN if None.
        create_pr: open a pull request in place of a commit to the main branch.
        path_in_repo: a folder in the repository.

    Raises:
        ValueError: if `folder` holds no whole pipeline, or no safetensors.
        HubError: if the Hub refuses or is not reached, with the next thing to do.
    """
    folder = Path(folder)
    files = model_files(folder)
    _check_for_token([*files, folder / CARD], token or get_token())
    api = HfApi(token=token)
    waits = iter(RETRY_WAITS)
    while True:
        try:
            with hub_errors(repo_id, doing="push to"):
                repo = _claim_repository(api, repo_id, private)
                return _commit(api, repo, folder, files, path_in_repo, commit_message, create_pr)
        except HubError as error:
            wait = next(waits, None)
            if wait is None or not _may_help_to_retry(error):
                raise
            wait = max(wait, min(_asked_to_wait(error), LONGEST_WAIT))
            logger.warning("%s Trying again in %.0f s.", error, wait)
        time.sleep(wait)


def claim_repository(repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Make the repository if need be and see that it can be pushed to; returns its full name.

    Raises:
        HubError: if it cannot, or is public where `private` is asked for.
    """
    with hub_errors(repo_id, doing="push to"):
        api = HfApi(token=token)
        repo = _claim_repository(api, repo_id, private)
        api.auth_check(repo.id, write=True)
        return repo.id


def model_files(folder: Path) -> list[Path]:
    """What a user of the model needs of a folder, and no more: no optimizer states, logs, checkpoints or pickles.

    Raises:
        ValueError: if the folder holds no whole pipeline, or no safetensors.
    """
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} is not a saved pipeline: it has no {INDEX}.")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / INDEX} cannot be read: {error}") from error
    files = [folder / INDEX]
    for component, source in index.items():
        if component.startswith("_") or not isinstance(source, list) or source[0] is None:
            continue
        found = [*(folder / component).glob("*.json"), *(folder / component).glob("*.safetensors")]
        if not found:
            raise ValueError(f"{folder} is not a whole pipeline: its {component} is missing.")
        files += sorted(found)
    if not any(file.suffix == ".safetensors" for file in files):
        raise ValueError(f"{folder} has no safetensors; only those are pushed: save with safe_serialization=True.")
    return files + [folder / name for name in (SAMPLES, METRICS) if (folder / name).is_file()]


def _claim_repository(api: HfApi, repo_id: str, private: bool | None) -> ModelInfo:
    """The repository as it stands, made if need be."""
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    repo = api.model_info(name)
    if private and not repo.private:  # `private` does nothing to a repository that is there already
        raise HubError(
            f"{name} is public on the Hub, and private was asked for; nothing was pushed. Make it private in its"
            " settings, or choose another name."
        )
    return repo


def _commit(
    api: HfApi, repo: ModelInfo, folder: Path, files: list[Path], prefix: str, message: str, create_pr: bool
) -> CommitInfo:
    """All of it in one commit on top of the one that the card was merged with."""
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    added = {prefix + file.relative_to(folder).as_posix(): str(file) for file in files}
    there = {sibling.rfilename for sibling in repo.siblings or []}
    card = _card(api, repo, folder, prefix + CARD if prefix + CARD in there else None)
    operations = [CommitOperationAdd(path, file) for path, file in added.items()]
    operations.append(CommitOperationAdd(prefix + CARD, card.encode()))
    operations += [CommitOperationDelete(path) for path in sorted(_superseded(there, set(added)))]
    return api.create_commit(
        repo.id, operations, commit_message=message, create_pr=create_pr, parent_commit=None if create_pr else repo.sha
    )


def _card(api: HfApi, repo: ModelInfo, folder: Path, on_the_hub: str | None) -> str:
    """The card, filled from the folder, over what was written by hand into the folder's and the Hub's."""
    card = fill_card(folder, repo.id)
    if (folder / CARD).is_file():
        card = merge_cards((folder / CARD).read_text(encoding="utf-8"), card)
    if on_the_hub is None:
        return card
    there = api.hf_hub_download(repo.id, on_the_hub, revision=repo.sha)
    return merge_cards(Path(there).read_text(encoding="utf-8"), card)


def _superseded(there: set[str], added: set[str]) -> set[str]:
    """Weights in the repository that are the same as some that are added, but in other shards or pickled."""

    def weights(path: str) -> str | None:
        match = re.fullmatch(r"(.+?)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?", path)
        # diffusers puts the shard after the variant; an index before it.
        return match and re.sub(r"\.safetensors\.index|\.bin\.index", "", match[1])

    replaced = {weights(path) for path in added} - {None}
    return {path for path in there - added if weights(path) in replaced}


def _check_for_token(files: list[Path], token: str | None) -> None:
    """Raise ValueError if a text that is to be pushed holds the token."""
    for file in files:
        is_text = file.suffix in (".json", ".md") and file.is_file()
        if token and is_text and token in file.read_text(encoding="utf-8"):
            raise ValueError(f"{file} holds your Hub token; nothing was pushed. Take it out of there.")


def _may_help_to_retry(error: HubError) -> bool:
    request = getattr(error.__cause__, "request", None)
    is_retried = isinstance(error.__cause__, RuntimeError) or (
        error.status is not None and request is not None and _RETRIED_BY_THE_CLIENT.search(str(request.url))
    )
    return error.is_transient and not is_retried


def _asked_to_wait(error: HubError) -> float:
    response = getattr(error.__cause__, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return float(asked) if asked.isdigit() else 0.0


# --- what a user is told --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub_errors(name: str, revision: str | None = None, doing: str = "load") -> Iterator[None]:
    """Inside, what the client, diffusers and torch raise about a model becomes a `HubError`; all else passes."""
    try:
        yield
    except HubError:
        raise
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, pickle.UnpicklingError) as error:
        told = _tell(error, name, revision, doing)
        if told is None:
            raise
        raise told from error


def _tell(error: BaseException, name: str, revision: str | None, doing: str) -> HubError | None:
    """The sentence for an exception: for the innermost one that says something."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner)
    for cause in reversed(causes):
        if (told := _tell_one(cause, name, revision, doing)) is not None:
            return told
    return None


def _tell_one(error: BaseException, name: str, revision: str | None, doing: str) -> HubError | None:
    could_not = f"Could not {doing} {name}:"
    if isinstance(error, pickle.UnpicklingError):
        return HubError(
            f"{could_not} its weights are a pickle with more than tensors in it, and to read that would run whatever"
            " code it holds; ask for weights saved as safetensors."
        )
    if isinstance(error, SafetensorError) or "PytorchStreamReader failed" in str(error):
        return HubError(
            f"{could_not} its weights are damaged ({_one_line(error)}); load with force_download=True, or save again."
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{could_not} that is neither a folder here nor a name on the Hub, which reads 'owner/name'.")
    if isinstance(error, HfHubHTTPError):
        return _tell_answer(error, name, revision, could_not)
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return HubError(
            f"{could_not} it is not, or not all, in the local cache, and the Hub at {constants.ENDPOINT} is not asked;"
            " go online, or without local_files_only and HF_HUB_OFFLINE.",
            is_transient=True,
        )
    if isinstance(error, httpx.ConnectError):
        return HubError(
            f"{could_not} the Hub at {constants.ENDPOINT} cannot be reached; see to the network and try again.",
            is_transient=True,
        )
    if isinstance(error, httpx.TransportError):
        return HubError(
            f"{could_not} the connection to the Hub at {constants.ENDPOINT} broke ({type(error).__name__}); try again:"
            " what has arrived is kept, and nothing is done twice.",
            is_transient=True,
        )
    if "Invalid metadata in README.md" in str(error):
        problems = _one_line(str(error).partition("README.md.")[2])
        return HubError(
            f"{could_not} the Hub refuses the metadata of its model card ({problems}); nothing was pushed. Mend the"
            f" head of {CARD}, here or on the Hub, and push again."
        )
    if "Consistency check failed" in str(error):
        return HubError(
            f"{could_not} a file came shorter than the Hub says it is; try again, with force_download=True.",
            is_transient=True,
        )
    return None


def _tell_answer(error: HfHubHTTPError, name: str, revision: str | None, could_not: str) -> HubError:
    """The sentence for what the Hub answered."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        told = f"its owner grants access one by one; ask for it at {constants.ENDPOINT}/{name}."
    elif isinstance(error, RevisionNotFoundError):
        told = f"it has no revision {revision!r}; choose a branch, tag or commit at {constants.ENDPOINT}/{name}."
    elif isinstance(error, RepositoryNotFoundError):
        told = (
            "there is no such repository on the Hub, or it is private and this token may not read it; check the name,"
            " or log in with `hf auth login`, or pass a token that may."
        )
    elif isinstance(error, EntryNotFoundError):
        told = f"it lacks {_path(error)}; it may hold no diffusers pipeline, or lie in another revision or variant."
    elif status == 401:
        told = f"the Hub does not accept the token; make another at {constants.ENDPOINT}/settings/tokens."
    elif status == 403:
        told = (
            f"the token has no permission for that; take one that may write there"
            f" ({constants.ENDPOINT}/settings/tokens), or push under a name of your own."
        )
    elif status in (409, 412):
        told = "somebody else is changing it at the same time; try again."
    elif status == 429:
        told = "the Hub limits how often it is asked; try again in some minutes."
    elif status >= 500:
        told = f"the Hub answered {status}, a failure of its own, and nothing was changed; try again later."
    else:
        told = f"the Hub answered {status} ({_one_line(error.server_message or error)}); see to that and try again."
    return HubError(f"{could_not} {told}", is_transient=status in _TRANSIENT_STATUS, status=status)


def _path(error: HfHubHTTPError) -> str:
    """The file that was asked for."""
    return str(error.response.url).partition("/resolve/")[2].partition("/")[2] or "that file"


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).strip("-. ")
