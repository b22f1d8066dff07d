"""Stage 1: train the salient object network on images with object masks.

    python SOD_train.py --train_root dataset --tag sod                          all visible GPUs, or the CPU
    python SOD_train.py --train_root dataset --tag sod --gpu_id 1               one GPU
    torchrun --nproc_per_node 4 SOD_train.py --train_root dataset --tag sod     under torchrun

Reads <data set>/{Images,Masks}; writes experiments/<tag>/last.pth, from which predict.py makes saliency maps.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.SOD_train().parse_args()  # before the heavy imports, so that --help answers at once

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate

from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.saliency_folder import SaliencyTraining, cached_share, load_pair
from formats.images import scale_maps
from formats.saliency_layout import benchmark_pairs, edge_paths, training_pairs
from metrics.saliency import STATE_SIZE, measure_map, score_states
from models.edge_head import edge_target
from models.saliency_and_edge_losses import saliency_objective, to_unit_range
from models.saliency_net import SaliencyNet, build_saliency_net
from models.saliency_prediction import COARSEST_STRIDE, predict_saliency, scale_side
from utils import interruption
from utils.distributed import gradients_stay_local, start_processes, stop_distributed, sum_counts_over_processes
from utils.file_threads import read_ahead
from utils.memory import advise_on_full_memory
from utils.precision import autocast, fastest_convolutions, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import build_optimizer, parameter_groups, set_lr, step_decay, warm_up
from utils.training_state import TrainingState

VAL_BATCH = 8
VAL_MEASURES = ("MAE", "maxF", "meanF", "adpF", "S", "maxE")
PICTURE_ROWS = 4


def main(args) -> None:
    # distributed
    world = start_processes(main, args)
    if world is None:
        return
    torch.manual_seed(args.seed)

    # run folder
    run = RunFolder(args.log_path, args.tag, args.resume, world.is_main, vars(args))

    # data
    pairs = training_pairs(args.train_root)
    edges = scale_maps(edge_paths(args.edge_dir, pairs), world.is_main) if args.edge_dir else None
    val_sets = benchmark_pairs(args.val_root)
    cached = cached_share(args.cache_mode, len(pairs), world.rank, world.size)
    dataset = SaliencyTraining(pairs, args.seed, edges, cached, args.colour_jitter)
    sides_px = [scale_side(args.image_size, scale) for scale in args.train_scales]
    batches = DistributedBatchSampler(len(pairs), args.train_batch, args.seed, world.rank, world.size, sides_px)
    batches.check_parts(args.accumulate, norm_needs_two=min(sides_px) <= COARSEST_STRIDE)
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = options.backbone_settings(args) | {"decoder_width": args.decoder_width, "image_size": args.image_size}
    pretrained = "none" if run.resumes else args.pretrained
    network = build_saliency_net(settings, pretrained, dropout=args.dropout, edge_drop_path=args.edge_drop_path)
    # also on CPUs, where only the split attention of the other scripts' ResNeSts is slow in this layout
    network = network.to(world.device, memory_format=torch.channels_last)
    network.backbone.check_sides(set(sides_px), "--image_size or --train_scales")
    ema = ModelEmaV3(network, args.ema, use_warmup=True) if args.ema else None
    if args.grad_checkpointing:
        network.backbone.recompute_activations()
    if args.compile:
        network.compile()
    model = DistributedDataParallel(network) if world.size > 1 else network

    # optimizer
    groups = parameter_groups(network, args.head_lr, bias_factor=1.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, weight_decay=args.weight_decay)
    names = [str(image) for image, _ in pairs]
    scaler = loss_scaler(world.device, args.amp)
    state = TrainingState("saliency", settings, network, optimizer, scaler, names, batches, ema)

    # resume
    state.start(run)
    num_val = sum(map(len, val_sets.values()))
    run.log(f"{len(pairs)} training pairs, {num_val} validation pairs, {len(batches)} steps per epoch")

    # train
    for epoch in range(state.epoch, args.max_epoch):
        validates = (epoch + 1) % args.val_every == 0 or epoch + 1 == args.max_epoch
        title = f"epoch {epoch + 1}/{args.max_epoch}"
        for batch in state.batches_of_epoch(loader, run, title, args.save_every, validates):
            decay = step_decay(epoch, args.decay_epoch, args.gamma)
            set_lr(optimizer, decay * warm_up(state.total_steps, args.warmup_steps))
            train_step(model, state, batch, args)
        losses = state.finish_epoch()
        run.log_scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        scores = {}
        if validates:
            scores = validate(state.result, val_sets, args.image_size, world, args.amp)
            run.log_scalars(state.total_steps, {f"val/{name}": value for name, value in scores.items()})
            if world.is_main:
                picture = progress_picture(state.result, dataset, batches, world.device)
                run.log_picture(state.total_steps, "image, mask, map, edge target, edge", picture)
        line = "  ".join(f"{name} {value:.4f}" for name, value in (losses | scores).items())
        run.log(f"{title}  {line}")

        # save
        state.save(run, is_best=state.improves(scores.get("maxF")))
    state.log_best(run, "maxF")
    run.close()
    stop_distributed()


@advise_on_full_memory("lower --train_batch or --image_size, raise --accumulate, or set --grad_checkpointing")
@fastest_convolutions()
def train_step(model, state: TrainingState, batch: list[torch.Tensor], args) -> None:
    """Take one optimizer step on a batch of images, masks and, with --edge_dir, edges; losses are means over the batch.

    Masks and edges are uint8 0..255 or float 0..1. With --accumulate, the batch passes in parts whose gradients sum to
    those of the whole batch.
    """
    state.optimizer.zero_grad(set_to_none=True)
    parts = list(zip(*(tensor.tensor_split(args.accumulate) for tensor in batch)))
    sums: dict[str, torch.Tensor] = {}
    for number, (images, masks, *edges) in enumerate(parts, start=1):
        share = len(images) / len(batch[0])
        with gradients_stay_local(model, wait=number < len(parts)):
            inputs = state.network.backbone.normalise(images)
            with autocast(images.device, args.amp):
                outputs = model(inputs)
            losses = saliency_objective(outputs, to_unit_range(masks), args.edge_loss, *map(to_unit_range, edges))
            state.scaler.scale(losses["loss"] * share).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() * share
    state.take_step(sums, args.clip)


@interruption.at_once()
def validate(network: SaliencyNet, data_sets: dict, image_size: int, world, amp: bool | str) -> dict[str, float]:
    """Compute the `VAL_MEASURES` of evaluate.py over all images at their own size; each process takes its share.

    Of several data sets, returns the scores of each under its name, and their means.
    """
    scores = {}
    for name, pairs in data_sets.items():
        state, share = np.zeros(STATE_SIZE), world.share(pairs)
        batches = [share[first : first + VAL_BATCH] for first in range(0, len(share), VAL_BATCH)]
        for _, loaded in read_ahead(lambda batch: [load_pair(*pair) for pair in batch], batches):
            images, masks = zip(*loaded)
            maps = predict_saliency(network, list(images), image_size, world.device, amp=amp)
            for saliency, mask in zip(maps, masks):
                state += measure_map(saliency, mask, weighted_f=False)
        total = score_states(sum_counts_over_processes(state))
        scores[name] = {measure: float(total[measure]) for measure in VAL_MEASURES}
    each = {f"{name}/{measure}": value for name, row in scores.items() for measure, value in row.items()}
    means = {name: float(np.mean([row[name] for row in scores.values()])) for name in VAL_MEASURES if scores}
    return means | (each if len(scores) > 1 else {})


@torch.inference_mode()
def progress_picture(network: SaliencyNet, dataset, batches: DistributedBatchSampler, device) -> np.ndarray:
    """Draw a few images of the last step of the epoch, RGB uint8, a row each: image, mask, map, edge target, edge."""
    samples = [dataset[key] for key in batches.last_keys()[:PICTURE_ROWS]]
    images, masks, *edges = (tensor.to(device) for tensor in default_collate(samples))
    masks = to_unit_range(masks)
    edges = to_unit_range(edges[0]) if edges else edge_target(masks)
    outputs = network.eval()(network.backbone.normalise(images))
    greys = [masks, outputs["saliency"][0].sigmoid(), edges, outputs["edge"].sigmoid()]
    cells = [images] + [(grey.float() * 255).to(torch.uint8).expand(-1, 3, -1, -1) for grey in greys]
    rows = torch.cat(cells, dim=3)  # [N, 3, S, 5 S]
    return rows.permute(0, 2, 3, 1).flatten(end_dim=1).cpu().numpy()  # [N S, 5 S, 3]


if __name__ == "__main__":
    sys.exit(interruption.run_script(main, ARGS))
