#!/bin/bash
# Train on several nodes: one task for each GPU. The output folder must be one that all nodes share.
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 examples/slurm/several_nodes.sh zero=stage3 state.every=500
# Ranks meet on the first node; MASTER_ADDR and MASTER_PORT choose another place. Where nodes have several networks,
# NCCL_SOCKET_IFNAME=ib0 names the one to use.
#SBATCH --job-name=zerokit
#SBATCH --nodes=2
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

# A task that fails takes the others along, also one that was killed.
srun --kill-on-bad-exit=1 python -m zerokit "$@"
status=$?

# As in one_node.sh: the state is saved, and the job asks for its place in the queue.
if [[ $status == 138 || $status == 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
