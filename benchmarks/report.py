# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Code that all benchmarks share: the files for their figures, and the facts recorded with them."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def parser_of(document: str, name: str) -> argparse.ArgumentParser:
    """A parser with --output, by default results/<name>.json, and --overwrite."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    default = Path(__file__).parent / "results" / f"{name}.json"
    parser.add_argument("--output", type=Path, default=default, help="where the JSON goes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; ends the process if the output exists and must not be replaced."""
    arguments = parser.parse_args()
    if arguments.output.exists() and not (arguments.overwrite or getattr(arguments, "resume", False)):
        sys.exit(f"{arguments.output} exists; pass --overwrite to replace it.")
    return arguments


def known_results(arguments: argparse.Namespace) -> dict[str, Any]:
    """The existing results in the output if this run resumes them."""
    there = arguments.resume and arguments.output.exists()
    return json.loads(arguments.output.read_text())["results"] if there else {}


def write_report(path: Path, results: dict[str, Any], *libraries: ModuleType, **facts: Any) -> None:
    """Write the results as JSON, and print the path."""
    save_report(path, results, *libraries, **facts)
    print(f"written to {path}")


def save_report(path: Path, results: dict[str, Any], *libraries: ModuleType, **facts: Any) -> None:
    """Write the results as JSON, with the versions of the libraries, the device, and other facts that affect them."""
    versions = {library.__name__: library.__version__ for library in (torch, *libraries)}
    report = {"versions": versions | {"python": platform.python_version()}, "device": f"cpu ({platform.machine()})"}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report | facts | {"results": results}, indent=2) + "\n")
    partial.replace(path)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower quartile": lower, "upper quartile": upper}
