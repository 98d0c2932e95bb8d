# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The layers: every module of the package imports only modules above it, and the mathematics imports torch alone."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddpm_hf


PACKAGE = Path(ddpm_hf.__file__).parent
CORE = [
    "numerics",
    "finiteness",
    "noise_schedule",
    "gaussian_process",
    "denoising_errors",
    "reverse_process",
    "decoders",
    "likelihood",
    "importance_weighting",
    "objectives",
    "timesteps",
    "measurement",
    "probability_flow",
    "langevin",
]
ORDER = [
    *CORE,
    "hub_errors",
    "scheduler_config",
    "scheduler_conversion",
    "visited_chain",
    "scheduling_ddpm_paper",
    "model_card",
    "hub",
    "pipeline_ddpm_paper",
    "__init__",
]
EXTRAS = {"probability_flow": {"torchdiffeq"}}  # not everyone has them: imported by the functions that need them
ANYWHERE = {"version"}  # imports nothing, and may be imported by any
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file of the package imports, also inside functions and `if TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{path.name}: the package is flat, there is nothing above it"
            if node.module:
                yield f"ddpm_hf.{node.module}"
            else:
                yield from (f"ddpm_hf.{alias.name}" for alias in node.names)


def test_the_readme_lists_the_modules_in_this_order():
    readme = PACKAGE.parent / "README.md"
    rows = [line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)\.py`", row.split("|")[1])]
    assert listed == [module for module in ORDER if module != "__init__"]


def modules_of_the_package(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("ddpm_hf.")}


def foreign_packages(path: Path) -> set[str]:
    packages = {name.split(".")[0] for name in imports(path)}
    return packages - set(sys.stdlib_module_names) - {"ddpm_hf"}


def test_the_package_is_flat():
    assert [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


def test_every_module_has_its_place_in_the_order():
    assert set(MODULES) <= set(ORDER) | ANYWHERE
    assert set(CORE) <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_modules_above_it(module: str):
    above = set() if module in ANYWHERE else set(ORDER[: ORDER.index(module)]) | ANYWHERE
    imported = modules_of_the_package(PACKAGE / f"{module}.py")
    assert imported <= above, f"{module} imports {sorted(imported - above)}"


@pytest.mark.parametrize("module", CORE)
def test_the_mathematics_imports_torch_alone(module: str):
    assert foreign_packages(PACKAGE / f"{module}.py") <= {"torch", "typing_extensions"} | EXTRAS.get(module, set())


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_is_imported_by_functions_alone(module: str):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "torch" in names and not names & EXTRAS[module]


def test_the_scheduler_is_the_first_to_import_diffusers():
    importers = [module for module in MODULES if "diffusers" in foreign_packages(PACKAGE / f"{module}.py")]
    assert min(importers, key=ORDER.index) == "scheduling_ddpm_paper"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_from_outside_the_repository_but_what_it_depends_on(module: str):
    declared = {"torch", "diffusers", "huggingface_hub", "numpy", "PIL", "safetensors", "typing_extensions", "yaml"}
    assert foreign_packages(PACKAGE / f"{module}.py") <= declared | EXTRAS.get(module, set())
    assert "shared" not in {part for name in imports(PACKAGE / f"{module}.py") for part in name.split(".")}


def test_no_file_of_the_package_names_a_path_outside_it():
    for path in PACKAGE.glob("*.py"):
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if "../" in text], path.name


def test_this_test_sees_every_kind_of_import(tmp_path: Path):
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\nfrom .h import i\ndef j():\n    import k\n"
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    assert sorted(imports(path)) == ["a.b", "c", "d.e", "ddpm_hf.g", "ddpm_hf.h", "k"]
