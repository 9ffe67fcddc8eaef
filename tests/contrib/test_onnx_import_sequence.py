"""`from_onnx` on what exporters make of transformers and recurrent networks: tied weights, masks, caches, unrolling."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", "1.16")

from onnx import helper, numpy_helper, parser  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire import frontend  # noqa: E402
from fusewire.contrib.onnx.values import Knowledge, simplified  # noqa: E402
from fusewire.fuse import fold_constant  # noqa: E402
from fusewire.fuse.graph import is_op_call  # noqa: E402
from fusewire.fuse.transform import FoldConstant  # noqa: E402
from fusewire.ir.visitor import post_order  # noqa: E402

Array = npt.NDArray[Any]


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(text: str, weights: dict[str, Array] | None = None, opset: int = 18) -> Any:
    """A model from ONNX's text form of a graph."""
    graph = parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in (weights or {}).items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def built(proto: Any, shape: dict[str, int] | None = None) -> Any:
    mod, params = frontend.from_onnx(proto, shape=shape)
    return fw.build(mod, "cpu -num-cores=1", params=params)


def agree(proto: Any, feed: dict[str, Array], shape: dict[str, int] | None = None) -> Any:
    """Compile, compare with ONNX's own evaluator, and return the compiled module."""
    lib = built(proto, shape)
    found = lib(**feed)
    expected = ReferenceEvaluator(proto).run(None, feed)
    for got, want in zip(found if isinstance(found, list) else [found], expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return lib


def ops_in(proto: Any) -> list[str]:
    return [str(e.op) for e in post_order(frontend.from_onnx(proto)[0]["main"].body) if isinstance(e, fw.Call)]


# Weights

TIED = """net (int64[4] ids) => (float[4,10] scores) {
    x = Gather(words, ids)
    turned = Transpose<perm=[1,0]>(words)
    scores = MatMul(x, turned)
}"""


def test_scores_by_the_transposed_embedding_share_its_memory() -> None:
    lib = agree(model(TIED, {"words": random(0, 10, 6)}), {"ids": np.array([3, 1, 9, 0])})
    assert [str(t) for t in map(np.shape, lib.params.values())] == ["(10, 6)"]
    assert not any("transpose" in step.name for step in lib.program.leaf_steps())


def test_one_weight_in_products_of_many_rows_and_of_one() -> None:
    text = """net (float[20,32] many, float[1,32] one) => (float[20,32] a, float[1,32] b, float[20,32] c) {
        a = MatMul(many, w)
        b = MatMul(one, w)
        c = Gemm<transB=1>(many, w)
    }"""
    agree(model(text, {"w": random(0, 32, 32)}), {"many": random(1, 20, 32), "one": random(2, 1, 32)})


def test_transposed_weights_are_rearranged_when_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_constant, "LARGEST", 16)  # the weights are larger than what is computed
    text = """net (float[2,3,4] x) => (float[2,3,5] y) {
        turned = Transpose<perm=[0,2,1]>(w)
        y = MatMul(x, turned)
    }"""
    lib = agree(model(text, {"w": random(0, 2, 5, 4)}), {"x": random(1, 2, 3, 4)})
    assert [step.name for step in lib.program.leaf_steps()] == ["fusewire_default_fused_nn_batch_matmul"]


def test_parts_of_weights_do_not_keep_the_whole() -> None:
    x, w = fw.var("x", shape=(4,)), fw.const(random(0, 8, 4))

    def folded(weights: fw.Expr) -> Array:
        mod = FoldConstant()(fw.IRModule.from_expr(fw.Function([x], fw.multiply(x, weights))))
        body = mod["main"].body
        assert is_op_call(body, "multiply") and isinstance(body.args[1], fw.Constant)
        return body.args[1].data

    assert np.may_share_memory(folded(fw.reshape(w, (4, 2, 4))), w.data)
    assert not np.may_share_memory(folded(fw.strided_slice(w, [2], [4])), w.data)


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_without_a_copy_of_the_model(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = model("net (float[2,4] x) => (float[2,64] y) { y = MatMul(x, w) }", {"w": random(0, 4, 64)})
    onnx.save_model(proto, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    _, params = frontend.from_onnx(path)
    np.testing.assert_array_equal(params["w"], random(0, 4, 64))
    assert not params["w"].flags.writeable  # a Constant takes such an array as it is
    assert fw.const(params["w"]).data is params["w"]


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = model("net (float[2,4] x) => (float[2,64] y) { y = MatMul(x, w) }", {"w": random(0, 4, 64)})
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(fw.FusewireError, match="'w' cannot be read"):
        frontend.from_onnx(path)


def test_external_data_of_a_constant(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = model("net (float[3] x) => (float[3] y) { c = Constant<value = float[3] {1, 2, 3}>() y = Add(x, c) }")
    tensor = proto.graph.node[0].attribute[0].t
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))
    onnx.save_model(proto, path, save_as_external_data=True, location="c.bin", size_threshold=0, convert_attribute=True)
    assert (tmp_path / "c.bin").stat().st_size == 12
    mod, params = frontend.from_onnx(path)
    np.testing.assert_array_equal(fw.build(mod, "cpu", params=params)(x=np.zeros(3, np.float32)), [1, 2, 3])


# Expressions


@pytest.mark.parametrize(("exponent", "expected"), [(2, ["multiply"]), (3, ["multiply"] * 2), (2.5, ["power"])])
def test_squares_and_cubes_are_products(exponent: float, expected: list[str]) -> None:
    proto = model("net (float[8] x) => (float[8] y) { y = Pow(x, e) }", {"e": np.array(exponent, np.float32)})
    assert ops_in(proto) == expected
    agree(proto, {"x": np.abs(random(0, 8))})


def test_a_square_with_an_exponent_of_higher_rank() -> None:
    agree(model("net (float[8] x) => (float[1,8] y) { y = Pow(x, e) }", {"e": np.array([[2]], np.float32)}),
          {"x": random(0, 8)})  # fmt: skip


def test_long_sums_keep_their_digits() -> None:
    text = "net (float[1,300,1000] x) => (float[1,1,1] y) { y = ReduceMean(x, axes) }"
    x = np.full((1, 300, 1000), 0.1, np.float32)
    got = built(model(text, {"axes": np.array([1, 2])}))(x=x)
    np.testing.assert_allclose(got, x.mean(dtype=np.float64).reshape(1, 1, 1), rtol=1e-5)


ATTENTION = """net (float[1,n,8] x, int64[1,n] mask) => (float[1,n,8] y) {
    whole = Shape(x)
    one = Constant<value = int64[1] {1}>()
    two = Constant<value = int64[1] {2}>()
    heads = Constant<value = int64[2] {2, 4}>()
    width = Constant<value = int64[1] {8}>()
    zero = Constant<value = int64[1] {0}>()
    front = Slice(whole, zero, two)
    split = Concat<axis=0>(front, heads)
    cut = Reshape(x, split)
    q = Transpose<perm=[0,2,1,3]>(cut)
    k = Transpose<perm=[0,2,3,1]>(cut)
    scores = MatMul(q, k)
    axes = Constant<value = int64[2] {1, 2}>()
    wide = Unsqueeze(mask, axes)
    seen = Cast<to=9>(wide)
    masked = Where(seen, scores, low)
    weights = Softmax<axis=-1>(masked)
    mixed = MatMul(weights, q)
    back = Transpose<perm=[0,2,1,3]>(mixed)
    joined = Concat<axis=0>(front, width)
    y = Reshape(back, joined)
}"""


@pytest.mark.parametrize("length", [1, 5])
def test_attention_of_a_length_that_is_bound(length: int) -> None:
    proto = model(ATTENTION, {"low": np.array(-1e30, np.float32)})
    mask = np.ones((1, length), np.int64)
    mask[0, 3:] = 0
    lib = agree(proto, {"x": random(0, 1, length, 8), "mask": mask}, {"n": length})
    names = {str(e.op) for e in post_order(lib.ir_mod["main"].body) if isinstance(e, fw.Call)}
    assert not names & {"shape_of", "strided_slice", "concatenate"}  # arithmetic on shapes is gone


def test_attention_without_a_length() -> None:
    proto = model(ATTENTION, {"low": np.array(-1e30, np.float32)})
    with pytest.raises(fw.FusewireError, match="shape="):
        built(proto)


CACHE = """net (float[1,2,1,4] new, float[1,2,past,4] old) => (float[1,2,m,4] all, int64[1] place) {
    all = Concat<axis=2>(old, new)
    place = Shape<start=2, end=3>(old)
}"""


def test_a_cache_grows_by_one() -> None:
    lib = agree(model(CACHE), {"new": random(0, 1, 2, 1, 4), "old": random(1, 1, 2, 6, 4)}, {"past": 6})
    assert lib(new=random(0, 1, 2, 1, 4), old=random(1, 1, 2, 6, 4))[1].tolist() == [6]


# Recurrent layers


def recurrent(kind: str, steps: int, directions: int, attributes: str = "", lengths: bool = False) -> Any:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    hidden, features, batch = 5, 3, 2
    direction = "bidirectional" if directions == 2 else "forward"
    text = f"""net (float[{steps},{batch},{features}] x{", int32[2] lengths" if lengths else ""})
        => (float[a,b,c,d] y, float[e,f,g] h) {{
        y, h = {kind}<hidden_size={hidden}, direction="{direction}"{attributes}>
            (x, w, r, b{", lengths" if lengths else ""})
    }}"""
    weights = {
        "w": random(0, directions, gates * hidden, features),
        "r": random(1, directions, gates * hidden, hidden),
        "b": random(2, directions, 2 * gates * hidden),
    }
    return model(text, weights, 14)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def expected_of(kind: str, x: Array, w: Array, r: Array, b: Array, reset: bool = False) -> tuple[Array, Array]:
    """One direction by the formulas of the ONNX specification, in float64: outputs and the last state."""
    x, w, r, b = (a.astype(np.float64) for a in (x, w, r, b))
    hidden = r.shape[1]
    wb, rb = b[: len(b) // 2], b[len(b) // 2 :]
    h = c = np.zeros((x.shape[1], hidden))
    outputs = []
    for step in x:
        if kind == "RNN":
            h = np.tanh(step @ w.T + h @ r.T + wb + rb)
        elif kind == "LSTM":
            i, o, f, g = np.split(step @ w.T + h @ r.T + wb + rb, 4, 1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            xz, xr, xh = np.split(step @ w.T + wb, 3, 1)
            (rz, rr, rh), (bz, br, bh) = np.split(r, 3), np.split(rb, 3)
            z, gate = sigmoid(xz + h @ rz.T + bz), sigmoid(xr + h @ rr.T + br)
            seen = gate * (h @ rh.T + bh) if reset else (gate * h) @ rh.T + bh
            h = (1 - z) * np.tanh(xh + seen) + z * h
        outputs.append(h)
    return np.stack(outputs), h


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("kind", "reset"), [("RNN", 0), ("LSTM", 0), ("GRU", 0), ("GRU", 1)])
def test_recurrent_layers(kind: str, reset: int, directions: int) -> None:
    proto = recurrent(kind, 4, directions, ", linear_before_reset=1" if reset else "")
    w, r, b = (numpy_helper.to_array(t) for t in proto.graph.initializer)
    x = random(3, 4, 2, 3)
    whole, last = built(proto)(x=x)
    for side in range(directions):
        want, state = expected_of(kind, x[::-1] if side else x, w[side], r[side], b[side], bool(reset))
        np.testing.assert_allclose(whole[:, side], want[::-1] if side else want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(last[side], state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_sequences_that_end_early(kind: str) -> None:
    proto = recurrent(kind, 4, 1, lengths=True)
    w, r, b = (numpy_helper.to_array(t)[0] for t in proto.graph.initializer)
    x = random(3, 4, 2, 3)
    whole, last = built(proto)(x=x, lengths=np.array([4, 2], np.int32))
    want, _ = expected_of(kind, x, w, r, b)
    np.testing.assert_allclose(whole[:, 0, 0], want[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole[:2, 0, 1], want[:2, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(whole[2:, 0, 1], 0)
    np.testing.assert_allclose(last[0, 1], want[1, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "kernels"), [("RNN", 1), ("LSTM", 3), ("GRU", 2)])
def test_steps_share_weights_and_code(kind: str, kernels: int) -> None:
    def counts(steps: int) -> tuple[int, int, int]:
        attributes = ", linear_before_reset=1" if kind == "GRU" else ""
        lib = built(recurrent(kind, steps, 1, attributes))
        functions = {compiled.symbol for compiled in lib.code.steps.values()}
        packed = sum(a.nbytes for a in lib.code.packed.values())
        return len(lib.program.leaf_steps()), len(functions), packed

    (steps, functions, packed), (more_steps, more_functions, more_packed) = counts(5), counts(9)
    assert more_steps - steps == 4 * kernels
    assert (more_functions, more_packed) == (functions, packed)


# Reading is linear


def test_what_depends_on_an_input_is_looked_at_once() -> None:
    knowledge = Knowledge()
    value: Any = fw.var("x", shape=(1,))
    first = fw.add(value, fw.const(1.0))
    assert simplified(first, knowledge) is first
    seen = len(knowledge._sources)
    second = fw.exp(first)
    assert simplified(second, knowledge) is second
    assert knowledge.of(second) is None and not knowledge._memo  # nothing was computed in vain
    assert len(knowledge._sources) == seen + 1


def test_what_follows_from_initialisers_stays_an_expression() -> None:
    text = "net (float[4] x) => (float[4] y) { twice = Add(w, w) y = Mul(x, twice) }"
    mod, params = frontend.from_onnx(model(text, {"w": random(0, 4)}))
    body = mod["main"].body
    assert is_op_call(body, "multiply") and is_op_call(body.args[1], "add") and list(params) == ["w"]
