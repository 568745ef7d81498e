"""Reads the tensors of a file that `torch.save(model.state_dict(), path)` wrote, without PyTorch.

Such a file is a pickle with references to raw numbers, and unpickling a file from elsewhere can run
any code. A `pickle.Unpickler` that admits a few names only is not enough: a pickle of 250 kB
without any name (a deep tuple as the key of a dictionary) ends CPython 3.11 with a segmentation
fault, and one of nine bytes requests 16 GB. So nothing is unpickled here. `_interpret` follows the
opcodes that `pickletools` (which only describes pickles) lists; it builds lists, tuples,
dictionaries with texts as keys, and descriptions of tensors, and calls nothing that the file names.

Both formats of PyTorch are read:

- legacy (before 1.6): pickles of a magic number, 1001, facts about the system, the state dict and
  the keys of the storages; then each storage: the number of its elements (int64), the elements;
- zip: `<any folder>/data.pkl` is the state dict, `<the folder>/data/<key>` a storage.

Source: `torch/serialization.py` of PyTorch.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from thermo_jax.errors import UserError, first_line

DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
ADMITTED = frozenset({ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *DTYPES})

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of a legacy file
PROTOCOL = 1001  # the second
MAX_PICKLE_BYTES = 2**20  # of about 6,000 tensors; its objects need up to 100 times as much memory
MAX_AXES = 32
MAX_SHARING = 4  # so many times the size of the file may all tensors have that share its storages

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class Name(NamedTuple):
    """An admitted name, which stands for what it names in PyTorch."""

    text: str


class Storage(NamedTuple):
    """The numbers of one or more tensors."""

    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """Offset and strides count elements of the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes, *, file: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by name, as copies.

    Args:
      data: the content of the file.
      file: its name, in errors.
    Raises:
      UserError: the file is damaged, is no state dict, names anything that is not in `ADMITTED`, or
        would need far more memory than it has bytes.
    """
    try:
        is_zip = data.startswith(b"PK\x03\x04")
        tensors, storages = (_read_zip if is_zip else _read_legacy)(data)
        return _arrays(tensors, storages, limit=MAX_SHARING * len(data))
    except _FormatError as error:
        raise UserError(
            f"{file} is no plain state dict of PyTorch ({first_line(error)}): copy it again, or "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error


def find_class(text: str) -> Name:
    """The stand-in for a name in a pickle; UserError for a name that is not in `ADMITTED`."""
    if text not in ADMITTED:
        raise _FormatError(f"it names {text:.60}, and what a file names is not run")
    return Name(text)


class _FormatError(UserError):
    """Becomes a UserError that names the file."""


# --------------------------------------------------------------------------------------------------
# The two formats: tensors by name, and the bytes of the storages by key
# --------------------------------------------------------------------------------------------------


def _read_legacy(data: bytes) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    stream = io.BytesIO(data)
    if (_interpret(stream), _interpret(stream)) != (MAGIC_NUMBER, PROTOCOL):
        raise _FormatError("it does not begin as one")
    system = _interpret(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _FormatError("its numbers are big-endian")
    tensors = _state_dict(_interpret(stream))
    sizes = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    keys = _interpret(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _FormatError("it has no list of storages")
    storages = {}
    for key in keys:
        storage = sizes.get(key)
        if storage is None or stream.read(8) != struct.pack("<q", storage.count):
            raise _FormatError(f"the storage {key:.20} has another size than its tensors, or none")
        # A damaged size does not reserve memory: no more is read than there is.
        storages[key] = stream.read(storage.count * storage.dtype.itemsize)
    return tensors, storages


def _read_zip(data: bytes) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    with _open_zip(data) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # PyTorch does not compress. So a small file cannot contain much.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise _FormatError("its zip is compressed")
        if sum(entry.file_size for entry in entries.values()) > len(data):
            raise _FormatError("its zip has entries that overlap")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _FormatError(f"its zip has {len(pickles)} files data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            try:
                return archive.read(entries[name])
            except Exception as error:
                raise _FormatError(f"{name:.40} in its zip is absent or damaged") from error

        if f"{folder}byteorder" in entries and read(f"{folder}byteorder") != b"little":
            raise _FormatError("its numbers are big-endian")
        tensors = _state_dict(_interpret(io.BytesIO(read(pickles[0]))))
        keys = {tensor.storage.key for tensor in tensors.values()}
        return tensors, {key: read(f"{folder}data/{key}") for key in keys}


def _open_zip(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # damaged directories raise errors of many types
        raise _FormatError("its zip is damaged") from error


def _state_dict(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise _FormatError(f"it contains a {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise _FormatError(f"{name!r:.60} is a {type(tensor).__name__}, not a tensor")
    storages = {tensor.storage for tensor in value.values()}
    if len(storages) != len({storage.key for storage in storages}):
        raise _FormatError("one storage has several types or sizes")
    return value


def _arrays(
    tensors: dict[str, Tensor], storages: dict[str, bytes], *, limit: int
) -> dict[str, np.ndarray]:
    """Copies the tensors from their storages, at most `limit` bytes in all."""
    arrays, total = {}, 0
    for name, (storage, offset, shape, strides) in tensors.items():
        content = storages.get(storage.key, b"")
        itemsize = storage.dtype.itemsize
        if len(content) != storage.count * itemsize:
            raise _FormatError(f"the numbers of {name!r:.60} are incomplete")
        count = math.prod(shape)
        # An axis of length 1 may have any stride.
        strides = [stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # NumPy refuses huge shapes, even if one axis has length 0.
        is_huge = math.prod(max(n, 1) for n in shape) > max(storage.count, 2**40)
        if is_huge or count > storage.count or (count and last >= storage.count):
            raise _FormatError(f"{name!r:.60} is larger than its storage")
        total += count * itemsize
        if total > limit:
            raise _FormatError("its tensors together are far larger than the file")
        if not count:
            arrays[name] = np.zeros(shape, storage.dtype)
            continue
        flat = np.frombuffer(content, storage.dtype)[offset:]
        # Safe, because no stride is negative and `last` is inside the storage.
        view = np.lib.stride_tricks.as_strided(
            flat, shape, [stride * itemsize for stride in strides], writeable=False
        )
        arrays[name] = view.copy()
    return arrays


# --------------------------------------------------------------------------------------------------
# Pickles, as data
# --------------------------------------------------------------------------------------------------


def _interpret(stream: io.BytesIO) -> Any:
    """The value of the pickle that begins at the stream's position; the position moves to its end.

    Raises:
      _FormatError: an opcode, a name or a use of a name that state dicts do not have.
    """
    try:
        return _run(_opcodes(stream))
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        if isinstance(error, _FormatError):
            raise
        # A missing operand, or a list or a number where another type belongs.
        raise _FormatError("its pickle is damaged") from error


def _opcodes(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    end = stream.tell() + MAX_PICKLE_BYTES
    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() > end:
            raise _FormatError(f"its pickle has more than {MAX_PICKLE_BYTES // 2**20} MB")
        yield opcode.name, argument


def _run(opcodes: Iterator[tuple[str, Any]]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        items = []
        while (item := stack.pop()) is not _MARK:  # IndexError if there is none
            items.append(item)
        return items[::-1]

    for opcode, argument in opcodes:
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode in ("APPEND", "APPENDS"):
            items = pop_to_mark() if opcode == "APPENDS" else [stack.pop()]
            _typed(stack[-1], list).extend(items)
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode in ("SETITEM", "SETITEMS"):
            items = pop_to_mark() if opcode == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
        elif opcode == "GLOBAL":
            stack.append(find_class(argument.replace(" ", ".")))
        elif opcode == "STACK_GLOBAL":
            name, module = _typed(stack.pop(), str), _typed(stack.pop(), str)
            stack.append(find_class(f"{module}.{name}"))
        elif opcode == "BINPERSID":
            stack.append(_storage(*_typed(stack.pop(), tuple)))
        elif opcode == "REDUCE":
            arguments, name = _typed(stack.pop(), tuple), _typed(stack.pop(), Name)
            stack.append(_rebuild(name, arguments))
        elif opcode == "BUILD":  # the versions of the modules, an attribute of a state dict
            stack.pop()
            _typed(stack[-1], dict)
        elif opcode == "STOP":
            return stack.pop()
        elif opcode not in ("PROTO", "FRAME"):
            raise _FormatError(f"its pickle has the opcode {opcode}")
    raise _FormatError("its pickle is damaged")


def _typed(value: Any, wanted: type) -> Any:
    # A Name or a Tensor is a tuple, too, but must not be used as one.
    if type(value) is not wanted:
        raise _FormatError(f"a {type(value).__name__} instead of a {wanted.__name__}")
    return value


def _count(value: Any) -> int:
    if not 0 <= _typed(value, int) < 2**48:  # so that 8 times as many bytes fit in 64 bits
        raise _FormatError("a negative or huge size, offset or stride")
    return value


def _set_items(target: Any, pairs: Any) -> None:
    # Texts only: the hash of nested tuples would take very long, or end the process.
    for key, value in pairs:
        _typed(target, dict)[_typed(key, str)] = value


def _storage(kind: Any, name: Any, key: Any, location: Any, count: Any, view: Any = None):
    """Of a persistent id. A legacy file has a sixth part, None unless it views another storage."""
    _typed(location, str)
    if _typed(kind, str) != "storage" or view is not None:
        raise _FormatError("it contains a module, or views of storages")
    if _typed(name, Name).text not in DTYPES:
        raise _FormatError(f"{name.text} is no type of storage")
    return Storage(_typed(key, str), np.dtype(DTYPES[name.text]), _count(count))


def _rebuild(name: Name, arguments: tuple) -> Any:
    """What PyTorch's function of this name returns for these arguments."""
    # No work here depends on the length of an argument, which a file can use again and again.
    if name.text == REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        if len(_typed(shape, tuple)) != len(_typed(strides, tuple)) or len(shape) > MAX_AXES:
            raise _FormatError(f"a tensor of {len(shape)} axes with {len(strides)} strides")
        shape, strides = (tuple(_count(number) for number in both) for both in (shape, strides))
        return Tensor(_typed(storage, Storage), _count(offset), shape, strides)
    if name.text == REBUILD_PARAMETER:
        return _typed(arguments[0], Tensor)
    if name.text == ORDERED_DICT and not arguments:
        return {}
    raise _FormatError(f"it calls {name.text} with {len(arguments)} arguments")
