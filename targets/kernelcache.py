"""Kernels as text, kept on disk: what was lowered, scheduled and printed once is not done again.

A kernel is looked up by the group that it computes, the implementation, the instruction set, the number of threads, and
a hash of the compiler's own sources, so a change to any rule, schedule or spelling makes all entries new ones. Groups
with operators or schedules from outside of this package are never kept: nothing tells when those change.

The entries lie in the cache that `toolchain.py` keeps compiled code in, under its limit; this saves the work before it.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from ..ir.expr import Call, Function
from ..ir.hashing import structural_hash
from ..ir.visitor import post_order
from .cpuinfo import Isa
from .implement import Chosen
from .lower import spec
from .objcache import ObjectCache
from .toolchain import cache_dir

PACKAGE = __name__.partition(".")[0]
SOURCES = ("ir", "ops", "fuse", "targets")


@frozen
class KernelText:
    """A printed kernel, called KERNEL.

    Attributes:
        text: the C function.
        definitions: the types and functions that it uses, by name, in order.
        thread_bytes, team_bytes: the scratch memory that it needs.
        overwrites: pairs (output, input) such that the output may take the memory of the input.
        calls: the launches of the kernel as plain data (see launched/code.py), where it is not one function.
        packed: positions of the constants that it reads packed.
    """

    text: str
    definitions: dict[str, str]
    thread_bytes: int
    team_bytes: int
    overwrites: tuple[tuple[int, int], ...] = ()
    calls: list[list[Any]] = field(factory=list)
    packed: tuple[int, ...] = ()


def cached(
    function: Function,
    chosen: Chosen,
    context: tuple[Isa, int, Collection[int]],
    make: Callable[[], KernelText],
) -> KernelText:
    """The kernel of a group: from the cache, or by `make`.

    Args:
        function: the group.
        chosen: the implementation that was chosen, and its config.
        context: the instruction set, the number of threads, and which arguments are constants.
        make: lowers and prints the kernel.
    """
    if not _ours(function, chosen):
        return make()
    cache, key = ObjectCache(cache_dir(), "kernel.json"), _key(function, chosen, context)
    if (data := cache.read(key)) is not None:
        with contextlib.suppress(ValueError, TypeError):
            found = KernelText(**json.loads(data))
            pairs = tuple((int(o), int(i)) for o, i in found.overwrites)
            return evolve(found, overwrites=pairs, packed=tuple(map(int, found.packed)))
    written = make()
    with contextlib.suppress(OSError):  # whoever stores the compiled kernels says that the cache cannot be written
        cache.put(key, json.dumps(asdict(written)).encode(), {}, {})
    return written


def _ours(function: Function, chosen: Chosen) -> bool:
    makers = [chosen.entry.schedule, *(spec(e).builder for e in post_order(function.body) if isinstance(e, Call))]
    return all(maker.__module__.partition(".")[0] == PACKAGE for maker in makers)


def _key(function: Function, chosen: Chosen, context: tuple[Isa, int, Collection[int]]) -> str:
    isa, threads, constants = context
    group = [
        str(function),
        structural_hash(function),
        sorted(constants),
    ]  # the text may round numbers, the hash does not
    made = [chosen.entry.name, chosen.entry.schedule.__qualname__, dict(chosen.config), chosen.group]
    parts: list[Any] = [fingerprint(), group, made, str(isa), threads]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """A hash of the sources that decide what a kernel looks like."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
