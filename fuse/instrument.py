"""Objects that watch passes: timing, printing, and whatever a user writes by deriving from `PassInstrument`."""

import time
from typing import Any

from attrs import define, field, frozen

from ..ir.module import IRModule


@frozen
class PassInfo:
    """What an instrument learns of a pass: its name and the level at which it is enabled."""

    name: str
    opt_level: int = 0


class PassInstrument:
    """Watches the passes of a `PassContext`. Override what is of interest; the base class does nothing."""

    def enter_pass_ctx(self) -> None:
        """The context is entered."""

    def exit_pass_ctx(self) -> None:
        """The context is left."""

    def should_run(self, mod: IRModule, info: PassInfo) -> bool:
        """Whether the pass may run; a pass in `required_pass` runs without being asked for."""
        return True

    def run_before_pass(self, mod: IRModule, info: PassInfo) -> None:
        """A pass is about to run on `mod`."""

    def run_after_pass(self, mod: IRModule, info: PassInfo) -> None:
        """A pass made `mod`."""


def pass_instrument(cls: type) -> Any:
    """Class decorator: make an instrument of a class that has some of the methods of `PassInstrument`."""
    return type(cls.__name__, (cls, PassInstrument), {"__doc__": cls.__doc__, "__module__": cls.__module__})


@define
class Timing:
    """One run of a pass: its name, how deep it was nested, and how long it took (None while it runs)."""

    name: str
    depth: int
    seconds: float | None = None


@define(eq=False)
class PassTimingInstrument(PassInstrument):
    """Measures how long each pass takes, nested ones included; `render()` gives a table."""

    timings: list[Timing] = field(factory=list, init=False)
    _open: list[tuple[Timing, float]] = field(factory=list, init=False)

    def enter_pass_ctx(self) -> None:
        """Start a new table."""
        self.timings.clear()
        self._open.clear()

    def run_before_pass(self, mod: IRModule, info: PassInfo) -> None:
        """Start the clock."""
        timing = Timing(info.name, len(self._open))
        self.timings.append(timing)
        self._open.append((timing, time.perf_counter()))

    def run_after_pass(self, mod: IRModule, info: PassInfo) -> None:
        """Stop the clock."""
        timing, start = self._open.pop()
        timing.seconds = time.perf_counter() - start

    def render(self) -> str:
        """One line for each pass that ran, in order and indented by nesting: name, milliseconds, share of the total."""
        total = sum(t.seconds or 0.0 for t in self.timings if t.depth == 0) or 1.0
        lines = []
        for timing in self.timings:
            took = "unfinished" if timing.seconds is None else f"{timing.seconds * 1e3:9.3f} ms"
            share = f"{(timing.seconds or 0.0) / total:6.1%}"
            lines.append(f"{'  ' * timing.depth + timing.name:<40} {took:>12} {share}")
        return "\n".join(lines)


class PrintBeforeAll(PassInstrument):
    """Print the module before each pass."""

    def run_before_pass(self, mod: IRModule, info: PassInfo) -> None:
        """Print."""
        print(f"# before {info.name}\n{mod}")


class PrintAfterAll(PassInstrument):
    """Print the module after each pass."""

    def run_after_pass(self, mod: IRModule, info: PassInfo) -> None:
        """Print."""
        print(f"# after {info.name}\n{mod}")
