"""The scripts on real photographs and masks: every stage in turn, with tiny networks for one epoch."""

import json
import shutil

import pytest
from conftest import TINY_RESNEST, TINY_SWIN, run_main


@pytest.mark.slow
def test_every_stage(real_data, tmp_path):
    voc_root = real_data / "voc12-photos/data/voc12"
    voc = f"--data_dir {voc_root} --list_dir {real_data}/voc12-photos/voc12"
    short = f"--log_path {tmp_path} --max_epoch 1 --train_batch 16 --pretrained none"
    crops = "--crop_size 64 --long_side 64 96 --val_list none"
    ids = (real_data / "voc12-photos/voc12/train_id.txt").read_text().split()[:24]
    (tmp_path / "some.txt").write_text("\n".join(ids))

    run_main("SOD_train", f"{TINY_SWIN} --train_root {real_data}/sod/train {short} --tag sod")
    benchmark, maps = real_data / "sod/benchmark", tmp_path / "maps"
    run_main("predict", f"--load_path {tmp_path}/sod/last.pth --input {benchmark}/ECSSD --output {maps}/ECSSD")
    run_main("evaluate", f"saliency --pred {maps} --gt_root {benchmark} --json {tmp_path}/saliency.json")
    scores = json.loads((tmp_path / "saliency.json").read_text())[str(maps)]
    assert scores["ECSSD"]["images"] == 100
    assert scores["ECSSD"]["resized"] == 0

    photos = voc_root / "VOCdevkit/VOC2012/JPEGImages"
    some = f"--list {tmp_path}/some.txt"
    run_main("predict", f"--load_path {tmp_path}/sod/last.pth --input {photos} {some} --output {maps}/VOC2012")
    run_main("train_classification", f"{TINY_RESNEST} {voc} {short} {crops} --tag classifier")
    labels = f"{voc} {some} --load_path {tmp_path}/classifier/last.pth --cam_dir {tmp_path}/cams --scales 0.5"
    run_main(
        "make_pseudo_labels", f"{labels} --label_name {tmp_path}/labels --selector sos --saliency_dir {maps}/VOC2012"
    )
    run_main("evaluate", f"labels --pred {tmp_path}/labels --data_dir {voc_root} {some} --json {tmp_path}/labels.json")
    assert json.loads((tmp_path / "labels.json").read_text())[f"{tmp_path}/labels"]["images"] == 24

    train = f"--train_list {tmp_path}/some.txt --label_name {tmp_path}/labels --head_width 16 --tag segmentation"
    run_main("train_segmentation", f"{TINY_RESNEST} {voc} {short} {crops} {train}")
    run_main("predict", f"--load_path {tmp_path}/segmentation/last.pth --input {photos} {some} --output {tmp_path}/out")
    run_main("evaluate", f"segmentation --pred {tmp_path}/out --data_dir {voc_root} {some} --json {tmp_path}/s.json")
    assert json.loads((tmp_path / "s.json").read_text())[f"{tmp_path}/out"]["coverage"] == 1


@pytest.mark.slow
def test_a_small_network_learns_sixteen_pairs_by_heart(real_data, tmp_path):
    """224 px, ImageNet weights: what it saw it must find again, to MAE 0.02."""
    source = real_data / "sod/train/ECSSD"
    for image in sorted((source / "Images").iterdir())[:16]:
        for path in (image, source / "Masks" / f"{image.stem}.png"):
            target = tmp_path / "sixteen" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    weights = f"--pretrained {real_data}/weights/mobilenetv2_035_imagenet.safetensors"
    run_main(
        "SOD_train",
        f"--backbone mobilenetv2_035 {weights} --pixel_mean 0.5 0.5 0.5 --pixel_std 0.5 0.5 0.5 --workers 0"
        f" --train_root {tmp_path}/sixteen --val_root {tmp_path}/sixteen --log_path {tmp_path} --tag run"
        " --decoder_width 128 --train_batch 4 --max_epoch 100 --val_every 100 --lr 2e-3 --decay_epoch 70 90"
        " --gamma 0.3 --dropout 0 --edge_drop_path 0 --colour_jitter 0 --ema 0.98 --cache-mode full",
    )
    scores = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert scores["val/MAE"] <= 0.02
    assert scores["val/maxF"] >= 0.96
