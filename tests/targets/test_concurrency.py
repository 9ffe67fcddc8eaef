"""Modules beside other threads and processes: locks after a fork, other libraries' threads, one call for each run."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.targets.team import ThreadTeam

Array = npt.NDArray[Any]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")


def network(cores: int = 2) -> tuple[fw.CompiledModule, Array]:
    """A module of several steps, all large enough for the whole team, and its input."""
    x, weight = fw.var("x", shape=(128, 256)), np.random.default_rng(0).standard_normal((256, 256)) / 16
    net = fw.nn.softmax(fw.nn.dense(fw.exp(x), fw.const(weight.astype(np.float32))))
    net = fw.nn.dense(net + 1.0, fw.const(weight.astype(np.float32)))
    given = np.random.default_rng(1).uniform(-1, 1, (128, 256)).astype(np.float32)
    return fw.build(fw.Function([x], net), f"cpu -num-cores={cores}"), given


def module_of(lib: fw.CompiledModule) -> fw.GraphModule:
    return fw.GraphModule(lib["default"](fw.cpu()))


def network_that_ran() -> tuple[fw.CompiledModule, Array, fw.GraphModule, Array]:
    """The network, its input, a module of it that has run once, and the result."""
    lib, x = network()
    module = module_of(lib)
    module.run(x=x)
    return lib, x, module, module.get_output(0).numpy()


def in_child(action: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether `action` gives true in a forked child, which must end in time."""

    def work(answer: Any) -> None:
        answer.send(action())

    context = multiprocessing.get_context("fork")
    answers, answer = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(answer,))
    child.start()
    try:
        return answers.poll(seconds) and bool(answers.recv())
    finally:
        child.kill()
        child.join()


class Repeating(threading.Thread):
    """A thread that does something over and over; `with` starts and ends it."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.action, self.over, self.begun, self.errors = action, threading.Event(), threading.Event(), list[str]()

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.action()
                self.begun.set()
        except Exception as error:
            self.errors.append(repr(error))
            self.begun.set()

    def __enter__(self) -> "Repeating":
        self.start()
        assert self.begun.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()
        assert not self.errors


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestFork:
    def test_while_another_thread_runs_the_module(self) -> None:
        """The child has no thread that would give back the lock that is held at that moment."""
        lib, x, module, expected = network_that_ran()

        def run() -> bool:
            module.set_input("x", x)
            module.run()
            return np.array_equal(module.get_output(0).numpy(), expected) and np.array_equal(lib(x=x), expected)

        lib(x=x)
        for busy in (module.run, lambda: lib(x=x)):
            with Repeating(busy):
                assert all(in_child(run) for _ in range(4))
        assert run()

    def test_parent_and_child_run_at_the_same_time(self) -> None:
        _, _, module, expected = network_that_ran()

        def run() -> bool:
            for _ in range(50):
                module.run()
            return np.array_equal(module.get_output(0).numpy(), expected)

        with Repeating(module.run):
            assert in_child(run)
        assert run()

    def test_a_module_made_in_the_child(self) -> None:
        lib, x = network()
        expected = lib(x=x)
        assert in_child(lambda: np.array_equal(fw.build(network()[0].ir_mod, "cpu -num-cores=2")(x=x), expected))

    def test_openblas_while_a_product_runs(self) -> None:
        pytest.importorskip("scipy_openblas32")
        lib, x = network()
        other = fw.build(lib.ir_mod, "cpu -libs=openblas -num-cores=2")
        expected = other(x=x)
        with Repeating(lambda: other(x=x)):
            assert all(in_child(lambda: np.array_equal(other(x=x), expected)) for _ in range(3))

    def test_onednn_says_why_it_cannot(self) -> None:
        """GNU OpenMP would wait for ever for the threads that stayed with the parent."""
        from fusewire.contrib.onednn import ffi

        if ffi.probe() or not ffi.load().has_openmp:
            pytest.skip("there is no oneDNN with OpenMP")
        lib, x = network()
        several = fw.build(lib.ir_mod, "cpu -libs=onednn -num-cores=2")
        single = fw.build(lib.ir_mod, "cpu -libs=onednn -num-cores=1")
        expected, alone = several(x=x), single(x=x)

        def refused() -> bool:
            with pytest.raises(fw.FusewireError, match="forked off one in which it had done so"):
                several(x=x)
            return np.array_equal(single(x=x), alone)

        assert in_child(refused)
        np.testing.assert_array_equal(several(x=x), expected)


class TestOtherThreads:
    def both(self, work: Callable[[], Array], lib: fw.CompiledModule, x: Array) -> None:
        """A module and other work at the same time: each gets the results that it gets alone."""
        module = module_of(lib)
        module.run(x=x)
        mine, theirs = module.get_output(0).numpy(), work()

        def compare() -> None:
            np.testing.assert_allclose(work(), theirs, rtol=1e-5)

        with Repeating(compare):
            for _ in range(60):
                module.run()
                np.testing.assert_array_equal(module.get_output(0).numpy(), mine)
        for _ in range(5):  # and by turns in one thread
            compare()
            module.run()
            np.testing.assert_array_equal(module.get_output(0).numpy(), mine)

    def test_numpy(self) -> None:
        lib, x = network()
        a = np.random.default_rng(2).standard_normal((300, 300))
        self.both(lambda: a @ a, lib, x)

    def test_a_library_with_threads(self) -> None:
        pytest.importorskip("scipy_openblas32")
        lib, x = network()
        other = fw.build(lib.ir_mod, "cpu -libs=openblas -num-cores=2")
        self.both(lambda: np.asarray(other(x=x)), lib, x)

    def test_torch(self) -> None:
        torch = pytest.importorskip("torch")
        lib, x = network()
        a = torch.ones(300, 300) / 300
        self.both(lambda: np.asarray(torch.softmax(a @ a, 1)), lib, x)

    def test_two_networks_in_two_threads(self) -> None:
        (one, x), (two, _) = network(2), network(3)
        self.both(lambda: np.asarray(two(x=x)), one, x)


class TestTeams:
    @needs_proc
    def test_each_module_has_its_own_number_of_threads(self) -> None:
        def workers() -> int:
            names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
            return names.count("fusewire")

        gc.collect()
        before = workers()
        held = []
        for cores, more in ((1, 0), (2, 1), (4, 4)):
            lib, x = network(cores)
            assert lib.threads == cores
            held.append(module_of(lib))
            held[-1].run(x=x)
            assert workers() == before + more
        del held[1]
        gc.collect()
        assert workers() == before + 3
        held.clear()
        gc.collect()
        assert workers() == before

    def test_a_run_is_one_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lib, x = network()
        assert len(lib.program.steps) > 2
        module = module_of(lib)
        calls = []
        real = ThreadTeam.run

        def counted(team: ThreadTeam, *args: Any) -> None:
            calls.append(args)
            real(team, *args)

        monkeypatch.setattr(ThreadTeam, "run", counted)
        for count in (1, 2):
            module.run(x=x)
            assert len(calls) == count

    def test_what_is_given_without_copying_is_read_where_it_lies(self) -> None:
        lib, x = network()
        module = module_of(lib)
        module.set_input_zero_copy("x", x)
        (slot,) = lib.program.inputs["x"]
        assert module.tensor(slot).ctypes.data == x.ctypes.data
        module.run()
        before = module.get_output(0).numpy()
        x[...] = 0
        module.run()
        assert not np.array_equal(module.get_output(0).numpy(), before)
        np.testing.assert_array_equal(module.get_output(0).numpy(), lib(x=np.zeros_like(x)))
