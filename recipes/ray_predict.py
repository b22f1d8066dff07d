"""predict.py on a Ray cluster, of which all machines see the images and the project. Needs `pip install "ray[data]"`.

    PYTHONPATH=. python recipes/ray_predict.py --load_path last.pth --input images --output masks

Takes the flags of predict.py, but uses batches of one image; --workers is the number of workers without GPUs. A lost
worker is replaced by Ray; run the command again to make what is missing.
"""

import sys
from pathlib import Path

import ray
import torch

import options
import predict
from formats.errors import InputError
from utils.distributed import World
from utils.interruption import run_script
from utils.output_folder import lock_output_folder


class Predictor:
    """A worker with its own network."""

    def __init__(self, args):
        self.args, self.device = args, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stage, self.settings, self.network = predict.load_network(args, self.device)

    def __call__(self, batch: dict) -> dict:
        images, unreadable = dict(zip(batch["stem"], map(Path, batch["path"]))), {}
        parts = self.settings, images, [[stem] for stem in images], unreadable, self.args, self.device
        for result in predict.predict_images(self.stage, self.network, *parts):
            predict.save_result(self.stage, Path(self.args.output), self.args, result)
        return {"left_out": list(unreadable.values())}


def main(args) -> None:
    if args.part or args.voc_submission:
        raise InputError("Ray divides the images itself: omit --part and --voc_submission")
    args.load_path, args.output = (str(Path(path).resolve()) for path in (args.load_path, args.output))
    images, _ = predict.find_images(args.input, args.list)
    absent = [stem for stem in images if not predict.is_complete(Path(args.output), stem, args.overlay)]
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": str(Path(predict.__file__).parent)}})
    gpus = int(ray.cluster_resources().get("GPU", 0))
    place = {"concurrency": gpus or args.workers or 1, "num_gpus": 1 if gpus else None}
    rows = ray.data.from_items([{"stem": stem, "path": str(images[stem].resolve())} for stem in absent])
    world, made_by = World(rank=0, size=1, device=torch.device("cpu")), predict.result_options(args)
    with lock_output_folder(world, args.output, made_by, ".png"):
        done = rows.map_batches(Predictor, fn_constructor_args=(args,), batch_size=16, **place) if absent else None
        left_out = [row["left_out"] for row in done.take_all()] if absent else []
    counts = len(absent) - len(left_out), len(images) - len(absent)
    print("{} files written, {} already existed:".format(*counts), args.output)
    print("".join(f"left out: {error}\n" for error in left_out), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_script(main, options.predict().parse_args()))
