"""ONNX files that nobody should have written: each is refused with a message that says why, without work or memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", "1.16")

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire.contrib.onnx import importer  # noqa: E402
from fusewire.frontend import from_onnx  # noqa: E402


def model(text: str, opset: int = 17, functions: str = "") -> Any:
    """A model from ONNX's text form of a graph."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "own" : 1, "ai.onnx.ml" : 3]>\n'
    return parser.parse_model(f"{head}{text}\n{functions}")


def one(node: str, inputs: str, constants: str = "", opset: int = 17) -> Any:
    """A model of one node, whose result is y."""
    return model(f"g ({inputs}) => (float[n] y) <{constants}> {{ {node} }}", opset)


HUGE = 2**40
X = "float[2,3] x"
PICTURE = "float[1,2,6,6] x"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # Inputs that are not such as ONNX says
    "element type": (lambda: one("y = Gather(x, i)", f"{X}, float[2] i"), r"input 1 \(indices\) has the element type"),
    "two element types": (lambda: one("y = Add(x, i)", f"{X}, int64[3] i"), "0 and 1 must have one element type"),
    "missing input": (
        lambda: model(f"g ({X}) => (float[n] y) {{ y = own.f(x) }}", functions=TWO_INPUTS),
        r"input 1 \(B\) is missing",
    ),
    "sequence for a tensor": (
        lambda: model(f"g ({X}) => (float[n] y) {{ s = SequenceConstruct(x) y = Exp(s) }}"),
        "input 0 .* is a sequence, expected tensor",
    ),
    "tensor for a sequence": (lambda: one("y = SequenceLength(x)", X), "is a tensor, expected seq"),
    "several numbers for one": (
        lambda: one("y = CumSum(x, k)", X, "int64[2] k = {0, 1}"),
        r"input 1 must be one number, got the shape \(2,\)",
    ),
    "no number for one": (
        lambda: one("y, i = TopK(x, k)", X, "int64[0] k = {}"),
        "input 1 must be one number",
    ),
    # Attributes that come from the call of a function
    "attribute of another kind": (
        lambda: model(f'g ({X}) => (float[n] y) {{ y = own.f<k="text">(x) }}', functions=ATTRIBUTE),
        "k of a function is STRING, expected INT",
    ),
    "attribute that does not come": (
        lambda: model(f"g ({X}) => (float[n] y) {{ y = own.f(x) }}", functions=ATTRIBUTE), "attribute axis is missing"
    ),
    # Ranks, axes, sizes
    "rank": (lambda: one("y = EyeLike(x)", "float[2,2,2] x"), "input 0 must have 2 dimensions"),
    "rank of a weight": (lambda: one("y = Conv(x, w)", f"{PICTURE}, float[4,2,3] w"), "weight must have 4 dimensions"),
    "axis of a scalar": (lambda: one("y = Gather(x, i)", "float x, int64 i"), "out of range for 0 dimensions"),
    "axis of an input": (lambda: one("y = CumSum(x, k)", X, "int64 k = {7}"), "axis 7 is out of range"),
    "axis to resize": (
        lambda: one("y = Resize<axes=[9]>(x, , s)", X, "float[1] s = {2.0}", 18), "axis 9 is out of range"
    ),
    "axis to pad": (lambda: one("y = Pad(x, p, , a)", X, "int64[2] p = {1,1}, int64[1] a = {5}", 18), "axis 5"),
    "axis of Unique": (lambda: one("y = Unique<axis=4>(k)", X, "float[2] k = {1.0, 2.0}"), "axis 4 is out of range"),
    "Split of a scalar": (lambda: one("y = Split<num_outputs=1>(x)", "float x", opset=18), "scalar cannot be split"),
    "Split into 0 parts": (lambda: one("y = Split<num_outputs=0>(x)", X, opset=18), "num_outputs is 0"),
    "stride 0": (lambda: one("y = MaxPool<kernel_shape=[2,2], strides=[0,1]>(x)", PICTURE), "strides is"),
    "stride 0 with SAME": (
        lambda: one('y = MaxPool<kernel_shape=[2,2], strides=[0,1], auto_pad="SAME_UPPER">(x)', PICTURE), "strides is"
    ),
    "group 0": (lambda: one("y = Conv<group=0>(x, w)", f"{PICTURE}, float[4,2,3,3] w"), "group"),
    "window larger than the picture": (
        lambda: one("y = MaxPool<kernel_shape=[9,9], ceil_mode=1>(x)", PICTURE), "reaches over 9 elements"
    ),
    "blocksize 0": (lambda: one("y = SpaceToDepth<blocksize=0>(x)", PICTURE), "blocksize is 0"),
    "power 0": (lambda: one("y = LpPool<kernel_shape=[2,2], p=0>(x)", PICTURE), "p is 0"),
    "scale 0": (lambda: one("y = Resize(x, , s)", X, "float[2] s = {0.0, 1.0}"), "scales are"),
    "too few scales": (lambda: one("y = Resize(x, , s)", X, "float[1] s = {2.0}"), "expected 2 positive numbers"),
    "too few pads of ConvTranspose": (
        lambda: one("y = ConvTranspose<pads=[1]>(x, w)", f"{PICTURE}, float[2,4,3,3] w"), "pads has 1 entries"
    ),
    "too few activations": (
        lambda: one('y = GRU<hidden_size=2, activations=["Tanh"]>(x, w, r)',
                    "float[3,1,2] x, float[1,6,2] w, float[1,6,2] r"), "expected 2"
    ),
    "recurrent layer of a matrix": (
        lambda: one("y = RNN<hidden_size=2>(x, w, r)", "float[3,2] x, float[1,2,2] w, float[1,2,2] r"), "make no layer"
    ),
    "recurrent layer without steps": (
        lambda: one("y = RNN<hidden_size=2>(x, w, r)", "float[0,1,2] x, float[1,2,2] w, float[1,2,2] r"), "no steps"
    ),
    "Einsum with a label from nowhere": (lambda: one('y = Einsum<equation="ij->k">(x)', X), "one that no term has"),
    "frames in steps of 0": (
        lambda: one("y = STFT(x, s, , n)", "float[1,8,1] x", "int64 s = {0}, int64 n = {4}"), "in steps of 0"
    ),
    "blocks that make no image": (
        lambda: one("y = Col2Im(x, s, b)", "float[1,5,7] x", "int64[2] s = {5,5}, int64[2] b = {1,5}", 18), "no blocks"
    ),
    "mel band beyond half of the rate": (
        lambda: one("y = MelWeightMatrix(a, b, c, d, e)", X, "int64 a = {8}, int64 b = {16}, int64 c = {100}, "
                    "float d = {0.0}, float e = {90.0}"), "half of the rate"
    ),
    # Texts
    "mode of GridSample": (
        lambda: one('y = GridSample<mode="best">(x, g)', f"{PICTURE}, float[1,2,2,2] g"), "mode is 'best', expected"
    ),
    "direction of an LSTM": (
        lambda: one('y = LSTM<hidden_size=2, direction="up">(x, w, r)',
                    "float[3,1,2] x, float[1,8,2] w, float[1,8,2] r"), "direction is 'up'"
    ),
    "auto_pad": (lambda: one('y = MaxPool<kernel_shape=[2,2], auto_pad="some">(x)', PICTURE), "auto_pad is 'some'"),
    # Large things
    "Range": (lambda: one("y = Range(a, b, c)", X, f"int64 a = {{0}}, int64 b = {{{HUGE}}}, int64 c = {{1}}"), "range"),
    "EyeLike": (lambda: one("y = EyeLike(x)", "float[262144,262144] x"), "elements, expected 0 to"),
    "Trilu": (lambda: one("y = Trilu(x)", "float[99999999,2] x"), "elements, expected 0 to"),
    "padding by reflection": (
        lambda: one('y = Pad<mode="reflect">(x, p)', "float[3] x", f"int64[2] p = {{{HUGE},0}}"), "elements"
    ),
    "resizing by a scale": (lambda: one("y = Resize(x, , s)", "float[3] x", "float[1] s = {3e38}"), "elements"),
    "resizing": (lambda: one("y = Resize(x, , , s)", "float[3] x", f"int64[1] s = {{{HUGE}}}"), "elements"),
    "antialiasing": (
        lambda: one('y = Resize<mode="linear", antialias=1>(x, , s)', "float[99999999] x", "float[1] s = {1e-7}", 18),
        "elements",
    ),
    "input": (lambda: one("y = Exp(x)", f"float[{HUGE}] x"), "bytes; expected at most"),
    "result": (
        lambda: one("y = ConstantOfShape(s)", X, f"int64[2] s = {{{HUGE},{HUGE}}}"), "bytes; expected at most"
    ),
    "Fourier transform": (
        lambda: one("y = DFT(x, n)", "float[1,4,1] x", f"int64 n = {{{HUGE}}}"), "elements"
    ),
    "places of maxima": (
        lambda: model(f"g (float[1,1,{2**30}] x) => (float[n] y, int64[n] i) "
                      "{ y, i = MaxPool<kernel_shape=[2]>(x) }"), "elements"
    ),
    "parts of a sequence": (lambda: one("y = SplitToSequence(x)", "float[99999999] x"), "steps"),
    # Control flow
    "endless loop": (
        lambda: model(f"g ({X}) => (float[n] y) <int64 n = {{{2**62}}}> {{ y = Loop(n, , x) <body = {BODY}> }}"),
        "more than 4096 rounds",
    ),
    "loop without a body": (
        lambda: model(f"g ({X}) => (float[n] y) <int64 n = {{3}}> "
                      "{ y = Loop(n, , x) <body = b (int64 i, bool c) => (bool c) { }> }"), "the body has 2 inputs"
    ),
    "long scan": (
        lambda: one("y = Scan<num_scan_inputs=1, body = b (float a) => (float c) { c = Exp(a) }>(x)",
                    "float[99999999] x"), "steps, expected at most"
    ),
    "scan of nothing": (
        lambda: one("y = Scan<num_scan_inputs=1, body = b (float a) => (float c) { c = Exp(a) }>(x)", "float[0] x"),
        "not 0",
    ),
    "scan with too many inputs": (
        lambda: one("y = Scan<num_scan_inputs=9, body = b (float a) => (float c) { c = Exp(a) }>(x)", "float[3] x"),
        "num_scan_inputs is 9",
    ),
    "scan with too many axes": (
        lambda: one("y = Scan<num_scan_inputs=1, scan_input_axes=[0,1], "
                    "body = b (float a) => (float c) { c = Exp(a) }>(x)", "float[3] x"), "expected 1"
    ),
    "place in an empty sequence": (
        lambda: one("s = SequenceEmpty() y = SequenceAt(s, k)", X, "int64 k = {0}"), "outside of a sequence of 0"
    ),
}  # fmt: skip

TWO_INPUTS = '<domain: "own", opset_import: ["" : 17]> f (a, b) => (c) { c = Add(a, b) }'
ATTRIBUTE = '<domain: "own", opset_import: ["" : 17]> f <k> (a) => (c) { c = Concat<axis: int = @k>(a, a) }'
BODY = "b (int64 i, bool c, float[2,3] s) => (bool d, float[2,3] t) { d = Identity(c) t = Exp(s) }"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(fw.FusewireError, match=message):
        from_onnx(make())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are reached soon."""
    monkeypatch.setattr(importer, "UNFOLDED", 500)


@pytest.mark.usefixtures("few")
def test_loops_in_loops_are_work() -> None:
    """4096 rounds of 4096 rounds."""
    inner = f"t = Loop(n, , s) <body = {BODY.replace(' s)', ' u)').replace('(s)', '(u)')}>"
    body = f"o (int64 j, bool e, float[2,3] s) => (bool f, float[2,3] t) {{ f = Identity(e) {inner} }}"
    text = f"g ({X}) => (float[n] y) <int64 n = {{4096}}> {{ y = Loop(n, , x) <body = {body}> }}"
    with pytest.raises(fw.FusewireError, match="unfold to more than"):
        from_onnx(model(text))


def calls(depth: int, fan: int, first: str) -> Any:
    """Functions that call the one before several times; the first does `first`."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = [helper.make_function("own", "f0", ["v0"], ["v1"], [helper.make_node(first, ["v0"], ["v1"])], opsets)]
    for k in range(1, depth):
        nodes = [helper.make_node(f"f{k - 1}", [f"v{j}"], [f"v{j + 1}"], domain="own") for j in range(fan)]
        made.append(helper.make_function("own", f"f{k}", ["v0"], [f"v{fan}"], nodes, opsets))
    call = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph([call], "g", infos[:1], infos[1:])
    return helper.make_model(graph, opset_imports=opsets, functions=made, ir_version=8)


@pytest.mark.parametrize(
    ("depth", "fan", "message"), [(20, 10, "unfold to more than"), (40, 1, "deep|depth"), (900, 1, "deep|depth")]
)
@pytest.mark.usefixtures("few")
def test_calls_of_calls(depth: int, fan: int, message: str) -> None:
    proto = calls(depth, fan, "Exp")
    try:
        mod, _ = from_onnx(proto)
    except fw.FusewireError as error:
        assert any(word in str(error) for word in message.split("|")), error
    else:
        assert depth == 40 and len(fw.analysis.free_vars(mod["main"].body)) == 1


def test_an_unknown_operator_is_found_once_in_calls_of_calls() -> None:
    """10**19 calls: the look over the whole model goes into each function once."""
    with pytest.raises(fw.FusewireError, match="RandomNormalLike"):
        from_onnx(calls(20, 10, "RandomNormalLike"))


def nested(depth: int) -> bytes:
    """A file with branches in branches, deeper than protobuf would write them."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = field(2, b"inner")
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(2, b"g") + field(1, field(1, b"x") + field(4, b"If") + field(5, branch))
    return b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph)


@pytest.mark.parametrize("depth", [20, 33, 100, 3000])
def test_branches_in_branches(depth: int) -> None:
    with pytest.raises(fw.FusewireError):
        from_onnx(nested(depth))


def test_text_that_is_no_text() -> None:
    data = one("first = Exp(x) y = Exp(first)", X).SerializeToString()
    for word in (b"first", b"Exp", b"x", b"y", b"g"):
        with pytest.raises(fw.FusewireError):
            from_onnx(data.replace(word, b"\xff" * len(word)))


@pytest.mark.parametrize("opset", [1, 5, 12, 99, 0, -1])
def test_another_opset_than_the_file_names(opset: int) -> None:
    """The attributes of one opset may be missing in another: the model is checked as one of the given opset."""
    proto = one("y = ReduceSum(x, k)", X, "int64[1] k = {0}")
    with pytest.raises(fw.FusewireError, match=r"malformed|uses opset"):
        from_onnx(proto, opset=opset)


NAMES = ['"', "a\nb", "*/", "\0", "größe", "x" * 3000, "${HOME}", "int"]


def test_any_name() -> None:
    """Names end in messages, comments and C identifiers."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}?"]) for name in NAMES]
    node = helper.make_node("Concat", NAMES, ["*/ out"], axis=0, name="\n#error")
    out = helper.make_tensor_value_info("*/ out", TensorProto.FLOAT, ["\n"])
    graph = helper.make_graph([node], "/*", infos, [out])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    mod, _ = from_onnx(proto)
    lib = fw.build(mod, "cpu -num-cores=1", shape={name: [k + 1] for k, name in enumerate(NAMES)})
    given = {name: np.full(k + 1, k, np.float32) for k, name in enumerate(NAMES)}
    np.testing.assert_array_equal(lib(**given), np.repeat(np.arange(len(NAMES)), np.arange(1, len(NAMES) + 1)))


def test_initialisers_of_one_name() -> None:
    """Subgraphs may use a name for different tensors, and a loop reads its body many times."""
    branches = model("""g (float[2] x, bool c) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] p) <float[2] k = {1.0, 2.0}> { p = Mul(x, k) },
        else_branch = e () => (float[2] q) <float[2] k = {10.0, 20.0}> { q = Mul(x, k) }> }""")
    mod, params = from_onnx(branches)
    lib, x = fw.build(mod, "cpu -num-cores=1", params=params), np.ones(2, np.float32)
    np.testing.assert_array_equal(lib(x=x, c=np.array(True)), [1, 2])
    np.testing.assert_array_equal(lib(x=x, c=np.array(False)), [10, 20])
    body = """b (int64 i, bool c, float[2] s) => (bool d, float[2] t) <float[2] k = {2.0, 3.0}> {
        d = Identity(c) t = Mul(s, k) }"""
    mod, params = from_onnx(
        model(f"g (float[2] x) => (float[2] y) <int64 n = {{3}}> {{ y = Loop(n, , x) <body = {body}> }}")
    )
    assert [*params] == ["k"]
    np.testing.assert_array_equal(fw.build(mod, "cpu -num-cores=1", params=params)(x=x), [8, 27])


def test_sizes_of_like_names_are_different() -> None:
    mod, _ = from_onnx(model("g (float[a] x) => (float[a] y) { y = Exp(x) }"))
    proto = model("g (float[N] x, float[M] z) => (float[N] y, float[M] w) { y = Exp(x) w = Exp(z) }")
    for info, name in zip(proto.graph.input, ("a.b", "a_b"), strict=True):
        info.type.tensor_type.shape.dim[0].dim_param = name
    mod, _ = from_onnx(proto)
    fw.build(mod, "cpu -num-cores=1", shape={"x": [2], "z": [3]})


PLACES = ["../secret.bin", "/etc/passwd", "link.bin", "folder", "", "missing.bin", "a\0b", "x" * 5000]


@pytest.mark.parametrize("place", [*PLACES, "weights.bin"])
@pytest.mark.parametrize(
    ("offset", "length"), [("0", "8"), ("0", str(2**62)), (str(2**62), "8"), ("-1", "8"), ("x", "")]
)
def test_external_data_elsewhere(place: str, offset: str, length: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (folder / "weights.bin").write_bytes(bytes(8))
    (folder / "link.bin").symlink_to("../secret.bin")
    proto = one("y = Mul(x, w)", "float[2] x")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    if (place, offset, length) == ("weights.bin", "0", "8"):
        _, params = from_onnx(folder / "model.onnx")
        np.testing.assert_array_equal(params["w"], [0, 0])
    else:
        with pytest.raises(fw.FusewireError):
            from_onnx(folder / "model.onnx")


@pytest.mark.parametrize("dims", [[3], [2, 2], [2**31, 2**31, 2**31], [-1, -2], [0, 2**62], [1] * 100])
def test_tensors_that_claim_another_shape(dims: list[int]) -> None:
    proto = one("y = Mul(x, w)", "float[2] x")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises(fw.FusewireError):
        from_onnx(proto)
