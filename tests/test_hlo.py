"""Statistics of a compiled GPU program: kernels, bytes, operations, all-reduces."""

import dataclasses

import pytest

from thermo_jax.benchmark.ahead_of_time import BYTES_PER_S, FLOP_PER_S, floor_s
from thermo_jax.benchmark.hlo import HloProgram

# XLA's text, shortened: 2 images of 4x4x8 -> 16 channels, 3x3.
CONVOLUTIONS = """
ENTRY %main (x: bf16[2,4,4,8]) -> bf16[2,4,4,16] {
  %x = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,8]{3,2,1,0} parameter(1)
  %c = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="a/conv"}
  %y = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%c), index=0
  %i = (bf16[2,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  ROOT %f = (bf16[16,3,3,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
}
"""

FUSIONS = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%takes_a_part (t: f32[100,8], i: s32[]) -> f32[1,8] {
  %t = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %d = f32[1,8]{1,0} dynamic-slice(%t, %i, %z), dynamic_slice_sizes={1,8}
}

%adds_some (t: f32[100,8], i: s32[3,1], u: f32[3,8]) -> f32[100,8] {
  %t = f32[100,8]{1,0} parameter(0)
  %i = s32[3,1]{1,0} parameter(1)
  %u = f32[3,8]{1,0} parameter(2)
  ROOT %r = f32[100,8]{1,0} scatter(%t, %i, %u), to_apply=%sum
}

%reduces (t: f32[100,8]) -> (f32[8], f32[100,8]) {
  %t = f32[100,8]{1,0} parameter(0)
  %z = f32[] constant(0)
  %r = f32[8]{0} reduce(%t, %z), dimensions={0}, to_apply=%sum
  %n = f32[100,8]{1,0} negate(%t)
  ROOT %both = (f32[8]{0}, f32[100,8]{1,0}) tuple(%r, %n)
}

%multiplies (a: bf16[10,8], b: bf16[8,4]) -> f32[10,4] {
  %a = bf16[10,8]{1,0} parameter(0)
  %b = bf16[8,4]{1,0} parameter(1)
  ROOT %d = f32[10,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (p: (f32[100,8], s32[])) -> (f32[100,8], s32[]) {
  %p = (f32[100,8]{1,0}, s32[]) parameter(0)
  %t = f32[100,8]{1,0} get-tuple-element(%p), index=0
  %i = s32[] get-tuple-element(%p), index=1
  %part = f32[1,8]{1,0} fusion(%t, %i), kind=kLoop, calls=%takes_a_part
  ROOT %again = (f32[100,8]{1,0}, s32[]) tuple(%t, %i)
}

ENTRY %main (t: f32[100,8], i: s32[3,1], u: f32[3,8]) -> f32[100,8] {
  %t = f32[100,8]{1,0} parameter(0)
  %i = s32[3,1]{1,0} parameter(1)
  %u = f32[3,8]{1,0} parameter(2)
  %w = (f32[100,8]{1,0}, s32[]) while(%state), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %some = f32[100,8]{1,0} fusion(%t, %i, %u), kind=kInput, calls=%adds_some
  %red = (f32[8]{0}, f32[100,8]{1,0}) fusion(%t), kind=kInput, calls=%reduces
  %pro = f32[10,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%multiplies
  ROOT %copy = f32[100,8]{0,1} copy(%t)
}
"""


def test_all_three_convolutions_of_a_layer_need_the_same_operations():
    forward, by_input, by_filter = HloProgram(CONVOLUTIONS).kernels()
    assert forward.kind == "convolution forward" and forward.source == "a/conv"
    assert by_input.kind == "convolution backward input"
    assert by_filter.kind == "convolution backward filter"
    for kernel in (forward, by_input, by_filter):
        assert kernel.flop == 2 * (2 * 4 * 4 * 16) * (3 * 3 * 8)
    x, k, y = (2 * size for size in (2 * 4 * 4 * 8, 16 * 3 * 3 * 8, 2 * 4 * 4 * 16))
    assert (forward.read, forward.written) == (x + k, y)
    assert (by_input.read, by_input.written) == (y + k, x)
    assert (by_filter.read, by_filter.written) == (x + y, k)


def test_a_loops_kernel_counts_once_and_its_bytes_once_per_iteration():
    part = HloProgram(FUSIONS).kernels()[0]
    assert (part.shape, part.kind) == ("f32[1,8]{1,0}", "element-wise")
    assert (part.read, part.written) == (5 * (32 + 4), 5 * 32)  # one row of the table, and i


def test_an_array_changed_in_place_is_not_read_or_written_as_a_whole():
    some = HloProgram(FUSIONS).kernels()[1]
    assert (some.read, some.written) == (3 * 4 + 96, 2 * 96)


def test_reductions_products_and_copies_are_distinguished():
    reduction, product, copy = HloProgram(FUSIONS).kernels()[2:]
    assert (reduction.kind, reduction.read, reduction.written) == ("reduction", 3200, 3232)
    assert (product.kind, product.flop) == ("product", 2 * 10 * 4 * 8)
    assert (copy.kind, copy.bytes) == ("copy", 6400)


def test_the_floor_is_the_longer_time_of_bytes_and_operations():
    (forward, *_) = HloProgram(CONVOLUTIONS).kernels()
    assert floor_s(forward) == forward.bytes / BYTES_PER_S
    assert floor_s(dataclasses.replace(forward, flop=1e15)) == 1e15 / FLOP_PER_S


def test_all_reduces_list_the_kernels_that_run_beside_them():
    program = """
%negates (t: f32[64]) -> f32[64] {
  %t = f32[64]{0} parameter(0)
  ROOT %n = f32[64]{0} negate(%t)
}

%sends (t: f32[2,64]) -> f32[2,64] {
  %t = f32[2,64]{1,0} parameter(0)
  ROOT %r = f32[2,64]{1,0} all-reduce(%t), replica_groups={{0,1}}, to_apply=%sum
}

ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  %b = f32[2,64]{1,0} parameter(1)
  %waits = f32[64]{0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%sum
  %start = (f32[64]{0}, f32[64]{0}) all-reduce-start(%a, %waits), to_apply=%sum
  %n = f32[64]{0} fusion(%waits), kind=kLoop, calls=%negates
  %few = ((f32[2,64]{1,0}), f32[2,64]{1,0}) fusion-start(%b), kind=kCustom, calls=%sends
  %few-done = f32[2,64]{1,0} fusion-done(%few)
  ROOT %done = (f32[64]{0}, f32[64]{0}) all-reduce-done(%start)
}
"""
    alone, accompanied, few = HloProgram(program).all_reduces()
    assert (alone.bytes, alone.beside) == (256, [])
    assert accompanied.bytes == 512
    assert [(x.kind, x.shape) for x in accompanied.beside] == [("element-wise", "f32[64]{0}")]
    assert (few.bytes, few.beside) == (512, [])
    kinds = [kernel.kind for kernel in HloProgram(program).kernels()]
    assert kinds == ["all-reduce", "all-reduce", "element-wise", "all-reduce"]


@pytest.mark.parametrize("text", ["", "HloModule nothing"])
def test_a_text_without_a_program_is_refused(text):
    with pytest.raises(ValueError, match="no entry computation"):
        HloProgram(text)
