r"""Stage 3: train DeepLabV3+ on pseudo labels.

    CUDA_VISIBLE_DEVICES=0,1,2,3 python train_segmentation.py --backbone resnest269 --mode fix --use_gn True \
        --tag segmentation --label_name sos --data_dir data/voc12

Reads JPEGImages and experiments/pseudo_labels/<label_name>/<id>.png, or another folder of masks, such as
SegmentationClassAug for the fully supervised upper bound; --corrected replaces labels of single images. Writes
experiments/<tag>/last.pth for predict.py.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.train_segmentation().parse_args()  # before the heavy imports, so that --help answers at once

from tempfile import TemporaryDirectory

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.voc12 import SegmentationTraining, count_labels, find_labelled_images, load_labelled
from formats import voc_layout
from formats.corrections import save_corrections
from formats.errors import InputError, shorten
from formats.labels import absent_labels, paint_label
from metrics.segmentation import ConfusionMatrix
from models.deeplabv3plus import DeepLabV3Plus, build_deeplabv3plus
from models.puzzle_cam_checkpoint import from_puzzle_cam
from models.segmentation_losses import class_balanced_weights, count_pixels, sum_cross_entropy
from models.segmentation_prediction import predict_segmentation
from utils import distributed, interruption
from utils.checkpoint import load_checkpoint, load_weights
from utils.file_threads import read_ahead
from utils.memory import WHOLE_IMAGES_ADVICE, advise_on_full_memory, memory_format
from utils.precision import autocast, fastest_convolutions, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import build_optimizer, parameter_groups, polynomial_decay, set_lr, warm_up
from utils.training_state import TrainingState

PICTURES = 4  # validation images shown in TensorBoard


def main(args) -> None:
    # distributed
    world = distributed.start_processes(main, args)
    if world is None:
        return
    torch.manual_seed(args.seed)

    # run folder
    run = RunFolder(args.log_path, args.tag, args.resume, world.is_main, vars(args))

    # data
    voc_root = voc_layout.find_voc_root(args.data_dir)
    classes, photographs = voc_layout.load_class_names(voc_root), voc_layout.photograph_folder(voc_root)
    ids = voc_layout.load_ids(voc_layout.list_path(args.list_dir, args.train_list), photographs)
    pairs = find_labelled_images(ids, voc_root, voc_layout.label_folder(args.label_name, voc_root))
    temporary = TemporaryDirectory()  # of corrected labels; removed when the run ends
    if args.corrected:
        every = voc_layout.find_all_photographs(voc_root)
        corrected = save_corrections(args.corrected, temporary.name, classes, every, ids, world.is_main)
        pairs = [(image, corrected.get(name, label)) for name, (image, label) in zip(ids, pairs)]
    val_list = voc_layout.list_path(args.list_dir, args.val_list)
    val_ids = [] if args.val_list == "none" else voc_layout.load_ids(val_list, photographs)
    val_pairs = find_labelled_images(val_ids, voc_root, voc_layout.truth_folder(voc_root, val_ids)) if val_ids else []
    dataset = SegmentationTraining(*zip(*pairs), len(classes) + 1, args.crop_size, args.long_side, args.seed)
    batches = DistributedBatchSampler(len(pairs), args.train_batch, args.seed, world.rank, world.size)
    trains_batch_norm = (args.mode == "normal" and not args.freeze_backbone) or not args.use_gn
    synchronises = trains_batch_norm and world.size > 1 and world.device.type == "cuda"
    batches.check_parts(args.accumulate, norm_needs_two=trains_batch_norm and not synchronises)
    loader = build_loader(dataset, batches, args.workers, world.device)

    # model
    settings = {**options.backbone_settings(args), "classes": list(classes)}
    settings |= {name: getattr(args, name) for name in ("head_width", "use_gn", "mode", "output_stride")}
    network = build_network(settings, args, resumes=run.resumes)
    if synchronises:
        network = convert_sync_batchnorm(network)
    network = network.to(world.device, memory_format=memory_format(world.device))
    ema = ModelEmaV3(network, args.ema, use_warmup=True) if args.ema else None
    model = torch.compile(network) if args.compile else network  # `network` itself validates images of any size
    if world.size > 1:
        model = DistributedDataParallel(model, broadcast_buffers=trains_batch_norm and not synchronises)

    # optimizer
    groups = parameter_groups(network, args.head_lr, bias_factor=2.0)
    optimizer = build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)
    class_weights = compute_class_weights(dataset, args.class_balance, world) if args.class_balance else None
    scaler = loss_scaler(world.device, args.amp)
    state = TrainingState("segmentation", settings, network, optimizer, scaler, ids, batches, ema)

    # resume
    state.start(run)
    run.log(f"{len(pairs)} training images, {len(val_pairs)} validation images, {len(batches)} steps per epoch")
    absent = absent_labels(dataset.labels, len(classes) + 1) if world.is_main else []
    if absent:
        run.log(f"no label holds {shorten(classes[label - 1] for label in absent)}: these classes are not learned")

    # train
    total_steps = args.max_epoch * len(batches)
    for epoch in range(state.epoch, args.max_epoch):
        validates = val_pairs and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.max_epoch)
        title = f"epoch {epoch + 1}/{args.max_epoch}"
        for batch in state.batches_of_epoch(loader, run, title, args.save_every, validates):
            decay = polynomial_decay(state.total_steps, total_steps, args.power)
            set_lr(optimizer, decay * warm_up(state.total_steps, args.warmup_steps))
            train_step(model, state, batch, class_weights, args, world)
        losses = state.finish_epoch()
        run.log_scalars(state.total_steps, losses | {"lr": optimizer.param_groups[0]["lr"]})

        # evaluate
        line, score = f"{title}  loss {losses['loss']:.4f}", None
        if validates:
            score, pictures = validate(state.result, val_pairs, len(classes) + 1, world, args.amp)
            run.log_scalars(state.total_steps, {"val/mIoU": score})
            for name, picture in pictures.items():
                run.log_picture(state.total_steps, f"{name}: image, prediction, truth", picture)
            line += f"  mIoU {score:.4f}"
        run.log(line)

        # save
        state.save(run, is_best=state.improves(score))
    state.log_best(run, "mIoU")
    run.close()
    temporary.cleanup()
    distributed.stop_distributed()


def build_network(settings: dict, args, resumes: bool) -> DeepLabV3Plus:
    """Build the network with its initial weights: of the backbone, or all of --load_path; none for a resumed run."""
    loads = bool(args.load_path) and not resumes
    training = {"dropout": args.dropout, "freeze_backbone": args.freeze_backbone}
    network = build_deeplabv3plus(settings, "none" if resumes or loads else args.pretrained, **training)
    if loads:
        content = load_checkpoint(args.load_path, ["segmentation"], from_puzzle_cam)
        trained, classes = content["settings"].get("classes", []), settings["classes"]
        if trained and len(trained) != len(classes):
            found = f"--load_path {args.load_path} has {len(trained)} classes, the data has {len(classes)}"
            raise InputError(f"{found}: take its backbone alone by --pretrained, or correct classes.txt")
        load_weights(network, content["network"], args.load_path)
        if trained != classes and sorted(trained) == sorted(classes):
            found = f"{shorten(trained)}, not {shorten(classes)}"
            raise InputError(f"--load_path {args.load_path} has the classes in another order: {found}")
    return network


def compute_class_weights(dataset: SegmentationTraining, beta: float, world) -> torch.Tensor:
    """Compute the class weights, float32 [L], from all training labels; each process reads its share."""
    images, pixels = count_labels(world.share(dataset.labels), dataset.num_labels)
    images, pixels = (torch.from_numpy(distributed.sum_counts_over_processes(counts)) for counts in (images, pixels))
    return class_balanced_weights(images, pixels, beta).to(world.device)


@advise_on_full_memory("lower --train_batch or --crop_size, or raise --accumulate")
@fastest_convolutions()
def train_step(model, state: TrainingState, batch: list[torch.Tensor], class_weights, args, world) -> None:
    """Take one optimizer step on images and label maps (uint8 or int64); the loss is a mean over the counted pixels of
    the global batch.

    DistributedDataParallel averages the gradients over processes, so the sum of each process is multiplied by
    `world.size`. With --accumulate, the batch passes in parts whose gradients sum to those of the whole batch.
    """
    state.optimizer.zero_grad(set_to_none=True)
    count = distributed.sum_over_processes(count_pixels(batch[1], args.ohem).sum()).clamp(min=1)
    parts = list(zip(*(tensor.tensor_split(args.accumulate) for tensor in batch)))
    total = 0.0
    for number, (images, labels) in enumerate(parts, start=1):
        with distributed.gradients_stay_local(model, wait=number < len(parts)):
            inputs = state.network.backbone.normalise(images)
            with autocast(world.device, args.amp):
                logits = model(inputs)
            losses = sum_cross_entropy(logits, labels, args.label_smoothing, class_weights, args.ohem)
            loss = world.size * losses / count
            state.scaler.scale(loss).backward()
        total = total + loss.detach()
    state.take_step({"loss": total})


@interruption.at_once()
@advise_on_full_memory(WHOLE_IMAGES_ADVICE)
def validate(network: DeepLabV3Plus, pairs, num_labels: int, world, amp: bool | str) -> tuple[float, dict]:
    """Compute the mIoU over all whole images, each process taking its share; also return pictures of the first few."""
    matrix, pictures = ConfusionMatrix(num_labels), {}
    loaded = read_ahead(lambda pair: load_labelled(*pair, num_labels), world.share(pairs))
    for (image_path, _), (image, truth) in loaded:
        (prediction,) = predict_segmentation(network, image[None], world.device, amp=amp)
        matrix.add(prediction, truth)
        if len(pictures) < PICTURES:
            cells = [image, paint_label(prediction), paint_label(truth)]
            pictures[image_path.stem] = np.concatenate(cells, axis=1)  # [H, 3 W, 3]
    matrix.counts = distributed.sum_counts_over_processes(matrix.counts)
    return matrix.scores()["mIoU"], pictures


if __name__ == "__main__":
    sys.exit(interruption.run_script(main, ARGS))
