# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""examples/train.py with --push_to_hub: real runs against the Hub on loopback, which may fail."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clients import environment
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub, check_card
from safetensors.torch import load, load_file
from tiny_models import tiny_unet
from training_runs import TINY

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler


EXAMPLES = Path(__file__).parents[2] / "examples"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# A script with its pauses between tries made short.
RUN = "import sys, runpy; import ddpm_hf.hub; ddpm_hf.hub.RETRY_WAITS = (0.05, 0.1); script = sys.argv[1]; \
sys.argv = sys.argv[1:]; sys.path.insert(0, {examples!r}); runpy.run_path(script, run_name='__main__')"


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        yield hub


class Run:
    """A script as a process, whose output can be read while it runs."""

    def __init__(self, hub: LoopbackHub, home: Path, script: str, *arguments: object, token: str | None = "hf_owner"):
        command = [sys.executable, "-c", RUN.format(examples=str(EXAMPLES)), str(EXAMPLES / script)]
        env = environment(hub, home / "hf_home", token)
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._pieces: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while piece := self.process.stdout.read(1):
            self._pieces.append(piece)

    @property
    def output(self) -> str:
        return "".join(self._pieces)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, f"{text!r} did not come:\n{self.output}"
            time.sleep(0.05)

    def end(self) -> int:
        code = self.process.wait(120)
        self._reader.join()
        return code


def train(hub: LoopbackHub, folder: Path, *arguments: object, token: str | None = "hf_owner") -> Run:
    return Run(hub, folder.parent, "train.py", *TINY, "--output_dir", folder, "--push_to_hub", *arguments, token=token)


def test_a_finished_run_is_on_the_hub_private_and_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    arguments = ["--max_train_steps", 3, "--hub_private_repo", "--hub_token", "hf_owner"]  # the name is the folder's
    run = train(hub, folder, *arguments, token=None)
    assert run.end() == 0, run.output
    repo = hub.repos["owner/digits"]
    assert repo.private and "Could not" not in run.output
    pushed = repo.files()
    names = {"model_index.json", "unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"}
    assert set(pushed) == names | {"README.md", "samples.png", "metrics.json", ".gitattributes"}
    assert [commit.message for commit in repo.commits.values()] == ["initial commit", "Upload model"]
    for name in set(pushed) - {".gitattributes"}:
        assert pushed[name] == (folder / name).read_bytes(), name
    card = ModelCard(pushed["README.md"].decode())
    assert check_card(str(card)) == ([], [])
    report = json.loads(pushed["metrics.json"])
    assert {result.metric_value for result in card.data.eval_results} == {
        round(report["bits_per_dim"], 4),
        round(report["frechet_distance_pixels"], 4),
    }
    assert 'DDPMPaperPipeline.from_pretrained("owner/digits")' in card.text and "| learning_rate |" in card.text
    everything = b"".join(pushed.values()) + b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"hf_owner" not in everything and "hf_owner" not in run.output
    assert str(tmp_path).encode() not in b"".join(pushed.values())  # nor where it lay


def test_training_goes_on_while_a_snapshot_is_pushed(hub: LoopbackHub, tmp_path: Path) -> None:
    folder, release = tmp_path / "run", threading.Event()
    held = hub.fail("PUT", "^/store/", hold=release)
    run = train(hub, folder, "--hub_model_id", "owner/run", "--hub_push_steps", 2, "--max_train_steps", 40)
    assert held.hit.wait(90), run.output
    run.wait_for("40/40")  # the whole training, while the upload of the second step is held
    assert hub.repos["owner/run"].files().keys() == {".gitattributes"}
    release.set()
    assert run.end() == 0, run.output
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
    run = train(hub, folder, *arguments, "--max_train_steps", 40)
    assert run.end() == 0, run.output
    assert "bits/dim on 297 test images" in run.output
    assert failing.count >= 6  # two pushes at least, with two more tries each
    sentences = [line for line in run.output.splitlines() if "Could not push to owner/run" in line]
    assert any("The training goes on." in line for line in sentences) and "answered 500" in sentences[-1]
    assert "The run is whole in its folder." in sentences[-1] and "Traceback" not in run.output
    assert hub.repos["owner/run"].files().keys() == {".gitattributes"}
    command = shlex.split(run.output.splitlines()[-1])
    assert command[:2] == [sys.executable, str(EXAMPLES / "push.py")]
    failing.clear()
    again = Run(hub, tmp_path, "push.py", *command[2:])
    assert again.end() == 0, again.output
    assert hub.repos["owner/run"].private
    assert hub.repos["owner/run"].files()[WEIGHTS] == (folder / WEIGHTS).read_bytes()


def test_of_two_processes_one_pushes(hub: LoopbackHub, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(EXAMPLES / "train.py")]
    arguments = ["--output_dir", str(tmp_path / "run"), "--push_to_hub", "--hub_model_id", "owner/run"]
    env = environment(hub, tmp_path / "hf_home", "hf_owner") | {"ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [*launcher, *TINY, *arguments, "--max_train_steps", "5"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [commit.message for commit in hub.repos["owner/run"].commits.values()] == ["initial commit", "Upload model"]
    assert len([request for request in hub.requests if request.path == "/api/repos/create"]) == 2  # before and after
    assert json.loads(hub.repos["owner/run"].files()["metrics.json"])["train_batch_size"] == 128


def test_a_hub_that_is_away_stops_no_training(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        pass  # an address where nobody answers
    run = train(hub, tmp_path / "run", "--hub_model_id", "owner/run", "--max_train_steps", 3)
    assert run.end() == 0, run.output
    assert "cannot be reached; see to the network and try again. The training starts all the same." in run.output
    assert "The run is whole in its folder." in run.output and "push.py" in run.output.splitlines()[-1]
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
    runs = [
        train(hub, tmp_path / f"run{i}", "--max_train_steps", 3, *arguments, token=token)
        for i, (_, token, arguments) in enumerate(cases)
    ]
    for run, (told, _, _) in zip(runs, cases, strict=True):
        assert run.end() == 2, run.output
        last = run.output.splitlines()[-1]
        assert last.startswith("train.py: error: ") and told in last and "Traceback" not in run.output
        assert "training:" not in run.output
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())


def test_a_hub_that_never_answers_is_given_up(hub: LoopbackHub, tmp_path: Path, monkeypatch) -> None:
    DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler()).save_pretrained(tmp_path / "run")
    silent = hub.fail("POST", "/commit/", times=None, hold=threading.Event())
    patience = "import sys; sys.path.insert(0, {examples!r}); import pushing; pushing.LONGEST_SILENCE = 0.5; "
    monkeypatch.setattr("test_pushing.RUN", patience + RUN)
    run = Run(hub, tmp_path, "push.py", "--output_dir", tmp_path / "run", "--hub_model_id", "owner/run")
    assert run.end() == 2, run.output
    assert silent.count == 3  # the first time, and two more
    assert "the connection to the Hub" in run.output and "(ReadTimeout); try again" in run.output.splitlines()[-1]
    assert hub.repos["owner/run"].files().keys() == {".gitattributes"}


def test_arguments_that_would_push_nothing(hub: LoopbackHub, tmp_path: Path) -> None:
    run = Run(hub, tmp_path, "train.py", *TINY, "--output_dir", tmp_path / "run", "--hub_push_steps", 5)
    assert run.end() == 2 and "`hub_push_steps` does nothing without --push_to_hub." in run.output
    assert hub.requests == []
