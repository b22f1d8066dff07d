"""PyTorch tensors inside pickles, as numpy arrays, without torch and without running anything that they ask for.

A pickled tensor names a function, and gives it the place of the tensor in a storage and the storage as bytes: those
that `torch.save` wrote before its zip format, four small pickles, a fifth that names the storage again, and the
numbers themselves. Only the form that every tensor of plain numbers has is read; its counts are checked.
"""

import io
import math
import pickle
import pickletools
import struct

import numpy as np

from formats.errors import InputError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {  # always little-endian
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
    "torch.storage.UntypedStorage": "|u1",  # the tensor names the type
}
TYPES = {"torch.uint16": "<u2", "torch.uint32": "<u4", "torch.uint64": "<u8"}  # of tensors in untyped storages


class Tensor:
    """Stands in for a torch.Tensor: keeps what the pickle gives, and trusts none of it before `array`."""

    def __init__(self, storage, offset, shape, strides, requires_grad=False, backward_hooks=(), of_type=None):
        self.content, self.of_type = storage, of_type
        self.offset, self.shape, self.strides = offset, shape, strides  # in numbers, not in bytes

    def __setstate__(self, state):
        raise InputError("it holds a tensor with attributes")

    def array(self) -> np.ndarray:
        stored = numbers_of_storage(self.content)
        if self.of_type is not None:
            if self.of_type not in TYPES.values():
                raise InputError("it holds a tensor of a type that is none")
            stored = stored.view(self.of_type)
        shape, strides, offset = self.shape, self.strides, self.offset
        if not (whole_numbers(shape) and whole_numbers(strides) and whole_numbers((offset,))):
            raise InputError("it holds a tensor whose shape is not made of whole numbers")
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        count = math.prod(shape)
        # more numbers than stored would be an expanded tensor: a few bytes that ask for all memory
        if count > stored.size or (count and last >= stored.size):
            raise InputError(
                f"it holds a tensor {list(shape)} with strides {list(strides)} and offset {offset}, but only "
                f"{stored.size} numbers"
            )
        if count == 0:
            return np.zeros(shape, stored.dtype.newbyteorder("="))
        size = stored.itemsize
        view = np.ndarray(shape, stored.dtype, stored, offset * size, tuple(stride * size for stride in strides))
        return view.astype(stored.dtype.newbyteorder("="), order="C")


def numbers_of_storage(content: bytes) -> np.ndarray:
    """The numbers [N] in the bytes of a storage."""
    if type(content) is not bytes:
        raise InputError(f"it holds a tensor over a {type(content).__name__}, not over the bytes of a storage")
    stream = io.BytesIO(content)
    magic, protocol, _system, described, keys = (_load_part(stream) for _ in range(5))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise InputError("it holds a tensor whose storage is not as torch.save writes it")
    if type(described) is not tuple or len(described) != 6 or described[0] != "storage":
        raise InputError("it holds a tensor whose storage is not one")
    _, code, key, _device, count, view = described
    if code not in STORAGES.values() or type(key) is not str or keys != [key] or type(count) is not int or view:
        raise InputError("it holds a tensor whose storage is not one of plain numbers")
    header, numbers = stream.read(8), stream.read()
    (stored,) = struct.unpack("<q", header)
    if stored != count or len(numbers) != count * np.dtype(code).itemsize:
        raise InputError(f"it holds a storage of {count} numbers, {stored} by its header, in {len(numbers)} bytes")
    return np.frombuffer(numbers, code)


def check_memo(stream: io.BytesIO) -> None:
    """Raises `InputError` where the pickle that begins here keeps a value under a number beyond its file's length.

    Values are kept in a table as long as the largest number: ten bytes could ask for all memory. Picklers count up.
    """
    start, length = stream.tell(), len(stream.getbuffer())
    for instruction, argument, _ in pickletools.genops(stream):
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > length:
            raise InputError(f"it keeps a value under the number {argument}, in {length} bytes")
    stream.seek(start)


def _load_part(stream: io.BytesIO):
    check_memo(stream)
    return _StorageUnpickler(stream).load()


class _StorageUnpickler(pickle.Unpickler):
    """Reads one of the pickles in the bytes of a storage: a class of storages becomes the dtype of its numbers."""

    def __init__(self, stream):
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> str:
        if f"{module}.{name}" not in STORAGES:
            raise InputError(f"the storage of a tensor asks for {module}.{name}, which is no class of plain numbers")
        return STORAGES[f"{module}.{name}"]

    def persistent_load(self, saved):
        return saved


def whole_numbers(numbers) -> bool:
    return type(numbers) in (tuple, list) and all(type(number) is int and number >= 0 for number in numbers)
