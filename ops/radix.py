"""Stable sorting in the loop IR, which has neither while loops nor loop bounds that depend on data.

An element is mapped to an unsigned key whose order is the order wanted; then the *places* of the elements are sorted by
key. Short rows count for each element how many come before it (n^2 comparisons, no branches). Longer rows take a
radix sort with the least significant digit first (Knuth, The Art of Computer Programming, vol. 3, 5.2.5): for
each byte of the key, the places are moved, in order, behind those whose byte is smaller. Both take a fixed number of
steps, and both are stable.
"""

from collections.abc import Callable

from ..ir.errors import FusewireError
from ..ir.index import Index, as_index
from ..ir.loops import Builder
from ..ir.scalar import Buffer, Value, apply, bitcast, cast, clamped, constant, is_float, select
from ..ir.types import numpy_dtype

SHORT = 64
"""Up to this length, counting beats the sweeps over 256 bins that each byte of a key costs."""
_BINS = 256


def key_bits(dtype: str) -> int:
    """How many low bits of a `sort_key` can be set, for values of this compute dtype."""
    return 8 * numpy_dtype(dtype).itemsize


def key_dtype(dtype: str) -> str:
    """The dtype of a `sort_key`, for values of this compute dtype."""
    return "uint64" if key_bits(dtype) == 64 else "uint32"


def sort_key(value: Value, ascending: bool) -> Value:
    """An unsigned integer that orders as `value` does, or the other way round.

    NaN comes last in either direction, and -0.0 equals 0.0, as NumPy sorts.
    """
    bits = key_bits(value.dtype)
    if is_float(value.dtype):
        return _float_key(value, bits, ascending)
    if bits < 32:
        low = -(1 << (bits - 1)) if value.dtype.startswith("int") else 0
        wide = cast(value, "int32")
        return cast(wide - low if ascending else low + (1 << bits) - 1 - wide, "uint32")
    key = value
    if value.dtype.startswith("int"):
        key = apply("xor", bitcast(value, f"uint{bits}"), 1 << (bits - 1))
    return key if ascending else apply("not", key)


def _float_key(value: Value, bits: int, ascending: bool) -> Value:
    # IEEE 754 numbers order as sign and magnitude: negative ones are turned upside down, the others put above them.
    top = 1 << (bits - 1)
    raw = bitcast(select(apply("eq", value, 0), constant(0, value.dtype), value), f"uint{bits}")
    key = select(apply("ge", raw, top), apply("not", raw), apply("or", raw, top))
    if not ascending:
        key = apply("not", key)
    return select(apply("isnan", value), constant((1 << bits) - 1, key.dtype), key)


def sorted_places(b: Builder, n: int, read: Callable[[Index], Value], ascending: bool) -> Buffer:
    """Write statements that sort `n` elements; `n` is at least 1.

    Args:
        b: where the statements go; scratch memory is allocated in its open block.
        n: the length of the row.
        read: element `i`, in its compute dtype.
        ascending: the direction.

    Returns:
        A vector of int32: at `i`, the place of the element that comes at `i` when sorted. Elements that are equal keep
        their order.

    """
    if n >= 2**31:
        raise FusewireError(f"a row of {n} elements is too long to be sorted; expected fewer than 2**31")
    if n <= 1:
        places = b.alloc("places", (n,), "int32", "thread")
        with b.loop("i", n) as i:
            b.store(places, (i,), 0)
        return places
    dtype = read(as_index(0)).dtype
    keys = b.alloc("keys", (n,), key_dtype(dtype), "thread")
    with b.loop("i", n) as i:
        b.store(keys, (i,), sort_key(read(i), ascending))
    if n <= SHORT:
        return _by_counting(b, n, keys)
    return _by_bytes(b, n, keys, key_bits(dtype) // 8)


def _by_counting(b: Builder, n: int, keys: Buffer) -> Buffer:
    places = b.alloc("places", (n,), "int32", "thread")
    ahead = b.alloc("ahead", (), "int32")
    with b.loop("i", n) as i:
        b.store(ahead, (), 0)
        with b.loop("j", n) as j:
            mine, other = b.load(keys, (i,)), b.load(keys, (j,))
            tie = apply("and", apply("eq", other, mine), apply("lt", j, i))
            first = apply("or", apply("lt", other, mine), tie)
            b.store(ahead, (), b.load(ahead, ()) + cast(first, "int32"))
        b.store(places, (clamped(b.load(ahead, ()), n),), cast(i, "int32"))
    return places


def _by_bytes(b: Builder, n: int, keys: Buffer, passes: int) -> Buffer:
    places = b.alloc("places", (n,), "int32", "thread")
    spare_keys = b.alloc("keys", (n,), keys.dtype, "thread") if passes > 1 else keys
    spare_places = b.alloc("places", (n,), "int32", "thread")
    starts = b.alloc("starts", (passes, _BINS), "int32", "thread")
    with b.loop("i", n) as i:
        b.store(places, (i,), cast(i, "int32"))
    _count_bytes(b, n, keys, starts, passes)
    for p in range(passes):
        with b.loop("i", n) as i:
            at = (as_index(p), _byte(b.load(keys, (i,)), p))
            to = (clamped(b.load(starts, at), n),)
            if p + 1 < passes:
                b.store(spare_keys, to, b.load(keys, (i,)))
            b.store(spare_places, to, b.load(places, (i,)))
            b.store(starts, at, b.load(starts, at) + 1)
        keys, spare_keys = spare_keys, keys
        places, spare_places = spare_places, places
    return places


def _byte(key: Value, p: int) -> Index:
    return clamped(apply("and", apply("shr", key, 8 * p), _BINS - 1), _BINS)


def _count_bytes(b: Builder, n: int, keys: Buffer, starts: Buffer, passes: int) -> None:
    """For every pass, where the elements begin that have a given byte."""
    with b.loops("pd", (passes, _BINS)) as at:
        b.store(starts, at, 0)
    with b.loop("i", n) as i:
        for p in range(passes):
            at = (as_index(p), _byte(b.load(keys, (i,)), p))
            b.store(starts, at, b.load(starts, at) + 1)
    total = b.alloc("total", (), "int32")
    count = b.alloc("count", (), "int32")
    with b.loop("p", passes) as pass_:
        b.store(total, (), 0)
        with b.loop("d", _BINS) as digit:
            b.store(count, (), b.load(starts, (pass_, digit)))
            b.store(starts, (pass_, digit), b.load(total, ()))
            b.store(total, (), b.load(total, ()) + b.load(count, ()))
