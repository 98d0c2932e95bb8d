# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The parser of a command: flags in groups, each with its default, and a suggestion for a mistyped flag."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser

from ..tasks.arguments import RECIPES
from ..tasks.presets import PRESETS


NO_TEXT = "-"  # argparse omits the default of a flag without help text
TABLES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"preset": PRESETS, "recipe": RECIPES}


class Help(argparse.HelpFormatter):
    """A formatter that lists every flag by its first name, with its default unless that is None.

    Args:
        replaced: names of the flags whose defaults another flag may replace, and that flag's name.
    """

    def __init__(self, *args: Any, replaced: Mapping[str, str], **options: Any):
        super().__init__(*args, **options)
        self.replaced = replaced

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {values}"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action.type, "__name__", "value")
        return {"string_to_bool": "BOOL"}.get(kind, kind.upper())

    def _get_help_string(self, action: argparse.Action) -> str:
        by = self.replaced.get(action.dest)
        if action.default is argparse.SUPPRESS or (action.default is None and by is None):
            return action.help
        if action.default is None:
            return f"{action.help} The {by} may set it."
        default = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        alternative = "" if by is None else f", or the {by}'s"
        shown = f"Default: {' '.join(map(str, default))}{alternative}."
        return shown if action.help == NO_TEXT else f"{action.help} {shown}"


def build_parser(script: str, classes: Sequence[type]) -> HfArgumentParser:
    """A parser for the fields of dataclasses; each class is a group named by its `_argument_group_name`."""
    known = {field.name for each in classes for field in dataclasses.fields(each)}
    replaced = {name: by for by, table in TABLES.items() if by in known for row in table.values() for name in row}
    form = functools.partial(Help, replaced=replaced)
    parser = HfArgumentParser(classes, prog=script, formatter_class=form, allow_abbrev=False)
    first = first_arguments(classes)
    files = "" if first is None else f" {first.upper()}"
    parser.usage = f"{script} [settings.yaml]{files} [--flag value ...]"
    for action in parser._actions:
        if action.option_strings[:1] and action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS  # the negated form of a flag that takes True and False
        elif not action.help and action.default is not None:
            action.help = NO_TEXT
    return parser


def first_arguments(classes: Sequence[type]) -> str | None:
    """The flag whose values may come first without it: what a class has as `_first_arguments`; None for none."""
    return next((each._first_arguments for each in classes if hasattr(each, "_first_arguments")), None)


def names(parser: argparse.ArgumentParser) -> set[str]:
    """The arguments that a settings file may name."""
    return {action.dest for action in parser._actions} - {"help"}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to an unknown one, or None."""
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), known, n=1)), None)
