# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A page to click: sample from a model, score pictures, and compress them."""
