# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The rooms: each imports only the rooms above it, and the mathematics imports only torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest

import ddpm_hf


pytestmark = pytest.mark.processes(2)


PACKAGE = Path(ddpm_hf.__file__).parent
ROOMS = [  # each may import itself and those before it
    "runtime",
    "diffusion",
    "likelihood",
    "compression",
    "schedulers",
    "conditioning",
    "hub",
    "pipelines",
    "data",
    "tasks",
    "evaluation",
    "reporting",
    "training",
    "app",
    "cli",
]
GROUND = {"_lazy", "_moved", "_renamed", "hub_errors", "results", "version"}  # modules that every room may import
MATHEMATICS = ("diffusion", "likelihood")
EXTRAS = {
    "constriction",
    "efficientnet_lite_pytorch",
    "emoji",
    "spaces",
    "torchdiffeq",
    "torchmetrics",
    "trackio",
}  # imported by the functions that need it, since not everyone has it
OF_THE_PAGE = {"gradio"}  # imported by modules of the room `app`, which load when a page is served
OF_TEXT = {"transformers"}  # the same in rooms that are there without the extra `train`
INSTALLED = {"torch", "diffusers", "huggingface_hub", "numpy", "PIL", "safetensors", "typing_extensions", "yaml"}
TRAINING = {"accelerate", "datasets", "matplotlib", "sklearn", "tqdm", "transformers", "fsspec", "pyarrow", "filelock"}
ALWAYS_INSTALLED = (
    "diffusion",
    "likelihood",
    "compression",
    "schedulers",
    "conditioning",
    "hub",
    "pipelines",
)  # without the extra `train`
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """The parts of a file's module name, without the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path, package: tuple[str, ...]) -> Iterator[str]:
    """Full names of the modules that a file imports, also inside functions, where it lies in this package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])])
            yield from [base] if node.module else (f"{base}.{alias.name}" for alias in node.names)


def imported_by(path: Path) -> set[str]:
    package = ("ddpm_hf", *path.relative_to(PACKAGE).parent.parts)
    return set(imports(path, package))


def room_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def foreign_packages(path: Path) -> set[str]:
    packages = {name.split(".")[0] for name in imported_by(path)}
    return packages - set(sys.stdlib_module_names) - {"ddpm_hf"}


def needs_no_extra(path: Path) -> bool:
    return room_of(path) is None or room_of(path) in ALWAYS_INSTALLED


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path)], ids=named)
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    above = {*ROOMS[: ROOMS.index(room_of(path)) + 1], *GROUND}
    found = {name.split(".")[1] for name in imported_by(path) if name.startswith("ddpm_hf.")}
    assert found <= above, sorted(found - above)


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_floor_imports_no_room(name: str) -> None:
    found = {each.split(".")[1] for each in imported_by(PACKAGE / f"{name}.py") if each.startswith("ddpm_hf.")}
    assert found <= GROUND


def test_no_module_imports_itself_by_a_circle() -> None:
    modules = {".".join(["ddpm_hf", *module_of(path)]): path for path in FILES}
    graph = {name: {each for each in imported_by(path) if each in modules} for name, path in modules.items()}
    while leaves := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in MATHEMATICS], ids=named)
def test_the_mathematics_imports_torch_alone(path: Path) -> None:
    assert foreign_packages(path) <= {"torch", "typing_extensions"} | EXTRAS


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) == "compression"], ids=named)
def test_the_codec_imports_torch_and_numpy_alone(path: Path) -> None:
    assert foreign_packages(path) <= {"torch", "numpy", "typing_extensions"} | EXTRAS


def test_an_extra_is_imported_by_functions_alone() -> None:
    for path in FILES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = {node.module for node in body if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        extras = EXTRAS | (OF_TEXT if needs_no_extra(path) else set())
        assert not names & extras, named(path)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_is_imported_but_what_is_declared(path: Path) -> None:
    allowed = INSTALLED | EXTRAS | (OF_TEXT if needs_no_extra(path) else TRAINING)
    assert foreign_packages(path) <= allowed | (OF_THE_PAGE if room_of(path) == "app" else set())


def loaded(code: str, after: str = "") -> set[str]:
    """The packages of others that this code loads in a fresh interpreter, beyond those of the code that runs first."""
    program = f"import sys\n{after}\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) - {"ddpm_hf"}


def test_importing_the_package_loads_nothing() -> None:
    assert loaded("import ddpm_hf, ddpm_hf.diffusion, ddpm_hf.likelihood, ddpm_hf.results") <= {"typing_extensions"}


def test_all_of_the_mathematics_loads_torch_alone() -> None:
    pipelines = [name for name in ddpm_hf.__all__ if name.endswith("Pipeline")]
    codec = ["compress", "Compressed", "decompress", "Decompressed"]
    others = [*pipelines, *codec, "DDPMPaperScheduler", "HubError", "push_folder"]
    assert set(others) < set(ddpm_hf.__all__)
    names = ", ".join(sorted(set(ddpm_hf.__all__) - {*others, "__version__"}))
    code = f"from ddpm_hf.diffusion import *\nfrom ddpm_hf.likelihood import *\nfrom ddpm_hf import {names}"
    assert loaded(code, after="import torch") <= {"torch", "typing_extensions"}


@pytest.mark.slow
def test_the_page_alone_loads_gradio() -> None:
    """Not the command, nor what is tested without a page."""
    code = "import ddpm_hf.cli.app, ddpm_hf.app.sampling, ddpm_hf.app.scoring, ddpm_hf.app.compressing"
    assert not loaded(code) & {"gradio", "spaces"}


def test_no_room_has_a_name_that_diffusers_takes_for_one_of_its_pipelines() -> None:
    """A part of a pipeline that is defined in such a folder is saved under a name that nothing loads."""
    assert [room for room in ROOMS if hasattr(diffusers.pipelines, room)] == []


def test_no_file_of_the_package_names_a_path_outside_it() -> None:
    for path in FILES:
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if "../" in text], named(path)


def claims_independence(path: Path) -> bool:
    return "ndependent of ddpm_hf" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


def test_what_is_to_judge_the_package_imports_nothing_of_it(tmp_path: Path) -> None:
    """An oracle that called the package would agree with whatever the package says."""
    files = [path for path in Path(__file__).parent.rglob("*.py") if claims_independence(path)]
    assert "oracles.py" in {path.name for path in files}
    helpers = {path.stem for path in (Path(__file__).parent / "helpers").glob("*.py")}
    for path in files:
        of_others = {name.split(".")[0] for name in imports(path, ())} - set(sys.stdlib_module_names)
        assert not of_others & {"ddpm_hf", *helpers}, path.name  # a helper could bring it in
    dependent = tmp_path / "oracle.py"
    dependent.write_text('"""Independent of ddpm_hf."""\ndef f():\n    from ddpm_hf.diffusion import g\n')
    assert claims_independence(dependent) and "ddpm_hf.diffusion" in set(imports(dependent, ()))


def test_this_test_sees_every_kind_of_import(tmp_path: Path) -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\nfrom .h import i\nfrom ..j import k\n"
    path = tmp_path / "module.py"
    path.write_text(source + "from .. import l\ndef m():\n    import n\n", encoding="utf-8")
    found = ["a.b", "c", "d.e", "ddpm_hf.j", "ddpm_hf.l", "ddpm_hf.room.g", "ddpm_hf.room.h", "n"]
    assert sorted(imports(path, ("ddpm_hf", "room"))) == found
