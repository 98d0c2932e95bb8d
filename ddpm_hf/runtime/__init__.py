# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What every command needs from its machine: threads, processes, signals, random numbers, files written as a whole."""
