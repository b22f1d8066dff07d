"""Stage 2b: train the affinity network, whose edges confine class activation maps to objects.

    python train_affinity.py --label_name affinity --data_dir data/voc12 --tag affinity

Reads JPEGImages and experiments/pseudo_labels/<label_name>/<id>.png, with 255 in pixels whose class is uncertain.
Writes experiments/<tag>/last.pth, with which make_pseudo_labels.py expands the maps.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.train_affinity().parse_args()  # before the heavy imports, so that --help answers at once

import torch
from torch.nn.parallel import DistributedDataParallel

from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.voc12 import SegmentationTraining, find_labelled_images
from formats.errors import InputError
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names, load_ids, photograph_folder
from models.affinity_net import build_affinity_net
from pseudo_labels.affinities import affinity_loss, pair_losses
from utils.distributed import start_processes, stop_distributed, sum_over_processes
from utils.interruption import run_script
from utils.memory import advise_on_full_memory, memory_format
from utils.precision import autocast, fastest_convolutions, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import build_optimizer, parameter_groups, polynomial_decay, set_lr
from utils.training_state import TrainingState


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
    num_labels = len(load_class_names(voc_root)) + 1
    ids = load_ids(list_path(args.list_dir, args.train_list), photograph_folder(voc_root))
    pairs = find_labelled_images(ids, voc_root, label_folder(args.label_name, voc_root))
    dataset = SegmentationTraining(*zip(*pairs), num_labels, args.crop_size, args.long_side, args.seed)
    batches = DistributedBatchSampler(len(pairs), args.train_batch, args.seed, world.rank, world.size)
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = options.backbone_settings(args)
    network = build_affinity_net(settings, "none" if run.resumes else args.pretrained)
    network = network.to(world.device, memory_format=memory_format(world.device))
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    groups = parameter_groups(network, head_factor=1.0, bias_factor=1.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)
    scaler = loss_scaler(world.device, args.amp)
    state = TrainingState("affinity", settings, network, optimizer, scaler, ids, batches)

    # resume
    state.start(run)
    run.log(f"{len(pairs)} training images, {len(batches)} steps per epoch")

    # train
    total_steps = args.max_epoch * len(batches)
    for epoch in range(state.epoch, args.max_epoch):
        title = f"epoch {epoch + 1}/{args.max_epoch}"
        for batch in state.batches_of_epoch(loader, run, title, args.save_every):
            set_lr(optimizer, polynomial_decay(state.total_steps, total_steps, args.power))
            train_step(model, state, batch, args, world)
        losses = state.finish_epoch()
        if losses["loss"] == 0:  # impossible if there is any pair
            found = f"no crop of epoch {epoch + 1} holds two labelled pixels closer than --radius {args.radius} px"
            raise InputError(f"{found}: use labels of larger areas, a larger --crop_size or a larger --radius")
        run.log_scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})
        run.log(f"{title}  loss {losses['loss']:.4f}")

        # save
        state.save(run)
    run.close()
    stop_distributed()


@advise_on_full_memory("lower --train_batch, --crop_size or --radius")
@fastest_convolutions()
def train_step(model, state: TrainingState, batch: list[torch.Tensor], args, world) -> None:
    """Take one optimizer step on images and affinity labels.

    Losses are means over the pairs of the global batch. DistributedDataParallel averages the gradients over processes,
    so the sums of each process are multiplied by `world.size`.
    """
    images, labels = batch
    state.optimizer.zero_grad(set_to_none=True)
    inputs = state.network.backbone.normalise(images)
    with autocast(world.device, args.amp):
        edge_logits = model(inputs)
    sums, counts = pair_losses(edge_logits, labels, args.radius)
    loss = affinity_loss(world.size * sums, sum_over_processes(counts))
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss})


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
