# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The launcher's settings and the Slurm script in examples/configs are accepted unchanged and start the right runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from launcher import CONFIGS, launched
from script_server import EXAMPLES, NOT_INHERITED


pytestmark = pytest.mark.processes(3)


ROOT = EXAMPLES.parent
SLURM = EXAMPLES / "configs" / "slurm.sh"
TYPES = {
    "one_gpu": DistributedType.NO,
    "multi_gpu": DistributedType.MULTI_GPU,
    "multi_node": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "deepspeed": DistributedType.DEEPSPEED,
    "two_cpus": DistributedType.MULTI_GPU,
}
RUN = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--norm_num_groups", "4", "--ddpm_num_steps", "20"]
RUN += ["--train_batch_size", "32", "--eval_batch_size", "4", "--num_quality_samples", "0", "--num_evaluations", "2"]
RUN += ["--num_paths", "0", "--max_measured_images", "64"]
RUN += ["--save_images_epochs", "0", "--validation_steps", "0"]


def test_every_file_is_known_here() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_takes_the_file_and_knows_all_of_it(name: str) -> None:
    path = str(CONFIGS / f"{name}.yaml")
    assert load_config_from_file(path).distributed_type == TYPES[name]
    args, environment = launched(name)
    content = yaml.safe_load(Path(path).read_text())
    for group in ("fsdp_config", "deepspeed_config"):
        for key, value in content.get(group, {}).items():
            assert getattr(args, key) == value, f"accelerate launch has no argument {key}"
    assert args.num_processes == content["num_processes"]
    assert environment["ACCELERATE_MIXED_PRECISION"] == content["mixed_precision"]


def test_what_the_engines_are_told() -> None:
    fsdp, deepspeed = launched("fsdp")[1], launched("deepspeed")[1]
    assert (fsdp["ACCELERATE_USE_FSDP"], fsdp["FSDP_VERSION"]) == ("true", "2")
    assert fsdp["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "ResnetBlock2D,Attention"
    assert fsdp["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert (deepspeed["ACCELERATE_USE_DEEPSPEED"], deepspeed["ACCELERATE_DEEPSPEED_ZERO_STAGE"]) == ("true", "2")
    # These come from train.py's own arguments, so that a step has as many images as it says.
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in deepspeed
    assert "ACCELERATE_GRADIENT_CLIPPING" not in deepspeed


def test_a_machine_of_several_gets_its_rank() -> None:
    args, _ = launched("multi_node", "--machine_rank", "1", "--main_process_ip", "192.0.2.1")
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 1)
    assert args.rdzv_endpoint.startswith("192.0.2.1:")


# --- started for real ------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"HF_HUB_OFFLINE": "1", "PATH": path} | more


@pytest.mark.slow  # test_processes.py trains with two processes, and what this file makes of them is told above
def test_two_processes_on_the_cpu(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "two_cpus.yaml")]
    command += ["--main_process_port", port, str(EXAMPLES / "train.py"), *RUN]
    command += ["--max_train_steps", "3", "--checkpointing_steps", "3", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["train_batch_size"] == 64
    assert json.loads((tmp_path / "run" / "checkpoint-3" / "training.json").read_text())["processes"] == 2


# Slurm on this machine: every node is a session of processes, which signals reach as a whole.
COMMANDS = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
            SLURM_NODEID=$node setsid "$@" &
            echo $! >> "$SLURM_TEST/steps"
        done
        status=0
        for step in $(jobs -p); do wait "$step" || status=$?; done
        exit $status
    """,
    "scancel": """
        [[ "$*" == "--signal=TERM $SLURM_JOB_ID" ]] || exit 1
        while read -r step; do kill -TERM -- "-$step"; done < "$SLURM_TEST/steps"
    """,
    "scontrol": """
        [[ "$1" == show ]] && printf '127.0.0.1\\nanother\\n'
        [[ "$1" == requeue ]] && echo "$2" > "$SLURM_TEST/requeued"
        exit 0
    """,
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job on two nodes of one process each; in the end nothing of it runs any more."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, commands in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{commands}")
        (folder / name).chmod(0o755)
    (folder / "steps").touch()
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", port)):
                break
    settings = environment(SLURM_JOB_ID=str(port - 20000), SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="1")
    settings |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_TEST": str(folder)}
    settings["PATH"] = os.pathsep.join([str(folder), settings["PATH"]])
    yield settings
    for step in (folder / "steps").read_text().split():
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(int(step))
            for process in [*launcher.children(recursive=True), launcher]:  # trainings have sessions of their own
                process.kill()


def test_the_slurm_script_is_a_script() -> None:
    assert subprocess.run(["bash", "-n", str(SLURM)]).returncode == 0
    options = [line.split()[1] for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--ntasks-per-node=1", "--signal=B:TERM@300", "--requeue"} <= set(options)


def test_slurm_starts_a_launcher_on_each_node(slurm: dict[str, str]) -> None:
    folder = Path(slurm["SLURM_TEST"])
    (folder / "accelerate").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$SLURM_TEST/node$SLURM_NODEID"\n')
    (folder / "accelerate").chmod(0o755)
    given = ["settings.yaml", "--output_dir", "runs/a run", "--resume_from_checkpoint", "checkpoint-1"]
    assert subprocess.run(["bash", str(SLURM), *given], env=slurm, timeout=60).returncode == 0
    for node in ("0", "1"):
        told = (folder / f"node{node}").read_text().splitlines()
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(told[1:]))
        assert told[0] == "launch" and Path(args.config_file) == CONFIGS.relative_to(ROOT) / "multi_node.yaml"
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 2, int(node))
        assert (args.main_process_ip, args.main_process_port) == ("127.0.0.1", 20000 + int(slurm["SLURM_JOB_ID"]))
        assert args.training_script == "examples/train.py"
        assert args.training_script_args == [*given, "--resume_from_checkpoint", "latest"]
    assert not (folder / "requeued").exists()


def test_slurm_tells_the_launchers_to_end_in_time_and_queues_the_job_again(slurm: dict[str, str]) -> None:
    folder = Path(slurm["SLURM_TEST"])
    launcher = 'trap "exit 143" TERM; touch "$SLURM_TEST/node$SLURM_NODEID"; while true; do sleep 0.05; done'
    (folder / "accelerate").write_text(f"#!/bin/bash\n{launcher}\n")
    (folder / "accelerate").chmod(0o755)
    job = subprocess.Popen(["bash", str(SLURM)], env=slurm, cwd=ROOT)
    end = time.monotonic() + 60
    while len(list(folder.glob("node*"))) < 2:
        assert job.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    assert not (folder / "requeued").exists()
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 143
    assert (folder / "requeued").read_text().strip() == slurm["SLURM_JOB_ID"]


@pytest.mark.slow  # as above, with the trainings themselves
def test_slurm_ends_a_training_in_time_and_queues_it_again(slurm: dict[str, str], tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "output.txt"
    arguments = [*RUN, "--max_train_steps", "100000", "--output_dir", str(run)]
    arguments += ["--checkpointing_steps", "10", "--checkpoints_total_limit", "1"]
    with output.open("w") as file:
        job = subprocess.Popen(["bash", str(SLURM), *arguments], env=slurm, cwd=ROOT, stdout=file, stderr=file)
    end = time.monotonic() + 120
    while not list(run.glob("checkpoint-*")):
        assert job.poll() is None and time.monotonic() < end, output.read_text()
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) != 0
    assert "SIGTERM stopped it" in output.read_text()
    (checkpoint,) = run.glob("checkpoint-*")
    assert f"{checkpoint} is whole." in output.read_text()
    assert json.loads((checkpoint / "training.json").read_text())["processes"] == 2
    assert (Path(slurm["SLURM_TEST"]) / "requeued").read_text().strip() == slurm["SLURM_JOB_ID"]
