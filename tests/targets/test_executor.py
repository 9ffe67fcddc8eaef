"""Running compiled modules: inputs, outputs, threads, forks, timing."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.types import DTYPES, numpy_dtype

Array = npt.NDArray[Any]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = X[::-1] * 10


def function(dtype: str = "float32") -> fw.Function:
    x, y = fw.var("x", shape=(2, 3), dtype=dtype), fw.var("y", shape=(2, 3), dtype=dtype)
    return fw.Function([x, y], x + y * 2)


@pytest.fixture(scope="module")
def lib() -> fw.CompiledModule:
    return fw.build(function())


@pytest.fixture
def module(lib: fw.CompiledModule) -> fw.GraphModule:
    return fw.GraphModule(lib["default"](fw.cpu(0)))


def heavy(cores: int = 2) -> tuple[fw.CompiledModule, Array]:
    """A module whose kernels are large enough for the whole team, and an input."""
    x = fw.var("x", shape=(64, 1000))
    return fw.build(fw.Function([x], fw.nn.softmax(fw.exp(x) + 1.0)), f"cpu -num-cores={cores}"), np.linspace(
        0, 1, 64000, dtype=np.float32
    ).reshape(64, 1000)


def softmax_of_exp(x: Array) -> Array:
    e = np.exp(np.exp(x.astype(np.float64)) + 1)
    return np.asarray(e / e.sum(-1, keepdims=True))


def workers() -> int:
    """Threads of thread teams in this process."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count("fusewire")


class TestInputs:
    def test_by_name_number_and_keyword(self, module: fw.GraphModule) -> None:
        module.set_input("x", X)
        module.set_input(1, Y)
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)
        module.set_input(x=Y, y=X)
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), Y + X * 2)
        module.set_input("x", X, y=Y)
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)
        module.run(x=Y, y=Y)
        np.testing.assert_array_equal(module.get_output(0).numpy(), Y * 3)

    def test_set_input_copies(self, module: fw.GraphModule) -> None:
        mine = X.copy()
        module.set_input(x=mine, y=Y)
        mine[...] = -1
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)
        assert module.get_input("x").numpy().tolist() == X.tolist()
        assert module.get_input(1, fw.nd.empty((2, 3))).numpy().tolist() == Y.tolist()

    def test_zero_copy_shares(self, module: fw.GraphModule) -> None:
        mine = X.copy()
        module.set_input_zero_copy("x", mine)
        module.set_input("y", Y)
        mine[...] = -1
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), mine + Y * 2)
        module.set_input("x", X)  # back to memory of its own: mine is not written
        module.run()
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)
        assert (mine == -1).all()

    @pytest.mark.parametrize("setter", ["set_input", "set_input_zero_copy"])
    def test_any_memory_layout(self, module: fw.GraphModule, setter: str) -> None:
        read_only = X.copy()
        read_only.flags.writeable = False
        unaligned = np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)
        transposed = X.T.copy().T
        wide = np.zeros((2, 6), np.float32)
        wide[:, ::2] = X
        for value in (read_only, unaligned, transposed, wide[:, ::2], X[::-1][::-1], np.asfortranarray(X)):
            getattr(module, setter)("x", value)
            module.set_input("y", Y[::-1][::-1])
            module.run()
            np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)

    def test_what_is_taken_for_an_array(self, module: fw.GraphModule) -> None:
        """Numbers and lists have no dtype of their own, and take the input's."""
        for value in (X, X.tolist(), fw.nd.array(X), X.astype(int).tolist()):
            module.run(x=value, y=value)
            np.testing.assert_array_equal(module.get_output(0).numpy(), X * 3)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("z", X, r"no input 'z'; the inputs are 'x': Tensor\[\(2, 3\), float32\], 'y'"),
            (2, X, "no input 2"),
            (-1, X, "no input -1"),
            ("x", X.T, r"'x': Tensor\[\(2, 3\), float32\] was given float32 of shape \(3, 2\)"),
            ("x", X.astype(np.float64), r"'x'.*was given float64 of shape \(2, 3\)"),
            ("x", None, "'x'.*was given"),
            ("x", "abc", "'x'.*was given"),
            ("x", object(), "'x'.*was given"),
            ("x", [[1, 2], [3]], "'x'.*was given a list"),
            ("x", 3.0, "'x'.*was given"),
            ("x", [[1j, 2, 3], [4, 5, 6]], "'x'.*was given"),
        ],
    )
    def test_what_does_not_fit_is_named(self, module: fw.GraphModule, name: Any, value: Any, message: str) -> None:
        for setter in (module.set_input, module.set_input_zero_copy):
            with pytest.raises(fw.RuntimeInputError, match=message):
                setter(name, value)

    def test_numbers_that_the_dtype_cannot_hold(self) -> None:
        x = fw.var("x", shape=(2,), dtype="int8")
        lib = fw.build(fw.Function([x], x + x))
        assert lib(x=[1, -2]).tolist() == [2, -4]
        for bad in ([1.5, 2.0], [1000, 1]):
            with pytest.raises(fw.RuntimeInputError, match="'x'"):
                lib(x=bad)

    def test_missing_inputs_are_named(self, lib: fw.CompiledModule, module: fw.GraphModule) -> None:
        module.set_input("y", Y)
        with pytest.raises(fw.RuntimeInputError, match=r"inputs not set: 'x': Tensor\[\(2, 3\), float32\]$"):
            module.run()
        with pytest.raises(fw.RuntimeInputError, match="inputs not given: 'x'"):
            lib(y=Y)
        with pytest.raises(fw.RuntimeInputError, match="no input 'z'"):
            lib(x=X, y=Y, z=X)

    def test_info(self, module: fw.GraphModule) -> None:
        assert module.get_num_inputs() == 2
        assert module.get_input_info() == ({"x": (2, 3), "y": (2, 3)}, {"x": "float32", "y": "float32"})

    def test_tuple_parameters(self) -> None:
        pair = fw.TupleType([fw.TensorType((2,)), fw.TupleType([fw.TensorType((3,)), fw.TensorType((1,))])])
        t, x = fw.var("t", pair), fw.var("x", shape=(1,))
        lib = fw.build(fw.Function([t, x], fw.concatenate([t[0], t[1][0], t[1][1], x], 0)))
        a, b, c = (np.array(v, np.float32) for v in ([1, 2], [3, 4, 5], [6]))
        assert lib(t=(a, (b, c)), x=c).tolist() == [1, 2, 3, 4, 5, 6, 6]
        for bad in (None, 3, a, (a,), (a, b), (a, (b,)), (a, (b, c, c))):
            with pytest.raises(fw.RuntimeInputError, match=r"'t'.*takes a tuple of 3 arrays"):
                lib(t=bad, x=c)
        with pytest.raises(fw.RuntimeInputError, match="is a tuple"):
            fw.GraphModule(lib["default"](fw.cpu())).get_input("t")

    def test_a_tuple_of_one(self) -> None:
        t = fw.var("t", fw.TupleType([fw.TensorType((2,))]))
        assert fw.build(fw.Function([t], t[0] + 1.0))(t=(np.ones(2, np.float32),)).tolist() == [2, 2]

    def test_scalars(self) -> None:
        s, i = fw.var("s", shape=()), fw.var("i", shape=(), dtype="int32")
        lib = fw.build(fw.Function([s, i], fw.Tuple([s * 2, i * 3])))
        for given in (2, 2.0, np.float32(2), np.array(2, np.float32), fw.nd.array(np.float32(2))):
            a, b = lib(s=given, i=5)
            assert (a.shape, a.dtype, a.item(), b.shape, b.dtype, b.item()) == ((), np.float32, 4, (), np.int32, 15)
        with pytest.raises(fw.RuntimeInputError, match="'i'"):
            lib(s=1.0, i=1.5)


class TestOutputs:
    def test_with_and_without_a_buffer(self, module: fw.GraphModule) -> None:
        module.run(x=X, y=Y)
        out = fw.nd.empty((2, 3))
        assert module.get_output(0, out) is out
        assert module.get_num_outputs() == 1
        np.testing.assert_array_equal(out.numpy(), module.get_output(0).asnumpy())
        np.testing.assert_array_equal(np.asarray(module.get_output(0)), X + Y * 2)
        kept = module.get_output(0).numpy()
        module.run(x=Y, y=Y)
        np.testing.assert_array_equal(kept, X + Y * 2)

    @pytest.mark.parametrize("index", [1, -1, "a", None, 1.0])
    def test_no_such_output(self, module: fw.GraphModule, index: Any) -> None:
        with pytest.raises(fw.RuntimeInputError, match=r"no output .*the module has 1"):
            module.get_output(index)

    def test_a_buffer_that_does_not_fit(self, module: fw.GraphModule) -> None:
        module.run(x=X, y=Y)
        for out in (fw.nd.empty((3, 2)), fw.nd.empty((2, 3), "float64"), np.empty((2, 3), np.float32)):
            with pytest.raises(fw.RuntimeInputError):
                module.get_output(0, out)  # type: ignore[arg-type]

    def test_inputs_constants_and_repeats_as_results(self) -> None:
        x = fw.var("x", shape=(2, 3))
        c, y = fw.const(Y), fw.nn.relu(x) + 1.0
        body = fw.Tuple([y, x, c, y, x, fw.Tuple([c, y]), fw.const(2.5)])
        lib = fw.build(fw.Function([x], body))
        module = fw.GraphModule(lib["default"](fw.cpu()))
        mine = X.copy()
        module.set_input_zero_copy("x", mine)
        module.run()
        results = [module.get_output(k) for k in range(module.get_num_outputs())]
        expected = [X + 1, X, Y, X + 1, X, Y, X + 1, np.float32(2.5)]
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got.numpy(), want)
        for result in results:  # no two results share memory, and none is the input or the constant itself
            result.copyfrom(np.full_like(result.numpy(), -7))
        np.testing.assert_array_equal(mine, X)
        module.run()
        for k, want in enumerate(expected):
            np.testing.assert_array_equal(module.get_output(k).numpy(), want)

    def test_identity_constant_and_empty(self) -> None:
        x = fw.var("x", shape=(2, 3))
        np.testing.assert_array_equal(fw.build(fw.Function([x], x))(x=X), X)
        np.testing.assert_array_equal(fw.build(fw.const(X))(), X)
        assert fw.build(fw.Function([x], fw.Tuple([])))(x=X) == []

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_dtype_passes_through(self, dtype: str) -> None:
        x = fw.var("x", shape=(37,), dtype=dtype)
        lib = fw.build(fw.Function([x], fw.Tuple([x, fw.reverse(x, 0), fw.concatenate([x, x], 0)])))
        raw = np.random.default_rng(0).integers(0, 256, 37 * 8, np.uint8)
        value = (raw[:37] % 2).astype(bool) if dtype == "bool" else raw.view(numpy_dtype(dtype))[:37].copy()
        for got, want in zip(lib(x=value), (value, value[::-1], np.concatenate([value] * 2)), strict=True):
            assert got.dtype == want.dtype
            with np.errstate(invalid="ignore"):
                nan = np.asarray(want != want)  # a NaN stays one, but its payload may change
                assert (np.asarray(got != got) == nan).all()
            assert got[~nan].tobytes() == want[~nan].tobytes()

    def test_sixteen_bit_floats_round_to_nearest_even(self) -> None:
        for dtype, type_ in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
            values = np.random.default_rng(1).uniform(-3, 3, (2, 41)).astype(type_)
            x, y = (fw.var(n, shape=(41,), dtype=dtype) for n in "xy")
            got = fw.build(fw.Function([x, y], x + y))(x=values[0], y=values[1])
            wide = values.astype(np.float32)
            np.testing.assert_array_equal(got.astype(np.float32), (wide[0] + wide[1]).astype(type_).astype(np.float32))


class TestProcess:
    def test_modules_of_one_lib_in_two_threads(self) -> None:
        lib, x = heavy()
        wrong: list[str] = []

        def work(scale: float) -> None:
            module = fw.GraphModule(lib["default"](fw.cpu()))
            module.set_input("x", np.float32(x * scale))
            for _ in range(30):
                module.run()
                error = np.abs(module.get_output(0).numpy() - softmax_of_exp(np.asarray(x * np.float32(scale)))).max()
                if not error < 1e-6:
                    wrong.append(f"{scale}: {error}")

        threads = [threading.Thread(target=work, args=(s,)) for s in (0.5, 1.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_one_lib_called_from_four_threads(self) -> None:
        lib, x = heavy()
        wrong: list[float] = []

        def work(scale: float) -> None:
            mine = np.asarray(x * np.float32(scale))
            expected = softmax_of_exp(mine)
            wrong.extend(scale for _ in range(15) if not np.abs(lib(x=mine) - expected).max() < 1e-6)

        threads = [threading.Thread(target=work, args=(s,)) for s in (0.25, 0.5, 0.75, 1.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
    def test_a_module_takes_its_threads_with_it(self) -> None:
        lib, x = heavy(cores=4)
        gc.collect()
        before = workers()
        module = fw.GraphModule(lib["default"](fw.cpu()))
        module.run(x=x)
        assert workers() == before + 3
        again = fw.GraphModule(module)
        again.run(x=x)
        assert workers() == before + 6
        np.testing.assert_array_equal(again.get_output(0).numpy(), module.get_output(0).numpy())
        del module, again
        gc.collect()
        assert workers() == before

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_runs_too(self) -> None:
        lib, x = heavy()
        module = fw.GraphModule(lib["default"](fw.cpu()))
        module.run(x=x)
        expected = module.get_output(0).numpy()
        child = os.fork()
        if child == 0:
            try:
                module.run(x=x[::-1])
                same = np.array_equal(module.get_output(0).numpy(), expected[::-1])
                os._exit(0 if same else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        module.run(x=x)
        np.testing.assert_array_equal(module.get_output(0).numpy(), expected)

    def test_num_cores_does_not_change_results(self) -> None:
        results = [heavy(cores)[0](x=heavy(cores)[1]) for cores in (1, 2, 5)]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


class TestTiming:
    def test_benchmark(self, module: fw.GraphModule) -> None:
        result = module.benchmark(fw.cpu(), repeat=3, number=2, x=X, y=Y)
        assert len(result.results) == 3
        assert 0 < result.min <= result.median <= result.max
        assert result.min <= result.mean <= result.max and result.std >= 0
        assert "mean" in str(result)
        assert len(module.benchmark(repeat=1, number=1, end_to_end=True, x=X, y=Y).results) == 1
        np.testing.assert_array_equal(module.get_output(0).numpy(), X + Y * 2)

    def test_benchmark_refuses(self, module: fw.GraphModule) -> None:
        refused: tuple[dict[str, Any], ...] = ({"repeat": 0}, {"number": 0}, {"func_name": "sort"})
        for options in refused:
            with pytest.raises(fw.RuntimeInputError):
                module.benchmark(None, **options, x=X, y=Y)
        with pytest.raises(fw.RuntimeInputError, match="inputs not set"):
            module.benchmark(x=X)

    def test_profile_lists_every_step(self) -> None:
        lib, x = heavy()
        module = fw.GraphModule(lib["default"](fw.cpu()))
        profile = module.profile(repeat=2, x=x)
        assert [s.name for s in profile.steps] == [n for n in lib.function_metadata if n != "__fusewire_main__"]
        assert sum(s.share for s in profile.steps) == pytest.approx(1)
        assert all(s.seconds > 0 and s.implementation == "loops.cpu" for s in profile.steps)
        assert profile.steps[0].name in str(profile)

    def test_profile_leaves_out_the_untaken_branch(self) -> None:
        c, x = fw.var("c", shape=(), dtype="bool"), fw.var("x", shape=(2, 3))
        lib = fw.build(fw.Function([c, x], fw.If(c, fw.exp(x), fw.sum(x, keepdims=True) + x)))
        module = fw.GraphModule(lib["default"](fw.cpu()))
        (taken, untaken) = ([s.name for s in module.profile(repeat=1, c=c, x=X).steps] for c in (True, False))
        assert any("exp" in name for name in taken) and not any("sum" in name for name in taken)
        assert any("sum" in name for name in untaken) and not any("exp" in name for name in untaken)
