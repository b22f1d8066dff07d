#!/usr/bin/env bash
# Check this project on a GPU: `pytest -m gpu`, then speed and memory beside plain loops. Ten minutes at most, apart from
# the installation of packages.
#
#     recipes/gpu_check.sh                    on a machine with torch; other packages are installed if any is missing
#     recipes/gpu_check.sh --train_batch 4    on a GPU with less memory
#     recipes/gpu_check.sh --small --output DIR    a rehearsal on CPUs
#
# Writes gpu_check_cuda.md and .json to benchmarks/results. Exit code 1: a test failed; 124: the measurements took too
# long, and nothing was written.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python} log=$(mktemp) failed=0
trap 'rm -f "$log"' EXIT

"$python" -c "import cv2, filelock, matplotlib, pytest, tensorboard, timm, tqdm" 2>/dev/null ||
  "$python" -m pip install --quiet -r requirements.txt pytest
timeout 300 "$python" -m pytest -m gpu -q -p no:cacheprovider tests/test_gpu.py >"$log" 2>&1 || failed=$?
cat "$log"
[ "$failed" != 124 ] || echo "not finished after 300 s" >>"$log"
timeout 280 "$python" recipes/gpu_check.py --tests "$(tail -n 1 "$log")" "$@"
[ "$failed" = 0 ] || exit 1
