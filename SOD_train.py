"""Stage 1: train the salient object network on images with object masks.

    python SOD_train.py --train_root dataset --tag sod                          all visible GPUs, or the CPU
    python SOD_train.py --train_root dataset --tag sod --gpu_id 1               one GPU
    torchrun --nproc_per_node 4 SOD_train.py --train_root dataset --tag sod     workers started from outside

Reads <data set>/{Images,Masks}; writes experiments/<tag>/ with last.pth, which predict.py turns into maps.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.SOD_train().parse_args()  # before the heavy imports, so that --help answers at once

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from datasets.epoch_batches import EpochBatches, build_loader
from datasets.saliency_folder import SaliencyTraining, cached_share, load_pair
from input_errors import run_script
from metrics.saliency import SaliencyMetrics
from models.saliency_losses import saliency_objective
from models.saliency_net import SaliencyNet, build_saliency_net
from saliency_layout import saliency_pairs, training_pairs
from utils.checkpoint import resume_training, save_epoch
from utils.distributed import (
    choose_gpus,
    launch_workers,
    seed_epoch,
    start_distributed,
    stop_distributed,
    sum_over_processes,
)
from utils.precision import autocast
from utils.run_folder import RunFolder
from utils.saliency_maps import predict_saliency
from utils.schedules import set_lr, step_decay

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
    pairs = training_pairs(args.train_root)
    val_pairs = saliency_pairs(args.val_root) if args.val_root else []
    cached = cached_share(args.cache_mode, len(pairs), world.rank, world.size)
    dataset = SaliencyTraining(pairs, args.image_size, args.seed, cached, args.colour_jitter)
    batches = EpochBatches(len(pairs), args.train_batch, args.seed, world.rank, world.size)
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = {
        **options.backbone_settings(args),
        "decoder_width": args.decoder_width,
        "image_size": args.image_size,
    }
    network = build_saliency_net(settings, args.pretrained, dropout=args.dropout, edge_drop_path=args.edge_drop_path)
    network = network.to(world.device)
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    optimizer = torch.optim.Adam([{"params": network.parameters(), "initial_lr": args.lr}], lr=args.lr)

    # resume
    first_epoch, best = resume_training(run.last, network, optimizer) if run.resumes else (0, -1.0)
    run.start()
    run.log(f"{len(pairs)} training pairs, {len(val_pairs)} validation pairs, {len(batches)} steps an epoch")

    # train
    for epoch in range(first_epoch, args.max_epoch):
        seed_epoch(args.seed, epoch, world.rank)
        set_lr(optimizer, step_decay(epoch, args.decay_epoch, args.gamma))
        batches.epoch = epoch
        losses = train_one_epoch(model, network, loader, optimizer, args, world, f"epoch {epoch + 1}/{args.max_epoch}")
        run.scalars((epoch + 1) * len(batches), losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        scores = {}
        if val_pairs and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.max_epoch):
            scores = validate(network, val_pairs, args.image_size, world)
            run.scalars((epoch + 1) * len(batches), {f"val/{name}": value for name, value in scores.items()})
        line = "  ".join(f"{name} {value:.4f}" for name, value in (losses | scores).items())
        run.log(f"epoch {epoch + 1}/{args.max_epoch}  {line}")

        # save
        best = save_epoch(run, "saliency", settings, network, optimizer, epoch + 1, scores.get("maxF"), best)
    run.close()
    stop_distributed()


def train_one_epoch(model, network: SaliencyNet, loader, optimizer, args, world, title: str) -> dict[str, float]:
    """One pass over the loader; returns the mean of each loss."""
    model.train()
    sums: dict[str, torch.Tensor] = {}
    bar = tqdm(loader, desc=title, disable=not world.is_main, mininterval=1, leave=False)
    for step, (images, masks) in enumerate(bar, start=1):
        images, masks = images.to(world.device, non_blocking=True), masks.to(world.device, non_blocking=True)
        with autocast(world.device, args.amp):
            outputs = model(network.backbone.normalise(images))
        losses = saliency_objective(to_float32(outputs), masks, args.edge_loss)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if args.clip > 0:
            torch.nn.utils.clip_grad_value_(network.parameters(), args.clip)
        optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach()
        if step % LOSS_EVERY == 0:
            bar.set_postfix(loss=f"{sums['loss'].item() / step:.3f}")
    return {name: value.item() / step for name, value in sums.items()}


def to_float32(outputs: dict) -> dict:
    return {"saliency": [logits.float() for logits in outputs["saliency"]], "edge": outputs["edge"].float()}


def validate(network: SaliencyNet, pairs, image_size: int, world) -> dict[str, float]:
    """Scores of every validation image at its own size; each process takes its share."""
    metrics = SaliencyMetrics()
    for image_path, mask_path in pairs[world.rank :: world.size]:
        image, mask = load_pair(image_path, mask_path)
        (saliency,) = predict_saliency(network, [image], image_size, world.device)
        metrics.add(saliency, mask)
    return SaliencyMetrics.from_state(sum_over_processes(metrics.state)).scores()


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
