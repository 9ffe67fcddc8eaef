"""How pools work: windows over the spatial axes, of which the maximum or the mean is taken, in any layout.

There are two kinds of windows. Sliding ones have a fixed size, stride and dilation, and may reach into padding.
Adaptive ones cut an axis of n elements into a given number of parts: part o runs from floor(o * n / parts) to
ceil((o + 1) * n / parts), so parts differ in length and may overlap; the loop then has the length of the longest part
and a guard for the others. A global pool is an adaptive one with a single part. Elements outside of the tensor never
count for a maximum; for a mean they count if `count_include_pad` says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import sliding_window_view

from ..ir.errors import TypeInferenceError
from ..ir.expr import Expr, call
from ..ir.index import Dim, Index, as_index, floordiv
from ..ir.op import Attrs
from ..ir.scalar import Value, all_of, apply, cast, compute_dtype, constant, inside, lowest, select
from ..ir.types import TensorType, Type
from .layout import Layout
from .lowering import Context, Reduction, total
from .spec import Array, Case, ints, tensor
from .window import (
    full_blocks,
    not_negative,
    numeric,
    pad_tuple,
    position,
    positive,
    span,
    spatial_axes,
    static,
    tensor_layout,
    window_count,
)


class Windows(Protocol):
    """The windows along one axis."""

    @property
    def extent(self) -> int:
        """The number of elements of the longest window."""
        ...

    def place(self, out: Index, step: Index) -> Index:
        """Where element `step` of window `out` lies on the axis."""
        ...

    def valid(self, out: Index, step: Index) -> Value:
        """Whether that element is part of the window, and inside of the tensor."""
        ...

    def count(self, out: Index) -> Value | int:
        """How many elements of window `out` a mean divides by."""
        ...


@frozen
class Sliding:
    """Windows of one size over an axis of `size` elements with padding `before` and `after` it; `windows` in number.

    `padded`: elements in the padding count for the mean.
    """

    size: int
    windows: int
    extent: int
    stride: int
    dilation: int
    before: int
    after: int
    padded: bool

    def place(self, out: Index, step: Index) -> Index:
        """Where element `step` of window `out` lies on the axis."""
        return position(out, step, self.stride, self.dilation, self.before)

    def valid(self, out: Index, step: Index) -> Value:
        """Whether that element is inside of the tensor."""
        return inside([self.place(out, step)], [self.size])

    def count(self, out: Index) -> Value | int:
        """How many steps of window `out` lie inside of the tensor (with its padding, if `padded`)."""
        first, end = (-self.before, self.size + self.after) if self.padded else (0, self.size)
        last = (self.windows - 1) * self.stride - self.before + (self.extent - 1) * self.dilation
        start = cast(self.place(out, as_index(0)), "int32")
        skipped: Value | int = 0
        stop: Value | int = self.extent
        if -self.before < first:
            skipped = apply("max", self._steps(first - start), 0)
        if last >= end:
            stop = apply("min", self._steps(end - start), self.extent)
        if isinstance(stop, int) and isinstance(skipped, int):
            return self.extent
        return apply("max", stop - skipped, 0)

    def _steps(self, distance: Value) -> Value:
        """How many steps it takes to get at least so far."""
        return distance if self.dilation == 1 else apply("floordiv", distance + (self.dilation - 1), self.dilation)


@frozen
class Adaptive:
    """An axis of `size` elements, cut into `parts`."""

    size: int
    parts: int

    @property
    def extent(self) -> int:
        """The length of the longest part."""
        # Part o begins at a rest of o * size modulo parts, which takes all multiples of their common divisor.
        rest = self.parts - math.gcd(self.size, self.parts)
        return -(-(rest + self.size) // self.parts)

    def _end(self, out: Index) -> Index:
        return floordiv((out + 1) * self.size + self.parts - 1, self.parts)

    def place(self, out: Index, step: Index) -> Index:
        """Where element `step` of part `out` lies on the axis."""
        return floordiv(out * self.size, self.parts) + step

    def valid(self, out: Index, step: Index) -> Value:
        """Whether part `out` has so many elements."""
        return apply("lt", self.place(out, step), self._end(out))

    def count(self, out: Index) -> Value | int:
        """The length of part `out`."""
        length = self._end(out) - self.place(out, as_index(0))
        return length.const if length.is_const else cast(length, "int32")


def pool_layouts(attributes: Attrs, rank: int) -> tuple[Layout, Layout]:
    """The layouts of data and result."""
    axes = "NC" + spatial_axes(rank)
    layout = tensor_layout(attributes.layout, axes, "layout")
    return layout, tensor_layout(attributes.out_layout or layout, axes, "out_layout")


def _sizes(attributes: Attrs, data: Type, rank: int) -> dict[str, Dim]:
    layout, _ = pool_layouts(attributes, rank)
    return layout.unpack_shape(numeric(tensor(data, "data"), "data").shape, "data")


def infer_sliding(attributes: Attrs, data: Type) -> Type:
    """The type of a pool with sliding windows.

    Raises:
        TypeInferenceError: attributes or data do not fit.

    """
    rank = len(attributes.pool_size)
    for name in ("pool_size", "strides", "dilation"):
        positive(attributes[name], rank, name)
    padding = not_negative(attributes.padding, "padding")
    sizes = _sizes(attributes, data, rank)
    for k, axis in enumerate(spatial_axes(rank)):
        reach = span(attributes.pool_size[k], attributes.dilation[k])
        pads = padding[k] + padding[rank + k]
        sizes[axis] = window_count(sizes[axis], pads, reach, attributes.strides[k], axis, attributes.ceil_mode)
    return TensorType(full_blocks(pool_layouts(attributes, rank)[1], sizes, "out_layout"), tensor(data).dtype)


def infer_adaptive(rank: int) -> Callable[[Attrs, Type], Type]:
    """The type rule of an adaptive (or global) pool of so many spatial axes."""

    def infer(attributes: Attrs, data: Type) -> Type:
        sizes = _sizes(attributes, data, rank)
        parts = _parts(attributes, rank)
        for axis, count in zip(spatial_axes(rank), parts, strict=True):
            if sizes[axis] == 0:
                raise TypeInferenceError(f"axis {axis} of {data} has no elements to pool")
            sizes[axis] = sizes[axis] if count is None else count
        return TensorType(full_blocks(pool_layouts(attributes, rank)[1], sizes, "out_layout"), tensor(data).dtype)

    return infer


def _parts(attributes: Attrs, rank: int) -> Sequence[int | None]:
    """The number of parts of each axis (None: as many as there are elements); a global pool has one."""
    size = attributes.get("output_size", (1,) * rank)
    return positive(size, rank, "output_size") if size else (None,) * rank


def _windows(c: Context, rank: int) -> list[Windows]:
    sizes = _sizes(c.attrs, c.args[0].type, rank)
    extents = [static(sizes[axis]) for axis in spatial_axes(rank)]
    if "pool_size" not in c.attrs:
        return [Adaptive(n, p or n) for n, p in zip(extents, _parts(c.attrs, rank), strict=True)]
    out = pool_layouts(c.attrs, rank)[1].unpack_shape(c.shape)
    a, padded = c.attrs, c.attrs.get("count_include_pad", False)
    windows: list[Windows] = []
    for k, axis in enumerate(spatial_axes(rank)):
        before, after = a.padding[k], a.padding[rank + k]
        count = static(out[axis])
        windows.append(Sliding(extents[k], count, a.pool_size[k], a.strides[k], a.dilation[k], before, after, padded))
    return windows


def _sum_dtype(dtype: str) -> str:
    """What a mean is summed up in: at least 32 bits."""
    return "int32" if dtype in ("int8", "uint8", "int16", "uint16") else compute_dtype(dtype)


def pool_lowering(rank: int, mean: bool) -> Callable[[Context], Reduction]:
    """The lowering of a pool of so many spatial axes: the mean, or the maximum, of every window."""

    def make(c: Context) -> Reduction:
        (data,) = c.args
        layout, out_layout = pool_layouts(c.attrs, rank)
        spatial, windows = spatial_axes(rank), _windows(c, rank)
        dtype = _sum_dtype(c.out.dtype) if mean else c.dtype

        def element(row: Sequence[Index], r: Sequence[Index]) -> Value:
            at = out_layout.unpack(row)
            valid = all_of([w.valid(at[axis], k) for w, axis, k in zip(windows, spatial, r, strict=True)])
            at |= {axis: w.place(at[axis], k) for w, axis, k in zip(windows, spatial, r, strict=True)}
            return cast(select(valid, data(*layout.pack(at)), 0 if mean else lowest(c.dtype)), dtype)

        def result(index: Sequence[Index], acc: Value) -> Value:
            at = out_layout.unpack(index)
            return _divide(acc, [w.count(at[axis]) for w, axis in zip(windows, spatial, strict=True)])

        extents = [w.extent for w in windows]
        return total(c.shape, "sum", extents, element, result) if mean else total(c.shape, "max", extents, element)

    return make


def _divide(acc: Value, counts: Sequence[Value | int]) -> Value:
    """The mean of as many elements as the product of `counts`; a window that has none gives 0."""
    known = math.prod(n for n in counts if isinstance(n, int))
    count: Value | int = known
    for n in counts:
        if not isinstance(n, int):
            count = n * count
    divisor = constant(max(count, 1), acc.dtype) if isinstance(count, int) else cast(apply("max", count, 1), acc.dtype)
    return acc / divisor


def _np_mean(sums: Array, counts: Array, dtype: "np.dtype[Any]") -> Array:
    """Sums divided by counts; integers are rounded towards zero."""
    counts = np.maximum(counts, 1)
    return (sums / counts if dtype.kind == "f" else np.sign(sums) * (np.abs(sums) // counts)).astype(dtype)


def np_sliding(mean: bool) -> Callable[[Attrs, Array], Array]:
    """The reference of a pool with sliding windows, by windowed views of an array padded with neutral elements."""

    def reference(attributes: Attrs, data: Array) -> Array:
        rank = len(attributes.pool_size)
        layout, out_layout = pool_layouts(attributes, rank)
        axes = "NC" + spatial_axes(rank)
        x = layout.to_plain(data, axes)
        sides = [(0, 0), (0, 0), *((attributes.padding[k], attributes.padding[rank + k]) for k in range(rank))]
        steps = list(zip(attributes.pool_size, attributes.dilation, attributes.strides, strict=True))
        spans = tuple((k - 1) * d + 1 for k, d, _ in steps)
        more = [(0, 0), (0, 0), *((0, s - 1 if attributes.ceil_mode else 0) for _, _, s in steps)]
        where = [slice(None, None, s) for _, _, s in steps] + [slice(None, None, d) for _, d, _ in steps]

        def windows(array: Array) -> Array:
            views = sliding_window_view(array, spans, tuple(range(2, 2 + rank)))
            found: Array = views[(slice(None), slice(None), *where)]
            return found

        over = tuple(range(2 + rank, 2 + 2 * rank))
        if mean:
            counted = np.pad(np.ones(x.shape, np.int64), sides, constant_values=attributes.count_include_pad)
            wide = x.astype(np.float64 if x.dtype.kind == "f" else np.int64)
            sums = windows(np.pad(np.pad(wide, sides), more)).sum(over)
            result = _np_mean(sums, windows(np.pad(counted, more)).sum(over), x.dtype)
        else:
            least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            padded = np.pad(np.pad(x, sides, constant_values=least), more, constant_values=least)
            result = windows(padded).max(over)
        return out_layout.from_plain(result, axes)

    return reference


def np_adaptive(rank: int, mean: bool) -> Callable[[Attrs, Array], Array]:
    """The reference of an adaptive or global pool: NumPy's mean or max of one slice after the other."""

    def reference(attributes: Attrs, data: Array) -> Array:
        layout, out_layout = pool_layouts(attributes, rank)
        axes = "NC" + spatial_axes(rank)
        x = layout.to_plain(data, axes)
        parts: list[int] = [p or n for p, n in zip(_parts(attributes, rank), x.shape[2:], strict=True)]
        result = np.empty((*x.shape[:2], *parts), x.dtype)
        over = tuple(range(2, 2 + rank))
        for place in np.ndindex(*parts):
            sizes = zip(place, x.shape[2:], parts, strict=True)
            cuts = [slice(o * n // p, math.ceil((o + 1) * n / p)) for o, n, p in sizes]
            window = x[(slice(None), slice(None), *cuts)]
            count = np.asarray(math.prod(window.shape[2:]))
            wide = window.astype(np.float64 if x.dtype.kind == "f" else np.int64)
            found = _np_mean(wide.sum(over), count, x.dtype) if mean else window.max(over)
            result[(slice(None), slice(None), *place)] = found
        return out_layout.from_plain(result, axes)

    return reference


def pool_call(name: str, rank: int, arguments: Mapping[str, Any]) -> Expr:
    """A call of a pool, with a tuple entry for each axis whatever short form was given.

    Args:
        name: the operator.
        rank: the number of spatial axes.
        arguments: the builder's arguments by name, data included.

    """
    given = dict(arguments)
    data = given.pop("data")
    for key in {"pool_size", "strides", "dilation"} & given.keys():
        given[key] = ints(given[key], rank, key)
    if "padding" in given:
        given["padding"] = pad_tuple(given["padding"], rank)
    if "output_size" in given:
        size = () if given["output_size"] is None else ints(given["output_size"])
        given["output_size"] = size * rank if len(size) == 1 else size
    for key in {"ceil_mode", "count_include_pad"} & given.keys():
        given[key] = bool(given[key])
    return call(name, [data], **given)


def _draw_tensor(rng: np.random.Generator, extents: Sequence[int]) -> tuple[tuple[Dim, ...], dict[str, object]]:
    """A shape with these spatial extents, and its layouts."""
    spatial = spatial_axes(len(extents))
    channels = int(rng.choice([1, 3, 4, 8]))
    blocks = [f"NC{spatial}{b}c" for b in (2, 4, 8) if channels % b == 0]
    choices = ["NC" + spatial, "NC" + spatial, "N" + spatial + "C", *blocks]
    layout = str(rng.choice(choices))
    out_layout = "" if rng.random() < 0.7 else str(rng.choice(choices))
    batch = 0 if rng.random() < 0.03 else int(rng.integers(1, 3))
    sizes: dict[str, Dim] = dict(zip(spatial, extents, strict=True), N=batch, C=channels)
    return Layout.parse(layout).pack_shape(sizes), {"layout": layout, "out_layout": out_layout}


def sliding_cases(rank: int, mean: bool) -> Callable[[np.random.Generator], Case]:
    """Cases of all corners of a pool with sliding windows."""

    def draw(rng: np.random.Generator) -> Case:
        window = [int(rng.integers(1, 5 if rank < 3 else 4)) for _ in range(rank)]
        dilation = [int(rng.integers(1, 4)) if rng.random() < 0.3 else 1 for _ in range(rank)]
        padding = [int(rng.integers(0, 4)) for _ in range(2 * rank)] if rng.random() < 0.6 else [0] * (2 * rank)
        least = [span(w, d) - sum(padding[k::rank]) for k, (w, d) in enumerate(zip(window, dilation, strict=True))]
        extents = [max(n, 1) + int(rng.choice([0, 1, 2, 5, 9 if rank < 3 else 3])) for n in least]
        attributes: dict[str, object] = {"pool_size": window, "dilation": dilation, "padding": padding}
        attributes["strides"] = [int(rng.integers(1, 5)) for _ in range(rank)]
        attributes["ceil_mode"] = bool(rng.random() < 0.4)
        if mean:
            attributes["count_include_pad"] = bool(rng.random() < 0.5)
        shape, layouts = _draw_tensor(rng, extents)
        return Case([shape], {**attributes, **layouts}, low=-9, high=9)

    return draw


def adaptive_cases(rank: int, single: bool = False) -> Callable[[np.random.Generator], Case]:
    """Cases of all corners of an adaptive pool; `single`: of a global one."""

    def draw(rng: np.random.Generator) -> Case:
        extents = [int(rng.choice([1, 2, 3, 4, 6, 7, 9, 12] if rank < 3 else [1, 2, 3, 4, 5])) for _ in range(rank)]
        shape, attributes = _draw_tensor(rng, extents)
        if not single and rng.random() < 0.9:
            size = [int(rng.integers(1, n + 2)) for n in extents]
            attributes["output_size"] = size[0] if rng.random() < 0.2 else size
        return Case([shape], attributes, low=-9, high=9)

    return draw
