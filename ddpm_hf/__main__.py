# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m ddpm_hf VERB ...` does the same as the command `ddpm-hf VERB ...`."""

from .cli import main


if __name__ == "__main__":
    main()
