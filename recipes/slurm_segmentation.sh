#!/usr/bin/env bash
# Train the segmentation network on several machines of a Slurm cluster, on all GPUs of each.
#
#     sbatch --nodes 2 --gpus-per-node 4 recipes/slurm_segmentation.sh TAG --backbone resnest269 \
#         --mode fix --use_gn True --label_name pslabel_ours --data_dir data/voc12
#
# Submit it from the project's folder; what follows TAG are flags of train_segmentation.py, without --tag, --log_path
# and --resume. Code, data and run folder must lie where all machines see them. --train_batch counts the images of all
# processes together and is divided by their number, so --lr does not depend on the number of machines. PYTHON, LOG_PATH
# (experiments) and RDZV_PORT may be set. A job that was preempted, lost a machine or ran out of time is queued again
# and continues from last.pth.
#
#SBATCH --job-name=segmentation
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=20
#SBATCH --time=12:00:00
# one launcher for each machine, which starts a process for each of its GPUs:
#SBATCH --ntasks-per-node=1
# Slurm queues the job again after a preemption or the failure of a machine:
#SBATCH --requeue
# but not when its time is over: this shell (B:) receives a signal two minutes before and requeues the job:
#SBATCH --signal=B:USR1@120
# a requeued job appends to its output:
#SBATCH --open-mode=append
set -eu
tag=${1:?usage: sbatch recipes/slurm_segmentation.sh TAG FLAGS_OF_train_segmentation.py}
shift
python=${PYTHON:-python} runs=${LOG_PATH:-experiments}
project=$SLURM_SUBMIT_DIR # Slurm runs a copy of this file in another folder
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=${RDZV_PORT:-$((20000 + SLURM_JOB_ID % 10000))} # jobs that share a machine need different ones
resume=()
[ ! -d "$runs/$tag" ] || resume=(--resume)

launch=(
  # without --kill-on-bad-exit the other machines wait half an hour for one that failed; srun does not inherit
  # --cpus-per-task from sbatch, and the loader workers would share one core
  srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
  # torchrun, of this python. The machines meet at the first one; the job's number keeps other jobs out
  "$python" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-gpu}"
  --rdzv_backend c10d --rdzv_endpoint "$head:$port" --rdzv_id "$SLURM_JOB_ID"
)
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
# in the background, because bash handles no signal while a command runs
"${launch[@]}" "$project/train_segmentation.py" --log_path "$runs" --tag "$tag" "$@" "${resume[@]}" &
launcher=$!
until wait "$launcher"; do
  code=$? # of a failed training, or of `wait`, interrupted by the signal
  kill -0 "$launcher" 2>/dev/null || exit "$code"
done
