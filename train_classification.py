r"""Stage 2a: train the classifier whose class activation maps find the classes.

    python train_classification.py --backbone resnest101 --data_dir data/voc12 --tag classifier
    python train_classification.py --backbone resnest101 --data_dir data/voc12 --tag puzzle --puzzle
    python train_classification.py --backbone resnest101 --data_dir data/voc12 --tag eps \
        --saliency_dir experiments/saliency/ours/VOC2012

Reads JPEGImages and voc12/{cls_labels.npy, train_aug_id.txt}, no masks; writes experiments/<tag>/last.pth, from which
make_pseudo_labels.py makes maps and labels. If validation images have masks, background thresholds of the maps are
compared on them at the end.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.train_classification().parse_args()  # before the heavy imports, so that --help answers at once

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.voc12 import ClassificationTraining, load_labelled
from formats.errors import InputError, shorten
from formats.image_labels import load_image_labels
from formats.images import load_image, scale_maps
from formats.voc_layout import (
    files_of_ids,
    find_masks,
    find_photographs,
    find_voc_root,
    list_path,
    load_class_names,
    load_ids,
    photograph_folder,
)
from metrics.classification import mean_average_precision, mean_f1
from metrics.segmentation import ConfusionMatrix
from models.cam_classifier import CamClassifier, build_cam_classifier
from models.cam_losses import eps_loss, merge_tiles, puzzle_loss, puzzle_weight, split_tiles
from pseudo_labels.cams import compute_cams, image_to_tensor
from pseudo_labels.fusion_rules import constant_background
from utils import interruption
from utils.distributed import gather_from_processes, start_processes, stop_distributed, sum_counts_over_processes
from utils.file_threads import read_ahead
from utils.memory import WHOLE_IMAGES_ADVICE, advise_on_full_memory, memory_format
from utils.precision import autocast, fastest_convolutions, loss_scaler, require_finite
from utils.run_folder import RunFolder
from utils.schedules import build_optimizer, parameter_groups, polynomial_decay, set_lr
from utils.training_state import TrainingState

BG_THRESHOLDS = np.arange(1, 13) / 20  # compared at the end


def main(args) -> None:
    # distributed
    world = start_processes(main, args)
    if world is None:
        return
    torch.manual_seed(args.seed)

    # run folder
    run = RunFolder(args.log_path, args.tag, args.resume, world.is_main, vars(args))

    # data
    voc_root = find_voc_root(args.data_dir)
    classes = load_class_names(voc_root)
    images, image_labels, ids = load_split(args, args.train_list, voc_root, classes)
    val_split = load_split(args, args.val_list, voc_root, classes) if args.val_list != "none" else None
    maps = scale_maps(files_of_ids(args.saliency_dir, ids, ".png"), world.is_main) if args.saliency_dir else None
    dataset = ClassificationTraining(images, image_labels, args.crop_size, args.long_side, args.seed, maps)
    batches = DistributedBatchSampler(len(images), args.train_batch, args.seed, world.rank, world.size)
    batches.check_parts()
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = {**options.backbone_settings(args), "classes": list(classes), "background_map": bool(maps)}
    network = build_cam_classifier(settings, "none" if run.resumes else args.pretrained)
    network = network.to(world.device, memory_format=memory_format(world.device))
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    groups = parameter_groups(network, args.head_lr, bias_factor=1.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)
    scaler = loss_scaler(world.device, args.amp)
    state = TrainingState("classification", settings, network, optimizer, scaler, ids, batches)

    # resume
    state.start(run)
    run.log(f"{len(images)} training images of {len(classes)} classes, {len(batches)} steps per epoch")
    absent = [name for name, occurs in zip(classes, image_labels.any(axis=0)) if not occurs]
    if absent:
        run.log(f"no training image holds {shorten(absent)}: these classes are not learned")

    # train
    total_steps = args.max_epoch * len(batches)
    for epoch in range(state.epoch, args.max_epoch):
        validates = val_split and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.max_epoch)
        title = f"epoch {epoch + 1}/{args.max_epoch}"
        for batch in state.batches_of_epoch(loader, run, title, args.save_every, validates):
            set_lr(optimizer, polynomial_decay(state.total_steps, total_steps, args.power))
            train_step(model, state, batch, puzzle_weight(state.total_steps, total_steps), args, world)
        losses = state.finish_epoch()
        run.log_scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        line, score = f"{title}  loss {losses['loss']:.4f}", None
        if validates:
            score, f1 = validate(network, *val_split[:2], world)
            run.log_scalars(state.total_steps, {"val/mAP": score, "val/F1": f1})
            line += f"  mAP {score:.4f}  F1 {f1:.4f}"
        run.log(line)

        # save
        state.save(run, is_best=state.improves(score))
    state.log_best(run, "mAP")
    if val_split:
        sweep_background(network, *val_split, voc_root, run, world)
    run.close()
    stop_distributed()


def load_split(args, list_name: str, voc_root, classes: tuple[str, ...]):
    """Load image paths, image labels (bool [N, C]) and ids of a list; raises `InputError` if no image has a class."""
    ids = load_ids(list_path(args.list_dir, list_name), photograph_folder(voc_root))
    image_labels = load_image_labels(list_path(args.list_dir, args.image_labels), ids, classes)
    if not image_labels.any():
        labels = f"--image_labels {args.image_labels}"
        found = f"{list_name}: by {labels} none of the {len(ids)} images holds a class"
        raise InputError(f"{found}: choose other labels, or correct the list")
    return find_photographs(voc_root, ids), image_labels, ids


@advise_on_full_memory("lower --train_batch or --crop_size")
@fastest_convolutions()
def train_step(model, state: TrainingState, batch: list[torch.Tensor], alpha: float, args, world) -> None:
    """Take one optimizer step on images, their labels and, for EPS, saliency maps; `alpha` weights the puzzle loss."""
    images, image_labels, *saliency = batch
    state.optimizer.zero_grad(set_to_none=True)
    inputs = state.network.backbone.normalise(images)
    with autocast(world.device, args.amp):
        output = model(inputs)
        merged = merge_tiles(model(split_tiles(inputs))["maps"]).float() if args.puzzle else None
    losses = {"classification": F.binary_cross_entropy_with_logits(output["logits"].float(), image_labels)}
    if args.puzzle:
        class_maps = merged[:, : image_labels.shape[1]]
        losses["tiles"] = F.binary_cross_entropy_with_logits(class_maps.mean(dim=(2, 3)), image_labels)
        losses["puzzle"] = alpha * puzzle_loss(output["class_maps"].float(), class_maps, image_labels)
    if saliency:
        losses["saliency"] = eps_loss(output["maps"].float(), image_labels, saliency[0].float() / 255)
    loss = sum(losses.values())
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss} | (losses if len(losses) > 1 else {}))


@interruption.at_once()
@advise_on_full_memory(WHOLE_IMAGES_ADVICE)
@torch.inference_mode()
def validate(network: CamClassifier, images, image_labels: np.ndarray, world) -> tuple[float, float]:
    """Compute mAP and macro F1 (at probability 0.5) over images at their own size; each process takes its share."""
    network.eval()
    rows = []
    for index, image in read_ahead(lambda index: load_image(images[index]), world.share(range(len(images)))):
        image = image_to_tensor(image, world.device)
        logits = network(network.backbone.normalise(image))["logits"][0]  # [C]
        rows.append((index, require_finite(logits.float()).cpu().numpy()))
    rows = sorted(gather_from_processes(rows), key=lambda row: row[0])
    scores = np.stack([scores for _, scores in rows])  # [N, C]
    return mean_average_precision(scores, image_labels), mean_f1(scores > 0, image_labels)


@interruption.at_once()
@advise_on_full_memory(WHOLE_IMAGES_ADVICE)
@torch.inference_mode()
def sweep_background(network: CamClassifier, images, image_labels: np.ndarray, ids, voc_root, run, world) -> None:
    """Log the mIoU of single-scale CAM labels by background threshold, over the images with masks."""
    network.eval()
    num_labels, truth = image_labels.shape[1] + 1, find_masks(voc_root, ids)
    if not truth:
        return
    matrices = {background: ConfusionMatrix(num_labels) for background in BG_THRESHOLDS}
    for index in world.share(range(len(images))):
        if ids[index] in truth and image_labels[index].any():
            image, mask = load_labelled(images[index], truth[ids[index]], num_labels)
            ((cams, labels),) = compute_cams(network, image[None], image_labels[[index]], world.device)
            for background, matrix in matrices.items():
                matrix.add(constant_background(cams, labels, bg_threshold=background), mask)
    for matrix in matrices.values():
        matrix.counts = sum_counts_over_processes(matrix.counts)
    scores = [f"{background:.2f}: {100 * matrix.scores()['mIoU']:.1f}" for background, matrix in matrices.items()]
    run.log("mIoU of CAM labels by background threshold, validation images, one scale:")
    run.log(f"  {'  '.join(scores)}")


if __name__ == "__main__":
    sys.exit(interruption.run_script(main, ARGS))
