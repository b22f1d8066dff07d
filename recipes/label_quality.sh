#!/usr/bin/env bash
# Labels made in every way this project has, on one list of images, before and after the selector, in one table for
# each kind of saliency maps.
#
#     recipes/label_quality.sh "FLAGS OF THE BACKBONE" SALIENCY_DIR [MORE_SALIENCY_DIRS]
#
# Each SALIENCY_DIR holds maps <id>.png; the first one also teaches EPS. DATA_DIR and LIST_DIR in the environment stand
# for data/voc12 and voc12. Small crops and short trainings: about two hours on two CPU cores. Run again, it goes on
# where it was stopped; all is in experiments/label_quality.
set -eu
usage="usage: $0 \"FLAGS OF THE BACKBONE\" SALIENCY_DIR [MORE_SALIENCY_DIRS]"
network=${1:?$usage} saliency=${2:?$usage}
shift
data=${DATA_DIR:-data/voc12} lists=${LIST_DIR:-voc12}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
out=experiments/label_quality
voc="--data_dir $data --list_dir $lists"
crops="--crop_size 256 --long_side 256 384 --train_batch 16"
schedule="$crops --max_epoch 20 --optimizer adamw --lr 3e-4 --head_lr 10 --val_every 10"

train() { # script, tag, flags: words
  resume=$([ -d "$out/runs/$2" ] && echo --resume || true)
  # shellcheck disable=SC2086
  $python "$here/$1" $network $voc --log_path $out/runs --tag "$2" $3 $resume
}
label() { # name, flags: words
  # shellcheck disable=SC2086
  $python "$here/make_pseudo_labels.py" $voc --label_name "$out/$1" $2
}

train train_classification.py plain "$schedule"
train train_classification.py puzzle "$schedule --puzzle"
train train_classification.py eps "$schedule --saliency_dir $saliency"
for kind in plain puzzle eps; do
  label $kind "--load_path $out/runs/$kind/last.pth --cam_dir $out/cams/$kind --bg_threshold 0.25"
done
label plain_crf "--cam_dir $out/cams/plain --bg_threshold 0.25 --crf"
label affinity "--cam_dir $out/cams/plain --fusion affinity"
train train_affinity.py affinity "$crops --label_name $out/affinity --max_epoch 5"
walk="--cam_dir $out/cams/plain --affinity_path $out/runs/affinity/last.pth --expanded_dir $out/cams/walk --bg_threshold 0.45"
label walk "$walk"
label walk_crf "$walk --crf --crf_iterations 1"

for maps in "$@"; do
  name=$(basename "$(dirname "$maps")")_$(basename "$maps")
  $python "$here/evaluate.py" labels --data_dir "$data" --list "$lists/train_id.txt" --image_labels "$lists/cls_labels.npy" \
    --baseline_dir $out/plain $out/puzzle $out/eps $out/plain_crf $out/walk $out/walk_crf --saliency_dir "$maps" \
    --t0 auto --t1 0 --sweep --multi_class split --cam_dir $out/cams/plain --tables "$out/tables_$name"
done
