"""Vectors of 32 lanes in memory: loads, stores, and the three odd ones of an entropy coder.

Guarantees: arrays are read and written at the element's own alignment, little-endian machines
assumed. Gives up: bounds checks; `array[index]` to the last lane is the caller's to justify.
`expand` and `compress` touch only as many elements as their mask has lanes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from frontload.kvcache.codec.lanes import (
    F32,
    I32,
    INDEX,
    U16,
    U32,
    Lanes,
    call,
    in_all_lanes,
    resized,
)
from frontload.kvcache.profile import LANES


def _element(context: Any, builder: Any, kinds: Any, args: Any) -> tuple[Any, int]:
    """Pointer to `array[index]`, the first two of `args`, and the element's bits."""
    array = context.make_array(kinds[0])(context, builder, args[0])
    index = context.cast(builder, args[1], kinds[1], types.intp)
    return builder.gep(array.data, [index]), kinds[0].dtype.bitwidth


@intrinsic
def dot(typing: Any, sums: Any, array: Any, index: Any, factors: Any, which: Any) -> Any:
    """I32 `sums` + sum over i = 0, 1 of `array[index + 2 lane + i]` times the i-th int16 half of
    `factors[which]`, which all lanes share.

    LLVM knows this shape: with AVX-512 VNNI it is one instruction for 16 lanes.
    """

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        narrow, wide = (ir.VectorType(ir.IntType(bits), 2 * LANES) for bits in (16, 32))
        pointer, bits = _element(context, builder, sig.args[1:3], args[1:3])
        assert bits == 16
        left = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=2)
        pointer, bits = _element(context, builder, sig.args[3:5], args[3:5])
        assert bits == 32
        both = in_all_lanes(builder, builder.load(pointer), I32.vector)
        right = builder.sext(builder.bitcast(both, narrow), wide)
        products = builder.mul(builder.sext(left, wide), right)
        even, odd = (
            builder.shuffle_vector(
                products,
                ir.Constant(wide, ir.Undefined),
                ir.Constant(ir.VectorType(INDEX, LANES), list(range(i, 2 * LANES, 2))),
            )
            for i in (0, 1)
        )
        return builder.add(args[0], builder.add(even, odd))

    return signature(I32, sums, array, index, factors, which), build


def _load_and_store(kind: Lanes) -> tuple[Any, Any]:
    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer, bits = _element(context, builder, sig.args, args)
            memory = Lanes(sig.args[0].dtype)
            value = builder.load(
                builder.bitcast(pointer, memory.vector.as_pointer()), align=bits // 8
            )
            return resized(builder, value, bits, memory.signed, kind)

        return signature(kind, array, index), build

    @intrinsic
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer, bits = _element(context, builder, sig.args, args)
            memory = Lanes(sig.args[0].dtype)
            value = resized(builder, args[2], kind.bits, kind.signed, memory)
            builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=bits // 8)
            return context.get_dummy_value()

        return signature(types.void, array, index, kind), build

    return load, store


# Of and to a one-dimensional contiguous array from `index` on; integers there of any width.
load_u32, store_u32 = _load_and_store(U32)
load_i32, store_i32 = _load_and_store(I32)
load_f32, store_f32 = _load_and_store(F32)


@intrinsic
def expand(typing: Any, array: Any, index: Any, mask: Any) -> Any:
    """16-bit elements from `array[index]` on, given to the lanes of the mask in order; others 0."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, bits = _element(context, builder, sig.args, args)
        assert bits == 16
        memory = ir.VectorType(ir.IntType(16), LANES)
        return call(
            builder,
            "llvm.masked.expandload.v32i16",
            memory,
            [pointer, args[2], ir.Constant(memory, None)],
        )

    return signature(U16, array, index, mask), build


@intrinsic
def compress(typing: Any, array: Any, index: Any, mask: Any, value: Any) -> Any:
    """Store the lanes of the mask, lowest 16 bits, one after another from `array[index]` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, bits = _element(context, builder, sig.args, args)
        assert bits == 16
        kind = sig.args[3]
        words = resized(builder, args[3], kind.bits, kind.signed, U16)
        call(
            builder,
            "llvm.masked.compressstore.v32i16",
            ir.VoidType(),
            [words, pointer, args[2]],
        )
        return context.get_dummy_value()

    return signature(types.void, array, index, mask, value), build
