"""State dicts of PyTorch are read without it, and a made-up file runs nothing and ends nothing."""

import collections
import copy
import io
import os
import pickle
import random
import re
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torch_files import (
    TENSORS,
    Call,
    Named,
    complete_file,
    each_format,
    legacy_file,
    one_tensor,
    pickled,
    tensor,
    zip_file,
)

from thermo_jax.errors import UserError
from thermo_jax.rivals import torch_file
from thermo_jax.rivals.torch_file import read_state_dict


def refusal(data):
    with pytest.raises(UserError, match=r"^model\.pth ") as caught:
        read_state_dict(data, file="model.pth")
    return str(caught.value)


# --------------------------------------------------------------------------------------------------
# What is read
# --------------------------------------------------------------------------------------------------


@each_format
@pytest.mark.parametrize("protocol", [2, 4])
def test_all_tensors_are_read_with_their_types_shapes_and_numbers(write, protocol):
    tensors = read_state_dict(complete_file(write, protocol=protocol), file="model.pth")
    assert list(tensors) == list(TENSORS)
    for name, expected in TENSORS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected, strict=True)


@each_format
def test_tensors_that_share_a_storage_become_separate_copies(write):
    array = np.arange(6, dtype=np.float32)
    state = {
        "all": tensor(array, "0"),
        "row": tensor(array, "0", offset=3, shape=(3,)),
        "column": tensor(array, "0", offset=1, shape=(2, 1), strides=(3, 1)),
    }
    tensors = read_state_dict(write(state, {"0": array}), file="model.pth")
    tensors["all"][:] = 0
    np.testing.assert_array_equal(tensors["row"], [3, 4, 5])
    np.testing.assert_array_equal(tensors["column"], [[1], [4]])


@each_format
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_versions_of_modules_that_pytorch_adds_are_ignored(write, protocol):
    array = TENSORS["conv.weight"]
    state = collections.OrderedDict(a=tensor(array, "0"))
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    tensors = read_state_dict(write(state, {"0": array}, protocol=protocol), file="model.pth")
    np.testing.assert_array_equal(tensors.pop("a"), array)
    assert not tensors


@each_format
def test_a_parameter_is_read_as_its_tensor(write):
    array = TENSORS["conv.weight"]
    parameter = Call(Named(torch_file.REBUILD_PARAMETER), tensor(array, "0"), True, {})
    tensors = read_state_dict(write({"a": parameter}, {"0": array}), file="model.pth")
    np.testing.assert_array_equal(tensors["a"], array)


# --------------------------------------------------------------------------------------------------
# Files that would run code
# --------------------------------------------------------------------------------------------------


def test_find_class_returns_only_names_of_the_list():
    kinds = ["Float", "Double", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool"]
    expected = {"collections.OrderedDict"} | {f"torch.{kind}Storage" for kind in kinds}
    expected |= {f"torch._utils._rebuild_{kind}" for kind in ("tensor_v2", "parameter")}
    assert expected == torch_file.ADMITTED
    for text in expected:
        assert torch_file.find_class(text) == torch_file.Name(text)
    for text in ("builtins.eval", "os.system", "torch.load", "collections.OrderedDict.pop", ""):
        with pytest.raises(UserError, match="not run"):
            torch_file.find_class(text)


class Attack:
    """Calls the function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


ATTACKS = {
    "mkdir": lambda path: Attack(os.mkdir, path),
    "system": lambda path: Attack(os.system, f"mkdir {path}"),
    "eval": lambda path: Attack(eval, f"__import__('os').mkdir({path!r})"),
    "nested": lambda path: Attack(pickle.loads, pickle.dumps(Attack(os.mkdir, path))),
}


@each_format
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_file_runs_nothing_and_the_error_names_what_it_wanted(
    attack, protocol, write, tmp_path
):
    path = tmp_path / "made_by_the_file"
    state = {"a": ATTACKS[attack](str(path))}
    message = refusal(write(state, {}, protocol=protocol))
    name = {"nested": "loads"}.get(attack, attack)
    assert re.search(rf"it names \w+\.{name}, and what a file names is not run", message)
    assert not path.exists()
    pickle.loads(pickled(state, protocol))  # what is refused would run
    assert path.exists()


def _named(text):
    return f"c{text.rpartition('.')[0]}\n{text.rpartition('.')[2]}\n".encode()


REBUILD, ORDERED, FLOATS = (
    _named(text)
    for text in (torch_file.REBUILD_TENSOR, torch_file.ORDERED_DICT, "torch.FloatStorage")
)
ODD_USES = {
    "a tensor of no arguments": REBUILD + b")R.",
    "a tensor of texts": REBUILD + b"(X\1\0\0\0aK\0))tR.",
    "a tensor of a name": REBUILD + b"(" + REBUILD + b"K\0))tR.",
    "a parameter of a number": _named(torch_file.REBUILD_PARAMETER) + b"K\1\x85R.",
    "a dictionary of a list": ORDERED + b"]\x85R.",
    "a call of a type of storage": FLOATS + b"K\1\x85R.",
    "a call of a text": b"X\1\0\0\0a)R.",
    "a call with a list": ORDERED + b"]R.",
    "attributes of a function": REBUILD + b"}X\1\0\0\0aK\1sb.",
    "an item of a function": REBUILD + b"X\1\0\0\0aK\1s.",
    "an element of a name": REBUILD + b"K\1a.",
    "an instance": b"(icollections\nOrderedDict\n.",
    "a new object": ORDERED + b")\x81.",
    "an object": b"(" + ORDERED + b"o.",
    "an extension": b"\x82\1.",
    "a persistent id as text": b"Pstorage\n.",
    "a storage of a number": b"K\1Q.",
    "a storage of too few parts": b"X\1\0\0\0a\x85Q.",
    "a module": b"(X\6\0\0\0module" + FLOATS + b"X\1\0\0\0aX\1\0\0\0bK\1tQ.",
    "a function as storage": b"(X\7\0\0\0storage" + REBUILD + b"X\1\0\0\0aX\1\0\0\0bK\1tQ.",
    "a number as key": b"}K\1K\1s.",
    "no operand": b"s.",
    "no mark": b"K\1t.",
    "an unknown memo": b"h\1.",
    "no end": b"K\1",
    "nothing": b"",
    "a number": b"K\1.",
    "a list": b"].",
    "a dictionary of numbers": b"}X\1\0\0\0aK\1s.",
}


def with_pickle(body):
    """A zip file with these opcodes as its state dict."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2" + body)
    return stream.getvalue()


@pytest.mark.parametrize("body", ODD_USES.values(), ids=ODD_USES)
def test_odd_uses_of_admitted_names_and_damaged_pickles_are_refused(body):
    refusal(with_pickle(body))


# --------------------------------------------------------------------------------------------------
# Files that would end the process, or fill the memory
# --------------------------------------------------------------------------------------------------

DEEP = 50_000
TWICE = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(200))
LONG = {
    # CPython's unpickler ends with a segmentation fault, as it computes the hash of the key.
    "a key that is nested deeply": b"})" + b"\x85" * DEEP + b"Ns.",
    "a value that is nested deeply": b"}X\1\0\0\0a)" + b"\x85" * DEEP + b"s.",
    "a key of 2**200 parts": b"})q\0" + TWICE + b"Ns.",
    "a million digits": b"I" + b"9" * 10**6 + b"\n.",
}
CLAIMS = {
    # CPython's unpickler reserves 16 GB.
    "a memo index of a billion": b"Nr\xf0\xff\xff\x3f.",
    "a text of 4 GB": b"X\xff\xff\xff\xff.",
    "bytes of 2**63": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "a frame of 2**63": b"\x95" + b"\xff" * 7 + b"\x7fN.",
    "a number of 2 GB": b"\x8b\xff\xff\xff\x7f.",
}


@pytest.fixture(scope="module")
def small_stack():
    """An executor in whose thread a third of this depth would be too deep for the unpickler."""
    usual = threading.stack_size(2**20)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result()  # starts the thread
        threading.stack_size(usual)
        yield executor


@pytest.mark.parametrize("body", LONG.values(), ids=LONG)
def test_a_pickle_that_needs_much_time_or_a_deep_stack_is_refused(body, small_stack):
    small_stack.submit(refusal, with_pickle(body)).result()


def test_a_pickle_of_too_many_opcodes_is_refused_before_its_end(monkeypatch):
    assert torch_file.MAX_PICKLE_BYTES <= 2**20
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 2**12)
    longest = b"}" * (2**12 - 3) + b"."  # behind two bytes of the protocol
    assert read_state_dict(with_pickle(longest), file="model.pth") == {}
    assert "its pickle has more than" in refusal(with_pickle(b"}" + longest))


@pytest.mark.parametrize("body", CLAIMS.values(), ids=CLAIMS)
def test_a_pickle_that_claims_to_be_huge_reserves_no_memory(body):
    tracemalloc.start()
    try:
        refusal(with_pickle(body))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


BOUNDS = {
    "offset": {"offset": 24},
    "offset within, end beyond": {"offset": 1},
    "negative offset": {"offset": -1},
    "more elements": {"shape": (25,), "strides": (1,)},
    "more elements by a stride of 0": {"shape": (10**12,), "strides": (0,)},
    "a huge stride": {"shape": (2,), "strides": (2**47,)},
    "a stride beyond 64 bits": {"shape": (2,), "strides": (2**90,)},
    "a negative stride": {"shape": (2,), "strides": (-1,), "offset": 1},
    "a huge length": {"shape": (2**63, 0), "strides": (1, 1)},
    "huge lengths of nothing": {"shape": (2**47, 2**47, 0), "strides": (1, 1, 1)},
    "too few strides": {"strides": (1,)},
    "65 axes": {"shape": (1,) * 65, "strides": (1,) * 65},
    "a fraction": {"offset": 0.5},
    "a truth": {"offset": True},
    "lists": {"shape": [24], "strides": [1]},
    "a larger storage": {"count": 25},
    "a smaller storage": {"count": 23},
    "a storage of 2**62": {"count": 2**62},
    "a storage of 2**47": {"count": 2**47},
    "a negative storage": {"count": -24},
}


@each_format
@pytest.mark.parametrize("fields", BOUNDS.values(), ids=BOUNDS)
def test_a_tensor_outside_its_storage_is_refused(fields, write):
    refusal(one_tensor(write, **fields))


def test_any_stride_of_an_axis_of_length_one_is_accepted():
    data = one_tensor(zip_file, shape=(1, 24), strides=(2**47, 1))
    np.testing.assert_array_equal(
        read_state_dict(data, file="model.pth")["a"], TENSORS["conv.weight"].reshape(1, 24)
    )


@each_format
def test_many_tensors_of_one_large_storage_are_refused(write):
    array = np.zeros(10**6, np.float32)
    state = {str(number): tensor(array, "0") for number in range(5)}
    assert "far larger than the file" in refusal(write(state, {"0": array}))
    del state["4"]
    assert len(read_state_dict(write(state, {"0": array}), file="model.pth")) == 4


@each_format
def test_one_storage_of_two_types_is_refused(write):
    array = TENSORS["conv.weight"]
    state = {"a": tensor(array, "0"), "b": tensor(array.view(np.int32), "0")}
    assert "several types" in refusal(write(state, {"0": array}))


def test_a_compressed_zip_is_refused():
    state, arrays = {}, {"0": np.zeros(10**6, np.float32)}
    assert "compressed" in refusal(zip_file(state, arrays, method=zipfile.ZIP_DEFLATED))


def test_entries_of_a_zip_that_overlap_are_refused():
    array = np.zeros(1000, np.float32)
    stream = io.BytesIO(zip_file({"a": tensor(array, "0")}, {"0": array}))
    with zipfile.ZipFile(stream, "a") as archive:
        entry = archive.getinfo("archive/data/0")
        for number in range(1, 9):
            again = copy.copy(entry)
            again.filename = f"archive/data/{number}"
            archive.filelist.append(again)
        archive.writestr("x", b"")  # so that the directory is written
    assert "overlap" in refusal(stream.getvalue())


# --------------------------------------------------------------------------------------------------
# Damaged and foreign files
# --------------------------------------------------------------------------------------------------


@each_format
def test_numbers_of_a_big_endian_machine_are_refused(write):
    options = {"byteorder": b"big"} if write is zip_file else {"system": {"little_endian": False}}
    assert "big-endian" in refusal(complete_file(write, **options))


@each_format
def test_a_file_cut_off_anywhere_is_refused(write):
    data = complete_file(write)
    for length in range(0, len(data), 7):
        refusal(data[:length])


@each_format
def test_a_damaged_file_is_read_or_refused(write):
    rng, data = random.Random(0), complete_file(write)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            tensors = read_state_dict(bytes(damaged), file="model.pth")
        except UserError as error:
            assert "model.pth" in str(error)
        else:
            assert sum(array.nbytes for array in tensors.values()) < 4 * len(data)


@pytest.mark.parametrize(
    "keys", [[], ["9"], ["0", "0"], [0], "0", {"0": 0}], ids=lambda keys: repr(keys)
)
def test_a_legacy_file_with_a_wrong_list_of_storages_is_refused(keys):
    array = TENSORS["conv.weight"]
    refusal(legacy_file({"a": tensor(array, "0")}, {"0": array}, keys=keys))


def test_a_legacy_storage_that_views_another_is_refused():
    assert "views" in refusal(one_tensor(legacy_file, parts=(("1", 0, 24),)))


def test_a_zip_without_or_with_two_state_dicts_is_refused():
    assert "0 files data.pkl" in refusal(zip_file({}, {}).replace(b"data.pkl", b"data.txt"))
    stream = io.BytesIO(zip_file({}, {}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("other/data.pkl", pickled({}))
    assert "2 files data.pkl" in refusal(stream.getvalue())


@each_format
def test_a_whole_checkpoint_is_refused_by_the_name_of_its_part(write):
    array = TENSORS["conv.weight"]
    state = {"state_dict": {"a": tensor(array, "0")}}
    assert "'state_dict' is a dict" in refusal(write(state, {"0": array}))


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x89PNG", b"{}", b"\x80\2K\1."])
def test_another_kind_of_file_is_refused(data):
    refusal(data)
