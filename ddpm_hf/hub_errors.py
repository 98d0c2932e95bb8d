# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Messages for failures of the Hugging Face Hub or of a file from it: one sentence that says what to do next."""

from __future__ import annotations

import contextlib
import difflib
import logging
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

# The meaning of an exception: its class, a part of its text, the message, and whether it is transient. An exception
# that is recognised by its text is more specific than its causes; otherwise the innermost cause is most specific.
_BY_TEXT: tuple[tuple[type, str, str, bool], ...] = (
    (
        ValueError,
        "Invalid metadata in README.md",
        "the Hub refuses its model card ({text}); nothing was pushed. Correct the head of README.md, here or on the"
        " Hub, and push again.",
        False,
    ),
    (
        ValueError,
        "of the model card",
        "{text}; correct the head of README.md, here or on the Hub, and push again.",
        False,
    ),
    (ValueError, "neither a valid local path nor a valid repo id", _NO_NAME, False),
    (RuntimeError, "PytorchStreamReader failed", _DAMAGED, False),
    (
        OSError,
        "required according to the checkpoint index",
        "some of its weights are missing ({text}); ask its owner to save it again.",
        False,
    ),
    (
        OSError,
        "Consistency check failed",
        "a downloaded file is shorter than the Hub says; try again with force_download=True.",
        True,
    ),
)


_BY_CLASS: tuple[tuple[type | tuple[type, ...], str, bool], ...] = (
    (
        pickle.UnpicklingError,
        "its weights are a pickle that contains more than tensors, and loading it could run arbitrary code; ask for"
        " weights saved as safetensors.",
        False,
    ),
    (SafetensorError, _DAMAGED, False),
    (HFValidationError, _NO_NAME, False),
    (
        (OfflineModeIsEnabled, LocalEntryNotFoundError),
        "HF_HUB_OFFLINE or local_files_only prevents access to the Hub at {endpoint}, and the local cache does not"
        " hold all of it; try again without these.",
        False,
    ),
    (httpx.ConnectError, "the Hub at {endpoint} cannot be reached; check the network and try again.", True),
    (
        httpx.TransportError,
        "the connection to the Hub at {endpoint} broke ({kind}); try again: nothing is lost or done twice.",
        True,
    ),
)


# The meaning of the Hub's answer: the client's exception or the status, and the message.
_ANSWERS: tuple[tuple[type | tuple[int, ...] | range, str], ...] = (
    (GatedRepoError, "its owner grants access on request; ask for it at {endpoint}/{name}."),
    (RevisionNotFoundError, "it has no revision {revision!r}; choose a branch, tag or commit at {endpoint}/{name}."),
    (
        RepositoryNotFoundError,
        "there is no such repository on the Hub, or it is private and this token may not read it; check the name, or"
        " log in with `hf auth login`, or pass a token that may.",
    ),
    (
        EntryNotFoundError,
        "it lacks {path}; perhaps it is not a diffusers pipeline, or needs another revision or variant.",
    ),
    ((401,), "the Hub does not accept the token; create a new one at {endpoint}/settings/tokens."),
    (
        (403,),
        "the token has no permission for that; use one with write permission ({endpoint}/settings/tokens), or push"
        " under a name of your own.",
    ),
    ((409, 412), "somebody else is changing it at the same time; try again."),
    ((429,), "the Hub limits the rate of requests; try again in a few minutes."),
    (range(500, 600), "the Hub answered {status}, an error on its side, and nothing was changed; try again later."),
    (range(300, 600), "the Hub answered {status} ({text}); resolve this and try again."),
)


_NO_TOKEN = "the Hub asks who you are; log in with `hf auth login`, or set HF_TOKEN, or pass a token."
_TRANSIENT_STATUS = (408, 409, 412, 429, 500, 502, 503, 504)


class HubError(OSError):
    """A failure of the Hub; the message is one sentence that ends with what to do next.

    Attributes:
        is_transient: whether the same call may succeed later: the Hub cannot be reached, fails, or is busy.
    """

    def __init__(self, sentence: str, is_transient: bool = False):
        super().__init__(sentence)
        self.is_transient = is_transient


@contextlib.contextmanager
def hub_errors(name: str, revision: str | None = None, doing: str = "load") -> Iterator[None]:
    """A context in which errors of the client, diffusers and torch about a model become a `HubError`; others pass."""
    try:
        with _warnings_if_it_works():
            yield
    except HubError:
        raise
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, pickle.UnpicklingError) as error:
        could_not, hint = f"Could not {doing} {name}:", ""
        if doing == "load" and not Path(name).is_dir():
            could_not += " there is no such folder here, and" if _asks_the_hub(error) else ""
            near = _near_folder(name)
            hint = "" if near is None else f" Did you mean the folder {near}?"
        failure = _tell(error, could_not, name=name, revision=revision)
        if failure is None:
            raise
        raise HubError(f"{failure}{hint}", failure.is_transient) from error


@contextlib.contextmanager
def _warnings_if_it_works() -> Iterator[None]:
    """A context that delays diffusers' warning about the Hub, and drops it if an error follows, which says more."""
    logger, held = logging.getLogger("diffusers.pipelines.pipeline_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        is_held = record.getMessage().startswith("Couldn't connect to the Hub")
        if is_held:
            held.append(record)
        return not is_held

    logger.addFilter(hold)
    try:
        yield
    finally:
        logger.removeFilter(hold)
    for record in held:
        logger.handle(record)


def _near_folder(name: str) -> Path | None:
    """The existing folder whose path is most similar to a mistyped one, part by part; None if a part has no match."""
    place = Path()
    try:
        for part in Path(name).parts:
            if not (place / part).is_dir():
                folders = [each.name for each in place.iterdir() if each.is_dir()]
                near = difflib.get_close_matches(part, folders, n=1)
                if not near:
                    return None
                part = near[0]
            place /= part
    except OSError:  # a folder that must not be read: the error that is being told matters more
        return None
    return place


def _causes(error: BaseException) -> list[BaseException]:
    """An exception and its causes, the innermost last."""
    causes = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner)
    return causes


def _asks_the_hub(error: BaseException) -> bool:
    """Whether a name was not found on the Hub: it may be a mistyped path."""
    kinds = (RepositoryNotFoundError, OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError)
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _tell(error: BaseException, could_not: str, **facts: str | None) -> HubError | None:
    """The error for an exception and its causes; None for an unknown exception."""
    causes = _causes(error)
    for cause in causes:
        for kind, text, message, is_transient in _BY_TEXT:
            if isinstance(cause, kind) and text in str(cause):
                return HubError(f"{could_not} {message.format(text=_one_line(cause))}", is_transient)
    for cause in reversed(causes):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return HubError(f"{could_not} {_answer(cause, **facts)}", is_transient=status in _TRANSIENT_STATUS)
        for kinds, message, is_transient in _BY_CLASS:
            if isinstance(cause, kinds):
                message = message.format(text=_one_line(cause), kind=type(cause).__name__, endpoint=constants.ENDPOINT)
                return HubError(f"{could_not} {message}", is_transient)
    return None


def _answer(error: HfHubHTTPError, **facts: str | None) -> str:
    """The message for an error that the Hub answered with."""
    response = error.response
    is_anonymous = response.status_code == 401 and "Authorization" not in response.request.headers
    if is_anonymous and not isinstance(error, RepositoryNotFoundError):
        return _NO_TOKEN
    message = next(
        message
        for kind, message in _ANSWERS
        if (isinstance(error, kind) if isinstance(kind, type) else response.status_code in kind)
    )
    path = str(response.url).partition("/resolve/")[2].partition("/")[2]
    text = _one_line(error.server_message or error)
    return message.format(**facts, endpoint=constants.ENDPOINT, status=response.status_code, path=path, text=text)


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).strip("-. ")
