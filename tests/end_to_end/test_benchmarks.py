# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of training calls the parts of `ddpm-hf train` by name; this test fails when those names change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from script_server import ScriptServer
from training_runs import TINY, last_line


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURE = """
import json, sys
from pathlib import Path

sys.path.insert(0, {benchmarks!r})
import our_recipe
import training_overhead
import training_quality

overhead = training_overhead.measure_overhead(batch_size=1, rounds=2)
with our_recipe.quiet():
    job = our_recipe.prepare_ours(Path({folder!r}), *{flags!r})
    clock = training_quality.Clock(1.0)
    clock.lead(job.lr_scheduler, job.training.lr_warmup_steps)
    our_recipe.train_ours(job, training_quality.UntilTimeIsUp(job, clock))
rate = job.lr_scheduler.get_last_lr()[0] / job.training.learning_rate
print(json.dumps({{"overhead": overhead, "steps": job.step, "rate": rate}}))
"""


@pytest.mark.slow
def test_steps_are_compared_and_a_training_ends_with_its_time(scripts: ScriptServer, tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    flags = [*map(str, TINY), "--max_train_steps", "100000", "--lr_warmup_steps", "1"]
    script.write_text(MEASURE.format(benchmarks=str(BENCHMARKS), folder=str(tmp_path / "run"), flags=flags))
    done = scripts.run(script)
    assert done.code == 0, done.output
    found = json.loads(last_line(done.output))
    sides = found["overhead"]["steps per second"]
    assert sides.keys() == {"bare", "ours", "stock"} and min(sides.values()) > 0
    parts = found["overhead"]["our step"]
    assert all(part["milliseconds"] > 0 for name, part in parts.items() if "bare" not in name)
    assert {"optimizer", "clipping", "average of the weights", "data", "the rest"} <= parts.keys()
    assert 0 < found["steps"] < 100_000
    assert found["rate"] < 0.1, "the learning rate has followed the clock"
