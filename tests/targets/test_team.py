import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusewire.ir.errors import RuntimeInputError
from fusewire.targets.team import TEAM_HEADER, ThreadTeam, load_runtime
from fusewire.targets.toolchain import load_shared

PROBE = (
    TEAM_HEADER
    + r"""
#include <stdint.h>
#include <string.h>
#define MAX 64
typedef struct {
  int phases, skew;
  volatile int slots[MAX];   /* one per thread, written in one phase and read by all in the next */
  volatile long wrong, calls[MAX];
  volatile int nthreads;
  volatile double work;
} probe;

/* Each phase: every thread writes its slot; all wait; every thread checks every slot; all wait. */
void phases(void *arg, int tid, int nthreads, void *team_) {
  fw_team *team = team_;
  probe *p = arg;
  long wrong = 0;
  p->calls[tid] += 1;
  if (tid == 0) p->nthreads = nthreads;
  for (int phase = 0; phase < p->phases; ++phase) {
    if (p->skew && phase % nthreads == tid)
      for (int i = 0; i < p->skew; ++i) p->work += 1;
    p->slots[tid] = phase * MAX + tid;
    fw_barrier(team, tid);
    for (int i = 0; i < nthreads; ++i) wrong += p->slots[i] != phase * MAX + i;
    team->barrier(team, tid);
  }
  __atomic_fetch_add((long *)&p->wrong, wrong + (team->nthreads != nthreads), __ATOMIC_RELAXED);
}

/* Adds to a plain counter without a lock: correct only if one region runs at a time. */
void count_alone(void *arg, int tid, int nthreads, void *team) {
  volatile long *counter = arg;
  if (tid == 0)
    for (int i = 0; i < 1000; ++i) *counter += 1;
  (void)nthreads; (void)team;
}

void thread_ids(void *arg, int tid, int nthreads, void *team) {
  ((char **)arg)[tid] = (char *)__builtin_frame_address(0);
  (void)nthreads; (void)team;
}

/* Waits until `*arg` is nonzero. */
void hold(void *arg, int tid, int nthreads, void *team) {
  while (!__atomic_load_n((int *)arg, __ATOMIC_ACQUIRE)) ;
  (void)tid; (void)nthreads; (void)team;
}
"""
)


class Probe(ctypes.Structure):
    _fields_ = (
        ("phases", ctypes.c_int),
        ("skew", ctypes.c_int),
        ("slots", ctypes.c_int * 64),
        ("wrong", ctypes.c_long),
        ("calls", ctypes.c_long * 64),
        ("nthreads", ctypes.c_int),
        ("work", ctypes.c_double),
    )


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def probe_lib(cache: Path) -> ctypes.CDLL:
    return load_shared([("probe", PROBE)], ["-O2"])


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether `condition()` comes true; the limit only ends a test that would fail anyway."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def settles_at(expected: set[str]) -> bool:
    """Whether the process has just the `expected` threads, soon: one that was joined stays listed for a moment."""
    return until(lambda: threads() == expected)


def check(team: ThreadTeam, n: int, lib: ctypes.CDLL, phases: int = 50, skew: int = 0, regions: int = 1) -> None:
    probe = Probe(phases=phases, skew=skew)
    for _ in range(regions):
        team.run(lib.phases, ctypes.byref(probe))
    assert probe.wrong == 0
    assert probe.nthreads == n
    assert list(probe.calls) == [regions] * n + [0] * (64 - n)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")


@pytest.mark.parametrize("flags", [(), ("-DFW_NO_FUTEX",)], ids=["default", "condition variables"])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_every_thread_sees_what_the_others_wrote(n: int, flags: tuple[str, ...], probe_lib: ctypes.CDLL) -> None:
    with ThreadTeam(n, load_runtime(*flags)) as team:
        assert team.n == n
        check(team, n, probe_lib, phases=1000)
        check(team, n, probe_lib, phases=20, skew=20_000)
        check(team, n, probe_lib, phases=3, regions=300)
        check(team, n, probe_lib, phases=0, regions=300)


@pytest.mark.parametrize("flags", [(), ("-DFW_NO_FUTEX",)], ids=["default", "condition variables"])
@pytest.mark.parametrize("spin_ns", [0, 1_000, 1_000_000])
def test_any_spinning_time(
    spin_ns: int, flags: tuple[str, ...], probe_lib: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusewire.targets.team.SPIN_NS", spin_ns)
    monkeypatch.setattr("fusewire.targets.team.usable_cores", lambda: 8)
    with ThreadTeam(3, load_runtime(*flags)) as team:
        check(team, 3, probe_lib, phases=20, regions=10)


@needs_proc
def test_threads_come_and_go(probe_lib: ctypes.CDLL) -> None:
    before = threads()
    team = ThreadTeam(4)
    assert threads() == before  # not until the first run
    check(team, 4, probe_lib)
    assert len(threads() - before) == 3
    check(team, 4, probe_lib)
    assert len(threads() - before) == 3
    team.close()
    assert settles_at(before)
    team.close()
    assert repr(team) == "ThreadTeam(4, closed)"


@needs_proc
def test_one_thread_is_a_plain_call(probe_lib: ctypes.CDLL) -> None:
    before = threads()
    with ThreadTeam(1) as team:
        check(team, 1, probe_lib, phases=3)
        assert threads() == before
        stacks = (ctypes.c_void_p * 2)()
        team.run(probe_lib.thread_ids, stacks)
        assert stacks[0] and not stacks[1]


@needs_proc
def test_collected_team_ends_its_threads(probe_lib: ctypes.CDLL) -> None:
    before = threads()
    team = ThreadTeam(3)
    check(team, 3, probe_lib)
    assert len(threads() - before) == 2
    del team
    gc.collect()
    assert settles_at(before)


@needs_proc
def test_team_ends_when_a_block_fails(probe_lib: ctypes.CDLL) -> None:
    before = threads()
    with pytest.raises(ZeroDivisionError), ThreadTeam(3) as team:
        check(team, 3, probe_lib)
        raise ZeroDivisionError
    assert settles_at(before)


@needs_proc
@pytest.mark.parametrize("flags", [(), ("-DFW_NO_FUTEX",)], ids=["default", "condition variables"])
def test_idle_workers_sleep_and_wake(flags: tuple[str, ...], probe_lib: ctypes.CDLL) -> None:
    before = threads()

    def asleep(worker: str) -> bool:
        status = Path(f"/proc/self/task/{worker}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "S"

    with ThreadTeam(3, load_runtime(*flags)) as team:
        check(team, 3, probe_lib)
        workers = threads() - before
        for _ in range(3):
            assert until(lambda: all(asleep(worker) for worker in workers))
            check(team, 3, probe_lib, phases=5)


def test_threads_have_stacks_of_their_own(probe_lib: ctypes.CDLL) -> None:
    stacks = (ctypes.c_void_p * 5)()
    with ThreadTeam(5) as team:
        team.run(probe_lib.thread_ids, stacks)
    assert len({(address or 0) >> 20 for address in stacks}) == 5


def test_address_works_as_function_and_argument(probe_lib: ctypes.CDLL) -> None:
    counter = ctypes.c_long()
    with ThreadTeam(2) as team:
        team.run(ctypes.cast(probe_lib.count_alone, ctypes.c_void_p).value, ctypes.addressof(counter))
        team.run(ctypes.cast(probe_lib.count_alone, ctypes.c_void_p), ctypes.pointer(counter))
        assert team.handle == team.handle
    assert counter.value == 2000


def test_python_threads_take_turns_on_one_team(probe_lib: ctypes.CDLL) -> None:
    counter, errors = ctypes.c_long(), []

    def use(team: ThreadTeam) -> None:
        try:
            for _ in range(50):
                team.run(probe_lib.count_alone, ctypes.byref(counter))
                check(team, 2, probe_lib, phases=2)
        except BaseException as error:
            errors.append(error)

    with ThreadTeam(2) as team:
        users = [threading.Thread(target=use, args=(team,)) for _ in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    assert not errors and counter.value == 4 * 50 * 1000


def test_two_teams_run_at_once(probe_lib: ctypes.CDLL) -> None:
    """The first team's region ends only after a whole region of the second has run."""
    release = ctypes.c_int(0)
    with ThreadTeam(2) as held, ThreadTeam(2) as other:
        user = threading.Thread(target=held.run, args=(probe_lib.hold, ctypes.byref(release)))
        user.start()
        check(other, 2, probe_lib, phases=3)
        assert user.is_alive()
        release.value = 1
        user.join()


def test_close_waits_for_the_region_that_runs(probe_lib: ctypes.CDLL) -> None:
    release = ctypes.c_int(0)
    team = ThreadTeam(2)
    user = threading.Thread(target=team.run, args=(probe_lib.hold, ctypes.byref(release)))
    user.start()
    assert until(team._lock.locked)
    closer = threading.Thread(target=team.close)
    closer.start()
    assert closer.is_alive()
    release.value = 1
    closer.join()
    user.join()
    with pytest.raises(RuntimeInputError, match="closed"):
        team.run(probe_lib.hold, ctypes.byref(release))


def in_child(action: Callable[[], object]) -> int | str:
    """Fork, run `action` in the child, and return its exit status; a child that hangs is killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    ended, status = 0, 0

    def has_ended() -> bool:
        nonlocal ended, status
        ended, status = os.waitpid(pid, os.WNOHANG)
        return ended == pid

    if not until(has_ended):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "hung"
    return os.waitstatus_to_exitcode(status)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
quiet_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@needs_fork
@needs_proc
@quiet_fork
def test_child_gets_workers_of_its_own(probe_lib: ctypes.CDLL) -> None:
    with ThreadTeam(3) as team, ThreadTeam(2) as idle:
        check(team, 3, probe_lib)
        parent = team.handle

        def child() -> None:
            assert len(threads()) == 1
            check(team, 3, probe_lib)
            assert len(threads()) == 3
            check(idle, 2, probe_lib)
            team.close()
            idle.close()
            assert until(lambda: len(threads()) == 1)

        assert in_child(child) == 0
        check(team, 3, probe_lib)  # the child's close left the parent's workers alone
        assert team.handle == parent
        assert in_child(team.close) == 0
        assert in_child(gc.collect) == 0
    assert in_child(lambda: check(team, 3, probe_lib)) == 1  # closed for the child too


@needs_fork
@quiet_fork
def test_team_collected_in_the_child_leaves_the_parents_workers_alone(probe_lib: ctypes.CDLL) -> None:
    teams = [ThreadTeam(3)]
    check(teams[0], 3, probe_lib)

    def child() -> None:
        teams.clear()
        gc.collect()
        check(ThreadTeam(3), 3, probe_lib)

    assert in_child(child) == 0
    check(teams[0], 3, probe_lib)
    teams[0].close()


@needs_fork
@quiet_fork
def test_fork_while_a_region_runs(probe_lib: ctypes.CDLL) -> None:
    release = ctypes.c_int(0)
    with ThreadTeam(2) as team:
        user = threading.Thread(target=team.run, args=(probe_lib.hold, ctypes.byref(release)))
        user.start()
        assert until(team._lock.locked)
        status = in_child(lambda: check(team, 2, probe_lib))
        release.value = 1
        user.join()
        assert status == 0
        check(team, 2, probe_lib)


@pytest.mark.parametrize("n", [0, -1])
def test_too_few_threads(n: int) -> None:
    with pytest.raises(RuntimeInputError, match="at least 1"):
        ThreadTeam(n)


def test_null_function() -> None:
    with ThreadTeam(2) as team:
        for null in (0, None, ctypes.c_void_p()):
            with pytest.raises(RuntimeInputError, match="null"):
                team.run(null)


@needs_fork
@quiet_fork
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_more_threads_than_the_system_gives(probe_lib: ctypes.CDLL) -> None:
    resource = pytest.importorskip("resource")

    def child() -> None:
        # Each thread reserves its stack, so a bound on address space is a bound on threads that root obeys too.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
        team = ThreadTeam(60)
        try:
            team.run(probe_lib.thread_ids, (ctypes.c_void_p * 60)())
        except RuntimeInputError as error:
            assert "cannot start 59 more threads" in str(error)
        else:
            raise AssertionError("expected an error")
        assert until(lambda: len(threads()) == 1)  # those that did start are gone
        check(ThreadTeam(2), 2, probe_lib)

    assert in_child(child) == 0
