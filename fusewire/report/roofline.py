"""What the machine can do at most, and how near the groups of a target come to it."""

from collections.abc import Mapping

from ..targets.compiled import CompiledModule
from ..targets.peaks import known_peaks, second_look
from ..targets.timing import Profile, profiled
from ..targets.work import work_of_step
from .data import Peaks, Roof


def compared(library: CompiledModule, times: Mapping[str, float]) -> Profile:
    """The steps that ran, with their milliseconds by name, compared with the peaks of this machine.

    The first comparison on a machine measures its peaks (about a second).
    """
    program = library.program
    steps = [s for s in program.leaf_steps() if times.get(s.name)]
    known = [(*library.runnable.label(s), times[s.name] / 1e3, work_of_step(s, program)) for s in steps]
    if library.target.kind != "cpu":  # the peaks of other devices are not known
        return profiled(known, None)
    machine = library.code.isa, library.threads
    found = profiled(known, known_peaks(*machine))
    return found if found.plausible else profiled(known, second_look(*machine))


def roofs(profile: Profile) -> dict[str, Roof]:
    """For each step its place under the roofline, by name; none where there are no peaks."""
    return {s.name: Roof(s.flops, s.nbytes, s.roof, s.bound, s.effective) for s in profile.steps if s.bound}


def peaks(profile: Profile) -> Peaks | None:
    """The machine's peaks for float32; None where they were not measured."""
    known = profile.peaks
    if known is None:
        return None
    return Peaks(known.flops["float32"], known.copy[-1][1], known.copy[0][1], known.summary())
