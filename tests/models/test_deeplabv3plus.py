"""DeepLabV3+ against reference networks of this file and of torchvision; checkpoints of Puzzle-CAM."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from conftest import run_main
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from formats.errors import InputError
from formats.images import save_image
from formats.labels import load_label
from formats.voc_layout import VOC_CLASSES
from models.backbones import build_backbone
from models.deeplabv3plus import build_deeplabv3plus
from models.puzzle_cam_checkpoint import from_puzzle_cam
from utils.checkpoint import load_weights

NARROW = {"channels": (8, 8, 16, 32), "stem_width": 8}
WIDE_HW = (65, 321)  # at stride 8 wider than the largest dilation of 36
ORIGINAL_LAYERS = {  # stride and dilation of layer1 … layer4 in the original ResNeSt
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
}


def settings_of(name: str, backbone_args=None, output_stride=16, use_gn=True, num_classes=2, mode="fix") -> dict:
    return {
        "backbone": name,
        "backbone_args": backbone_args or {},
        "pixel_mean": None,
        "pixel_std": None,
        "classes": [f"class{index}" for index in range(num_classes)],
        "head_width": 16,
        "use_gn": use_gn,
        "mode": mode,
        "output_stride": output_stride,
    }


def narrow_deeplab(**settings) -> nn.Module:
    torch.manual_seed(0)
    return build_deeplabv3plus(settings_of("resnest14", NARROW, **settings))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms other scales, shifts and statistics than the initial ones, and convolutions He initialisation, so that
    logits depend on the image; eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, like: Tensor) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.weight.data = between(0.5, 1.0, module.weight)
            module.bias.data = between(-0.2, 0.2, module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = between(-0.2, 0.2, module.running_mean)
            module.running_var = between(0.5, 2.0, module.running_var)
    return network.eval()


def assert_close(ours: Tensor, theirs: Tensor, rtol: float) -> None:
    """Assert maps [B, C, H, W] equal up to `rtol` of the largest value, and not nearly constant."""
    assert ours.shape == theirs.shape
    assert theirs.std(dim=(2, 3)).max() > 500 * rtol * theirs.abs().max()
    assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()


# --- the original ResNeSt, from weights by name ---


def original_resnest(weights: dict[str, Tensor], x: Tensor, output_stride: int) -> list[Tensor]:
    """Images [B, 3, H, W] → the maps after layer1 … layer4. Radix 2, cardinality 1, deep stem, pooled shortcuts."""
    x = F.relu(conv_bn(weights, x, "conv1.0", "conv1.1", stride=2, padding=1))
    x = F.relu(conv_bn(weights, x, "conv1.3", "conv1.4", padding=1))
    x = F.relu(conv_bn(weights, x, "conv1.6", "bn1", padding=1))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    features = []
    for number, (stride, dilation) in enumerate(ORIGINAL_LAYERS[output_stride], start=1):
        index = 0
        while f"layer{number}.{index}.conv1.weight" in weights:
            first = index == 0
            x = original_block(
                weights,
                x,
                name=f"layer{number}.{index}",
                stride=stride if first else 1,
                dilation={1: 1, 2: 1, 4: 2}[dilation] if first else dilation,
                pooled=first and number > 1,
            )
            index += 1
        features.append(x)
    return features


def original_block(weights, x: Tensor, name: str, stride: int, dilation: int, pooled: bool) -> Tensor:
    """The first block of every layer but layer1 pools after its 3×3 convolution, also at stride 1."""
    out = F.relu(conv_bn(weights, x, f"{name}.conv1", f"{name}.bn1"))
    out = split_attention(weights, out, f"{name}.conv2", dilation)
    if pooled:
        out = F.avg_pool2d(out, kernel_size=3, stride=stride, padding=1)
    out = conv_bn(weights, out, f"{name}.conv3", f"{name}.bn3")
    if f"{name}.downsample.1.weight" in weights:
        if stride > 1:
            x = F.avg_pool2d(x, kernel_size=stride, stride=stride, ceil_mode=True, count_include_pad=False)
        x = conv_bn(weights, x, f"{name}.downsample.1", f"{name}.downsample.2")
    return F.relu(out + x)


def split_attention(weights, x: Tensor, name: str, dilation: int) -> Tensor:
    x = F.relu(conv_bn(weights, x, f"{name}.conv", f"{name}.bn0", padding=dilation, dilation=dilation, groups=2))
    one, other = x.chunk(2, dim=1)
    mean = (one + other).mean(dim=(2, 3), keepdim=True)
    hidden = F.relu(conv_bn(weights, mean, f"{name}.fc1", f"{name}.bn1"))
    logits = F.conv2d(hidden, weights[f"{name}.fc2.weight"], weights[f"{name}.fc2.bias"])
    share = torch.stack(logits.chunk(2, dim=1)).softmax(dim=0)
    return share[0] * one + share[1] * other


def conv_bn(weights, x: Tensor, conv: str, norm: str, **how) -> Tensor:
    x = F.conv2d(x, weights[f"{conv}.weight"], weights.get(f"{conv}.bias"), **how)
    parts = (weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_resnest_equals_the_original(output_stride):
    torch.manual_seed(0)
    backbone = randomise(build_backbone(settings_of("resnest26", NARROW), output_stride=output_stride))
    images = torch.randn(1, 3, 97, 129)
    with torch.inference_mode():
        expected = original_resnest(backbone.network.state_dict(), images, output_stride)
        for ours, theirs in zip(backbone(images), expected, strict=True):
            assert_close(ours, theirs, rtol=1e-5)


def test_pools_of_a_resnest_keep_their_place():
    """Two of timm's variants pool before the 3×3 convolution instead of after it."""
    backbone = build_backbone(settings_of("resnest50d_1s4x24d", {"layers": (1, 1, 1, 1)}), output_stride=8)
    for layer in (backbone.network.layer3, backbone.network.layer4):
        assert (layer[0].avd_first.kernel_size, layer[0].avd_first.stride) == (3, 1)
        assert layer[0].avd_last is None


# --- Puzzle-CAM's segmentation network: attribute names are the keys of its checkpoints ---


class PuzzleCamBranch(nn.Module):
    def __init__(self, width: int, kernel_size: int, dilation: int, norm):
        super().__init__()
        padding = dilation if kernel_size == 3 else 0
        self.atrous_conv = nn.Conv2d(2048, width, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = norm(width)

    def forward(self, x):
        return self.bn(self.atrous_conv(x)).relu()


class PuzzleCamASPP(nn.Module):
    def __init__(self, width: int, norm):
        super().__init__()
        self.aspp1 = PuzzleCamBranch(width, 1, 1, norm)
        self.aspp2 = PuzzleCamBranch(width, 3, 6, norm)
        self.aspp3 = PuzzleCamBranch(width, 3, 12, norm)
        self.aspp4 = PuzzleCamBranch(width, 3, 18, norm)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(2048, width, 1, bias=False), norm(width), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * width, width, 1, bias=False)
        self.bn1 = norm(width)

    def forward(self, x):
        mean = F.interpolate(self.global_avg_pool(x), size=x.shape[2:], mode="bilinear", align_corners=True)
        parts = (self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), mean)
        return self.bn1(self.conv1(torch.cat(parts, dim=1))).relu()


class PuzzleCamDecoder(nn.Module):
    def __init__(self, width: int, num_labels: int, norm):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(256, 48, 1, bias=False), norm(48)
        first = nn.Conv2d(width + 48, width, 3, padding=1, bias=False)
        second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        last = nn.Conv2d(width, num_labels, 1)
        self.classifier = nn.Sequential(
            first, norm(width), nn.ReLU(), nn.Dropout(0.5), second, norm(width), nn.ReLU(), nn.Dropout(0.1), last
        )

    def forward(self, high, low):
        low = self.bn1(self.conv1(low)).relu()
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=True)
        return self.classifier(torch.cat([high, low], dim=1))


class PuzzleCamNetwork(nn.Module):
    """Registers and saves its backbone twice, like the original."""

    def __init__(self, backbone: nn.Module, width: int, num_labels: int, norm):
        super().__init__()
        self.model = backbone
        self.stage1 = nn.Sequential(backbone.conv1, backbone.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stage2, self.stage3 = nn.Sequential(backbone.layer1), nn.Sequential(backbone.layer2)
        self.stage4, self.stage5 = nn.Sequential(backbone.layer3), nn.Sequential(backbone.layer4)
        self.aspp = PuzzleCamASPP(width, norm)
        self.decoder = PuzzleCamDecoder(width, num_labels, norm)

    def forward(self, images):
        low, _, _, high = original_resnest(self.model.state_dict(), images, output_stride=16)
        logits = self.decoder(self.aspp(high), low)
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=True)


@pytest.fixture(scope="module")
def resnest50() -> nn.Module:
    network = timm.create_model("resnest50d")
    del network.fc
    return network


def puzzle_cam_network(backbone: nn.Module, num_labels: int = 21, use_gn: bool = True) -> PuzzleCamNetwork:
    torch.manual_seed(0)
    norm = (lambda channels: nn.GroupNorm(4, channels)) if use_gn else nn.BatchNorm2d
    return randomise(PuzzleCamNetwork(backbone, 16, num_labels, norm))


@pytest.mark.parametrize(("use_gn", "num_labels", "prefix"), [(True, 21, "module."), (False, 4, "")])
def test_puzzle_cam_gives_the_same_logits(resnest50, use_gn, num_labels, prefix):
    theirs = puzzle_cam_network(resnest50, num_labels, use_gn)
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    checkpoint = from_puzzle_cam(state, "p.pth")
    settings = checkpoint["settings"]
    assert (settings["backbone"], settings["head_width"], settings["use_gn"]) == ("resnest50", 16, use_gn)
    assert settings["classes"] == (list(VOC_CLASSES) if num_labels == 21 else ["class1", "class2", "class3"])
    ours = build_deeplabv3plus(settings)
    load_weights(ours, checkpoint["network"], "p.pth")  # raises if names or shapes differ
    originals = [key for key in state if not key.removeprefix(prefix).startswith("stage")]
    assert len(checkpoint["network"]) == len(originals) < len(state)
    images = torch.randn(1, 3, *WIDE_HW)
    with torch.inference_mode():
        assert_close(ours.eval()(images), theirs(images), rtol=1e-5)


def test_puzzle_cam_file_is_read_by_predict_and_as_a_backbone(resnest50, tmp_path):
    theirs, path = puzzle_cam_network(resnest50), tmp_path / "puzzle_cam.pth"
    torch.save(theirs.state_dict(), path)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    save_image(tmp_path / "a.png", image)
    run_main("predict", f"--load_path {path} --input {tmp_path}/a.png --output {tmp_path}/out")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.from_numpy((image / 255 - mean) / std).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = theirs(inputs)[0].argmax(dim=0).numpy()
    assert len(np.unique(expected)) > 1
    assert (load_label(tmp_path / "out/a.png") == expected).mean() > 0.999
    backbone = build_backbone(settings_of("resnest50"), str(path), output_stride=16)
    path.unlink()  # 100 MB
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(backbone.network.state_dict()[name], value), name


def test_other_files_are_not_converted(resnest50):
    state = puzzle_cam_network(resnest50).state_dict()
    without_aspp = {key: value for key, value in state.items() if not key.startswith("aspp")}
    for content in ({"stage": "saliency"}, {"layer1.weight": torch.zeros(1)}, [1], {1: torch.zeros(1)}, without_aspp):
        assert from_puzzle_cam(content, "other.pth") is content
    shorter = {key: value for key, value in state.items() if not key.startswith("model.layer3.5")}
    with pytest.raises(InputError, match=r"p\.pth: unknown backbone with \(3, 4, 5, 3\) blocks"):
        from_puzzle_cam(shorter, "p.pth")
    state["decoder.conv2.weight"] = state.pop("aspp.bn1.bias")
    checkpoint = from_puzzle_cam(state, "p.pth")
    with torch.device("meta"):
        network = build_deeplabv3plus(checkpoint["settings"])
    with pytest.raises(InputError, match=r"p\.pth does not fit .*'aspp\.bn1\.bias'.*'decoder\.conv2\.weight'"):
        load_weights(network, checkpoint["network"], "p.pth")


# --- the published network from parts of torchvision ---


class TorchvisionDeepLab(nn.Module):
    """ResNet and ASPP of torchvision with the decoder of DeepLabV3+."""

    def __init__(self, name: str, output_stride: int, width: int, num_labels: int):
        super().__init__()
        dilated = [False, output_stride == 8, True]
        self.resnet = getattr(torchvision.models, name)(weights=None, replace_stride_with_dilation=dilated)
        self.aspp = ASPP(2048, [rate * 16 // output_stride for rate in (6, 12, 18)], width)
        self.low = nn.Sequential(nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(width + 48, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, num_labels, 1)

    def forward(self, images):
        resnet = self.resnet
        low = resnet.layer1(resnet.maxpool(resnet.bn1(resnet.conv1(images)).relu()))
        high = self.aspp(resnet.layer4(resnet.layer3(resnet.layer2(low))))
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=True)
        logits = self.last(self.second(self.first(torch.cat([high, self.low(low)], dim=1))))
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize(("name", "output_stride"), [("resnet-50", 16), ("resnet-50", 8)])
def test_deeplab_gives_the_logits_of_torchvisions_parts(name, output_stride):
    torch.manual_seed(0)
    theirs = randomise(TorchvisionDeepLab(name.replace("-", ""), output_stride, width=16, num_labels=3))
    ours = build_deeplabv3plus(settings_of(name, output_stride=output_stride, use_gn=False))
    weights = [value for key, value in theirs.state_dict().items() if not key.startswith("resnet.fc.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))  # both register layers in the same order
    images = torch.randn(1, 3, *WIDE_HW)
    with torch.inference_mode():
        assert_close(ours.eval()(images), theirs(images), rtol=1e-4)


# --- any backbone, sizes, modes ---


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(
    ("name", "backbone_args"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
        ("mobilenetv3_small_050", {}),
        ("mobilenetv2_035", {}),
        ("regnetx_002", {}),
        ("efficientnet_lite0", {}),
        ("resnest14", NARROW),
    ],
)
def test_convolutional_backbones_take_both_strides(name, backbone_args, output_stride):
    network = build_deeplabv3plus(settings_of(name, backbone_args, output_stride, use_gn=False)).eval()
    images = torch.randn(2, 3, 64, 96)
    assert tuple(network(images).shape) == (2, 3, 64, 96)
    assert tuple(network.backbone(images)[-1].shape[-2:]) == (64 // output_stride, 96 // output_stride)


PLAIN = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
UNDILATED = [  # with their stride, the second dilation of ASPP, and the size of the finest map for 75×101 px
    ("swin_tiny_patch4_window7_224", SWIN, 32, 3, (24, 32)),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, 32, 3, (24, 32)),
    ("resnest14", NARROW | {"output_stride": 32}, 32, 3, (19, 26)),
    ("vit_small_patch14_reg4_dinov2.lvd142m", PLAIN, 14, 7, (24, 32)),
    ("vit_small_patch16_dinov3.lvd1689m", PLAIN, 16, 6, (20, 28)),
]


@pytest.mark.parametrize(("name", "backbone_args", "stride", "dilation", "low_hw"), UNDILATED)
def test_backbones_that_are_not_dilated(name, backbone_args, stride, dilation, low_hw):
    network = build_deeplabv3plus(settings_of(name, backbone_args)).train()
    assert network.backbone.strides[-1] == stride
    dilations = [branch.atrous_conv.dilation[0] for branch in list(network.aspp.children())[:4]]
    assert dilations == [1, dilation, 2 * dilation, 3 * dilation]
    sizes = []
    network.decoder.conv1.register_forward_hook(lambda _, __, low: sizes.append(tuple(low.shape[-2:])))
    logits = network(torch.randn(2, 3, 75, 101))
    assert tuple(logits.shape) == (2, 3, 75, 101)
    assert sizes == [low_hw]
    logits.square().sum().backward()
    assert [parameter for parameter, value in network.named_parameters() if value.grad is None] == []
    with pytest.raises(InputError, match=rf"_stride 8: --backbone {name} cannot be dilated, its stride is {stride}:"):
        build_deeplabv3plus(settings_of(name, backbone_args, output_stride=8))


def test_logits_of_patches_lie_where_the_image_is():
    """A ramp of 100 px in patches of 14 px comes back, except in the outer half patches."""
    network = build_deeplabv3plus(settings_of("vit_small_patch14_dinov2.lvd142m", PLAIN)).eval()
    network.backbone.network.forward = lambda images: [F.avg_pool2d(images[:, :1], 14)] * 4
    network.aspp.forward = lambda maps: maps
    network.decoder.forward = lambda high, low: high
    ramp = torch.arange(100.0).expand(1, 3, 100, 100)
    assert (network(ramp) - ramp)[..., 8:-8].abs().max() < 0.5


def test_a_frozen_backbone_gives_the_same_features_in_training():
    """Also with batch norms that `mode` does not fix, and drop path."""
    settings = settings_of("resnest14", NARROW | {"drop_path_rate": 0.5}, mode="normal")
    network = randomise(build_deeplabv3plus(settings, freeze_backbone=True)).train()
    images, before = torch.randn(2, 3, 64, 64), {key: value.clone() for key, value in network.state_dict().items()}
    features = network.backbone(images)[-1]
    assert not features.requires_grad
    assert torch.equal(features, network.eval().backbone(images)[-1])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.train()(images).square().sum().backward()
    trained = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert trained == {"aspp", "decoder"}


def test_dropout_probabilities():
    network = build_deeplabv3plus(settings_of("resnest14", NARROW), dropout=0.5)
    found = {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    assert found == {"aspp.dropout": 0.5, "decoder.classifier.3": 0.5, "decoder.classifier.7": 0.1}


def test_deeplab_on_resnest101_has_the_published_size():
    settings = settings_of("resnest101", num_classes=20) | {"head_width": 256}
    with torch.device("meta"):
        network = build_deeplabv3plus(settings)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(63.070, abs=5e-4)


def test_mode_fix_keeps_statistics_and_trains_scale_and_shift():
    network = narrow_deeplab(mode="fix").train()
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network(torch.randn(2, 3, 64, 64) * 3 + 1).square().sum().backward()
    assert norms
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before))
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in [*network.aspp.modules(), *network.decoder.modules()])


def test_mode_normal_moves_statistics():
    network = narrow_deeplab(mode="normal", use_gn=False).train()
    norm = next(m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    network(torch.randn(2, 3, 64, 64) * 3 + 1)
    assert not torch.equal(norm.running_mean, before)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.aspp.modules())
