# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The cost of pushing to the Hub every few steps: the time of a training relative to the same one without pushing.

    python benchmarks/pushing.py --output results.json

Each repetition runs examples/train.py three times, directly one after the other: without pushing, pushing to a Hub on
loopback, and pushing to a Hub that is slow at every upload of weights. It trains the default model on all cores, which
the Hub and the pushing thread share.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
from report import parse, parser_of, write_report


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the Hub that the tests push to
from clients import environment  # noqa: E402
from loopback_hub import LoopbackHub  # noqa: E402


SHORT_END = shlex.split(
    "--num_quality_samples 0 --num_evaluations 2 --save_images_epochs 0 --ddpm_num_inference_steps 5"
)


def train_seconds(steps: int, push_every: int, upload_delay: float) -> tuple[float, int]:
    """The seconds of a training, and the number of its snapshots on the Hub; no pushes if `push_every` is 0."""
    pushing = ["--push_to_hub", "--hub_model_id", "owner/model", "--hub_push_steps", str(push_every)]
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as folder:
        hub.add_user("owner", token="hf_owner")
        slow = hub.fail("PUT", "^/store/", times=None if upload_delay else 0, delay=upload_delay)
        command = [sys.executable, ROOT / "examples" / "train.py", "--output_dir", f"{folder}/run", *SHORT_END]
        command += ["--max_train_steps", str(steps), *(pushing if push_every else [])]
        env = {k: v for k, v in environment(hub, Path(folder), "hf_owner").items() if k != "OMP_NUM_THREADS"}
        subprocess.run(command, env=env, check=True, capture_output=True)
        slow.clear()
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text())
        commits = hub.repos["owner/model"].commits.values() if push_every else []
        return metrics["train_seconds"], sum(commit.message.startswith("Step ") for commit in commits)


def measure(repetitions: int, steps: int, push_every: int, delay: float) -> dict[str, dict]:
    """Ratios to the training without pushing, by the Hub's time for an upload."""
    ratios: dict[str, list[float]] = {"at once": [], f"{delay:g} s for every upload": []}
    snapshots: dict[str, list[int]] = {name: [] for name in ratios}
    for _ in range(repetitions):
        alone, _ = train_seconds(steps, 0, 0.0)
        for name, wait in zip(ratios, (0.0, delay), strict=True):
            seconds, arrived = train_seconds(steps, push_every, wait)
            ratios[name].append(seconds / alone)
            snapshots[name].append(arrived)
    return {
        name: {
            "median": statistics.median(values),
            "least": min(values),
            "greatest": max(values),
            "snapshots pushed": snapshots[name],
        }
        for name, values in ratios.items()
    }


def main() -> None:
    parser = parser_of(__doc__, "pushing")
    parser.add_argument("--repetitions", type=int, default=5, help="of the three trainings")
    parser.add_argument("--steps", type=int, default=200, help="of a training")
    parser.add_argument("--push-every", type=int, default=20, help="steps")
    parser.add_argument("--upload-delay", type=float, default=5.0, help="seconds of the slow Hub")
    arguments = parse(parser)
    if min(arguments.repetitions, arguments.steps, arguments.push_every) < 1 or arguments.upload_delay <= 0:
        sys.exit("--repetitions, --steps and --push-every must be at least 1, --upload-delay above 0.")
    results = measure(arguments.repetitions, arguments.steps, arguments.push_every, arguments.upload_delay)
    for name, r in results.items():
        print(
            f"pushing, {name:26} {r['median']:.4f}  [{r['least']:.4f}, {r['greatest']:.4f}]  {r['snapshots pushed']}"
        )
    settings = {"steps": arguments.steps, "push every": arguments.push_every}
    write_report(arguments.output, results, diffusers, settings=settings)


if __name__ == "__main__":
    main()
