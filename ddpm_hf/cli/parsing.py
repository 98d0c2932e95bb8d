# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The command line: dataclasses of arguments, filled from flags, from one YAML or JSON file, or both."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..runtime.arguments import completed, with_given
from ..tasks.arguments import RECIPES, DiffusionArguments
from .parser import build_parser, first_arguments, names, nearest


_NOT_GIVEN = object()


def parse(script: str, *classes: type, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """The dataclasses filled from `[file.yaml | file.json] [--flag value …]`; flags win over the file.

    Both win over a recipe. A mistake ends the process with status 2 and a one-sentence message.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(script, classes)
    settings = {}
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        settings = _read_settings(parser, classes, Path(argv.pop(0)))
    argv = _with_first_arguments(argv, classes)
    parser.set_defaults(**settings)
    *filled, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if rest:
        flag = rest[0].split("=")[0]
        meant = nearest(flag.lstrip("-"), names(parser))
        hint = f"Did you mean --{meant}?" if meant else "--help lists the arguments."
        parser.error(f"there is no argument {flag}. {hint}")
    given = settings.keys() | _flags_in(parser, argv)
    filled = [_by_recipe(parser, with_given(group, given)) for group in filled]
    for group in filled:
        _expand_home(group)
    for token in filter(None, (getattr(group, "hub_token", None) for group in filled)):
        sys.argv = [argument.replace(token, "...") for argument in sys.argv]  # trackers record it
    return tuple(filled)


def _with_first_arguments(argv: list[str], classes: Sequence[type]) -> list[str]:
    """The arguments, where those before the first flag are values of the flag that a class names for them."""
    name = first_arguments(classes)
    return [f"--{name}", *argv] if name is not None and argv and not argv[0].startswith("-") else argv


def _expand_home(group: Any) -> None:
    """Replace `~` by the home folder where no shell has done so: in a settings file, and after a `=`."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if isinstance(value, str) and (value == "~" or value.startswith(("~/", f"~{os.sep}"))):
            setattr(group, field.name, os.path.expanduser(value))


def _flags_in(parser: HfArgumentParser, argv: Sequence[str]) -> set[str]:
    """Names of the arguments that are given as flags."""
    names_of_all = [action.dest for action in parser._actions]
    parsed, _ = parser.parse_known_args(argv, argparse.Namespace(**dict.fromkeys(names_of_all, _NOT_GIVEN)))
    return {name for name, value in vars(parsed).items() if value is not _NOT_GIVEN}


def _by_recipe(parser: HfArgumentParser, group: Any) -> Any:
    """The arguments of the diffusion process as their recipe has them; other groups as they are."""
    if not isinstance(group, DiffusionArguments):
        return group
    if group.recipe not in RECIPES:
        parser.error(f"`recipe` must be one of {', '.join(RECIPES)}, but is {group.recipe!r}.")
    return completed(group, RECIPES[group.recipe])


def _read_settings(parser: HfArgumentParser, classes: Sequence[type], path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        settings = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read: {' '.join(str(error).split())}")
    if not isinstance(settings, dict):
        parser.error(f"{path} must hold a mapping of argument names to values.")
    extra = sorted(str(name) for name in settings if name not in names(parser))
    if extra:
        meant = nearest(extra[0], names(parser))
        hint = f" Did you mean {meant}?" if meant else ""
        parser.error(f"{path} names arguments that do not exist: {', '.join(extra)}.{hint}")
    hints = {name: hint for each in classes for name, hint in typing.get_type_hints(each).items()}
    for action in parser._actions:
        value = settings.get(action.dest)
        may_be_none = type(None) in typing.get_args(hints.get(action.dest))
        if action.dest not in settings or action.type is None or (value is None and may_be_none):
            continue
        try:
            settings[action.dest] = _as_by_flag(action, value)
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            parser.error(f"{path} has {value!r} for `{action.dest}`.")
    return settings


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses repeated names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping from pairs; ValueError if a name is repeated, since the last value would silently win."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        known = [name for name, _ in pairs]
        twice = next(name for name in known if known.count(name) > 1)
        raise ValueError(f"{twice!r} comes twice")
    return mapping


def _as_by_flag(action: argparse.Action, value: Any) -> Any:
    """A file's value converted as the flag would convert it.

    Raises:
        TypeError, ValueError, ArgumentTypeError: for a value that the flag does not accept.
    """
    if action.nargs == "+":
        return [_one_as_by_flag(action, each) for each in (value if isinstance(value, list) else [value])]
    return _one_as_by_flag(action, value)


def _one_as_by_flag(action: argparse.Action, value: Any) -> Any:
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError
    if action.type is str and isinstance(value, bool):  # YAML reads a bare `no` as false
        return "yes" if value else "no"
    return action.type(str(value))
