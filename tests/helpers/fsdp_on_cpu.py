# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`fsdp_on_cpu.py train.py --flag ...`: a script of examples/ with FSDP on the CPU, as Accelerate does on GPUs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState


script = Path(__file__).parents[2] / "examples" / sys.argv[1]
sys.argv = [str(script), *sys.argv[2:]]
sys.path.insert(0, str(script.parent))
PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
PartialState.default_device = torch.device("cpu")
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))

from ddpm_hf.training import setup  # noqa: E402


setup._has_device = lambda: True
runpy.run_path(str(script), run_name="__main__")
