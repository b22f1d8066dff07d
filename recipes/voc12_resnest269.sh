#!/usr/bin/env bash
# DeepLabV3+ on ResNeSt-269, for the paper's row: mIoU 77.52 on VOC 2012 val, 77.73 on test, as the paper claims it, not
# measured here. Its labels are RS+EPM's after the selector: the route `strong`.
#
#     recipes/voc12_resnest269.sh ours | strong DIR
#
# Classifier and segmentation network are ResNeSt-269 and start from timm's resnest269e.in1k (ImageNet-1k).
# Puzzle-CAM trains this network with batches of 32: SEGMENTATION_FLAGS="--train_batch 32".
# All stages, their flags and what the environment may set: voc12_chain.sh.
set -eu
export CLAIMED="77.52 on val, 77.73 on test"
exec "$(dirname "$0")/voc12_chain.sh" resnest269 resnest269 resnest269 "$@"
