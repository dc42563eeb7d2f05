"""Memory by its address, for compiled loops: loads, stores and copies that numba's arrays would check one by one.

Nothing here checks bounds. Callers do, before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F = TypeVar("F", bound=Callable[..., Any])

WIDE = 32
"""Bytes that `copy_wide` moves at once."""


def compiled(function: F) -> F:
    """Machine code, without the interpreter's lock, kept on disk where there is a place for it."""
    try:
        result: F = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package nor the home folder can be written to
        result = numba.njit(nogil=True)(function)
    return result


read_at = types.ExternalFunction("pread", types.intp(types.int32, types.intp, types.intp, types.int64))
"""pread(2): bytes read of (file descriptor, address, count, position), -1 for an error."""


@compiled
def address(array: NDArray[Any]) -> int:
    """Where an array begins; signed, as numba turns sums of signed and unsigned numbers into floating point."""
    return np.intp(array.ctypes.data)  # type: ignore[return-value]


_byte = ir.IntType(8)


def _at(builder: Any, address: Any, kind: Any) -> Any:  # noqa: ANN401
    return builder.inttoptr(address, kind.as_pointer())


def _load(bits: int) -> Any:  # noqa: ANN401
    @intrinsic
    def load(_: Any, address: Any) -> Any:  # noqa: ANN401, ARG001
        """Little-endian number at an address."""

        def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:  # noqa: ANN401
            value = builder.load(_at(builder, args[0], ir.IntType(bits)))
            value.align = 1
            return value if bits == 64 else builder.zext(value, ir.IntType(64))  # noqa: PLR2004

        return types.int64(types.intp), generate

    return load


load8, load16, load32 = _load(8), _load(16), _load(32)


def _copy(count: int) -> Any:  # noqa: ANN401
    @intrinsic
    def copy(_: Any, target: Any, source: Any) -> Any:  # noqa: ANN401, ARG001
        """So many bytes from one address to another, in one move."""

        def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
            kind = ir.VectorType(_byte, count)
            value = builder.load(_at(builder, args[1], kind))
            value.align = 1
            builder.store(value, _at(builder, args[0], kind)).align = 1
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), generate

    return copy


copy_byte, copy8, copy_wide = _copy(1), _copy(8), _copy(WIDE)


@intrinsic
def copy(_: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ANN401, ARG001
    """`count` bytes from one place to another that does not overlap it."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
        cgutils.raw_memcpy(builder, _at(builder, args[0], _byte), _at(builder, args[1], _byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def repeat(_: Any, target: Any, value: Any, count: Any) -> Any:  # noqa: ANN401, ARG001
    """`count` bytes of one value."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
        cgutils.memset(builder, _at(builder, args[0], _byte), args[2], builder.trunc(args[1], _byte))
        return context.get_dummy_value()

    return types.void(types.intp, types.int64, types.intp), generate


def _weave(count: int) -> Any:  # noqa: ANN401
    @intrinsic
    def weave(_: Any, target: Any, low: Any, high: Any) -> Any:  # noqa: ANN401, ARG001
        """So many 16-bit numbers out of their low bytes and their high bytes, which lie in two places."""

        def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:  # noqa: ANN401
            narrow, wide = ir.VectorType(_byte, count), ir.VectorType(ir.IntType(16), count)
            halves = [builder.load(_at(builder, place, narrow)) for place in args[1:]]
            for half in halves:
                half.align = 1
            a, b = (builder.zext(half, wide) for half in halves)
            number = builder.or_(a, builder.shl(b, ir.Constant(wide, [8] * count)))
            builder.store(number, _at(builder, args[0], wide)).align = 1
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), generate

    return weave


weave_one, weave8, weave_wide = _weave(1), _weave(8), _weave(WIDE)
