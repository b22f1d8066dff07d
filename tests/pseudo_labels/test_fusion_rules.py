"""Every fusion rule: worked examples, and grids of scores against a reference for one pixel."""

import itertools

import numpy as np
import pytest

from formats.cams import save_cams
from formats.errors import InputError
from formats.images import GreyMap, save_grey, save_image
from pseudo_labels.fusion_inputs import load_inputs
from pseudo_labels.fusion_rules import RULES, check_parameters, fuse, list_inputs, list_parameters

F = np.float32
SCORES = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.8, 0.85, 0.9, 0.95, 1)
SALIENCY = (0, 15, 16, 20, 21, 25, 26, 31, 32, 50, 51, 52, 76, 77, 128, 178, 179, 230, 255)  # of 255


def row(*values) -> np.ndarray:
    return np.array([values], np.float32)


def grid(num_classes: int, rounded=False) -> dict:
    """All combinations of scores and saliency as one row of pixels, for the labels 3 and 8."""
    *cams, saliency = np.array(list(itertools.product(*[SCORES] * num_classes, SALIENCY)), np.float32).T[:, None]
    cams = np.stack(cams)
    cams = cams.astype(np.float16).astype(np.float32) if rounded else cams
    return {"cams": cams, "classes": np.array([3, 8][:num_classes], np.uint8), "saliency": saliency / 255}


# ---- the rules, for one pixel: scores label → float32, s float32


def winner(background, scores) -> int:
    """The label of the largest score, the smallest label if scores are equal."""
    ranked = {0: background} | scores
    return min(label for label in ranked if ranked[label] == max(ranked.values()))


def high(values, threshold) -> int:
    return len([value for value in values if value > F(threshold)])


def kept(scores, threshold) -> dict:
    return {label: F(0) if score < F(threshold) else score for label, score in scores.items()}


def none_of_pixel(scores, s, bg_threshold=0.2):
    return winner(F(bg_threshold), scores)


def icd_of_pixel(scores, s):
    return winner(1 - s, scores)


def oaa_of_pixel(
    scores, s, cam_threshold=0.3, conflict_threshold=0.9, salient_threshold=32 / 255, certain_threshold=0.8
):
    left = kept({0: 1 - s} | scores, cam_threshold)
    if high(left.values(), conflict_threshold) >= 2:
        return 255
    label = winner(left.pop(0), left)
    doubtful = s >= F(salient_threshold) or high(scores.values(), certain_threshold)
    return 255 if label == 0 and doubtful else label


def rca_of_pixel(posteriors, s, cam_threshold=0, **parameters):
    return oaa_of_pixel(posteriors, s, cam_threshold=cam_threshold, **parameters)


def drs_of_pixel(scores, s, salient_threshold=50 / 255, cam_threshold=0.2, conflict_threshold=0.9):
    background = 0 if s > F(salient_threshold) else 1
    if high([background, *kept(scores, cam_threshold).values()], conflict_threshold) > 2:
        return 255
    return bed_of_pixel(scores, s, salient_threshold, cam_threshold)


def bed_of_pixel(scores, s, salient_threshold=0.2, cam_threshold=0.1):
    salient = s > F(salient_threshold)
    label = winner(0 if salient else 1, kept(scores, cam_threshold))
    return 255 if salient and label == 0 else label


def edam_of_pixel(scores, s, salient_threshold=20 / 255):
    if s <= F(salient_threshold) and 1 not in scores.values():  # 1 is the peak of every map of the grid
        return 0
    return winner(-1, scores)


def auxsegnet_of_pixel(scores, s, cam_threshold=0.2, salient_threshold=0.06):
    found, salient = max(scores.values()) > F(cam_threshold), s > F(salient_threshold)
    return {2: winner(-1, scores), 1: 255, 0: 0}[int(found) + int(salient)]


OF_PIXEL = {
    "none": none_of_pixel,
    "oaa": oaa_of_pixel,
    "drs": drs_of_pixel,
    "bed": bed_of_pixel,
    "rca": rca_of_pixel,
    "edam": edam_of_pixel,
    "auxsegnet": auxsegnet_of_pixel,
    "icd": icd_of_pixel,
}
CHANGES = {
    "none": [{"bg_threshold": 0.25}],
    "oaa": [
        {"cam_threshold": 0.5},
        {"conflict_threshold": 0.8},
        {"salient_threshold": 0.3},
        {"certain_threshold": 0.9},
        {"cam_threshold": 0.85, "conflict_threshold": 0.6},
    ],
    "drs": [
        {"salient_threshold": 0.3},
        {"cam_threshold": 0.3},
        {"conflict_threshold": 0.8},
        {"cam_threshold": 0.9, "conflict_threshold": 0.2},
    ],
    "bed": [{"salient_threshold": 0.3}, {"cam_threshold": 0.3}],
    "rca": [
        {"cam_threshold": 0.3},
        {"conflict_threshold": 0.8},
        {"salient_threshold": 0.3},
        {"certain_threshold": 0.9},
    ],
    "edam": [{"salient_threshold": 0.3}],
    "auxsegnet": [{"cam_threshold": 0.3}, {"salient_threshold": 0.3}],
    "icd": [],
}


def both_ways(rule, evidence, parameters) -> tuple[list, list]:
    """Labels of the grid by the rule and by its reference for one pixel."""
    scores_of_pixels = [dict(zip(evidence["classes"].tolist(), scores)) for scores in evidence["cams"][:, 0].T]
    crf = lambda scores: np.concatenate([scores[:1] * 0, evidence["cams"]])  # noqa: E731  posteriors: the grid
    found = fuse(rule, evidence | {"crf": crf}, parameters)
    assert found.dtype == np.uint8
    pairs = zip(scores_of_pixels, evidence["saliency"][0])
    return found[0].tolist(), [OF_PIXEL[rule](scores, s, **parameters) for scores, s in pairs]


@pytest.mark.parametrize("rounded", [False, True], ids=["exact", "as stored"])
@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("rule", OF_PIXEL)
def test_rules_on_all_scores(rule, num_classes, rounded):
    found, expected = both_ways(rule, grid(num_classes, rounded), {})
    assert found == expected
    assert {0, 3} <= set(found)


@pytest.mark.parametrize(("rule", "parameters"), [(rule, change) for rule in CHANGES for change in CHANGES[rule]])
def test_parameters_change_the_rules(rule, parameters):
    found, expected = both_ways(rule, grid(2), parameters)
    assert found == expected
    assert found != both_ways(rule, grid(2), {})[0]


# ---- by hand. Labels 3 and 8; the expected labels follow from the rules as their authors state them


@pytest.mark.parametrize(
    ("rule", "first", "second", "saliency", "expected"),
    [
        # the background is 0.2; equal scores go to the background, then to the smaller label
        ("none", row(0.9, 0.1, 0.3, 0.2, 0.6), row(0.2, 0.15, 0.6, 0.0, 0.6), row(0, 0, 0, 0, 0), [3, 0, 8, 0, 3]),
        # bg 0.5, 0.5, 0.75, 0.25
        ("icd", row(0.5, 0.6, 0.7, 0.3), row(0.1, 0.7, 0.1, 0.3), row(0.5, 0.5, 0.25, 0.75), [0, 8, 0, 3]),
        # sure class · sure background · salient, but bg 0.4 is above 0.35 · two maps at 0.95 · bg 1 and a map at 0.95
        # · nothing reaches 0.3, so 0 wins, and it is salient
        (
            "oaa",
            row(0.8, 0.1, 0.35, 0.95, 0.95, 0.29),
            row(0.1, 0.2, 0.1, 0.95, 0, 0.1),
            row(0.9, 0, 0.6, 1, 0, 0.75),
            [3, 0, 255, 255, 255, 255],
        ),
        # outside the mask 0 · three channels above 0.9 · two are not enough · salient, but no map reaches 0.2
        ("drs", row(0.95, 0.95, 0.95, 0.19), row(0.1, 0.95, 0.96, 0.1), row(0.1, 0.1, 1, 1), [0, 255, 8, 255]),
        ("bed", row(1, 0.1, 0.09, 0.3), row(0, 0, 0, 0.7), row(0.2, 0.21, 0.9, 0.9), [0, 3, 255, 8]),
        # the peak of each map is foreground even where nothing is salient
        ("edam", row(0.9, 0.3, 0.1, 0.5), row(0.2, 0.2, 0.6, 0.4), row(0, 0, 0, 0.1), [3, 0, 8, 3]),
        ("auxsegnet", row(0.3, 0.3, 0.2, 0.2), row(0.4, 0, 0, 0), row(0.07, 0.06, 0.07, 0.06), [8, 255, 255, 0]),
    ],
)
def test_rules_by_hand(rule, first, second, saliency, expected):
    evidence = {"cams": np.stack([first, second]), "classes": np.array([3, 8], np.uint8), "saliency": saliency}
    assert fuse(rule, evidence, {}).tolist() == [expected]


def test_maps_without_a_peak_give_no_foreground_in_edam():
    evidence = {"cams": row(0, 0)[None], "classes": np.array([3], np.uint8), "saliency": row(0, 1)}
    assert fuse("edam", evidence, {}).tolist() == [[0, 3]]


@pytest.mark.parametrize("rule", ["oaa", "rca", "nsrom"])
def test_images_with_too_little_foreground_are_ignored(rule):
    cams, crf = np.zeros((1, 20, 20), np.float32), lambda scores: scores
    cams[0, 0, :4] = 0.85
    evidence = {"cams": cams, "classes": np.array([7], np.uint8), "saliency": np.minimum(cams[0], 0.5)}
    evidence |= {"crf": crf, "second_cams": cams}
    expected = np.where(cams[0] > 0, 7, 0)  # 4 of 400 pixels are one percent
    assert np.array_equal(fuse(rule, evidence, {}), expected)
    cams[0, 0, 3] = 0
    evidence["saliency"][0, 3] = 0
    assert np.unique(fuse(rule, evidence, {})).tolist() == [255]
    assert np.unique(fuse(rule, evidence, {"smallest_share": 0.0075})).tolist() == [0, 7]


def test_nsrom_by_hand():
    """Background is ignored above the median of the second map inside each class."""
    evidence = {
        "cams": np.stack([row(0.6, 0.6, 0.6, 0, 0, 0, 0, 0), row(0, 0, 0, 0.6, 0.6, 0, 0, 0)]),
        "classes": np.array([3, 8], np.uint8),
        "saliency": row(1, 1, 1, 1, 1, 0, 0, 0),
        # medians: 0.5 of 0.2, 0.5, 0.9; 0.35 of 0.3, 0.4. The last pixel but one is at both, and stays
        "second_cams": np.stack(
            [row(0.2, 0.5, 0.9, 1, 1, 0.51, 0.5, 0.1), row(1, 1, 1, F(0.25), F(0.5), 0, F(0.375), 0.4)]
        ),
    }
    assert fuse("nsrom", evidence, {}).tolist() == [[3, 3, 3, 8, 8, 255, 0, 255]]
    evidence["second_cams"] = np.zeros_like(evidence["cams"])
    assert np.array_equal(fuse("nsrom", evidence, {}), fuse("oaa", evidence, {}))
    # a class that got no pixel has no median, and ignores nothing
    evidence |= {"cams": evidence["cams"] * np.array([[[1]], [[0]]], F), "saliency": row(1, 1, 1, 0, 0, 0, 0, 0)}
    evidence["second_cams"][1] = 1
    assert fuse("nsrom", evidence, {}).tolist() == [[3, 3, 3, 0, 0, 0, 0, 0]]


def test_nsrom_passes_its_parameters_on():
    evidence = grid(2) | {"second_cams": np.zeros_like(grid(2)["cams"])}
    for change in CHANGES["oaa"]:
        assert np.array_equal(fuse("nsrom", evidence, change), fuse("oaa", evidence, change))


def test_rca_passes_the_background_first_to_the_crf():
    given = []

    def crf(scores):
        given.append(scores.copy())
        return np.stack([row(0.1, 0.9), row(0.2, 0.05), row(0.7, 0.05)])

    cams = np.stack([row(0.5, 0.25), row(0.25, 0)])
    evidence = {"cams": cams, "classes": np.array([3, 8], np.uint8), "saliency": row(0.75, 0), "crf": crf}
    assert fuse("rca", evidence, {}).tolist() == [[8, 0]]
    assert np.array_equal(given[0], np.concatenate([row(0.5**4, 0.75**4)[None], cams]))
    fuse("rca", evidence, {"bg_power": 1})
    assert np.array_equal(given[1][0], row(0.5, 0.75))


def test_affinity_joins_a_strict_and_a_lenient_label():
    evidence = {"cams": row(0.5, 0.4, 0.3, 0.1, 0.05)[None], "classes": np.array([6], np.uint8)}
    assert fuse("affinity", evidence | {"label_crf": np.copy}, {}).tolist() == [[6, 255, 255, 0, 0]]
    changed = fuse("affinity", evidence | {"label_crf": np.copy}, {"fg_threshold": 0.3, "bg_threshold": 0.05})
    assert changed.tolist() == [[6, 6, 255, 255, 0]]
    # the CRF may give the strict label more than the lenient one has
    answers = iter([np.array([[6, 6, 0, 0, 0]], np.uint8), np.array([[6, 0, 6, 0, 0]], np.uint8)])
    label = fuse("affinity", evidence | {"label_crf": lambda label: next(answers)}, {})
    assert label.tolist() == [[6, 6, 255, 0, 0]]


def test_real_crf(tmp_path):
    """A red object on blue ground: the CRF removes the two columns of the maps outside it."""
    image = np.full((24, 32, 3), (20, 40, 200), np.uint8)
    image[:, :16] = 220, 30, 20
    cams = np.zeros((1, 24, 32), np.float32)
    cams[:, :, :18] = 0.8
    saliency = np.where(image[:, :, 0] > 128, 255, 0).astype(np.uint8)
    save_image(tmp_path / "image.png", image)
    save_grey(tmp_path / "saliency.png", saliency)
    save_cams(tmp_path / "cams.npz", cams, np.array([2], np.uint8))
    labels = {}
    for rule in ("none", "affinity", "rca"):
        evidence = load_inputs(
            list_inputs(rule),
            np.array([False, True]),
            *(tmp_path / name for name in ("image.png", "cams.npz", "none")),
            GreyMap(tmp_path / "saliency.png"),
        )
        labels[rule] = fuse(rule, evidence, {})
    assert (labels["none"][:, :18] == 2).all()
    for rule in ("affinity", "rca"):
        assert np.array_equal(labels[rule], np.where(saliency, 2, 0)), rule


# ---- properties of all rules


def evidence_of_all() -> dict:
    return grid(2) | {"second_cams": grid(2)["cams"][::-1].copy(), "crf": np.copy, "label_crf": np.copy}


@pytest.mark.parametrize("rule", RULES)
def test_rules_do_not_modify_their_inputs(rule):
    evidence = evidence_of_all()
    label = fuse(rule, evidence, {})
    assert (label.shape, label.dtype) == (evidence["saliency"].shape, np.uint8)
    assert set(np.unique(label)) <= {0, 3, 8, 255}
    untouched = evidence_of_all()
    for name in ("cams", "classes", "saliency", "second_cams"):
        assert np.array_equal(evidence[name], untouched[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_an_image_without_classes_is_background(rule):
    evidence = {"cams": np.zeros((0, 2, 3), np.float32), "classes": np.zeros(0, np.uint8)}
    label = fuse(rule, evidence | {"saliency": np.ones((2, 3), np.float32)}, {})
    assert (label.dtype, label.tolist()) == (np.uint8, [[0, 0, 0], [0, 0, 0]])


def test_inputs_and_parameters_of_rules():
    needs = {rule: list_inputs(rule)[2:] for rule in RULES}
    assert all(list_inputs(rule)[:2] == ["cams", "classes"] for rule in RULES)
    others = {"none": [], "rca": ["saliency", "crf"], "nsrom": ["saliency", "second_cams"], "affinity": ["label_crf"]}
    assert needs == {rule: ["saliency"] for rule in RULES} | others
    assert list_parameters("icd") == {}
    assert list_parameters("bed") == {"salient_threshold": 0.2, "cam_threshold": 0.1}
    for rule in OF_PIXEL:
        names = {name for change in CHANGES[rule] for name in change}
        assert set(list_parameters(rule)) - {"smallest_share", "bg_power"} == names, f"{rule}: not all are tried"


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        ("bed", {"bg_power": 2}, r"--fusion_args bg_power=2: .* bed are salient_threshold=0\.2, cam_threshold=0\.1$"),
        ("bed", {"cam_threshold": "high"}, "cam_threshold=high"),
        ("bed", {"cam_threshold": True}, "cam_threshold=True"),
        ("bed", {"cam_threshold": [0.1]}, "cam_threshold="),
        ("bed", {"cam_threshold": float("nan")}, "cam_threshold=nan"),
        ("icd", {"cam_threshold": 0.1}, "rule icd are none"),
    ],
)
def test_parameters_that_do_not_exist_are_refused(rule, given, message):
    with pytest.raises(InputError, match=message):
        check_parameters(rule, given)


def test_parameters_that_exist_are_accepted():
    for rule in RULES:
        check_parameters(rule, list_parameters(rule))
    check_parameters("rca", {"bg_power": 2})
