"""Vectors of 32 lanes inside numba kernels: the SIMD vocabulary of `entropy` and `kernels`.

Guarantees: an expression of vectors becomes LLVM vector instructions, which fit whatever the
machine has (AVX-512, AVX2, NEON) and give the same bits everywhere: integers wrap, floats are
rounded after each operation. Nothing depends on what LLVM's loop vectoriser makes of a loop. Gives
up: lengths other than 32, and bounds checks: a load or store of 32 elements is the caller's to
justify.

Arithmetic, shifts, comparisons and `&`, `|` work on two vectors of one kind, or a vector and a
number. A comparison gives a `MASK`. `u16`, `u32`, `i32` and `real` convert.

Loads and stores are in `lane_memory`.

Why: loops over lanes keep a tile's states in small arrays, in memory; vectors stay in registers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from frontload.kvcache.profile import LANES

INDEX = ir.IntType(32)


class Lanes(types.Type):
    """The numba type of a vector of 32 `element`s."""

    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")

    @property
    def bits(self) -> int:
        """Width of an element."""
        return 1 if self.element is types.boolean else self.element.bitwidth

    @property
    def signed(self) -> bool:
        """Whether elements are signed integers."""
        return getattr(self.element, "signed", False)

    @property
    def real(self) -> bool:
        """Whether elements are floats."""
        return isinstance(self.element, types.Float)

    @property
    def vector(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(ir.FloatType() if self.real else ir.IntType(self.bits), LANES)


@register_model(Lanes)
class _LanesModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.vector)


U16, U32, I32 = Lanes(types.uint16), Lanes(types.uint32), Lanes(types.int32)
F32, MASK = Lanes(types.float32), Lanes(types.boolean)


def in_all_lanes(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    """One number in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INDEX, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INDEX, LANES), None))


def _operand(context: Any, builder: Any, value: Any, given: types.Type, kind: Lanes) -> Any:
    if isinstance(given, Lanes):
        return value
    return in_all_lanes(builder, context.cast(builder, value, given, kind.element), kind.vector)


def resized(builder: Any, value: Any, bits: int, signed: bool, kind: Lanes) -> Any:
    """A vector of integers of `bits` in lanes of `kind`; wider ones keep their lowest bits."""
    assert not kind.real or bits == kind.bits
    if bits < kind.bits:
        return (builder.sext if signed else builder.zext)(value, kind.vector)
    return builder.trunc(value, kind.vector) if bits > kind.bits else value


def call(builder: Any, name: str, returns: Any, args: list[Any]) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(returns, [arg.type for arg in args])
    known = builder.module.globals.get(name)
    return builder.call(known or ir.Function(builder.module, kind, name), args)


def _common_kind(args: tuple[types.Type, ...]) -> Lanes | None:
    """The kind of vector that an operator's two operands make, if they do."""
    kinds = {arg for arg in args if isinstance(arg, Lanes)}
    fits = all(isinstance(arg, Lanes | types.Number) for arg in args)
    return kinds.pop() if len(args) == 2 and len(kinds) == 1 and fits else None


def _define(operation: Any, build: Callable[..., Any], *, compares: bool = False) -> None:
    """Teach numba one operator: `build(builder, left, right, kind)` makes the instruction."""

    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            kind = _common_kind(args)
            return None if kind is None else signature(MASK if compares else kind, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = _common_kind(sig.args)
        assert kind is not None
        left, right = (
            _operand(context, builder, value, given, kind)
            for value, given in zip(args, sig.args, strict=True)
        )
        return build(builder, left, right, kind)

    for pair in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(operation, *pair)(lower)


def _comparison(sign: str) -> Callable[..., Any]:
    def build(builder: Any, left: Any, right: Any, kind: Lanes) -> Any:
        compare = builder.icmp_signed if kind.signed else builder.icmp_unsigned
        return compare(sign, left, right)

    return build


def _arithmetic(name: str) -> Callable[..., Any]:
    def build(builder: Any, left: Any, right: Any, kind: Lanes) -> Any:
        return getattr(builder, f"f{name}" if kind.real else name)(left, right)

    return build


_define(operator.add, _arithmetic("add"))
_define(operator.sub, _arithmetic("sub"))
_define(operator.mul, _arithmetic("mul"))
_define(operator.and_, lambda b, x, y, kind: b.and_(x, y))
_define(operator.or_, lambda b, x, y, kind: b.or_(x, y))
_define(operator.floordiv, lambda b, x, y, kind: b.udiv(x, y))  # by a constant, else it is slow
_define(operator.lshift, lambda b, x, y, kind: b.shl(x, y))
_define(operator.rshift, lambda b, x, y, kind: (b.ashr if kind.signed else b.lshr)(x, y))
_define(operator.lt, _comparison("<"), compares=True)
_define(operator.gt, _comparison(">"), compares=True)
_define(operator.ge, _comparison(">="), compares=True)
_define(operator.eq, _comparison("=="), compares=True)


def _converter(kind: Lanes) -> Any:
    @intrinsic
    def convert(typing: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            given = sig.args[0]
            if isinstance(given, Lanes):
                return resized(builder, args[0], given.bits, given.signed, kind)
            return _operand(context, builder, args[0], given, kind)

        return signature(kind, value), build

    return convert


u16, u32, i32 = _converter(U16), _converter(U32), _converter(I32)


@intrinsic
def real(typing: Any, vector: Any) -> Any:
    """An I32 vector as F32, each rounded to nearest."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], F32.vector)

    return signature(F32, vector), build


@intrinsic
def bits_of(typing: Any, vector: Any) -> Any:
    """The bits of an F32 vector as U32."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], U32.vector)

    return signature(U32, vector), build


@intrinsic
def select(typing: Any, mask: Any, chosen: Any, otherwise: Any) -> Any:
    """Lane by lane, `chosen` where the mask is set, else `otherwise`; one may be an integer."""
    kind = chosen if isinstance(chosen, Lanes) else otherwise

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, second = (
            _operand(context, builder, value, given, kind)
            for value, given in zip(args[1:], sig.args[1:], strict=True)
        )
        return builder.select(args[0], first, second)

    return signature(kind, mask, chosen, otherwise), build


@intrinsic
def first(typing: Any, count: Any) -> Any:
    """The mask of the first `count` lanes."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = ir.Constant(U32.vector, list(range(LANES)))
        return builder.icmp_unsigned(
            "<", number, _operand(context, builder, args[0], sig.args[0], U32)
        )

    return signature(MASK, count), build


@intrinsic
def count(typing: Any, mask: Any) -> Any:
    """How many lanes of a mask are set, int64."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.zext(builder.ctpop(bits), ir.IntType(64))

    return signature(types.int64, mask), build


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of an I32 vector's lanes, int64."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(64), LANES)
        return call(
            builder,
            "llvm.vector.reduce.add.v32i64",
            ir.IntType(64),
            [builder.sext(args[0], wide)],
        )

    return signature(types.int64, vector), build


@intrinsic
def quotient(typing: Any, dividend: Any, divisor: Any) -> Any:
    """Floor of U32 / U32, exact; the divisor below 2^20.

    There is no vector division of integers; in float64 the error of x / y with x < 2^32 is below
    2^-21, and x / y is an integer or at least 1 / y away from the next.
    """

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        left, right = (builder.uitofp(value, wide) for value in args)
        return builder.fptoui(builder.fdiv(left, right), U32.vector)

    return signature(U32, dividend, divisor), build
