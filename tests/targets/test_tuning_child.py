"""The process that candidates of a device run in, with questions in place of candidates."""

import os
from collections.abc import Iterator

import pytest

import fusewire as fw
from fusewire.targets.tuning.child import Child, ChildFailed


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child("tests.targets.answers", (100,))
    yield made
    made.close()


def test_questions_and_answers(child: Child) -> None:
    assert child.ask(3, 60) == 109 and child.ask(4, 60) == 116
    with pytest.raises(fw.FusewireError, match="nobody knows the answer"):
        child.ask("the answer", 60)
    assert child.ask("pid", 60) != os.getpid() and child.ended == 0


def test_another_process_follows_one_that_failed(child: Child) -> None:
    with pytest.raises(ChildFailed, match=r"crashed \(signal SIGABRT: the driver's last words\)"):
        child.ask("abort", 60)
    assert child.ask(1, 60) == 101 and child.ended == 1
    with pytest.raises(ChildFailed, match=r"crashed \(exit status 3\)"):
        child.ask("exit", 60)
    pid = child.ask("pid", 60)
    with pytest.raises(ChildFailed, match=r"took longer than 0.3 s"):
        child.ask("hang", 0.3)
    assert child.ended == 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_its_owner(child: Child) -> None:
    pid = child.ask("pid", 60)
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_by_itself_when_nobody_listens(child: Child) -> None:
    pid = child.ask("pid", 60)
    assert child._pipe is not None and child._process is not None
    child._pipe.close()
    child._process.wait(60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    child._pipe = None
