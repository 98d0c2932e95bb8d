# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Push a finished run, or any saved pipeline, to the Hugging Face Hub, without training again.

    python examples/push.py --output_dir runs/digits --hub_model_id me/digits --hub_private_repo

One commit brings the weights, configurations, sample grid, figures and model card; what was written by hand into the
card on the Hub stays. Running it again is safe, whatever became of the last time.
"""

from __future__ import annotations


import threads  # noqa: F401  # isort: skip - before torch

from pathlib import Path

from arguments import PushArguments, parse, user_errors
from pushing import limit_silence
from sharing import require_one_process

from ddpm_hf import push_folder


def main() -> None:
    script = Path(__file__).name
    (push,) = parse(script, PushArguments)
    limit_silence()
    with user_errors(script):
        require_one_process()
        commit = push_folder(
            push.output_dir,
            push.hub_model_id or Path(push.output_dir).resolve().name,
            private=push.hub_private_repo or None,
            token=push.hub_token,
            commit_message=push.commit_message,
            create_pr=push.create_pr,
        )
    print(f"{push.output_dir} is on the Hub: {commit.pr_url or commit.commit_url}")


if __name__ == "__main__":
    main()
