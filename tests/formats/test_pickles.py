"""Pickled object arrays: what numpy saves is read, and whatever asks for more than arrays is refused."""

import codecs
import contextlib
import functools
import io
import os
import pickle

import numpy as np
import pytest

from formats.errors import InputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.pickles import load_object_array


def save_pickled(path, value, protocol: int) -> None:
    """Write what np.save writes, with any protocol."""
    array = np.empty((), object)
    array[()] = value
    write_content(path, pickle.dumps(array, protocol=protocol))


def write_content(path, content: bytes) -> None:
    """Write a pickle after the header of an object array."""
    stream = io.BytesIO()
    np.save(stream, np.array({}, object), allow_pickle=True)
    path.write_bytes(stream.getvalue()[:128] + content)


@pytest.mark.parametrize("protocol", [2, 3, 4])
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
    save_pickled(tmp_path / "scores.npy", arrays | others, protocol)
    loaded = load_object_array(tmp_path / "scores.npy").item()
    assert loaded.keys() == (arrays | others).keys()
    for key, array in arrays.items():
        assert isinstance(loaded[key], np.ndarray)
        assert loaded[key].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(loaded[key], array)
        assert loaded[key].flags.writeable
    for key, value in others.items():
        assert loaded[key] == value
        assert type(loaded[key]) is type(value)


def test_what_python_2_wrote(tmp_path):
    """Python 2 pickles bytes as str."""
    vector = (
        BLANK + b"(K\x01(K\x02t" + FLOATS.replace(b"f8", b"f4") + ENDIAN + b"\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb"
    )
    write_content(tmp_path / "a.npy", crafted(BLANK, b"(K\x01(t", OBJECTS, b"\x89]}U\x012", vector, b"satb"))
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
    return {
        "posix.system": Call(os.system, f"touch '{mark}'"),
        "builtins.exec": Call(exec, touch),
        "_pickle.loads": Call(pickle.loads, pickle.dumps(Call(exec, touch))),
        "functools.partial": Call(functools.partial(exec, touch)),
        "_io.open": Call(io.open, str(mark), "w"),
        "numpy.savetxt": Call(np.savetxt, str(mark), [0]),
        "codecs.open": Call(codecs.open, str(mark), "w"),
        "LoudDict": LoudDict(path=mark),
    }


@pytest.mark.skipif(os.name == "nt", reason="the shell's touch")
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_executed(tmp_path, protocol):
    mark, path = tmp_path / "mark", tmp_path / "cls_labels.npy"
    for name, attack in attacks(mark).items():
        save_pickled(path, {"a": attack}, protocol)
        with contextlib.suppress(Exception):  # some fail after the call
            np.load(path, allow_pickle=True)
        assert mark.exists(), f"{name} is not an attack"
        mark.unlink()
        with pytest.raises(InputError, match=r"cls_labels\.npy cannot be read.* asks for "):
            load_image_labels(path, ["a"], ("dog",))
        assert not mark.exists(), name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Call(codecs.encode, "a", "rot13"), "encoding 'rot13'"),
        (Call(codecs.encode, "a", "latin1", "surrogateescape"), "positional argument"),
        (Call(np.ndarray, (1 << 40,)), "positional argument"),
        (Call(bytes, 1 << 40), "positional argument"),
        (np.zeros(2, [("x", "f4"), ("y", "O")]), "type 'V12'"),
        (np.ma.masked_array([1], [True]), "numpy.ma"),
        (1j, "complex"),
    ],
)
def test_other_than_plain_arrays_is_refused(tmp_path, value, message):
    save_pickled(tmp_path / "a.npy", {"a": value}, protocol=4)
    with pytest.raises(InputError, match=message):
        load_object_array(tmp_path / "a.npy")


def crafted(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


BLANK = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
OBJECTS, FLOATS = (b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR" % code for code in (b"O8", b"f8"))
ENDIAN = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # state of a dtype: little endian, no flags
FLAGS = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"  # as of a type of objects
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
        b"",
        b"\xff" * 99,
    ],
)
def test_crafted_pickles_are_refused(tmp_path, content):
    write_content(tmp_path / "a.npy", content)
    with pytest.raises(InputError, match=r"a\.npy"):
        load_object_array(tmp_path / "a.npy")


def test_flags_of_a_pickled_dtype_are_ignored(tmp_path):
    """numpy would take the eight bytes for the address of an object."""
    write_content(tmp_path / "a.npy", crafted(BLANK, b"(K\x01(K\x01t", FLOATS, FLAGS, b"\x89U\x08AAAAAAAAtb"))
    assert load_object_array(tmp_path / "a.npy").tolist() == np.frombuffer(b"AAAAAAAA").tolist()


def test_files_that_are_no_object_arrays(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match=r"array of float64 \[3\], not a pickled dict"):
        load_object_array(path)
    save_image_labels(path, {"a": np.zeros(3)})
    for content in (path.read_bytes()[:-9], path.read_bytes()[:40], b"", pickle.dumps({})):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_object_array(path)
