"""A difference as a script and an archive of arrays, for whoever is to find its cause."""

from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..commands.differences import Difference, difference
from ..ir.errors import FusewireError
from ..ir.expr import Function
from ..ir.infer import infer_type
from ..ir.parser import parse_expr
from ..ir.structural import structural_equal
from ..ir.types import TensorType, numpy_dtype, tensors_of
from ..targets.artifact.write import fusewire_version
from ..targets.build import threads_for
from ..targets.cpuinfo import isa_for
from ..targets.libraries import find_library
from ..targets.schedules.space import Config
from ..targets.target import Target
from .alone import How, run_alone

if TYPE_CHECKING:
    from .result import Mismatch

Array = npt.NDArray[Any]

SCRIPT = Template('''"""A difference that `fusewire bisect` found. Run it: python reproduce.py

$about

Exit status: 1 where the difference is there, 0 where it is gone. It needs fusewire $version or later$needs.
"""

import sys
from pathlib import Path

import numpy as np

import fusewire as fw

GROUP = """
$group
"""

with np.load(Path(__file__).with_name("tensors.npz")) as archive:
    tensors = dict(archive)

differences = fw.testing.reproduce(
    GROUP,
    tensors,
    target=$target,
    implementation=$implementation,
    config=$config,
    library=$library,
    constants=$constants,
    rtol=$rtol,
    atol=$atol,
)
for k, d in enumerate(differences):
    verdict = "agrees" if d.within else f"{d.beyond} of {d.size} elements differ"
    print(f"result {k}: {verdict}; max abs {d.max_abs:.3g}, max rel {d.max_rel:.3g}")
sys.exit(0 if all(d.within for d in differences) else 1)
''')


def write(mismatch: "Mismatch", folder: Path) -> Path:
    """Write the reproducer of a mismatch; returns the script.

    Raises:
        FusewireError: the files cannot be written.
    """
    function = mismatch.function
    group = str(Function(function.params, function.body))
    if not structural_equal(_read(group), Function(function.params, function.body)):
        raise FusewireError(f"the group does not survive being written as text:\n{group}")
    how, limits = mismatch.how, mismatch.limits
    names = [param.name_hint for param in function.params]
    tensors = dict(zip(names, mismatch.arrays, strict=True))
    tensors |= {f"expected{k}": array for k, array in enumerate(mismatch.expected)}
    plain = {"num-cores": how.threads, "libs": None, "strict": None}
    target = Target({**Target.stored(mismatch.target).to_dict(), **plain})
    script = SCRIPT.substitute(
        about=_literal(str(mismatch)),
        version=fusewire_version(),
        needs=f", and the library {how.library.name}" if how.library else "",
        group=_literal(group),
        target=repr(str(target)),
        implementation=repr(how.implementation),
        config=repr(dict(how.config)),
        library=repr(how.library.name if how.library else None),
        constants=repr([names[k] for k in mismatch.known]),
        rtol=repr(limits[0]),
        atol=repr(limits[1]),
    )
    path = folder / "reproduce.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "tensors.npz", **tensors)  # type: ignore[arg-type]
        path.write_text(script, encoding="utf-8")
    except OSError as error:
        raise FusewireError(f"cannot write the reproducer to {folder}: {error.strerror}") from error
    return path


def reproduce(
    group: str,
    tensors: Mapping[str, Array],
    *,
    target: str,
    implementation: str,
    config: Config | None = None,
    library: str | None = None,
    constants: Collection[str] = (),
    rtol: float,
    atol: float,
) -> list[Difference]:
    """Compile a group by itself as a module compiled it, run it, and compare: what reproducers of `bisect` call.

    Args:
        group: the group as text, a function whose parameters are tensors.
        tensors: an array for each parameter by name, and the results expected as expected0, expected1, ...
        target: the target string, without libraries.
        implementation: who is to make the kernel; where that one does not fit (any longer), the choice is free.
        config: the numbers that the kernel is written with.
        library: the library that is to run the group, if any.
        constants: the parameters that are known when the group is compiled.
        rtol: elements may differ by atol + rtol * |expected|.
        atol: see rtol.

    Returns:
        How far each result is from the one expected.

    Raises:
        FusewireError: the text is damaged, a tensor is missing, the library is missing, or it cannot be compiled.
    """
    function, where = _read(group), Target(target)
    names = [param.name_hint for param in function.params]
    types = tensors_of(function.body.checked_type)
    wanted = [*names, *(f"expected{k}" for k in range(len(types)))]
    if missing := [name for name in wanted if name not in tensors]:
        raise FusewireError(f"the archive has no {', '.join(missing)}; it has {', '.join(tensors)}")
    isa, threads = isa_for(where), threads_for(where)
    found = find_library(library) if library is not None else None
    how = How(where.kind, isa, threads, implementation, config or {}, found)
    values = [_typed(tensors[p.name_hint], p.checked_type) for p in function.params]
    ran = run_alone(function, values, [names.index(name) for name in constants], how)
    expected = [_typed(tensors[f"expected{k}"], type_) for k, type_ in enumerate(types)]
    return [difference(got, e, rtol, atol) for got, e in zip(ran.outputs, expected, strict=True)]


def _read(group: str) -> Function:
    """A group from its text, with all types known."""
    function = infer_type(parse_expr(group))
    if not isinstance(function, Function):
        raise FusewireError(f"expected a function, got {function}")
    return function


def _typed(array: Array, type_: object) -> Array:
    """An array out of an archive, which knows bfloat16 only as two bytes."""
    assert isinstance(type_, TensorType)
    dtype = numpy_dtype(type_.dtype)
    return array.view(dtype) if array.dtype.kind == "V" else array


def _literal(text: str) -> str:
    """Text that may stand between triple quotes."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
