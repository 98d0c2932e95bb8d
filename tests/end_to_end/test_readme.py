# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""README's example runs as it stands there, on the stock checkpoint that examples/train_stock.py makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from diffusers import DDPMPipeline
from in_process import run


README = Path(__file__).parents[2] / "README.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def bits(line: str) -> float:
    return float(re.match(r"([\d.]+) bits/dim", line)[1])


@pytest.mark.slow
def test_the_stock_checkpoint_is_scored_and_sped_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train_stock.py").code == 0
    assert type(DDPMPipeline.from_pretrained("runs/stock")) is DDPMPipeline
    namespace: dict[str, object] = {}
    exec(compile(blocks("python")[0], str(README), "exec"), namespace)
    even, optimal = (bits(line) for line in capsys.readouterr().out.splitlines() if "bits/dim" in line)
    told = [bits(line) for line in blocks("text")[0].splitlines() if "bits/dim" in line]
    assert even > 100 > told[0] / 10
    assert abs(even / told[0] - 1) < 0.1 and abs(optimal - told[1]) < 0.1


def test_the_stock_script_writes_over_nothing(tmp_path: Path) -> None:
    done = run("train_stock.py", "--output_dir", tmp_path)
    assert done.code == 2 and done.output.splitlines()[-1].endswith(f"`output_dir` {tmp_path} exists; name another.")
