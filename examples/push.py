# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Push a finished run, or any saved pipeline, to the Hugging Face Hub, without training again.

    python examples/push.py --output_dir runs/digits --hub_model_id me/digits --hub_private_repo
    python examples/push.py --space --hub_model_id me/digits      a page for a model on the Hub, as a Space

One commit contains the weights, configurations, sample grid, figures and model card. Text written by hand into the
card on the Hub is kept. It is safe to run the script again, also after a failure.
"""

from ddpm_hf.cli.push import main


if __name__ == "__main__":
    main()
