"""Pickled `.npy` files, as np.save writes dictionaries, read without running anything that they ask for.

A pickle may call any function by its name. Here the few names of which arrays, tensors and numbers consist are answered
by stand-ins that only keep what they are given, and every other name is refused; the arrays are built afterwards from
bytes whose number was checked. So a file that came from elsewhere can be damaged, but it cannot do anything.
"""

import io
import pickle
import re
import struct
import tokenize

import numpy as np

from formats.errors import InputError, first_line
from formats.images import read_bytes
from formats.pickled_tensors import TYPES, Tensor, check_memo

PLAIN = (str, bytes, bool, int, float, type(None), np.generic)
NUMBER_OR_TEXT = re.compile(r"b1|[iu][1248]|f[248]|[US]\d{1,6}|O[48]?")  # dtypes as a pickle writes them
DAMAGE = (
    *(ValueError, EOFError, pickle.UnpicklingError, struct.error, AttributeError, IndexError, KeyError, TypeError),
    *(OverflowError, MemoryError, RecursionError, ImportError),
    *(SyntaxError, tokenize.TokenError),  # numpy parses the header as Python
)


def load_object_array(path) -> np.ndarray:
    """The array of objects in a `.npy` file, of the shape it was saved in; a dict given to np.save has shape [].

    It holds arrays, numbers, strings, None, dicts, lists and tuples; tensors of PyTorch become arrays. Anything else is
    an `InputError`.
    """
    stream = io.BytesIO(read_bytes(path))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if not dtype.hasobject:
            raise InputError(f"it is an array of {dtype} {list(shape)}, not a pickled dict")
        check_memo(stream)
        loaded = _plain(_ArrayUnpickler(stream, encoding="latin1").load(), {})  # latin1: bytes written by Python 2
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as pickled arrays: {first_line(error)}") from None
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path} holds a {type(loaded).__name__} where np.save writes an array")
    return loaded


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        known = f"{module.replace('numpy.core', 'numpy._core').replace('__builtin__', 'builtins')}.{name}"
        if known in TYPES:
            return TYPES[known]
        if known not in STAND_INS:
            raise InputError(f"it asks for {module}.{name}, which arrays and plain containers never need")
        # a new function each time, since a pickle may also set attributes of what it is given
        return lambda *args: STAND_INS[known](*args)


class _Type:
    """Stands in for a numpy.dtype."""

    def __init__(self, code, align, copy):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        _, self.order, *structure = state
        if structure[:3] != [None] * 3:
            raise InputError("it holds a structured array")

    def dtype(self) -> np.dtype:
        if not isinstance(self.code, str) or not NUMBER_OR_TEXT.fullmatch(self.code) or self.order not in tuple("<>|="):
            raise InputError(f"it holds an array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for a numpy.ndarray."""

    axes = None  # only protocol 5 names an order of them

    def __setstate__(self, state):
        _, self.shape, self.of_type, self.is_fortran, self.content = state

    def array(self, seen: dict) -> np.ndarray:
        dtype = self.of_type.dtype()
        if dtype.hasobject:
            flat = self.objects(seen)
        else:
            flat = np.frombuffer(_as_bytes(self.content), dtype).astype(dtype.newbyteorder("="))
        array = flat.reshape(self.shape, order="F" if self.is_fortran else "C")
        return array if self.axes is None else array.transpose(self.axes)

    def objects(self, seen: dict) -> np.ndarray:
        if type(self.content) is not list:
            raise InputError("it holds an array of objects that does not list them")
        flat = np.empty(len(self.content), object)
        for index, value in enumerate(self.content):
            flat[index] = _plain(value, seen)
        return flat


def _plain(value, seen: dict):
    """`value` with arrays in the places of their stand-ins; `seen` has those that were met before, by identity."""
    if isinstance(value, PLAIN):
        return value
    if id(value) not in seen:
        if type(value) is _Array:
            seen[id(value)] = value.array(seen)
        elif type(value) is Tensor:
            seen[id(value)] = value.array()
        elif type(value) is dict:
            seen[id(value)] = {_plain(key, seen): _plain(item, seen) for key, item in value.items()}
        elif type(value) in (list, tuple):
            seen[id(value)] = type(value)(_plain(item, seen) for item in value)
        else:
            raise InputError(f"it holds a {type(value).__name__}, which is neither an array nor a plain container")
    return seen[id(value)]


def _blank_array(of_class, shape, code) -> _Array:
    return _Array()  # the pickle gives its contents next


def _array_of_buffer(buffer, of_type, shape, order, axes=None) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, of_type, order == "F", buffer))
    array.axes = axes
    return array


def _scalar(of_type, content) -> np.generic:
    dtype = of_type.dtype()
    if dtype.hasobject:
        raise InputError("it holds a number that is an object")
    (value,) = np.frombuffer(_as_bytes(content), dtype)
    return value


def _latin1_bytes(text, encoding) -> bytes:
    if encoding != "latin1":
        raise InputError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _as_bytes(content) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else content  # Python 2 wrote bytes as str


STAND_INS = {
    "numpy.ndarray": None,  # only ever an argument
    "numpy.dtype": _Type,
    "numpy._core.multiarray._reconstruct": _blank_array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array_of_buffer,
    "_codecs.encode": _latin1_bytes,  # how Python 3 writes bytes for Python 2
    "builtins.bytes": lambda: b"",  # and empty ones
    "collections.OrderedDict": dict,
    "torch.storage._load_from_bytes": _as_bytes,
    "torch._utils._rebuild_tensor": Tensor,
    "torch._utils._rebuild_tensor_v2": Tensor,
    "torch._utils._rebuild_tensor_v3": Tensor,
}
