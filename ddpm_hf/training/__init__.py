# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training: the loop, checkpoints, progress, trackers, and the scores at the end."""
