# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling from saved models, scoring them, measuring their errors, and classifying with them."""
