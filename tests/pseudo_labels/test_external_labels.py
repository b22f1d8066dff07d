"""Labels of other methods, in each of their file formats, and files that cannot be used."""

import contextlib
import io
import os
import pickle
from collections import OrderedDict

import cv2
import numpy as np
import pytest
import torch

from formats.cams import save_cams
from formats.errors import InputError, MissingInputError
from formats.labels import VOC_PALETTE, save_label
from pseudo_labels.external_labels import find_baseline, load_baseline, load_dict

HW = (2, 3)
IMAGE = np.array([False, True, False, True])  # labels 2 and 4, classes 1 and 3 from 0
SECOND = np.array([[0.9, 0.1, 0.3], [0.2, 0.5, 0.2]], np.float32)
FOURTH = np.array([[0.2, 0.3, 0.6], [0.1, 0.5, 0.1]], np.float32)
BOTH = np.stack([SECOND, FOURTH])
EXPECTED = [[2, 4, 4], [0, 2, 0]]  # background at 0.2; the background wins ties, then the smaller label
BACKGROUND = np.array([[0.1, 0.4, 0.5], [0.1, 0.9, 0.3]], np.float32)
AGAINST_BACKGROUND = [[2, 0, 4], [2, 0, 0]]


def save_dict(path, content) -> None:
    np.save(path, content, allow_pickle=True)


def load(path, image_labels=IMAGE, shape_hw=HW):
    label = load_baseline(path, image_labels, "a.jpg", shape_hw, bg_threshold=0.2)
    assert label.dtype == np.uint8
    return label.tolist()


@pytest.mark.parametrize("form", ["palette", "grey", "colours"])
def test_label_maps(tmp_path, form):
    label = np.array([[0, 2, 4], [255, 2, 0]], np.uint8)
    path = tmp_path / "a.png"
    if form == "palette":
        save_label(path, label)
    else:
        cv2.imwrite(str(path), label if form == "grey" else VOC_PALETTE[label][:, :, ::-1])
    assert load(path) == label.tolist()
    with pytest.raises(InputError, match=r"a\.png is 3×2 px, but a\.jpg is 2×3 px"):
        load(path, shape_hw=(3, 2))
    with pytest.raises(InputError, match=r"a\.png holds the labels \[4\], but there are only 0 to 3 and 255"):
        load(path, image_labels=IMAGE[:3])


SCORES = {
    "PSA": {1: SECOND, 3: FOURTH},
    "PSA, in another order": {3: FOURTH, 1: SECOND},
    "labels": {2: SECOND, 4: FOURTH},
    "IRN": {"keys": torch.tensor([1, 3]), "cam": torch.zeros(2, 1, 1), "high_res": BOTH},
    "Puzzle-CAM": {"keys": np.array([0, 2, 4]), "cam": torch.zeros(2, 1, 1), "hr_cam": BOTH.astype(np.float16)},
    "Puzzle-CAM after its walk": {"keys": np.array([0, 2, 4]), "rw": BOTH},
    "CLIP-ES": {"keys": np.array([3, 1]), "attn_highres": BOTH[::-1].astype(np.float16)},
    "tensors": {"keys": torch.tensor([3, 1]), "cam": torch.from_numpy(BOTH).flip(0)},
    "lists": {"keys": [1, 3], "cam": [SECOND, FOURTH]},
}


@pytest.mark.parametrize("form", SCORES)
def test_scores(tmp_path, form):
    save_dict(tmp_path / "a.npy", SCORES[form])
    assert load(tmp_path / "a.npy") == EXPECTED


@pytest.mark.parametrize(
    "scores",
    [
        {0: BACKGROUND, 2: SECOND, 4: FOURTH},  # PSA after its CRF
        {"keys": np.array([0, 2, 4]), "rw": np.stack([BACKGROUND, SECOND, FOURTH])},
        {"keys": np.array([4, 0, 2]), "rw": np.stack([FOURTH, BACKGROUND, SECOND])},
    ],
)
def test_background_scores_replace_the_constant(tmp_path, scores):
    save_dict(tmp_path / "a.npy", scores)
    assert load(tmp_path / "a.npy") == AGAINST_BACKGROUND


def test_named_arrays(tmp_path):
    save_cams(tmp_path / "ours.npz", BOTH, np.array([2, 4]))
    np.savez(tmp_path / "theirs.npz", keys=np.array([1, 3]), high_res=BOTH, cam=np.zeros((2, 1, 1)))
    assert load(tmp_path / "theirs.npz") == EXPECTED
    assert load(tmp_path / "ours.npz") == [[2, 4, 4], [0, 2, 0]]
    for scores, expected in ((SCORES["PSA"], EXPECTED), ({0: BACKGROUND, 2: SECOND, 4: FOURTH}, AGAINST_BACKGROUND)):
        np.savez(tmp_path / "numbers.npz", **{str(number): score for number, score in scores.items()})
        assert load(tmp_path / "numbers.npz") == expected
    np.savez(tmp_path / "odd.npz", **{"1": SECOND, "03": FOURTH})
    with pytest.raises(InputError, match="holds 1, 03: expected one map per class number"):
        load(tmp_path / "odd.npz")


def test_key_0_is_the_first_class_or_the_background(tmp_path):
    """The classes of the image decide whether the keys count from 0."""
    save_dict(tmp_path / "a.npy", {0: SECOND})
    assert load(tmp_path / "a.npy", np.array([True, False])) == [[1, 0, 1], [0, 1, 0]]
    save_dict(tmp_path / "a.npy", {0: SECOND, 1: FOURTH})
    assert load(tmp_path / "a.npy", np.array([True, True])) == [[1, 2, 2], [0, 1, 0]]
    assert load(tmp_path / "a.npy", np.array([True, False])) == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    "scores", [{}, {0: BACKGROUND}, {"keys": np.array([0]), "hr_cam": np.zeros((0, *HW))}, {"keys": [], "cam": []}]
)
def test_images_without_classes(tmp_path, scores):
    save_dict(tmp_path / "a.npy", scores)
    assert load(tmp_path / "a.npy", np.zeros(4, bool)) == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(
        InputError, match=r"holds scores of the classes \[0?\], but by its image labels the image has \[2, 4\]"
    ):
        load(tmp_path / "a.npy")


def test_maps_at_a_stride_are_enlarged(tmp_path):
    """2×2 maps whose left half is 1 are resized bilinearly."""
    left = np.array([[1, 0], [1, 0]], np.float32)
    save_dict(tmp_path / "a.npy", {"keys": torch.tensor([1, 3]), "cam": torch.from_numpy(np.stack([left, 1 - left]))})
    assert load(tmp_path / "a.npy", shape_hw=(4, 8)) == [[2] * 4 + [4] * 4] * 4
    save_dict(tmp_path / "a.npy", {0: left[:, ::-1] * 0.5, 2: left})
    # 1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0 against 0.5 times its mirror image
    found = load(tmp_path / "a.npy", image_labels=np.array([False, True]), shape_hw=(4, 8))
    assert found == [[2, 2, 2, 2, 2, 0, 0, 0]] * 4


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({1: SECOND}, r"classes \[1\], but by its image labels the image has \[2, 4\] \(or these minus 1\)"),
        ({1: SECOND, 4: FOURTH}, r"classes \[1, 4\]"),
        ({0: BACKGROUND, 1: SECOND, 3: FOURTH}, r"classes \[0, 1, 3\]"),
        ({2: SECOND, 4: FOURTH, 5: FOURTH}, r"classes \[2, 4, 5\]"),
        ({"keys": [2, 4, 4], "cam": [SECOND, FOURTH, FOURTH]}, r"classes \[2, 4, 4\]"),
        ({"keys": [2.5, 4], "cam": BOTH}, r"classes \[2\.5, 4\.0\]"),
        ({"keys": ["a", "b"], "cam": BOTH}, "holds 2 classes, but maps of float32"),
        ({"keys": [2, 4], "cam": SECOND}, r"2 classes, but maps of float32 \[2, 3\]"),
        ({"keys": [2, 4], "cam": BOTH[None]}, r"2 classes, but maps of float32 \[1, 2, 2, 3\]"),
        ({"keys": [2, 4], "cam": np.zeros((2, 0, 3))}, r"float64 \[2, 0, 3\]"),
        ({"keys": [2, 4, 5, 6], "cam": BOTH}, r"4 classes, but maps of float32 \[2, 2, 3\]"),
        ({"keys": [2, 4], "cam": None}, "maps of object"),
        ({"keys": None, "cam": BOTH}, "1 classes"),
        ({"keys": [2, 4], "cam": np.array(["a", "b"])}, "maps of <U1"),
        ({2: SECOND, 4: FOURTH[:1]}, "maps of several sizes"),
        ({2: SECOND, "4": FOURTH}, "holds 2, 4: expected one map per class number, or keys with high_res, hr_cam"),
        ({"keys": [2, 4], "scores": BOTH}, "holds keys, scores: expected"),
        ({2: SECOND, 4: np.where(FOURTH == 0.5, np.nan, FOURTH)}, "not finite"),
        ({2: SECOND, 4: np.where(FOURTH == 0.5, np.inf, FOURTH)}, "not finite"),
        ([SECOND, FOURTH], "holds a ndarray: save a dict"),
        (BOTH, r"array of float32 \[2, 2, 3\], not a pickled dict"),
    ],
)
def test_scores_that_cannot_be_used(tmp_path, scores, message):
    save_dict(tmp_path / "a.npy", scores if isinstance(scores, (dict, np.ndarray)) else np.array(scores, object))
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / "a.npy")
    assert "a.npy" in str(caught.value)


def test_damaged_files(tmp_path):
    save_dict(tmp_path / "a.npy", {2: SECOND, 4: FOURTH})
    save_cams(tmp_path / "a.npz", BOTH, np.array([2, 4]))
    save_label(tmp_path / "a.png", np.zeros(HW, np.uint8))
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for damaged in (b"", content[:60], content[:-5], content[:70] + b"\xff\x00\xff" + content[73:]):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=path.name):
                load(path)
    np.save(tmp_path / "b.npy", BOTH)
    with pytest.raises(InputError, match=r"b\.npz cannot be read as named arrays"):
        load((tmp_path / "b.npy").rename(tmp_path / "b.npz"))
    with pytest.raises(MissingInputError, match="does not exist"):
        load(tmp_path / "none.npz")


FLOATS = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
TENSORS = {
    "plain": FLOATS,
    "permuted": FLOATS.permute(2, 0, 1),
    "sliced": FLOATS[1, ::2, 1:],
    "single": FLOATS[1, 2, 3],
    "empty": torch.zeros(0, 5),
    "requires_grad": FLOATS.clone().requires_grad_(),
    "half": FLOATS.half(),
    "int64": torch.tensor([[1, 0], [0, 7]]),
    "bool": torch.tensor([True, False]),
}


def test_tensors_become_arrays(tmp_path):
    save_dict(tmp_path / "a.npy", OrderedDict(TENSORS))
    loaded = load_dict(tmp_path / "a.npy")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert isinstance(loaded[name], np.ndarray)
        assert loaded[name].dtype == tensor.detach().numpy().dtype
        assert np.array_equal(loaded[name], tensor.detach().numpy()), name


@pytest.mark.parametrize(
    "value", [torch.nn.Parameter(FLOATS), FLOATS.to_sparse(), FLOATS.bfloat16(), torch.nn.Linear(1, 1), torch.float32]
)
def test_other_tensors_cannot_be_used(tmp_path, value):
    save_dict(tmp_path / "a.npy", {"cam": value})
    with pytest.raises(InputError, match=r"a\.npy cannot be read as pickled arrays"):
        load_dict(tmp_path / "a.npy")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_nothing_is_executed(tmp_path):
    mark = tmp_path / "mark"
    attack = Call(os.mkdir, str(mark))
    np.savez(tmp_path / "a.npz", keys=np.array([1, 3]), cam=np.array([attack, attack], object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(attack))
    save_dict(tmp_path / "a.npy", {1: attack, 3: FOURTH})
    for name in ("a.npz", "b.npz", "a.npy"):
        with pytest.raises(InputError, match="cannot be read"):
            load(tmp_path / name)
        assert not mark.exists()
    np.load(tmp_path / "b.npz", allow_pickle=True)
    assert mark.exists(), "not an attack"


@pytest.mark.parametrize("is_zip", [True, False])
def test_storages_of_tensors_execute_nothing(tmp_path, is_zip):
    mark, path, stored = tmp_path / "mark", tmp_path / "a.npy", io.BytesIO()
    torch.save(Call(os.mkdir, str(mark)), stored, _use_new_zipfile_serialization=is_zip)
    storage = Call(torch.storage._load_from_bytes, stored.getvalue())
    save_dict(path, {1: Call(torch._utils._rebuild_tensor_v2, storage, 0, (2, 3), (3, 1), False, OrderedDict())})
    with contextlib.suppress(Exception):  # the call comes first
        np.load(path, allow_pickle=True)
    assert mark.exists(), "not an attack"
    mark.rmdir()
    with pytest.raises(InputError, match=r"a\.npy cannot be read as pickled arrays"):
        load(path)
    assert not mark.exists()


@pytest.mark.parametrize(("offset", "shape", "strides"), [(20, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,))])
def test_tensors_stay_within_their_storage(tmp_path, offset, shape, strides):
    stored = io.BytesIO()
    torch.save(FLOATS._typed_storage(), stored, _use_new_zipfile_serialization=False)
    storage = Call(torch.storage._load_from_bytes, stored.getvalue())
    save_dict(tmp_path / "a.npy", {1: Call(torch._utils._rebuild_tensor, storage, offset, shape, strides)})
    with pytest.raises(InputError, match=r"a\.npy cannot be read as pickled arrays"):
        load_dict(tmp_path / "a.npy")


def test_finding_the_files(tmp_path):
    for name in ("a.png", "b.npy", "c.npz", "a.txt"):
        (tmp_path / name).touch()
    found = {"c": tmp_path / "c.npz", "a": tmp_path / "a.png", "b": tmp_path / "b.npy"}
    assert find_baseline(tmp_path, list(found)) == found
    assert find_baseline(tmp_path, ["a", "d"], allow_missing=True) == {"a": tmp_path / "a.png"}
    with pytest.raises(MissingInputError, match=r"lacks the labels of 2 of 3 images \(d, e\).*<id>\.png or <id>\.npy"):
        find_baseline(tmp_path, ["d", "a", "e"])
    (tmp_path / "a.npy").touch()
    with pytest.raises(InputError, match=r"holds a\.png and a\.npy: remove all but one"):
        find_baseline(tmp_path, ["a", "b"])
    with pytest.raises(MissingInputError, match="does not exist"):
        find_baseline(tmp_path / "none", ["a"])
