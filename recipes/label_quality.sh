#!/usr/bin/env bash
# Labels made in every way this project has, on one list of images, before and after the selector, in one table.
#
#     recipes/label_quality.sh SALIENCY_DIR "FLAGS OF THE BACKBONE" [DATA_DIR] [LIST_DIR]
#
# SALIENCY_DIR holds maps <id>.png. Small crops and short trainings: about two hours on two CPU cores. Whatever exists in
# experiments/label_quality is not made again.
set -eu
usage="usage: $0 SALIENCY_DIR \"FLAGS OF THE BACKBONE\" [DATA_DIR] [LIST_DIR]"
saliency=${1:?$usage} network=${2:?$usage} data=${3:-data/voc12} lists=${4:-voc12}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
out=experiments/label_quality
voc="--data_dir $data --list_dir $lists"
schedule="--max_epoch 20 --train_batch 16 --optimizer adamw --lr 3e-4 --head_lr 10 --crop_size 256 --long_side 256 384"

train() { # script, tag, flags
  if [ ! -f "$out/runs/$2/last.pth" ]; then
    # shellcheck disable=SC2086  # the flags are words
    $python "$here/$1" $network $voc --log_path $out/runs --tag "$2" $3
  fi
}
label() { # name, flags
  # shellcheck disable=SC2086
  $python "$here/make_pseudo_labels.py" $voc --label_name "$out/$1" $2
}

train train_classification.py plain "$schedule --val_every 10"
train train_classification.py puzzle "$schedule --val_every 10 --puzzle"
train train_classification.py eps "$schedule --val_every 10 --saliency_dir $saliency"
for kind in plain puzzle eps; do
  label $kind "--load_path $out/runs/$kind/last.pth --cam_dir $out/cams/$kind --bg_threshold 0.25"
done
label plain_crf "--cam_dir $out/cams/plain --bg_threshold 0.25 --crf"
label affinity "--cam_dir $out/cams/plain --fusion affinity"
train train_affinity.py affinity "--label_name $out/affinity --crop_size 256 --long_side 256 384 --train_batch 16 --max_epoch 5"
walk="--cam_dir $out/cams/plain --affinity_path $out/runs/affinity/last.pth --expanded_dir $out/cams/walk --bg_threshold 0.45"
label walk "$walk"
label walk_crf "$walk --crf --crf_iterations 1"

score="$python $here/evaluate.py labels --data_dir $data --list $lists/train_id.txt --image_labels $lists/cls_labels.npy"
score="$score --saliency_dir $saliency --t1 0 --sweep"
$score --t0 auto --tables $out/tables --json $out/scores.json --baseline_dir $out/plain $out/plain_crf $out/walk \
  $out/walk_crf $out/puzzle $out/eps
$score --t0 auto --multi_class split --tables $out/tables_rules --rules --cam_dir $out/cams/plain --bg_threshold 0.25
