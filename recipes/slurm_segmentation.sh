#!/usr/bin/env bash
# Train the segmentation network on several machines of a Slurm cluster, on all GPUs of each.
#
#     sbatch --nodes 2 --gpus-per-node 4 recipes/slurm_segmentation.sh TAG --backbone resnest269 \
#         --mode fix --use_gn True --label_name pslabel_ours --data_dir data/voc12
#
# Submit it from the project's folder; what follows TAG are flags of train_segmentation.py, without --tag, --log_path
# and --resume. Code, data and run folder must lie where all machines see them. --train_batch counts the images of all
# processes together: it is divided by their number, and so more machines need no other --lr. PYTHON, LOG_PATH
# (experiments) and RDZV_PORT may be set. A job that was preempted, lost a machine or ran out of time is queued again
# by itself and goes on from last.pth.
#
#SBATCH --job-name=segmentation
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=20
#SBATCH --time=12:00:00
# one launcher for each machine, which starts a process for each of its GPUs:
#SBATCH --ntasks-per-node=1
# Slurm itself queues it again when it is preempted or a machine fails:
#SBATCH --requeue
# when time runs out it does not; then this shell (B:) is told so two minutes before and asks for it:
#SBATCH --signal=B:USR1@120
# a job that was queued again adds to its output:
#SBATCH --open-mode=append
set -eu
tag=${1:?usage: sbatch recipes/slurm_segmentation.sh TAG FLAGS_OF_train_segmentation.py}
shift
python=${PYTHON:-python} runs=${LOG_PATH:-experiments}
project=$SLURM_SUBMIT_DIR # Slurm runs a copy of this file, so its own place tells nothing
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=${RDZV_PORT:-$((20000 + SLURM_JOB_ID % 10000))} # jobs that share a machine need different ones
resume=()
[ ! -d "$runs/$tag" ] || resume=(--resume)

launch=(
  # without the first, the other machines would wait half an hour for one that failed; the second is not handed on from
  # sbatch to srun, and the workers that load images would share one core
  srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
  # torchrun, of this python. The machines meet at the first one; the job's number keeps other jobs out
  "$python" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-gpu}"
  --rdzv_backend c10d --rdzv_endpoint "$head:$port" --rdzv_id "$SLURM_JOB_ID"
)
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
# in the background, since bash hears no signal while it runs a command
"${launch[@]}" "$project/train_segmentation.py" --log_path "$runs" --tag "$tag" "$@" "${resume[@]}" &
launcher=$!
until wait "$launcher"; do
  code=$? # of a training that failed, or of `wait`, which the signal ended
  kill -0 "$launcher" 2>/dev/null || exit "$code"
done
