# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Spaces that serve a page: their files, and pushing them with the real client to a Hub on loopback."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import as_client
from huggingface_hub import HfApi, SpaceCard
from in_process import run
from loopback_hub import LoopbackHub

from ddpm_hf import HubError
from ddpm_hf.hub import push
from ddpm_hf.hub.space import SDK_VERSION, push_space, space_files
from ddpm_hf.version import __version__


ROOT = Path(__file__).resolve().parents[2]
FILES = {"README.md", "app.py", "requirements.txt"}
MODEL = b"---\nlicense: cc-by-4.0\n---\n# digits\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """With a model, and this process as a client that may push."""
    monkeypatch.setattr(push, "RETRY_WAITS", (0.01, 0.01))
    with LoopbackHub() as hub:
        hub.add_user("me", token="hf_mine")
        hub.create("me/digits").commit({"README.md": MODEL})
        with as_client(hub, tmp_path / "hf_home", "hf_mine"):
            yield hub


def files_of(hub: LoopbackHub, name: str = "me/digits") -> dict[str, str]:
    return {path: content.decode() for path, content in hub.repos[f"spaces/{name}"].files().items()}


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_readme_says_how_the_space_runs() -> None:
    files = space_files("me/digits", license="mit")
    assert files.keys() == FILES
    card = SpaceCard(files["README.md"], ignore_metadata_errors=False)
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == ("gradio", SDK_VERSION, "app.py")
    assert (card.data.models, card.data.license, card.data.title) == (["me/digits"], "mit", "digits")
    assert card.data.emoji and len(card.data.short_description) <= 60
    assert "me/digits" in card.text


def test_the_program_is_python_that_serves_the_model() -> None:
    tree = ast.parse(space_files("me/di.gi-ts_2")["app.py"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "serve"]
    assert [ast.literal_eval(call.args[0]) for call in calls] == ["me/di.gi-ts_2"]


def test_the_requirement_is_this_version_or_what_the_user_says() -> None:
    assert space_files("me/digits")["requirements.txt"] == f"ddpm_hf[app]=={__version__}\n"
    mine = "ddpm_hf[app] @ git+https://example.org/ddpm_hf@v1"
    assert space_files("me/digits", mine)["requirements.txt"] == f"{mine}\n"
    assert "gradio" not in space_files("me/digits")["requirements.txt"]  # the Space installs it by `sdk_version`


def test_the_space_has_the_gradio_that_is_tested() -> None:
    pinned = re.search(r"^gradio==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and pinned[1] == SDK_VERSION
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert f"gradio>={SDK_VERSION}" in setup["options.extras_require"]["app"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digits",), "must read owner/name"),
        (('me/"); print("',), "must read owner/name"),
        (("me/digits", "torch"), "must be one requirement of ddpm_hf"),
        (("me/digits", None, "No Such Licence"), "`license` must be one of the names"),
    ],
)
def test_what_no_space_can_have(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        space_files(*arguments)


# --- pushing ---------------------------------------------------------------------------------------------------------


def test_a_space_is_pushed_in_one_commit(hub: LoopbackHub) -> None:
    before = hub.repos["me/digits"].files()
    commit = push_space("me/digits", "me/digits")
    files = files_of(hub)
    assert files.keys() - {".gitattributes"} == FILES
    assert HfApi().space_info("me/digits").sha == commit.oid
    card = SpaceCard(files["README.md"], ignore_metadata_errors=False)
    assert (card.data.title, card.data.license) == ("Digits", "cc-by-4.0")  # the Hub's title, the model's licence
    assert (card.data.sdk_version, card.data.models) == (SDK_VERSION, ["me/digits"])
    assert hub.repos["me/digits"].files() == before


def test_what_was_written_by_hand_stays(hub: LoopbackHub) -> None:
    push_space("me/digits", "page")
    readme = (
        files_of(hub, "me/page")["README.md"].replace("title: Page", "title: By hand").replace(SDK_VERSION, "5.0.0")
    )
    readme = readme.replace("- me/digits", "- me/other") + "\nMine.\n"
    hub.repos["spaces/me/page"].commit({"README.md": readme.encode(), "notes.md": b"kept"})
    push_space("me/digits", "page", license="mit")
    files = files_of(hub, "me/page")
    card = SpaceCard(files["README.md"], ignore_metadata_errors=False)
    assert (card.data.title, card.data.license, card.data.sdk_version) == ("By hand", "cc-by-4.0", SDK_VERSION)
    assert card.data.models == ["me/other", "me/digits"] and "Mine." in card.text and files["notes.md"] == "kept"


def test_the_same_push_makes_no_other_commit(hub: LoopbackHub) -> None:
    first = push_space("me/digits", "me/digits")
    assert push_space("me/digits", "me/digits").oid == first.oid


def test_it_is_tried_again_after_a_transient_failure(hub: LoopbackHub) -> None:
    fault = hub.fail("POST", "/commit/", status=500)
    push_space("me/digits", "me/digits")
    assert fault.count == 1 and "app.py" in files_of(hub)


def test_a_public_space_is_not_pushed_to_if_a_private_one_is_wanted(hub: LoopbackHub) -> None:
    push_space("me/digits", "me/digits")
    before = files_of(hub)
    with pytest.raises(HubError, match="is public on the Hub"):
        push_space("me/digits", "me/digits", private=True)
    assert files_of(hub) == before
    push_space("me/digits", "hidden", private=True)
    assert hub.repos["spaces/me/hidden"].private


def test_a_space_of_no_model_is_not_made(hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match="Could not show me/nothing: there is no such repository"):
        push_space("me/nothing", "me/nothing")
    assert "spaces/me/nothing" not in hub.repos


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_pushes_and_writes(hub: LoopbackHub, tmp_path: Path) -> None:
    done = run("push.py", "--space", "--hub_model_id", "me/digits", "--space_id", "me/page")
    assert done.code == 0 and "The page of me/digits is on the Hub" in done.output, done.output
    assert "app.py" in files_of(hub, "me/page")
    requests = len(hub.requests)
    folder = tmp_path / "space"
    done = run("push.py", "--space", "--hub_model_id", "you/digits", "--space_dir", folder)
    assert done.code == 0 and "nothing was pushed" in done.output, done.output
    assert {path.name for path in folder.iterdir()} == FILES and len(hub.requests) == requests
    again = run("push.py", "--space", "--hub_model_id", "you/digits", "--space_dir", folder)
    assert again.code == 2 and "already exists" in again.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--space"], "`hub_model_id` must name the model"),
        (["--space_id", "me/page"], "`space_id` does nothing without --space"),
        (["--space", "--hub_model_id", "digits", "--space_dir", "here"], "must read owner/name"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: list[str], sentence: str) -> None:
    done = run("push.py", *arguments)
    assert done.code == 2 and sentence in done.output.splitlines()[-1], done.output
