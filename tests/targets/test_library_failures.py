"""Library calls that fail: the error says what failed and why, and the module goes on to work."""

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import define

import fusewire as fw
from fusewire.contrib import openblas
from fusewire.contrib.onednn import ffi as onednn_ffi
from fusewire.contrib.openblas import ffi as openblas_ffi
from fusewire.fuse.dataflow_pattern import is_op, wildcard
from fusewire.fuse.library import Executable, Library, Region, Rule
from tests.contrib.offload import function_of, placed, uniform, var

Known = Callable[[Library], None]
Arrays = Sequence[npt.NDArray[Any]]


@define
class Flaky:
    """A library for tanh and abs: each item of `failures` is raised by one call, the first first; None: it works."""

    failures: list[BaseException | None]
    prepare: Exception | None = None

    def library(self) -> Library:
        pattern = is_op("tanh")(wildcard()).optional(lambda x: is_op("abs")(x))
        return Library("flaky", ("cpu",), [Rule("flaky.tanh", pattern, implement=self.implement)], lambda: None)

    def implement(self, region: Region) -> Executable:
        if self.prepare is not None:
            raise self.prepare

        def run(inputs: Arrays, outputs: Arrays) -> None:
            outputs[0][...] = 77  # what a failing call leaves behind
            if self.failures and (failure := self.failures.pop(0)) is not None:
                raise failure
            outputs[0][...] = np.abs(np.tanh(inputs[0]))

        return run


def net() -> fw.Function:
    return function_of(fw.exp(fw.abs(fw.tanh(fw.exp(var("x", 2, 3))))))


def expected(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    result: npt.NDArray[Any] = np.exp(np.tanh(np.exp(x)))
    return result


X = uniform(1, (2, 3))


def test_error_names_operators_shapes_and_reason(known: Known) -> None:
    known(Flaky([ValueError("status 7: out of tea")]).library())
    lib = fw.build(net(), "cpu -libs=flaky")
    assert placed(lib) == ["kernel", "flaky.tanh", "kernel"]
    with pytest.raises(fw.LibraryCallError) as caught:
        lib(x=X)
    assert str(caught.value) == (
        "flaky.tanh failed to run tanh + abs(Tensor[(2, 3), float32]) -> Tensor[(2, 3), float32] "
        "(step fusewire_default_flaky_tanh): ValueError: status 7: out of tea"
    )
    assert isinstance(caught.value.__cause__, ValueError)
    np.testing.assert_allclose(lib(x=X), expected(X), rtol=1e-5)  # the same module again


def test_module_stays_usable(known: Known) -> None:
    known(Flaky([None, fw.FusewireError("no"), MemoryError("none left"), None, None]).library())
    lib = fw.build(net(), "cpu -libs=flaky")
    module = fw.GraphModule(lib["default"](fw.cpu()))
    module.run(x=X)
    np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), rtol=1e-5)
    for message in (r"\): no$", r"\): MemoryError: none left$"):
        with pytest.raises(fw.LibraryCallError, match=message):
            module.run()
        with pytest.raises(fw.RuntimeInputError, match="there are no outputs"):  # none of an earlier or half a run
            module.get_output(0)
    module.run()
    np.testing.assert_allclose(module.get_output(0).numpy(), expected(X), rtol=1e-5)
    again = fw.GraphModule(module)
    again.run(x=-X)
    np.testing.assert_allclose(again.get_output(0).numpy(), expected(-X), rtol=1e-5)


def test_threads_that_share_a_module(known: Known) -> None:
    """One thread's failure leaves no lock behind."""
    known(Flaky([RuntimeError("once")]).library())
    lib = fw.build(net(), "cpu -libs=flaky")
    with pytest.raises(fw.LibraryCallError, match="RuntimeError: once"):
        lib(x=X)
    results: list[npt.NDArray[Any]] = []
    thread = threading.Thread(target=lambda: results.append(lib(x=X)), daemon=True)
    thread.start()
    thread.join(60)
    np.testing.assert_allclose(results[0], expected(X), rtol=1e-5)


def test_interrupts_are_not_failures(known: Known) -> None:
    known(Flaky([KeyboardInterrupt()]).library())
    lib = fw.build(net(), "cpu -libs=flaky")
    with pytest.raises(KeyboardInterrupt):
        lib(x=X)
    np.testing.assert_allclose(lib(x=X), expected(X), rtol=1e-5)


def test_a_library_that_cannot_prepare(known: Known) -> None:
    flaky = Flaky([], prepare=OverflowError("too much"))
    known(flaky.library())
    lib = fw.build(net(), "cpu -libs=flaky")
    with pytest.raises(
        fw.LibraryCallError, match=r"^flaky\.tanh cannot prepare tanh \+ abs\(.*: OverflowError: too much$"
    ):
        fw.GraphModule(lib["default"](fw.cpu()))
    flaky.prepare = fw.LibraryNotFound("flaky: gone")
    with pytest.raises(fw.LibraryNotFound, match=r"^flaky: gone"):
        fw.GraphModule(lib["default"](fw.cpu()))
    flaky.prepare = None
    np.testing.assert_allclose(lib(x=X), expected(X), rtol=1e-5)


def test_auto_leaves_a_failing_library_alone(known: Known, caplog: pytest.LogCaptureFixture) -> None:
    known(Flaky([ZeroDivisionError("oh")] * 100).library())
    lib = fw.build(net(), "cpu -libs=auto:flaky")
    assert placed(lib) == ["kernel"] and "ZeroDivisionError: oh" in caplog.text
    np.testing.assert_allclose(lib(x=X), expected(X), rtol=1e-5)


def dense() -> tuple[fw.Function, dict[str, npt.NDArray[Any]]]:
    return function_of(fw.nn.dense(var("a", 4, 8), var("b", 3, 8))), {"a": uniform(1, (4, 8)), "b": uniform(2, (3, 8))}


@pytest.mark.skipif(bool(onednn_ffi.probe()), reason=str(onednn_ffi.probe()))
def test_status_of_onednn_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    function, values = dense()
    lib = fw.build(function, "cpu -libs=onednn")
    assert placed(lib) == ["onednn.dense"]
    right = lib(**values)

    def fail(*arguments: object) -> int:
        return onednn_ffi.raise_on_failure(1, SimpleNamespace(__name__="dnnl_primitive_execute"), arguments)

    with monkeypatch.context() as patch:
        patch.setattr(onednn_ffi.load().dll, "dnnl_primitive_execute", fail)
        with pytest.raises(fw.LibraryCallError) as caught:
            lib(**values)
    assert str(caught.value).startswith("onednn.dense failed to run nn.dense(Tensor[(4, 8), float32], Tensor[(3, 8), ")
    assert "dnnl_primitive_execute: out of memory (status 1)" in str(caught.value)
    np.testing.assert_array_equal(lib(**values), right)


@pytest.mark.skipif(bool(openblas_ffi.probe()), reason=str(openblas_ffi.probe()))
def test_failure_in_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    """CBLAS has no status: what can go wrong is found before the call, and must not keep its turn of the threads."""
    function, values = dense()
    real, failures = openblas.ffi.gemm, [fw.RuntimeInputError("a: expected aligned memory")]

    def gemm(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(openblas.ffi, "gemm", gemm)
    lib = fw.build(function, "cpu -libs=openblas")
    assert placed(lib) == ["openblas.dense"]
    with pytest.raises(fw.LibraryCallError, match=r"^openblas\.dense failed to run .*: a: expected aligned memory$"):
        lib(**values)
    np.testing.assert_allclose(lib(**values), values["a"] @ values["b"].T, rtol=1e-5)
    other = fw.build(function, "cpu -libs=openblas -num-cores=1")  # waits until nobody runs with another number
    np.testing.assert_allclose(other(**values), values["a"] @ values["b"].T, rtol=1e-5)
