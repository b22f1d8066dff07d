"""Stage 2a: train the classifier whose class activation maps find the classes.

    python train_classification.py --backbone resnest101 --data_dir data/voc12 --tag classifier

Reads JPEGImages and voc12/{cls_labels.npy, train_aug_id.txt}, no masks; writes experiments/<tag>/last.pth, from which
make_pseudo_labels.py makes maps and labels.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.train_classification().parse_args()  # before the heavy imports, so that --help answers at once

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from datasets.epoch_batches import EpochBatches, build_loader
from datasets.voc12 import ClassificationTraining
from image_files import load_image
from input_errors import run_script
from metrics.classification import mean_average_precision
from models.cam_classifier import CamClassifier, build_cam_classifier
from pseudo_labels.cams import image_tensor
from utils.distributed import (
    choose_gpus,
    gather_from_processes,
    launch_workers,
    seed_step,
    start_distributed,
    stop_distributed,
)
from utils.optimizers import build_optimizer, parameter_groups
from utils.precision import autocast, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import polynomial_decay, set_lr
from utils.training_state import TrainingState
from voc_layout import files_of_ids, find_voc_root, list_path, load_class_names, load_ids, load_image_labels

LOSS_EVERY = 10  # steps between two readings of the loss: each makes the device wait


def main(args) -> None:
    # distributed
    gpu_ids = choose_gpus(args.gpu_id, torch.cuda.device_count())
    if launch_workers(main, args, len(gpu_ids)):
        return
    world = start_distributed(gpu_ids)
    torch.manual_seed(args.seed)

    # run folder
    run = RunFolder(args.log_path, args.tag, args.resume, world.is_main, vars(args))

    # data
    voc_root = find_voc_root(args.data_dir)
    classes = load_class_names(voc_root)
    images, image_labels = load_split(args.list_dir, args.train_list, voc_root, len(classes))
    val_split = load_split(args.list_dir, args.val_list, voc_root, len(classes)) if args.val_list != "none" else None
    dataset = ClassificationTraining(images, image_labels, args.crop_size, args.long_side, args.seed)
    batches = EpochBatches(len(images), args.train_batch, args.seed, world.rank, world.size)
    batches.check_parts()
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = {**options.backbone_settings(args), "classes": list(classes)}
    network = build_cam_classifier(settings, args.pretrained).to(world.device)
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    groups = parameter_groups(network, args.head_lr, bias_factor=1.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)
    state = TrainingState(network, optimizer, loss_scaler(world.device, args.amp), len(images))

    # resume
    if run.resumes:
        state.load(run.last)
    run.start(state.total_steps)
    run.log(f"{len(images)} training images of {len(classes)} classes, {len(batches)} steps an epoch")

    # train
    total_steps = args.max_epoch * len(batches)
    for epoch in range(state.epoch, args.max_epoch):
        batches.epoch, batches.first_step = epoch, state.step
        title = f"epoch {epoch + 1}/{args.max_epoch}"
        bar = tqdm(
            loader, title, len(batches), initial=state.step, disable=not world.is_main, mininterval=1, leave=False
        )
        model.train()
        for batch in bar:
            seed_step(args.seed, epoch, state.step, world.rank)
            set_lr(optimizer, polynomial_decay(state.total_steps, total_steps, args.power))
            train_step(model, state, [tensor.to(world.device, non_blocking=True) for tensor in batch], args, world)
            if state.step % LOSS_EVERY == 0:
                bar.set_postfix(loss=f"{state.loss_sums['loss'].item() / state.step:.3f}")
            if args.save_every and state.step % args.save_every == 0 and state.step < len(batches):
                state.save(run, "classification", settings)
        losses = state.finish_epoch()
        run.scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        line, score = f"{title}  loss {losses['loss']:.4f}", None
        if val_split and (state.epoch % args.val_every == 0 or state.epoch == args.max_epoch):
            score = validate(network, *val_split, world)
            run.scalars(state.total_steps, {"val/mAP": score})
            line += f"  mAP {score:.4f}"
        run.log(line)

        # save
        state.save(run, "classification", settings, is_best=state.improves(score))
    run.close()
    stop_distributed()


def load_split(list_dir, list_name: str, voc_root, num_classes: int):
    """Image paths and image labels bool [N, C] of a list of ids."""
    ids = load_ids(list_path(list_dir, list_name))
    image_labels = load_image_labels(list_path(list_dir, "cls_labels.npy"), ids, num_classes)
    return files_of_ids(voc_root / "JPEGImages", ids, ".jpg"), image_labels


def train_step(model, state: TrainingState, batch: list[torch.Tensor], args, world) -> None:
    """One optimizer step on images and their labels."""
    images, image_labels = batch
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(world.device, args.amp):
        logits = model(state.network.backbone.normalise(images))["logits"]
    loss = F.binary_cross_entropy_with_logits(logits.float(), image_labels)
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss})


@torch.inference_mode()
def validate(network: CamClassifier, images, image_labels: np.ndarray, world) -> float:
    """mAP over whole images at their own size; each process takes its share."""
    network.eval()
    rows = []
    for index in range(world.rank, len(images), world.size):
        image = image_tensor(load_image(images[index]), world.device)
        logits = network(network.backbone.normalise(image))["logits"][0]  # [C]
        rows.append((index, logits.float().cpu().numpy()))
    rows = sorted(gather_from_processes(rows), key=lambda row: row[0])
    return mean_average_precision(np.stack([scores for _, scores in rows]), image_labels)


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
