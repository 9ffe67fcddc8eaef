"""Whether a stored program hangs together: what generated code takes for granted, and would crash on.

Numbers of slots are in range; every slot is written once, before it is read; tensors that are alive at the same time
do not overlap in the arena, and lie in it; the code is that of the steps.
"""

import heapq
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence

from ...ir.errors import ArtifactError
from ...ir.index import INF
from ...ir.types import TensorType, tensors_of
from ..cpu import Compiled, CpuCode, fingerprint, segments_of
from ..launched.code import LaunchCode, LaunchStep
from ..launched.code import fingerprint as launch_fingerprint
from ..memory import ALIGN, Arena, blocks, lifetimes
from ..program import BranchStep, CopyStep, KernelStep, LibraryStep, Program, Step
from .convert import shown
from .manifest import SavedCode, Stored

RUNTIME_MARK = b"fw_team_create"
"""The name of a function that the thread team's object has."""


def check_stored(stored: Stored) -> None:
    """Check a module as it came out of a file, its code's agreement with it excepted.

    Raises:
        ArtifactError: it is not sound; the message says where.

    """
    program = stored.program
    _check(stored.threads >= 1, f"it runs on {stored.threads} threads")
    _check_tensors(program)
    _check_steps(program)
    _check_arena(program, stored.arena, LaunchCode.ALIGN if isinstance(stored.code, LaunchCode) else ALIGN)
    _check_code(program, stored.code)
    names = [step.name for step in program.leaf_steps()]
    _check(len(set(names)) == len(names), "two steps have the same name")
    _check([choice.step for choice in stored.choices] == names, "its choices are not those of its steps")


def agrees(program: Program, code: SavedCode) -> bool:
    """Whether the sources, and the objects that came with them, were made for just this program."""
    if isinstance(code, LaunchCode):
        return code.mark == launch_fingerprint(program, code)
    mark = fingerprint(program, code.steps.values(), code.packed)
    objects = code.objects
    compiled = objects is None or (mark.encode() in objects.kernels.data and RUNTIME_MARK in objects.runtime.data)
    return not code.steps or (compiled and any(mark in text for _, text in code.files))


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ArtifactError(otherwise)


def _check_tensors(program: Program) -> None:
    """Slots, inputs, constants and outputs."""
    for number, type_ in enumerate(program.slots):
        _check(type_.nbytes < INF, f"slot {number} is {type_}, which is larger than any memory")
    given = [slot for slots in program.inputs.values() for slot in slots]
    fixed = [*given, *program.constants]
    _check_slots(program, [*fixed, *program.outputs], "the program")
    _check(len(set(fixed)) == len(fixed), "a slot is used for two inputs or constants")
    _check_views(program, fixed)
    roots = [program.root(slot) for slot in program.outputs]
    _check(len({*fixed, *roots}) == len(fixed) + len(roots), "an output is not a slot of its own")
    for slot, array in program.constants.items():
        held, wanted = TensorType(array.shape, array.dtype.name), program.slots[slot]
        _check(held == wanted, f"the constant in slot {slot} is {held}, expected {wanted}")
    _check(program.types.keys() == program.inputs.keys(), "its inputs and their types have different names")
    for name, declared in program.types.items():
        fitting = tensors_of(declared) == [program.slots[slot] for slot in program.inputs[name]]
        _check(fitting, f"input {shown(name)} is {declared}, but its slots are of other types")


def _check_views(program: Program, fixed: Sequence[int]) -> None:
    """Views show slots that are none, as many bytes of the same kind."""
    _check_slots(program, [*program.views, *program.views.values()], "a view")
    _check(not program.views.keys() & set(fixed), "a view is an input or a constant")
    for view, shown_slot in program.views.items():
        _check(shown_slot not in program.views, f"slot {view} is a view of a view")
        own, other = program.slots[view], program.slots[shown_slot]
        _check(own.nbytes == other.nbytes and own.dtype == other.dtype, f"a view shows {other} as {own}")


def _check_slots(program: Program, slots: Iterable[int], where: str) -> None:
    for slot in slots:
        _check(0 <= slot < len(program.slots), f"{where} uses slot {slot}; there are {len(program.slots)}")


def _check_steps(program: Program) -> None:
    have = {slot for slots in program.inputs.values() for slot in slots} | program.constants.keys()
    _flow(program, program.steps, have)
    missing = {program.root(slot) for slot in program.outputs} - have
    _check(not missing, f"no step writes the output in slot {min(missing, default=0)}")


def _flow(program: Program, steps: Sequence[Step], have: set[int]) -> set[int]:
    """Follow steps, given the slots that are filled before; adds those filled afterwards, and returns what it added."""
    added: set[int] = set()
    for step in steps:
        match step:
            case BranchStep(cond=cond, then=then, orelse=orelse):
                _read(program, [cond], have, "a branch")
                _check(program.slots[cond] == TensorType((), "bool"), f"a branch goes by {program.slots[cond]}")
                first = _flow(program, then, have)
                have -= first
                second = _flow(program, orelse, have)
                have -= second
                written = first & second
            case CopyStep(source=source, target=target):
                _read(program, [source], have, "a copy")
                _write(program, [target], have, "a copy")
                types = program.slots[source], program.slots[target]
                _check(types[0] == types[1], f"a copy of {types[0]} goes to {types[1]}")
                written = {target}
            case (
                KernelStep(name=name, inputs=inputs, outputs=outputs)
                | LibraryStep(name=name, inputs=inputs, outputs=outputs)
            ):
                _read(program, inputs, have, f"step {name!r}")
                _write(program, outputs, have, f"step {name!r}")
                written = set(outputs)
        have |= written
        added |= written
    return added


def _read(program: Program, slots: Sequence[int], have: set[int], who: str) -> None:
    _check_slots(program, slots, who)
    for slot in slots:
        _check(program.root(slot) in have, f"{who} reads slot {slot} before anything is written there")


def _write(program: Program, slots: Sequence[int], have: set[int], who: str) -> None:
    _check_slots(program, slots, who)
    for slot in slots:
        _check(slot not in program.views, f"{who} writes slot {slot}, which is a view")
        _check(slot not in have, f"{who} writes slot {slot}, which is written already")
    _check(len(set(slots)) == len(slots), f"{who} writes a slot twice")


def _check_arena(program: Program, arena: Arena, align: int) -> None:
    """Intermediate tensors have places in the arena that do not overlap while they are alive."""
    alive = lifetimes(program)
    _check(arena.offsets.keys() == alive.keys(), "the arena does not hold just the intermediate tensors")
    _check_shared(program, arena, alive)
    found, leader = blocks(program, arena.shared)
    for slot, at in arena.offsets.items():
        _check(at >= 0 and at % align == 0, f"slot {slot} is at byte {at} of the arena")
        end = at + max(program.slots[slot].nbytes, 1)
        _check(end <= arena.size, f"slot {slot} ends at byte {end} of an arena of {arena.size}")
        _check(at == arena.offsets[leader[slot]], f"slot {slot} is not where the slot is that it takes over")
    ends = {slot: arena.offsets[slot] + max(program.slots[slot].nbytes, 1) for slot in found}
    _check(0 <= arena.size < max(ends.values(), default=1 - align) + align, f"the arena has {arena.size} bytes")
    busy: list[tuple[int, int]] = []  # slots alive by offset
    leaving: list[tuple[int, int]] = []  # and by their last step
    for slot in sorted(found, key=lambda slot: (found[slot].first, found[slot].last)):
        first, last = found[slot].first, found[slot].last
        while leaving and leaving[0][0] < first:
            _, gone = heapq.heappop(leaving)
            del busy[bisect(busy, (arena.offsets[gone], gone)) - 1]
        entry = arena.offsets[slot], slot
        place = bisect(busy, entry)
        for _, other in busy[max(place - 1, 0) : place + 1]:
            apart = ends[other] <= entry[0] or ends[slot] <= arena.offsets[other]
            _check(apart, f"slots {min(slot, other)} and {max(slot, other)} overlap in the arena")
        busy.insert(place, entry)
        heapq.heappush(leaving, (last, slot))


def _check_shared(program: Program, arena: Arena, alive: Mapping[int, tuple[int, int]]) -> None:
    """A tensor takes over the memory of one that its own step reads last."""
    _check(len(set(arena.shared.values())) == len(arena.shared), "two slots take over the same memory")
    for slot, other in arena.shared.items():
        _check({slot, other} <= alive.keys(), f"slot {slot} takes over memory that is not in the arena")
        step = program.steps[alive[slot][0]]
        written = isinstance(step, KernelStep) and slot in step.outputs and slot != other
        dies = alive[other][1] == alive[slot][0] and alive[other][0] < alive[slot][0]
        same = program.slots[slot].nbytes == program.slots[other].nbytes
        _check(written and dies and same, f"slot {slot} cannot take over the memory of slot {other}")


def _check_code(program: Program, code: SavedCode) -> None:
    kernels = [step for step in program.leaf_steps() if isinstance(step, KernelStep)]
    _check([id(step) for step in kernels] == [*code.steps], "the kernels are not those of the steps")
    first = len(program.slots)
    _check([*code.packed] == [*range(first, first + len(code.packed))], "packed constants have wrong numbers")
    made: Sequence[Compiled | LaunchStep] = [*code.steps.values()]
    for step, compiled in zip(kernels, made, strict=True):
        same = len(compiled.inputs) == len(step.inputs)
        for own, slot in zip(compiled.inputs, step.inputs, strict=False):
            same &= own == slot or (own in code.packed and slot in program.constants)
        _check(same, f"step {step.name!r} and its kernel have different inputs")
    if isinstance(code, CpuCode):
        _check_cpu(program, code)


def _check_cpu(program: Program, code: CpuCode) -> None:
    runs = segments_of(program.steps)
    _check([[id(s) for s in run] for run in runs] == [[id(s) for s in run] for run in code.segments], "wrong segments")
    for size in ("thread_bytes", "team_bytes"):
        wanted = [getattr(compiled, size) for compiled in code.steps.values()]
        _check(min(wanted, default=0) >= 0 and getattr(code, size) == max(wanted, default=0), f"wrong {size}")
