# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images from files, data sets and streams, in batches that resume exactly."""
