#!/bin/bash
# One run on 4 nodes of 8 cards: sbatch slurm_torchrun.sh
#SBATCH --job-name=pickscore
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pickscore-%j.log

export OMP_NUM_THREADS=8
export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" --shutdown-timeout 110 \
    -m flowgrpo train sd3.5-medium flow_grpo pickscore output=runs/pickscore --resume auto &
run=$!
over=no
trap 'over=yes; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1
while kill -0 "$run" 2> /dev/null; do
    wait "$run"
    code=$?
done

# The time was over, not the training: go on in another job of the same number.
if [ "$over" = yes ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
