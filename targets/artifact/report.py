"""What a stored module knows of how it was decided who runs each step."""

from collections.abc import Mapping

from attrs import frozen

from ...fuse.library import Library, Rule
from ...ir.errors import LibraryNotFound, TargetError
from ..code import Code
from ..explain import Choice, Report
from ..libraries import find_library
from ..program import KernelStep, LibraryStep, Program


@frozen(eq=False)
class StoredReport(Report):
    """The choices as they were made, by step; libraries are looked up by name when a step needs one."""

    choices: Mapping[str, Choice]

    def rule(self, step: LibraryStep) -> Rule:
        """The rule that took a step.

        Raises:
            LibraryNotFound: the library is not installed, or is another version without this rule.
        """
        return self._found(step)[1]

    def used(self, program: Program) -> list[Library]:
        """The libraries that run at least one step.

        Raises:
            LibraryNotFound: as `rule`.
        """
        found = [self._found(s)[0] for s in program.leaf_steps() if isinstance(s, LibraryStep)]
        return list({library.name: library for library in found}.values())

    def choice(self, step: KernelStep | LibraryStep, code: Code) -> Choice:
        """All that is known of how a step was decided; of kernels that were made again here, as it was done here."""
        stored = self.choices.get(step.name)
        if stored is None:  # made anew by a version that gives other names
            return super().choice(step, code)
        if isinstance(step, LibraryStep):
            return stored
        compiled = code.of(step)
        generated = {c.name for c in compiled.candidates}
        refused = [c for c in stored.candidates if c.name not in generated]
        candidates = (*refused, *compiled.candidates)
        return Choice(step.name, stored.ops, compiled.implementation, candidates, stored.between)

    def _found(self, step: LibraryStep) -> tuple[Library, Rule]:
        name = str(step.function.attrs["Compiler"])
        try:
            library = find_library(name)
        except TargetError as error:
            raise LibraryNotFound(f"{step.name}: {error}; install the package that offers it") from None
        rule = library.rule(step.composite)
        if rule is None:
            rules = ", ".join(rule.name for rule in library.rules)
            raise LibraryNotFound(f"{step.name}: the library {name!r} has no rule {step.composite!r}; it has {rules}")
        return library, rule
