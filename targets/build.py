"""`fw.build`: from a typed graph and a target string to a compiled module."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

from ..fuse.inline import bind_params, bind_shapes, inline, typed
from ..fuse.library import Library
from ..fuse.partition import Decision
from ..fuse.pipeline import pipeline
from ..fuse.transform import FuseOps, FuseStages, Sequential
from ..ir.errors import FusewireError, TargetError
from ..ir.expr import Expr, Function
from ..ir.module import IRModule
from .backends import backend_of
from .compiled import CompiledModule, params_of
from .cpuinfo import Isa, usable_cores
from .explain import Report
from .generate import no_decision
from .libraries import find_library, libraries_of, require, warn_unused
from .program import make_program
from .runnable import Runnable
from .schedules.conv_depthwise import joins
from .target import Target
from .tuning.auto import build_auto
from .tuning.decide import decide_by
from .tuning.store import TuningStore, open_store

_log = logging.getLogger("fusewire")


def build(
    mod: IRModule | Expr,
    target: str | Target | Mapping[str, object] = "cpu",
    params: Mapping[str, Any] | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    mod_name: str = "default",
    records: TuningStore | str | PathLike[str] | None = None,
    locked: bool = False,
) -> CompiledModule:
    """Compile a graph for a target.

    Args:
        mod: a module, a function, or an expression (whose free variables become inputs).
        target: a target string such as "cpu -libs=onednn", a dict, or a `Target`.
        params: arrays for parameters that are constants (weights), by name.
        shape: shapes for parameters with symbolic dimensions, by name.
        mod_name: the name under which `lib[mod_name]` finds the module.
        records: a file of tuning records (see `fw.tune`), or a store; None: the user's own.
        locked: take every decision from `records`, or where that is None from the file fusewire.lock; nothing is
            measured, and what is missing is an error.

    Raises:
        FusewireError: the target, the graph or the parameters are wrong; the subclass and the message say what.
    """
    if not isinstance(mod, IRModule | Expr):
        raise FusewireError(f"build takes an IRModule, a Function or an expression, got a {type(mod).__name__}")
    where = Target(target)
    isa = backend_of(where.kind).isa(where)
    if where.precision == "float16" and not isa.float16_loads:
        need = "no instruction that converts float16 (F16C on x86); there are float32 and bfloat16"
        raise TargetError(f"target '{where}': -precision=float16: the processor has {need}")
    module = mod if isinstance(mod, IRModule) else IRModule.from_expr(mod)
    main = inline(module)
    main = bind_shapes(typed(main), shape or {})
    main = typed(bind_params(main, params or {}))
    store = open_store(records, locked, must_exist=not where.libs_auto)

    def assemble(libraries: Sequence[Library]) -> CompiledModule:
        return _assemble(main, where, isa, libraries, mod_name, store)

    if not where.libs_auto:
        return assemble(libraries_of(where))
    if where.strict:
        require([find_library(name) for name in where.libs_named])
    return build_auto(where, threads_for(where), store, assemble)


def _assemble(
    main: Function, where: Target, isa: Isa, libraries: Sequence[Library], mod_name: str, store: TuningStore
) -> CompiledModule:
    """Compile a typed function without free names, with just these libraries."""
    decisions: list[Decision] = []
    strict = where.strict and not where.libs_auto
    passes = pipeline(
        libraries,
        decisions,
        post_ops=where.postops is None,
        vector_bytes=isa.block_bytes,
        # TF32 is how units for matrices read float32: nothing changes in the graph.
        precision="float32" if where.precision in (None, "tf32") else where.precision,
        half=isa.half,
        strict=strict,
        fuse=False,
    )
    plain = passes(IRModule({"main": main}))
    stages = FuseStages(partial(joins, isa=isa))
    fused = Sequential([FuseOps(), stages])(plain)  # Sequential, so that disabled_pass can leave them out
    if not where.libs_auto:
        warn_unused(libraries, decisions)
    report = Report(where.kind, libraries, decisions, precision=where.precision or "float32")
    runnable = make_runnable(fused["main"], where, isa, report, mod_name, store)
    report.log_library_steps(runnable.program)
    used = [library for library in report.used(runnable.program) if where.precision not in library.precisions]
    if where.precision not in (None, "float32") and used:
        names = ", ".join(library.name for library in used)
        _log.warning("-precision=%s does not reach what %s took: libraries compute in the graph's types",
                     where.precision, names)  # fmt: skip
    return CompiledModule(where, plain, fused, params_of(runnable.program), runnable, mod_name)


def make_runnable(
    fused: Function, target: Target, isa: Isa, report: Report, mod_name: str, records: TuningStore | None = None
) -> Runnable:
    """The steps, code and memory plan of a fused function, for the `isa` of its target, with what the records say of
    its groups.
    """
    program = make_program(fused, mod_name)
    backend = backend_of(target.kind)
    threads = threads_for(target)
    decide = decide_by(records, target, isa, threads) if records is not None else no_decision
    code = backend.generate(program, isa, threads, decide)
    return Runnable(program, code, backend.plan(program, code), threads, report)


def threads_for(target: Target) -> int:
    """How many threads a module for `target` runs on here."""
    return target.num_cores or usable_cores()
