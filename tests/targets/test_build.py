"""`fw.build`: what it accepts, what it refuses and how it says so, and what the compiled module tells of itself."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.targets.cpuinfo import cpu_features

Array = npt.NDArray[Any]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
PLAIN = fw.TensorType((2, 3))


def x23(name: str = "x") -> fw.Var:
    return fw.var(name, PLAIN)


def run(params: Sequence[fw.Var], body: fw.Expr, **inputs: Any) -> Any:
    return fw.build(fw.Function(params, body))(**inputs)


def tutorial_net(side: int = 20) -> tuple[fw.IRModule, dict[str, fw.NDArray], Array, Array]:
    """The tutorial's net on a small picture, its parameters, an input, and what it should give."""
    data = fw.var("data", shape=(1, 3, 8, side))
    conv = fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1))
    gamma, beta, mean, var = (fw.var(f"bn_{n}") for n in ("gamma", "beta", "mean", "var"))
    net = fw.nn.batch_norm(conv, gamma, beta, mean, var)[0]
    net = fw.nn.relu(net)
    mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))
    rng = np.random.default_rng(3)
    for name in params:
        params[name] = fw.nd.array(rng.uniform(0.5, 1.5, params[name].shape).astype(np.float32))
    x = rng.uniform(-1, 1, (1, 3, 8, side)).astype(np.float32)
    inputs = {"data": x, **{n: p.numpy() for n, p in params.items()}}
    return mod, params, x, fw.testing.evaluate(mod["main"], inputs)[0]


class TestWhatCanBeBuilt:
    def test_expression_function_and_module_are_the_same(self) -> None:
        x = x23()
        for graph in (x + 1.0, fw.Function([x], x + 1.0), fw.IRModule.from_expr(x + 1.0)):
            np.testing.assert_array_equal(fw.build(graph)(x=X), X + 1)

    @pytest.mark.parametrize("target", ["cpu", "llvm", "c", {"kind": "cpu"}, fw.Target("cpu"), "cpu -num-cores=1"])
    def test_targets(self, target: Any) -> None:
        np.testing.assert_array_equal(fw.build(x23() * 2.0, target)(x=X), X * 2)

    def test_if_runs_one_branch(self) -> None:
        c, x = fw.var("c", shape=(), dtype="bool"), x23()
        inner = fw.If(fw.sum(x) > 3.0, x + 1.0, x * 2.0)
        shared = fw.exp(x)
        lib = fw.build(fw.Function([c, x], fw.If(c, fw.Tuple([inner, shared]), fw.Tuple([x * 3.0, shared + x]))))
        for value, expected in (
            (True, [X + 1, np.exp(X)]),
            (False, [X * 3, np.exp(X) + X]),
        ):
            for got, want in zip(lib(c=np.array(value), x=X), expected, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-6)
        np.testing.assert_array_equal(lib(c=True, x=X * 0)[0], 0 * X)

    def test_let(self) -> None:
        x, v, w = x23(), x23("v"), x23("w")
        np.testing.assert_array_equal(run([x], fw.Let(v, x * 2, v + v), x=X), X * 4)
        np.testing.assert_array_equal(run([x], fw.Let(v, fw.Let(w, x + 1, w * w), v - x), x=X), (X + 1) ** 2 - X)
        np.testing.assert_array_equal(run([x], fw.Let(v, x * 2, fw.Let(w, v + 1, w * v)), x=X), (X * 2 + 1) * X * 2)

    def test_functions_of_the_module(self) -> None:
        x, y = x23(), x23("y")
        f = fw.GlobalVar("f")
        double = fw.Function([y], y * 2)
        mod = fw.IRModule({"f": double, "main": fw.Function([x], f(x) + f(f(x + 1.0)))})
        np.testing.assert_array_equal(fw.build(mod)(x=X), X * 2 + (X + 1) * 4)

    def test_function_values(self) -> None:
        """Functions may be called where they stand, be let, passed, chosen, and use variables from outside."""
        x, y, v = x23(), x23("y"), x23("v")
        type_ = fw.FuncType([PLAIN], PLAIN)
        g, c = fw.var("g", type_), fw.var("c", shape=(), dtype="bool")
        plus = fw.Function([y], y + 1)
        z = x23("z")
        for body, expected in (
            (plus(plus(x)), X + 2),
            (fw.Let(g, plus, g(g(x))), X + 2),
            (fw.Let(v, x * 2, fw.Function([y], y + v)(x)), X * 3),
            (fw.Let(v, x * 2, fw.Let(g, fw.Function([y], y + v), g(g(x)))), X * 5),
            (fw.Function([g], g(x))(plus), X + 1),
            (fw.TupleGetItem(fw.Tuple([plus, x]), 0)(x), X + 1),
            (fw.Function([y], fw.Let(v, y * y, v + y))(x), X * X + X),
        ):
            np.testing.assert_array_equal(run([x], body, x=X), expected)
        choice = fw.build(fw.Function([c, x], fw.If(c, plus, fw.Function([z], z * 3))(x)))
        np.testing.assert_array_equal(choice(c=True, x=X), X + 1)
        np.testing.assert_array_equal(choice(c=False, x=X), X * 3)
        mod = fw.IRModule({"f": plus, "main": fw.Function([x], fw.Function([g], g(g(x)))(fw.GlobalVar("f")))})
        np.testing.assert_array_equal(fw.build(mod)(x=X), X + 2)

    @pytest.mark.parametrize("length", [300, 2000])
    def test_long_chains(self, length: int) -> None:
        x = x23()
        chain: fw.Expr = x
        for _ in range(length):
            chain = chain + 1.0
        with fw.PassContext(disabled_pass=["SimplifyExpr", "FoldConstant"]):
            np.testing.assert_array_equal(run([x], chain, x=X), X + length)

    def test_long_chain_of_lets(self) -> None:
        variables = [x23(f"v{k}") for k in range(500)]
        body: fw.Expr = variables[-1]
        for k in reversed(range(500)):
            body = fw.Let(variables[k], (variables[k - 1] if k else x23()) + 1.0, body)
        np.testing.assert_array_equal(fw.build(body)(x=X), X + 500)


class TestSymbolicDimensions:
    def graph(self) -> fw.Function:
        n = fw.size_var("n")
        a, b = fw.var("a", shape=(n, 3)), fw.var("b", shape=(n * 2 + 1, 3))
        return fw.Function([a, b], fw.concatenate([a, b], 0) * 2)

    @pytest.mark.parametrize("n", [1, 2, 7])
    def test_bound_by_shape(self, n: int) -> None:
        a, b = np.ones((n, 3), np.float32), np.full((2 * n + 1, 3), 2, np.float32)
        for shape in ({"a": (n, 3)}, {"b": [2 * n + 1, 3]}, {"a": a.shape, "b": b.shape}):
            np.testing.assert_array_equal(fw.build(self.graph(), shape=shape)(a=a, b=b), np.concatenate([a, b]) * 2)

    def test_conv2d_of_a_batch(self) -> None:
        data = fw.var("data", shape=(fw.size_var("n"), 2, 5, 5))
        weight = np.ones((3, 2, 3, 3), np.float32)
        net = fw.nn.conv2d(data, fw.const(weight), padding=(1, 1))
        got = fw.build(net, shape={"data": (4, 2, 5, 5)})(data=np.ones((4, 2, 5, 5), np.float32))
        assert got.shape == (4, 3, 5, 5)
        assert got[:, :, 2, 2].tolist() == [[18.0] * 3] * 4 and got[3, 2, 0, 0] == 8

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            (None, r"dimensions n are not bound .*%a: Tensor\[\(n, 3\), float32\].*give shape="),
            ({"c": (2, 3)}, "shape has 'c', but the parameters are a, b"),
            ({"a": (2,)}, r"shape\['a'\] is \(2,\), but %a is"),
            ({"a": (2, 4)}, r"shape\['a'\] is \(2, 4\), but %a is"),
            ({"a": (2, 3), "b": (7, 3)}, "dimension n is both 2 and 3"),
            ({"b": (4, 3)}, r"shape\['b'\] is \(4, 3\)"),
            ({"a": (-2, 3)}, "-2"),
            ({"a": (2.5, 3)}, "sequence of integers"),
            ({"a": "ab"}, "sequence of integers"),
            ({"a": None}, "sequence of integers"),
            ({"a": 3}, "sequence of integers"),
        ],
    )
    def test_refusals(self, shape: Any, message: str) -> None:
        with pytest.raises(fw.FusewireError, match=message):
            fw.build(self.graph(), shape=shape)


class TestParams:
    def graph(self) -> fw.Function:
        weight, x = x23("weight"), x23()
        return fw.Function([weight, x], weight * x)

    @pytest.mark.parametrize("wrap", [np.asarray, fw.nd.array, np.ndarray.tolist, np.asfortranarray])
    def test_by_name(self, wrap: Callable[[Array], Any]) -> None:
        lib = fw.build(self.graph(), params={"weight": wrap(X)})
        np.testing.assert_array_equal(lib(x=X), X * X)
        assert [a.tolist() for a in lib.params.values()] == [X.tolist()]
        np.testing.assert_array_equal(fw.build(self.graph(), params={"weight": X, "x": X})(), X * X)

    def test_they_are_constants_from_then_on(self) -> None:
        weight = X.copy()
        lib = fw.build(self.graph(), params={"weight": weight})
        weight[...] = 0
        np.testing.assert_array_equal(lib(x=X), X * X)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"wieght": X}, "params has 'wieght', but the parameters are weight, x; did you mean 'weight'"),
            ({"weight": X.T}, r"params\['weight'\] is Tensor\[\(3, 2\), float32\], but %weight is Tensor\[\(2, 3\)"),
            ({"weight": X.astype(np.float64)}, "float64.*float32"),
            ({"weight": "heavy"}, "constant of 'heavy'"),
        ],
    )
    def test_refusals(self, params: Any, message: str) -> None:
        with pytest.raises(fw.FusewireError, match=message):
            fw.build(self.graph(), params=params)


class TestRefusals:
    @pytest.mark.parametrize("thing", [None, 3, "fn (%x) { %x }", np, [fw.const(1.0)]])
    def test_what_is_not_a_graph(self, thing: Any) -> None:
        with pytest.raises(fw.FusewireError, match="takes an IRModule, a Function or an expression, got a"):
            fw.build(thing)

    def test_modules(self) -> None:
        x, y = x23(), x23("y")
        f, main = fw.GlobalVar("f"), fw.GlobalVar("main")
        plus = fw.Function([y], y + 1.0)
        for mod, message in (
            (fw.IRModule(), "no function 'main'"),
            (fw.IRModule({"f": plus}), "no function 'main' in the module; there are f"),
            (fw.IRModule({"main": fw.Function([x], main(x))}), "circle: main -> main"),
            (fw.IRModule({"main": fw.Function([x], f(x)), "f": fw.Function([y], main(y))}), "main -> f -> main"),
            (fw.IRModule({"main": fw.Function([x], f(x))}), "no function 'f'"),
            (fw.IRModule({"main": fw.Function([x], f(x, x)), "f": plus}), "1 parameters .* 2 arguments"),
            (fw.IRModule({"main": fw.Function([x], f(fw.sum(x))), "f": plus}), "%y is Tensor.*, but is given float32"),
            (fw.IRModule({"main": fw.Function([x], x + y)}), "%y is not bound|variable %y"),
        ):
            with pytest.raises(fw.FusewireError, match=message):
                fw.build(mod)

    def test_untyped_and_ambiguous_parameters(self) -> None:
        with pytest.raises(fw.TypeInferenceError, match="%q is neither given"):
            fw.build(fw.var("q") + 1.0)
        with pytest.raises(fw.FusewireError, match="two parameters are called 'x'"):
            fw.build(x23() + x23())

    def test_functions_as_inputs_and_results(self) -> None:
        x, g = x23(), fw.var("g", fw.FuncType([PLAIN], PLAIN))
        for function in (fw.Function([g, x], g(x)), fw.Function([x], fw.Function([g], g(x)))):
            with pytest.raises(fw.FusewireError):
                fw.build(function)

    def test_targets_and_devices(self) -> None:
        for target in ("gpu9", None, "metal", "cpu -libs=nothing", "cpu -mcpu=i386sx", "cpu -num-cores=0"):
            with pytest.raises(fw.TargetError):
                fw.build(x23() + 1.0, target)  # type: ignore[arg-type]
        lib = fw.build(x23() + 1.0)
        for device in (3, None, "gpu9"):
            with pytest.raises(fw.TargetError):
                lib["default"](device)
        with pytest.raises(fw.FusewireError, match="'default', not 'other'"):
            lib["other"]

    def test_code_for_another_processor_is_built_but_not_run(self) -> None:
        other = "cortex-a72" if "neon" not in cpu_features().features else "haswell"
        lib = fw.build(x23() + 1.0, f"cpu -mcpu={other}")
        assert "out" in lib.get_source()
        with pytest.raises(fw.TargetError, match="this processor lacks"):
            lib["default"](fw.cpu())


class TestAboutTheModule:
    @pytest.fixture
    def lib(self) -> fw.CompiledModule:
        x, y = x23(), x23("y")
        return fw.build(fw.Function([x, y], fw.nn.softmax(fw.nn.relu(x * y + 1.0))), params={"y": X})

    def test_metadata(self, lib: fw.CompiledModule) -> None:
        main, *rest = lib.function_metadata.items()
        assert main[0] == "__fusewire_main__"
        (target,) = main[1].io_sizes
        assert target == lib.target == fw.Target("cpu")
        assert main[1].io_sizes[target] == 2 * 24 and main[1].constant_sizes[target] == 24
        assert main[1].relay_function is lib.fused_mod["main"]
        assert main[1].workspace_sizes[target] >= lib.arena.size > 0
        for name, info in rest:
            assert name.startswith("fusewire_default_fused_")
            assert info.io_sizes[target] == 24 and info.constant_sizes[target] == 0
            assert info.relay_function.attrs["Primitive"] == 1
            assert info.loop_ir == lib.get_source(name, "loops") and info.loop_ir.startswith(f"kernel {name}(")
            assert info.source == lib.get_source(name) and f"void {name}(" in info.source

    def test_source(self, lib: fw.CompiledModule) -> None:
        names = [n for n in lib.function_metadata if n != "__fusewire_main__"]
        assert all(name in lib.get_source() and name in lib.get_source(kind="loops") for name in names)
        for name, kind, message in (
            (None, "cuda", "source of kind 'c' and 'loops', not 'cuda'"),
            ("fused_nothing", "c", f"no generated function 'fused_nothing'; there are {names[0]}"),
            ("__fusewire_main__", "c", "no generated function"),
        ):
            with pytest.raises(fw.FusewireError, match=message):
                lib.get_source(name, kind)

    def test_explain(self, lib: fw.CompiledModule) -> None:
        everything = lib.explain()
        ops = [op for choice in everything.choices for op in choice.ops]
        assert sorted(ops) == ["add", "multiply", "nn.relu", "nn.softmax"]
        assert "loops.cpu (1)" in str(everything) and "chosen" in str(everything)
        (one,) = lib.explain("nn.softmax").to_dict()
        assert one["chosen"] == "loops.cpu" and one["candidates"] == [
            {
                "name": "loops.cpu",
                "priority": 1,
                "refusal": None,
                "predicted": None,
                "measured": None,
                "config": {},
            }
        ]
        assert lib.explain("nn.conv2d").choices == ()
        assert lib.explain(everything.choices[0].step).choices == everything.choices[:1]

    @pytest.mark.parametrize("name", ["net-1", "1st", "größe", "main", "int", "x y", "", "a" * 500, 'quote"\\n'])
    def test_module_names(self, name: str) -> None:
        lib = fw.build(x23() + 1.0, mod_name=name)
        np.testing.assert_array_equal(lib(x=X), X + 1)
        np.testing.assert_array_equal(run_module(lib, name), X + 1)
        assert all(n.isascii() and n.isidentifier() for n in lib.function_metadata)

    def test_repr_is_short(self, lib: fw.CompiledModule) -> None:
        assert "cpu" in repr(lib) and len(repr(lib)) < 120 and len(repr(lib["default"](fw.cpu()))) < 300

    def test_unfused_and_without_passes(self) -> None:
        mod, params, x, expected = tutorial_net()
        for context in (
            fw.PassContext(opt_level=0),
            fw.PassContext(opt_level=3),
            fw.PassContext(disabled_pass=["FuseOps"]),
            fw.PassContext(config={"relay.FuseOps.max_depth": 1}),
        ):
            with context:
                np.testing.assert_allclose(fw.build(mod, params=params)(data=x), expected, rtol=1e-5, atol=1e-5)


def run_module(lib: fw.CompiledModule, name: str) -> Array:
    module = fw.GraphModule(lib[name](fw.cpu()))
    module.run(x=X)
    return module.get_output(0).numpy()


class TestCompilers:
    @pytest.mark.parametrize("mcpu", ["haswell", "x86-64", "x86-64-v4"])
    def test_older_processors_agree(self, mcpu: str) -> None:
        mod, params, x, expected = tutorial_net()
        lib = fw.build(mod, f"cpu -mcpu={mcpu}", params=params)
        try:
            lib["default"](fw.cpu())
        except fw.TargetError as error:
            pytest.skip(str(error))
        np.testing.assert_allclose(lib(data=x), expected, rtol=1e-5, atol=1e-5)
        widest = {"haswell": "v8f32", "x86-64": "v4f32", "x86-64-v4": "v16f32"}[mcpu]
        assert [w in lib.get_source() for w in ("v8f32", "v16f32")] == [widest == "v8f32", widest == "v16f32"]

    @pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
    def test_zig_agrees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mod, params, x, expected = tutorial_net()
        monkeypatch.setenv("CC", f"{sys.executable} -m ziglang cc")
        np.testing.assert_allclose(fw.build(mod, params=params)(data=x), expected, rtol=1e-5, atol=1e-5)

    def test_a_compiler_that_fails(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path / "cache"))
        lib = fw.build(x23() + 1.0)
        monkeypatch.setenv("CC", "/bin/false")
        with pytest.raises(fw.CompileError, match="/bin/false"):
            lib(x=X)
        fake = tmp_path / "broken-cc"
        fake.write_text('#!/bin/sh\ntest "$1" = --version || { echo "no room on the moon"; exit 3; }\n')
        fake.chmod(0o755)
        monkeypatch.setenv("CC", str(fake))
        with pytest.raises(fw.CompileError) as error:
            lib(x=X)
        text = str(error.value)
        assert "no room on the moon" in text and f"command: {fake} " in text and "exit status 3" in text
        kept = Path(text.partition("source kept in: ")[2].partition("\n")[0])
        assert "void fusewire_default_fused_add(" in kept.read_text()
        monkeypatch.delenv("CC")
        np.testing.assert_array_equal(lib(x=X), X + 1)  # the failure is not remembered

    def test_the_cache_may_vanish_at_any_time(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Entries are cut short and deleted while a build runs; every result stays right."""
        root = tmp_path / "cache"
        monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(root))
        monkeypatch.setenv("FUSEWIRE_CFLAGS", "-O0")
        done = threading.Event()

        def vandal() -> None:
            turn = 0
            while not done.wait(0.01):
                turn += 1
                for library in root.glob("objects/*/*/lib.so"):
                    try:
                        library.write_bytes(library.read_bytes()[: turn * 100 % 5000])
                    except OSError:
                        continue
                if turn % 3 == 0:
                    shutil.rmtree(root, ignore_errors=True)

        thread = threading.Thread(target=vandal)
        thread.start()
        try:
            early = fw.build(x23() * 3.0)
            np.testing.assert_array_equal(early(x=X), X * 3)
            for k in range(6):
                np.testing.assert_array_equal(fw.build(x23() + float(k % 3))(x=X), X + k % 3)
            np.testing.assert_array_equal(early(x=X), X * 3)
        finally:
            done.set()
            thread.join()

    @pytest.mark.parametrize("level", [0, 2, 4])
    def test_debug_levels(self, tmp_path: Path, level: int) -> None:
        marks = [
            "compiled module.c in",
            "pass FuseOps",
            "kernel fusewire_default_fused_exp_add(p0",
            "const float *restrict p0",
        ]
        script = (
            "import fusewire as fw, numpy as np\n"
            "x = fw.var('x', shape=(2, 3))\n"
            "fw.build(fw.Function([x], fw.exp(x) + 1.0))(x=np.zeros((2, 3), 'f4'))\n"
        )
        environment = {
            **os.environ,
            "FUSEWIRE_DEBUG": str(level),
            "FUSEWIRE_CACHE_DIR": str(tmp_path),
            "FUSEWIRE_CFLAGS": "-O0",
        }
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert [mark in done.stderr for mark in marks] == [k < level for k in range(4)]
        assert done.stdout == ""
