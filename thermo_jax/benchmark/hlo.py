"""The kernels of a program that XLA compiled for a GPU, read from its text.

Each kernel's bytes are what it must at least read and write: its operands and results, but of an
operand that it only slices or gathers from no more than it takes. A loop's kernels count once, and
their bytes as often as it turns. All branches of a conditional are counted.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
_HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%([\w.\-]+) = (.*)$")
# What makes no kernel; nor does the end of an asynchronous operation, "...-done".
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "opt-barrier"),
    *("after-all", "partition-id", "replica-id"),
}
_TIMED = ("fusion", "custom-call", "copy")  # beside an all-reduce
_TAKES_PART = ("dynamic-slice", "slice", "gather")  # of the first operand
_IN_PLACE = ("dynamic-update-slice", "scatter")  # change a part of the first operand


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel, or one call of a library.

    Attributes:
      name: XLA's.
      kind: "convolution forward", "convolution backward input", "convolution backward filter",
        "product", "reduction", "element-wise", "copy", "all-reduce" or another operation's name.
      shape: of its results, as XLA writes it.
      read, written: bytes.
      flop: operations of convolutions and products, else 0.
      source: where in the traced program it comes from.
    """

    name: str
    kind: str
    shape: str
    read: float
    written: float
    flop: float
    source: str

    @property
    def bytes(self) -> float:
        """Read and written."""
        return self.read + self.written

    def floor_s(self, *, bytes_per_s: float, flop_per_s: float) -> float:
        """Seconds that it takes at least."""
        return max(self.bytes / bytes_per_s, self.flop / flop_per_s)


class AllReduce(NamedTuple):
    """What the devices send each other at once, and the kernels that run in the meantime."""

    bytes: int
    beside: list[Kernel]


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str  # arguments and attributes, as text
    is_root: bool

    def attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.rest)
        return match[1] if match else ""


class HloProgram:
    """A compiled program's computations, each a dict of its instructions by name, in order.

    Raises:
      ValueError: the text is not that of a program.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry = ""
        current = None
        for line in text.splitlines():
            if current is None:
                if header := _HEADER.match(line):
                    current = self.computations[header[2]] = {}
                    if header[1]:
                        self.entry = header[2]
            elif line.startswith("}"):
                current = None
            elif instruction := _parse(line):
                current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("the text has no entry computation")

    def kernels(self) -> list[Kernel]:
        """The kernels of one run, in the order in which they are launched."""
        return list(self._kernels(self.entry, turns=1))

    def _kernels(self, computation: str, *, turns: int) -> Iterator[Kernel]:
        table = self.computations[computation]
        for each in table.values():
            if each.op in _FREE or each.op.endswith("-done"):
                continue
            if each.op == "while":
                count = each.attribute(r'known_trip_count":\{"n":"(\d+)"')
                if not count:
                    raise ValueError(f"how often the loop {each.name} turns is not known")
                body = each.attribute(r"body=%([\w.\-]+)")
                yield from self._kernels(body, turns=turns * int(count))
            elif each.op == "call":
                yield from self._kernels(each.attribute(r"to_apply=%([\w.\-]+)"), turns=turns)
            elif each.op == "conditional":
                branches = each.attribute(r"branch_computations=\{([^}]*)\}")
                for branch in re.findall(r"%([\w.\-]+)", branches):
                    yield from self._kernels(branch, turns=turns)
            else:
                yield self._kernel(each, table, turns=turns)

    def _kernel(self, each: _Instruction, table: dict[str, _Instruction], *, turns: int) -> Kernel:
        operands = [table[name] for name in each.operands if name in table]
        read, written = sum(array_bytes(x.type) for x in operands), array_bytes(each.type)
        kind, flop = each.op.removesuffix("-start"), 0.0
        if each.op.endswith("-start"):  # its type is that of operands and results together
            written = read
        if self._is_all_reduce(each):
            kind = "all-reduce"
        elif each.op == "fusion":
            body = self.computations[each.attribute(r"calls=%([\w.\-]+)")]
            read, written = _fusion_bytes(body)
            ops = {inner.op for inner in body.values()}
            kind = next((k for k in ("dot", "reduce") if k in ops), "element-wise")
            kind = {"dot": "product", "reduce": "reduction"}.get(kind, kind)
            flop = sum(_dot_flop(inner, body) for inner in body.values() if inner.op == "dot")
        elif each.op == "custom-call":
            target = each.attribute(r'custom_call_target="([^"]+)"')
            kind, flop = _library(target, each, operands)
        elif each.op == "dynamic-update-slice":
            read = written = array_bytes(operands[1].type)
        elif each.op in _TAKES_PART:
            read = written
        return Kernel(
            name=each.name,
            kind=kind,
            shape=each.type,
            read=read * turns,
            written=written * turns,
            flop=flop * turns,
            source=each.attribute(r'op_name="([^"]*)"'),
        )

    def _is_all_reduce(self, each: _Instruction) -> bool:
        """Whether NCCL or a kernel of XLA's own (a fusion, for few bytes) makes one."""
        if each.op == "fusion-start":
            body = self.computations[each.attribute(r"calls=%([\w.\-]+)")]
            return any(inner.op == "all-reduce" for inner in body.values())
        return each.op in ("all-reduce", "all-reduce-start")

    def all_reduces(self) -> list[AllReduce]:
        """The all-reduces of the entry, in the order in which they are launched."""
        table = self.computations[self.entry]
        launched = list(table.values())
        ends = {x.operands[0]: i for i, x in enumerate(launched) if x.op.endswith("-done")}
        found = []
        for start, each in enumerate(launched):
            if self._is_all_reduce(each):
                beside = launched[start + 1 : ends.get(each.name, start)]
                found.append(
                    AllReduce(
                        bytes=sum(array_bytes(table[name].type) for name in each.operands),
                        beside=[self._kernel(x, table, turns=1) for x in beside if x.op in _TIMED],
                    )
                )
        return found


def _parse(line: str) -> _Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    type_text, rest = _split_at_space(match[3])
    op = re.match(r"([\w\-]+)\(", rest)
    if not op:
        return None
    arguments = _balanced(rest[len(op[1]) :])
    return _Instruction(
        name=match[2],
        type=type_text,
        op=op[1],
        operands=tuple(re.findall(r"%([\w.\-]+)", arguments)),
        rest=rest[len(op[1]) :],
        is_root=bool(match[1]),
    )


def _split_at_space(text: str) -> tuple[str, str]:
    """The result's type, which may be a tuple, and what follows it."""
    end = len(_balanced(text)) if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _balanced(text: str) -> str:
    """The beginning of a text, up to where its first parenthesis closes."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[: i + 1]
    return text


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


def array_bytes(type_text: str) -> int:
    """Of all arrays of a type, as XLA writes it."""
    return sum(bits * math.prod(shape) // 8 for bits, shape in _shapes(type_text))


def _shape(each: _Instruction) -> tuple[int, ...]:
    return _shapes(each.type)[0][1]


def _fusion_bytes(body: dict[str, _Instruction]) -> tuple[int, int]:
    users = collections.defaultdict(list)
    for each in body.values():
        for position, name in enumerate(each.operands):
            users[name].append((each, position))

    def read(each: _Instruction) -> int:
        parts = 0
        for user, position in users[each.name]:
            if user.op in _TAKES_PART and position == 0:
                parts += array_bytes(user.type)
            elif user.op == "bitcast":
                parts += read(user)
            elif not (user.op in _IN_PLACE and position == 0):
                return array_bytes(each.type)
        return min(parts, array_bytes(each.type))

    def behind_bitcasts(each: _Instruction) -> _Instruction:
        while each.op == "bitcast":
            each = body[each.operands[0]]
        return each

    def written(each: _Instruction) -> int:
        inner = behind_bitcasts(each)
        if inner.op in _IN_PLACE and behind_bitcasts(body[inner.operands[0]]).op == "parameter":
            if inner.op == "scatter":  # what is added to is read, too
                return 2 * array_bytes(body[inner.operands[2]].type)
            return array_bytes(body[inner.operands[1]].type)
        return array_bytes(each.type)

    root = next(each for each in body.values() if each.is_root)
    results = [body[name] for name in root.operands] if root.op == "tuple" else [root]
    parameters = (each for each in body.values() if each.op == "parameter")
    return sum(map(read, parameters)), sum(map(written, results))


def _dot_flop(each: _Instruction, body: dict[str, _Instruction]) -> float:
    contracted = each.attribute(r"lhs_contracting_dims=\{([\d,]+)\}").split(",")
    left = _shape(body[each.operands[0]])
    return 2.0 * math.prod(_shape(each)) * math.prod(left[int(axis)] for axis in contracted)


def _library(target: str, each: _Instruction, operands: list[_Instruction]) -> tuple[str, float]:
    """(kind, operations) of a call of cuDNN, cuBLAS or another library."""
    if not target.startswith("__cudnn$conv"):
        return ("product" if "gemm" in target else target), 0.0
    first, second = (_shape(x) for x in operands[:2])
    result = _shape(each)
    # The kernel's and the output's shape of the convolution that this belongs to.
    way, kernel, output = {
        "__cudnn$convBackwardInput": ("backward input", second, first),
        "__cudnn$convBackwardFilter": ("backward filter", result, second),
    }.get(target, ("forward", second, result))
    labels = each.attribute(r"dim_labels=\w+_(\w+)->")
    flop = 2.0 * math.prod(output) * math.prod(kernel) / kernel[labels.index("o")]
    return f"convolution {way}", flop
