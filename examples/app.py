# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A page on which to sample from a model, to score pictures and to compress them: a Gradio Space.

python examples/app.py --model runs/digits
python examples/push.py --space --hub_model_id me/digits      the same page as a Space on the Hub
"""

from ddpm_hf.cli.app import main


if __name__ == "__main__":
    main()
