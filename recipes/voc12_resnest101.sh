#!/usr/bin/env bash
# DeepLabV3+ on ResNeSt-101, for the paper's row: mIoU 76.55 on VOC 2012 val, 77.06 on test, as the paper claims it, not
# measured here. Its labels are RS+EPM's after the selector: the route `strong`.
#
#     recipes/voc12_resnest101.sh ours | strong DIR
#
# Classifier and segmentation network are ResNeSt-101 and start from timm's resnest101e.in1k (ImageNet-1k).
# All stages, their flags and what the environment may set: voc12_chain.sh.
set -eu
export CLAIMED="76.55 on val, 77.06 on test"
exec "$(dirname "$0")/voc12_chain.sh" resnest101 resnest101 resnest101 "$@"
