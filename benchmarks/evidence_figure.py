"""The figure of docs/method.md: disputes of label and mask on drawn scenes, and how the evidence selector settles them.

    python -m benchmarks.evidence_figure --features tf_efficientnet_lite0

Labels and masks are the truth with displaced outlines; of some objects, the mask lacks a half.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.selector_pairs import displace_outline
from datasets.drawn_objects import CLASS_NAMES
from datasets.drawn_scenes import draw_scene
from formats.labels import paint_label
from metrics.plots import save_picture_grid
from models.backbones import load_feature_network
from pseudo_labels import evidence

FIGURE = Path(__file__).resolve().parent.parent / "docs/evidence.jpg"
HEIGHT, WIDTH, SHOWN = 256, 320, 3
RED, BLUE = (230, 60, 60), (60, 100, 230)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Draw the figure of docs/method.md.")
    parser.add_argument("--features", required=True, metavar="NAME", help="backbone")
    parser.add_argument("--pretrained", default="imagenet", metavar="PATH", help="its weights")
    parser.add_argument("--scenes", type=int, default=200, metavar="N", help="scenes to learn from")
    parser.add_argument("--output", default=FIGURE, metavar="FILE", help="the figure")
    args = parser.parse_args(argv)
    network, scenes, drawn, overlaps = load_feature_network(args.features, args.pretrained, "cpu"), [], [], []
    for index in range(args.scenes):
        scene, rng = draw_scene(0, index, HEIGHT, WIDTH), np.random.default_rng(index)
        classes = np.flatnonzero(scene.image_labels) + 1
        label = np.zeros_like(scene.label)
        for label_of_class in classes:
            label[displace_outline(scene.label == label_of_class, 0.15, rng)] = label_of_class
        mask = displace_outline(scene.mask > 0, 0.03, rng)
        if index % 2:
            mask[:, : int(np.median(np.nonzero(mask)[1]))] = False
        features = evidence.pixel_features(network, scene.image, "cpu")
        drawn.append(evidence.draw_agreed(features, label, mask, classes, rng))
        overlaps.append(evidence.overlap_of_objects(label, mask))
        scenes.append((scene, label, mask, features, classes))
    learned, rows = evidence.learn_evidence(drawn, overlaps, len(CLASS_NAMES)), []
    for scene, label, mask, features, classes in scenes[:SHOWN]:
        disputes = scene.image // 3
        disputes[(label > 0) & ~mask], disputes[mask & (label == 0)] = RED, BLUE
        decision = paint_label(evidence.settle(label, mask, features, classes, learned))
        cells = scene.image, paint_label(label), np.dstack([mask * np.uint8(255)] * 3), disputes, decision
        titles = "image", "label", "mask", "disputes", "decision", "truth"
        rows.append({title: cell[::2, ::2] for title, cell in zip(titles, (*cells, paint_label(scene.label)))})
    save_picture_grid(args.output, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
