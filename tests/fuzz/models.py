"""Small ONNX models of many kinds, to be damaged."""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from attrs import frozen
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser
from onnx.backend.test.loader import load_model_tests

from fusewire.contrib.onnx import suite

WEIGHTS = "weights.bin"
"""The file of external data."""


@frozen
class Model:
    """A file before it is damaged.

    Attributes:
        name: tells where a case came from.
        data: the content of the .onnx file.
        inputs: the values that its author ran it on, serialized, by name; empty if there are none.
        weights: the content of the file of external data beside it, if there is one.
    """

    name: str
    data: bytes
    inputs: dict[str, bytes]
    weights: bytes = b""


HEAD = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'

TEXTS = {
    "conv": """g (float[1,3,8,8] x) => (float[1,5] y) <float[4,3,3,3] w, float[4] scale, float[4] shift, float[4] mean,
            float[4] variance, float low = {0.0}, float high = {6.0}, float[5,4] fc, float[5] bias> {
        c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1], dilations=[1,1], group=1>(x, w)
        n = BatchNormalization<epsilon=0.001>(c, scale, shift, mean, variance)
        r = Clip(n, low, high)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0], ceil_mode=0>(r)
        a = GlobalAveragePool(p)
        f = Flatten<axis=1>(a)
        y = Gemm<transB=1, alpha=1.0, beta=1.0>(f, fc, bias)
    }""",
    "grouped conv": """g (float[1,4,9] x) => (float[1,4,a] y) <float[4,2,3] w, float[4] b, float[4,4,2] v> {
        c = Conv<kernel_shape=[3], auto_pad="SAME_UPPER", strides=[2], group=2>(x, w, b)
        t = ConvTranspose<kernel_shape=[2], strides=[2], output_padding=[1]>(c, v)
        y = AveragePool<kernel_shape=[3], strides=[2], pads=[1,1], count_include_pad=1, ceil_mode=1>(t)
    }""",
    "matmul": """g (float[batch,6] x, float[batch,1] m) => (float[batch,3] y) <float[6,4] w, float[4,3] v> {
        h = MatMul(x, w)
        t = Tanh(h)
        s = Mul(t, m)
        o = MatMul(s, v)
        y = Softmax<axis=-1>(o)
    }""",
    "attention": """g (float[2,4,8] x) => (float[2,4,8] y) <float[8,24] w, int64[3] parts = {8,8,8},
            float scale = {0.35}> {
        all = MatMul(x, w)
        q, k, v = Split<axis=2>(all, parts)
        kt = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, kt)
        n = Mul(s, scale)
        p = Softmax<axis=2>(n)
        o = MatMul(p, v)
        y = Add(o, x)
    }""",
    "if": """g (float[2,3] x, bool c) => (float[2,3] y) <float[2,3] w> {
        a = Add(x, w)
        b = If(c) <
            then_branch = t () => (float[2,3] p) { p = Relu(a) },
            else_branch = e () => (float[2,3] q) <float[3] k> { q = Mul(a, k) }>
        y = Exp(b)
    }""",
    "loop": """g (float[2,3] x) => (float[2,3] y, float[n,2,3] all) <int64 count = {5}, bool go = {1}> {
        y, all = Loop(count, go, x) <
                body = b (int64 i, bool on, float[2,3] s) => (bool on1, float[2,3] s1, float[2,3] t) {
            on1 = Identity(on)
            f = Cast<to=1>(i)
            s1 = Add(s, f)
            t = Mul(s1, x)
        }>
    }""",
    "scan": """g (float[2] s, float[4,2] xs) => (float[2] y, float[4,2] ys) {
        y, ys = Scan<num_scan_inputs=1, scan_input_axes=[0], scan_output_axes=[0],
                body = b (float[2] a, float[2] x) => (float[2] a1, float[2] o) {
            a1 = Add(a, x)
            o = Identity(a1)
        }>(s, xs)
    }""",
    "quantised": """g (float[1,2,5,5] x) => (float[1,3,3,3] y) <float xs = {0.05}, uint8 xz = {120}, float ws = {0.02},
            int8 wz = {0}, int8[3,2,3,3] w, float ys = {0.1}, uint8 yz = {100}> {
        q = QuantizeLinear(x, xs, xz)
        c = QLinearConv<kernel_shape=[3,3], pads=[0,0,0,0]>(q, xs, xz, w, ws, wz, ys, yz)
        y = DequantizeLinear<axis=1>(c, ys, yz)
    }""",
    "integer matmul": """g (uint8[3,4] x) => (float[3,2] y) <int8[4,2] w, uint8 z = {3}, float s = {0.1}> {
        p = MatMulInteger(x, w, z)
        f = Cast<to=1>(p)
        y = Mul(f, s)
    }""",
    "lstm": """g (float[3,2,4] x) => (float[3,1,2,5] y, float[1,2,5] last) <float[1,20,4] w,
            float[1,20,5] r, float[1,40] b> {
        y, last, c = LSTM<hidden_size=5, direction="forward", activations=["Sigmoid","Tanh","Tanh"],
                clip=3.0>(x, w, r, b)
    }""",
    "gru": """g (float[3,2,4] x) => (float[3,2,2,3] y) <float[2,9,4] w, float[2,9,3] r, int32[2] lengths = {3,2}> {
        y = GRU<hidden_size=3, direction="bidirectional", linear_before_reset=1>(x, w, r, , lengths)
    }""",
    "resize": """g (float[1,2,4,4] x) => (float[1,2,a,b] y) <float[4] scales = {1.0,1.0,2.0,1.5},
            int64[4] sizes = {1,2,3,5}> {
        r = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , scales)
        y = Resize<mode="cubic", cubic_coeff_a=-0.75>(r, , , sizes)
    }""",
    "shapes": """g (float[batch,2,3] x) => (float[batch,6] y) <int64 zero = {0}, int64[1] axes = {0},
            int64[1] minus = {-1}> {
        whole = Shape(x)
        rows = Gather<axis=0>(whole, zero)
        one = Unsqueeze(rows, axes)
        target = Concat<axis=0>(one, minus)
        y = Reshape<allowzero=0>(x, target)
    }""",
    "fill": """g (float[2,3] x) => (float[2,4,3] y) <int64[3] to = {2,4,3}, int64[2] reps = {1,2}, int64 a = {0},
            int64 b = {12}, int64 c = {1}, int64[3] as = {2,2,3}, int64[3] like = {2,4,3}, int64[1] axes = {1}> {
        u = Unsqueeze(x, axes)
        e = Expand(u, to)
        r = Range(a, b, c)
        f = Cast<to=1>(r)
        s = Reshape(f, as)
        k = Concat<axis=1>(s, s)
        z = ConstantOfShape<value = float[1] {0.5}>(like)
        t = Tile(x, reps)
        m = ReduceSum(t)
        p = Add(e, k)
        q = Mul(p, z)
        y = Add(q, m)
    }""",
    "slices": """g (float[5,6] x, int64[2] at) => (float[2,a] y) <int64[1] b = {0}, int64[1] e = {4}, int64[1] ax = {1},
            int64[1] st = {2}, int64[4] pads = {0,1,0,2}, float v = {0.5}, int64[2] s = {2,2}> {
        c = Slice(x, b, e, ax, st)
        g = Gather<axis=0>(c, at)
        p = Pad<mode="constant">(g, pads, v)
        l, r = Split<axis=0>(x)
        k = ReduceMax<axes=[0], keepdims=1>(x)
        o = Slice(r, b, st, ax)
        y = Concat<axis=1>(p, o, o, o)
    }""",
    "indices": """g (float[3,4] x, int64[2,2] i) => (float[3,4] y, int64[3,2] places) <int64[1] k = {2}, float[2,4] u> {
        e = GatherElements<axis=0>(x, i)
        top, places = TopK<axis=1, largest=1>(x, k)
        c = CumSum<exclusive=0>(x, one)
        one = Constant<value = int64 {1}>()
        s = ScatterND(x, i, m)
        m = ReduceMean<axes=[1], keepdims=0>(e)
        a = ArgMax<axis=1, keepdims=1>(s)
        f = Cast<to=1>(a)
        y = Add(c, f)
    }""",
    "function": """g (float[2,3] x) => (float[2,3] y) { a = local.f<k=2.0>(x) y = local.h(a) }
    <domain: "local", opset_import: ["" : 17]>
    f <k: float = 1.0> (x) => (y) { k1 = Constant<value_float: float = @k>() y = Mul(x, k1) }
    <domain: "local", opset_import: ["" : 17, "local" : 1]>
    h (x) => (y) { a = local.f(x) b = local.f<k=3.0>(a) y = Add(a, b) }""",
    "sequence": """g (float[2,3] x, float[2,3] z) => (float[4,3] y) <int64 one = {1}, int64 zero = {0}> {
        s = SequenceConstruct(x, z)
        t = SequenceInsert(s, x, one)
        u = SequenceErase(t, zero)
        v = SequenceAt(u, zero)
        n = SequenceLength(u)
        w = SequenceConstruct(v, z)
        y = ConcatFromSequence<axis=0, new_axis=0>(w)
    }""",
    "optional": """g (float[4] x) => (float[4] y) <float low = {-1.0}, float high = {1.0}> {
        a = Clip(x, low)
        b = Clip(a, , high)
        d, mask = Dropout(b)
        o = Optional(d)
        h = OptionalHasElement(o)
        y = OptionalGetElement(o)
    }""",
    "reductions": """g (float[2,3,4] x) => (float[2,1,4] y) {
        a = ReduceL2<axes=[1], keepdims=1>(x)
        b = ReduceLogSumExp<axes=[-2], keepdims=1>(x)
        c = LpNormalization<axis=2, p=2>(a)
        d = Hardmax<axis=0>(b)
        e = Sum(a, b, c, d)
        y = LogSoftmax<axis=-1>(e)
    }""",
    "einsum": """g (float[2,3,4] x, float[2,4,5] z) => (float[2,5] y) { e = Einsum<equation="bij,bjk->bik">(x, z)
        y = Einsum<equation="...ij->...j">(e) }""",
    "layout": """g (float[1,8,2,3] x) => (float[1,2,4,6] y) {
        d = DepthToSpace<blocksize=2, mode="CRD">(x)
        s = SpaceToDepth<blocksize=2>(d)
        t = Transpose<perm=[0,2,3,1]>(s)
        u = Transpose<perm=[0,3,1,2]>(t)
        y = DepthToSpace<blocksize=2>(u)
    }""",
    "normalise": """g (float[2,4,3,3] x) => (float[2,4,3,3] y) <float[4] s, float[4] b, float[3] ls> {
        i = InstanceNormalization<epsilon=0.00001>(x, s, b)
        l = LRN<size=3, alpha=0.0001, beta=0.75, bias=1.0>(i)
        n = LayerNormalization<axis=-1, epsilon=0.00001>(l, ls)
        m = MeanVarianceNormalization<axes=[0,2,3]>(n)
        y = PRelu(m, ls)
    }""",
    "mixed types": """g (int64[3] i, float16[3] h, double[3] d, bool[3] c, bfloat16[3] z) => (float[3] y, bool[3] n) {
        a = Cast<to=1>(i)
        b = Cast<to=1>(h)
        e = Cast<to=1>(d)
        f = Cast<to=1>(z)
        w = Where(c, a, b)
        s = Max(w, e, f)
        n = Not(c)
        y = Pow(s, e32)
        e32 = Constant<value_float = 2.0>()
    }""",
    "scalars": """g (float x) => (float[1] y) <int64[1] axes = {0}, float s = {2.0}> {
        a = Mul(x, s) b = Unsqueeze(a, axes) c = Squeeze(b, axes) d = Exp(c) y = Unsqueeze(d, axes) }""",
    "deep": """g (float[3] x, bool c) => (float[3] y) {
        y = If(c) <then_branch = t () => (float[3] p) {
            p = If(c) <then_branch = tt () => (float[3] pp) { pp = Neg(x) },
                       else_branch = te () => (float[3] pq) { pq = Abs(x) }> },
            else_branch = e () => (float[3] q) {
            q = Loop(, , x) <body = b (int64 i, bool on, float[3] s) => (bool off, float[3] s1) {
                off = Constant<value = bool {0}>() s1 = Sin(s) }> }>
    }""",
}  # fmt: skip
"""In ONNX's text form. Initialisers without values get random ones. Nodes out of order are put right by `_sorted`."""


@functools.cache
def models() -> tuple[Model, ...]:
    """The models of this file."""
    found = [_model(name, text) for name, text in sorted(TEXTS.items())]
    return (*found, _external(), *(_one_node(k) for k in range(len(SINGLE))))


@functools.cache
def node_tests() -> tuple[Model, ...]:
    """The models of the onnx package's tests of operators, except those that fusewire cannot read."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    left_out = re.compile("|".join(pattern for pattern, _ in suite.exclusions()))
    found = []
    for test in sorted(tests, key=lambda t: str(t.name)):
        if test.model is None or not test.data_sets or left_out.search(f"{test.name}_cpu"):
            continue
        names = [info.name for info in test.model.graph.input]
        values = {
            name: numpy_helper.from_array(value, name).SerializeToString()
            for name, value in zip(names, test.data_sets[0][0], strict=False)
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.nbytes < 1 << 16
        }
        found.append(Model(str(test.name), test.model.SerializeToString(), values))
    return tuple(found)


def _model(name: str, text: str) -> Model:
    proto = parser.parse_model(HEAD + text)
    rng = np.random.default_rng(len(name))
    _fill(proto.graph, rng)
    _sort(proto.graph)
    onnx.checker.check_model(proto)
    return Model(name, proto.SerializeToString(), {})


def _fill(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Initialisers with random values for what is declared and never made; every second one stores its bytes raw."""
    made = {name for node in graph.node for name in node.output}
    declared = [info for info in graph.value_info if info.name not in made]
    del graph.value_info[:]
    for info in declared:
        kind = info.type.tensor_type
        dtype, shape = helper.tensor_dtype_to_np_dtype(kind.elem_type), [d.dim_value for d in kind.shape.dim]
        drawn = np.abs(rng.standard_normal(shape)) if dtype.kind == "f" else rng.integers(0, 3, shape)
        graph.initializer.append(numpy_helper.from_array(drawn.astype(dtype), info.name))
    for k, tensor in enumerate(graph.initializer):
        array = numpy_helper.to_array(tensor)
        if k % 2:
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, array.reshape(-1).tolist()))
        else:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        for entry in node.attribute:
            if entry.HasField("g"):
                _fill(entry.g, rng)


def _sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that make its inputs, so that the texts above may be written in any order."""
    made = {name for node in graph.node for name in node.output}
    done: set[str] = set()
    waiting = list(graph.node)
    order = []
    while waiting:
        ready = next(n for n in waiting if all(i in done or i not in made for i in n.input))
        waiting.remove(ready)
        order.append(ready)
        done.update(ready.output)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(copies)


def _external() -> Model:
    """A model whose weights lie in a file beside it."""
    proto = onnx.load_model_from_string(_model("matmul", TEXTS["matmul"]).data)
    stored = b""
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        external_data_helper.set_external_data(tensor, WEIGHTS, len(stored), array.nbytes)
        tensor.ClearField("raw_data")
        stored += array.tobytes()
    return Model("external data", proto.SerializeToString(), {}, stored)


SINGLE: list[Callable[[], onnx.ModelProto]] = [
    lambda: _graph("EyeLike", {"k": 1}, ["x"], {"x": (TensorProto.FLOAT, [3, 4])}),
    lambda: _graph("OneHot", {"axis": -1}, ["x", "d", "v"], {"x": (TensorProto.INT64, [3])}, d=[5], v=[0.0, 1.0]),
    lambda: _graph("Trilu", {"upper": 0}, ["x"], {"x": (TensorProto.FLOAT, [3, 4])}),
    lambda: _graph(
        "GridSample", {"mode": "bilinear"}, ["x", "g"],
        {"x": (TensorProto.FLOAT, [1, 2, 3, 3]), "g": (TensorProto.FLOAT, [1, 2, 2, 2])},
    ),
    lambda: _graph("NonZero", {}, ["d"], {"x": (TensorProto.FLOAT, [3])}, d=[0, 1, 2]),
    lambda: _graph("Compress", {"axis": 0}, ["x", "c"], {"x": (TensorProto.FLOAT, [3, 2])}, c=[True, False, True]),
    lambda: _graph("ReverseSequence", {"time_axis": 1, "batch_axis": 0}, ["x", "n"],
                   {"x": (TensorProto.FLOAT, [2, 4])}, n=[2, 3]),
    lambda: _graph("Upsample", {"mode": "nearest"}, ["x", "s"], {"x": (TensorProto.FLOAT, [1, 1, 2, 2])}, 9,
                   s=[1.0, 1.0, 2.0, 3.0]),
    lambda: _graph("Col2Im", {}, ["x", "size", "block"], {"x": (TensorProto.FLOAT, [1, 5, 5])}, 18,
                   size=[5, 5], block=[1, 5]),
    lambda: _graph("MelWeightMatrix", {}, ["a", "b", "c", "d", "e"], {}, a=8, b=16, c=8192, d=0.0, e=4096.0),
    lambda: _graph("HannWindow", {}, ["n"], {}, n=10),
    lambda: _graph("Unique", {"sorted": 1}, ["d"], {}, d=[2.0, 1.0, 2.0]),
    lambda: _graph("MaxUnpool", {"kernel_shape": [2, 2], "strides": [2, 2]}, ["x", "i"],
                   {"x": (TensorProto.FLOAT, [1, 1, 2, 2])}, i=[[[[5, 7], [13, 15]]]]),
    lambda: _graph("RoiAlign", {"output_height": 3, "output_width": 2, "sampling_ratio": 2}, ["x", "r", "b"],
                   {"x": (TensorProto.FLOAT, [1, 1, 5, 5]), "r": (TensorProto.FLOAT, [2, 4])}, b=[0, 0]),
]  # fmt: skip
"""Models of one node whose constants matter."""


def _graph(
    operator: str, attributes: dict[str, Any], inputs: list[str], given: dict[str, tuple[int, list[int]]],
    opset: int = 17, **constants: object,
) -> onnx.ModelProto:  # fmt: skip
    infos = [helper.make_tensor_value_info(name, code, dims) for name, (code, dims) in given.items()]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    stored = [
        numpy_helper.from_array(a.astype(np.float32) if a.dtype == np.float64 else a, name)
        for name, a in arrays.items()
    ]
    node = helper.make_node(operator, inputs, ["y"], name="the node", **attributes)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph([node], "g", infos, [out], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _one_node(k: int) -> Model:
    proto = SINGLE[k]()
    return Model(proto.graph.node[0].op_type, proto.SerializeToString(), {})
