"""`-libs=auto`: which regions go to a library is measured, in the whole network.

    variants    the network is built several times: all code generated; and for each library with everything that it
                can take, and with single operators only (without post-ops). Each runs step by step.
    boundaries  a tensor is known by statistics that no layout changes (boundaries.py). Steps between two boundaries
                that all variants have in common are a cell.
    regions     what a library computes is compared with a float64 reference; what is wrong never wins. A region is
                taken if its cells are faster with it than in every other variant; generated code wins inside the noise.
    whole       the mixture runs against each pure variant, and where one of those is faster, it is taken instead.

The outcome is one decision for each region that a library could take: the next build asks the store and measures
nothing. A region is refused by its rule's check like any other; the reason says what was measured.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import define, evolve, field, frozen

from ...fuse.evaluate import evaluate
from ...fuse.graph import outline
from ...fuse.identity import identity
from ...fuse.library import HOST, Library, Region, Rule
from ...fuse.matcher import Match
from ...ir.errors import FusewireError, TargetError
from ...ir.expr import Expr, Function
from ...ir.types import numpy_dtype, tensors_of
from ..compiled import CompiledModule
from ..cpuinfo import cpu_features
from ..executor import GraphModule
from ..explain import operators
from ..libraries import find_library
from ..librarycall import prepared
from ..program import LibraryStep
from ..target import KINDS, Target
from .bench import fill, fill_inputs, mismatch
from .boundaries import Observed, cells_of, common, observe
from .store import Key, Timing, TuningStore

_log = logging.getLogger("fusewire")
Array: TypeAlias = npt.NDArray[Any]
Answer: TypeAlias = Callable[[Rule, Function], str | None]
"""Why a rule may not take a region, or None."""

Assemble: TypeAlias = Callable[[Sequence[Library]], CompiledModule]
"""Builds the network with libraries."""

GENERATED = "generated"
MARGIN = 0.03
"""By how much a library must beat generated code."""
ROUNDS = 12
"""Runs of the whole network for each variant."""


def region_key(library: str, rule: Rule, function: Function, threads: int) -> Key:
    """The key under which the decision for a region is remembered."""
    work, group = identity(function)
    digest = hashlib.sha256(json.dumps([rule.name, group]).encode()).hexdigest()[:20]
    return Key("cpu", cpu_features().name, library, threads, work, digest)


def gated(library: Library, answer: Answer) -> Library:
    """A library whose rules also ask `answer`: for the longest region that the library accepts, and for single
    operators, but not for what lies between. So a network has few regions, and all of them are measured.
    """
    refused: dict[int, Expr] = {}

    def gate(rule: Rule) -> Rule:
        def check(match: Match) -> str | None:
            if reason := rule.check(match):
                return reason
            if len(match.calls) > 1 and all(id(node) in refused for node in match.nodes):
                return "a part of a longer region, for which this was decided already"
            function, _ = outline(match.nodes, {}, lambda expr: expr)
            reason = answer(rule, function)
            refused.update({id(node): node for node in match.nodes} if reason else {})
            return reason

        return evolve(rule, check=check)

    return evolve(library, rules=[gate(rule) for rule in library.rules])


def build_auto(target: Target, threads: int, store: TuningStore, assemble: Assemble) -> CompiledModule:
    """A network for a target with `-libs=auto`: every library takes what was measured to be faster with it.

    Args:
        target: names the libraries, or none for all that there are.
        threads: how many threads run the network.
        store: where decisions are looked up and kept.
        assemble: builds the network with libraries.

    Raises:
        TargetError: nothing is measured on this kind of target.
        FusewireError: the network cannot be built, or the store is locked and incomplete.
    """
    if not KINDS[target.kind].measures:
        raise TargetError(f"target '{target}': -libs=auto measures on cpu only, not on {target.kind}; name libraries "
                          f"(-libs=...), or none")  # fmt: skip
    libraries = [library for name in target.libs if (library := _usable(name, target.kind))]
    unknown: list[Key] = []
    lib = assemble([_decided(library, threads, store, unknown) for library in libraries])
    if not unknown:
        return lib
    if store.locked:
        first = unknown[0]
        raise FusewireError(f"'{store.path}' lacks: {first.work} for {first.driver} on {first.device}, {first.threads} "
                            f"threads; `fusewire lock` writes a complete one")  # fmt: skip
    _Auto(threads, store, assemble).measure(libraries)
    return _settled(libraries, threads, store, assemble)


def _settled(
    libraries: Sequence[Library],
    threads: int,
    store: TuningStore,
    assemble: Assemble,
) -> CompiledModule:
    """The network after its measurement.

    Regions that no variant had, because others took their place there, are refused for good: what was never measured is
    not chosen, and a later build does not measure again.
    """
    while True:
        unknown: list[Key] = []
        lib = assemble([_decided(library, threads, store, unknown) for library in libraries])
        if not unknown:
            return lib
        for key in unknown:
            store.decide(key, GENERATED, {}, "normal")


def _usable(name: str, kind: str) -> Library | None:
    library = find_library(name)
    if kind not in library.targets:
        return None
    if reason := library.probe():
        _log.info("-libs=auto leaves out %s: %s", name, reason)
        return None
    # What generated code fuses with its neighbours anyway depends on them, and is not worth a measurement.
    return evolve(library, rules=[rule for rule in library.rules if not rule.light])


def _decided(library: Library, threads: int, store: TuningStore, unknown: list[Key]) -> Library:
    """A library that takes what the store says; regions that it says nothing of are refused, and noted."""

    def answer(rule: Rule, function: Function) -> str | None:
        key = region_key(library.name, rule, function, threads)
        decision = store.decision(key)
        if decision is None:
            unknown.append(key)
            return "it has not been measured"
        if decision.implementation == rule.name:
            return None
        if problem := decision.problems.get(rule.name):
            return problem
        own, other = decision.measured.get(rule.name), decision.measured.get(GENERATED)
        if own is None or other is None:
            return "it stood in none of the networks that were measured"
        return f"measured {own * 1e6:.1f} us, against {other * 1e6:.1f} us with {decision.implementation}"

    return gated(library, answer)


@define
class _Variant:
    """One way to build the network.

    Attributes:
        name: as it is told, e.g. "onednn without post-ops".
        lib: the network.
        regions: the keys of its library steps.
        whole: the fastest run.
        steps: the steps with their times.
    """

    name: str
    lib: CompiledModule
    regions: dict[int, tuple[Key, Rule]]
    whole: float = float("inf")
    steps: list[Observed] = field(factory=list)

    @property
    def keys(self) -> set[Key]:
        """The different regions."""
        return {key for key, _ in self.regions.values()}


@frozen
class _Auto:
    threads: int
    store: TuningStore
    assemble: Assemble

    def measure(self, libraries: Sequence[Library]) -> None:
        """Decide for every region of every variant."""
        variants = [self.variant(GENERATED, [])]
        for library in libraries:
            for name, choice in (
                (library.name, library),
                (f"{library.name} without post-ops", gated(library, _single)),
            ):
                variant = self.right_variant(name, choice)
                if all(variant.keys != other.keys for other in variants):
                    variants.append(variant)
        run_in_turns(variants)
        for variant in variants:
            variant.steps = observe(variant.lib, fill_inputs(variant.lib.program))
        self.decide(variants)
        self.check_whole(libraries, variants)

    def variant(self, name: str, libraries: Sequence[Library]) -> _Variant:
        lib = self.assemble(libraries)
        regions: dict[int, tuple[Key, Rule]] = {}
        for step in lib.program.leaf_steps():
            if isinstance(step, LibraryStep):
                rule = lib.runnable.report.rule(step)
                key = region_key(str(step.function.attrs["Compiler"]), rule, step.function, self.threads)
                regions[id(step)] = key, rule
        return _Variant(name, lib, regions)

    def right_variant(self, name: str, library: Library) -> _Variant:
        """A variant without the regions that the library computes wrongly."""
        wrong: dict[Key, str] = {}

        def answer(rule: Rule, function: Function) -> str | None:
            return wrong.get(region_key(library.name, rule, function, self.threads))

        while True:
            variant = self.variant(name, [gated(library, answer)])
            problems = self.problems(variant)
            if not problems:
                return variant
            wrong |= problems

    def problems(self, variant: _Variant) -> dict[Key, str]:
        """What is wrong with regions, each compared with the reference once; recorded for good."""
        seen: set[Key] = set()
        found: dict[Key, str] = {}
        for step in variant.lib.program.leaf_steps():
            if isinstance(step, LibraryStep) and (key := variant.regions[id(step)][0]) not in seen:
                seen.add(key)
                if problem := self.problem(variant, step):
                    found[key] = problem
                    rule = variant.regions[id(step)][1]
                    _log.warning("%s computes a region wrongly and is not used for it: %s", rule.name, problem)
                    self.store.add_timing(key, Timing(rule.name, {}, None, problem))
                    self.store.decide(key, GENERATED, {}, "normal")
        return found

    def problem(self, variant: _Variant, step: LibraryStep) -> str | None:
        """What is wrong with a library's results, or None."""
        rule = variant.regions[id(step)][1]
        if rule.memory != HOST:
            return "auto cannot check what works on a device's memory yet; -libs= with its name uses it"
        rng = np.random.default_rng(0)
        known = {k: variant.lib.program.constants.get(slot) for k, slot in enumerate(step.inputs)}
        types = [t for param in step.function.params for t in tensors_of(param.checked_type)]
        arrays = [known[k] if known[k] is not None else fill(rng, t) for k, t in enumerate(types)]
        constants = {k: a for k, a in known.items() if a is not None}
        outs = tensors_of(step.function.body.checked_type)
        results = [np.empty(t.static_shape, numpy_dtype(t.dtype)) for t in outs]
        try:
            prepared(rule, Region(step.function, constants, self.threads), step.name)(arrays, results)
        except FusewireError as error:
            return f"failed: {error}"
        names = [param.name_hint for param in step.function.params]
        if len(names) != len(arrays):
            return None  # tuples come as several tensors; the reference takes them as one
        expected = evaluate(step.function, dict(zip(names, arrays, strict=True)))
        for got, want in zip(results, expected, strict=True):
            if wrong := mismatch(got, np.asarray(want).astype(got.dtype)):
                return f"wrong: {wrong}"
        return None

    def decide(self, variants: Sequence[_Variant]) -> None:
        """Take the regions whose cells are fastest with them."""
        shared = common([v.steps for v in variants])
        cells = [cells_of(v.steps, shared) for v in variants]
        times = [{b: sum(s.seconds for s in steps) for b, steps in c.items()} for c in cells]
        for number, variant in enumerate(variants[1:], 1):
            places: dict[Key, set[int]] = {}
            for boundary, steps in cells[number].items():
                for step in steps:
                    if id(step.step) in variant.regions:
                        places.setdefault(variant.regions[id(step.step)][0], set()).add(boundary)
            rules = dict(variant.regions.values())
            for key, where in places.items():
                totals = [sum(t.get(b, float("inf")) for b in where) for t in times]
                self.record(key, rules[key], totals, number, [v.name for v in variants])

    def record(self, key: Key, rule: Rule, totals: Sequence[float], own: int, names: Sequence[str]) -> None:
        """Keep what was measured for a region, and what follows."""
        self.store.add_timing(key, Timing(GENERATED, {}, totals[0]))
        self.store.add_timing(key, Timing(rule.name, {}, totals[own]))
        best = min(range(len(totals)), key=lambda k: totals[k])
        wins = best == own and totals[own] < totals[0] * (1 - MARGIN)
        self.store.decide(key, rule.name if wins else names[0 if best == own else best], {}, "normal")

    def check_whole(self, libraries: Sequence[Library], variants: Sequence[_Variant]) -> None:
        """Take a pure variant where it is faster than the mixture."""
        mixture = _Variant("mixture", _settled(libraries, self.threads, self.store, self.assemble), {})
        run_in_turns([mixture, *variants])
        best = min(variants, key=lambda v: v.whole)
        _log.info("-libs=auto: mixture %.3f ms; %s", mixture.whole * 1e3,
                  "; ".join(f"{v.name} {v.whole * 1e3:.3f} ms" for v in variants))  # fmt: skip
        if mixture.whole <= best.whole * (1 + MARGIN):
            return
        for variant in variants:
            for key, rule in variant.regions.values():
                self.store.decide(key, rule.name if key in best.keys else best.name, {}, "normal")


def _single(rule: Rule, function: Function) -> str | None:
    return "post-ops are left out of this variant" if len(operators(function)) > 1 else None


def run_in_turns(variants: Iterable[_Variant]) -> None:
    """Time whole runs of several variants, in alternating rounds."""
    running: list[tuple[_Variant, GraphModule]] = []
    for variant in variants:
        module = GraphModule(variant.lib["default"](variant.lib.target.kind))
        module.run(**fill_inputs(variant.lib.program))
        running.append((variant, module))
    for _ in range(ROUNDS):
        for variant, module in running:
            start = time.perf_counter()
            module.run()
            variant.whole = min(variant.whole, time.perf_counter() - start)
