"""By what a library's region is remembered: what it computes, whatever layout it was given later."""

import hashlib
import json

from ..ir.expr import Call, Function
from ..ir.hashing import structural_hash
from ..ir.types import tensors_of
from ..ir.visitor import post_order

ORIGIN = "Origin"
"""The attribute that keeps the identity of a region whose layout was changed."""


def identity(function: Function) -> tuple[str, str]:
    """A region for people (operators and types), and as a digest; both as the region was when it was cut out."""
    if ORIGIN in function.attrs:
        work, _, digest = str(function.attrs[ORIGIN]).rpartition(" #")
        return work, digest
    types = [str(t) for param in function.params for t in tensors_of(param.checked_type)]
    operators = "+".join(str(e.op) for e in post_order(function.body) if isinstance(e, Call))
    body = Function(function.params, function.body)
    text = json.dumps([str(body), structural_hash(body)])
    return f"{operators} {' '.join(types)}", hashlib.sha256(text.encode()).hexdigest()[:20]


def with_origin(function: Function, origin: Function) -> Function:
    """`function`, which is `origin` in another layout, with the identity of that."""
    return function.with_attr(ORIGIN, " #".join(identity(origin)))
