"""Stage 3: train DeepLabV3+ on pseudo labels as if they were masks.

    CUDA_VISIBLE_DEVICES=0,1,2,3 python train_segmentation.py --backbone resnest269 --mode fix --use_gn True \\
        --tag segmentation --label_name sos --data_dir data/voc12

Reads JPEGImages and experiments/pseudo_labels/<label_name>/<id>.png (or any folder of masks, such as
SegmentationClassAug for the fully supervised upper bound); writes experiments/<tag>/last.pth for predict.py.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.train_segmentation().parse_args()  # before the heavy imports, so that --help answers at once

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from datasets.epoch_batches import EpochBatches, build_loader
from datasets.voc12 import SegmentationTraining, load_labelled
from input_errors import run_script
from label_files import IGNORE_LABEL
from metrics.segmentation import ConfusionMatrix
from models.deeplabv3plus import DeepLabV3Plus, build_deeplabv3plus
from utils.distributed import (
    add_over_processes,
    choose_gpus,
    launch_workers,
    seed_step,
    start_distributed,
    stop_distributed,
    sum_over_processes,
)
from utils.optimizers import build_optimizer, parameter_groups
from utils.precision import autocast, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import polynomial_decay, set_lr
from utils.segmentations import predict_segmentation
from utils.training_state import TrainingState
from voc_layout import files_of_ids, find_voc_root, label_folder, list_path, load_class_names, load_ids, truth_folder

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
    ids = load_ids(list_path(args.list_dir, args.train_list))
    pairs = labelled_images(ids, voc_root, label_folder(args.label_name, voc_root))
    val_ids = [] if args.val_list == "none" else load_ids(list_path(args.list_dir, args.val_list))
    val_pairs = labelled_images(val_ids, voc_root, truth_folder(voc_root, val_ids))
    dataset = SegmentationTraining(*zip(*pairs), len(classes) + 1, args.crop_size, args.long_side, args.seed)
    batches = EpochBatches(len(pairs), args.train_batch, args.seed, world.rank, world.size)
    if args.mode == "normal" or not args.use_gn:
        batches.check_parts()
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = {
        **options.backbone_settings(args),
        "classes": list(classes),
        "head_width": args.head_width,
        "use_gn": args.use_gn,
        "mode": args.mode,
    }
    network = build_deeplabv3plus(settings, args.pretrained).to(world.device)
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    groups = parameter_groups(network, args.head_lr, bias_factor=2.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)
    state = TrainingState(network, optimizer, loss_scaler(world.device, args.amp), len(pairs))

    # resume
    if run.resumes:
        state.load(run.last)
    run.start(state.total_steps)
    run.log(f"{len(pairs)} training images, {len(val_pairs)} validation images, {len(batches)} steps an epoch")

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
                state.save(run, "segmentation", settings)
        losses = state.finish_epoch()
        run.scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        line, score = f"{title}  loss {losses['loss']:.4f}", None
        if val_pairs and (state.epoch % args.val_every == 0 or state.epoch == args.max_epoch):
            score = validate(network, val_pairs, len(classes) + 1, world, args.amp)
            run.scalars(state.total_steps, {"val/mIoU": score})
            line += f"  mIoU {score:.4f}"
        run.log(line)

        # save
        state.save(run, "segmentation", settings, is_best=state.improves(score))
    run.close()
    stop_distributed()


def labelled_images(ids: list[str], voc_root, folder):
    """(image, label) paths of every id."""
    if not ids:
        return []
    return list(zip(files_of_ids(voc_root / "JPEGImages", ids, ".jpg"), files_of_ids(folder, ids, ".png")))


def train_step(model, state: TrainingState, batch: list[torch.Tensor], args, world) -> None:
    """One optimizer step on images and label maps."""
    images, labels = batch
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(world.device, args.amp):
        logits = model(state.network.backbone.normalise(images))
    loss = cross_entropy(logits.float(), labels, world)
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss})


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, world) -> torch.Tensor:
    """Mean over the labelled pixels of the global batch; 0 where it has none. logits [B, L, H, W], labels [B, H, W].

    Gradients are averaged over the processes, so each process's sum counts `world.size` times.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
    labelled = add_over_processes((labels != IGNORE_LABEL).sum())
    return world.size * total / labelled.clamp(min=1)


def validate(network: DeepLabV3Plus, pairs, num_labels: int, world, amp: bool) -> float:
    """mIoU over whole images, none dropped; each process takes its share."""
    matrix = ConfusionMatrix(num_labels)
    for image_path, label_path in pairs[world.rank :: world.size]:
        image, truth = load_labelled(image_path, label_path, num_labels)
        matrix.add(predict_segmentation(network, image, world.device, amp=amp), truth)
    matrix.counts = sum_over_processes(matrix.counts)
    return matrix.scores()["mIoU"]


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
