"""Candidate spaces: the numbers that a schedule can be written with, and which of them are tried.

A config gives every knob of a schedule a number. A schedule declares its space as configs, the best guess
first: that one is used where nothing has been measured.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import TypeAlias

Config: TypeAlias = Mapping[str, int]
"""One way to write a kernel: a number for each knob of its schedule."""

GROUP = "group"
"""The one knob that no schedule has: work-items in a work-group, where kernels are launches of a device."""

FIXED: tuple[Config, ...] = ({},)
"""The space of a schedule without knobs."""


def space(
    default: Config, knobs: Mapping[str, Iterable[int]], fits: Callable[[Config], bool] = lambda config: True
) -> Iterator[Config]:
    """The default, and every other combination of knobs that fits.

    Args:
        default: a number for each knob; knobs that `knobs` does not name keep it.
        knobs: for each name the numbers to try.
        fits: whether a combination can be written and is worth trying.
    """
    yield default
    for values in product(*knobs.values()):
        config = {**default, **dict(zip(knobs, values, strict=True))}
        if config != default and fits(config):
            yield config


def without_group(config: Config) -> tuple[Config, int]:
    """The knobs of the schedule, and the work-items in a work-group (0: as the device likes it)."""
    return {knob: value for knob, value in config.items() if knob != GROUP}, config.get(GROUP, 0)


def register_tiles(registers: int, blocks: Iterable[int] = (1, 2, 3, 4, 6)) -> list[tuple[int, int]]:
    """Tiles (vectors, points) of accumulators that fit into the registers beside one step's vectors and a broadcast."""
    return [(n, (registers - 1 - n) // n) for n in blocks if registers - 1 - n >= n]
