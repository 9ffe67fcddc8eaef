"""The kinds of values that options take: how they are read, what is said of wrong ones, how a shell completes them."""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from ..fuse.infra import PassContext, known_passes
from ..fuse.pipeline import pipeline
from ..ir.errors import FusewireError, TargetError
from ..targets.target import KINDS, Target, did_you_mean, known_libraries
from .files import why_not_writable

if TYPE_CHECKING:  # at run time, only newer versions of click let it be subscripted
    _Type: TypeAlias = click.ParamType[Any]
else:
    _Type = click.ParamType


class TargetType(_Type):
    """A target string, such as "cpu -libs=onednn"."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        """The target; a usage error where the string is wrong."""
        try:
            return Target(value)
        except TargetError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Kinds; behind a kind its keys; behind -libs= the libraries."""
        return [CompletionItem(text) for text in complete_target(incomplete)]


def complete_target(incomplete: str) -> list[str]:
    """All target strings that continue `incomplete` by one kind, key or library."""
    *words, last = incomplete.split(" ")
    if not words:
        return [name for name in sorted(KINDS) if name.startswith(last)]
    found = [kind for kind in KINDS.values() if words[0] in (kind.name, *kind.aliases)]
    if not found:
        return []
    before = " ".join(words) + " "
    if not last.startswith("-libs="):
        keys = [f"-{option.name}" + "=" * (not option.is_flag) for option in found[0].options if option.name != "keys"]
        return [before + key for key in keys if key.startswith(last)]
    *given, part = last.removeprefix("-libs=").split(",")
    names = [name for name in known_libraries(found[0].name) if name not in given and name.startswith(part)]
    return [before + "-libs=" + ",".join([*given, name]) for name in names]


class NamesType(_Type):
    """Names separated by commas, each one of a list."""

    def __init__(self, name: str, known: Callable[[], Sequence[str]]) -> None:
        self.name = name
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names; a usage error where one is not known."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        known = self.known()
        for name in names:
            if name not in known:
                self.fail(f"unknown {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}", param, ctx)
        return names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that are not there yet."""
        *given, part = incomplete.split(",")
        names = [name for name in self.known() if name not in given and name.startswith(part)]
        return [CompletionItem(",".join([*given, name])) for name in names]


def pass_names() -> list[str]:
    """The passes that can be disabled, by name."""
    pipeline()  # makes those that are there only for it
    return [name for name in known_passes() if name not in ("pipeline", "sequential")]


class ConfigType(_Type):
    """KEY=VALUE, an entry of `PassContext.config`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Key and value, the value of the key's type; a usage error where there is no such key."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        options = PassContext.list_configs()
        if not equals:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        if key not in options:
            self.fail(
                f"unknown key {key!r}{did_you_mean(key, options)}; known keys: {', '.join(sorted(options))}", param, ctx
            )
        kind = options[key].type
        try:
            return key, _TRUTHS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            self.fail(f"{key} takes a value of type {kind.__name__}, got {text!r}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The keys."""
        return [CompletionItem(f"{key}=") for key in sorted(PassContext.list_configs()) if key.startswith(incomplete)]


_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SHAPE = re.compile(r"\s*([^\s\[\]]+?)\s*:\s*\[([^\[\]]*)\][\s,]*")


class ShapesType(_Type):
    """Shapes of inputs by name, as tvmc writes them: "data:[1,3,224,224] ids:[1,8]"."""

    name = "shapes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, tuple[int, ...]]:
        """The shapes; a usage error where the text is something else."""
        if isinstance(value, dict):
            return value
        shapes: dict[str, tuple[int, ...]] = {}
        place = 0
        while place < len(value):
            match = _SHAPE.match(value, place)
            if match is None:
                self.fail(f'expected "NAME:[N,N,...] NAME:[...]", got {value[place:]!r}', param, ctx)
            name, dims = match[1], [dim.strip() for dim in match[2].split(",") if dim.strip()]
            if wrong := [dim for dim in dims if not (dim.isascii() and dim.isdigit() and len(dim) <= 18)]:
                self.fail(f"{name}: {wrong[0]!r} is no size; expected a whole number of at least 0", param, ctx)
            if name in shapes:
                self.fail(f"{name} is given twice", param, ctx)
            shapes[name] = tuple(map(int, dims))
            place = match.end()
        return shapes


class NumbersType(_Type):
    """One or more numbers separated by commas."""

    name = "r,g,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers; a usage error where there are not one or three."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"expected numbers such as 123.7,116.3,103.5, got {value!r}", param, ctx)
        if not all(map(math.isfinite, numbers)):
            self.fail(f"expected finite numbers, got {value!r}", param, ctx)
        if len(numbers) not in (1, 3):
            self.fail(f"expected one number, or three (red, green, blue), got {len(numbers)}", param, ctx)
        return numbers


class SizeType(_Type):
    """HEIGHTxWIDTH, of a picture."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Height and width; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,3})[xX]([1-9]\d{0,3})", value, re.ASCII)
        if match is None:
            self.fail(f"expected HEIGHTxWIDTH up to 9999x9999, such as 224x224, got {value!r}", param, ctx)
        return int(match[1]), int(match[2])


class OutputType(_Type):
    """A file to write."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; a usage error where the file cannot be written."""
        path = Path(value)
        if reason := why_not_writable(path):
            self.fail(reason, param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files, by the shell."""
        return [CompletionItem(incomplete, type="file")]


class InputType(_Type):
    """A file of inputs, NAME=FILE or FILE."""

    name = "[name=]file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files, by the shell; behind NAME= by us, since shells look at the whole word."""
        name, equals, part = incomplete.rpartition("=")
        if not equals:
            return [CompletionItem(incomplete, type="file")]
        folder, _, start = part.rpartition("/")
        try:
            found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder or "."))
        except OSError:
            return []
        before = f"{name}={folder}/" if "/" in part else f"{name}="
        return [CompletionItem(before + entry) for entry in found if entry.startswith(start)]


class DeviceType(_Type):
    """A device, such as cpu or cpu:0."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Kind and number; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        kind, _, number = value.partition(":")
        try:
            name = Target(kind).kind
        except FusewireError as error:
            self.fail(str(error), param, ctx)
        if number and not (number.isascii() and number.isdigit() and len(number) < 6):
            self.fail(f"expected KIND or KIND:NUMBER, such as cpu:0, got {value!r}", param, ctx)
        return name, int(number or 0)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The kinds."""
        return [CompletionItem(kind) for kind in sorted(KINDS) if kind.startswith(incomplete)]
