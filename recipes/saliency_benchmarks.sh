#!/usr/bin/env bash
# Saliency maps of every benchmark data set, and the table of their scores.
#
#     recipes/saliency_benchmarks.sh experiments/sod/last.pth [name] [folder of data sets] [flags of predict.py]
#
# Maps go to experiments/saliency/<name>/<data set>/; existing maps are kept.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
usage="usage: $0 CHECKPOINT [NAME] [FOLDER] [FLAGS]"
places=()
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do places+=("$1"); shift; done  # up to the first flag
checkpoint=${places[0]:?$usage}
name=${places[1]:-ours}
benchmark=${places[2]:-dataset/benchmark}

for data_set in "$benchmark"/*/Images; do
  [ -d "$data_set" ] || { echo "error: $benchmark holds no data set: expected <data set>/Images and Masks" >&2; exit 2; }
  data_set=$(basename "$(dirname "$data_set")")
  "${PYTHON:-python}" "$project/predict.py" --load_path "$checkpoint" --input "$benchmark/$data_set" \
    --output "experiments/saliency/$name/$data_set" "$@"
done
"${PYTHON:-python}" "$project/evaluate.py" saliency --pred "experiments/saliency/$name" --gt_root "$benchmark"
