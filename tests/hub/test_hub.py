# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushing to the Hugging Face Hub and pulling from it, with and without failures.

The real client runs in its own processes with fresh caches, against a Hub on loopback that fails on command. A
scenario has its own Hub and runs clients against it; its tests read the clients' reports, and the content and requests
of the Hub. The scenarios of all selected tests run before the tests, two at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from clients import environment, settings
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from loopback_hub import Fault, LoopbackHub, Repo
from safetensors.torch import load_file
from script_server import Script, ScriptServer
from tiny_models import tiny_unet
from training_runs import after, last_line

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from ddpm_hf.hub.model_card import fill_card


pytestmark = pytest.mark.processes(2)

OWNER, READER, STRANGER, WRONG = "hf_theOwners", "hf_readOnly", "hf_somebodyElses", "hf_nobodyKnowsThis"
TOKENS = {"owner": OWNER, "reader": READER, "stranger": STRANGER, "wrong": WRONG}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PUSHED = {".gitattributes", "README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"}
TRIES = 3  # of a client, with the two short pauses below
PATIENCE = 120.0  # seconds, for anything that should have come long before


# --- what runs in the client's process; its source is handed over, and given names are its globals -------------------

HEADER = """
from __future__ import annotations
import contextlib, hashlib, json, logging, os, sys, tempfile, time, types, urllib.error, urllib.request, warnings
from huggingface_hub.utils import _http
_http.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / 20)})
given = json.loads(sys.argv[1])
globals().update(given)
report = {}
import torch
"""
OURS = """
from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, push_folder
from ddpm_hf.hub import push
from huggingface_hub import HfApi
push.RETRY_WAITS = (0.05, 0.1)
"""
STOCK = """
sys.modules["ddpm_hf"] = None
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline
"""


def digests(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of every tensor, with its type and shape."""
    return {
        name: f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(tensor.numpy().tobytes()).hexdigest()}"
        for name, tensor in weights.items()
    }


def draw(pipeline: Any) -> list:
    """Two images of the whole chain."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(7), num_inference_steps=20, output_type="np"
    ).images
    return images.tolist()


def attempt(action: Callable[..., Any], *arguments: Any, **named: Any) -> dict[str, Any]:
    """What came of a call: a commit, a pipeline's weights and samples, a scheduler's settings, or the error."""
    try:
        result = action(*arguments, **named)
    except Exception as error:
        is_transient = getattr(error, "is_transient", None)
        return {"type": type(error).__name__, "error": str(error), "is_transient": is_transient}
    if hasattr(result, "unet"):
        return {
            "weights": digests(result.unet.state_dict()),
            "samples": draw(result),
            **attempt(lambda: result.scheduler),
        }
    if hasattr(result, "betas"):
        num_levels = getattr(result, "num_levels", None)
        return {"num_levels": num_levels, "prediction_type": result.config.prediction_type, "T": len(result.betas)}
    return {"oid": getattr(result, "oid", None), "pr": getattr(result, "pr_url", None), "result": str(result)}


def fresh() -> str:
    """A cache with nothing in it."""
    return tempfile.mkdtemp(dir=os.environ["HF_HOME"])


def meet() -> None:
    """Wait for the test, which holds this request until it has done its part."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/meeting", timeout=120)


CLIENT_FUNCTIONS = "\n\n".join(map(inspect.getsource, (digests, draw, attempt, fresh, meet)))


# --- the test's side: clients, scenarios, and what they start from ---------------------------------------------------


class Client:
    """A process; what it prints must not hold a token."""

    def __init__(self, run: Script):
        self.run = run

    def end(self) -> tuple[int, str]:
        code = self.run.wait(PATIENCE)
        assert not any(token in self.run.output for token in TOKENS.values())
        return code, self.run.output

    def report(self) -> dict[str, Any]:
        """What the code has put into `report`, and under "said" all that it printed."""
        code, output = self.end()
        assert code == 0, output
        return {**json.loads(last_line(output)), "said": output}


@dataclass
class Models:
    """Pipelines saved before any client runs: two of one architecture with other weights, `a` and `b`, and a run."""

    root: Path
    weights: dict[str, dict[str, str]] = field(default_factory=dict)
    samples: dict[str, list] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        return self.root / name


@dataclass
class Scenario:
    """A Hub, the clients' reports by name, and whatever else the tests are to know."""

    models: Models
    scripts: ScriptServer
    folder: Path
    hub: LoopbackHub = field(default_factory=LoopbackHub)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)

    def start(self, code: str, *, token: str | None = OWNER, home: Path | None = None, **given: Any) -> Client:
        """Run code in a process, by default with a fresh cache; it knows models, tokens and what is given."""
        home = home or self.fresh_home()
        return Client(self.scripts.start(*self.written(code, OURS, **given), env=settings(self.hub, home, token)))

    def run(self, name: str, code: str, **options: Any) -> dict[str, Any]:
        self.reports[name] = self.start(code, **options).report()
        return self.reports[name]

    def run_stock(self, name: str, code: str, **given: Any) -> None:
        """Run code in a new interpreter, which has never heard of ddpm_hf."""
        env = environment(self.hub, self.fresh_home(), token=None)
        command = [sys.executable, *self.written(code, STOCK, **given)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        self.reports[name] = json.loads(last_line(done.stdout))

    def written(self, code: str, header: str, **given: Any) -> tuple[Path, str]:
        """A script, and its argument."""
        source = HEADER + header + CLIENT_FUNCTIONS + inspect.cleandoc(code)
        models = {path.name: str(path) for path in self.models.root.iterdir()}
        given = {**models, **TOKENS, **{key: str(value) for key, value in given.items()}}
        script = self.fresh_home() / "client.py"
        script.write_text(f"{source}\nprint(json.dumps(report))\n")
        return script, json.dumps(given)

    def start_script(self, *arguments: object) -> Client:
        script = after(self.fresh_home(), "from ddpm_hf.hub import push\npush.RETRY_WAITS = (0.01,) * 5\n", "push.py")
        env = settings(self.hub, self.fresh_home(), OWNER)
        return Client(self.scripts.start(script, *arguments, env=env))

    def fresh_home(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def __getitem__(self, repo_id: str) -> Repo:
        return self.hub.repos[repo_id]

    def requests(self, method: str, pattern: str) -> list[str]:
        return [r.path for r in self.hub.requests if r.method == method and re.search(pattern, r.path)]


@contextlib.contextmanager
def held(fault: Fault) -> Iterator[None]:
    """Inside, a request waits for its answer."""
    assert fault.hit.wait(PATIENCE), "the request never came"
    try:
        yield
    finally:
        fault.hold.set()


def meeting(hub: LoopbackHub) -> Fault:
    return hub.fail("GET", "^/meeting$", hold=threading.Event())


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def metrics(bits_per_dim: float) -> dict[str, Any]:
    return {
        "data": "handwritten digits",
        "bits_per_dim": bits_per_dim,
        "bits_per_dim_standard_error": 0.01,
        "bits_per_dim_prior": 0.001,
        "bits_per_dim_rate": 1.5,
        "bits_per_dim_decoder": 0.25,
        "test_images": 297,
        "model_evaluations_per_test_image": 20,
    }


JUNK = [
    *("optimizer.bin", "checkpoint-5/optimizer.pt", "checkpoint-5/model.safetensors", "pytorch_model.pkl"),
    *("unet/diffusion_pytorch_model.bin", "scheduler/notes.txt", "logs/events", ".env", "token", ".git/config"),
]


def write_run(folder: Path, pipeline: DDPMPaperPipeline) -> None:
    """A folder as examples/train.py leaves it, and what else people have in such folders."""
    pipeline.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics(1.75)))
    (folder / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n and an image")
    (folder / "README.md").write_text(fill_card(folder, "run"), encoding="utf-8")
    for junk in JUNK:
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_text(f"HF_TOKEN={OWNER}")
    pipeline.save_pretrained(folder / "snapshot")


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


EARLY_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "num_train_timesteps": 20,
    "beta_start": 0.0001,
    "beta_end": 0.2,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "predict_epsilon": False,
}


def write_early(folder: Path, pipeline: DDPMPaperPipeline, has_index: bool) -> None:
    """The layout of early models: all side by side, and the weights a pickle."""
    folder.mkdir()
    pipeline.unet.save_config(folder)
    torch.save(pipeline.unet.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / "scheduler_config.json").write_text(json.dumps(EARLY_SCHEDULER))
    if has_index:
        parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", **parts}
        (folder / "model_index.json").write_text(json.dumps(index))


def write_broken(models: Models) -> None:
    """Folders that must not be pushed."""
    for name in ("no_index", "no_unet", "pickled", "truncated", "nonsense", "telltale", "unreadable"):
        shutil.copytree(models["a"], models[name])
    shutil.copytree(models["b_shards"], models["no_shard"])
    sorted((models["no_shard"] / "unet").glob("*.safetensors"))[1].unlink()
    (models["no_index"] / "model_index.json").unlink()
    shutil.rmtree(models["no_unet"] / "unet")
    (models["pickled"] / WEIGHTS).unlink()
    torch.save({}, models["pickled"] / "unet/diffusion_pytorch_model.bin")
    whole = (models["truncated"] / WEIGHTS).read_bytes()
    (models["truncated"] / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    (models["nonsense"] / "README.md").write_text("---\nlicense: nonsense\n---\n\n# By hand\n")
    (models["unreadable"] / "README.md").write_text("---\nlicense: [\n---\n\n# By hand\n")
    (models["telltale"] / "metrics.json").write_text(json.dumps({**metrics(1.0), "settings": {"hub_token": OWNER}}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    models = Models(tmp_path_factory.mktemp("models"))
    schedule = NoiseSchedule.linear_log_snr(20, 6.5, -9.0)
    scheduler = DDPMPaperScheduler.from_schedule(schedule, variance_type="fixed_large", num_levels=17)
    a, b = (DDPMPaperPipeline(tiny_unet(), scheduler) for _ in range(2))
    for parameter in b.unet.parameters():
        parameter.data.mul_(1.25)
    for name, pipeline in (("a", a), ("b", b)):
        pipeline.save_pretrained(models[name])
        models.weights[name] = digests(load_file(models[name] / WEIGHTS))
        models.samples[name] = draw(pipeline)
    b.save_pretrained(models["b_shards"], max_shard_size="4KB")
    write_run(models["run"], a)
    write_broken(models)
    a.unet.half()
    a.save_pretrained(models["a_half"], variant="fp16")
    models.samples["a_half"] = draw(a)
    models.weights["a_half"] = digests(load_file(models["a_half"] / WEIGHTS.replace(".safe", ".fp16.safe")))
    a.save_pretrained(models["a_half_shards"], variant="fp16", max_shard_size="2KB")
    a.unet.float()

    schedule = {key: EARLY_SCHEDULER[key] for key in ("num_train_timesteps", "beta_start", "beta_end")}
    models.samples["early"] = draw(DDPMPaperPipeline(b.unet, DDPMPaperScheduler(**schedule, prediction_type="sample")))
    write_early(models["early"], b, has_index=True)
    write_early(models["early_bare"], b, has_index=False)
    for name, source in (("evil", "early"), ("evil_bare", "early_bare")):
        shutil.copytree(models[source], models[name])
        torch.save(
            {**b.unet.state_dict(), "conv_in.bias": RunsCode(models["ran"])},
            models[name] / "diffusion_pytorch_model.bin",
        )
    shutil.copytree(models["pickled"], models["evil_unet"])
    shutil.copy(models["evil"] / "diffusion_pytorch_model.bin", models["evil_unet"] / "unet")
    return models


Part = Callable[[Scenario], None]


def about(part: Part, is_slow: bool = True) -> pytest.MarkDecorator:
    """A test of what comes of a scenario, which is slow if it takes many processes."""
    values = pytest.param(part, id=part.__name__, marks=[pytest.mark.slow] if is_slow else [])
    return pytest.mark.parametrize("scenario", [values], indirect=True)


@pytest.fixture(scope="module")
def playing(
    request: pytest.FixtureRequest,
    models: Models,
    scripts: ScriptServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Part, Future[Scenario]]]:
    """The scenarios of all selected tests, under way: two at a time."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    parts = [call.params["scenario"] for call in calls if call and "scenario" in call.params]

    def play(part: Part, folder: Path) -> Scenario:
        scenario = Scenario(models, scripts, folder)
        for name, token in (("owner", OWNER), ("stranger", STRANGER)):
            scenario.hub.add_user(name, token)
        scenario.hub.add_user("owner", READER, role="read")
        with scenario.hub:
            part(scenario)
        return scenario

    with ThreadPoolExecutor(2) as busy:
        yield {part: busy.submit(play, part, tmp_path_factory.mktemp(part.__name__)) for part in dict.fromkeys(parts)}
        busy.shutdown(cancel_futures=True)


@pytest.fixture
def scenario(request: pytest.FixtureRequest, playing: dict[Part, Future[Scenario]]) -> Scenario:
    return playing[request.param].result()


def assert_sentence(answer: dict[str, Any], name: str, reason: str, advice: str) -> None:
    """One line for a user: what could not be done with which model, why, and then what to do next."""
    assert answer.get("type") == "HubError", answer
    sentence = answer["error"]
    assert "\n" not in sentence and "Traceback" not in sentence and sentence.endswith("."), sentence
    assert name in sentence and reason in sentence, sentence
    assert advice in sentence[sentence.index(reason) + len(reason) :], sentence
    assert not any(token in sentence for token in TOKENS.values())


def assert_loaded(answer: dict[str, Any], models: Models, name: str) -> None:
    assert "error" not in answer, answer
    assert answer["weights"] == models.weights[name]
    assert answer["samples"] == models.samples[name]
    assert answer["num_levels"] == 17


def test_the_two_models_can_be_told_apart(models: Models) -> None:
    assert models.weights["a"].keys() == models.weights["b"].keys() != set()
    assert not set(models.weights["a"].values()) & set(models.weights["b"].values()) - zero_tensors(models["a"])
    samples = [torch.tensor(models.samples[name]) for name in ("a", "b")]
    assert (samples[0] - samples[1]).abs().max() > 0.01
    assert all(((sample > 0) & (sample < 1)).float().mean() > 0.5 for sample in samples)  # not clipped all over


def zero_tensors(folder: Path) -> set[str]:
    """Digests of what is the same in both: 1.25 times nothing."""
    weights = load_file(folder / WEIGHTS)
    return {digest for name, digest in digests(weights).items() if not weights[name].any()}


# --- 1. push and pull ------------------------------------------------------------------------------------------------


def push_and_pull(scenario: Scenario) -> None:
    scenario.run(
        "push",
        """
        pipeline = DDPMPaperPipeline.from_pretrained(a)
        report["first"] = attempt(pipeline.push_to_hub, "owner/model")
        report["again"] = attempt(pipeline.push_to_hub, "owner/model")
        """,
    )
    ours = scenario.start(
        """
        report["pipeline"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["scheduler"] = attempt(
            DDPMPaperScheduler.from_pretrained, "owner/model", subfolder="scheduler", cache_dir=fresh()
        )
        """,
        token=None,
    )
    scenario.run_stock(
        "stock",
        """
        heard = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: heard.append(record.getMessage())
        logging.getLogger("diffusers").addHandler(handler)
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, filename, *rest: heard.append(f"{filename}: {message}")
        report["pipeline"] = attempt(DDPMPipeline.from_pretrained, "owner/model")
        loaded = DiffusionPipeline.from_pretrained("owner/model", cache_dir=fresh())
        report["class"] = type(loaded).__name__
        report["any pipeline"] = attempt(lambda: loaded)
        report["heard"] = list(heard)
        logging.getLogger("diffusers.utils").warning("a warning that must be heard")
        warnings.warn("another one")
        report["heard at the end"] = heard[len(report["heard"]):]
        """,
    )
    scenario.reports["ours"] = ours.report()


@about(push_and_pull)
def test_a_pushed_pipeline_is_pulled_as_it_was(scenario: Scenario) -> None:
    assert_loaded(scenario.reports["ours"]["pipeline"], scenario.models, "a")
    assert scenario.reports["ours"]["scheduler"]["num_levels"] == 17
    assert scenario.reports["ours"]["scheduler"]["T"] == 20


@about(push_and_pull)
def test_stock_diffusers_pulls_it_without_ddpm_hf_and_without_a_warning(scenario: Scenario) -> None:
    report = scenario.reports["stock"]
    assert report["class"] == "DDPMPipeline"
    for kind in ("pipeline", "any pipeline"):
        assert report[kind]["weights"] == scenario.models.weights["a"]
        drawn, expected = torch.tensor(report[kind]["samples"]), torch.tensor(scenario.models.samples["a"])
        torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)
    assert report["heard"] == []
    assert len(report["heard at the end"]) == 2


@about(push_and_pull)
def test_a_push_is_one_commit_and_the_same_push_again_is_none(scenario: Scenario) -> None:
    repo, pushed = scenario["owner/model"], scenario.reports["push"]
    assert len(repo.commits) == 2
    assert pushed["first"]["oid"] == pushed["again"]["oid"] == repo.refs["main"]
    assert repo.files().keys() == PUSHED | {WEIGHTS}
    assert repo.files()[WEIGHTS] == (scenario.models["a"] / WEIGHTS).read_bytes()
    assert not repo.private


@about(push_and_pull)
def test_the_storage_of_weights_is_never_shown_the_token(scenario: Scenario) -> None:
    to_storage = [request for request in scenario.hub.requests if request.origin == "storage"]
    assert {request.method for request in to_storage} >= {"PUT", "GET"}
    assert all(request.token is None for request in to_storage)


# --- 2. what is pushed -----------------------------------------------------------------------------------------------


def push_a_run(scenario: Scenario) -> None:
    scenario.noted["before"] = hashes(scenario.models["run"])
    scenario.run(
        "client",
        """
        for name in ("no_index", "no_unet", "no_shard", "pickled", "truncated", "telltale"):
            report[name] = attempt(push_folder, given[name], "owner/" + name)
        pipeline = DDPMPaperPipeline.from_pretrained(a)
        report["unsafe"] = attempt(pipeline.push_to_hub, "owner/unsafe", safe_serialization=False)
        HfApi().whoami()
        report["run"] = attempt(push_folder, run, "owner/run")
        report["inside"] = attempt(push_folder, run, "owner/many", path_in_repo="digits")
        """,
    )


@about(push_a_run)
def test_only_what_a_user_of_the_model_needs_arrives(scenario: Scenario) -> None:
    run, repo = scenario.models["run"], scenario["owner/run"]
    files = repo.files()
    assert len(repo.commits) == 2
    assert files.keys() == PUSHED | {WEIGHTS, "samples.png", "metrics.json"}
    for name in files.keys() - {".gitattributes", "README.md"}:
        assert files[name] == (run / name).read_bytes()
    card = files["README.md"].decode()
    assert 'from_pretrained("owner/run")' in card and "samples.png" in card and "1.7500" in card
    assert hashes(run) == scenario.noted["before"]


@about(push_a_run)
def test_a_model_can_be_pushed_into_a_folder_of_a_repository(scenario: Scenario) -> None:
    inside = {f"digits/{name}" for name in scenario["owner/run"].files() if name != ".gitattributes"}
    assert scenario["owner/many"].files().keys() == inside | {".gitattributes"}


@about(push_a_run)
def test_no_file_on_the_hub_holds_the_token(scenario: Scenario) -> None:
    texts = [
        text for repo in scenario.hub.repos.values() for commit in repo.commits for text in repo.files(commit).values()
    ]
    texts += [text for repo in scenario.hub.repos.values() for text in repo.objects.values()]
    assert len(texts) > 10
    assert not any(token.encode() in text for text in texts for token in TOKENS.values())


@about(push_a_run)
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("no_index", "it has no model_index.json"),
        ("no_unet", "its unet lacks its configuration"),
        ("no_shard", "its unet lacks its diffusion_pytorch_model-00002-of-"),
        ("pickled", "has no safetensors"),
        ("truncated", "not a complete safetensors file"),
        ("telltale", "contains your Hub token"),
        ("unsafe", "`safe_serialization` must be True"),
    ],
)
def test_what_must_not_be_pushed_is_refused_in_a_sentence(scenario: Scenario, folder: str, reason: str) -> None:
    answer = scenario.reports["client"][folder]
    assert answer["type"] == "ValueError" and reason in answer["error"]
    assert "\n" not in answer["error"] and OWNER not in answer["error"]


@about(push_a_run)
def test_what_must_not_be_pushed_is_refused_before_the_hub_is_asked(scenario: Scenario) -> None:
    paths = [request.path for request in scenario.hub.requests]
    before = paths[: paths.index("/api/whoami-v2")]  # which the client asks after all of them
    assert set(before) <= {"/api/agent-harnesses"}  # the client's own first request, for its User-Agent
    assert scenario.hub.repos.keys() == {"owner/run", "owner/many"}


# --- 3. variants and shards ------------------------------------------------------------------------------------------


def push_variants(scenario: Scenario) -> None:
    scenario.run(
        "client",
        """
        def pull_both():
            half = dict(variant="fp16", torch_dtype=torch.float16)
            return [
                attempt(DDPMPaperPipeline.from_pretrained, "owner/model", cache_dir=fresh(), **named)
                for named in ({}, half)
            ]

        pipeline = DDPMPaperPipeline.from_pretrained(a)
        pipeline.push_to_hub("owner/model")
        pipeline.unet.half()
        report["fp16"] = attempt(pipeline.push_to_hub, "owner/model", variant="fp16"), pull_both()
        for step in ("b_shards", "a_half_shards", "a", "a_half"):
            report[step] = attempt(push_folder, given[step], "owner/model"), pull_both()
        """,
    )


def weights_after(scenario: Scenario, step: str) -> set[str]:
    pushed, _ = scenario.reports["client"][step]
    files = scenario["owner/model"].files(pushed["oid"])
    return {path.removeprefix("unet/diffusion_pytorch_model") for path in files if "diffusion_pytorch_model" in path}


@about(push_variants)
def test_a_variant_lies_beside_the_full_weights_and_both_load(scenario: Scenario) -> None:
    assert weights_after(scenario, "fp16") == {".safetensors", ".fp16.safetensors"}
    full, half = scenario.reports["client"]["fp16"][1]
    assert_loaded(full, scenario.models, "a")
    assert_loaded(half, scenario.models, "a_half")
    assert all(digest.startswith("torch.float16") for digest in half["weights"].values())


@about(push_variants)
@pytest.mark.parametrize(
    ("step", "before", "full"),
    [("b_shards", "fp16", "b"), ("a_half_shards", "b_shards", "b"), ("a", "a_half_shards", "a"), ("a_half", "a", "a")],
)
def test_other_shards_take_the_place_of_the_weights_of_their_variant_alone(
    scenario: Scenario, step: str, before: str, full: str
) -> None:
    added = {path.name.removeprefix("diffusion_pytorch_model") for path in scenario.models[step].glob("unet/diff*")}
    assert len(added) >= 3 if step.endswith("shards") else len(added) == 1
    kept = {path for path in weights_after(scenario, before) if ("fp16" in path) != ("half" in step)}
    assert kept and weights_after(scenario, step) == added | kept
    pulled_full, pulled_half = scenario.reports["client"][step][1]
    assert_loaded(pulled_full, scenario.models, full)
    assert_loaded(pulled_half, scenario.models, "a_half")


# --- 4. revisions and the cache; a hub that is not there ----------------------------------------------------------


def pull_revisions_then_stop(scenario: Scenario) -> None:
    scenario.run(
        "push",
        """
        report["a"] = attempt(push_folder, a, "owner/model")
        report["b"] = attempt(push_folder, b, "owner/model")
        """,
    )
    old, home = scenario.reports["push"]["a"]["oid"], scenario.fresh_home()
    scenario.run(
        "up",
        """
        report["old, cold"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model", revision=old)
        report["main"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["old, warm"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model", revision=old)
        """,
        home=home,
        old=old,
    )
    scenario.hub.stop()
    scenario.run(
        "warm",
        """
        report["old"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model", revision=old)
        report["main"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        """,
        home=home,
        old=old,
    )


@about(pull_revisions_then_stop)
def test_an_older_revision_stays_what_it_was(scenario: Scenario) -> None:
    report = scenario.reports["up"]
    for name, expected in (("old, cold", "a"), ("main", "b"), ("old, warm", "a")):
        assert_loaded(report[name], scenario.models, expected)
    assert len(scenario["owner/model"].commits) == 3


@about(pull_revisions_then_stop)
def test_what_is_in_the_cache_loads_without_the_hub(scenario: Scenario) -> None:
    assert_loaded(scenario.reports["warm"]["old"], scenario.models, "a")
    assert_loaded(scenario.reports["warm"]["main"], scenario.models, "b")


def ask_nobody(scenario: Scenario) -> None:
    scenario.hub.stop()
    scenario.run(
        "cold",
        """
        report["pull"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["scheduler"] = attempt(DDPMPaperScheduler.from_pretrained, "owner/model", subfolder="scheduler")
        report["push"] = attempt(push_folder, a, "owner/model")
        report["pipeline"] = attempt(DDPMPaperPipeline.from_pretrained(a).push_to_hub, "owner/other")
        """,
    )


@about(ask_nobody)
def test_a_hub_that_is_not_reached_is_told_in_a_sentence(scenario: Scenario) -> None:
    report = scenario.reports["cold"]
    for name in ("pull", "scheduler", "push"):
        assert_sentence(report[name], "owner/model", "cannot be reached", "check the network and try again")
        assert ("there is no such folder here, and the Hub" in report[name]["error"]) == (name != "push")
        assert scenario.hub.endpoint in report[name]["error"] and report[name]["is_transient"]
    assert_sentence(report["pipeline"], "owner/other", "cannot be reached", "check the network and try again")
    assert report["said"].count("Trying again in") == 2 * (TRIES - 1)


# --- 5. private repositories, and other people's ---------------------------------------------------------------------


def push_privately(scenario: Scenario) -> None:
    scenario.run(
        "owner",
        """
        report["public"] = attempt(push_folder, a, "owner/public")
        report["first"] = attempt(DDPMPaperPipeline.from_pretrained(a).push_to_hub, "owner/private", private=True)
        report["read"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/private")
        report["second"] = attempt(push_folder, b, "owner/private", private=True)
        report["read again"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/private")
        report["refused"] = attempt(push_folder, b, "owner/public", private=True)
        """,
    )
    scenario.run(
        "others",
        """
        for who, token in (("stranger", stranger), ("nobody", None)):
            for name in ("owner/private", "owner/missing"):
                report[f"{who} pulls {name}"] = attempt(
                    DDPMPaperPipeline.from_pretrained, name, token=token, cache_dir=fresh()
                )
            report[f"{who} asks"] = attempt(HfApi(token=token).model_info, "owner/private")
            report[f"{who} asks of the public one"] = attempt(HfApi(token=token).model_info, "owner/public")
        report["into private"] = attempt(push_folder, b, "owner/private", token=stranger)
        report["into public"] = attempt(push_folder, b, "owner/public", token=stranger)
        report["into another name"] = attempt(push_folder, b, "owner/new", token=stranger)
        """,
        token=None,
    )


@about(push_privately)
def test_the_owner_of_a_private_repository_reads_and_writes_it(scenario: Scenario) -> None:
    report, repo = scenario.reports["owner"], scenario["owner/private"]
    assert repo.private and len(repo.commits) == 3
    assert repo.refs["main"] == report["second"]["oid"] != report["first"]["oid"]
    assert_loaded(report["read"], scenario.models, "a")
    assert_loaded(report["read again"], scenario.models, "b")


@about(push_privately)
@pytest.mark.parametrize("who", ["stranger", "nobody"])
def test_a_private_repository_is_to_others_as_if_it_were_not_there(scenario: Scenario, who: str) -> None:
    report = scenario.reports["others"]
    private, missing = (report[f"{who} pulls owner/{name}"] for name in ("private", "missing"))
    assert_sentence(
        private, "owner/private", "there is no such repository on the Hub, or it is private", "log in with"
    )
    assert private["error"].replace("private:", "missing:") == missing["error"]
    assert report[f"{who} asks"]["type"] == "RepositoryNotFoundError"
    assert "owner/public" in report[f"{who} asks of the public one"]["result"]


@about(push_privately)
def test_a_public_repository_is_not_pushed_to_where_a_private_one_is_asked_for(scenario: Scenario) -> None:
    repo = scenario["owner/public"]
    assert_sentence(
        scenario.reports["owner"]["refused"], "owner/public", "is public", "Make it private in its settings"
    )
    assert "nothing was pushed" in scenario.reports["owner"]["refused"]["error"]
    assert len(repo.commits) == 2 and repo.refs["main"] == scenario.reports["owner"]["public"]["oid"]
    assert len(scenario.requests("PUT", "^/store/owner/public/")) == 1 == len(repo.objects)  # of the first push
    assert not repo.private


@about(push_privately)
def test_nobody_pushes_into_somebody_elses_name(scenario: Scenario) -> None:
    report = scenario.reports["others"]
    for where, name in (("public", "public"), ("private", "private"), ("another name", "new")):
        answer = report[f"into {where}"]
        assert_sentence(answer, f"owner/{name}", "the token has no permission", "push under a name of your own")
    assert scenario.hub.repos.keys() == {"owner/public", "owner/private"}
    assert [len(repo.commits) for repo in scenario.hub.repos.values()] == [2, 3]
    assert len(scenario.requests("PUT", "^/store/")) == 3


# --- 6. what the user got wrong --------------------------------------------------------------------------------------


def make_mistakes(scenario: Scenario) -> None:
    scenario.hub.create("owner/empty")
    scenario.hub.create("owner/there").commit(
        {str(file.relative_to(scenario.models["a"])): file.read_bytes() for file in scenario.models["a"].rglob("*.*")}
    )
    scenario.run(
        "client",
        """
        report["push, wrong"] = attempt(push_folder, a, "owner/model", token=wrong)
        report["push, reader"] = attempt(push_folder, a, "owner/model", token=reader)
        report["push, reader, there"] = attempt(push_folder, b, "owner/there", token=reader)
        report["push, nobody"] = attempt(push_folder, a, "owner/model")
        report["pull, wrong"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/there", token=wrong)
        report["pull, missing"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/missing")
        report["scheduler, missing"] = attempt(
            DDPMPaperScheduler.from_pretrained, "owner/missing", subfolder="scheduler"
        )
        report["pull, no revision"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/there", revision="v9")
        report["scheduler, no revision"] = attempt(
            DDPMPaperScheduler.from_pretrained, "owner/there", revision="v9", subfolder="scheduler"
        )
        report["pull, empty"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/empty")
        report["scheduler, empty"] = attempt(DDPMPaperScheduler.from_pretrained, "owner/empty", subfolder="scheduler")
        report["pull, no name"] = attempt(DDPMPaperPipeline.from_pretrained, "no/such/folder")
        report["pull, there"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/there")
        report["push, nonsense"] = attempt(push_folder, nonsense, "owner/nonsense", token=owner)
        report["push, unreadable"] = attempt(push_folder, unreadable, "owner/nonsense", token=owner)
        """,
        token=None,
    )


@about(make_mistakes)
@pytest.mark.parametrize(
    ("mistake", "name", "reason", "advice"),
    [
        ("push, wrong", "owner/model", "does not accept the token", "create a new one at"),
        ("push, reader", "owner/model", "the token has no permission", "use one with write permission"),
        ("push, reader, there", "owner/there", "the token has no permission", "use one with write permission"),
        ("push, nobody", "owner/model", "the Hub asks who you are", "log in with `hf auth login`"),
        ("pull, wrong", "owner/there", "does not accept the token", "create a new one at"),
        (
            "pull, missing",
            "owner/missing",
            "there is no such folder here, and there is no such repository",
            "the name",
        ),
        ("scheduler, missing", "owner/missing", "there is no such repository", "check the name"),
        ("pull, no revision", "owner/there", "it has no revision 'v9'", "choose a branch, tag or commit"),
        ("scheduler, no revision", "owner/there", "it has no revision 'v9'", "choose a branch, tag or commit"),
        ("pull, empty", "owner/empty", "it lacks", "perhaps it is not a diffusers pipeline"),
        (
            "scheduler, empty",
            "owner/empty",
            "it lacks scheduler/scheduler_config.json",
            "perhaps it is not a diffusers pipeline",
        ),
        (
            "push, unreadable",
            "owner/nonsense",
            "metadata of the model card cannot be read",
            "correct the head of README.md",
        ),
        ("pull, no name", "no/such/folder", "neither a folder here nor a name on the Hub", "reads 'owner/name'"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    scenario: Scenario, mistake: str, name: str, reason: str, advice: str
) -> None:
    answer = scenario.reports["client"][mistake]
    assert_sentence(answer, name, reason, advice)
    assert not answer["is_transient"]


@about(make_mistakes)
def test_mistakes_change_nothing_on_the_hub(scenario: Scenario) -> None:
    assert scenario.reports["client"]["pull, there"]["weights"] == scenario.models.weights["a"]
    assert scenario.hub.repos.keys() == {"owner/empty", "owner/there", "owner/nonsense"}
    assert [len(repo.commits) for repo in scenario.hub.repos.values()] == [1, 2, 1]
    assert scenario.requests("PUT", "") == []
    assert "Trying again" not in scenario.reports["client"]["said"]


@about(make_mistakes)
def test_metadata_that_the_hub_refuses_are_told_with_its_reason_and_nothing_is_uploaded(scenario: Scenario) -> None:
    answer = scenario.reports["client"]["push, nonsense"]
    assert_sentence(answer, "owner/nonsense", '"license" must be one of', "Correct the head of README.md")
    assert "nothing was pushed" in answer["error"] and not answer["is_transient"]
    assert scenario["owner/nonsense"].files().keys() == {".gitattributes"}
    assert scenario.requests("POST", "^/api/validate-yaml$") and scenario.requests("PUT", "/owner/nonsense/") == []


# --- 7. failures of the Hub and of the line --------------------------------------------------------------------------


ONCE = {
    "put-dropped": [("PUT", "^/store/owner/put-dropped/", {"drop_after": 700})],
    "put-500": [("PUT", "^/store/owner/put-500/", {"status": 500})],
    "commit-500": [("POST", "^/api/models/owner/commit-500/commit/", {"status": 500})],
    "commit-lost": [("POST", "^/api/models/owner/commit-lost/commit/", {"lose_answer": True})],
    "commit-412": [("POST", "^/api/models/owner/commit-412/commit/", {"status": 412})],
    "made-500": [
        ("POST", "^/api/repos/create$", {"status": 500}),
        ("POST", "^/api/validate-yaml$", {"status": 500}),
    ],
    "commit-429": [("POST", "/owner/commit-429/commit/", {"status": 429, "headers": {"Retry-After": "1"}})],
}


def fail_once(scenario: Scenario) -> None:
    names = ["made-500", *(name for name in ONCE if name != "made-500")]  # whose addresses are everybody's
    faults = {name: [scenario.hub.fail(method, where, **kind) for method, where, kind in ONCE[name]] for name in names}
    scenario.noted["faults"] = faults
    race = scenario.hub.fail("POST", "^/api/models/owner/race/commit/", hold=threading.Event())
    client = scenario.start(
        f"""
        for name in {names}:
            started = time.monotonic()
            report[name] = attempt(push_folder, a, "owner/" + name)
            report[name + " took"] = time.monotonic() - started
        report["race"] = attempt(push_folder, a, "owner/race")
        for name in [*{names}, "race"]:
            report["pulled " + name] = attempt(DDPMPaperPipeline.from_pretrained, "owner/" + name)
        """
    )
    with held(race):
        scenario["owner/race"].commit({"README.md": b"---\nlicense: mit\n---\n\n# Mine\n\nWritten meanwhile.\n"})
    scenario.reports["client"] = client.report()


@about(fail_once)
@pytest.mark.parametrize("name", ONCE)
def test_what_fails_once_is_tried_again_and_makes_one_commit(scenario: Scenario, name: str) -> None:
    report, repo = scenario.reports["client"], scenario[f"owner/{name}"]
    assert [fault.count for fault in scenario.noted["faults"][name]] == [1] * len(ONCE[name])
    assert "error" not in report[name], report[name]
    assert len(repo.commits) == 2 and repo.refs["main"] == report[name]["oid"]
    assert repo.files()[WEIGHTS] == (scenario.models["a"] / WEIGHTS).read_bytes()
    assert_loaded(report[f"pulled {name}"], scenario.models, "a")


@about(fail_once)
def test_a_hub_that_limits_the_rate_is_given_the_time_it_asks_for(scenario: Scenario) -> None:
    assert len(scenario.requests("POST", "/owner/commit-429/commit/")) == 2
    assert scenario.reports["client"]["commit-429 took"] >= 1.0
    assert scenario.reports["client"]["said"].count("Trying again in 1 s.") == 1  # the other pauses are 0.05 s


@about(fail_once)
def test_who_commits_in_between_finds_their_text_in_the_card(scenario: Scenario) -> None:
    repo = scenario["owner/race"]
    assert scenario.reports["client"]["race"]["oid"] == repo.refs["main"]
    assert len(repo.commits) == 3  # the first, theirs, and the push on top of it
    assert repo.commits[repo.refs["main"]].parent == list(repo.commits)[1]
    card = ModelCard(repo.files()["README.md"].decode())
    assert "Written meanwhile." in card.text and "# Mine" in card.text and 'from_pretrained("owner/race")' in card.text
    assert card.data.license == "mit" and card.data.library_name == "diffusers"
    assert len(scenario.requests("POST", "/owner/race/commit/")) == 2
    assert_loaded(scenario.reports["client"]["pulled race"], scenario.models, "a")


def fail_for_ever(scenario: Scenario) -> None:
    # As often as the client tries; then the fault is over.
    scenario.noted["create"] = scenario.hub.fail("POST", "^/api/repos/create$", times=TRIES, status=500)
    scenario.noted["commit"] = scenario.hub.fail("POST", "^/api/models/owner/[a-z]+/commit/", times=TRIES, status=503)
    first = meeting(scenario.hub)
    second = meeting(scenario.hub)
    client = scenario.start(
        """
        report["create"] = attempt(push_folder, a, "owner/model")
        meet()
        report["commit"] = attempt(push_folder, a, "owner/model")
        meet()
        report["pull"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["again"] = attempt(push_folder, a, "owner/model")
        report["pull again"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        """
    )
    with held(first):
        scenario.noted["repos after create"] = list(scenario.hub.repos)
    with held(second):
        scenario.noted["commits after commit"] = len(scenario["owner/model"].commits)
    scenario.reports["client"] = client.report()


@about(fail_for_ever)
@pytest.mark.parametrize(("what", "status"), [("create", 500), ("commit", 503)])
def test_a_hub_that_fails_for_ever_is_told_in_a_sentence(scenario: Scenario, what: str, status: int) -> None:
    answer = scenario.reports["client"][what]
    assert_sentence(answer, "owner/model", f"the Hub answered {status}", "try again later")
    assert answer["is_transient"] and scenario.noted[what].count == TRIES


@about(fail_for_ever)
def test_a_failed_push_leaves_nothing_that_looks_like_a_model_and_the_next_one_succeeds(scenario: Scenario) -> None:
    report, repo = scenario.reports["client"], scenario["owner/model"]
    assert scenario.noted["repos after create"] == [] and scenario.noted["commits after commit"] == 1
    assert_sentence(report["pull"], "owner/model", "it lacks", "perhaps it is not a diffusers pipeline")
    assert len(repo.commits) == 2 and repo.refs["main"] == report["again"]["oid"]
    assert len(scenario.requests("PUT", "^/store/")) == 1  # what has arrived is kept
    assert_loaded(report["pull again"], scenario.models, "a")


def fail_uploads_for_ever(scenario: Scenario) -> None:
    scenario.noted["put"] = scenario.hub.fail("PUT", "^/store/", times=6, status=500)
    between = meeting(scenario.hub)
    client = scenario.start(
        """
        report["push"] = attempt(push_folder, a, "owner/model")
        meet()
        report["pull"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["again"] = attempt(push_folder, a, "owner/model")
        report["pull again"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        """
    )
    with held(between):
        scenario.noted["commits"] = len(scenario["owner/model"].commits)
    scenario.reports["client"] = client.report()


@about(fail_uploads_for_ever)
def test_an_upload_that_fails_for_ever_is_tried_by_the_client_alone_and_told_in_a_sentence(scenario: Scenario) -> None:
    report = scenario.reports["client"]
    assert scenario.noted["put"].count == 6 and scenario.noted["commits"] == 1
    assert_sentence(report["push"], "owner/model", "the Hub answered 500", "try again later")
    assert_sentence(report["pull"], "owner/model", "it lacks", "perhaps it is not a diffusers pipeline")
    assert "error" not in report["again"] and len(scenario["owner/model"].commits) == 2
    assert_loaded(report["pull again"], scenario.models, "a")


# --- 8. a client that is killed --------------------------------------------------------------------------------------


def kill_the_client(scenario: Scenario) -> None:
    folder = scenario.folder / "run"
    shutil.copytree(scenario.models["run"], folder)
    before, oid = hashes(folder), hashes(folder)[WEIGHTS]
    upload = scenario.hub.fail("PUT", f"^/store/owner/model/{oid}$", hold=threading.Event())
    client = scenario.start('push_folder(folder, "owner/model")', folder=folder)
    with held(upload):
        client.run.kill()
        scenario.noted["exit"] = client.end()[0]
        repo = scenario["owner/model"]
        scenario.noted["commits"], scenario.noted["has_weights"] = len(repo.commits), oid in repo.objects
    scenario.noted["is_unchanged"] = hashes(folder) == before != {}
    scenario.run(
        "client",
        """
        report["pull, before"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        report["push"] = attempt(push_folder, folder, "owner/model")
        report["pull"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model", cache_dir=fresh())
        """,
        folder=folder,
    )


@about(kill_the_client)
def test_a_push_that_is_killed_leaves_hub_and_folder_as_they_were(scenario: Scenario) -> None:
    assert scenario.noted["exit"] == -9
    assert scenario.noted["commits"] == 1 and not scenario.noted["has_weights"]
    assert scenario.noted["is_unchanged"]
    report = scenario.reports["client"]
    assert_sentence(report["pull, before"], "owner/model", "it lacks", "perhaps it is not a diffusers pipeline")


@about(kill_the_client)
def test_a_push_that_was_killed_is_completed_by_the_next(scenario: Scenario) -> None:
    repo, report = scenario["owner/model"], scenario.reports["client"]
    assert len(repo.commits) == 2 and repo.refs["main"] == report["push"]["oid"]
    assert repo.files().keys() == PUSHED | {WEIGHTS, "samples.png", "metrics.json"}
    assert_loaded(report["pull"], scenario.models, "a")


# --- 9. downloads that are cut ---------------------------------------------------------------------------------------


def cut_downloads(scenario: Scenario) -> None:
    hub = scenario.hub
    files = {str(p.relative_to(scenario.models["a"])): p.read_bytes() for p in scenario.models["a"].rglob("*.*")}
    for name in ("once", "ever", "short"):
        hub.create(f"owner/{name}").commit(files)
    scenario.noted["once"] = hub.fail("GET", "^/store/owner/once/", truncate=700)
    scenario.noted["ever"] = [
        hub.fail("GET", "^/store/owner/ever/", truncate=700),
        hub.fail("GET", "^/store/owner/ever/", times=5, truncate=0),  # the client gives up
    ]
    objects = hub.repos["owner/short"].objects
    (oid,) = objects
    objects[oid] = files[WEIGHTS][:700]  # whole as HTTP sees it, and short of the size that the Hub names
    between = meeting(hub)
    client = scenario.start(
        """
        def whole_weights(cache):
            # By their names: that of an LFS object is its checksum, with a suffix until it is whole.
            names = [name for _, _, names in os.walk(cache) for name in names]
            return [name for name in names if name.endswith(".safetensors") or len(name) == 64]

        report["once"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/once", cache_dir=fresh())
        for name in ("ever", "short"):
            cache = given[name] = fresh()
            report[name] = attempt(DDPMPaperPipeline.from_pretrained, "owner/" + name, cache_dir=cache)
            report[name + " left"] = whole_weights(cache)
        meet()
        for name in ("ever", "short"):
            cache = given[name]
            report[name + " again"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/" + name, cache_dir=cache)
            report[name + " left at the end"] = whole_weights(cache)
        """
    )
    with held(between):
        objects[oid] = files[WEIGHTS]
    scenario.reports["client"] = client.report()


@about(cut_downloads)
def test_a_download_that_is_cut_once_goes_on(scenario: Scenario) -> None:
    assert scenario.noted["once"].count == 1
    assert_loaded(scenario.reports["client"]["once"], scenario.models, "a")


@about(cut_downloads)
def test_a_download_that_never_comes_whole_is_told_in_a_sentence(scenario: Scenario) -> None:
    report = scenario.reports["client"]
    assert [fault.count for fault in scenario.noted["ever"]] == [1, 5]
    assert_sentence(report["ever"], "owner/ever", "the connection to the Hub", "try again")
    assert_sentence(report["short"], "owner/short", "a downloaded file is shorter than the Hub says", "try again")
    assert report["ever"]["is_transient"] and report["short"]["is_transient"]


@about(cut_downloads)
@pytest.mark.parametrize("name", ["ever", "short"])
def test_no_part_of_a_download_passes_for_the_whole_and_the_next_pull_is_right(scenario: Scenario, name: str) -> None:
    report = scenario.reports["client"]
    assert report[f"{name} left"] == []
    assert_loaded(report[f"{name} again"], scenario.models, "a")
    assert len(report[f"{name} left at the end"]) == 2  # the object and its name: it is found where it is there


# --- 10. pickles and the early layout --------------------------------------------------------------------------------


EARLY, EVIL = ("early", "early_bare"), ("evil", "evil_bare", "evil_unet")


def pull_pickles(scenario: Scenario) -> None:
    for name in EARLY + EVIL:
        folder = scenario.models[name]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
        scenario.hub.create(f"owner/{name}").commit(files)
    scenario.run(
        "client",
        f"""
        for name in {EARLY + EVIL}:
            for source in ("owner/" + name, given[name]):
                report[source] = attempt(DDPMPaperPipeline.from_pretrained, source)
        """,
        token=None,
    )


@about(pull_pickles)
@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("is_local", [False, True])
def test_early_models_load_and_sample(scenario: Scenario, name: str, is_local: bool) -> None:
    answer = scenario.reports["client"][str(scenario.models[name]) if is_local else f"owner/{name}"]
    assert "error" not in answer, answer
    assert answer["weights"] == scenario.models.weights["b"]
    assert answer["prediction_type"] == "sample"  # in its early name: predict_epsilon false
    assert answer["samples"] == scenario.models.samples["early"]


@about(pull_pickles)
@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("is_local", [False, True])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(scenario: Scenario, name: str, is_local: bool) -> None:
    source = str(scenario.models[name]) if is_local else f"owner/{name}"
    answer = scenario.reports["client"][source]
    assert_sentence(answer, source, "a pickle that contains more than tensors", "ask for weights saved as safetensors")
    assert not scenario.models["ran"].exists()


def test_the_pickle_would_run_its_code_if_it_were_let(models: Models, tmp_path: Path) -> None:
    torch.save({"weight": RunsCode(tmp_path / "ran")}, tmp_path / "evil.bin")
    torch.load(tmp_path / "evil.bin", weights_only=False)
    assert (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(models["evil"] / "diffusion_pytorch_model.bin", weights_only=True)


# --- 11. the model card ----------------------------------------------------------------------------------------------


OWN_CARD = b"""---
license: cc-by-4.0
language: en
tags:
- mine
---

# Somebody's own card

With a text that says all.
"""


def edit_by_hand(card: str) -> str:
    """What an owner does on the Hub's site: a text, a section, the licence, a tag, and a measurement of their own."""
    before, training = card.split("## Training\n")
    card = ModelCard(f"{before}## Training\n\nOn my laptop, overnight.\n{training}\n\n## Thanks\n\nTo my cat.\n")
    card.data.license = "mit"
    card.data.tags = [*card.data.tags, "cats"]
    theirs = {"task_type": "unconditional-image-generation", "dataset_type": "digits", "dataset_name": "digits"}
    results = [*card.data.eval_results, EvalResult(**theirs, metric_type="fid", metric_name="FID", metric_value=3.25)]
    card.data.eval_results = None  # of which it would write only these
    card.data["model-index"] = eval_results_to_model_index("model", results)
    return str(card)


def push_over_edited_cards(scenario: Scenario) -> None:
    folder = scenario.folder / "run"
    shutil.copytree(scenario.models["run"], folder)
    scenario.hub.create("owner/theirs").commit({"README.md": OWN_CARD})
    between = meeting(scenario.hub)
    client = scenario.start(
        """
        report["first"] = attempt(push_folder, folder, "owner/model")
        meet()
        report["second"] = attempt(push_folder, folder, "owner/model")
        report["third"] = attempt(push_folder, folder, "owner/model")
        report["theirs"] = attempt(push_folder, folder, "owner/theirs")
        report["theirs again"] = attempt(push_folder, folder, "owner/theirs")
        """,
        folder=folder,
    )
    with held(between):
        repo = scenario["owner/model"]
        edited = edit_by_hand(repo.files()["README.md"].decode())
        repo.commit({"README.md": edited.encode()})
        (folder / "metrics.json").write_text(json.dumps(metrics(1.25)))
        scenario.noted["edited"] = edited
    scenario.reports["client"] = client.report()


@about(push_over_edited_cards)
def test_what_is_written_into_the_card_on_the_hub_survives_the_next_push(scenario: Scenario) -> None:
    repo = scenario["owner/model"]
    card = ModelCard(repo.files()["README.md"].decode())
    assert "To my cat." in card.text and "On my laptop, overnight." in card.text
    assert card.data.license == "mit"
    assert card.data.tags == ["ddpm_hf", "ddpm", "diffusion", "cats"]
    assert len(repo.commits) == 4  # the first, a push, the edit, a push; the third push had nothing new
    assert repo.refs["main"] == scenario.reports["client"]["third"]["oid"]


@about(push_over_edited_cards)
def test_new_figures_take_the_place_of_the_old_ones_and_of_nothing_else(scenario: Scenario) -> None:
    card = ModelCard(scenario["owner/model"].files()["README.md"].decode())
    edited = ModelCard(scenario.noted["edited"])
    assert "1.7500" in edited.text and "1.2500" not in edited.text
    assert "1.2500" in card.text and "1.7500" not in card.text
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert len(card.data.eval_results) == 2 and measured == {"bits_per_dim": 1.25, "fid": 3.25}


@about(push_over_edited_cards)
def test_somebodys_own_card_keeps_all_and_gets_the_sections_after_it(scenario: Scenario) -> None:
    repo, own = scenario["owner/theirs"], ModelCard(OWN_CARD.decode())
    card = ModelCard(repo.files()["README.md"].decode())
    assert card.text.strip().startswith(own.text.strip())
    after = card.text.strip().removeprefix(own.text.strip())
    assert 'from_pretrained("owner/theirs")' in after and "1.2500" in after
    assert card.data.license == "cc-by-4.0" and card.data.tags[0] == "mine" and card.data.language == "en"
    assert card.data.library_name == "diffusers"
    assert len(repo.commits) == 3  # pushing again adds the sections once


def push_without_figures(scenario: Scenario) -> None:
    scenario.run(
        "client",
        """
        report["run"] = attempt(push_folder, run, "owner/model")
        pipeline = DDPMPaperPipeline.from_pretrained("owner/model")
        report["same"] = attempt(pipeline.push_to_hub, "owner/model")
        report["half"] = attempt(push_folder, a_half, "owner/model")
        report["other"] = attempt(DDPMPaperPipeline.from_pretrained(b).push_to_hub, "owner/model")
        """,
    )


@about(push_without_figures)
def test_a_model_that_was_pulled_and_is_pushed_again_makes_no_commit(scenario: Scenario) -> None:
    report = scenario.reports["client"]  # diffusers notes in a configuration where it was loaded from
    assert report["same"]["oid"] == report["run"]["oid"]
    assert all(str(scenario.folder) not in data.decode("latin") for data in scenario["owner/model"].files().values())


@about(push_without_figures)
def test_figures_and_samples_stay_with_their_weights_and_go_with_them(scenario: Scenario) -> None:
    repo, report = scenario["owner/model"], scenario.reports["client"]
    for step in ("run", "half"):
        files = repo.files(report[step]["oid"])
        card = ModelCard(files["README.md"].decode())
        assert {"metrics.json", "samples.png"} <= files.keys() and "1.7500" in card.text
        assert "samples.png" in card.text and 'from_pretrained("owner/model")' in card.text
        assert [result.metric_value for result in card.data.eval_results] == [1.75]
    assert WEIGHTS.replace(".safe", ".fp16.safe") in repo.files(report["half"]["oid"])
    files = repo.files(report["other"]["oid"])
    card = ModelCard(files["README.md"].decode())
    assert not {"metrics.json", "samples.png"} & files.keys() and "There are no measurements yet." in card.text
    assert card.data.eval_results is None and "samples.png" not in card.text


# --- 12. pull requests -----------------------------------------------------------------------------------------------


def open_a_pull_request(scenario: Scenario) -> None:
    scenario.run(
        "client",
        """
        report["main"] = attempt(push_folder, a, "owner/model")
        report["request"] = attempt(DDPMPaperPipeline.from_pretrained(b).push_to_hub, "owner/model", create_pr=True)
        report["pull request"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model", revision="refs/pr/1")
        report["pull main"] = attempt(DDPMPaperPipeline.from_pretrained, "owner/model")
        """,
    )


@about(open_a_pull_request)
def test_a_pull_request_leaves_main_as_it_is_and_can_be_pulled(scenario: Scenario) -> None:
    repo, report = scenario["owner/model"], scenario.reports["client"]
    assert repo.refs == {"main": report["main"]["oid"], "refs/pr/1": report["request"]["oid"]}
    assert report["request"]["pr"] == f"{scenario.hub.endpoint}/owner/model/discussions/1"
    assert_loaded(report["pull request"], scenario.models, "b")
    assert_loaded(report["pull main"], scenario.models, "a")


# --- 13. examples/push.py --------------------------------------------------------------------------------------------


def run_the_script(scenario: Scenario) -> None:
    for name in ("pushed", "down"):
        client = scenario.start_script("--output_dir", scenario.models["run"], "--hub_model_id", "owner/model")
        scenario.noted[name] = client.end()
        scenario.hub.stop()


@about(run_the_script, is_slow=False)
def test_the_script_pushes_a_run_and_prints_where_it_is(scenario: Scenario) -> None:
    repo, (code, output) = scenario["owner/model"], scenario.noted["pushed"]
    assert code == 0
    assert output.strip().endswith(f"is on the Hub: {scenario.hub.endpoint}/owner/model")
    assert len(repo.commits) == 2 and repo.files().keys() == PUSHED | {WEIGHTS, "samples.png", "metrics.json"}


@about(run_the_script, is_slow=False)
def test_the_script_says_in_a_sentence_that_the_hub_is_not_there(scenario: Scenario) -> None:
    code, output = scenario.noted["down"]
    assert code == 2 and "Traceback" not in output
    *retries, last = output.strip().splitlines()
    said, sentence = last.split("error: ", 1)
    assert said == "push.py: "
    assert_sentence(
        {"type": "HubError", "error": sentence}, "owner/model", "cannot be reached", "check the network and try again"
    )
    assert len([line for line in retries if line.startswith("Could not push") and "Trying again in" in line]) == 5
