# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The version, in a file of its own so that building the package imports nothing else."""

__version__ = "0.2.0"
