"""Source files of generated kernels: a few, filled evenly, so that they compile at the same time."""

from collections.abc import Mapping

from attrs import define, field

from .cpuinfo import usable_cores
from .dialects import Dialect
from .prelude import Prelude


@define
class Units:
    """The files of a program: for each its prelude, and the texts of its kernels."""

    dialect: Dialect
    _units: list[tuple[Prelude, list[str]]] = field(factory=list)

    def add(self, text: str, definitions: Mapping[str, str]) -> None:
        """Put a kernel, and what it needs, into the shortest file; there is one for each processor."""
        if len(self._units) < usable_cores():
            self._units.append((Prelude(self.dialect), []))
        prelude, texts = min(self._units, key=lambda unit: sum(map(len, unit[1])))
        prelude.definitions.update(definitions)
        texts.append(text)

    @property
    def size(self) -> int:
        """Characters of all kernels."""
        return sum(len(text) for _, texts in self._units for text in texts)

    def files(self, merge_below: int) -> list[tuple[Prelude, list[str]]]:
        """The files; one, if all kernels together are shorter than `merge_below` characters."""
        if self.size >= merge_below:
            return self._units
        whole = Prelude(self.dialect)
        for prelude, _ in self._units:
            whole.definitions.update(prelude.definitions)
        return [(whole, [text for _, texts in self._units for text in texts])]
