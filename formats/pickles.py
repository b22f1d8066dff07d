"""Reading of object arrays that `np.save` pickled, without executing code that the file names.

A pickle can call any function by its name. This reader knows only names of functions that build arrays of plain numbers
and text from checked values.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping

import numpy as np

from formats.errors import InputError, first_line
from formats.images import read_bytes

PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d{1,6}|O[48]?")  # type codes as numpy pickles them


def load_object_array(path, extra_functions: Mapping[str, Callable] | None = None) -> np.ndarray:
    """Load an array of objects from a `.npy` file; a dict that was given to `np.save` has the shape [].

    The objects are arrays and numbers of numpy, strings, None and containers of Python.

    extra_functions   functions for more names in the pickle, by "module.name". They must be safe for any arguments,
                      and must not return modules, functions or classes.

    Raises `InputError` for any other file.
    """
    stream = io.BytesIO(read_bytes(path))
    try:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)  # the only version np.save uses for objects
        if not dtype.hasobject:
            raise InputError(f"it is an array of {dtype} {list(shape)}, not a pickled dict")
        return np.ndarray.view(_ArrayUnpickler(stream, FUNCTIONS | (extra_functions or {})).load(), np.ndarray)
    except Exception as error:  # numpy and pickle fail in many ways on a damaged file
        raise InputError(f"{path} cannot be read as pickled arrays: {first_line(error)}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, stream, functions: Mapping[str, Callable]):
        super().__init__(stream, encoding="latin1")  # strings of Python 2 may be bytes
        self.functions = functions

    def find_class(self, module: str, name: str) -> Callable:
        full_name = f"{module}.{name}".replace("numpy.core.", "numpy._core.").replace("__builtin__.", "builtins.")
        if full_name not in self.functions:
            raise InputError(f"it asks for {module}.{name}, which is not among the names allowed in data files")
        # A pickle can set attributes of what it gets, so it gets a new function each time, and never a class.
        function = self.functions[full_name]
        return lambda *args: function(*args)


class _DType:
    """Stand-in for `numpy.dtype`, whose own `__setstate__` accepts flags that turn bytes into object pointers."""

    def __init__(self, code: str, align=False, copy=True):
        if not PLAIN_DTYPE.fullmatch(code):
            raise InputError(f"it holds an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        _version, byte_order, *_ = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array(np.ndarray):
    """An array whose pickled state is checked, because numpy trusts the length of a list of objects."""

    def __setstate__(self, state):
        _version, shape, dtype, is_fortran, content = state
        shape, dtype, content = tuple(map(int, shape)), dtype.dtype, _to_bytes(content)
        kind, item_length = (list, 1) if dtype.hasobject else (bytes, dtype.itemsize)
        fits = min(shape, default=0) >= 0 and type(content) is kind and len(content) == math.prod(shape) * item_length
        if not fits or self.shape != (0,):  # memory of a filled array may be shared, and numpy would free it
            raise InputError(f"it holds an array of {dtype} {list(shape)} whose content does not fit")
        super().__setstate__((1, shape, dtype, bool(is_fortran), content))


def _to_bytes(content):
    return content.encode("latin1") if isinstance(content, str) else content  # a string of Python 2


def _scalar(dtype: _DType, content) -> np.generic:
    (value,) = np.frombuffer(_to_bytes(content), dtype.dtype)  # numpy refuses to read objects from bytes
    return value


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise InputError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


FUNCTIONS = {
    "numpy.ndarray": lambda: None,  # only an argument of _reconstruct
    "numpy.dtype": _DType,
    "numpy._core.multiarray._reconstruct": lambda _class, _shape, _code: _Array(0),  # its state follows
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _encode,  # bytes, as Python 3 pickles them by protocol 2
    "builtins.bytes": lambda: b"",  # empty bytes by the same protocol
    "collections.OrderedDict": dict,
}
