# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Families of models, one module each, with everything that the trainer needs to know about them."""
