# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The notebook runs from its first cell to its last, and was saved with what it shows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest


NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "digits.ipynb"
SHORTER = {"STEPS = 600": "STEPS = 60", "num_evaluations=50": "num_evaluations=10"}


def test_it_was_saved_with_its_pictures() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert {output["output_type"] for output in outputs} == {"display_data", "stream"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of its training, after which the digits take fewer bits than if all levels were equally likely."""
    client, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("MPLBACKEND")  # that of the notebook shows pictures
    text = NOTEBOOK.read_text("utf-8")
    for long, short in SHORTER.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    notebook = nbformat.reads(text, as_version=4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    bits = [float(number) for number in re.findall(r"([\d.]+) bits/dim", printed)]
    assert len(bits) == 3 and all(0.5 < each < math.log2(17) for each in bits)
