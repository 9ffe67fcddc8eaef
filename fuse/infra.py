"""Passes, the context they run in, and how they are put in a row.

A pass takes a module and gives a module. `Sequential` runs a list of them under the current `PassContext`, which says
how hard to optimise, which passes are forced or forbidden, and who watches. Around every pass types are inferred and
the IR is verified, so a pass that breaks an invariant is named in the error.

    with PassContext(opt_level=3, disabled_pass=["FoldScaleAxis"], instruments=[PassTimingInstrument()]):
        mod = Sequential([FoldConstant(), FuseOps()])(mod)
"""

import difflib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, overload

from attrs import field, frozen

from ..ir.errors import FusewireError
from ..ir.expr import Function
from ..ir.infer import infer_module
from ..ir.module import IRModule
from ..ir.verify import verify
from .graph import is_sealed
from .instrument import PassInfo, PassInstrument

_log = logging.getLogger("fusewire")

DEFAULT_OPT_LEVEL = 2

PassFunction = Callable[[IRModule, "PassContext"], IRModule]
FunctionPassFunction = Callable[[Function, IRModule, "PassContext"], Function]


@frozen
class ConfigOption:
    """An entry that `PassContext(config=...)` may have.

    Attributes:
        name: the key, e.g. "relay.FuseOps.max_depth".
        type: the Python type of its values.
        default: the value where the context gives none.
        doc: one line on what it does.

    """

    name: str
    type: type
    default: Any
    doc: str


_options: dict[str, ConfigOption] = {}
_pass_names: set[str] = set()


def config_option(name: str, default: Any, doc: str) -> ConfigOption:
    """Declare an entry of `PassContext.config`; its type is that of `default`."""
    option = _options[name] = ConfigOption(name, type(default), default, doc)
    return option


def known_passes() -> list[str]:
    """The names of all passes that were made so far, sorted."""
    return sorted(_pass_names)


def debug_level() -> int:
    """The value of FUSEWIRE_DEBUG (0 where unset; 1 timings, 2 passes, 3 loop IR, 4 kernel source)."""
    text = os.environ.get("FUSEWIRE_DEBUG", "") or "0"
    if not text.isdigit():
        raise FusewireError(f"FUSEWIRE_DEBUG must be a number from 0 to 4, got {text!r}")
    return int(text)


def _names(value: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(value or ())


def _instruments(value: Iterable[PassInstrument] | None) -> tuple[PassInstrument, ...]:
    return tuple(value or ())


def _as_dict(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(value or {})


def _check_names(context: Any, attribute: Any, value: tuple[str, ...]) -> None:
    for name in value:
        if name not in _pass_names:
            raise FusewireError(f"{attribute.name}: unknown pass {name!r}; the passes are {', '.join(known_passes())}")


def _check_instruments(context: Any, attribute: Any, value: tuple[PassInstrument, ...]) -> None:
    for given in value:
        if not isinstance(given, PassInstrument):
            raise FusewireError(f"instruments: expected objects of classes derived from PassInstrument, got {given!r}")


def _check_level(context: Any, attribute: Any, value: int) -> None:
    if not isinstance(value, int) or value < 0:
        raise FusewireError(f"opt_level must be a number from 0 on, got {value!r}")


def _check_config(context: Any, attribute: Any, value: Mapping[str, Any]) -> None:
    for key, given in value.items():
        option = _options.get(key)
        if option is None:
            near = difflib.get_close_matches(key, _options, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise FusewireError(f"config: unknown key {key!r}{hint}; the keys are {', '.join(sorted(_options))}")
        if not isinstance(given, option.type) or (isinstance(given, bool) and option.type is not bool):
            raise FusewireError(f"config: {key} must be of type {option.type.__name__}, got {given!r}")


_stack: ContextVar[tuple["PassContext", ...]] = ContextVar("fusewire_pass_context", default=())


@frozen(eq=False)
class PassContext:
    """How passes run inside of a `with` block; the block affects only the thread or task that opened it.

    Args:
        opt_level: passes of a higher level are skipped by `Sequential`.
        required_pass: names of passes that run whatever their level.
        disabled_pass: names of passes that never run; this wins over `required_pass`.
        instruments: objects that watch every pass.
        config: options by key; `PassContext.list_configs()` gives those that exist.

    Raises:
        FusewireError: a pass name, config key or config value that does not exist; the message lists those that do.

    """

    opt_level: int = field(default=DEFAULT_OPT_LEVEL, validator=_check_level)
    required_pass: tuple[str, ...] = field(default=(), converter=_names, validator=_check_names)
    disabled_pass: tuple[str, ...] = field(default=(), converter=_names, validator=_check_names)
    instruments: tuple[PassInstrument, ...] = field(default=(), converter=_instruments, validator=_check_instruments)
    config: Mapping[str, Any] = field(factory=dict, converter=_as_dict, validator=_check_config)

    @staticmethod
    def current() -> "PassContext":
        """The innermost open context, or the default one (`opt_level=2`)."""
        stack = _stack.get()
        return stack[-1] if stack else _default

    @staticmethod
    def list_configs() -> dict[str, ConfigOption]:
        """Every config option by its key."""
        return dict(_options)

    def __enter__(self) -> "PassContext":
        for instrument in self.instruments:
            instrument.enter_pass_ctx()
        _stack.set((*_stack.get(), self))  # last: an instrument that fails leaves no context behind
        return self

    def __exit__(self, *exc_info: object) -> None:
        _stack.set(_stack.get()[:-1])
        for instrument in self.instruments:
            instrument.exit_pass_ctx()

    def option(self, option: ConfigOption) -> Any:
        """The value of a config option in this context."""
        return self.config.get(option.name, option.default)

    def enabled(self, info: PassInfo) -> bool:
        """Whether `Sequential` runs a pass in this context."""
        if info.name in self.disabled_pass:
            return False
        return info.name in self.required_pass or info.opt_level <= self.opt_level

    def admitted(self, mod: IRModule, info: PassInfo) -> bool:
        """Whether all instruments let a pass run."""
        return info.name in self.required_pass or all(i.should_run(mod, info) for i in self.instruments)


_default = PassContext()


@frozen(eq=False)
class Pass:
    """A named function from module to module.

    Calling a pass runs it whatever its level, as in Relay; only `Sequential` looks at levels.
    """

    name: str
    opt_level: int
    fn: PassFunction

    def __attrs_post_init__(self) -> None:
        _pass_names.add(self.name)

    @property
    def info(self) -> PassInfo:
        """Name and level, as instruments see them."""
        return PassInfo(self.name, self.opt_level)

    def __call__(self, mod: IRModule) -> IRModule:
        """Run the pass on a module; the module given is not changed.

        Raises:
            TypeInferenceError: the module is ill-typed.
            VerifyError: the pass made an invalid module.

        """
        if not isinstance(mod, IRModule):
            raise FusewireError(f"pass {self.name} works on an IRModule, got {type(mod).__name__}")
        context = PassContext.current()
        if not context.admitted(mod, self.info):
            return mod
        for instrument in context.instruments:
            instrument.run_before_pass(mod, self.info)
        result = self._run(mod, context)
        for instrument in context.instruments:
            instrument.run_after_pass(result, self.info)
        return result

    def _run(self, mod: IRModule, context: PassContext) -> IRModule:
        start = time.perf_counter()
        inferred = infer_module(mod)
        typed = inferred if changes(mod, inferred) else mod
        result = self.fn(typed, context)
        changed = changes(typed, result)
        if changed:
            result = infer_module(result)
            verify(result, after=self.name)
        if debug_level() >= 2:
            what = f"changed {', '.join(changed)}" if changed else "no change"
            print(f"pass {self.name}: {what}, {(time.perf_counter() - start) * 1e3:.1f} ms", file=sys.stderr)
        return result


def changes(before: IRModule, after: IRModule) -> list[str]:
    """The names of functions that are new, gone, or another object than before."""
    names = dict.fromkeys((*before.functions, *after.functions))
    return [name for name in names if before.functions.get(name) is not after.functions.get(name)]


def _run_all(passes: Sequence[Pass], mod: IRModule, context: PassContext) -> IRModule:
    for step in passes:
        if context.enabled(step.info):
            mod = step(mod)
        else:
            _log.debug("pass %s (level %d) is skipped at level %d", step.name, step.opt_level, context.opt_level)
    return mod


@frozen(eq=False, init=False)
class Sequential(Pass):
    """Passes in a row; each runs if the context enables it.

    Args:
        passes: the passes, in order.
        opt_level: the level of the row as a whole, for use inside of another one.
        name: what instruments see.

    """

    passes: tuple[Pass, ...]

    def __init__(self, passes: Iterable[Pass] = (), opt_level: int = 0, name: str = "sequential") -> None:
        steps = tuple(passes)
        for step in steps:
            if not isinstance(step, Pass):
                raise FusewireError(f"Sequential takes passes, got {step!r}; call its constructor, e.g. FoldConstant()")
        super().__init__(name, opt_level, lambda mod, context: _run_all(steps, mod, context))
        object.__setattr__(self, "passes", steps)

    def _run(self, mod: IRModule, context: PassContext) -> IRModule:
        # The steps infer, verify and report for themselves.
        return self.fn(mod, context)


def over_functions(name: str, opt_level: int, fn: FunctionPassFunction) -> Pass:
    """A pass that rewrites every function of a module but those already fused or handed to a library."""

    def run(mod: IRModule, context: PassContext) -> IRModule:
        new = {key: f if is_sealed(f) else fn(f, mod, context) for key, f in mod.functions.items()}
        return mod if all(new[key] is f for key, f in mod.functions.items()) else IRModule(new)

    return Pass(name, opt_level, run)


class PassDecorator(Protocol):
    """Makes a `Pass` of a function, and a constructor of passes of a class."""

    @overload
    def __call__(self, target: type) -> Callable[..., Pass]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, target: Callable[..., Any]) -> Pass: ...


@overload
def module_pass(
    pass_func: None = None, opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> PassDecorator: ...


@overload
def module_pass(
    pass_func: Callable[..., Any], opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> Pass: ...


def module_pass(
    pass_func: Any = None, opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> Any:
    """Make a pass of `pass_func(mod, ctx) -> mod`, or of a class with `transform_module(self, mod, ctx)`; a decorator.

    Args:
        pass_func: the function or class; absent where this is used as a decorator with arguments.
        opt_level: the level at which the pass is enabled.
        name: its name; by default the function's.
        required: accepted for compatibility: types are always inferred before a pass.

    """
    return _decorator(pass_func, opt_level, name, "transform_module", Pass)


@overload
def function_pass(
    pass_func: None = None, opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> PassDecorator: ...


@overload
def function_pass(
    pass_func: Callable[..., Any], opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> Pass: ...


def function_pass(
    pass_func: Any = None, opt_level: int = 0, name: str | None = None, required: Sequence[str] | None = None
) -> Any:
    """Make a pass of `pass_func(func, mod, ctx) -> func`, or a class with `transform_function(self, func, mod, ctx)`.

    It runs on every function that is neither fused nor a library's. Arguments as for `module_pass`.
    """
    return _decorator(pass_func, opt_level, name, "transform_function", over_functions)


def _decorator(
    pass_func: Any, opt_level: int, name: str | None, method: str, make: Callable[[str, int, Any], Pass]
) -> Any:
    def decorate(target: Any) -> Any:
        label = name or target.__name__
        if not isinstance(target, type):
            return make(label, opt_level, target)
        if not hasattr(target, method):
            raise FusewireError(f"class {target.__name__} needs a method {method} to become a pass")
        return lambda *args, **kwargs: make(label, opt_level, getattr(target(*args, **kwargs), method))

    return decorate if pass_func is None else decorate(pass_func)
