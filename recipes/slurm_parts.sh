#!/usr/bin/env bash
# Predict, or make pseudo labels, in parts on a Slurm cluster: one task of an array for each part, on one GPU.
#
#     sbatch --array=1-100 recipes/slurm_parts.sh predict.py --load_path last.pth --input images --output masks
#     sbatch --array=17 --export=ALL,PARTS=100 recipes/slurm_parts.sh predict.py ...    # a lost part again
#
# Submit it from the project's folder; all tasks write to one folder, which all machines see. With make_pseudo_labels.py,
# run --selector evidence once with --part learn before the array, and --selector sos once without --part after it.
#
#SBATCH --job-name=parts
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=4:00:00
#SBATCH --requeue
set -eu
script=${1:?usage: sbatch --array=1-N recipes/slurm_parts.sh SCRIPT FLAGS}
shift
part=${PARTS:+$SLURM_ARRAY_TASK_ID/$PARTS}
# Slurm runs a copy of this file in another folder
exec "${PYTHON:-python}" "$SLURM_SUBMIT_DIR/$script" "$@" --part "${part:-slurm}"
