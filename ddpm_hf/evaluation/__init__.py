# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Saved models sampled, scored, measured and classified with."""
