"""Memory that is passed on: reshapes are views, outputs take over dying inputs, and nothing freed is read again."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.loops import Builder, Kernel
from fusewire.ir.scalar import Buffer
from fusewire.targets.cpuengine import CpuEngine
from fusewire.targets.inplace import overwritable
from fusewire.targets.memory import blocks, largest_live_set, lifetimes, plan
from fusewire.targets.program import BranchStep, CopyStep
from tests.random_graphs import random_graph

Array = npt.NDArray[Any]


def poisoned(lib: fw.CompiledModule, inputs: dict[str, Array]) -> list[Array]:
    """Run step by step; whatever holds no living tensor is filled with garbage before the first step and after each."""
    module = fw.GraphModule(lib["default"](fw.cpu(0)))
    for name, value in inputs.items():
        module.set_input(name, value)
    engine = module._engine
    assert isinstance(engine, CpuEngine)
    program, arena = lib.program, lib.arena
    alive = lifetimes(program)
    engine._arena[:] = 0xFF
    engine._scratch[:] = 0xFF
    for time, step in enumerate(program.steps):
        engine.action(step)()
        keep = np.zeros(arena.size, bool)
        for slot, (first, last) in alive.items():
            if first <= time < last:
                keep[arena.offsets[slot] : arena.offsets[slot] + program.slots[slot].nbytes] = True
        engine._arena[~keep] = 0xFF
        engine._scratch[:] = 0xFF
    module._ran = True
    return [module.get_output(k).numpy() for k in range(module.get_num_outputs())]


def check(function: fw.Function, inputs: dict[str, Array], threads: int = 2) -> fw.CompiledModule:
    lib = fw.build(function, f"cpu -num-cores={threads}")
    results = lib(**inputs)
    plain = results if isinstance(results, list) else [results]
    for got, again, want in zip(plain, poisoned(lib, inputs), fw.testing.evaluate(function, inputs), strict=True):
        np.testing.assert_array_equal(got, again)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return lib


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def residual_net(side: int = 12) -> tuple[fw.Function, dict[str, Array]]:
    """Blocks of conv, conv + input, relu; at last pooling, flattening and a product, as in ResNet."""
    data = fw.var("data", shape=(1, 16, side, side))
    x: fw.Expr = fw.nn.relu(data)
    for _ in range(3):
        y: fw.Expr = x
        for k in (1, 3):
            y = fw.nn.conv2d(y, fw.const(normal(16, 16, k, k) / (4 * k)), padding=(k // 2, k // 2))
            y = y if k == 3 else fw.nn.relu(y)
        x = fw.nn.relu(y + x)
    flat = fw.nn.batch_flatten(fw.nn.global_avg_pool2d(x))
    return fw.Function([data], fw.nn.dense(flat, fw.const(normal(10, 16)))), {"data": normal(1, 16, side, side)}


class TestViews:
    def test_a_reshape_between_kernels_has_no_step(self) -> None:
        x = fw.var("x", shape=(4, 6))
        body = fw.nn.softmax(fw.reshape(fw.nn.softmax(x), (3, 8)))
        lib = check(fw.Function([x], body), {"x": normal(4, 6)})
        assert len(lib.program.steps) == 2 and len(lib.program.views) == 1
        assert not any(isinstance(s, CopyStep) for s in lib.program.steps)

    def test_views_of_views_of_an_input(self) -> None:
        """The first reshape is shared by two users, so that it is a group of its own."""
        x = fw.var("x", shape=(4, 6))
        a = fw.reshape(x, (24,))
        both = [fw.nn.softmax(fw.expand_dims(a, 0)), fw.sum(a)]
        function = fw.Function([x], fw.Tuple(both))
        lib = check(function, {"x": normal(4, 6)})
        module = fw.GraphModule(lib["default"](fw.cpu(0)))
        for shift in (0, 1):  # another array is another place in memory
            value = normal(4, 6) + shift
            module.set_input_zero_copy("x", value)
            module.run()
            np.testing.assert_allclose(module.get_output(1).numpy(), value.sum(), rtol=1e-5)

    def test_results_that_are_views(self) -> None:
        """Of an intermediate: its memory is the result's. Of an input, of a constant, of another result: copies."""
        x = fw.var("x", shape=(4, 6))
        y = fw.nn.softmax(x)
        constant = fw.reshape(fw.const(normal(2, 3)), (6,))
        body = fw.Tuple([fw.reshape(y, (24,)), fw.reshape(x, (2, 12)), fw.reshape(y, (8, 3)), y, constant])
        lib = check(fw.Function([x], body), {"x": normal(4, 6)})
        program = lib.program
        assert len({program.root(s) for s in program.outputs}) == 5
        assert not {program.root(s) for s in program.outputs} & {s for slots in program.inputs.values() for s in slots}

    def test_inside_of_branches(self) -> None:
        x, c = fw.var("x", shape=(4, 6)), fw.var("c", shape=(), dtype="bool")
        body = fw.If(c, fw.reshape(fw.nn.softmax(x), (24,)), fw.reshape(x, (24,)))
        for flag in (True, False):
            lib = check(fw.Function([x, c], body), {"x": normal(4, 6), "c": np.array(flag)})
            assert any(isinstance(s, BranchStep) for s in lib.program.steps)

    def test_saved_and_loaded(self, tmp_path: Any) -> None:
        function, inputs = residual_net()
        lib = check(function, inputs)
        assert lib.program.views and lib.arena.shared
        lib.save(tmp_path / "m.fw")
        again = fw.load(tmp_path / "m.fw")
        assert again.arena == lib.arena and again.program.views == lib.program.views
        np.testing.assert_array_equal(again(**inputs), lib(**inputs))


class TestInPlace:
    def test_the_sum_of_a_residual_block_lies_where_its_input_lay(self) -> None:
        function, inputs = residual_net()
        lib = check(function, inputs)
        free, _ = blocks(lib.program, {})
        assert len(lib.arena.shared) >= 2
        assert lib.arena.size <= largest_live_set(free)
        assert plan(lib.program).size <= 1.15 * largest_live_set(free)

    def test_an_input_that_is_read_elsewhere_stays(self) -> None:
        """x is transposed inside of the kernel, or needed later, or an input of the program."""
        x = fw.var("x", shape=(8, 8))
        y = fw.nn.softmax(x)
        for body in (y + fw.transpose(y), fw.nn.softmax(y + 1.0) + y):
            lib = check(fw.Function([x], body), {"x": normal(8, 8)})
            assert not lib.arena.shared
        assert not check(fw.Function([x], fw.nn.softmax(x + 1.0)), {"x": normal(8, 8)}).arena.shared

    def test_one_memory_for_one_output(self) -> None:
        """Two outputs of one kernel cannot both take the input."""
        x = fw.var("x", shape=(8, 8))
        y = fw.nn.softmax(x)
        body = fw.Tuple([fw.nn.softmax(fw.exp(y)), fw.nn.softmax(fw.tanh(y))])
        check(fw.Function([x], body), {"x": normal(8, 8)})

    def test_what_may_be_overwritten(self) -> None:
        x, y, out = (Buffer(name, (64,), "float32") for name in ("x", "y", "out"))

        def kernel(shift: int, parts: int = 1) -> Kernel:
            b = Builder()
            for _ in range(parts):
                with b.loop("i", 64 - shift) as i:
                    b.store(out, (i,), b.load(x, (i + shift,)) + b.load(y, (0,)))
            return Kernel("k", (x, y), (out,), b.finish())

        assert overwritable(kernel(0)) == ((0, 0),)
        assert overwritable(kernel(1)) == ()  # reads another place, and does not write all
        assert overwritable(kernel(0, parts=2)) == ()  # the second time x is gone


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs(seed: int) -> None:
    function, inputs = random_graph(1000 + seed, size=12)
    check(function, inputs)
