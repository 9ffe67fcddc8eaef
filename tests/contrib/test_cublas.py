"""cuBLAS and cuBLASLt on doubles: libraries that stand in for them, and CuPy's double as the device."""

import math
from collections.abc import Callable

import pytest

import fusewire as fw
from fusewire.contrib.cublas import products
from fusewire.contrib.cublas.ffi import CUBLAS, LT
from fusewire.contrib.cudnn.ffi import CUDNN
from tests.contrib.fakes import Fake, missing, use
from tests.contrib.offload import conv2d, function_of, gelu, placed, refusals, run_on_device, taken, values_for, var
from tests.cuda.double import Double, install
from tests.cuda.host import needs_compiler


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, Double())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return use(monkeypatch, fake_cublas=(CUBLAS, LT), fake_cudnn=CUDNN)["fake_cublas"]


def run(body: fw.Expr, target: str = "cuda -libs=cublas", constants: tuple[str, ...] = ()) -> fw.CompiledModule:
    return run_on_device(body, target, constants)


PRODUCTS: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "dense": (lambda: fw.nn.dense(var("a", 5, 7), var("b", 9, 7)), "cublasGemmEx(10 9 5 7, 68)"),
    "a vector": (lambda: fw.nn.dense(var("a", 7), var("b", 9, 7)), "cublasGemmEx(10 9 1 7, 68)"),
    "4-D": (lambda: fw.nn.dense(var("a", 2, 3, 5, 7), var("b", 9, 7)), "cublasGemmEx(10 9 30 7, 68)"),
    "double": (
        lambda: fw.nn.dense(var("a", 5, 7, dtype="float64"), var("b", 9, 7, dtype="float64")),
        "cublasGemmEx(10 9 5 7, 70)",
    ),
    "matmul": (lambda: fw.nn.matmul(var("a", 5, 7), var("b", 7, 9)), "cublasGemmEx(00 9 5 7, 68)"),
    "matmul, both transposed": (
        lambda: fw.nn.matmul(var("a", 7, 5), var("b", 9, 7), transpose_a=True, transpose_b=True),
        "cublasGemmEx(11 9 5 7, 68)",
    ),
    "matmul, 4-D, a transposed": (
        lambda: fw.nn.matmul(var("a", 2, 3, 7, 5), var("b", 7, 9), transpose_a=True),
        "cublasGemmStridedBatchedEx(01 9 5 7, 0 35 45, 6)",
    ),
    "batch_matmul": (
        lambda: fw.nn.batch_matmul(var("a", 3, 5, 7), var("b", 3, 9, 7)),
        "cublasGemmStridedBatchedEx(10 9 5 7, 63 35 45, 3)",
    ),
    "batch_matmul, one a": (
        lambda: fw.nn.batch_matmul(var("a", 1, 5, 7), var("b", 3, 9, 7)),
        "cublasGemmStridedBatchedEx(10 9 5 7, 63 0 45, 3)",
    ),
    "batch_matmul, one b": (
        lambda: fw.nn.batch_matmul(var("a", 3, 5, 7), var("b", 1, 7, 9), transpose_b=False),
        "cublasGemmStridedBatchedEx(00 9 5 7, 0 35 45, 3)",
    ),
}


@needs_compiler
def test_products(cuda: Double, fake: Fake) -> None:
    for name, (make, call) in PRODUCTS.items():
        fake.clear()
        body = make()
        assert isinstance(body, fw.Call)
        lib = run(body, constants=("b",) if len(name) % 2 else ())
        assert placed(lib) == [f"cublas.{str(body.op).removeprefix('nn.')}"], name
        assert fake.log == [f"cublasSetStream({cuda.null.ptr})", call, call], name
        choice = lib.explain().choices[0]
        assert choice.chosen.endswith("_cublas.cuda") and choice.candidates[0].priority == 25


def gelu_tanh(x: fw.Expr) -> fw.Expr:
    inner = fw.const(math.sqrt(2 / math.pi)) * (x + fw.const(0.044715) * (x * x * x))
    return x * fw.const(0.5) * (fw.tanh(inner) + fw.const(1.0))


def dense() -> fw.Expr:
    return fw.nn.dense(var("a", 5, 7), var("b", 9, 7))


EPILOGUES: dict[str, tuple[Callable[[], fw.Expr], int]] = {
    "bias": (lambda: fw.nn.bias_add(dense(), var("bias", 9)), 4),
    "bias, relu": (lambda: fw.nn.relu(dense() + var("bias", 9)), 6),
    "relu": (lambda: fw.nn.relu(dense()), 2),
    "bias of a row": (lambda: dense() + var("bias", 1, 9), 4),
    "bias, gelu": (lambda: gelu_tanh(dense() + var("bias", 9)), 36),
    "gelu": (lambda: gelu_tanh(dense()), 32),
    "3-D": (lambda: fw.nn.relu(fw.nn.dense(var("a", 2, 5, 7), var("b", 9, 7)) + var("bias", 9)), 6),
    "matmul": (
        lambda: fw.nn.relu(fw.nn.matmul(var("a", 7, 5), var("b", 7, 9), transpose_a=True) + var("bias", 9)), 6),
}  # fmt: skip


@needs_compiler
def test_what_follows_is_absorbed(cuda: Double, fake: Fake) -> None:
    for name, (make, epilogue) in EPILOGUES.items():
        fake.clear()
        lib = run(make())
        assert len(placed(lib)) == 1 and "kernel" not in placed(lib), name
        call = f"cublasLtMatmul({epilogue}, 512, {cuda.null.ptr})"
        assert fake.log == ["cublasLtMatmulAlgoGetHeuristic(1)", call, call], name


LEFT: dict[str, tuple[Callable[[], fw.Expr], str]] = {
    "gelu by erf": (lambda: gelu(dense()), ""),
    "a column": (lambda: fw.nn.relu(dense() + var("c", 5, 1)), "the operand of add is no bias of the last axis"),
    "a batch": (
        lambda: fw.nn.relu(fw.nn.batch_matmul(var("a", 3, 5, 7), var("b", 3, 9, 7))),
        "relu behind a batch of products, expected one product",
    ),
    "float64": (
        lambda: fw.nn.relu(fw.nn.dense(var("a", 5, 7, dtype="float64"), var("b", 9, 7, dtype="float64"))),
        "relu of float64, expected float32, float16 or bfloat16",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_kernels(name: str) -> None:
    make, reason = LEFT[name]
    lib = fw.build(function_of(make()), "cuda -libs=cublas")
    assert len(taken(lib)) == 1 and len(taken(lib)[0]) == 1 and "kernel" in placed(lib)
    assert not reason or any(reason in str(d) for d in lib.runnable.report.decisions)


def test_refusals(caplog: pytest.LogCaptureFixture) -> None:
    a, b = (var(name, 4, 4, dtype="int8") for name in "ab")
    lib = fw.build(function_of(fw.nn.dense(a, b, out_dtype="int32")), "cuda -libs=cublas")
    assert placed(lib) == ["kernel"]
    assert "dense_cublas.cuda: data is int8, expected float32, float64, float16 or bfloat16" in refusals(lib)
    assert any(m.startswith("library cublas is not used: ") for m in caplog.messages)


def network() -> fw.Expr:
    net = fw.nn.relu(fw.nn.bias_add(conv2d((2, 3, 8, 8), (4, 3, 3, 3)), var("bias", 4)))
    net = fw.exp(fw.nn.batch_flatten(fw.nn.max_pool2d(net, (2, 2), (2, 2))) * fw.const(-1.0))
    return fw.nn.softmax(fw.nn.dense(net, var("w", 6, 36)))


@needs_compiler
def test_with_cudnn(cuda: Double, fake: Fake) -> None:
    lib = run(network(), "cuda -libs=cudnn,cublas")
    assert placed(lib) == ["cudnn.conv2d", "cudnn.max_pool2d", "kernel", "cublas.dense", "cudnn.softmax"]


@needs_compiler
def test_errors_are_in_words(cuda: Double, fake: Fake) -> None:
    lib = fw.build(function_of(dense()), "cuda -libs=cublas")
    module = fw.GraphModule(lib["default"](fw.device("cuda")))
    fake.fail("cublasGemmEx", 13)
    with pytest.raises(fw.LibraryCallError, match=(
        r"cublas.dense failed to run nn.dense.*cublasGemmEx met an error while it ran \(status 13\)$"
    )):  # fmt: skip
        module.run(**values_for(function_of(dense())))
    lib = fw.build(function_of(fw.nn.relu(dense())), "cuda -libs=cublas")
    fake.fail("cublasLtMatmulAlgoGetHeuristic", -1)
    with pytest.raises(fw.LibraryCallError, match=r"cannot prepare nn.dense \+ nn.relu.*cuBLASLt has no algorithm for"):
        fw.GraphModule(lib["default"](fw.device("cuda")))


def test_tf32_only_where_it_is_asked_for() -> None:
    assert [products.computes("float32", p) for p in ("float32", "tf32")] == [68, 77]
    assert [products.computes(dtype, "tf32") for dtype in ("float64", "float16", "bfloat16")] == [70, 68, 68]


def test_half_precision_is_taken() -> None:
    for dtype in ("float16", "bfloat16"):
        net = fw.nn.relu(fw.nn.dense(var("a", 4, 8, dtype=dtype), var("b", 6, 8, dtype=dtype)))
        assert taken(fw.build(function_of(net), "cuda -libs=cublas")) == [("nn.dense", "nn.relu")]


@needs_compiler
def test_missing_library(cuda: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch)
    lib = fw.build(function_of(dense()), "cuda -libs=cublas")
    assert placed(lib) == ["cublas.dense"]
    with pytest.raises(fw.LibraryNotFound, match=r"libcublas.so.13 does not load.*pip install 'fusewire\[cublas\]'"):
        lib["default"](fw.device("cuda"))
