"""Export for other tools: a saliency network as an ONNX file.

    pip install -r requirements-onnx.txt
    python export.py onnx --load_path experiments/sod/last.pth --output sod.onnx

Input "images": uint8 [B, 3, S, S], RGB, resized to the network's size S; B is free. Output "saliency": float32
[B, 1, S, S] in 0..1. The network includes the normalisation. The file is kept only if ONNX Runtime computes the maps of
PyTorch.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.export().parse_args()  # before the heavy imports, so that --help answers at once

import importlib.util

from formats.atomic_files import atomic_path, check_output_file
from formats.errors import InputError
from models.onnx_export import export_onnx
from models.saliency_net import build_saliency_net
from utils.checkpoint import load_checkpoint, rebuild
from utils.interruption import run_script

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4  # of probabilities


def main(args) -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed: pip install -r requirements-onnx.txt")
    check_output_file("--output", args.output)

    # model
    checkpoint = load_checkpoint(args.load_path, ["saliency"])
    network = rebuild(build_saliency_net, checkpoint, args.load_path)
    side_px = checkpoint["settings"]["image_size"]

    # save
    with atomic_path(args.output) as temporary:
        difference = export_onnx(network, side_px, temporary)
        if difference > LARGEST_DIFFERENCE:
            raise RuntimeError(f"the exported network's maps differ from PyTorch's by up to {difference:.1e}")
    print(f"{args.output}: images uint8 [B, 3, {side_px}, {side_px}] → saliency float32 [B, 1, {side_px}, {side_px}]")
    print(f"largest difference to PyTorch: {difference:.1e}")


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
