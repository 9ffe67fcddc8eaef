"""The engine of cuda on a double of CuPy, which runs the kernels on the host: numbers, launches, lifetimes."""

import gc
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.cuda import device as cuda_module
from fusewire.targets.cuda.device import compatible
from fusewire.targets.launched import gpu
from fusewire.targets.launched.selftest import SelfTest
from fusewire.testing import check_operator, evaluate
from tests.cuda.double import Array, Double, Stream, install
from tests.cuda.host import needs_compiler
from tests.launched.sources import SPECS, block, random_graphs


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, Double())


def module_of(expr: fw.Expr, target: str = "cuda") -> fw.GraphModule:
    return fw.GraphModule(fw.build(expr, target)["default"](fw.device("cuda")))


def affine() -> fw.Expr:
    x = fw.var("x", shape=(3, 700))
    return fw.sum(fw.nn.relu(fw.add(fw.multiply(x, fw.const(2.0)), fw.const(np.full(700, -1.0, np.float32)))), axis=0)


def expected(x: Any) -> Any:
    return np.maximum(x * 2 - 1, 0).sum(0)


X = np.random.default_rng(0).uniform(-1, 1, (3, 700)).astype(np.float32)


@needs_compiler
class TestRunning:
    def test_graphs_agree_with_numpy(self, cuda: Double) -> None:
        rng = np.random.default_rng(1)
        for function in [block(), *random_graphs([1])]:
            feed = {v.name_hint: rng.uniform(-1, 1, v.checked_type.static_shape).astype(np.float32)  # type: ignore[attr-defined]
                    for v in function.params}  # fmt: skip
            module = module_of(function)
            for _ in range(3):  # launched, recorded, repeated
                module.run(**feed)
                for k, wanted in enumerate(evaluate(function, feed)):
                    np.testing.assert_allclose(module.get_output(k).numpy(), wanted, rtol=0, atol=2e-5)

    def test_a_branch_that_gives_a_constant(self, cuda: Double) -> None:
        flag, values = fw.var("flag", shape=(), dtype="bool"), np.arange(3, dtype=np.float32)
        lib = fw.build(fw.Function([flag], fw.If(flag, fw.const(values), fw.const(-values))), "cuda")
        for yes, expected in ((True, values), (False, -values)):
            np.testing.assert_array_equal(lib(flag=np.array(yes)), expected)

    def test_operators_agree_with_numpy(self, cuda: Double) -> None:
        for name, dtype in (("nn.conv2d", "float16"), ("floor_divide", "int8"), ("isnan", "float32")):
            spec = next(spec for spec in SPECS if spec.name == name)
            assert check_operator(spec, dtype, np.random.default_rng(3), count=1, target="cuda") == 1

    def test_launches_cover_the_items_and_are_recorded_on_the_second_run(self, cuda: Double) -> None:
        x = fw.var("x", shape=(3, 700))
        branches = [fw.nn.softmax(x), fw.tanh(x), fw.transpose(x, (1, 0))]
        module = module_of(fw.Function([x], fw.Tuple([fw.sum(b, axis=1) for b in branches])))
        engine: Any = module._engine
        calls = {c.kernel: c for step in engine.code.steps.values() for c in step.calls}
        cuda.log.clear()
        module.run(x=X)
        launches = [entry for entry in cuda.log if entry[0] == "launch"]
        assert [name for _, name, _, _ in launches] == list(calls) and len(calls) > 1
        for _, name, groups, items in launches:
            assert groups * items >= calls[name].items or calls[name].shared
            assert (groups - 1) * items < calls[name].items
        cuda.log.clear()
        module.run()
        assert [e[0] for e in cuda.log] == [*["launch"] * len(calls), "capture", "graph"]
        cuda.log.clear()
        module.run()
        assert [e[0] for e in cuda.log] == ["graph"]

    @pytest.mark.parametrize(("most", "expected"), [(64, 64), (512, 256)])
    def test_open_work_groups_keep_to_the_target(self, most: int, expected: int, cuda: Double) -> None:
        """In the text, in what the compiler is told (the double takes no other launch), and in launches."""
        lib = fw.build(fw.cumsum(fw.var("x", shape=(2048, 4)), axis=1), f"cuda -max_num_threads={most}")
        assert f"#define FW_LOCAL {expected}\n" in lib.get_source()
        x = np.random.default_rng(0).uniform(-1, 1, (2048, 4)).astype(np.float32)
        np.testing.assert_allclose(lib(x=x), np.cumsum(x.astype(np.float64), 1), atol=1e-6)
        assert [entry[2:] for entry in cuda.log if entry[0] == "launch"] == [(2048 // expected, expected)]

    def test_the_stream_is_the_users(self, cuda: Double) -> None:
        x = fw.var("x", shape=(3, 700))
        module = module_of(fw.sum(fw.nn.softmax(x), axis=0))  # two launches, or nothing would be recorded
        module.run(x=X)
        module.run()
        with (stream := Stream(cuda)):
            cuda.log.clear()
            module.run()
        assert cuda.log == [("graph", stream.ptr)]
        powers = np.exp(X.astype(np.float64))
        wanted = (powers / powers.sum(1, keepdims=True)).sum(0)
        np.testing.assert_allclose(module.get_output(0).numpy(), wanted, atol=1e-5)


@needs_compiler
class TestArrays:
    def test_arrays_of_the_device_are_used_where_they_lie(self, cuda: Double) -> None:
        module = module_of(affine())
        given = cuda.asarray(X)
        cuda.log.clear()
        module.set_input_zero_copy("x", given)
        assert not cuda.log
        module.run()
        np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), atol=1e-5)
        given.host()[...] = -X
        module.run()
        np.testing.assert_allclose(module.get_output(0).numpy(), expected(-X), atol=1e-5)
        module.set_input("x", X)
        module.run()
        np.testing.assert_array_equal(given.get(), -X)
        np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), atol=1e-5)

    def test_arrays_that_vectors_cannot_be_read_from_are_copied(self, cuda: Double) -> None:
        module = module_of(affine())
        for given in (cuda.asarray(X, offset=4), self.transposed(cuda)):
            module.set_input_zero_copy("x", given)
            module.run()
            np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), atol=1e-5)
            given.host()[...] = 0
            module.run()
            np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), atol=1e-5)

    @staticmethod
    def transposed(cuda: Double) -> Array:
        turned = cuda.asarray(np.ascontiguousarray(X.T))
        return Array(X.shape, X.dtype, turned.data, strides=(4, 12))

    def test_outputs_where_they_lie(self, cuda: Double) -> None:
        module = module_of(affine())
        with pytest.raises(fw.RuntimeInputError, match="no outputs"):
            module.get_output_array(0)
        module.run(x=X)
        shown = module.get_output_array(0)
        assert isinstance(shown, Array) and shown.shape == (700,)
        del module
        gc.collect()
        cuda.check(shown.data.ptr, 2800)  # it keeps the memory
        np.testing.assert_allclose(shown.get(), expected(X), atol=1e-5)

    def test_wrong_shapes_are_refused(self, cuda: Double) -> None:
        module = module_of(affine())
        with pytest.raises(fw.RuntimeInputError, match="was given float32 of shape"):
            module.set_input("x", cuda.asarray(X[:2]))

    def test_modules_share_constants_and_give_memory_back(self, cuda: Double) -> None:
        lib = fw.build(affine(), "cuda")
        factory = lib["default"](fw.device("cuda"))
        first = fw.GraphModule(factory)
        before = len(cuda.live)
        uploads = [entry for entry in cuda.log if entry[:2] == ("copy", 1)]
        second = fw.GraphModule(factory)
        assert [entry for entry in cuda.log if entry[:2] == ("copy", 1)] == uploads
        more = len(cuda.live)
        assert more > before
        del second
        gc.collect()
        assert len(cuda.live) == before
        first.run(x=X)

    def test_times_are_the_devices(self, cuda: Double) -> None:
        profile = module_of(affine()).profile(repeat=2, x=X)
        assert {step.seconds for step in profile.steps} == {0.002}


class TestErrors:
    def test_memory(self, cuda: Double) -> None:
        lib = fw.build(affine(), "cuda")
        cuda.refuse = True
        with pytest.raises(fw.FusewireError, match=r"allocating \d+ bytes for .* on Double.*not enough memory"):
            fw.GraphModule(lib["default"](fw.device("cuda")))
        huge = fw.build(fw.nn.relu(fw.var("x", shape=(1 << 20, 1 << 14))), "cuda")
        with pytest.raises(fw.FusewireError, match=r"needs \d{12} bytes; Double has"):
            fw.GraphModule(huge["default"](fw.device("cuda")))

    def test_no_device(self, cuda: Double) -> None:
        lib = fw.build(affine(), "cuda")
        with pytest.raises(fw.DeviceNotFound, match=r"number 3 was asked for; there are 0: Double \(sm_90\)"):
            lib["default"](fw.device("cuda", 3))
        with pytest.raises(fw.DeviceNotFound, match="-device=quadro means 0 devices"):
            fw.build(affine(), "cuda -device=quadro")["default"](fw.device("cuda"))
        cuda.devices = -1
        with pytest.raises(fw.DeviceNotFound, match=r"driver version is insufficient.*install NVIDIA's driver"):
            lib["default"](fw.device("cuda"))

    def test_a_device_that_computes_wrongly(self, cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "tested", lambda *given: SelfTest("a result is wrong", 0.0))
        with pytest.raises(fw.FusewireError, match="Double failed the self-test and is not used: a result is wrong"):
            fw.build(affine(), "cuda")["default"](fw.device("cuda"))

    def test_code_for_another_architecture(self, cuda: Double) -> None:
        with pytest.raises(fw.FusewireError, match="made for sm_100, and the device is sm_90: build for -arch=sm_90"):
            fw.build(affine(), "cuda -arch=sm_100")["default"](fw.device("cuda"))
        assert compatible("sm_75", "sm_90") == compatible(None, "sm_90") == "sm_90"
        assert compatible("sm_90a", "sm_90") == "sm_90a"
        with pytest.raises(fw.FusewireError, match="made for sm_90a alone"):
            compatible("sm_90a", "sm_120")


def test_without_cupy_there_is_all_but_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    cuda_module.cupy.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    lib = fw.build(block(), "cuda -arch=sm_75")
    assert lib.get_source(kind="cuda") == lib.get_source() and "__global__" in lib.get_source()
    lib.save(tmp_path / "net.fw")
    loaded = fw.load(tmp_path / "net.fw")
    assert loaded.get_source() == lib.get_source() and str(loaded.target) == str(lib.target)
    for found in (lib, loaded):
        with pytest.raises(fw.DeviceNotFound, match=r"needs the package cupy .*pip install 'fusewire\[cuda\]'"):
            found["default"](fw.device("cuda"))
    cuda_module.cupy.cache_clear()
