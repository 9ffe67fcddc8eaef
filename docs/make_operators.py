"""Writes docs/operators.md from the declarations of the operators.

python docs/make_operators.py            # write it
python docs/make_operators.py --check    # exit status 1 if it is not up to date
"""

import argparse
import inspect
import sys
from pathlib import Path
from types import ModuleType

from tabulate import tabulate

from fusewire import nn, ops
from fusewire.ops.lowering import Map, Nest, Procedure, Reduce
from fusewire.ops.spec import OpSpec, all_specs

TARGET = Path(__file__).with_name("operators.md")

HEAD = """\
# Operators

Made by `python docs/make_operators.py` from the declarations in `ops/`; `tests/test_docs.py` checks that it is up to
date. Names, arguments, defaults and meaning are those of Relay's Python API: `nn.conv2d` is `fw.nn.conv2d`, `add`
is `fw.add`. `help(fw.nn.conv2d)` tells more.

*Fusion* says how an operator may be combined with others in one kernel: elemwise, broadcast, injective (reads at
known places), comm_reduce (a reduction), out_elemwise_fusable (elementwise operators can follow on its results while
they are in registers), opaque (never). *Code* says how it becomes loops: a map from indices to values, a reduction,
loops of its own, a procedure (statements written out, never fused), or nothing where a pass replaces it. *Tested*
lists the element types for which compiled code is compared with NumPy on random uses (`tests/ops/test_oracle.py`).
"""

CODE: dict[type, str] = {
    Map: "map",
    Reduce: "reduction",
    Nest: "loops",
    Procedure: "procedure",
    type(None): "replaced by a pass",
}


def call_text(name: str, signature: inspect.Signature) -> str:
    """A signature without annotations: `nn.relu(data)`."""
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"`{name}{inspect.Signature(plain)}`"


def row(spec: OpSpec) -> tuple[str, ...]:
    """One line of a table."""
    code = CODE[type(spec.lowering)]
    return call_text(spec.name, spec.signature), spec.doc, spec.fusion.name.lower(), code, " ".join(spec.dtypes)


def family(name: str, specs: list[OpSpec]) -> str:
    """The table of one file of `ops/`."""
    module = sys.modules[name]
    title = (module.__doc__ or "").strip().split("\n")[0]
    table = tabulate(
        [row(spec) for spec in specs],
        ["operator", "meaning", "fusion", "code", "tested"],
        tablefmt="github",
        disable_numparse=True,
    )
    return f"## {name.rsplit('.', 1)[-1]}\n\n{title}\n\n{table}\n"


def composed(module: ModuleType, prefix: str, known: set[str]) -> list[tuple[str, str]]:
    """Public functions that have no operator of their own but build several."""
    found = []
    for name in sorted(module.__all__):
        function = getattr(module, name)
        if callable(function) and prefix + name not in known:
            doc = (inspect.getdoc(function) or "").split("\n")[0]
            found.append((call_text(prefix + name, inspect.signature(function)), doc))
    return found


def document() -> str:
    """The whole page."""
    specs = all_specs()
    families: dict[str, list[OpSpec]] = {}
    for spec in specs:
        families.setdefault(spec.builder.__module__, []).append(spec)
    known = {spec.name for spec in specs}
    rest = [r for m, prefix in ((ops, ""), (nn, "nn.")) for r in composed(m, prefix, known)]
    others = tabulate(rest, ["function", "meaning"], tablefmt="github", disable_numparse=True)
    tables = [family(name, families[name]) for name in sorted(families)]
    tail = f"## Composed\n\nFunctions that build expressions of the operators above.\n\n{others}\n"
    return "\n".join([HEAD + f"\nThere are {len(specs)} operators.\n", *tables, tail])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write docs/operators.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if it is not up to date")
    if parser.parse_args().check:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != document())
    TARGET.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
