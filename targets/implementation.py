"""One way to make a kernel for an operator; the tables of them are implement.py and schedules/gpu/table.py."""

from collections.abc import Callable, Iterable

from attrs import frozen

from ..ir.loops import Kernel
from .lower import Problem
from .schedules.space import FIXED, Config
from .schedules.tiles import Packed


@frozen(eq=False)
class Implementation:
    """One way to make a kernel for an operator.

    Attributes:
        name: what logs and `explain` call it, e.g. "conv2d_nchw.cpu".
        ops: the operators it is for; None: any.
        priority: the highest among those that fit is taken.
        check: why it does not fit a group, or None if it does.
        schedule: writes the loops, with the numbers of a config.
        predict: what it is expected to cost, in vector operations; decides among those of one priority.
        configs: the candidate space, the best guess first.
        pack: how constants are to be packed, as `schedule` says it, without writing the loops; None: ask `schedule`.
        caution: what tuning says when it decides for one that no build takes unasked.
    """

    name: str
    ops: tuple[str, ...] | None
    priority: int
    check: Callable[[Problem], str | None]
    schedule: Callable[[Problem, Config], tuple[Kernel, Packed]]
    predict: Callable[[Problem, Config], float] | None = None
    configs: Callable[[Problem], Iterable[Config]] = lambda problem: FIXED
    pack: Callable[[Problem, Config], Packed] | None = None
    caution: str = ""
