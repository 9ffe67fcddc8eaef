"""The session of one command: where it writes, how much it logs, and how it ends.

Exit statuses: 0; 1 where something failed; 2 for bad usage; 130 after Ctrl-C. An error is one paragraph on stderr.
"""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from attrs import define
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..ir.errors import FusewireError
from ..report.data import finite
from ..targets.target import Target

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
_WIDE = 10_000  # columns: what goes into a pipe is not folded
_STYLES = {"ERROR": "bold red", "WARNING": "yellow", "INFO": "cyan", "DEBUG": "dim"}

_log = logging.getLogger("fusewire")


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if _is_terminal(stream) else _WIDE
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def _is_terminal(stream: Any) -> bool:
    return not stream.closed and bool(stream.isatty())


class _Handler(logging.Handler):
    """Writes log records to stderr, above the progress bar where there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname
        line = Text.assemble((f"{level.lower()}: ", _STYLES.get(level, "")), self.format(record))
        self.console.print(line, soft_wrap=True)


@define(eq=False)
class Session:
    """One run of the command line.

    Attributes:
        verbosity: 0: warnings; 1: the log's INFO too; 2: and DEBUG.
        debug: whether errors come with a traceback.
        out, err: the consoles of stdout and stderr; coloured on terminals only, and not if NO_COLOR is set.
    """

    out: Console
    err: Console
    verbosity: int = 0
    debug: bool = False

    @staticmethod
    def start() -> "Session":
        """A session on the present stdout and stderr."""
        for name in ("stdout", "stderr"):  # None where the caller closed them
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open until the process ends
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names that the terminal cannot show are no reason to fail
                stream.reconfigure(errors="backslashreplace")
        return Session(_console(stderr=False), _console(stderr=True))

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Show fusewire's log on stderr meanwhile."""
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        before, level = _log.handlers[:], _log.level
        handler = _Handler(self.err)
        _log.handlers[:] = [handler]  # also in place of the one that FUSEWIRE_DEBUG asks for
        chosen = levels[min(self.verbosity, 2)]
        _log.setLevel(min(chosen, level) if level else chosen)
        try:
            yield
        finally:
            _log.handlers[:] = before
            _log.setLevel(level)

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str], None]]:
        """A progress bar on stderr while something long runs; nothing where stderr is no terminal.

        Args:
            total: how many steps there will be.

        Yields:
            A function to call at the beginning of each step, with what it is.
        """
        if not _is_terminal(sys.stderr):
            yield lambda what: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=total + 1)
            yield lambda what: bar.update(task, description=what, advance=1, refresh=True)

    @contextlib.contextmanager
    def bar(self) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar for work whose size shows only when it begins; nothing where stderr is no terminal.

        Yields:
            A function of what is done next, how much is done, and of how much.
        """
        if not _is_terminal(sys.stderr):
            yield lambda what, done, total: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)

    def line(self, text: str = "", style: str = "") -> None:
        """A line on stdout."""
        self.out.print(Text(text, style), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line on stderr, for people."""
        self.err.print(Text(text), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """A table on stdout, columns of numbers to the right; folded on a terminal, one line for each row elsewhere."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for k, name in enumerate(columns):
            numeric = bool(rows) and all(_is_number(row[k]) for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        with self.out.capture() as captured:
            self.out.print(table)
        # Cells are padded to the width of their column; at the end of a line nobody wants that.
        lines = captured.get().splitlines()
        click.echo("\n".join(line.rstrip() for line in lines), color=True)

    def json(self, data: Any) -> None:
        """Data as JSON on stdout; numbers that JSON does not have become the strings "inf", "-inf" and "nan"."""
        click.echo(json.dumps(finite(data), indent=2, allow_nan=False, ensure_ascii=False))

    def fail(self, message: str) -> None:
        """Show an error."""
        self.err.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait: for loading native modules that crash when they are interrupted there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def shown(target: Target) -> str:
    """A target for people to read: its canonical string without the keys, where those are the default ones."""
    short = " ".join(word for word in str(target).split(" ") if not word.startswith("-keys="))
    return short if Target(short) == target else str(target)


def _is_number(cell: str | Text) -> bool:
    text = str(cell).removesuffix("%").strip()
    try:
        float(text or "-")
    except ValueError:
        return text == "-"
    return True


def _more_verbose(ctx: click.Context, param: click.Parameter, value: int) -> None:
    ctx.ensure_object(Session).verbosity += value


def _with_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Session).debug |= value


def _everywhere() -> list[click.Parameter]:
    """The options that may stand before the command's name and behind it."""
    verbose = "Show what the compiler decides; twice: in detail."
    return [
        click.Option(
            ["-v", "--verbose"], count=True, expose_value=False, is_eager=True, callback=_more_verbose, help=verbose
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_with_traceback,
            help="Show tracebacks of errors.",
        ),
    ]


class Command(click.Command):
    """A command with the options that all have, and its examples at the end of its help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        if examples:
            kwargs["epilog"] = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
        super().__init__(*args, **kwargs)
        self.params += _everywhere()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the log on stderr."""
        with ctx.ensure_object(Session).logging():
            return super().invoke(ctx)


class Group(click.Group):
    """All commands; `main` turns errors into messages and exit statuses."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _everywhere()

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line and exit with its status."""
        session = Session.start()
        kwargs |= {"standalone_mode": False, "obj": session}
        try:
            result = super().main(*args, **kwargs)
            status = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except Exception as error:
            status = _report(error, session)
        sys.exit(status)


def _report(error: Exception, session: Session) -> int:
    """Show an error; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return FAILED
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, click.Abort):
        session.note("Interrupted.")
        return INTERRUPTED
    if isinstance(error, click.UsageError):
        _usage(error, session)
        return BAD_USAGE
    session.fail(_message(error))
    return FAILED


def _usage(error: click.UsageError, session: Session) -> None:
    path = error.ctx.command_path if error.ctx else "fusewire"
    session.fail(error.format_message())
    session.note(f"'{path} --help' shows what it takes.")


def _message(error: Exception) -> str:
    match error:
        case click.ClickException():
            return error.format_message()
        case FusewireError():
            return str(error)
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        case OSError():
            return f"cannot write the output: {error.strerror}" if error.strerror else str(error)
        case MemoryError():
            return "there is not enough memory"
    return (
        f"fusewire failed where it should not: {type(error).__name__}: {error}. This is a bug: please report it, with "
        f"what --debug shows"
    )


def _drop_stdout() -> None:
    """Let nothing be flushed into a pipe that nobody reads, not even when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
