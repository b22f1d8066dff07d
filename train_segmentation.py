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
from utils.checkpoint import resume_training, save_epoch
from utils.distributed import (
    add_over_processes,
    choose_gpus,
    launch_workers,
    seed_epoch,
    start_distributed,
    stop_distributed,
    sum_over_processes,
)
from utils.optimizers import build_optimizer, parameter_groups
from utils.precision import autocast
from utils.run_folder import RunFolder
from utils.schedules import polynomial_decay, set_lr
from utils.segmentations import predict_segmentation
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
        batches.refuse_single_images()
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

    # resume
    first_epoch, best = resume_training(run.last, network, optimizer) if run.resumes else (0, -1.0)
    run.start()
    run.log(f"{len(pairs)} training images, {len(val_pairs)} validation images, {len(batches)} steps an epoch")

    # train
    for epoch in range(first_epoch, args.max_epoch):
        seed_epoch(args.seed, epoch, world.rank)
        batches.epoch = epoch
        loss = train_one_epoch(model, network, loader, optimizer, args, world, epoch)
        step = (epoch + 1) * len(batches)
        run.scalars(step, {"loss": loss, "lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        line, score = f"epoch {epoch + 1}/{args.max_epoch}  loss {loss:.4f}", None
        if val_pairs and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.max_epoch):
            score = validate(network, val_pairs, len(classes) + 1, world)
            run.scalars(step, {"val/mIoU": score})
            line += f"  mIoU {score:.4f}"
        run.log(line)

        # save
        best = save_epoch(run, "segmentation", settings, network, optimizer, epoch + 1, score, best)
    run.close()
    stop_distributed()


def labelled_images(ids: list[str], voc_root, folder):
    """(image, label) paths of every id."""
    if not ids:
        return []
    return list(zip(files_of_ids(voc_root / "JPEGImages", ids, ".jpg"), files_of_ids(folder, ids, ".png")))


def train_one_epoch(model, network: DeepLabV3Plus, loader, optimizer, args, world, epoch: int) -> float:
    """One pass over the loader, the learning rate falling at every step; returns the mean loss."""
    model.train()
    total = torch.zeros((), device=world.device)
    title = f"epoch {epoch + 1}/{args.max_epoch}"
    bar = tqdm(loader, desc=title, disable=not world.is_main, mininterval=1, leave=False)
    for step, (images, labels) in enumerate(bar, start=1):
        done = epoch * len(loader) + step - 1
        set_lr(optimizer, polynomial_decay(done, args.max_epoch * len(loader), args.power))
        images, labels = images.to(world.device, non_blocking=True), labels.to(world.device, non_blocking=True)
        with autocast(world.device, args.amp):
            logits = model(network.backbone.normalise(images))
        loss = cross_entropy(logits.float(), labels, world)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() / world.size
        if step % LOSS_EVERY == 0:
            bar.set_postfix(loss=f"{total.item() / step:.3f}")
    return add_over_processes(total).item() / step


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, world) -> torch.Tensor:
    """Mean over the labelled pixels of the global batch; 0 where it has none. logits [B, L, H, W], labels [B, H, W].

    Gradients are averaged over the processes, so each process's sum counts `world.size` times.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
    labelled = add_over_processes((labels != IGNORE_LABEL).sum())
    return world.size * total / labelled.clamp(min=1)


def validate(network: DeepLabV3Plus, pairs, num_labels: int, world) -> float:
    """mIoU over whole images, none dropped; each process takes its share."""
    matrix = ConfusionMatrix(num_labels)
    for image_path, label_path in pairs[world.rank :: world.size]:
        image, truth = load_labelled(image_path, label_path, num_labels)
        matrix.add(predict_segmentation(network, image, world.device), truth)
    matrix.counts = sum_over_processes(matrix.counts)
    return matrix.scores()["mIoU"]


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
