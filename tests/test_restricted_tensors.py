"""Pickled tensors against what torch reads, and storages that promise what they do not hold."""

import contextlib
import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch

from formats.errors import InputError
from formats.pickles import load_object_array

FLOATS = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7
TENSORS = {
    "plain": FLOATS,
    "permuted": FLOATS.permute(2, 0, 1),
    "sliced": FLOATS[1, ::2, 1:],
    "of one number": FLOATS[1, 2, 3],
    "empty": torch.zeros(0, 5),
    "that requires a gradient": FLOATS.clone().requires_grad_(),
    **{
        str(of_type): torch.tensor([[1, 0, 1], [0, 0, 1]]).to(of_type)
        for of_type in (torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    },
    "bool": torch.tensor([True, False]),
    "untyped": torch.tensor([1, 65535, 7]).to(torch.uint16)[1:],
}


@pytest.fixture(params=[None, 2, 3, 5], ids=["np.save", "protocol 2", "protocol 3", "protocol 5"])
def loaded_again(request, tmp_path):
    """A function that saves an object and reads it."""

    def save_and_load(value):
        path = tmp_path / "a.npy"
        np.save(path, value, allow_pickle=True)
        if request.param is not None:
            array = np.empty((), object)
            array[()] = value
            path.write_bytes(path.read_bytes()[:128] + pickle.dumps(array, protocol=request.param))
        return load_object_array(path).item()

    return save_and_load


def test_tensors_become_arrays(loaded_again):
    loaded = loaded_again(OrderedDict(TENSORS))
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        expected = tensor.detach().numpy()
        assert type(loaded[name]) is np.ndarray
        assert (loaded[name].dtype, loaded[name].shape) == (expected.dtype, expected.shape), name
        assert np.array_equal(loaded[name], expected), name
        assert loaded[name].flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        torch.nn.Parameter(FLOATS),
        FLOATS.to_sparse(),
        FLOATS.to(torch.complex64),
        FLOATS.bfloat16(),
        FLOATS[:1, :1].expand(1 << 20, 1 << 20, 4),  # 17 TB
        torch.nn.Linear(1, 1),
        torch.float32,
    ],
    ids=["parameter", "sparse", "complex", "bfloat16", "expanded", "module", "dtype"],
)
def test_other_tensors_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", {"cam": value}, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy cannot be read as pickled arrays"):
        load_object_array(tmp_path / "a.npy")


class Call:
    """Pickles as a call of `function`, with a state if one is given."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args, state)

    def __reduce__(self):
        return self.call


class StorageId:
    def __init__(self, *description):
        self.description = description


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.description if type(value) is StorageId else None


def storage(
    *,
    magic=0x1950A86A20F9469CFC6C,
    of_class=torch.FloatStorage,
    key="1",
    count=4,
    view=None,
    keys=("1",),
    stored=4,
    numbers=bytes(16),
    described=None,
) -> bytes:
    """What torch.save writes before its zip format, with any part replaced."""
    stream = io.BytesIO()
    for value in (magic, 1001, {"little_endian": True}):
        pickle.dump(value, stream, protocol=2)
    described = StorageId("storage", of_class, key, "cpu", count, view) if described is None else described
    StoragePickler(stream, protocol=2).dump(described)
    pickle.dump(list(keys), stream, protocol=2)
    return stream.getvalue() + struct.pack("<q", stored) + numbers


def tensor(content: bytes, offset=0, shape=(2, 2), strides=(2, 1), of_type=None, state=None) -> Call:
    """A tensor over such a storage, by the third form if it names its own type, else by the second."""
    loaded = Call(torch.storage._load_from_bytes, content)
    if of_type is None:
        return Call(torch._utils._rebuild_tensor_v2, loaded, offset, shape, strides, False, OrderedDict(), state=state)
    return Call(torch._utils._rebuild_tensor_v3, loaded, offset, shape, strides, False, OrderedDict(), of_type)


def test_the_crafted_storage_is_one_that_torch_reads(tmp_path):
    np.save(tmp_path / "a.npy", {"cam": tensor(storage(numbers=np.arange(4, dtype="<f4").tobytes()))})
    plain = np.load(tmp_path / "a.npy", allow_pickle=True).item()["cam"]
    assert plain.tolist() == load_object_array(tmp_path / "a.npy").item()["cam"].tolist() == [[0, 1], [2, 3]]


NO_STORAGE = "whose storage is not"
BEYOND = "but only 4 numbers"


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (tensor(storage(magic=1)), NO_STORAGE),
        (tensor(storage(described=[1, 2])), NO_STORAGE),
        (tensor(storage(described=StorageId("module", 1, 2, 3, 4, 5))), NO_STORAGE),
        (tensor(storage(described=StorageId("storage", "|O", "1", "cpu", 2, None))), NO_STORAGE),
        (tensor(storage(view=("2", 0, 2))), NO_STORAGE),
        (tensor(storage(keys=())), NO_STORAGE),
        (tensor(storage(key=1, keys=[1])), NO_STORAGE),
        (tensor(storage(count=4.0)), NO_STORAGE),
        (tensor(storage(of_class=torch.BFloat16Storage)), "asks for torch.BFloat16Storage"),
        (tensor(storage(count=5)), "storage of 5 numbers, 4 by its header, in 16 bytes"),
        (tensor(storage(stored=5)), "storage of 4 numbers, 5 by its header, in 16 bytes"),
        (tensor(storage(count=1 << 61, stored=1 << 61)), "in 16 bytes"),
        (tensor(storage(count=-4, stored=-4)), "in 16 bytes"),
        (tensor(storage(numbers=bytes(17))), "in 17 bytes"),
        (tensor(storage()[:-20]), "unpack requires"),
        (tensor(b""), "exhausted"),
        (tensor(storage(), offset=1), BEYOND),
        (tensor(storage(), offset=-1), "whole numbers"),
        (tensor(storage(), offset=True), "whole numbers"),
        (tensor(storage(), shape=(2, 3)), BEYOND),
        (tensor(storage(), strides=(3, 1)), BEYOND),
        (tensor(storage(), strides=(-2, 1)), "whole numbers"),
        (tensor(storage(), shape=(2, -2)), "whole numbers"),
        (tensor(storage(), shape=(2, 2.0)), "whole numbers"),
        (tensor(storage(), shape="22"), "whole numbers"),
        (tensor(storage(), strides=(2,)), "argument 2"),
        (tensor(storage(), shape=(3,), strides=(1 << 61,)), BEYOND),  # wraps round to 0 in bytes and 64 bits
        (tensor(storage(), shape=(1 << 40,), strides=(0,)), BEYOND),
        (tensor(storage(), shape=(0, 1 << 62, 1 << 62), strides=(1, 1, 1)), "cannot be read"),
        (tensor(storage(), state={"shape": (9,)}), "tensor with attributes"),
        (tensor(storage(), of_type="|O"), "type that is none"),
        (tensor(storage(), of_type=torch.uint64, shape=(3,), strides=(1,)), "but only 2 numbers"),
        (Call(torch._utils._rebuild_tensor_v2, "text", 0, (1,), (1,)), "over a str"),
        (Call(torch._utils._rebuild_tensor_v2), "positional argument"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, attack, message):
    np.save(tmp_path / "a.npy", {"cam": attack}, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        load_object_array(tmp_path / "a.npy")


@pytest.mark.skipif(os.name == "nt", reason="the shell's touch")
def test_nothing_in_a_storage_is_executed(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "a.npy"
    system = Call(os.system, f"touch '{mark}'")
    zipped = io.BytesIO()
    torch.save(system, zipped)
    for content in (
        storage(magic=system),
        storage(described=system),
        storage(described=StorageId("storage", system, "1", "cpu", 4, None)),
        storage(keys=[system]),
        zipped.getvalue(),
    ):
        np.save(path, {"cam": tensor(content)}, allow_pickle=True)
        with contextlib.suppress(Exception):  # it fails after it did it
            np.load(path, allow_pickle=True)
        assert mark.exists(), "no attack"
        mark.unlink()
        with pytest.raises(InputError, match=r"a\.npy cannot be read"):
            load_object_array(path)
        assert not mark.exists()
