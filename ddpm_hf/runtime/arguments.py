# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Fields of the dataclasses for command-line arguments, and values for those that the user leaves open."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar


Arguments = TypeVar("Arguments")
_GIVEN = "_given"  # an attribute that is no field: it is not compared, copied or saved


def help_text(text: str) -> dict[str, str]:
    return {"help": text}


def with_given(arguments: Arguments, names: Collection[str]) -> Arguments:
    """The same arguments, which remember that the user gave those of these names."""
    vars(arguments)[_GIVEN] = frozenset(names).intersection(_field_names(arguments))
    return arguments


def given_in(arguments: Any) -> frozenset[str]:
    """Names of the arguments that the user gave; for a dataclass made in Python, those that differ from defaults."""
    known = vars(arguments).get(_GIVEN)
    if known is not None:
        return known
    usual, own = dataclasses.asdict(type(arguments)()), dataclasses.asdict(arguments)
    return frozenset(name for name, value in own.items() if value != usual[name])


def completed(arguments: Arguments, values: Mapping[str, Any]) -> Arguments:
    """The arguments with these values where the user gave none; values of other dataclasses are ignored.

    What a dataclass derives from its other arguments is derived anew.
    """
    given = given_in(arguments)
    chosen = {name: values[name] for name in _field_names(arguments) if name in values}
    if not chosen:
        return arguments
    own = {name: getattr(arguments, name) for name in given}
    return with_given(type(arguments)(**{**chosen, **own}), given)


def decided(arguments: Arguments, values: Mapping[str, Any]) -> Arguments:
    """The arguments with these values where the user gave none, which no preset changes any more."""
    return with_given(completed(arguments, values), given_in(arguments) | values.keys())


def _field_names(arguments: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(arguments)]
