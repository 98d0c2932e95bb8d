#!/bin/bash
# A training on several nodes with Slurm, one launcher on each, which goes on by itself when its time is over:
#
#     sbatch examples/configs/slurm.sh examples/configs/cifar10.yaml --output_dir runs/cifar10
#
# Five minutes before the end the training is told to stop, saves a checkpoint, and the job is queued again. Adapt the
# lines below to the cluster, and activate the Python environment before sbatch; all nodes must see the output folder.
#SBATCH --job-name=ddpm_hf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -u
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240  # seconds that a launcher which is told to stop leaves to the training
export CONFIG=${ACCELERATE_CONFIG:-examples/configs/accelerate/multi_node.yaml}
export PROCESSES=$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:-1}))
export MAIN_NODE MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000))
MAIN_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

is_stopped=no
trap 'is_stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM  # which reaches the training, not this script

srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$CONFIG" --num_machines "$SLURM_JOB_NUM_NODES" \
    --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_NODE" \
    --main_process_port "$MAIN_PORT" examples/train.py "$@"' train.py "$@" --resume_from_checkpoint latest &
step=$!
wait "$step"
status=$?
if [ "$is_stopped" = yes ]; then
    wait "$step"  # for the checkpoint: the signal ended the wait before
    status=$?
    [ "$status" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
