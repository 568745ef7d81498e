"""Files as PyTorch writes them, and others that it never writes, made without PyTorch."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from thermo_jax.rivals import torch_file
from thermo_jax.rivals.torch_file import MAGIC_NUMBER, PROTOCOL

STORAGES = {np.dtype(dtype): name for name, dtype in torch_file.DTYPES.items()}
TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "steps": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False, True]),
    "bytes": np.array([[-1, 2]], np.int8),
}
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}


# Stand-ins whose pickles name PyTorch's functions and types, which are not installed.
class Named:
    def __init__(self, text):
        self.text = text


class Call:
    """Pickled as a call of the function `name`, which may be anything that pickle can save."""

    def __init__(self, name, *arguments):
        self.reduced = (name, arguments)


class Stored:
    """Pickled as a persistent id."""

    def __init__(self, *parts):
        self.parts = parts


class Pickler(pickle._Pickler):  # the one in Python, whose way of saving names can be changed
    def persistent_id(self, value):
        return value.parts if isinstance(value, Stored) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            module, _, name = value.text.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        elif isinstance(value, Call):
            for part in value.reduced:
                self.save(part)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def pickled(value, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def stored(array, key, *, count=None, parts=()):
    name = Named(STORAGES[array.dtype])
    return Stored("storage", name, key, "cpu", array.size if count is None else count, *parts)


def tensor(array, key, *, offset=0, shape=None, strides=None, count=None, parts=(), rest=()):
    """A call of `_rebuild_tensor_v2` with the fields of the array, except those given."""
    shape = array.shape if shape is None else shape
    own = tuple(stride // array.itemsize for stride in array.strides)
    storage = stored(array, key, count=count, parts=parts)
    fields = (offset, shape, own if strides is None else strides, False)
    hooks = Call(Named(torch_file.ORDERED_DICT))
    return Call(Named(torch_file.REBUILD_TENSOR), storage, *fields, hooks, *rest)


def elements(array):
    """The numbers of a storage, in the order of memory."""
    return np.ravel(array, order="K").tobytes()


def legacy_file(state, arrays, *, protocol=2, system=SYSTEM, keys=None):
    """A file of PyTorch before 1.6; `arrays` are the storages by key."""
    keys = list(arrays) if keys is None else keys
    parts = [pickled(part, protocol) for part in (MAGIC_NUMBER, PROTOCOL, system, state, keys)]
    for array in arrays.values():
        parts += [struct.pack("<q", array.size), elements(array)]
    return b"".join(parts)


def zip_file(state, arrays, *, protocol=2, folder="archive", byteorder=b"little", method=0):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(f"{folder}/data.pkl", pickled(state, protocol))
        archive.writestr(f"{folder}/byteorder", byteorder)
        for key, array in arrays.items():
            archive.writestr(f"{folder}/data/{key}", elements(array))
        archive.writestr(f"{folder}/version", b"3\n")
    return stream.getvalue()


WRITERS = {"legacy": legacy_file, "zip": zip_file}
each_format = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def complete_file(write, **options):
    arrays = {str(number): array for number, array in enumerate(TENSORS.values())}
    parts = (None,) if write is legacy_file else ()
    named = zip(TENSORS, arrays.items(), strict=True)
    state = {name: tensor(array, key, parts=parts) for name, (key, array) in named}
    return write(state, arrays, **options)


def one_tensor(write, array=TENSORS["conv.weight"], **fields):
    return write({"a": tensor(array, "0", **fields)}, {"0": array})
