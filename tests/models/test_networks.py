"""Networks: layers and sizes of the paper, shapes, gradients, weights from files."""

import pytest
import timm
import torch
from torch import nn

import options
from formats.errors import InputError, MissingInputError
from models.backbones import README_NAMES, build_backbone, find_timm_name
from models.cam_classifier import build_cam_classifier
from models.edge_head import EdgeHead
from models.saliency_net import PATM, amplitude_phase, build_saliency_net
from utils.checkpoint import save_checkpoint

TINY_SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
TINY_RESNEST = {"channels": (8, 8, 16, 32), "stem_width": 8}


def settings_of(name: str, **backbone_args) -> dict:
    return {"backbone": name, "backbone_args": backbone_args, "pixel_mean": None, "pixel_std": None}


def tiny_saliency_net(**drop):
    settings = settings_of("swin_tiny_patch4_window7_224", **TINY_SWIN)
    return build_saliency_net(settings | {"decoder_width": 8, "image_size": 64}, **drop)


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_order_of_a_patm():
    """Dropout comes before the upsampling, and each dilated branch follows its plain convolution."""
    patm, order = PATM(4, 4, 4, 3, 2), []
    for name, part in patm.named_children():
        part.register_forward_hook(lambda *_, name=name: order.append(name))
    inputs = {}
    patm.dilated_b.register_forward_pre_hook(lambda _, x: inputs.update(dilated_b=x[0]))
    patm.conv_b.register_forward_hook(lambda _, __, y: inputs.update(conv_b=y))
    assert patm(torch.randn(2, 4, 8, 8)).shape == (2, 4, 16, 16)
    assert order == ["conv_a", "conv_b", "conv_c", "dilated_a", "dilated_b", "join", "dropout", "upsample"]
    assert inputs["dilated_b"] is inputs["conv_b"]


def test_decoder_widths_follow_the_backbone():
    with torch.device("meta"):
        network = build_saliency_net(
            settings_of("swin-base-224") | {"decoder_width": options.PAPER_WIDTH, "image_size": 224}
        )
    inputs = [patm.conv_a[0].in_channels for patm in network.decoder]
    inner = [patm.conv_a[0].out_channels for patm in network.decoder]
    outputs = [patm.join[0].out_channels for patm in network.decoder]
    assert inputs == [1024, 1536, 768, 384]
    assert inner == [1024, 1024, 512, 256]
    assert outputs == [1024, 512, 256, 128]
    dilations = [(patm.dilated_a[0].dilation[0], patm.dilated_b[0].dilation[0]) for patm in network.decoder]
    assert dilations == [(3, 2), (3, 2), (5, 3), (5, 3)]
    assert millions(network.backbone) == pytest.approx(87, abs=1)
    assert millions(network.decoder) == pytest.approx(152, abs=1)
    assert options.SOD_train().parse_args(["--decoder_width", "paper"]).decoder_width == options.PAPER_WIDTH


def test_amplitude_and_phase():
    f = torch.tensor([[[[0.0, 1.0]]]])
    expected = torch.tensor([[0.0, 0.5403023], [0.0, 0.8414710]])
    assert torch.allclose(amplitude_phase(f).flatten(1).view(2, 2), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (32, 64)])
def test_saliency_outputs(height, width):
    network = tiny_saliency_net().eval()
    outputs = network(torch.randn(2, 3, height, width))
    assert [tuple(logits.shape) for logits in outputs["saliency"]] == [(2, 1, height, width)] * 4
    assert tuple(outputs["edge"].shape) == (2, 1, height, width)


def test_edge_head_uses_r1_only_through_its_maximum():
    torch.manual_seed(0)
    head = EdgeHead([4, 8, 8, 8]).eval()
    features = [torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 8, 4, 4), torch.rand(1, 8, 2, 2)]
    before = head(features, (64, 64))
    shuffled = features[0].flatten(2)[:, :, torch.randperm(256)].view(1, 4, 16, 16)
    assert torch.equal(before, head([shuffled, *features[1:]], (64, 64)))
    assert not torch.equal(before, head([features[0] * 2, *features[1:]], (64, 64)))


def test_classifier_maps_average_to_its_logits():
    network = build_cam_classifier(settings_of("resnest14", **TINY_RESNEST) | {"classes": ["a", "b", "c"]}).eval()
    outputs = network(torch.randn(2, 3, 64, 80))
    assert tuple(outputs["class_maps"].shape) == (2, 3, 4, 5)
    assert torch.allclose(outputs["logits"], outputs["class_maps"].mean(dim=(2, 3)))
    assert network.classify.bias is None


PLAIN = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 112}
UNDILATED = [  # with their stride
    ("swin_tiny_patch4_window7_224", TINY_SWIN | {"img_size": 128}, 32),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, 32),
    ("vit_small_patch14_reg4_dinov2.lvd142m", PLAIN, 14),
    ("vit_small_patch16_dinov3.lvd1689m", PLAIN, 16),
    ("vit_tiny_patch16_224.augreg_in21k", PLAIN, 16),
    ("vit_base_patch16_clip_224.openai", PLAIN, 16),
    ("deit_tiny_distilled_patch16_224", PLAIN, 16),
]


@pytest.mark.parametrize(("name", "small", "stride"), UNDILATED)
def test_features_are_those_of_timm(name, small, stride, tmp_path):
    torch.manual_seed(0)
    any_size = {} if name == "pvt_v2_b0" else {"dynamic_img_size": True}
    whole = timm.create_model(name, **small, **any_size).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone(settings_of(name, **small), str(tmp_path / "w.pth"), output_stride=16).eval()
    assert backbone.strides[-1] == backbone.multiple_px == stride
    images = torch.randn(2, 3, 4 * stride, 7 * stride)
    with torch.inference_mode():
        expected = whole.forward_intermediates(images, indices=4, intermediates_only=True)
        for ours, theirs in zip(backbone(images), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("name", "small", "stride"), UNDILATED)
def test_classifier_on_networks_that_are_not_dilated(name, small, stride):
    """Images of any size; DistributedDataParallel waits for the gradients of all parameters."""
    network = build_cam_classifier(settings_of(name, **small) | {"classes": ["a", "b"], "background_map": True}).train()
    outputs = network(torch.randn(2, 3, 75, 101))
    assert tuple(outputs["maps"].shape) == (2, 3, -(-75 // stride), -(-101 // stride))
    outputs["maps"].square().sum().backward()
    assert [parameter for parameter, value in network.named_parameters() if value.grad is None] == []


def test_class_maps_do_not_depend_on_the_norm_of_a_token():
    network = build_cam_classifier(settings_of("vit_tiny_patch16_224", **PLAIN) | {"classes": ["a", "b"]}).eval()
    tokens, factors = torch.randn(1, 32, 3, 4), torch.tensor([1.0, 2.0, 5.0, 100.0])
    maps = []
    for given in (tokens, tokens * factors):
        network.backbone.network.forward = lambda _, given=given: [given]
        maps.append(network(torch.randn(1, 3, 48, 64))["class_maps"])
    assert torch.allclose(*maps, atol=1e-4)


def test_stages_for_images_of_any_size_refuse_networks_of_a_fixed_size():
    words = "--backbone mixer_s32_224: the backbone cannot process 100×100 px .*: choose one for images of any size"
    with pytest.raises(InputError, match=words):
        build_cam_classifier(settings_of("mixer_s32_224") | {"classes": ["a"]})


@pytest.mark.parametrize("name", [*README_NAMES, "convnext_tiny", "pvt_v2_b2"])
def test_names_give_four_maps(name):
    with torch.device("meta"):
        backbone = build_backbone(settings_of(name))
    assert len(backbone.channels) == 4
    assert backbone.strides == [4, 8, 16, 32]


BLOCKS = ("SwinTransformerBlock", "Block", "ResNestBottleneck")
FAMILIES = [
    ("swin_tiny_patch4_window7_224", TINY_SWIN),
    ("swinv2_tiny_window8_256", {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    ("poolformer_s12", {}),
    ("resnest14", TINY_RESNEST),
    ("vit_small_patch16_224.dino", {"embed_dim": 24, "depth": 8, "num_heads": 2}),
    ("mobilenetv2_035", {}),
]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (101, 75)])
@pytest.mark.parametrize(("name", "small"), FAMILIES)
def test_any_network_takes_any_size(name, small, height, width):
    settings = settings_of(name, **small) | {"decoder_width": 8, "image_size": 224}
    outputs = build_saliency_net(settings).eval()(torch.randn(1, 3, height, width))
    assert [tuple(logits.shape) for logits in outputs["saliency"]] == [(1, 1, height, width)] * 4
    assert tuple(outputs["edge"].shape) == (1, 1, height, width)


@pytest.mark.parametrize(("name", "small"), FAMILIES)
def test_every_parameter_gets_a_gradient(name, small):
    """DistributedDataParallel waits for the gradients of all parameters."""
    torch.manual_seed(0)
    settings = settings_of(name, **small) | {"decoder_width": 16, "image_size": 64}
    network = build_saliency_net(settings, dropout=0.0, edge_drop_path=0.0).train()
    outputs = network(torch.randn(4, 3, 64, 64))
    (sum(logits.square().sum() for logits in outputs["saliency"]) + outputs["edge"].square().sum()).backward()
    assert [parameter for parameter, value in network.named_parameters() if value.grad is None] == []
    ours = ("decoder", "side_heads", "edge_head")
    without = [n for n, p in network.named_parameters() if n.startswith(ours) and not p.grad.any()]
    # the batch norm subtracts a bias before it, whose gradient is therefore zero
    assert [n for n in without if not (n.endswith(".0.bias") and ("upsample" in n or "lift" in n))] == []


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_small_patch16_224.dino", "resnest14"])
def test_recomputed_activations_give_the_same_gradients(name):
    backbone, images = build_backbone(settings_of(name, **dict(FAMILIES)[name])), torch.randn(2, 3, 64, 64)
    gradients, forwards = [], []
    block = next(part for part in backbone.network.modules() if type(part).__name__ in BLOCKS)
    block.register_forward_pre_hook(lambda *_: forwards.append(1))
    for _ in range(2):
        backbone.train().zero_grad()
        torch.manual_seed(0)  # of drop path
        sum(maps.square().mean() for maps in backbone(images)).backward()
        gradients.append([weight.grad.clone() for weight in backbone.parameters() if weight.grad is not None])
        backbone.recompute_activations()
    assert len(forwards) == 1 + 2
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_plain_transformers_use_evenly_spaced_blocks():
    network = build_backbone(settings_of("vit_small_patch16_224.dino", embed_dim=24, depth=12, num_heads=2)).network
    assert network.feature_info.module_name() == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]


def test_unknown_backbones():
    with pytest.raises(InputError, match=r"swin-bse is unknown: choose a timm name, such as .*swin-base"):
        find_timm_name("swin-bse")
    with pytest.raises(InputError, match=r"qqq is unknown: choose a timm name, such as swin-small.*resnest269$"):
        find_timm_name("qqq")
    with pytest.raises(InputError, match=r"such as .*resnest50d"):
        find_timm_name("resnest50x")
    with pytest.raises(InputError, match=r"_args embed_dim=zebra and .*: check the values of --backbone_args$"):
        build_backbone(settings_of("swin_tiny_patch4_window7_224", embed_dim="zebra"))
    with pytest.raises(InputError, match=r"cannot be built .*no_such_setting"):
        build_backbone(settings_of("resnest14", no_such_setting=1))
    with pytest.raises(InputError, match=r"cannot be built .*no_such_tag"):
        build_backbone(settings_of("resnet50.no_such_tag"))


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("resnest14d", **TINY_RESNEST)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    settings = settings_of("resnest14", **TINY_RESNEST)
    target = build_backbone(settings, str(tmp_path / "w.pth"), output_stride=16)
    for name, value in target.network.state_dict().items():
        assert torch.equal(source.state_dict()[name], value), name
    with pytest.raises(InputError, match=r"w\.pth lacks .* layer1\.1\."):
        build_backbone(settings_of("resnest26", **TINY_RESNEST), str(tmp_path / "w.pth"))
    with pytest.raises(MissingInputError, match=r"none\.pth: no such file"):
        build_backbone(settings, str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        build_backbone(settings, str(tmp_path / "text.pth"))


def test_backbone_of_a_checkpoint(tmp_path):
    settings = settings_of("resnest14", **TINY_RESNEST)
    classifier = build_cam_classifier(settings | {"classes": ["a"]})
    save_checkpoint(tmp_path / "c.pth", "classification", settings, classifier, {})
    backbone = build_backbone(settings, str(tmp_path / "c.pth"), output_stride=16)
    for name, value in classifier.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    with pytest.raises(InputError, match=r"c\.pth does not fit the network"):
        build_backbone(settings_of("resnest26"), str(tmp_path / "c.pth"))


def test_weights_of_a_whole_swin_fit_its_feature_extractor(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model("swin_tiny_patch4_window7_224", img_size=128, **TINY_SWIN)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    settings = settings_of("swin_tiny_patch4_window7_224", **TINY_SWIN)
    backbone = build_backbone(settings, str(tmp_path / "w.pth"), image_size=128)
    images = torch.randn(1, 3, 128, 128)
    expected = whole.eval().forward_intermediates(images, intermediates_only=True)
    for ours, theirs in zip(backbone.eval()(images), expected):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_unavailable_imagenet_weights(monkeypatch):
    """Without the hub the error is immediate and names both alternatives; random weights are never a fallback."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr("models.backbone_weights.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"cannot be downloaded \(no route to host\): .* --pretrained none"):
        build_backbone(settings_of("resnest14"), "imagenet")
    with pytest.raises(InputError, match="No pretrained weights exist for mobilenetv2_035"):
        build_backbone(settings_of("mobilenetv2_035"), "imagenet")


def test_real_imagenet_file(real_data):
    weights = str(real_data / "weights/mobilenetv2_035_imagenet.safetensors")
    settings = settings_of("mobilenetv2_035") | {"pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3}
    backbone = build_backbone(settings, weights, output_stride=16)
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert backbone.normalise(image)[0, 0, 0].tolist() == [-1, 1]
    random = build_backbone(settings, output_stride=16)
    assert not torch.equal(backbone.network.conv_stem.weight, random.network.conv_stem.weight)
