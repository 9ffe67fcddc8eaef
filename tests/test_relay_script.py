"""A Relay script moves over by its import lines alone: the classic tutorial, and what goes with it."""

import numpy as np
import pytest

import fusewire as tvm
from fusewire import relay
from fusewire.contrib import graph_executor as runtime
from fusewire.relay import testing

TARGETS = ["cpu", "llvm", "cpu -libs=onednn", "cpu -libs=onednn -postops=0"]
A = np.arange(6, dtype="float32").reshape(2, 3)


def run_tutorial(target: str) -> tuple["tvm.CompiledModule", np.ndarray, list[str]]:
    """The tutorial, line by line."""
    out_channels = 16
    batch_size = 1

    data = relay.var("data", relay.TensorType((batch_size, 3, 224, 224), "float32"))
    weight = relay.var("weight")
    bn_gamma = relay.var("bn_gamma")
    bn_beta = relay.var("bn_beta")
    bn_mmean = relay.var("bn_mean")
    bn_mvar = relay.var("bn_var")

    simple_net = relay.nn.conv2d(data=data, weight=weight, kernel_size=(3, 3), channels=out_channels, padding=(1, 1))
    simple_net = relay.nn.batch_norm(simple_net, bn_gamma, bn_beta, bn_mmean, bn_mvar)[0]
    simple_net = relay.nn.relu(simple_net)
    simple_net = relay.Function(relay.analysis.free_vars(simple_net), simple_net)

    data_shape = (batch_size, 3, 224, 224)
    net, params = testing.create_workload(simple_net)

    lib = relay.build_module.build(net, target, params=params)

    dev = tvm.device(target, 0)
    picture = np.random.default_rng(0).uniform(-1, 1, size=data_shape).astype("float32")
    module = runtime.GraphModule(lib["default"](dev))
    module.set_input("data", picture)
    module.run()
    out_shape = (batch_size, out_channels, 224, 224)
    out = module.get_output(0, tvm.nd.empty(out_shape))
    return lib, out.numpy(), [p.name_hint for p in simple_net.params]


@pytest.mark.parametrize("target", TARGETS)
def test_classic_tutorial(target: str) -> None:
    lib, out, names = run_tutorial(target)
    assert names == ["data", "weight", "bn_gamma", "bn_beta", "bn_mean", "bn_var"]
    _, generated, _ = run_tutorial("cpu")
    tvm.testing.assert_allclose(out, generated, rtol=1e-5)
    assert out.shape == (1, 16, 224, 224) and out.min() == 0 and 0.1 < out.std() < 10
    steps = [name for name in lib.function_metadata if name != "__fusewire_main__"]
    if "postops" in target:
        assert len(steps) == 2 and steps[1].endswith("fused_multiply_add_nn_relu")
    elif "onednn" in target:
        assert len(steps) == 1 and steps[0].endswith("onednn_conv2d")
    else:
        assert len(steps) == 1 and steps[0].endswith("fused_nn_conv2d_multiply_add_nn_relu")


def test_metadata_of_the_tutorials_net() -> None:
    lib, _, _ = run_tutorial("cpu")
    (target,) = lib.function_metadata["__fusewire_main__"].io_sizes
    main, fused = lib.function_metadata.values()
    assert (fused.io_sizes[target], fused.constant_sizes[target]) == (3_211_264, 0)
    assert (main.io_sizes[target], main.constant_sizes[target]) == (3_813_376, 1_856)


def test_library_use_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="fusewire"):
        run_tutorial("cpu -libs=onednn")
    assert any(
        m.startswith("Using conv2d_onednn.cpu for nn.conv2d based on highest priority (") for m in caplog.messages
    )


def test_variables_and_types() -> None:
    for variable, type_ in (
        (relay.var("x", shape=(2, 3), dtype="int32"), relay.TensorType((2, 3), "int32")),
        (relay.var("x", relay.TensorType((2, 3))), relay.TensorType((2, 3), "float32")),
        (relay.var("x", shape=(2, 3)), relay.TensorType((2, 3))),
        (relay.var("x", shape=()), relay.TensorType(())),
        (relay.var("x", "float64"), relay.scalar_type("float64")),
        (relay.var("x", relay.TupleType([relay.TensorType((1,))])), relay.TupleType([relay.TensorType((1,))])),
    ):
        assert variable.checked_type == type_ and variable.name_hint == "x"
    assert relay.var("x").type_annotation is None
    assert relay.const(1.5).checked_type == relay.TensorType(()) and relay.const(A).data.shape == (2, 3)


@pytest.mark.parametrize("kind", ["graph", "debug", "vm"])
def test_create_executor(kind: str) -> None:
    x, y = relay.var("x", shape=(2, 3)), relay.var("y", shape=(2, 3))
    func = relay.Function([x, y], relay.add(relay.exp(x), y * relay.const(2.0)))
    expected = np.exp(A) + A * 2
    evaluate = relay.create_executor(kind, device=tvm.cpu(0), target="llvm").evaluate
    tvm.testing.assert_allclose(evaluate(func)(A, A).numpy(), expected, rtol=1e-5)
    tvm.testing.assert_allclose(evaluate(func)(tvm.nd.array(A), y=A).asnumpy(), expected, rtol=1e-5)
    mod = tvm.IRModule.from_expr(func)
    tvm.testing.assert_allclose(relay.create_executor(kind, mod=mod).evaluate()(A, A), expected, rtol=1e-5)
    assert (
        relay.create_executor(kind).evaluate(relay.const(A) * relay.const(2.0))().numpy().tolist() == (A * 2).tolist()
    )
    several = relay.create_executor(kind).evaluate(relay.Function([x], relay.Tuple([x, x + x])))(A)
    assert [r.numpy().tolist() for r in several] == [A.tolist(), (A * 2).tolist()]


def test_executor_with_params_and_refusals() -> None:
    x, w = relay.var("x", shape=(2, 3)), relay.var("w", shape=(2, 3))
    mod = tvm.IRModule.from_expr(relay.Function([x, w], x * w))
    run = relay.create_executor("graph", mod=mod, params={"w": A}).evaluate()
    assert run(A).numpy().tolist() == (A * A).tolist()
    with pytest.raises(tvm.FusewireError, match="takes 1 arguments, got 2"):
        run(A, A)
    with pytest.raises(tvm.RuntimeInputError, match="'x'"):
        run(A.T)
    with pytest.raises(tvm.FusewireError, match="unknown executor"):
        relay.create_executor("quantum")


def test_build_forms() -> None:
    x, w = relay.var("x", shape=(2, 3)), relay.var("w", shape=(2, 3))
    func = relay.Function([x, w], x * w)
    mod = tvm.IRModule.from_expr(func)
    with tvm.transform.PassContext(opt_level=3):
        libs = [
            relay.build(mod, target="llvm", params={"w": A}),
            relay.build(func, tvm.Target("cpu"), params={"w": tvm.nd.array(A)}),
            relay.build(mod, tvm.target.Target("llvm"), params={"w": A}),
        ]
    for lib in libs:
        module = runtime.GraphModule(lib["default"](tvm.cpu(0)))
        module.run(x=A)
        tvm.testing.assert_allclose(module.get_output(0), A * A)


def test_passes_and_analysis() -> None:
    x = relay.var("x", shape=(2, 3))
    func = relay.Function([x], relay.nn.relu(relay.exp(x) + relay.const(1.0)))
    mod = relay.transform.InferType()(tvm.IRModule.from_expr(func))
    assert mod["main"].ret_type is None or mod["main"].ret_type == relay.TensorType((2, 3))
    assert mod["main"].checked_type == relay.FuncType([relay.TensorType((2, 3))], relay.TensorType((2, 3)))
    fused = tvm.transform.Sequential([relay.transform.InferType(), relay.transform.FuseOps(fuse_opt_level=2)])(mod)
    assert "Primitive" in str(fused)
    assert relay.analysis.free_vars(func.body) == [x]
    assert relay.analysis.well_formed(func)
    seen: list[str] = []
    relay.analysis.post_order_visit(func, lambda e: seen.append(type(e).__name__))
    assert seen.count("Call") == 3
    assert tvm.analysis.structural_equal(func, relay.Function([x], relay.nn.relu(relay.exp(x) + relay.const(1.0))))
    again = relay.fromtext(mod.astext())
    assert tvm.analysis.structural_equal(again, mod)


def test_mutators_and_visitors() -> None:
    class Swap(relay.ExprMutator):
        """exp becomes tanh."""

        def visit_call(self, call: relay.Call) -> relay.Expr:
            new = super().visit_call(call)
            return relay.tanh(*new.args) if new.op == relay.get_op("exp") else new

    class Count(relay.ExprVisitor):
        calls = 0

        def visit_call(self, call: relay.Call) -> None:
            super().visit_call(call)
            self.calls += 1

    x = relay.var("x", shape=(2, 3))
    func = Swap().visit(relay.Function([x], relay.exp(x) + x))
    count = Count()
    count.visit(func)
    assert count.calls == 2
    got = relay.create_executor("graph").evaluate(func)(A)
    tvm.testing.assert_allclose(got, np.tanh(A) + A, rtol=1e-5)


def test_control_flow_and_tuples() -> None:
    x, c = relay.var("x", shape=(2, 3)), relay.var("c", shape=(), dtype="bool")
    left, right = relay.split(x, 3, axis=1)[0], relay.TupleWrapper(relay.split(x, 3, axis=1).astuple(), 3)[2]
    let = relay.var("let")
    func = relay.Function([c, x], relay.Let(let, left + right, relay.If(c, let, let * relay.const(3.0))))
    run = relay.create_executor("graph").evaluate(func)
    sums = A[:, :1] + A[:, 2:]
    assert run(np.array(True), A).numpy().tolist() == sums.tolist()
    assert run(np.array(False), A).numpy().tolist() == (sums * 3).tolist()


def test_arrays() -> None:
    array = tvm.nd.array(A)
    assert array.shape == (2, 3) and array.dtype == "float32" and array.asnumpy().tolist() == A.tolist()
    array.copyfrom(A * 2)
    assert array.numpy().tolist() == (A * 2).tolist() and A[0, 1] == 1
    assert tvm.nd.empty((3, 4), "int8").numpy().dtype == np.int8
    assert array.copyto(tvm.nd.empty((2, 3))).numpy().tolist() == (A * 2).tolist()
    assert str(tvm.cpu(0)) == str(tvm.device("llvm", 0)) == "cpu(0)"
