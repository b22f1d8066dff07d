"""Backbones from timm, by the README's names or any timm name, as modules that return feature maps.

`Backbone.channels` and `.strides` describe the maps, so that no decoder depends on a backbone's name.
"""

import difflib
import logging
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.errors import InputError, first_line
from models.backbone_weights import check_all_loaded, check_hub_weights, read_weights, strip_prefix
from utils.checkpoint import load_checkpoint, load_weights

README_NAMES = {
    "swin-small": "swin_small_patch4_window7_224.ms_in22k",
    "swin-base": "swin_base_patch4_window7_224.ms_in22k",
    "swin-base-224": "swin_base_patch4_window7_224.ms_in22k",
    "swin-base-384": "swin_base_patch4_window12_384.ms_in22k",
    "swin-large": "swin_large_patch4_window7_224.ms_in22k",
    "swinv2-base": "swinv2_base_window16_256.ms_in1k",
    "resnet-50": "resnet50.a1_in1k",
    "resnet-101": "resnet101.a1h_in1k",
    "resnet-152": "resnet152.a1h_in1k",
    "pool-s24": "poolformer_s24.sail_in1k",
    "pool-s36": "poolformer_s36.sail_in1k",
    "pool-m36": "poolformer_m36.sail_in1k",
    "pool-m48": "poolformer_m48.sail_in1k",
    "mobilenetv2": "mobilenetv2_100.ra_in1k",
    "resnest14": "resnest14d.gluon_in1k",
    "resnest26": "resnest26d.gluon_in1k",
    "resnest50": "resnest50d.in1k",
    "resnest101": "resnest101e.in1k",
    "resnest200": "resnest200e.in1k",
    "resnest269": "resnest269e.in1k",
}
WEIGHT_ARGS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
PYTHON_ERRORS = (TypeError, ValueError, KeyError, IndexError)  # for wrong settings; messages are about timm's code
NUM_STAGES = 4
DILATED_LAYERS = {16: ("layer4",), 8: ("layer3", "layer4")}  # of a ResNeSt, by output stride
UNUSUAL_SIDE_PX = 100  # for which no network was made


class Backbone(nn.Module):
    """Feature maps of a timm network.

    forward: images float [B, 3, H, W], normalised by `mean` and `std` → list of maps [B, channels[i],
    H / strides[i], W / strides[i]] (rounded), finest first; four maps unless built with `all_stages`.
    Images are enlarged, not padded, to sides that are multiples of `multiple_px`, so that the cells of a map tile
    exactly the image. It is 1 for networks that pad by themselves, whose last cells lie at the borders.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], multiple_px: int = 1):
        super().__init__()
        self.network = network
        self.channels: list[int] = list(network.feature_info.channels())
        self.strides: list[int] = list(network.feature_info.reduction())
        self.gives_nhwc = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.multiple_px = multiple_px
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.multiple_px > 1:
            px = self.multiple_px
            size_hw = [(side + px - 1) // px * px for side in images.shape[-2:]]  # ONNX would truncate -(-side // px)
            images = F.interpolate(images, size_hw, mode="bilinear")  # [B, 3, H', W']
        features = self.network(images)  # each [B, C, H' / s, W' / s] or [B, H' / s, W' / s, C]
        if self.gives_nhwc:
            features = [maps.permute(0, 3, 1, 2) for maps in features]  # [B, C, H' / s, W' / s]
        return features  # R1 … R4: [B, C_i, H' / s_i, W' / s_i]

    def normalise(self, images: Tensor) -> Tensor:
        """RGB 0..255, uint8 or float [B, 3, H, W] → float32, by mean and deviation of the pretraining data.

        The result is contiguous: the network's weights alone choose the memory format of its layers.
        """
        return (images.contiguous().float() / 255 - self.mean) / self.std

    @torch.no_grad()
    def check_sides(self, sides_px, flags: str, is_chosen: bool = True) -> None:
        """Raise `InputError`, naming the flags, for a side of square images that the network cannot process.

        Leaves the backbone in eval mode. is_chosen: whether the user can choose the size.
        """
        for side in sides_px:
            try:
                self.eval()(self.mean.new_zeros(1, 3, side, side))
            except Exception as error:  # each network with maps of fixed sizes fails in its own way
                size = self.network.pretrained_cfg["input_size"][-1]
                found = f"{flags}: the backbone cannot process {side}×{side} px ({first_line(error)})"
                choice = f"{size} px, for which it was made, or another --backbone"
                raise InputError(f"{found}: choose {choice if is_chosen else 'one for images of any size'}") from error

    def recompute_activations(self) -> None:
        """Store only the outputs of timm's blocks in training, and recompute the rest for the gradients."""
        parts = [part for part in self.network.modules() if hasattr(part, "grad_checkpointing")]
        blocks = [part for part in parts if part is not self.network]  # the network itself recomputes whole stages
        if not parts:
            raise InputError("--grad_checkpointing: timm cannot recompute the activations of this --backbone")
        for part in blocks or parts:
            part.grad_checkpointing = True


def find_timm_name(name: str) -> str:
    """The timm name of a backbone. Raises `InputError` that suggests others."""
    if name in README_NAMES:
        return README_NAMES[name]
    if timm.is_model(name):
        return name
    close = difflib.get_close_matches(name, [*README_NAMES, *timm.list_models()], n=5, cutoff=0.5)
    choice = f"choose a timm name, such as {', '.join(close or README_NAMES)}"
    raise InputError(f"network {name} is unknown: {choice}")


def build_backbone(
    settings: dict,
    pretrained: str = "none",
    image_size: int | None = None,
    output_stride: int | None = None,
    all_stages: bool = False,
) -> Backbone:
    """Build the backbone described by `settings`.

    settings:
        backbone        a README name or any timm name
        backbone_args   dict passed on to timm (embed_dim=32, depths=(2, 2, 2, 2), channels=(16, 32, 64, 128) …)
        pixel_mean      three numbers in 0..1, RGB; None: those of the pretrained weights according to timm
        pixel_std       three numbers above 0, RGB; None: as for pixel_mean
    pretrained: "imagenet" (from the hub), "none" (random weights), or the path of a weights file: one of timm, or a
        checkpoint of this project, from which the backbone is loaded.
    output_stride: 8 or 16 dilates the networks that timm can dilate. Others keep their stride: 32 for pyramids, the
        patch size for plain transformers. If given, the network has to process images of any size.
    all_stages: return all maps of the network (a ResNet has a fifth, of stride 2) instead of the last four.

    Raises `InputError` for unknown names and settings, and for weights that are missing or do not fit.
    """
    name, backbone_args = settings["backbone"], settings["backbone_args"]
    full_name, refused = find_timm_name(name), WEIGHT_ARGS.intersection(backbone_args)
    if refused:  # checkpoints of others must not make timm load files or addresses
        raise InputError(f"--backbone_args must not contain {min(refused)}: set the weights by --pretrained")
    weights, is_own = (None, False) if pretrained in ("imagenet", "none") else read_weights(pretrained)
    source = {"pretrained": pretrained != "none" and not is_own}
    options = collect_timm_options(full_name, image_size, all_stages) | backbone_args
    if pretrained == "imagenet":
        check_hub_weights(full_name)
    try:
        options |= choose_timm_options(full_name, options, output_stride) | backbone_args
        if weights is not None and not is_own:
            logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # it lists all weights of a wrong file
            weights = strip_prefix(weights, full_name, backbone_args)
            source |= {"pretrained_cfg_overlay": {"state_dict": dict(weights)}}
        network = timm.create_model(full_name, **options, **source)
    except Exception as error:  # timm passes the settings on to code that fails in many ways
        given = "".join(f" {key}={value}" for key, value in backbone_args.items())
        settings = f" --backbone_args{given} and" if given else ""
        reason = first_line(error)
        if given and type(error) in PYTHON_ERRORS and "unexpected keyword" not in reason:
            reason = "check the values of --backbone_args"
        found = f"--backbone {name} cannot be built with{settings} --pretrained {pretrained}"
        raise InputError(f"{found} (imagenet, none, or the file of its weights): {reason}") from error
    for part in network.modules():  # timm keeps the weights of the file there
        getattr(part, "pretrained_cfg", {}).pop("state_dict", None)
    if "resnest" in full_name:
        keep_pools_at_stride_1(network, DILATED_LAYERS.get(options.get("output_stride"), ()))
    mean, std = (settings[f"pixel_{name}"] or network.pretrained_cfg[name] for name in ("mean", "std"))
    strides, undilated = network.feature_info.reduction(), output_stride and "output_stride" not in options
    tiles = undilated or full_name.startswith("swin") or is_plain(strides)
    backbone = Backbone(network, mean, std, multiple_px=strides[-1] if tiles else 1)
    if undilated:
        backbone.check_sides([UNUSUAL_SIDE_PX], f"--backbone {name}", is_chosen=False)
    if is_own:
        load_weights(backbone, weights, f"--pretrained {pretrained}")
    elif weights is not None:
        check_all_loaded(network, weights, pretrained)
    return backbone


def load_feature_network(features: str, pretrained: str, device) -> Backbone:
    """Load a network for its features: a README or timm name with its weights, or a checkpoint of any stage."""
    settings, path = {"backbone": features, "backbone_args": {}, "pixel_mean": None, "pixel_std": None}, Path(features)
    if path.exists() or path.suffix == ".pth" or len(path.parts) > 1:
        settings, pretrained = load_checkpoint(features)["settings"], features
    torch.manual_seed(0)  # random weights are equal in all processes and runs
    try:
        backbone = build_backbone(settings, pretrained)
    except KeyError as error:
        raise InputError(f"--features {features} cannot be used: the settings of its network lack {error}") from error
    backbone.check_sides([UNUSUAL_SIDE_PX], "--features", is_chosen=False)
    return backbone.eval().to(device)


def collect_timm_options(full_name: str, image_size: int | None, all_stages: bool) -> dict:
    """Arguments of `timm.create_model` for four maps (or all maps) of images of any size."""
    options = {"features_only": True} | ({} if all_stages else {"out_indices": tuple(range(-NUM_STAGES, 0))})
    if full_name.startswith("swin"):
        options |= {"strict_img_size": False} | ({"img_size": -(-image_size // 4) * 4} if image_size else {})
    if full_name.startswith("swin_"):
        options |= {"always_partition": True}  # a network built at 224 px would not shift windows in its last stage
    return options


def choose_timm_options(full_name: str, options: dict, output_stride: int | None) -> dict:
    """Further arguments, as far as timm accepts them: the output stride, or, for a plain transformer, images of any
    size and four evenly spaced blocks.
    """
    further = ([{"output_stride": output_stride}] if output_stride else []) + [{"dynamic_img_size": True}, {}]
    for extra in further:
        try:
            with torch.device("meta"):
                info = timm.create_model(full_name, **(extra | options)).feature_info
        except (TypeError, AssertionError):  # by which networks refuse arguments
            if not extra:
                raise
            continue
        if is_plain([block["reduction"] for block in info.info]):
            quarter = len(info.info) / NUM_STAGES
            return extra | {"out_indices": [int(quarter * stage) - 1 for stage in range(1, NUM_STAGES + 1)]}
        if extra.get("output_stride") in (None, info.reduction()[-1]):
            break
    return extra


def is_plain(strides: list[int]) -> bool:
    """Whether all maps have one size, as in a plain transformer (ViT, DINO)."""
    return len(set(strides)) == 1


def keep_pools_at_stride_1(network: nn.Module, dilated_layers: tuple[str, ...]) -> None:
    """Restore the original pooling in the first block of each dilated layer of a ResNeSt, in place.

    The original network keeps the 3×3 average pool, at stride 1, and does not pool the shortcut; timm drops the first
    and pools the second. Published DeepLab weights on ResNeSt need the original.
    """
    for layer in dilated_layers:
        block = getattr(network, layer)[0]
        for place in ("avd_first", "avd_last"):
            if getattr(network.layer2[0], place) is not None:  # where blocks of stride 2 have theirs
                setattr(block, place, nn.AvgPool2d(kernel_size=3, stride=1, padding=1))
        if block.downsample is not None:  # there is none where width and size stay the same
            block.downsample[0] = nn.Identity()
