#!/usr/bin/env bash
# One training run on one or more machines. Start the same line on every machine; all share the folder of --out.
#
#   03-vljepa-impl/cluster.sh 03-vljepa-impl/configs/vljepa.yaml --out runs/vljepa parallel=fsdp
#
# On one machine nothing has to be set. On several:
#   NODES=4                 machines
#   MASTER=10.0.0.1:29500   address of one of them, and a port that is free there
# Under Slurm (sbatch --nodes 4 --ntasks-per-node 1 --wrap 'srun 03-vljepa-impl/cluster.sh ...') both are found out.
#
#   GPUS=8      processes per machine; by default as many as it has GPUs, or one
#   RESTARTS=3  times that all processes are started anew after one died, from the last save on; 0 by default
set -euo pipefail

config=${1:?usage: cluster.sh CONFIG [--out DIR] [key=value ...]}
shift

nodes=${NODES:-${SLURM_JOB_NUM_NODES:-1}}
gpus=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)}
if [ "$nodes" -gt 1 ]; then
	if [ -z "${MASTER:-}" ]; then
		# All names are read: with `head`, scontrol dies of a closed pipe now and then, and pipefail ends the script.
		mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?set MASTER=ADDRESS:PORT}")
		MASTER=${hosts[0]:?scontrol names no machine: set MASTER=ADDRESS:PORT}:29500
	fi
	meeting=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$MASTER" --rdzv-id "${SLURM_JOB_ID:-archlab}")
else
	meeting=(--standalone)
fi
exec torchrun "${meeting[@]}" --nproc-per-node "$((gpus > 0 ? gpus : 1))" --max-restarts "${RESTARTS:-0}" \
	-m archlab train "$config" "$@"
