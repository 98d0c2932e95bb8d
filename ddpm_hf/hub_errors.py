# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a user is told when the Hugging Face Hub, or a file from it, fails: one sentence with the next thing to do."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path

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


_DAMAGED = "its weights are damaged ({text}); load with force_download=True, or save again."
_NO_NAME = "that is neither a folder here nor a name on the Hub, which reads 'owner/name'."

# What an exception means: its class, a part of its text, what is told, and whether it may pass by itself. One known by
# its text says more than what it was raised from; of the others the innermost says most.
_BY_TEXT: tuple[tuple[type, str, str, bool], ...] = (
    (
        ValueError,
        "Invalid metadata in README.md",
        "the Hub refuses its model card ({text}); nothing was pushed. Mend the head of README.md, here or on the Hub,"
        " and push again.",
        False,
    ),
    (
        ValueError,
        "of the model card",
        "{text}; mend the head of README.md, here or on the Hub, and push again.",
        False,
    ),
    (ValueError, "neither a valid local path nor a valid repo id", _NO_NAME, False),
    (RuntimeError, "PytorchStreamReader failed", _DAMAGED, False),
    (
        OSError,
        "required according to the checkpoint index",
        "some of its weights are not there ({text}); ask for it to be saved again.",
        False,
    ),
    (
        OSError,
        "Consistency check failed",
        "a file came shorter than the Hub says it is; try again, with force_download=True.",
        True,
    ),
)


_BY_CLASS: tuple[tuple[type | tuple[type, ...], str, bool], ...] = (
    (
        pickle.UnpicklingError,
        "its weights are a pickle with more than tensors in it, and to read that would run whatever code it holds; ask"
        " for weights saved as safetensors.",
        False,
    ),
    (SafetensorError, _DAMAGED, False),
    (HFValidationError, _NO_NAME, False),
    (
        (OfflineModeIsEnabled, LocalEntryNotFoundError),
        "the Hub at {endpoint} is not asked, by HF_HUB_OFFLINE or local_files_only, and the local cache does not hold"
        " all of it; try again without these.",
        False,
    ),
    (httpx.ConnectError, "the Hub at {endpoint} cannot be reached; see to the network and try again.", True),
    (
        httpx.TransportError,
        "the connection to the Hub at {endpoint} broke ({kind}); try again, nothing is lost or done twice.",
        True,
    ),
)


# What the Hub's answer means: the client's exception or the status, and what is told.
_ANSWERS: tuple[tuple[type | tuple[int, ...] | range, str], ...] = (
    (GatedRepoError, "its owner grants access one by one; ask for it at {endpoint}/{name}."),
    (RevisionNotFoundError, "it has no revision {revision!r}; choose a branch, tag or commit at {endpoint}/{name}."),
    (
        RepositoryNotFoundError,
        "there is no such repository on the Hub, or it is private and this token may not read it; check the name, or"
        " log in with `hf auth login`, or pass a token that may.",
    ),
    (
        EntryNotFoundError,
        "it lacks {path}; it may hold no diffusers pipeline, or lie in another revision or variant.",
    ),
    ((401,), "the Hub does not accept the token; make another at {endpoint}/settings/tokens."),
    (
        (403,),
        "the token has no permission for that; take one that may write there ({endpoint}/settings/tokens), or push"
        " under a name of your own.",
    ),
    ((409, 412), "somebody else is changing it at the same time; try again."),
    ((429,), "the Hub limits how often it is asked; try again in some minutes."),
    (range(500, 600), "the Hub answered {status}, a failure of its own, and nothing was changed; try again later."),
    (range(300, 600), "the Hub answered {status} ({text}); see to that and try again."),
)


_NO_TOKEN = "the Hub asks who you are; log in with `hf auth login`, or set HF_TOKEN, or pass a token."
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
        could_not = f"Could not {doing} {name}:"
        if doing == "load" and not Path(name).is_dir() and _asks_the_hub(error):
            could_not += " there is no such folder here, and"
        told = _tell(error, could_not, name=name, revision=revision)
        if told is None:
            raise
        raise told from error


def _causes(error: BaseException) -> list[BaseException]:
    """An exception, and what it was raised from, the innermost last."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner)
    return causes


def _asks_the_hub(error: BaseException) -> bool:
    """Whether a name was looked for on the Hub and not found: it may be a path with a slip in it."""
    kinds = (RepositoryNotFoundError, OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError)
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _tell(error: BaseException, could_not: str, **facts: str | None) -> HubError | None:
    """The sentence for an exception and what it was raised from."""
    causes = _causes(error)
    for cause in causes:
        for kind, text, told, is_transient in _BY_TEXT:
            if isinstance(cause, kind) and text in str(cause):
                return HubError(f"{could_not} {told.format(text=_one_line(cause))}", is_transient)
    for cause in reversed(causes):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return HubError(f"{could_not} {_answer(cause, **facts)}", is_transient=status in _TRANSIENT_STATUS)
        for kinds, told, is_transient in _BY_CLASS:
            if isinstance(cause, kinds):
                told = told.format(text=_one_line(cause), kind=type(cause).__name__, endpoint=constants.ENDPOINT)
                return HubError(f"{could_not} {told}", is_transient)
    return None


def _answer(error: HfHubHTTPError, **facts: str | None) -> str:
    """What is told of an error that the Hub answered with."""
    response = error.response
    is_anonymous = response.status_code == 401 and "Authorization" not in response.request.headers
    if is_anonymous and not isinstance(error, RepositoryNotFoundError):
        return _NO_TOKEN
    told = next(
        told
        for kind, told in _ANSWERS
        if (isinstance(error, kind) if isinstance(kind, type) else response.status_code in kind)
    )
    path = str(response.url).partition("/resolve/")[2].partition("/")[2]
    text = _one_line(error.server_message or error)
    return told.format(**facts, endpoint=constants.ENDPOINT, status=response.status_code, path=path, text=text)


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).strip("-. ")
