# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments and environment that `accelerate launch` derives from the files in examples/configs/accelerate."""

from __future__ import annotations

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from script_server import EXAMPLES


CONFIGS = EXAMPLES / "configs" / "accelerate"


def launched(name: str, *flags: str) -> tuple[object, dict[str, str]]:
    """The arguments of `accelerate launch` with a settings file, and the environment that it gives to processes."""
    command = ["--config_file", str(CONFIGS / f"{name}.yaml"), "--main_process_port", "0", *flags, "train.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return args, prepare_deepspeed_cmd_env(args)[1]
    if args.use_fsdp or args.multi_gpu:
        return args, prepare_multi_gpu_env(args)
    return args, prepare_simple_launcher_cmd_env(args)[1]
