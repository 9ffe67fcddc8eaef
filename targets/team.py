"""Thread teams: a few threads that run a generated function together, as one parallel region.

The threads live in `runtime.c`, which is compiled on first use. A region costs well under a microsecond to start while
the workers still spin (about 50 us after the last one); later it costs a wake-up, and the idle workers cost nothing.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from ..ir.errors import RuntimeInputError
from .cpuinfo import usable_cores
from .toolchain import load_shared

TEAM_HEADER = Path(__file__).with_name("fw_team.h").read_text()
"""C text that a generated source includes to use `fw_team` and `fw_barrier(team, tid)`; it needs no library."""

RUNTIME = (("fw_runtime", TEAM_HEADER + Path(__file__).with_name("runtime.c").read_text()),)
"""The sources of the team's own code, as the toolchain takes them."""

Pointer: TypeAlias = (
    "int | ctypes.c_void_p | ctypes._Pointer[Any] | ctypes._CArgObject | ctypes.Array[Any] | Callable[..., Any] | None"
)
"""What is taken for a C pointer: an address, or any ctypes pointer, array, function or result of `byref`."""

SPIN_NS = 50_000
# At interpreter exit a daemon thread may still be inside a region; it gets this long (seconds) to come out.
_LAST_REGION = 5.0


@lru_cache(maxsize=4)
def load_runtime(*flags: str) -> ctypes.CDLL:
    """The compiled `runtime.c` with its functions declared; `flags` go to the compiler.

    Raises:
        CompileError: there is no C compiler.

    """
    return declared(load_shared(RUNTIME, flags))


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library that `RUNTIME` was compiled to, with its functions declared."""
    library.fw_team_create.argtypes = [ctypes.c_int, ctypes.c_int64]
    library.fw_team_create.restype = ctypes.c_void_p
    library.fw_team_run.argtypes = [ctypes.c_void_p] * 3
    library.fw_team_run.restype = None
    library.fw_team_destroy.argtypes = [ctypes.c_void_p]
    library.fw_team_destroy.restype = None
    return library


class ThreadTeam:
    """`n` threads: the one that calls `run`, and `n - 1` workers that wait for it.

    Python threads that share a team take turns; teams are independent of each other. After a fork the child gets
    workers of its own at its next `run`. A team ends with `close`, at the end of a `with` block, or when it is
    collected.

    Args:
        n: threads, at least 1; with 1 there are no workers and `run` is a plain call.
        runtime: the library that holds the team's code, `load_runtime()` if left out.

    Raises:
        RuntimeInputError: `n` is less than 1.
        CompileError: there is no C compiler to build the runtime with.

    """

    def __init__(self, n: int, runtime: ctypes.CDLL | None = None) -> None:
        if n < 1:
            raise RuntimeInputError(f"a thread team needs at least 1 thread, got {n}")
        self._n = n
        self._runtime = runtime if runtime is not None else load_runtime()
        self._lock = threading.Lock()
        self._closed = False
        self._handle: int | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        _teams.add(self)

    @property
    def n(self) -> int:
        """Threads in the team, the caller's among them."""
        return self._n

    @property
    def handle(self) -> int:
        """The address of the C `fw_team`, which is started if need be; it changes after a fork.

        Raises:
            RuntimeInputError: the team is closed, or the system gives no more threads.

        """
        with self._lock:
            return self._started()

    def run(self, fn: Pointer, arg: Pointer = None) -> None:
        """Call `void fn(void *arg, int tid, int nthreads, fw_team *team)` on every thread and wait for all.

        The interpreter lock is released meanwhile. `fn` must not call back into the same team.

        Raises:
            RuntimeInputError: `fn` is null, the team is closed, or the system gives no more threads.

        """
        if not fn:
            raise RuntimeInputError("a thread team was given a null function to run")
        with self._lock:
            self._runtime.fw_team_run(self._started(), fn, arg)

    def close(self) -> None:
        """End the workers, after the region that is running, if any. Closing twice is fine; running is over."""
        with self._lock:
            self._closed = True
            self._handle = None
            finalizer, self._finalizer = self._finalizer, None
            if finalizer is not None and (call := finalizer.detach()):
                self._runtime.fw_team_destroy(call[2][0])

    def __enter__(self) -> "ThreadTeam":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ThreadTeam({self._n}{', closed' if self._closed else ''})"

    def _started(self) -> int:
        """The handle, with the workers there; the lock is held."""
        if self._closed:
            raise RuntimeInputError("the thread team is closed")
        if self._handle is None:
            # With more threads than processors, spinning takes the time of the very thread that is waited for.
            spin_ns = SPIN_NS if self._n <= usable_cores() else 0
            created: int | None = self._runtime.fw_team_create(self._n, spin_ns)
            if not created:
                raise RuntimeInputError(f"the system cannot start {self._n - 1} more threads; ask for fewer")
            self._handle = created
            self._finalizer = weakref.finalize(self, _end, created, self._lock, self._runtime)
            return created
        return self._handle

    def _after_fork_in_child(self) -> None:
        # The workers stayed with the parent, and so may have the holder of the lock.
        self._lock = threading.Lock()
        self._handle = None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None


_teams: "weakref.WeakSet[ThreadTeam]" = weakref.WeakSet()


def _end(handle: int, lock: threading.Lock, runtime: ctypes.CDLL) -> None:
    """Destroy a team that is collected, or that is left when the interpreter exits."""
    if lock.acquire(timeout=_LAST_REGION):
        runtime.fw_team_destroy(handle)
        lock.release()


def _reset_teams() -> None:
    for team in list(_teams):
        team._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_teams)
