# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a user is told when the Hugging Face Hub, or a file from it, fails: one sentence with the next thing to do."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator

from huggingface_hub import constants
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
from huggingface_hub.utils import httpx
from safetensors import SafetensorError


_TRANSIENT_STATUS = (408, 409, 412, 429, 500, 502, 503, 504)


class HubError(OSError):
    """What went wrong at the Hub, in a sentence that ends with the next thing to do.

    Attributes:
        is_transient: whether the same may succeed later: the Hub is not reached, fails, or is busy.
    """

    def __init__(self, sentence: str, is_transient: bool = False):
        super().__init__(sentence)
        self.is_transient = is_transient


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
            " head of README.md, here or on the Hub, and push again."
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
    elif status == 401 and "Authorization" not in error.response.request.headers:
        told = "the Hub asks who you are; log in with `hf auth login`, or set HF_TOKEN, or pass a token."
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
    return HubError(f"{could_not} {told}", is_transient=status in _TRANSIENT_STATUS)


def _path(error: HfHubHTTPError) -> str:
    """The file that was asked for."""
    return str(error.response.url).partition("/resolve/")[2].partition("/")[2] or "that file"


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).strip("-. ")
