"""Locks that are open in a forked child.

A fork copies every lock, but of the threads only the one that forks: a lock that another one held would stay shut.
"""

import os
import threading
import weakref


class Lock:
    """A mutual exclusion lock for `with`; a forked child finds it open, whoever held it in the parent."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _open_all() -> None:
    for lock in list(_locks):
        lock._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)
