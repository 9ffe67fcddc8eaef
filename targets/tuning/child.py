"""A process of its own for work that may crash or never come back: a request at a time, each with a limit.

The process is a fresh interpreter (a fork would take locks and threads of drivers with it) that imports one module of
this package, whose `serve(...)` gives the function that answers. It ends with its parent, however that ends: the pipe
closes, Linux sends it a signal, and an alarm ends it wherever it hangs.
"""

import contextlib
import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

from attrs import define, field

from ...ir.errors import FusewireError

START_LIMIT = 120.0
"""Seconds in which the process must be there."""
GRACE = 5.0
"""Seconds that the parent has to end a process that hangs, before it ends itself."""

_PDEATHSIG = 1  # of prctl(2)


class ChildFailed(FusewireError):
    """A request was not answered: the process crashed, or took too long. The next request starts a new one."""


class Unusable(FusewireError):
    """What was asked for failed, and left the process in a state in which everything else would fail, too: it ends."""


@define(eq=False)
class Child:
    """A process that answers requests; started by the first one, and again after a failure.

    Attributes:
        module: whose `serve` runs there.
        arguments: of `serve`.
        ended: how many processes there were before; what they knew is lost.
    """

    module: str
    arguments: tuple[object, ...] = ()
    ended: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _pipe: "Connection[Any, Any] | None" = None
    _said: IO[bytes] = field(factory=tempfile.TemporaryFile)

    def ask(self, request: object, limit: float) -> Any:
        """The answer to a request.

        Args:
            request: plain data.
            limit: how many seconds it may take.

        Raises:
            ChildFailed: the process crashed, or there was no answer in time.
            FusewireError: what was asked for failed there.
        """
        if self._process is None:
            self._start()
        return self._ask((limit, request), limit)

    def _start(self) -> None:
        ours, theirs = Pipe()
        said = self._said.fileno()
        program = f"import sys, importlib; sys.path[:] = {sys.path!r}; importlib.import_module({__name__!r}).main()"
        given = pickle.dumps((self.module, self.arguments)).hex()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, str(theirs.fileno()), str(os.getpid()), given],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the parent, which ends this one in good order
            )  # fmt: skip
        self._pipe = ours
        self._ask(None, START_LIMIT)

    def _ask(self, message: object, limit: float) -> Any:
        assert self._pipe is not None
        try:
            if message is not None:
                self._pipe.send(message)
            if not self._pipe.poll(limit):
                self.close()
                raise ChildFailed(f"took longer than {limit:g} s")
            fine, answer, last = self._pipe.recv()
        except (EOFError, OSError):
            raise ChildFailed(self._crash()) from None
        if last:
            self.close()
        if not fine:
            raise FusewireError(answer)
        return answer

    def _crash(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.close()
        lines = self._last_words()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"crashed ({how}{': ' if lines else ''}{lines})"

    def _last_words(self) -> str:
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        self._said.seek(0)
        self._said.truncate()
        return lines[-1].strip()[:200] if lines else ""

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.ended += 1
        self._process = self._pipe = None


def main() -> None:
    """The process: serves requests until the pipe closes."""
    number, parent, given = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was gone before
            return
    module, arguments = pickle.loads(bytes.fromhex(given))
    with contextlib.suppress(EOFError, OSError), Connection(int(number)) as pipe:
        answer: Callable[[Any], object] = importlib.import_module(module).serve(*arguments)
        pipe.send((True, None, False))
        last = False
        while not last:
            limit, request = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
            try:
                reply: tuple[bool, object] = True, answer(request)
            except FusewireError as error:
                reply, last = (False, str(error)), isinstance(error, Unusable)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((*reply, last))
