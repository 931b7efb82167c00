#!/bin/bash
# A fleet on 4 nodes of 8 cards: sbatch slurm_ray.sh
# The trainer has the first card of the first node, and Ray the other 31.
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
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS="$first:6379"
others=$((SLURM_NNODES - 1))

srun --nodes 1 --ntasks 1 --nodelist "$first" \
    env CUDA_VISIBLE_DEVICES=1,2,3,4,5,6,7 ray start --head --port 6379 --num-gpus 7 --block &
until ray status > /dev/null 2>&1; do sleep 2; done
srun --nodes "$others" --ntasks "$others" --exclude "$first" ray start --address "$RAY_ADDRESS" --num-gpus 8 --block &

CUDA_VISIBLE_DEVICES=0 \
    flowgrpo train sd3.5-medium flow_grpo pickscore output=runs/pickscore fleet='{rollout: 30, rewards: {pickscore: 1}}' \
    --resume auto &
run=$!
over=no
trap 'over=yes; kill -USR1 "$run"' USR1
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
