"""Image labels from class vectors, annotations and tables; pickles that ask for more than arrays."""

import codecs
import contextlib
import functools
import io
import os
import pickle

import numpy as np
import pytest

from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.pickles import load_object_array
from formats.voc_layout import VOC_CLASSES, load_ids

CLASSES = ("dog", "cat", "traffic light")
BILLION_LAUGHS = f"""<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY e0 "dog">{"".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))}]>
<annotation><object><name>&e9;</name></object></annotation>"""
EXTERNAL_ENTITY = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>
<annotation><object><name>&x;</name></object></annotation>"""


def annotation(*names: str) -> str:
    """Build a VOC annotation whose first object is difficult and whose last object has a named part."""
    objects = [f"<object><name>{name}</name><difficult>0</difficult></object>" for name in names]
    if objects:
        objects[0] = objects[0].replace("<difficult>0", "<difficult>1")
        objects[-1] = objects[-1].replace("</object>", "<part><name>head</name></part></object>")
    return f"<annotation><filename>a.jpg</filename>{''.join(objects)}</annotation>"


def test_class_vectors(tmp_path):
    path = tmp_path / "cls_labels.npy"
    save_image_labels(path, {"a": np.array([1, 0, 1]), "b": np.zeros(3)})
    assert load_image_labels(path, ["b", "a"], CLASSES).tolist() == [[False] * 3, [True, False, True]]
    assert np.load(path, allow_pickle=True).item()["a"].dtype == np.float32
    with pytest.raises(MissingInputError, match=r"lacks 1 of 2 ids \(c\)"):
        load_image_labels(path, ["a", "c"], CLASSES)
    with pytest.raises(InputError, match="a vector of 20 numbers"):
        load_image_labels(path, ["a"], VOC_CLASSES)
    np.save(path, {"a": np.array(["x", "y", "z"])}, allow_pickle=True)
    with pytest.raises(InputError, match=r"a has <U1 \[3\]"):
        load_image_labels(path, ["a"], CLASSES)
    np.save(path, np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(InputError, match="holds a ndarray, not a dict"):
        load_image_labels(path, ["a"], CLASSES)
    with pytest.raises(MissingInputError, match="does not exist"):
        load_image_labels(tmp_path / "none.npy", ["a"], CLASSES)


def test_annotations(tmp_path):
    for name, objects in {"a": ["dog", "cat", "dog"], "b": [], "c": ["traffic light"]}.items():
        (tmp_path / f"{name}.xml").write_text(annotation(*objects))
    rows = load_image_labels(tmp_path, ["c", "a", "b"], CLASSES)
    assert rows.dtype == bool
    assert rows.astype(int).tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    with pytest.raises(MissingInputError, match=r"1 of 2 files are missing \(d\.xml\)"):
        load_image_labels(tmp_path, ["a", "d"], CLASSES)
    with pytest.raises(InputError, match=r"a\.xml: unknown class 'dog'; known are cat, cow"):
        load_image_labels(tmp_path, ["a"], ("cat", "cow"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BILLION_LAUGHS, "cannot be read .*amplification"),
        (EXTERNAL_ENTITY, "cannot be read .*undefined entity"),
        (annotation("dog")[:-20], "cannot be read"),
        ("", "cannot be read"),
        ("<annotation>\x00</annotation>", "cannot be read"),
        ("<html></html>", "not a VOC annotation"),
        ("<annotation><object></object></annotation>", "not a VOC annotation"),
    ],
)
def test_odd_annotations_are_refused(tmp_path, content, message):
    (tmp_path / "a.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_image_labels(tmp_path, ["a"], CLASSES)
    assert "a.xml" in str(caught.value)


def test_table(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,classes\r\n a ,dog cat\r\n\r\nb,\r\nc,"traffic light, dog"\r\nd,cat;traffic light\r\ne,dog\r\n'
        b",\r\ne,cat\r\n007,dog"
    )
    rows = load_image_labels(path, ["a", "b", "c", "d", "e", "007"], CLASSES).astype(int).tolist()
    assert rows == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
    with pytest.raises(MissingInputError, match=r"labels\.csv lacks 1 of 2 ids \(x\)"):
        load_image_labels(path, ["a", "x"], CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,classes\na,dog\nb,cow", r"line 3, id b: unknown class 'cow'; known are dog, cat, traffic light"),
        ("id,classes\na,dog,cat", "line 2: 3 columns.*quotes"),
        ("id,classes\na", "line 2: 1 columns"),
        ("id,classes\n,dog", "line 2"),
        ("a,dog\n", "begins with 'a,dog', not with id,classes"),
        ("", "begins with 'nothing'"),
        ('id,classes\na,"dog', "cannot be read"),
        (b"id,classes\na,\xff\xfe", "cannot be read"),
        ("id,classes\na," + "x" * 200_000, "cannot be read"),
    ],
)
def test_odd_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_image_labels(path, ["a"], CLASSES)
    assert "labels.csv" in str(caught.value)


def save_pickled(path, value, protocol: int) -> None:
    """Write what np.save writes, with any protocol."""
    array = np.empty((), object)
    array[()] = value
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    path.write_bytes(stream.getvalue() + pickle.dumps(array, protocol=protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path, protocol):
    arrays = {
        "half": np.linspace(0, 1, 6, dtype=np.float16).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        "swapped": np.arange(3, dtype=">i4"),
        "truth": np.array([True, False]),
        "names": np.array(["ab", "c"]),
        "single": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
        7: np.arange(256, dtype=np.uint8),
    }
    others = {"number": np.float32(0.1), np.int64(3): [1, 2.5, "ü", None, (True, b"", b"\xff")], "nested": {"a": {}}}
    path = tmp_path / "scores.npy"
    save_pickled(path, arrays | others, protocol)
    loaded = load_object_array(path).item()
    assert loaded.keys() == (arrays | others).keys()
    for key, array in arrays.items():
        assert isinstance(loaded[key], np.ndarray)
        assert loaded[key].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(loaded[key], array)
        assert loaded[key].flags.writeable
    for key, value in others.items():
        assert loaded[key] == value
        assert type(loaded[key]) is type(value)


def test_arrays_of_objects(tmp_path):
    shared = np.arange(3)
    np.save(tmp_path / "a.npy", np.array([[shared, {"x": shared}], [None, "s"]], object), allow_pickle=True)
    loaded = load_object_array(tmp_path / "a.npy")
    assert loaded.shape == (2, 2)
    assert loaded[0, 0] is loaded[0, 1]["x"]
    assert loaded[1].tolist() == [None, "s"]


def test_what_python_2_wrote(tmp_path):
    """Python 2 pickles bytes as str."""
    float_type = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    vector = blank + b"(K\x01(K\x02t" + float_type + b"\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb"
    objects = b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    content = b"\x80\x02" + blank + b"(K\x01(t" + objects + b"\x89]}U\x012" + vector + b"satb."
    stream = io.BytesIO()
    np.save(stream, np.array({}, object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(stream.getvalue()[:128] + content)
    plain = np.load(tmp_path / "a.npy", allow_pickle=True, encoding="latin1").item()
    assert plain["2"].tolist() == load_object_array(tmp_path / "a.npy").item()["2"].tolist() == [1.0, -2.0]


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class LoudDict(dict):
    def __setstate__(self, path):
        open(path, "w").close()

    def __reduce__(self):
        return (LoudDict, (), str(self["path"]))


def attacks(mark) -> dict:
    """Pickles that create the file `mark` when a plain loader reads them."""
    touch = f"open({str(mark)!r}, 'w').close()"
    inner = mark.with_name("inner.npy")
    np.save(inner, {"a": Call(exec, touch)}, allow_pickle=True)
    return {
        "posix.system": Call(os.system, f"touch '{mark}'"),
        "builtins.exec": Call(exec, touch),
        "builtins.eval": Call(eval, touch),
        "_pickle.loads": Call(pickle.loads, pickle.dumps(Call(exec, touch))),
        "functools.partial": Call(functools.partial(exec, touch)),
        "builtins.open": Call(open, str(mark), "w"),
        "_io.open": Call(io.open, str(mark), "w"),
        "numpy.load": Call(np.load, str(inner), None, True),
        "numpy.savetxt": Call(np.savetxt, str(mark), [0]),
        "codecs.open": Call(codecs.open, str(mark), "w"),
        "LoudDict": LoudDict(path=mark),
    }


@pytest.mark.skipif(os.name == "nt", reason="the shell's touch")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_is_executed(tmp_path, protocol):
    mark, path = tmp_path / "mark", tmp_path / "cls_labels.npy"
    for name, attack in attacks(mark).items():
        save_pickled(path, {"a": attack}, protocol)
        with contextlib.suppress(Exception):  # some fail after the call
            np.load(path, allow_pickle=True)
        assert mark.exists(), f"{name} is not an attack"
        mark.unlink()
        with pytest.raises(InputError, match=r"cls_labels\.npy cannot be read.* asks for "):
            load_image_labels(path, ["a"], CLASSES)
        assert not mark.exists(), name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Call(codecs.encode, "a", "rot13"), "encoding 'rot13'"),
        (Call(codecs.encode, "a", "latin1", "surrogateescape"), "positional argument"),
        (Call(np.ndarray, (1 << 40,)), "positional argument"),
        (np.zeros(2, [("x", "f4"), ("y", "O")]), "type 'V12'"),
        (np.zeros(2, "M8[s]"), "type 'M8'"),
        (np.ma.masked_array([1], [True]), "numpy.ma"),
        (Call(bytes, 1 << 40), "positional argument"),
        (1j, "complex"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_than_plain_arrays_is_refused(tmp_path, value, message, protocol):
    save_pickled(tmp_path / "a.npy", {"a": value}, protocol)
    with pytest.raises(InputError, match=message):
        load_object_array(tmp_path / "a.npy")


def crafted(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


BLANK = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
OBJECTS, FLOATS = (b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR" % code for code in (b"O8", b"f8"))
FLOATS_WITH_FLAGS = FLOATS + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
FILL = b"(K\x01(K\x01t" + FLOATS + b"\x89U\x08AAAAAAAAtb"  # an array of one float


@pytest.mark.parametrize(
    "content",
    [
        crafted(BLANK, b"(K\x01(K\x01t", OBJECTS, b"\x89U\x08AAAAAAAAtb"),  # bytes as object pointers
        crafted(BLANK, b"(K\x01(K\x09t", FLOATS, b"\x89U\x08AAAAAAAAtb"),  # a shape of more bytes
        crafted(BLANK, b"(K\x01(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", FLOATS, b"\x89U\x08AAAAAAAAtb"),  # [-1, -1]
        crafted(BLANK, b"(K\x01(J\xff\xff\xff\x7ft", OBJECTS, b"\x89]tb"),  # a shape of more objects
        crafted(BLANK, FILL, FILL),
        crafted(b"cnumpy.core.multiarray\nscalar\n(", OBJECTS, b"U\x08AAAAAAAAtR"),
        crafted(b"cnumpy.core.multiarray\n_reconstruct\n}U\x01xK\x01sb"),  # an attribute of a function
        crafted(b"cnumpy\ndtype\n)\x81"),  # an instance of a class without its __init__
        crafted(b"]q\x00h\x00a"),  # a list that holds itself
        crafted(b"Pwhat\n"),
        b"",
        b"\x80\x02",
        b"\xff" * 99,
    ],
)
def test_crafted_pickles_are_refused(tmp_path, content):
    stream = io.BytesIO()
    np.save(stream, np.array({}, object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(stream.getvalue()[:128] + content)
    with pytest.raises(InputError, match=r"a\.npy"):
        load_object_array(tmp_path / "a.npy")


def test_flags_of_a_pickled_dtype_are_ignored(tmp_path):
    """numpy would take the eight bytes for the address of an object."""
    stream = io.BytesIO()
    np.save(stream, np.array({}, object), allow_pickle=True)
    array = crafted(BLANK, b"(K\x01(K\x01t", FLOATS_WITH_FLAGS, b"\x89U\x08AAAAAAAAtb")
    (tmp_path / "a.npy").write_bytes(stream.getvalue()[:128] + array)
    assert load_object_array(tmp_path / "a.npy").tolist() == np.frombuffer(b"AAAAAAAA").tolist()


def test_files_that_are_no_object_arrays(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match=r"array of float64 \[3\], not a pickled dict"):
        load_object_array(path)
    save_image_labels(path, {"a": np.zeros(3)})
    for content in (path.read_bytes()[:-9], path.read_bytes()[:40], b"", pickle.dumps({}), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_object_array(path)


def test_the_public_class_vectors(real_data):
    """12031 images; the paper's split: 6249 of train_aug and 933 of train hold exactly one class."""
    path = real_data / "voc12-photos/voc12/cls_labels.npy"
    assert len(load_object_array(path).item()) == 12031
    counts = {}
    for name in ("train", "train_aug", "val"):
        rows = load_image_labels(path, load_ids(real_data / f"voc12-official-lists/{name}_id.txt"), VOC_CLASSES)
        counts[name] = (len(rows), int((rows.sum(axis=1) == 1).sum()))
    assert counts["train"] == (1464, 933)
    assert counts["train_aug"] == (10582, 6249)
    assert counts["val"][0] == 1449


def test_ids_of_a_table_may_have_a_suffix(tmp_path):
    (tmp_path / "labels.csv").write_text("id,classes\na.jpg,cat\nb,dog\n")
    assert load_image_labels(tmp_path / "labels.csv", ["a", "b"], ("cat", "dog")).tolist() == [[1, 0], [0, 1]]
