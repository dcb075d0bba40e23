#!/bin/bash
# Train on one node: one task, which starts a process for each GPU.
#   sbatch --gpus-per-node=8 examples/slurm/one_node.sh zero=stage3 precision=bf16 state.every=500
# Started again after a pre-emption or its time limit, it goes on in the same output folder and the same W&B run.
#SBATCH --job-name=zerokit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

srun python -m zerokit "$@"
status=$?

# 128 and the number of a signal: the state is saved. USR1 (10) comes 120 s before the time limit, SIGTERM (15) with a
# pre-emption; a job that ends by itself meanwhile has to ask for its place in the queue. `scancel` ends this script too.
if [[ $status == 138 || $status == 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
