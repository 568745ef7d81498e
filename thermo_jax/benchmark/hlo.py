"""Reads a compiled program's text: a GPU's kernels, and what devices send each other.

The bytes of a kernel are those that it must at least read and write: its operands and results. If
it slices an operand or gathers from it, only the part that it needs counts. A kernel in a loop is
one entry in the list, and its bytes are those of all turns together. All branches of a conditional
are in the list.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
# These make no kernel, and neither does the end of an asynchronous operation, "...-done".
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "opt-barrier"),
    *("after-all", "partition-id", "replica-id"),
}
_CALLS = ("while", "call", "conditional")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_TIMED = ("fusion", "custom-call", "copy")  # whose time counts if they run beside an all-reduce
_READS_PART = ("dynamic-slice", "slice", "gather")  # of the first operand
_IN_PLACE = ("dynamic-update-slice", "scatter")  # change a part of the first operand
# Kind of a fusion by the first of these operations that it contains.
_FUSIONS = {"dot": "product", "reduce": "reduction"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel, or one call of a library.

    Attributes:
      kind: "convolution forward", "convolution backward input", "convolution backward filter",
        "product", "reduction", "element-wise", "copy", "all-reduce" or another operation's name.
      shape: the type of its results, as XLA writes it.
      read, written: bytes.
      flop: operations of convolutions and of products in fusions, else 0.
      source: its place in the traced program.
    """

    kind: str
    shape: str
    read: float
    written: float
    flop: float
    source: str

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.read + self.written


class AllReduce(NamedTuple):
    """The bytes that devices exchange at once, and the kernels that run at the same time."""

    bytes: int
    beside: list[Kernel]


@dataclasses.dataclass(frozen=True, eq=False)
class _Instruction:
    root: str | None  # "ROOT " if it is the result of its computation
    name: str
    type: str
    op: str
    rest: str  # operands and attributes, as text
    operands: "list[_Instruction]"

    @property
    def called(self) -> list[str]:
        """The computations that it calls, except the condition of a loop."""
        names = r"(?:calls|to_apply|body|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
        return _NAME.findall(self.attribute(names))

    @property
    def shape(self) -> tuple[int, ...]:
        return _shapes(self.type)[0][1]

    @property
    def bytes(self) -> int:
        return sum(bits * math.prod(shape) // 8 for bits, shape in _shapes(self.type))

    def attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.rest)
        return match[1] if match else ""


class HloProgram:
    """A compiled program.

    Raises:
      ValueError: the text is not that of a program.
    """

    def __init__(self, text: str):
        self._computations: dict[str, list[_Instruction]] = {}
        entry, computation, named = None, [], {}
        for line in text.splitlines():
            if match := _INSTRUCTION.match(line):
                names = _NAME.findall(match[5].partition("), ")[0])
                operands = [named[name] for name in names if name in named]
                named[match[2]] = _Instruction(*match.groups(), operands)
                computation.append(named[match[2]])
            elif match := _HEADER.match(line):
                computation, named = [], {}
                self._computations[match[2]] = computation
                entry = computation if match[1] else entry
        if entry is None:
            raise ValueError("the text has no entry computation")
        self._entry = entry

    def kernels(self) -> list[Kernel]:
        """The kernels of one run, in the order in which they are launched."""
        return list(self._kernels(self._entry, turns=1))

    def _kernels(self, instructions: list[_Instruction], *, turns: int) -> Iterator[Kernel]:
        for instruction in instructions:
            if instruction.op in _CALLS:
                count = "1"
                if instruction.op == "while":
                    count = instruction.attribute(r'known_trip_count":\{"n":"(\d+)"')
                    if not count:
                        raise ValueError(f"the number of turns of {instruction.name} is unknown")
                for name in instruction.called:
                    yield from self._kernels(self._computations[name], turns=turns * int(count))
            elif instruction.op not in _FREE and not instruction.op.endswith("-done"):
                yield self._kernel(instruction, turns=turns)

    def _kernel(self, instruction: _Instruction, *, turns: int = 1) -> Kernel:
        op, operands = instruction.op, instruction.operands
        read, written = sum(operand.bytes for operand in operands), instruction.bytes
        kind, flop = op.removesuffix("-start"), 0.0
        if op.endswith("-start"):  # its type is that of operands and results together
            written = read
        if self._is_all_reduce(instruction):
            kind = "all-reduce"
        elif op == "fusion":
            body = self._computations[instruction.called[0]]
            read, written = _fusion_bytes(body)
            ops = {inner.op for inner in body}
            kind = next((kind for op, kind in _FUSIONS.items() if op in ops), "element-wise")
            flop = sum(_dot_flop(inner) for inner in body if inner.op == "dot")
        elif op == "custom-call":
            kind, flop = _library(instruction)
        elif op == "dynamic-update-slice":
            read = written = operands[1].bytes
        elif op in _READS_PART:
            read = written
        return Kernel(
            kind=kind,
            shape=instruction.type,
            read=read * turns,
            written=written * turns,
            flop=flop * turns,
            source=instruction.attribute(r'op_name="([^"]*)"'),
        )

    def _is_all_reduce(self, instruction: _Instruction) -> bool:
        """Whether it is an all-reduce of NCCL, or of XLA's own kernel (a fusion, for few bytes)."""
        if instruction.op == "fusion-start":
            return any(
                inner.op == "all-reduce" for inner in self._computations[instruction.called[0]]
            )
        return instruction.op in ("all-reduce", "all-reduce-start")

    def all_reduces(self) -> list[AllReduce]:
        """The all-reduces of the entry, in the order in which they are launched."""
        dones = [(i, x) for i, x in enumerate(self._entry) if x.op.endswith("-done")]
        ends = {done.operands[0]: end for end, done in dones}
        return [
            AllReduce(
                bytes=sum(operand.bytes for operand in instruction.operands),
                beside=[
                    self._kernel(other)
                    for other in self._entry[start + 1 : ends.get(instruction, start)]
                    if other.op in _TIMED
                ],
            )
            for start, instruction in enumerate(self._entry)
            if self._is_all_reduce(instruction)
        ]

    def collectives(self) -> dict[str, dict[str, int]]:
        """Kind -> {"count", "bytes" of the results on one device}, of the whole program."""
        kinds = collections.defaultdict(collections.Counter)
        for instruction in itertools.chain(*self._computations.values()):
            kind = instruction.op.removesuffix("-start")
            if kind in _COLLECTIVES:
                kinds[kind].update(count=1, bytes=instruction.bytes)
        return {kind: dict(counts) for kind, counts in sorted(kinds.items())}


@functools.cache
def _shapes(type_text: str) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(bits of a value, shape) of each array of a type."""
    return tuple(
        (
            8 if name == "pred" else int(re.sub(r"\D", "", name)),
            tuple(int(size) for size in sizes.split(",") if size),
        )
        for name, sizes in _ARRAY.findall(type_text)
    )


def _fusion_bytes(body: list[_Instruction]) -> tuple[int, int]:
    """Bytes that a fusion reads and writes."""
    users = collections.defaultdict(list)
    for user in body:
        for position, operand in enumerate(user.operands):
            users[operand].append((user, position))

    def read(operand: _Instruction) -> int:
        parts = 0
        for user, position in users[operand]:
            if user.op in _READS_PART and position == 0:
                parts += user.bytes
            elif user.op == "bitcast":
                parts += read(user)
            elif not (user.op in _IN_PLACE and position == 0):
                return operand.bytes
        return min(parts, operand.bytes)

    def behind_bitcasts(instruction: _Instruction) -> _Instruction:
        while instruction.op == "bitcast":
            instruction = instruction.operands[0]
        return instruction

    def written(result: _Instruction) -> int:
        inner = behind_bitcasts(result)
        if inner.op in _IN_PLACE and behind_bitcasts(inner.operands[0]).op == "parameter":
            if inner.op == "scatter":  # it also reads the part that it adds to
                return 2 * inner.operands[2].bytes
            return inner.operands[1].bytes
        return result.bytes

    root = next(instruction for instruction in body if instruction.root)
    results = root.operands if root.op == "tuple" else [root]
    parameters = (instruction for instruction in body if instruction.op == "parameter")
    return sum(map(read, parameters)), sum(map(written, results))


def _dot_flop(dot: _Instruction) -> float:
    contracted = dot.attribute(r"lhs_contracting_dims=\{([\d,]+)\}").split(",")
    left = dot.operands[0].shape
    return 2.0 * math.prod(dot.shape) * math.prod(left[int(axis)] for axis in contracted)


def _library(call: _Instruction) -> tuple[str, float]:
    """(kind, operations) of a call of cuDNN, cuBLAS or another library."""
    target = call.attribute(r'custom_call_target="([^"]+)"')
    if not target.startswith("__cudnn$conv"):
        return ("product" if "gemm" in target else target), 0.0
    first, second = (operand.shape for operand in call.operands[:2])
    # The shapes of the kernel and of the output of the convolution to which this belongs.
    way, kernel, output = {
        "__cudnn$convBackwardInput": ("backward input", second, first),
        "__cudnn$convBackwardFilter": ("backward filter", call.shape, second),
    }.get(target, ("forward", second, call.shape))
    labels = call.attribute(r"dim_labels=\w+_(\w+)->")
    flop = 2.0 * math.prod(output) * math.prod(kernel) / kernel[labels.index("o")]
    return f"convolution {way}", flop
