#!/usr/bin/env bash
# One row of the paper's table on VOC 2012, from raw photographs to mean ± deviation over seeds. The rows call it:
#
#     recipes/voc12_resnest269.sh ours          labels made here: CAMs of a classifier, random walk, CRF, selector
#     recipes/voc12_resnest269.sh strong DIR    labels of another method, such as RS+EPM's, through the selector
#
# DIR holds <id>.png, or score dictionaries, of train_aug. Every network starts from ImageNet's weights, by timm's
# names, or from the file that the environment names:
#
#     saliency       PRETRAINED_SWIN            swin_base_patch4_window7_224.ms_in22k (ImageNet-22k)
#     classifier     PRETRAINED_CLASSIFIER      see the row
#     affinity       PRETRAINED_AFFINITY        resnet50.a1_in1k
#     segmentation   PRETRAINED_SEGMENTATION    see the row
#
# More of the environment, with its defaults:
#
#     TRAINVAL, AUG, TESTSET   archives as they are downloaded; where the first two are named, the tree is made of them
#     DATA_DIR=data/voc12  LIST_DIR=voc12  TRAIN_ROOT=dataset/DUTS-TR  OUT=experiments/voc12_<row>  PYTHON=python
#     SALIENCY_DIR   ready maps <id>.png of train_aug, such as another row's $OUT/saliency, by any network that never
#                    saw PASCAL-S: no saliency network is trained then
#     SEEDS="0 1 2"  of the segmentation network
#     WITH_CRF=1     also segmentations refined by the dense CRF
#     TEST=1         also segmentations of VOC's test images for its server, first seed: needs test_id.txt (TESTSET)
#     SALIENCY_FLAGS CLASSIFIER_FLAGS CAM_FLAGS AFFINITY_FLAGS LABEL_FLAGS SELECTOR_FLAGS SEGMENTATION_FLAGS
#     PREDICT_FLAGS  come last in the commands of their stage, and so override; LABEL_FLAGS: labels before the selector
#
# Trainings use the defaults of options.py but for what stands below. Run again, it goes on where it was stopped; both
# routes may share OUT. $OUT/times.tsv tells what each stage took; GPU hours are those of all visible GPUs.
set -eu
usage="usage: recipes/voc12_<row>.sh ours | strong DIR"
row=${1:?$usage} segmentation_backbone=${2:?$usage} classifier_backbone=${3:?$usage} route=${4:?$usage} brought=${5:-}
data=${DATA_DIR:-data/voc12} lists=${LIST_DIR:-voc12} train_root=${TRAIN_ROOT:-dataset/DUTS-TR}
out=${OUT:-experiments/voc12_$row} seeds=${SEEDS:-0 1 2} python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
voc=(--data_dir "$data" --list_dir "$lists")
labels=$out/labels/$route tables=$out/tables/$route

# shellcheck disable=SC2206
{
  set -f # these are words, flags of scripts, and no patterns of files
  saliency_flags=(${SALIENCY_FLAGS:-}) classifier_flags=(${CLASSIFIER_FLAGS:-}) cam_flags=(${CAM_FLAGS:-})
  affinity_flags=(${AFFINITY_FLAGS:-}) label_flags=(${LABEL_FLAGS:-}) selector_flags=(${SELECTOR_FLAGS:-})
  segmentation_flags=(${SEGMENTATION_FLAGS:-}) predict_flags=(${PREDICT_FLAGS:-})
  set +f
}

refuse() { echo "error: $1" >&2; exit 2; }

case $route in
  ours) [ -z "$brought" ] || refuse "ours makes its labels itself, and takes no folder: $brought" ;;
  strong) [ -d "$brought" ] || refuse "strong needs the folder of the labels; there is none called '$brought'" ;;
  *) refuse "$route is no route; $usage" ;;
esac

count_gpus() { # those that the scripts use: all visible ones
  if ! command -v nvidia-smi >/dev/null; then echo 0
  elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[^-]' || true
  else nvidia-smi -L | grep -c '^GPU' || true
  fi
}

running="" gpus=$(count_gpus)
mkdir -p "$out"
[ -f "$out/times.tsv" ] || printf 'stage\tseconds\tGPUs\tGPU hours\n' >"$out/times.tsv"

note_time() {
  [ -n "$running" ] || return 0
  LC_ALL=C awk -v name="$running" -v seconds=$((SECONDS - started)) -v gpus="$gpus" \
    'BEGIN { printf "%s\t%d\t%d\t%.4f\n", name, seconds, gpus, seconds * gpus / 3600 }' >>"$out/times.tsv"
  running=""
}
trap note_time EXIT # also of a stage that was stopped: its time was spent

stage() { # name, script, flags
  running=$1 started=$SECONDS
  echo "== $1"
  "$python" "$here/$2" "${@:3}"
  note_time
}

train() { # name of stage and run folder, script, flags
  local resume=()
  [ ! -d "$out/runs/$1" ] || resume=(--resume)
  stage "train $1" "$2" --log_path "$(dirname "$out/runs/$1")" --tag "$(basename "$1")" "${@:3}" "${resume[@]}"
}

# the tree of VOC 2012
if [ -n "${TRAINVAL:-}" ] && [ -n "${AUG:-}" ]; then
  stage prepare prepare_data.py voc12 --trainval "$TRAINVAL" --aug "$AUG" ${TESTSET:+--test "$TESTSET"} "${voc[@]}"
fi
images=""
for below in . {,VOCdevkit,voc12/VOCdevkit,data/voc12/VOCdevkit}/{,VOC2012}; do
  if [ -d "$data/$below/JPEGImages" ]; then images=$data/$below/JPEGImages; break; fi
done
[ -n "$images" ] || refuse "no VOCdevkit/VOC2012/JPEGImages in $data: name DATA_DIR, or archives by TRAINVAL and AUG"

# saliency maps
saliency=${SALIENCY_DIR:-$out/saliency}
if [ -z "${SALIENCY_DIR:-}" ]; then
  # README's command; SALIENCY_FLAGS="--decoder_width paper" for the paper's own, four times as wide
  train saliency SOD_train.py --backbone swin-base-224 --pretrained "${PRETRAINED_SWIN:-imagenet}" \
    --max_epoch 150 --lr 1e-4 --train_batch 16 --decay_epoch 15 --gamma 0.5 --train_root "$train_root" \
    --edge_loss 1 --cache-mode part --workers 4 "${saliency_flags[@]}"
  stage "saliency maps" predict.py --load_path "$out/runs/saliency/last.pth" --input "$images" \
    --list "$lists/train_aug_id.txt" --output "$saliency"
fi

# labels before the selector
if [ "$route" = ours ]; then
  train classifier train_classification.py "${voc[@]}" --backbone "$classifier_backbone" \
    --pretrained "${PRETRAINED_CLASSIFIER:-imagenet}" --puzzle "${classifier_flags[@]}"
  cams=("${voc[@]}" --load_path "$out/runs/classifier/last.pth" --cam_dir "$out/cams" "${cam_flags[@]}")
  stage "labels for affinity" make_pseudo_labels.py "${cams[@]}" --label_name "$out/labels/affinity" --fusion affinity
  train affinity train_affinity.py "${voc[@]}" --backbone resnet-50 --pretrained "${PRETRAINED_AFFINITY:-imagenet}" \
    --label_name "$out/labels/affinity" "${affinity_flags[@]}"
  stage "labels $route/before" make_pseudo_labels.py "${cams[@]}" --label_name "$labels/before" \
    --affinity_path "$out/runs/affinity/last.pth" --expanded_dir "$out/cams_expanded" \
    --bg_threshold 0.35 --crf --crf_iterations 1 "${label_flags[@]}"
  thresholds=(--t0 auto --t1 0) # where labels are weak, masks are nearly always better
else
  stage "labels $route/before" make_pseudo_labels.py "${voc[@]}" --label_name "$labels/before" \
    --baseline_dir "$brought" "${label_flags[@]}"
  thresholds=(--t0 0.4 --t1 0.2) # the paper's
fi

# the salient object selector
stage "labels $route/selected" make_pseudo_labels.py "${voc[@]}" --label_name "$labels/selected" \
  --baseline_dir "$labels/before" --selector sos --saliency_dir "$saliency" "${thresholds[@]}" "${selector_flags[@]}"
stage "scores of labels" evaluate.py labels --pred "$labels/before" "$labels/selected" --data_dir "$data" \
  --list "$lists/train_id.txt" --image_labels "$lists/cls_labels.npy" \
  --tables "$tables/labels" --json "$tables/labels.json"

# segmentation: on labels before and after the selector, and on the masks, which gives the upper bound of the recipe
predictions=() refined=()
segment() { # setting, labels
  local seed run
  for seed in $seeds; do
    run=$1/seed$seed
    train "$run" train_segmentation.py "${voc[@]}" --backbone "$segmentation_backbone" \
      --pretrained "${PRETRAINED_SEGMENTATION:-imagenet}" --mode fix --use_gn True --label_name "$2" --seed "$seed" \
      "${segmentation_flags[@]}"
    predict "$run" "$run" --list "$lists/val_id.txt"
    predictions+=("$out/segmentations/$run")
    if [ "${WITH_CRF:-0}" = 1 ]; then
      predict "$run" "$1+crf/seed$seed" --list "$lists/val_id.txt" --crf
      refined+=("$out/segmentations/$1+crf/seed$seed")
    fi
  done
}
predict() { # run, name of the segmentations, flags; of last.pth: best.pth was chosen on the images that are scored
  stage "predict $2" predict.py --load_path "$out/runs/$1/last.pth" --input "$images" --output "$out/segmentations/$2" \
    --scales 0.5 1 1.5 2 --flip "${@:3}" "${predict_flags[@]}"
}
segment "$route/before" "$labels/before"
segment "$route/selected" "$labels/selected"
segment truth SegmentationClassAug

# the table
stage "scores of segmentations" evaluate.py segmentation --pred "${predictions[@]}" "${refined[@]}" \
  --data_dir "$data" --list "$lists/val_id.txt" --tables "$tables/segmentation" --json "$tables/segmentation.json"
[ -z "${CLAIMED:-}" ] || echo "claimed by the paper: mIoU $CLAIMED"

# VOC's test server
if [ "${TEST:-0}" = 1 ]; then
  read -r seed _ <<<"$seeds"
  submit() { # name, flags
    predict "$route/selected/seed$seed" "$route/$1/seed$seed" --list "$lists/test_id.txt" \
      --voc_submission "$out/submissions/$route-$1.tar.gz" "${@:2}"
  }
  submit test
  [ "${WITH_CRF:-0}" != 1 ] || submit test+crf --crf
fi

# times, of all runs of this recipe in $OUT
LC_ALL=C awk -F '\t' 'NR == 1 { next }
  !($1 in seconds) { names[++count] = $1 }
  { seconds[$1] += $2; hours[$1] += $4; gpus[$1] = $3 }
  { all_seconds += $2; all_hours += $4 }
  END {
    printf "%-40s %9s %5s %10s\n", "stage", "seconds", "GPUs", "GPU hours"
    for (i = 1; i <= count; i++) {
      name = names[i]
      printf "%-40s %9d %5d %10.2f\n", name, seconds[name], gpus[name], hours[name]
    }
    printf "%-40s %9d %5s %10.2f\n", "all", all_seconds, "", all_hours
  }' "$out/times.tsv"
