"""What an external library tells the compiler: which regions of a graph it can take, and how.

    CONV = Chain("nn.conv2d", [[MULTIPLY], [ADD, BIAS], [RELU, CLIP]])
    RULES = [Rule("onednn.conv2d", CONV, check=check_conv, implement=make_conv)]
    ONEDNN = Library("onednn", targets=("cpu",), rules=RULES, probe=load)

Libraries live in `contrib`; nothing here knows any of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from attrs import field, frozen
from attrs.validators import in_

from ..ir.expr import Call, Function
from .chain import Chain
from .dataflow_pattern import DFPattern, Match

HOST, DEVICE, ADDRESS = "host", "device", "address"
"""What a rule's executable works on: NumPy's arrays, arrays of the device, or addresses in its memory (cuda, rocm)."""


def accept(match: Match) -> str | None:
    """The check of a rule that takes whatever its pattern matches."""
    return None


@frozen(eq=False)
class Rule:
    """One kind of region that a library can take.

    Attributes:
        name: library and operation, e.g. "onednn.conv2d"; the `Composite` attribute of the region's function.
        pattern: what the region looks like: a chain, of which the target may forbid all but the anchor
            (`-postops=0`), or any pattern.
        check: given a match, None if the library can do it, else the reason why not, for the user to read.
        implement: makes the executable from a `Region`; called when a module is made, so the library is there.
        priority: shown beside the generated implementations' (10 for most, 20 for those that are
            made for GPUs, where there is one), and decides between rules whose matches at one place are equally long;
            the higher wins.
        blocked: given the region written for channels in blocks (NCHW16c), None if the library works on them without
            copies, else why not; absent if it never does.
        light: whether the region is no more than what generated code fuses with its neighbours. Such a rule gets
            what all others have left, and only where there is nothing to be fused with.
        memory: what the executable gets: `HOST`, arrays (copied there and back where the target is a device), or
            `DEVICE`, memory of the device, where it puts its work into `Region.queue` and does not wait; on cuda and
            rocm also `ADDRESS`, the same as plain numbers.

    """

    name: str
    pattern: DFPattern | Chain
    check: Callable[[Match], str | None] = accept
    implement: Callable[["Region"], "Executable"] = field(kw_only=True)
    priority: int = field(default=20, kw_only=True)
    blocked: Callable[[Function], str | None] | None = field(default=None, kw_only=True)
    light: bool = field(default=False, kw_only=True)
    memory: str = field(default=HOST, kw_only=True, validator=in_((HOST, DEVICE, ADDRESS)))

    def sought(self, post_ops: bool = True) -> DFPattern:
        """The pattern to look for; without `post_ops` only the anchor of a chain."""
        if isinstance(self.pattern, Chain):
            return self.pattern.pattern if post_ops else self.pattern.bare
        return self.pattern

    def implementation(self, kind: str) -> str:
        """The name in logs and explanations: "conv2d_onednn.cpu" for the rule "onednn.conv2d"."""
        library, _, operation = self.name.partition(".")
        return f"{operation}_{library}.{kind}"


def _rules(items: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(items)


@frozen(eq=False)
class Library:
    """An external library.

    Attributes:
        name: how `-libs=` calls it.
        targets: the kinds of targets that it works on.
        rules: what it can take.
        probe: None if the library can be loaded here, else why not, with the command that installs it.
        precisions: what it does with `-precision=`, beside float32: it looks at `Region.precision`.

    """

    name: str
    targets: tuple[str, ...]
    rules: tuple[Rule, ...] = field(converter=_rules)
    probe: Callable[[], str | None]
    precisions: tuple[str, ...] = ()

    def rule(self, name: str) -> Rule | None:
        """The rule of this name (the `Composite` attribute of a function)."""
        return next((rule for rule in self.rules if rule.name == name), None)


@frozen(eq=False)
class Region:
    """A region that a library took, as its rule's `implement` gets it when a module is made on a device.

    Attributes:
        function: the region: parameters, and a body of operator calls.
        constants: the contents of parameters that never change, by position.
        threads: how many threads the library may use.
        queue: on a device, what its work goes through, one piece after the other: pyopencl's CommandQueue; on cuda and
            rocm a `LibraryQueue`.
        precision: the lowest precision in which the factors of float32 products may be (`-precision=`).

    """

    function: Function
    constants: Mapping[int, npt.NDArray[Any]]
    threads: int
    queue: Any = None
    precision: str = "float32"

    @property
    def call(self) -> Call:
        """The region's only operator call.

        Raises:
            TypeError: the body is something else; the rule's pattern does not fit its `implement`.

        """
        if not isinstance(self.function.body, Call):
            raise TypeError(f"expected one operator call, got {self.function.body}")
        return self.function.body


Executable = Callable[[Sequence[Any], Sequence[Any]], None]
"""What `implement` makes: called with the inputs and outputs, it fills the outputs.

They are C-contiguous arrays of NumPy; for a rule whose `memory` is `DEVICE` the device's own: on opencl pyopencl's
Buffers, on cuda CuPy's arrays. Each holds one tensor in row order, whose shape is that of the region's types. For
`ADDRESS` they are numbers.
"""
