"""Backbones from timm, by the README's names or any timm name, as modules that give four feature maps.

`Backbone.channels` and `.strides` tell decoders what to expect; no decoder knows a backbone's name.
"""

import difflib
from pathlib import Path

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models import load_state_dict
from torch import Tensor, nn

from input_errors import InputError, MissingInputError, first_line

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
NOT_IN_TIMM = ("swinmlp-base", "wavemlp-s", "wavemlp-m")
NUM_STAGES = 4
HUB_TIMEOUT_S = 10


class Backbone(nn.Module):
    """The last four feature maps of a timm network.

    forward: images float [B, 3, H, W], normalised by `mean` and `std` → list of four maps [B, channels[i],
    H / strides[i], W / strides[i]] (rounded up), finest first.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = network
        self.channels: list[int] = list(network.feature_info.channels())
        self.strides: list[int] = list(network.feature_info.reduction())
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.network(images)  # 4 × [B, C, H / s, W / s] or [B, H / s, W / s, C]
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return features

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] RGB → float32, with the mean and standard deviation the weights were trained with."""
        return (images.float() / 255 - self.mean) / self.std


def timm_name(name: str) -> str:
    """The timm name of a backbone. Raises `InputError` that lists the choices for an unknown one."""
    if name in README_NAMES:
        return README_NAMES[name]
    if name in NOT_IN_TIMM:
        raise InputError(f"--backbone {name}: timm has no such network; choose from {', '.join(README_NAMES)}")
    if timm.is_model(name) and has_known_tag(name):
        return name
    close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
    hint = f", such as {', '.join(close)}" if close else ""
    raise InputError(f"--backbone {name} is unknown; choose from {', '.join(README_NAMES)}, or any timm name{hint}")


def has_known_tag(name: str) -> bool:
    """Whether the part of a timm name behind its dot, if there is one, names weights that timm knows."""
    try:
        return timm.get_pretrained_cfg(name) is not None or "." not in name
    except RuntimeError:
        return False


def build_backbone(
    settings: dict, pretrained: str = "none", image_size: int | None = None, output_stride: int | None = None
) -> Backbone:
    """Builds the backbone that `settings` describe:

        backbone        a README name or any timm name
        backbone_args   goes to timm as it is (embed_dim=32, depths=(2, 2, 2, 2), channels=(16, 32, 64, 128) …)
        pixel_mean      three numbers in 0..1, RGB, or None: what timm says the weights were trained with
        pixel_std       likewise

    `pretrained`: "imagenet" (from the hub), "none" (random), or the path of a weights file: timm's own, or a
    checkpoint of this project, whose backbone is taken. `output_stride` 8 or 16 dilates convolutional networks.
    Raises `InputError` for unknown names and settings, and when weights cannot be had.
    """
    name = settings["backbone"]
    full_name = timm_name(name)
    options = {"features_only": True, "out_indices": tuple(range(-NUM_STAGES, 0)), **settings["backbone_args"]}
    if full_name.startswith("swin"):
        options |= {"strict_img_size": False} | ({"img_size": image_size} if image_size else {})
    if full_name.startswith("swin_"):
        options |= {"always_partition": True}  # else a network built at 224 px never shifts windows in its last stage
    if full_name.startswith("swin") and image_size and image_size % 4:
        raise InputError(f"--image_size {image_size}: {name} needs a multiple of 4")
    if output_stride:
        options |= {"output_stride": output_stride}
    own_checkpoint = None
    if pretrained == "imagenet":
        check_hub_weights(name, full_name)
        options |= {"pretrained": True}
    elif pretrained != "none":
        own_checkpoint = read_own_checkpoint(pretrained)
        if own_checkpoint is None:
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": pretrained}}
    try:
        network = timm.create_model(full_name, **options)
    except Exception as error:  # timm passes the settings on to code that fails in many ways
        reason = f"--backbone {name} cannot be built with {settings['backbone_args']}"
        if pretrained not in ("imagenet", "none"):
            reason += f" and the weights {pretrained} (are they of the same network?)"
        if pretrained == "imagenet":
            reason += " and ImageNet weights from the hub (or use --pretrained PATH, --pretrained none)"
        raise InputError(f"{reason}: {first_line(error)}") from error
    if len(network.feature_info.channels()) != NUM_STAGES:
        raise InputError(
            f"--backbone {name} gives {len(network.feature_info.channels())} feature maps, not {NUM_STAGES}"
        )
    if output_stride == 16 and "resnest" in full_name:
        keep_pool_at_stride_1(network)
    config = timm.get_pretrained_cfg(full_name)
    backbone = Backbone(network, settings["pixel_mean"] or config.mean, settings["pixel_std"] or config.std)
    if own_checkpoint is not None:
        load_own_backbone(backbone, own_checkpoint, pretrained)
    elif pretrained not in ("imagenet", "none"):
        check_all_loaded(network, pretrained)
    return backbone


def keep_pool_at_stride_1(network: nn.Module) -> None:
    """At output stride 16 the first block of layer4 keeps its 3×3 average pool and an unpooled shortcut.

    timm drops the one and pools the other; published DeepLab weights on ResNeSt mean the original network.
    """
    block = network.layer4[0]
    block.avd_last = nn.AvgPool2d(kernel_size=3, stride=1, padding=1)
    if block.downsample is not None:  # there is none where width and size stay the same
        block.downsample[0] = nn.Identity()


def check_hub_weights(name: str, full_name: str) -> None:
    """Raises `InputError` at once, not after a minute of retries, when ImageNet weights cannot be had."""
    config = timm.get_pretrained_cfg(full_name)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"--backbone {name}: timm has no ImageNet weights for it: give --pretrained PATH or --pretrained none"
        )
    hub_id = config.hf_hub_id
    if not hub_id or any(
        isinstance(try_to_load_from_cache(hub_id, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # whatever the reason, the answer for the user is the same
        raise InputError(
            f"ImageNet weights of {name} ({hub_id}) cannot be downloaded ({first_line(error)}): give a file of "
            "them with --pretrained PATH, or start from random weights with --pretrained none"
        ) from error


def read_own_checkpoint(path) -> dict | None:
    """The backbone's weights in a checkpoint of this project; None if the file holds anything else."""
    if not Path(path).is_file():
        raise MissingInputError(f"--pretrained {path}: no such file (or use `imagenet` or `none`)")
    if Path(path).suffix == ".safetensors":
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"--pretrained {path} cannot be read as weights: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"--pretrained {path} holds a {type(content).__name__}, not weights by name")
    if not {"stage", "network"} <= content.keys():
        return None
    prefix = "backbone."
    return {key.removeprefix(prefix): value for key, value in content["network"].items() if key.startswith(prefix)}


def check_all_loaded(network: nn.Module, path) -> None:
    """Raises `InputError` if some weight of the network stands nowhere in the file: timm starts these at random.

    Weights are looked up by shape and sum, since timm renames them while loading. Position tables are passed over:
    timm resizes them to the size of the windows.
    """
    state = load_state_dict(str(path), use_ema=False, weights_only=True)
    in_file = {fingerprint(value) for value in state.values()}
    resized = ("relative_position_bias_table", "pos_embed")
    missing = [
        name
        for name, weight in network.named_parameters()
        if not name.endswith(resized) and fingerprint(weight.detach()) not in in_file
    ]
    if missing:
        raise InputError(
            f"--pretrained {path} lacks {len(missing)} weights of the backbone, {missing[0]} among them: "
            "are they of the same network?"
        )


def fingerprint(weight: Tensor) -> tuple:
    return tuple(weight.shape), weight.double().sum().item()


def load_own_backbone(backbone: Backbone, state: dict, path) -> None:
    own = backbone.state_dict()
    differing = [
        key
        for key in own.keys() | state.keys()
        if key not in own or key not in state or own[key].shape != state[key].shape
    ]
    if differing:
        raise InputError(
            f"--pretrained {path} holds another backbone: {len(differing)} weights differ, such as "
            f"{min(differing)}; use the --backbone and --backbone_args it was trained with"
        )
    backbone.load_state_dict(state)
