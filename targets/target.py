"""Target strings: `kind -key=value ...` says where a program runs and which libraries may take part in it.

A target is written as a string (`"cpu -libs=onednn,openblas -num-cores=2"`), as a dict (`{"kind": "cuda", "arch":
"sm_75"}`) or as another `Target`. All three go through one declarative table, `KINDS`, and end in one canonical form,
so that equal targets compare equal, hash equal and print alike. Parsing needs no device and no library.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

from attrs import field, frozen

from ..ir.errors import TargetError


def _names(raw: object) -> tuple[str, ...]:
    """`"a,b"` or a sequence of names as a tuple, each name once, in the order given."""
    if not isinstance(raw, str | list | tuple):
        raise ValueError("a comma-separated list of names")
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a comma-separated list of names")
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _libraries(raw: object) -> tuple[str, ...]:
    """As `_names`; `auto` and `auto:a,b` become a tuple whose first item is `"auto"`."""
    if isinstance(raw, str) and raw.startswith("auto:"):
        chosen = _names(raw.removeprefix("auto:"))
        if not chosen or "auto" in chosen:
            raise ValueError("auto:NAME,NAME with at least one library")
        return ("auto", *chosen)
    names = _names(raw)
    if "auto" in names[1:] or (isinstance(raw, str) and len(names) > 1 and names[0] == "auto"):
        raise ValueError("auto, or auto:NAME,NAME, or NAME,NAME")
    return names


def _attributes(raw: object) -> tuple[str, ...]:
    """CPU features, each switched on by a leading `+` or off by a leading `-`."""
    names = _names(raw)
    if not all(re.fullmatch(r"[+-][A-Za-z0-9][\w.\-]*", name) for name in names):
        raise ValueError("a comma-separated list of +FEATURE and -FEATURE, such as +avx2,-avx512f")
    return names


def _positive(raw: object) -> int:
    """A whole number of at least 1, given as an int or in decimal digits."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return raw
    if isinstance(raw, str) and raw.isascii() and raw.isdigit() and int(raw) > 0:
        return int(raw)
    raise ValueError("a whole number of at least 1")


def _switch(raw: object) -> int | None:
    """0, or None for 1, which is the same as not given."""
    if str(raw) in ("0", "1") and not isinstance(raw, bool):
        return None if int(str(raw)) else 0
    raise ValueError("0 or 1")


def _matching(pattern: str, expected: str) -> Callable[[object], str]:
    """A reader of one word that must match `pattern` as a whole; `expected` describes it in errors."""

    def read(raw: object) -> str:
        if isinstance(raw, str) and re.fullmatch(pattern, raw):
            return raw
        raise ValueError(expected)

    return read


def _one_of(*allowed: str) -> Callable[[object], str]:
    """A reader of one word out of `allowed`."""
    return _matching("|".join(map(re.escape, allowed)), "one of " + ", ".join(allowed))


def _flag(raw: object) -> bool:
    """Whether a flag is on: it stands there alone, or with a truth value."""
    if isinstance(raw, bool):
        return raw
    if raw in ("0", "1", "false", "true"):
        return raw in ("1", "true")
    raise ValueError("nothing, or true or false")


def _precision(*allowed: str) -> Callable[[object], str]:
    """A reader of a floating type out of `allowed`; fp16 and the like are other names."""
    read, short = _one_of(*allowed), {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    return lambda raw: read(short.get(raw, raw) if isinstance(raw, str) else raw)


_word = _matching(r"\S(.*\S)?", "a name")


@frozen
class Option:
    """One key of a kind: how it is spelled and printed, how its value is read, and the value it has when left out."""

    name: str
    read: Callable[[object], Any]
    default: Any = None

    @property
    def is_flag(self) -> bool:
        """Whether it is on by standing there, without a value."""
        return self.read is _flag

    @property
    def attribute(self) -> str:
        """The name of the `Target` attribute that holds the value."""
        return self.name.replace("-", "_")


def _wavefronts(arch: str | None) -> tuple[int, ...]:
    """Items in a wavefront: 64 on CDNA and GCN (gfx9 and before), 32 on RDNA (gfx10 and later)."""
    if arch is None:
        return 64, 32
    return (32,) if int(arch[3:-2] or 0) >= 10 else (64,)  # the last two digits are minor version and stepping


@frozen
class Kind:
    """One kind of target: its other names, and the keys it takes."""

    name: str
    options: tuple[Option, ...]
    aliases: tuple[str, ...] = ()
    spellings: Mapping[str, str] = {}
    warps: Callable[[str | None], tuple[int, ...]] | None = None
    """Where the architecture decides it: how many threads run in lockstep, the usual number first."""
    measures: bool = False
    """Whether `-libs=auto` can be measured."""

    def option(self, name: str) -> Option | None:
        """The option called `name` (dash and underscore are alike, other spellings are known), or None."""
        plain = name.replace("-", "_")
        plain = self.spellings.get(plain, plain)
        return next((option for option in self.options if option.attribute == plain), None)


def _kind(name: str, keys: tuple[str, ...], *options: Option, **more: Any) -> Kind:
    common = (
        Option("keys", _names, keys),
        Option("device", _word),
        Option("libs", _libraries, ()),
        Option("postops", _switch),
        Option("strict", _flag, False),
    )
    # The canonical order is TVM's: -keys first, the rest by name.
    rest = sorted((*common[1:], *options), key=lambda option: option.name)
    return Kind(name, (common[0], *rest), **more)


# -precision is the lowest precision in which the factors of a float32 product may be; left out, it is float32.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind(
            "cpu",
            ("cpu",),
            Option("mattr", _attributes, ()),
            Option("mcpu", _matching(r"[\w.+\-]+", "the name of a processor, such as haswell")),
            Option("mtriple", _matching(r"\w[\w.]*(-[\w.]+)*", "a machine, such as aarch64-linux-gnu")),
            Option("num-cores", _positive),
            Option("precision", _precision("float32", "bfloat16", "float16")),
            aliases=("llvm", "c"),
            measures=True,
        ),
        _kind(
            "opencl",
            ("opencl", "gpu"),
            Option("max_num_threads", _positive, 256),
            Option("precision", _precision("float32", "float16")),
            Option("thread_warp_size", _positive, 1),
        ),
        _kind(
            "cuda",
            ("cuda", "gpu"),
            Option("arch", _matching(r"sm_([5-9]\d|1\d\d)[af]?", "an architecture such as sm_75 or sm_90a")),
            Option("max_num_threads", _positive, 1024),
            Option("precision", _precision("float32", "tf32", "float16", "bfloat16")),
            Option("thread_warp_size", _positive, 32),
            warps=lambda arch: (32,),
        ),
        _kind(
            "rocm",
            ("rocm", "gpu"),
            Option("arch", _matching(r"gfx([7-9]|1[0-2])[0-9a-f]{2}", "an architecture such as gfx90a")),
            Option("max_num_threads", _positive, 256),
            Option("precision", _precision("float32", "float16", "bfloat16")),
            Option("thread_warp_size", _positive, 64),
            spellings={"mcpu": "arch"},  # TVM's name for it
            warps=_wavefronts,
        ),
    )
}

_LIBRARIES: dict[str, list[str]] = {
    "cpu": ["onednn", "openblas"],
    "opencl": ["clblast"],
    "cuda": ["cudnn", "cublas"],
    "rocm": ["miopen", "rocblas"],
}


_LIBRARY_NAME = re.compile(r"\w[\w.\-]*")

LIBRARY_GROUP = "fusewire.libraries"
"""The group of entry points by which installed packages offer libraries."""


def known_libraries(kind: str) -> tuple[str, ...]:
    """The library names that `-libs=` takes for `kind`, in the order in which they were registered."""
    return tuple(_LIBRARIES[kind])


def register_library_name(name: str, kinds: Iterable[str]) -> None:
    """Let `-libs=` accept `name` for each of `kinds`; registering a name again changes nothing.

    Raises:
        TargetError: a kind is unknown, or the name is `auto` or holds anything but letters, digits, `_`, `.` and `-`.

    """
    if name == "auto" or not _LIBRARY_NAME.fullmatch(name):
        raise TargetError(f"library name {name!r}: expected letters, digits, '_', '.' and '-', and not 'auto'")
    found = [_find_kind(kind) for kind in kinds]
    for kind in found:
        if name not in _LIBRARIES[kind.name]:
            _LIBRARIES[kind.name].append(name)


def discover_libraries() -> None:
    """Let `-libs=` on cpu accept the libraries that installed packages offer; for targets that name an unknown one."""
    for point in metadata.entry_points(group=LIBRARY_GROUP):
        if point.name != "auto" and _LIBRARY_NAME.fullmatch(point.name):  # no target string can name others
            register_library_name(point.name, ("cpu",))


@frozen(init=False, repr=False)
class Target:
    """Where a program runs: a kind, and the options given for it; immutable, hashable, `Target(str(t)) == t`.

    An option that the kind does not have, or that was left out and has no default, is None (or empty for tuples).

    Args:
        spec: a target string, a mapping with a `"kind"` entry and options under their names, or a `Target`.

    Attributes:
        kind: `cpu`, `opencl`, `cuda` or `rocm` (never an alias).
        keys: the families that schedules are looked up by, `("cuda", "gpu")` for cuda.
        arch: GPU architecture, such as `sm_90` or `gfx90a`.
        device: the device's name, free text.
        mattr: CPU features to switch on (`+avx2`) or off (`-avx512f`), in the order given.
        mcpu: the processor to compile for; None is the host's, or the least of those that `mtriple` may mean.
        mtriple: the machine to compile for, such as `aarch64-linux-gnu`; None leaves it to `mcpu`.
        num_cores: threads to use; None leaves it to the executor.
        postops: 0 if libraries may not absorb what follows an operator; None if they may.
        precision: the lowest precision in which the factors of a float32 product may be; None is float32. Sums are
            float32 in any case (see `fw.transform.ToMixedPrecision`).
        max_num_threads: threads in one work-group at most.
        thread_warp_size: threads that run in lockstep.
        strict: whether an operator that would run elsewhere than `libs` asks is an error (see `fuse/strict.py`).

    Raises:
        TargetError: unknown kind, key, library or value, or a string that is not `kind -key=value ...`.

    """

    kind: str
    keys: tuple[str, ...] = ()
    _libs: tuple[str, ...] = ()
    arch: str | None = None
    device: str | None = None
    mattr: tuple[str, ...] = ()
    mcpu: str | None = None
    mtriple: str | None = None
    num_cores: int | None = None
    postops: int | None = None
    precision: str | None = None
    max_num_threads: int | None = None
    thread_warp_size: int | None = None
    strict: bool = False
    _text: str = field(default="", eq=False)

    def __init__(self, spec: "str | Mapping[str, object] | Target") -> None:
        if isinstance(spec, Target):
            spec = str(spec)
        kind, given = _split(spec) if isinstance(spec, str) else _from_mapping(spec)
        values = _read_options(spec, kind, given)
        _check_libraries(spec, kind, values["libs"])
        self._set(kind, values)

    def _set(self, kind: Kind, values: Mapping[str, Any]) -> None:
        init: Callable[..., None] = self.__attrs_init__  # pyright: ignore[reportAttributeAccessIssue]
        init(kind=kind.name, text=_print(kind, values), **values)

    @classmethod
    def stored(cls, text: str) -> "Target":
        """As `Target(text)`, for a target that a module was built for elsewhere: any name of a library is accepted.

        Raises:
            TargetError: what else `Target(text)` refuses.

        """
        kind, given = _split(text)
        target = cls.__new__(cls)
        target._set(kind, _read_options(text, kind, given))
        return target

    @property
    def libs(self) -> tuple[str, ...]:
        """The libraries that may take part, by falling preference; for `-libs=auto`, all that are known just now."""
        if self._libs == ("auto",):
            return known_libraries(self.kind)
        return self.libs_named

    @property
    def libs_named(self) -> tuple[str, ...]:
        """The libraries that the target itself names; none for `-libs=auto` alone."""
        return self._libs[1:] if self.libs_auto else self._libs

    @property
    def libs_auto(self) -> bool:
        """Whether the choice between libraries and generated code is left to measurement (`-libs=auto...`)."""
        return self._libs[:1] == ("auto",)

    def to_dict(self) -> dict[str, object]:
        """The target as JSON-ready values, `Target(t.to_dict()) == t`; options that are not set are left out."""
        values: dict[str, object] = {"kind": self.kind}
        for option in KINDS[self.kind].options:
            value = self._libs if option.name == "libs" else getattr(self, option.attribute)
            if value not in (None, ()) and value is not False:
                values[option.name] = list(value) if isinstance(value, tuple) else value
        return values

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Target({self._text!r})"


def _split(text: str) -> tuple[Kind, dict[str, object]]:
    """A target string as its kind and the options it gives."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"target {text!r}: {error}") from None
    if not words or words[0].startswith("-"):
        raise TargetError(f"target {text!r}: expected 'kind -key=value ...'; known kinds: {_kind_list()}")
    kind = _find_kind(words[0], text)
    given: dict[str, object] = {}
    for word in words[1:]:
        match = re.fullmatch(r"--?([A-Za-z][\w-]*)(?:=(.*))?", word, re.DOTALL)
        option = kind.option(match[1]) if match else None
        if match is None or (match[2] is None and not (option and option.is_flag)):
            raise TargetError(f"target {text!r}: expected -key=value, got {word!r}")
        if match[1] in given:
            raise TargetError(f"target {text!r}: key -{match[1]} is given twice")
        given[match[1]] = True if match[2] is None else match[2]
    return kind, given


def _from_mapping(spec: Mapping[str, object]) -> tuple[Kind, dict[str, object]]:
    """A mapping as its kind and the options it gives; an option that is None counts as left out."""
    if not isinstance(spec, Mapping) or not isinstance(kind := spec.get("kind"), str):
        raise TargetError(f"target {spec!r}: expected a string, a Target, or a mapping with a 'kind' entry")
    return _find_kind(kind, spec), {key: value for key, value in spec.items() if key != "kind" and value is not None}


def _find_kind(name: str, spec: object = None) -> Kind:
    for kind in KINDS.values():
        if name == kind.name or name in kind.aliases:
            return kind
    known = [spelling for kind in KINDS.values() for spelling in (kind.name, *kind.aliases)]
    where = f"target {spec!r}: " if spec is not None else ""
    raise TargetError(f"{where}unknown kind {name!r}{did_you_mean(name, known)}; known kinds: {_kind_list()}")


def _read_options(spec: object, kind: Kind, given: Mapping[str, object]) -> dict[str, Any]:
    """Every option's value by attribute name, defaults filled in."""
    values: dict[str, Any] = {option.attribute: option.default for option in kind.options}
    seen: set[str] = set()
    for key, raw in given.items():
        option = kind.option(key)
        if option is None:
            known = [option.name for option in kind.options]
            raise TargetError(
                f"target {spec!r}: unknown key -{key} for kind {kind.name}{did_you_mean(key, known)}; "
                f"known keys: {', '.join('-' + name for name in known)}"
            )
        if option.name in seen:
            raise TargetError(f"target {spec!r}: key -{option.name} is given twice")
        seen.add(option.name)
        try:
            value = option.read(raw)
        except ValueError as error:
            raise TargetError(f"target {spec!r}: bad value {raw!r} for -{option.name}; expected {error}") from None
        if value != ():  # an empty list is the same as none given
            values[option.attribute] = value
    if kind.warps:
        fitting = kind.warps(values["arch"])
        if "thread_warp_size" not in seen:
            values["thread_warp_size"] = fitting[0]
        elif (warp := values["thread_warp_size"]) not in fitting:
            where = f"-arch={values['arch']}" if values["arch"] else f"kind {kind.name}"
            raise TargetError(
                f"target {spec!r}: bad value {warp} for -thread_warp_size; expected "
                f"{' or '.join(map(str, fitting))}, the threads that run in lockstep with {where}"
            )
    return values


def warp_sizes(kind: str, arch: str) -> tuple[int, ...]:
    """How many threads run in lockstep on an architecture of a kind of GPU."""
    warps = KINDS[kind].warps
    return warps(arch) if warps else ()


def _check_libraries(spec: object, kind: Kind, libs: tuple[str, ...]) -> None:
    if not {*libs} <= {*known_libraries(kind.name)}:
        discover_libraries()
    known = known_libraries(kind.name)
    named = [*known, *(["auto"] if kind.measures else [])]
    for name in libs:
        if name in known or name == "auto":
            continue
        others = [other for other, names in _LIBRARIES.items() if name in names]
        hint = f" (a library for {', '.join(others)})" if others else did_you_mean(name, known)
        raise TargetError(
            f"target {spec!r}: unknown library {name!r} for kind {kind.name}{hint}; known libraries: {', '.join(named)}"
        )


def _print(kind: Kind, values: Mapping[str, Any]) -> str:
    """The canonical string: the kind, then each option that has a value, in the kind's order."""
    words = [kind.name]
    for option in kind.options:
        value = values[option.attribute]
        if value in (None, ()) or value is False:
            continue
        if option.is_flag:
            words.append(f"-{option.name}")
            continue
        if option.name == "libs" and len(value) > 1 and value[0] == "auto":
            value = "auto:" + ",".join(value[1:])
        words.append(f"-{option.name}={','.join(value) if isinstance(value, tuple) else value}")
    return shlex.join(words)


def _kind_list() -> str:
    """The kinds with their aliases, for error messages."""
    return ", ".join(k.name + (f" ({', '.join(k.aliases)})" if k.aliases else "") for k in KINDS.values())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` with the known name closest to `name`, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
