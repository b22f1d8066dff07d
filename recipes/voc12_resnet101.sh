#!/usr/bin/env bash
# DeepLabV3+ on ResNet-101, for the paper's row: mIoU 74.9 on VOC 2012 val, 74.59 on test, as the paper claims it, not
# measured here. Its labels are RS+EPM's after the selector: the route `strong`.
#
#     recipes/voc12_resnet101.sh ours | strong DIR
#
# Classifier and segmentation network are ResNet-101 and start from timm's resnet101.a1h_in1k (ImageNet-1k).
# The paper's number on val starts from COCO-pretrained DeepLab weights, this recipe from ImageNet's, which is less.
# All stages, their flags and what the environment may set: voc12_chain.sh.
set -eu
export CLAIMED="74.9 on val, 74.59 on test"
exec "$(dirname "$0")/voc12_chain.sh" resnet101 resnet-101 resnet-101 "$@"
