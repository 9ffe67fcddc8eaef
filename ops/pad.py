"""Padding: a tensor with elements added around it, constant or taken from inside."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import TypeInferenceError
from ..ir.expr import Constant, Expr, ExprLike, as_expr, call
from ..ir.index import Dim, Index
from ..ir.op import Attrs
from ..ir.scalar import Value, apply, cast, clamped
from ..ir.types import TensorType, Type
from .lowering import Context, Map
from .spec import EVERY, Array, Case, Fusion, operator, tensor
from .window import shown

PadWidth: TypeAlias = Sequence[Sequence[int]]
"""For each axis: how many elements before it, and how many after it."""

_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "SYMMETRIC": "symmetric", "REFLECT": "reflect"}
"""NumPy's names of the modes of both operators."""


def _widths(pad_width: Any) -> tuple[tuple[int, int], ...]:
    """`pad_width` as pairs of ints.

    Raises:
        TypeInferenceError: it is not a sequence of pairs.

    """
    if isinstance(pad_width, Constant):
        pad_width = pad_width.data
    try:
        return tuple((int(before), int(after)) for before, after in pad_width)
    except (TypeError, ValueError):
        raise TypeInferenceError(f"pad_width must have a (before, after) pair for each axis, got {pad_width}") from None


def _mode(attributes: Attrs) -> str:
    given = attributes.get("pad_mode", attributes.get("mode"))
    known = ("constant", "edge", "reflect") if "pad_mode" in attributes else ("SYMMETRIC", "REFLECT")
    if given not in known:
        raise TypeInferenceError(f"unknown padding mode {given!r}: expected one of {', '.join(known)}")
    return _MODES[given]


def _infer_padded(attributes: Attrs, data: Type) -> TensorType:
    x, mode = tensor(data, "data"), _mode(attributes)
    if len(attributes.pad_width) != x.ndim:
        raise TypeInferenceError(f"pad_width has {len(attributes.pad_width)} pairs, but data {x} has {x.ndim} axes")
    shape: list[Dim] = []
    for axis, (size, (before, after)) in enumerate(zip(x.shape, attributes.pad_width, strict=True)):
        if before < 0 or after < 0:
            raise TypeInferenceError(f"pad_width must not be negative, got {(before, after)} for axis {axis}")
        _check_source(mode, axis, size, max(before, after))
        shape.append(size + before + after)
    return TensorType(shape, x.dtype)


def _check_source(mode: str, axis: int, size: Dim, width: int) -> None:
    """Raise TypeInferenceError if an axis is too short to give so many elements to its padding."""
    if not isinstance(size, int) or not width:
        return
    needed = {"constant": 0, "edge": 1, "reflect": width + 1, "symmetric": width}[mode]
    if size < needed:
        raise TypeInferenceError(
            f"{mode} padding by {width} needs at least {needed} elements on axis {axis}, which has {size}"
        )


def _infer_pad(attributes: Attrs, data: Type, pad_value: Type) -> Type:
    result, value = _infer_padded(attributes, data), tensor(pad_value, "pad_value")
    if value.shape:
        raise TypeInferenceError(f"pad_value must be a scalar, got shape {shown(value.shape)}")
    return result


def _complete_pad(attributes: Attrs, data: Type | None, pad_value: Type | None) -> list[Type | None]:
    if pad_value is None and data is not None:
        pad_value = TensorType((), tensor(data, "data").dtype)
    return [data, pad_value]


def _source(mode: str, place: Index, size: int) -> Index:
    """Which element of an axis stands at `place`, counted from the start of the axis (negative: before it)."""
    if mode == "edge" or (place.bounds[0] >= 0 and place.bounds[1] < size):
        return clamped(place, size)
    at = cast(place, "int64")
    if mode == "reflect":
        folded = apply("abs", at)
        return clamped(apply("min", folded, 2 * (size - 1) - folded), size)
    folded = apply("max", at, -1 - at)
    return clamped(apply("min", folded, 2 * size - 1 - folded), size)


def _element(c: Context, *index: Index) -> Value:
    data, mode = c.args[0], _mode(c.attrs)
    places = [i - before for i, (before, _) in zip(index, c.attrs.pad_width, strict=True)]
    if mode == "constant":
        return data.padded(*places, fill=cast(c.args[1](), c.dtype))
    return data(*(_source(mode, place, n) for place, n in zip(places, data.shape, strict=True)))


def _np_pad(attributes: Attrs, data: Array, value: Array | None = None) -> Array:
    mode: Any = _mode(attributes)
    if not data.ndim:
        return data
    if mode != "constant":
        return np.pad(data, attributes.pad_width, mode)
    return np.pad(data, attributes.pad_width, mode, constant_values=np.asarray(value).astype(data.dtype))


def _draw(rng: np.random.Generator, mode: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 7, rng.integers(0, 5)))
    widths = []
    for n in shape:
        most = {"constant": 4, "edge": 4 if n else 0, "reflect": max(n - 1, 0), "symmetric": n}[mode]
        widths.append((int(rng.integers(0, most + 1)), int(rng.integers(0, most + 1))))
    return shape, widths


def _pad_case(rng: np.random.Generator) -> Case:
    mode = str(rng.choice(["constant", "constant", "edge", "reflect"]))
    shape, widths = _draw(rng, mode)
    attributes: dict[str, Any] = {"pad_width": widths}
    if mode != "constant":
        attributes["pad_mode"] = mode
    return Case([shape, ()], attributes)


def _mirror_case(rng: np.random.Generator) -> Case:
    mode = str(rng.choice(["SYMMETRIC", "REFLECT"]))
    shape, widths = _draw(rng, _MODES[mode])
    return Case([shape], {"pad_width": widths, "mode": mode})


@operator(
    "nn.pad",
    Fusion.INJECTIVE,
    _infer_pad,
    _np_pad,
    Map(_element),
    cases=_pad_case,
    dtypes=EVERY,
    complete=_complete_pad,
)
def pad(data: ExprLike, pad_width: PadWidth, pad_value: ExprLike = 0, pad_mode: str = "constant") -> Expr:
    """Adds elements before and after each axis.

    Args:
        data: any tensor.
        pad_width: for each axis a pair (before, after) of numbers of elements.
        pad_value: the new elements, a number or a scalar expression, for pad_mode "constant".
        pad_mode: "constant"; "edge": copies of the outermost element; "reflect": the elements next to the outermost
            one, mirrored at it.

    """
    x = as_expr(data)
    return call("nn.pad", [x, as_expr(pad_value, x)], pad_width=_widths(pad_width), pad_mode=pad_mode)


@operator(
    "nn.mirror_pad",
    Fusion.INJECTIVE,
    lambda attributes, data: _infer_padded(attributes, data),
    _np_pad,
    Map(_element),
    cases=_mirror_case,
    dtypes=EVERY,
)
def mirror_pad(data: ExprLike, pad_width: PadWidth, mode: str = "SYMMETRIC") -> Expr:
    """Adds mirrored elements before and after each axis.

    Args:
        data: any tensor.
        pad_width: for each axis a pair (before, after) of numbers of elements.
        mode: "SYMMETRIC" repeats the outermost element, "REFLECT" does not.

    """
    return call("nn.mirror_pad", [data], pad_width=_widths(pad_width), mode=mode)
