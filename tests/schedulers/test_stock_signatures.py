# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Stock pipelines that inspect a scheduler find the same signatures as in `DDPMScheduler`.

They look for parameter names in the signatures of a scheduler's methods, and pass a value for each name that exists. A
parameter that stock's scheduler lacks would therefore get a value that stock's scheduler does not get. The files of
all pipelines are read and not imported, so that pipelines with missing dependencies are included.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import diffusers
from diffusers import DDPMScheduler

from ddpm_hf import DDPMPaperScheduler


METHODS = ("step", "set_timesteps", "scale_model_input")
FOLDERS = ("pipelines", "modular_pipelines")


class Dealings(NamedTuple):
    """What a file has to do with schedulers."""

    asked: set[tuple[str, str]]  # (method, name) looked up in a signature
    passed: set[tuple[str, str]]  # (method, keyword) of calls
    attributes: set[str]  # looked up by `hasattr` or `getattr`


def texts() -> Iterator[str]:
    root = Path(diffusers.__file__).parent
    for folder in FOLDERS:
        yield from (file.read_text(encoding="utf-8") for file in sorted((root / folder).rglob("*.py")))


def inspected(node: ast.expr) -> str | None:
    """The method of a scheduler whose signature an expression holds, such as `set(inspect.signature(s.step))`."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and call.args and getattr(call.func, "attr", None) == "signature":
            return method_of_scheduler(call.args[0])
    return None


def method_of_scheduler(node: ast.expr) -> str | None:
    """The name of the method, if the node is one of a scheduler, such as `self.scheduler.step`."""
    is_method = isinstance(node, ast.Attribute) and node.attr in METHODS
    return node.attr if is_method and "scheduler" in ast.unparse(node.value) else None


def dealings(text: str) -> Dealings:
    nodes = list(ast.walk(ast.parse(text)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return Dealings(set(asked_in(nodes, calls)), set(passed_in(calls)), set(attributes_in(calls)))


def asked_in(nodes: list[ast.AST], calls: list[ast.Call]) -> Iterator[tuple[str, str]]:
    signatures = {
        node.targets[0].id: inspected(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call)
    }
    for node in nodes:
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            container = node.comparators[0]
            method = signatures.get(container.id) if isinstance(container, ast.Name) else inspected(container)
            if method and isinstance(node.left, ast.Constant):
                yield method, node.left.value
            elif method:  # keys of a dictionary: any word of the file may be one
                yield from ((method, word) for word in words(nodes))
    for call in calls:  # of a function that passes on which of its keywords the method takes
        for method in filter(None, map(method_of_scheduler, call.args)):
            yield from ((method, keyword.arg) for keyword in call.keywords if keyword.arg)


def passed_in(calls: list[ast.Call]) -> Iterator[tuple[str, str]]:
    for call in calls:
        method = method_of_scheduler(call.func)
        if method:
            yield from ((method, keyword.arg) for keyword in call.keywords if keyword.arg)


def attributes_in(calls: list[ast.Call]) -> Iterator[str]:
    for call in calls:
        is_lookup = isinstance(call.func, ast.Name) and call.func.id in ("hasattr", "getattr")
        if is_lookup and ast.unparse(call.args[0]).endswith("scheduler"):
            yield ast.literal_eval(call.args[1])


def words(nodes: list[ast.AST]) -> set[str]:
    """Everything in a file that can name an argument: strings, and keywords of calls."""
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    keywords = {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    return {string for string in strings if string.isidentifier()} | keywords


@functools.cache
def all_dealings() -> Dealings:
    of_files = [dealings(text) for text in texts() if "cheduler" in text]
    return Dealings(*(set().union(*column) for column in zip(*of_files, strict=True)))


def other_than_in_stock(names: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that are parameters of our method or of stock's, but not of both."""

    def accepts(cls: type, method: str, name: str) -> bool:
        return name in inspect.signature(getattr(cls, method)).parameters

    return {pair for pair in names if accepts(DDPMPaperScheduler, *pair) != accepts(DDPMScheduler, *pair)}


def test_every_exported_pipeline_is_looked_at():
    exported = {name for name in diffusers._import_structure["pipelines"] if name.endswith("Pipeline")}
    defined = {name for text in texts() for name in re.findall(r"^class (\w+)", text, re.MULTILINE)}
    assert len(exported) > 50
    assert exported <= defined


def test_pipelines_find_the_parameters_that_they_find_in_stock():
    asked = all_dealings().asked
    assert {("step", "eta"), ("step", "generator")} < asked
    assert {("set_timesteps", "timesteps"), ("set_timesteps", "sigmas")} < asked
    assert other_than_in_stock(asked) == set()


def test_pipelines_may_pass_the_keywords_that_they_may_pass_to_stock():
    passed = all_dealings().passed
    assert {("step", "return_dict"), ("set_timesteps", "device")} < passed
    assert other_than_in_stock(passed) == set()


def test_pipelines_find_the_attributes_that_they_find_in_stock():
    ours, stock = DDPMPaperScheduler(), DDPMScheduler()
    names = all_dealings().attributes
    assert {"set_begin_index", "order"} < names
    assert {name for name in names if hasattr(ours, name) != hasattr(stock, name)} == set()


def test_step_has_the_parameters_of_stock_and_no_others():
    stock, ours = (list(inspect.signature(cls.step).parameters) for cls in (DDPMScheduler, DDPMPaperScheduler))
    assert ours == stock
