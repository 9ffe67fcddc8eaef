"""Chains: an operator, and what a library may do to its result before storing it, declared as data.

    conv2d . multiply? . add? . add? . relu|clip?

is written

    Chain("nn.conv2d", [[MULTIPLY], [ADD, BIAS], [ADD], [RELU, CLIP]])

From it the dataflow pattern is made that partitioning looks for, and with it a region is read again when the call to
the library is prepared: `links(region)` names the anchor and each step behind it. The steps that libraries know (oneDNN
calls them post-ops, cuDNN pointwise operations, cuBLAS epilogues) are in `postops`.
"""

from collections.abc import Callable, Iterable
from functools import cached_property

from attrs import field, frozen

from ..ir.errors import FusewireError
from ..ir.expr import Call, Expr, Function
from .dataflow_pattern import DFPattern, is_op, wildcard
from .graph import is_op_call, walk
from .matcher import Match, matches_at, users_of

Make = Callable[[DFPattern, DFPattern], DFPattern]


@frozen(eq=False)
class PostOp:
    """One kind of step of a chain.

    Attributes:
        name: what it is called in a library's tables, e.g. "add" or "gelu".
        make: `(value, operand) -> pattern` of the step applied to a value; a step without an operand ignores it.

    """

    name: str
    make: Make


def _slots(slots: Iterable[Iterable[PostOp]]) -> tuple[tuple[PostOp, ...], ...]:
    return tuple(tuple(slot) for slot in slots)


@frozen(eq=False)
class _Option:
    """A step at its place in the pattern of a chain."""

    post_op: PostOp
    value: DFPattern
    operand: DFPattern
    whole: DFPattern


@frozen(eq=False)
class Chain:
    """An anchor, and the steps that may follow it.

    Attributes:
        anchor: the name of an operator, or the pattern of what the library computes. Since a region is read again
            where constants have become parameters, the pattern must not ask for `is_constant`; a check may.
        slots: in order, the kinds of steps of which one may stand at each place; every place may stay empty.

    """

    anchor: str | DFPattern
    slots: tuple[tuple[PostOp, ...], ...] = field(default=(), converter=_slots)

    @cached_property
    def bare(self) -> DFPattern:
        """The pattern of the anchor alone."""
        return is_op(self.anchor)(None) if isinstance(self.anchor, str) else self.anchor

    @property
    def pattern(self) -> DFPattern:
        """The pattern of the anchor with any of the steps."""
        return self._built[0]

    @cached_property
    def _built(self) -> tuple[DFPattern, tuple[_Option, ...]]:
        value, options = self.bare, list[_Option]()
        for slot in self.slots:
            choice = value
            for post_op in reversed(slot):
                operand = wildcard()
                whole = post_op.make(value, operand)
                options.append(_Option(post_op, value, operand, whole))
                choice = whole | choice
            value = choice
        return value, tuple(options)

    def links(self, region: Match | Function) -> "Links":
        """What a match of this chain, or the function that was made of one, consists of.

        Raises:
            FusewireError: the function is not a region of this chain.

        """
        if isinstance(region, Match):
            return self._read(region)
        calls = sum(is_op_call(node) for node in walk(region.body))
        for match in matches_at(self.pattern, region.body, users_of(region.body)):
            if len(match.calls) == calls:
                return self._read(match)
        raise FusewireError(f"expected a region of the chain that starts with {self.anchor}, got\n{region}")

    def why_tangled(self, match: Match) -> str | None:
        """Why a match is no chain, though the pattern fits: an operand is computed inside, as in `y + relu(y)`."""
        inside = {id(node) for node in match.nodes}
        for link in self._read(match).steps:
            if link.operand is not None and id(link.operand) in inside:
                return f"the operand of {link.post_op.name} is a value that the region itself computes"
        return None

    def _read(self, match: Match) -> "Links":
        steps = tuple(
            Link(option.post_op, match[option.value], match.get(option.operand), match[option.whole])
            for option in self._built[1]
            if option.whole in match.bindings
        )
        return Links(match[self.bare], steps)


@frozen(eq=False)
class Link:
    """A step of a region: `value` goes in, with `operand` (None where the step takes none), and `result` comes out."""

    post_op: PostOp
    value: Expr
    operand: Expr | None
    result: Expr

    @property
    def call(self) -> Call:
        """The step as a call, for its attributes.

        Raises:
            TypeError: its last node is no call.

        """
        if not isinstance(self.result, Call):
            raise TypeError(f"expected a call, got {self.result}")
        return self.result


@frozen(eq=False)
class Links:
    """A region: what the pattern of the anchor matched, and the steps behind it, first to last."""

    anchor: Expr
    steps: tuple[Link, ...] = ()

    @property
    def result(self) -> Expr:
        """The value of the region."""
        return self.steps[-1].result if self.steps else self.anchor
