# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Time of imports, ours against torch's and diffusers', as ratios from interleaved runs.

    python benchmarks/imports.py --output results.json

Every repetition starts one process for each statement, directly one after the other, and measures the statement's
processor time, which includes the import of torch. A ratio is the median over repetitions, with its quartiles. The
first repetition fills the system's caches and is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import diffusers
from report import parse, parser_of, spread, write_report


ROOT = Path(__file__).resolve().parents[1]
TORCH, STOCK = "import torch", "from diffusers import DDPMPipeline"
AGAINST = {  # names load when they are first used: `*` loads all public ones
    "import ddpm_hf": TORCH,
    "import ddpm_hf.diffusion": TORCH,
    "from ddpm_hf.diffusion import *": TORCH,
    "from ddpm_hf.likelihood import *": TORCH,
    "from ddpm_hf import bits_per_dim": TORCH,
    "from ddpm_hf import DDPMPaperPipeline": STOCK,
}


def seconds(statement: str) -> float:
    """Processor seconds of a statement in a fresh process."""
    code = f"import time\nbegin = time.process_time()\n{statement}\nprint(time.process_time() - begin)"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment, command = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, [sys.executable, "-c", code]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure(repetitions: int) -> dict[str, dict]:
    """Each statement's time over that of what it is compared with."""
    statements = [TORCH, STOCK, *AGAINST]
    rounds = [{each: seconds(each) for each in statements} for _ in range(repetitions + 1)][1:]
    results: dict[str, dict] = {
        statement: {"over": other, **spread([taken[statement] / taken[other] for taken in rounds])}
        for statement, other in AGAINST.items()
    }
    least = {each: min(taken[each] for taken in rounds) for each in statements}
    return results | {"least seconds": least}


def main() -> None:
    parser = parser_of(__doc__, "imports")
    parser.add_argument("--repetitions", type=int, default=9, help="of all statements, at least 2")
    arguments = parse(parser)
    if arguments.repetitions < 2:
        sys.exit("--repetitions must be at least 2.")
    results = measure(arguments.repetitions)
    for statement, other in AGAINST.items():
        r = results[statement]
        quartiles = f"[{r['lower quartile']:.3f}, {r['upper quartile']:.3f}]"
        print(f"{statement:40} over {other:36} {r['median']:.3f}  {quartiles}")
    write_report(arguments.output, results, diffusers, settings={"repetitions": arguments.repetitions})


if __name__ == "__main__":
    main()
