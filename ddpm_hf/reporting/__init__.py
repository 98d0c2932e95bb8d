# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures, tables and lines for the screen."""
