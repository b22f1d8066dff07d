"""Layout of the VOC tree and of saliency data sets: search for folders, lists of ids, missing files."""

import unicodedata

import numpy as np
import pytest

from formats.errors import InputError, MissingInputError
from formats.images import save_grey
from formats.saliency_layout import find_training_sets, saliency_pairs, training_pairs
from formats.voc_layout import (
    VOC_CLASSES,
    files_of_ids,
    find_voc_root,
    label_folder,
    load_class_names,
    load_ids,
    mask_folder,
    new_label_folder,
    truth_folder,
)


@pytest.mark.parametrize(
    "below", ["", "VOC2012", "VOCdevkit/VOC2012", "voc12/VOCdevkit/VOC2012", "data/voc12/VOCdevkit/VOC2012"]
)
def test_root_is_found_from_any_parent(tmp_path, below):
    (tmp_path / below / "JPEGImages").mkdir(parents=True)
    assert find_voc_root(tmp_path) == tmp_path / below


def test_some_folders_beside_voc2012(tmp_path):
    """Folders in VOC2012 and in its parent form one tree, for --data_dir of either."""
    official, beside = tmp_path / "VOCdevkit/VOC2012", tmp_path / "VOCdevkit"
    (official / "SegmentationClass").mkdir(parents=True)
    (beside / "JPEGImages").mkdir()
    (beside / "SegmentationClassAug").mkdir()
    for data_dir in (tmp_path, beside, official):
        root = find_voc_root(data_dir)
        assert root == beside
        assert truth_folder(root, []) == official / "SegmentationClass"
        assert truth_folder(root, ["a"]) == beside / "SegmentationClassAug"
    (official / "JPEGImages").mkdir()
    root = find_voc_root(official)
    assert root == official
    assert truth_folder(root, ["a"]) == label_folder("SegmentationClassAug", root) == beside / "SegmentationClassAug"
    (official / "SegmentationClassAug").mkdir()
    assert mask_folder(root, "SegmentationClassAug") == official / "SegmentationClassAug"
    assert mask_folder(root, "Other") == official / "Other"


def test_root_is_missing(tmp_path):
    (tmp_path / "Images").mkdir()
    with pytest.raises(MissingInputError, match=r"no JPEGImages .*; there is Images"):
        find_voc_root(tmp_path)
    with pytest.raises(MissingInputError, match="does not exist"):
        find_voc_root(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "below", ["VOCtrainval_11-May-2012/VOCdevkit/VOC2012", "VOC2012_train_val/VOC2012_train_val", "a/b/c/VOC2012"]
)
def test_root_is_found_where_archives_unpack(tmp_path, below):
    (tmp_path / below / "JPEGImages").mkdir(parents=True)
    assert find_voc_root(tmp_path) == tmp_path / below
    with pytest.raises(MissingInputError):
        find_voc_root(tmp_path, searches=False)
    (tmp_path / "VOC2012_test/VOC2012_test/JPEGImages").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds JPEGImages in .*VOC2012_test.*: name one of these folders"):
        find_voc_root(tmp_path)


def test_class_names(tmp_path):
    assert load_class_names(tmp_path) == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    (tmp_path / "classes.txt").write_text("ball\r\n\nboat \n")
    assert load_class_names(tmp_path) == ("ball", "boat")
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfball\n")  # as written by the Windows editor
    assert load_class_names(tmp_path) == ("ball",)
    for content, words in (("ball\nball\n", "different"), ("cat\nball\n_background_", "name 3: background is label 0")):
        (tmp_path / "classes.txt").write_text(content)
        with pytest.raises(InputError, match=words):
            load_class_names(tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        "Background\ncat\nbig dog",
        "__ignore__\n_background_\ncat\nbig dog",
        "0 background\n1 cat\n2 big dog",
        "0\t__background__\n1\tcat\n2\tbig dog",
        "bg\n\ncat\nbig dog\n",
        "1 cat\n2 big dog",
        "0 cat\n1 big dog",
    ],
)
def test_class_lists_of_annotation_tools(tmp_path, lines):
    (tmp_path / "classes.txt").write_text(lines)
    assert load_class_names(tmp_path) == ("cat", "big dog")


def test_numbers_that_do_not_count_are_names(tmp_path):
    for names in (("1 cent", "2 cent", "5 cent"), ("2 cats", "3 cats"), ("0", "1"), ("1 cat", "dog")):
        (tmp_path / "classes.txt").write_text("\n".join(names))
        assert load_class_names(tmp_path) == names


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\r\n c \nd.e\nf.jpg\n")
    assert load_ids(path) == ["a", "b", "c", "d.e", "f"]
    path.write_text("a.png\nb.JPG\n/JPEGImages/c.jpeg /SegmentationClass/c.png\nd 3 14\nphoto (1)\nIMG 0001 7\n")
    assert load_ids(path) == ["a", "b", "c", "d", "photo (1)", "IMG 0001"]
    path.write_bytes("ü\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt is not text in UTF-8"):
        load_ids(path)
    path.write_text("\n \n")
    with pytest.raises(InputError, match="is empty"):
        load_ids(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(InputError, match="more than once"):
        load_ids(path)
    with pytest.raises(MissingInputError):
        load_ids(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("line", "images", "image_id"),
    [
        ("photo 2", ["photo 2"], "photo 2"),
        ("photo 2", ["photo"], "photo"),
        ("photo 2 7", ["photo 2"], "photo 2"),
        ("IMG 0001", ["IMG"], "IMG 0001"),  # a missing image
        ("Paris, May", ["Paris, May"], "Paris, May"),
        ("photo 2.jpg", ["photo 2", "photo"], "photo 2"),
        ("a b.jpg masks/a b.png", ["a b"], "a b"),
        ("a -1", ["a -1"], "a -1"),
    ],
)
def test_images_decide_what_a_line_means(tmp_path, line, images, image_id):
    for name in images:
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.txt").write_text(line)
    assert load_ids(tmp_path / "list.txt", images) == load_ids(tmp_path / "list.txt", tmp_path) == [image_id]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("photo 2", r"images 'photo 2' and 'photo': write photo 2\.jpg for the first, photo\.jpg for the second"),
        ("photo  -1", "-1 marks an image without the class .* use a list of ImageSets/Segmentation"),
        ("photo,photo 2", "which has commas: write one id per line"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, line, words):
    (tmp_path / "list.txt").write_text(f"cat\n{line}\n")
    with pytest.raises(InputError, match=rf"list\.txt, line 2: .*{words}"):
        load_ids(tmp_path / "list.txt", ["cat", "photo", "photo 2"])


IDS_THAT_LEAD_ELSEWHERE = ("../outside", "below/../../outside", "ABSOLUTE/outside", "/JPEGImages/../../x", "..")
IDS_OF_WINDOWS = ("..\\outside", "C:\\outside", "C:outside", "\\outside")
IDS_THAT_ARE_NO_NAMES = ("a\0b", "a\x1b[2Jb", ".jpg", "/JPEGImages/...jpg")


@pytest.mark.parametrize("name", [*IDS_THAT_LEAD_ELSEWHERE, *IDS_OF_WINDOWS, *IDS_THAT_ARE_NO_NAMES])
def test_ids_lead_nowhere_else(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"a\n{name.replace('ABSOLUTE', str(tmp_path))}\n")
    with pytest.raises(InputError, match=r"ids\.txt holds '.*': an id is the name of a file") as caught:
        load_ids(tmp_path / "ids.txt")
    assert str(caught.value).isprintable()  # no control character reaches the terminal


def test_missing_files_are_named(tmp_path):
    (tmp_path / "a.png").touch()
    assert list(files_of_ids(tmp_path, ["a"], ".png")) == [tmp_path / "a.png"]
    with pytest.raises(MissingInputError, match=r"2 of 3 files are missing \(b\.png, c\.png\)"):
        files_of_ids(tmp_path, ["a", "b", "c"], ".png")
    (tmp_path / "b.PNG").touch()
    with pytest.raises(
        MissingInputError, match=r"there is b\.PNG, but files must be named <id>\.png: convert or rename"
    ):
        files_of_ids(tmp_path, ["a", "b", "c"], ".png")
    (tmp_path / "0028_sal_fuse.png").touch()
    with pytest.raises(MissingInputError, match=r"there is 0028_sal_fuse\.png, but files must be named <id>"):
        files_of_ids(tmp_path, ["0028"], ".png")


@pytest.mark.parametrize(("in_list", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form(tmp_path, in_list, on_disk):
    (tmp_path / f"{unicodedata.normalize(on_disk, 'café')}.jpg").touch()
    with pytest.raises(MissingInputError, match=r"1 of 1 files .*; there is caf.+\.jpg, in another Unicode form: copy"):
        files_of_ids(tmp_path, [unicodedata.normalize(in_list, "café")], ".jpg")


def test_label_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc/SegmentationClassAug").mkdir(parents=True)
    assert label_folder("SegmentationClassAug", tmp_path / "voc") == tmp_path / "voc/SegmentationClassAug"
    (tmp_path / "experiments/pseudo_labels/ours").mkdir(parents=True)
    assert label_folder("ours", tmp_path / "voc").name == "ours"
    assert label_folder(str(tmp_path / "voc"), tmp_path) == tmp_path / "voc"
    (tmp_path / "experiments/pseudo_labels/ours/before").mkdir()
    assert label_folder("ours/before", tmp_path / "voc").name == "before"
    with pytest.raises(MissingInputError, match="--label_name theirs"):
        label_folder("theirs", tmp_path / "voc")


def test_new_label_folders(tmp_path):
    assert new_label_folder("ours").as_posix() == "experiments/pseudo_labels/ours"
    assert new_label_folder(f"{tmp_path}/../ours") == tmp_path / "../ours"  # a path is kept
    (tmp_path / "file").touch()
    for name, words in (
        ("..", r"--label_name \.\. leads out of"),
        (f"{tmp_path}/file", "file is a file: name a folder"),
    ):
        with pytest.raises(InputError, match=words):
            new_label_folder(name)


def test_official_lists(real_data):
    lists = {path.name: len(load_ids(path)) for path in (real_data / "voc12-official-lists").glob("*.txt")}
    assert {1464, 10582, 1449} <= set(lists.values()), lists


def test_saliency_data_sets(tmp_path, scenes):
    assert [path.name for path in find_training_sets(scenes / "dataset")] == ["DRAWN-TR"]
    for tested in ("benchmark", "benchmark/DRAWN-TE"):
        with pytest.raises(InputError, match="is for testing"):
            find_training_sets(scenes / "dataset" / tested)
    with pytest.raises(InputError, match="twice"):
        training_pairs([scenes / "dataset", scenes / "dataset/DRAWN-TR"])
    pairs = saliency_pairs(scenes / "dataset/DRAWN-TR")
    assert len(pairs) == 12
    assert all(image.stem == mask.stem for image, mask in pairs)
    (tmp_path / "DUTS-TR/DUTS-TR-Image").mkdir(parents=True)
    with pytest.raises(MissingInputError, match=r"holds none.*Images/ and Masks/.* there is .*DUTS-TR-Image: rename"):
        find_training_sets(tmp_path)


@pytest.mark.parametrize(("values", "largest"), [((0, 128), 128), ((0, 2), 2), ((0, 0), 0), ((0, 1), 0), ((9, 255), 0)])
def test_masks_without_any_object(values, largest, tmp_path):
    """They are refused if they have values; empty masks may be meant. largest: value named, 0 if nothing is wrong."""
    for number, value in enumerate(values):
        for place in (f"Images/{number}.png", f"Masks/{number}.png"):
            save_grey(tmp_path / place, np.array([[0, value]], np.uint8))
    if largest:
        with pytest.raises(InputError, match=rf"none of the 2 masks .* the largest value is {largest}: save masks of"):
            training_pairs([tmp_path])
    else:
        assert len(training_pairs([tmp_path])) == 2


def test_missing_mask(tmp_path):
    for folder, names in (("Images", ("a.jpg", "b.jpg")), ("Masks", ("a.png",))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    with pytest.raises(MissingInputError, match=r"no mask for 1 of 2 images \(b\)"):
        saliency_pairs(tmp_path)
    for stem in ("b", "c", "d"):
        (tmp_path / f"Masks/{stem}.png").touch()
    with pytest.raises(MissingInputError, match=r"no image for 2 of 4 masks \(c, d\)"):
        saliency_pairs(tmp_path)


def test_a_project_in_a_folder_called_benchmark(tmp_path):
    for data_set in ("dataset/TR", "dataset/benchmark/TE"):
        (tmp_path / "benchmark" / data_set / "Images").mkdir(parents=True)
    assert [path.name for path in find_training_sets(tmp_path / "benchmark/dataset")] == ["TR"]
    for tested in ("dataset/benchmark", "dataset/benchmark/TE"):
        with pytest.raises(InputError, match="is for testing"):
            find_training_sets(tmp_path / "benchmark" / tested)
