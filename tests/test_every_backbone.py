"""Backbones that cannot be dilated, tiny and with random weights, pass through every stage on the drawn scenes."""

import shutil

import pytest
import torch
from conftest import bytes_in, labels_in, parse, run_main
from training_commands import CROPS, weights

import options
from models.builders import BUILDERS
from models.onnx_export import export_onnx

PLAIN = "--backbone_args depth=4 embed_dim=32 num_heads=2"
BACKBONES = {
    "dinov2": f"--backbone vit_small_patch14_reg4_dinov2.lvd142m {PLAIN} img_size=56",
    "vit": f"--backbone vit_tiny_patch16_224.augreg_in21k {PLAIN}",
    "swin": "--backbone swin_tiny_patch4_window7_224"
    " --backbone_args embed_dim=16 depths=1,1,1,1 num_heads=1,1,2,2 window_size=4",
    "pvt": "--backbone pvt_v2_b0 --backbone_args depths=1,1,1,1 embed_dims=8,8,16,32 num_heads=1,1,2,2",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "swin", "pvt")]


@pytest.mark.parametrize("name", ["dinov2", *SLOW])
def test_backbone_passes_through_every_stage(name, scenes, label_parts, tmp_path):
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12"
    training = f"--log_path {tmp_path} --train_batch 4 --workers 0"
    steps = f"{CROPS} --optimizer adamw --lr 1e-3 --power 0"
    photographs = f"--input {scenes}/data/VOCdevkit/VOC2012/JPEGImages --list {scenes}/voc12/val_id.txt"
    first = f"{BACKBONES[name]} --pretrained none {training}"

    sod = f"--train_root {scenes}/dataset --decoder_width 8 --image_size 70 --max_epoch 1 --tag sod"
    run_main("SOD_train", f"{first} {sod}")
    run_main("predict", f"--load_path {tmp_path}/sod/last.pth {photographs} --output {tmp_path}/maps --scales 1 1.5")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 6

    run_main("train_classification", f"{first} {voc} {steps} --max_epoch 1 --puzzle --tag classifier")
    classifier = f"{tmp_path}/classifier/last.pth"
    saliency = f"--selector evidence --saliency_dir {label_parts}/saliency"
    labels = f"--load_path {classifier} --cam_dir {tmp_path}/cams --scales 0.5 1 {saliency}"
    run_main("make_pseudo_labels", f"{voc} --label_name {tmp_path}/labels {labels} --expansion attention")
    assert {label.shape for label in labels_in(tmp_path / "labels").values()} == {(64, 80)}
    run_main("predict", f"--load_path {classifier} {photographs} --output {tmp_path}/overlays --flip")

    second = f"{BACKBONES[name]} --pretrained {classifier} {training} {voc} {steps} --label_name {tmp_path}/labels"
    run_main("train_affinity", f"{second} --max_epoch 1 --tag affinity")
    walk = f"--cam_dir {tmp_path}/cams --expanded_dir {tmp_path}/walk --affinity_path {tmp_path}/affinity/last.pth"
    run_main("make_pseudo_labels", f"{voc} --label_name {tmp_path}/walked {walk}")
    assert len(labels_in(tmp_path / "walked")) == len(labels_in(tmp_path / "labels"))

    segmentation = f"{second} --head_width 16 --tag run"
    run_main("train_segmentation", f"{segmentation} --max_epoch 2")
    shutil.move(tmp_path / "run", tmp_path / "whole")
    run_main("train_segmentation", f"{segmentation} --max_epoch 1")
    run_main("train_segmentation", f"{segmentation} --max_epoch 2 --resume")
    whole, resumed = weights(tmp_path / "whole/last.pth"), weights(tmp_path / "run/last.pth")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    prediction = f"{photographs} --scales 0.5 1.25 --flip"
    for folder in ("whole", "run"):
        run_main("predict", f"--load_path {tmp_path}/{folder}/last.pth {prediction} --output {tmp_path}/of_{folder}")
    assert len(labels_in(tmp_path / "of_run")) == 6
    assert bytes_in(tmp_path / "of_run") == bytes_in(tmp_path / "of_whole")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["classification", "segmentation"])
@pytest.mark.parametrize("name", BACKBONES)
def test_onnx_of_any_size(name, stage, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    args = parse(f"train_segmentation.py {BACKBONES[name]} --label_name x")
    settings = options.backbone_settings(args) | {"classes": ["a", "b"], "head_width": 16}
    settings |= {key: getattr(args, key) for key in ("use_gn", "mode", "output_stride")}
    assert export_onnx(BUILDERS[stage](settings), stage, settings, tmp_path / "network.onnx") < 1e-4
