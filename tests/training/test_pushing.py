# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""examples/train.py with --push_to_hub: runs against the Hub on loopback, which may fail."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from clients import as_client, settings
from hooks import done_in
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub, check_card
from safetensors.torch import load, load_file
from script_server import ScriptServer
from tiny_models import tiny_unet
from training_runs import TINY, ended, train

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.hub import push
from ddpm_hf.training import pushing


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries."""
    monkeypatch.setattr(push, "RETRY_WAITS", (0.05, 0.1))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        yield hub


def train_and_push(
    hub: LoopbackHub, folder: Path, *arguments: object, token: str | None = "hf_owner", **options: Any
) -> str:
    with as_client(hub, folder.parent / "hf_home", token):
        return train(folder, *TINY, "--push_to_hub", *arguments, **options)


def test_a_finished_run_is_on_the_hub_private_and_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    arguments = ["--max_train_steps", 3, "--hub_private_repo", "--hub_token", "hf_owner"]  # the name is the folder's
    arguments += ["--hub_license", "cc-by-4.0"]
    output = train_and_push(hub, folder, *arguments, token=None)
    repo = hub.repos["owner/digits"]
    assert repo.private and "Could not" not in output
    assert output.rstrip().endswith(f"is on the Hub: {hub.endpoint}/owner/digits")
    pushed = repo.files()
    names = {"model_index.json", "unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"}
    assert set(pushed) == names | {"README.md", "samples.png", "metrics.json", ".gitattributes"}
    assert [commit.message for commit in repo.commits.values()] == ["initial commit", "Upload model"]
    for name in set(pushed) - {".gitattributes"}:
        assert pushed[name] == (folder / name).read_bytes(), name
    card = ModelCard(pushed["README.md"].decode())
    assert check_card(str(card)) == ([], [])
    assert card.data.license == "cc-by-4.0"
    report = json.loads(pushed["metrics.json"])
    assert {result.metric_value for result in card.data.eval_results} == {
        round(report["bits_per_dim"], 4),
        round(report["frechet_distance_pixels"], 4),
    }
    assert 'DDPMPaperPipeline.from_pretrained("owner/digits")' in card.text and "| learning_rate |" in card.text
    everything = b"".join(pushed.values()) + b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"hf_owner" not in everything and "hf_owner" not in output
    assert str(tmp_path).encode() not in b"".join(pushed.values())  # nor where it lay


def test_training_goes_on_while_a_snapshot_is_pushed(hub: LoopbackHub, tmp_path: Path) -> None:
    folder, release = tmp_path / "run", threading.Event()
    held = hub.fail("PUT", "^/store/", hold=release)

    def trained() -> None:  # to the last step, while the upload of the second is held
        assert held.hit.wait(90)
        assert hub.repos["owner/run"].files().keys() == {".gitattributes"}
        release.set()

    arguments = ["--hub_model_id", "owner/run", "--hub_push_steps", 2, "--max_train_steps", 40]
    output = train_and_push(hub, folder, *arguments, during=(done_in("ddpm_hf.cli.train.finish", trained),))
    assert release.is_set() and "40/40" in output
    first, *later = list(hub.repos["owner/run"].commits.values())[1:]
    assert first.message == "Step 2 of a training that goes on" and later[-1].message == "Upload model"
    snapshot = {path: blob.data for path, blob in first.files.items()}
    assert "after 2 of 40 steps" in snapshot["README.md"].decode()
    weights, final = load(snapshot[WEIGHTS]), load_file(folder / WEIGHTS)
    assert weights.keys() == final.keys()
    assert not all(torch.equal(weights[key], final[key]) for key in final)  # copied at step 2, not when it was sent
    assert hub.repos["owner/run"].files()[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert "goes on" not in hub.repos["owner/run"].files()["README.md"].decode()
    assert not (folder / "snapshot").exists()


def test_a_hub_that_fails_stops_nothing_and_the_printed_command_pushes_later(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    failing = hub.fail("POST", "/commit/", times=None, status=500)
    arguments = ["--hub_model_id", "owner/run", "--hub_private_repo", "--hub_push_steps", 2]
    output = train_and_push(hub, folder, *arguments, "--max_train_steps", 40)
    assert "bits/dim on 24 test images" in output
    assert failing.count >= 6  # two pushes at least, with two more tries each
    sentences = [line for line in output.splitlines() if "Could not push to owner/run" in line]
    assert any("The training goes on." in line for line in sentences) and "answered 500" in sentences[-1]
    assert "The run is whole in its folder." in sentences[-1] and "Traceback" not in output
    assert hub.repos["owner/run"].files().keys() == {".gitattributes"}
    command = shlex.split(output.splitlines()[-1])
    assert command[:4] == [sys.executable, "-m", "ddpm_hf", "push"]
    failing.clear()
    with as_client(hub, tmp_path / "hf_home", "hf_owner"):
        again = in_process.run("push.py", *command[4:])
    assert again.code == 0, again.output
    assert hub.repos["owner/run"].private
    assert hub.repos["owner/run"].files()[WEIGHTS] == (folder / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_of_two_processes_one_pushes(scripts: ScriptServer, hub: LoopbackHub, tmp_path: Path) -> None:
    arguments = ["--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", "owner/run"]
    arguments += ["--max_train_steps", 3]
    env = settings(hub, tmp_path / "hf_home", "hf_owner")
    for run in scripts.start_together(2, "train.py", *TINY, *arguments, env=env):
        ended(run)
    assert [commit.message for commit in hub.repos["owner/run"].commits.values()] == ["initial commit", "Upload model"]
    assert len([request for request in hub.requests if request.path == "/api/repos/create"]) == 2  # before and after
    assert json.loads(hub.repos["owner/run"].files()["metrics.json"])["train_batch_size"] == 32


def test_a_hub_that_is_away_stops_no_training(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        pass  # an address where nobody answers
    output = train_and_push(hub, tmp_path / "run", "--hub_model_id", "owner/run", "--max_train_steps", 3)
    assert "cannot be reached; check the network and try again. The training starts all the same." in output
    assert "The run is whole in its folder." in output and "ddpm_hf push" in output.splitlines()[-1]
    assert load_file(tmp_path / "run" / WEIGHTS)


def test_what_could_never_be_pushed_is_told_before_the_training(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.create("owner/public")
    hub.create("other/theirs")
    cases = [
        ("the Hub does not accept the token", "hf_wrong", ["--hub_model_id", "owner/new"]),
        ("the Hub asks who you are", None, ["--hub_model_id", "owner/new"]),
        ("owner/public is public", "hf_owner", ["--hub_model_id", "owner/public", "--hub_private_repo"]),
        ("the token has no permission", "hf_owner", ["--hub_model_id", "other/theirs"]),
        ("which reads 'owner/name'", "hf_owner", ["--hub_model_id", "a/b/c"]),
        ("`hub_push_steps` must be at least 0", "hf_owner", ["--hub_push_steps", "-1"]),
    ]
    for i, (told, token, arguments) in enumerate(cases):
        output = train_and_push(hub, tmp_path / f"run{i}", *arguments, "--max_train_steps", 3, token=token, code=2)
        last = output.splitlines()[-1]
        assert last.startswith("train.py: error: ") and told in last and "Traceback" not in output
        assert "training:" not in output
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())


def test_a_hub_that_never_answers_is_given_up(hub: LoopbackHub, tmp_path: Path, monkeypatch) -> None:
    DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler()).save_pretrained(tmp_path / "run")
    silent = hub.fail("POST", "/commit/", times=None, hold=threading.Event())
    monkeypatch.setattr(pushing, "LONGEST_SILENCE", 0.5)
    with as_client(hub, tmp_path / "hf_home", "hf_owner"):
        done = in_process.run("push.py", "--output_dir", tmp_path / "run", "--hub_model_id", "owner/run")
    assert done.code == 2, done.output
    assert silent.count == 3  # the first time, and two more
    assert "the connection to the Hub" in done.output and "(ReadTimeout); try again" in done.output.splitlines()[-1]
    assert hub.repos["owner/run"].files().keys() == {".gitattributes"}


def test_arguments_that_would_push_nothing(hub: LoopbackHub, tmp_path: Path) -> None:
    with as_client(hub, tmp_path / "hf_home", "hf_owner"):
        output = train(tmp_path / "run", *TINY, "--hub_push_steps", 5, code=2)
    assert "`hub_push_steps` does nothing without --push_to_hub." in output
    assert hub.requests == []
