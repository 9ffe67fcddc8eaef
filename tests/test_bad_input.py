"""Bad input ends in a FusewireError that says what was wrong, or in the right result; never in a crash."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewire as fw

HEAD = '#[version = "0.0.5"]\n'
BIG = (2**40, 2**20)


def x(*shape: Any, dtype: str = "float32", name: str = "x") -> fw.Var:
    return fw.var(name, shape=shape, dtype=dtype)


def w(*shape: int) -> fw.Var:
    return x(*shape, name="w")


ILL_TYPED: dict[str, Callable[[], Any]] = {
    "negative dimension": lambda: x(-1, 2),
    "dimension beyond 64 bits": lambda: x(2**63),
    "fractional dimension": lambda: x(2.5),
    "dimension as text": lambda: x("a"),
    "no dimension": lambda: x(None),
    "shape that is a number": lambda: fw.var("x", shape=3),
    "unknown dtype": lambda: x(2, dtype="float8"),
    "dtype that is none": lambda: fw.var("x", shape=(2,), dtype=None),  # type: ignore[arg-type]
    "dtype that is a number": lambda: fw.var("x", shape=(2,), dtype=3),  # type: ignore[arg-type]
    "conv2d of rank 3": lambda: fw.nn.conv2d(x(1, 3, 8), w(4, 3, 3, 3)),
    "conv2d with other channels": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 5, 3, 3)),
    "conv2d window larger than the picture": lambda: fw.nn.conv2d(x(1, 3, 2, 2), w(4, 3, 3, 3)),
    "conv2d stride 0": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 3, 3, 3), strides=(0, 1)),
    "conv2d negative padding": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 3, 3, 3), padding=(-9, -9)),
    "conv2d groups": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 3, 3, 3), groups=2),
    "conv2d groups 0": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 3, 3, 3), groups=0),
    "conv2d unknown layout": lambda: fw.nn.conv2d(x(1, 3, 8, 8), w(4, 3, 3, 3), data_layout="ABCD"),
    "dense of a scalar": lambda: fw.nn.dense(x(), w(4, 3)),
    "dense with another inner size": lambda: fw.nn.dense(x(2, 5), w(4, 3)),
    "batch_matmul of rank 2": lambda: fw.nn.batch_matmul(x(2, 5), w(4, 5)),
    "add of shapes that do not broadcast": lambda: x(2, 3) + w(3, 2),
    "add of two dtypes": lambda: x(2, 3) + x(2, 3, dtype="int32"),
    "sum over a missing axis": lambda: fw.sum(x(2, 3), axis=2),
    "softmax over a missing axis": lambda: fw.nn.softmax(x(2, 3), axis=5),
    "transpose with a double axis": lambda: fw.transpose(x(2, 3), (0, 0)),
    "reshape to another size": lambda: fw.reshape(x(2, 3), (4, 2)),
    "reshape with two unknowns": lambda: fw.reshape(x(2, 3), (-1, -1)),
    "concatenate of nothing": lambda: fw.concatenate([], 0),
    "concatenate of other shapes": lambda: fw.concatenate([x(2, 3), w(3, 2)], 0),
    "split into uneven parts": lambda: fw.split(x(2, 3), 2, axis=1),
    "split into 0 parts": lambda: fw.split(x(2, 3), 0, axis=1),
    "squeeze of a larger axis": lambda: fw.squeeze(x(2, 3), [0]),
    "max_pool2d stride 0": lambda: fw.nn.max_pool2d(x(1, 1, 4, 4), strides=(0, 0)),
    "repeat -1 times": lambda: fw.repeat(x(2, 3), -1, 0),
    "tile -1 times": lambda: fw.tile(x(2, 3), (-1,)),
    "pad by -5": lambda: fw.nn.pad(x(2, 3), ((-5, 0), (0, 0))),
    "strided_slice with stride 0": lambda: fw.strided_slice(x(2, 3), [0], [2], [0]),
    "topk of -3": lambda: fw.topk(x(5), -3),
    "item 2 of a pair": lambda: fw.TupleGetItem(fw.Tuple([x(2), x(3)]), 2),
    "item of a tensor": lambda: fw.TupleGetItem(x(2), 0),
    "if on a tensor": lambda: fw.If(x(2), x(1), x(1)),
    "if with two types": lambda: fw.If(x(dtype="bool"), x(1), x(2)),
    "truth value": lambda: bool(x(2) > 1.0),
    "constant of text": lambda: fw.const("abc"),
    "ragged constant": lambda: fw.const([[1, 2], [3]]),
    "an argument that is none": lambda: fw.add(x(2), None),  # type: ignore[arg-type]
}

TOO_LARGE: dict[str, Callable[[], fw.Expr]] = {
    "add": lambda: x(*BIG) + 1.0,
    "beyond the address space": lambda: x(2**61, 2**61) + 1.0,
    "sum": lambda: fw.sum(x(*BIG)),
    "softmax": lambda: fw.nn.softmax(x(*BIG)),
    "conv2d": lambda: fw.nn.conv2d(x(1, 3, 2**30, 2**30), fw.const(np.ones((4, 3, 3, 3), np.float32))),
    "intermediate tensor": lambda: fw.sum(fw.nn.dense(x(2**20, 1), fw.broadcast_to(fw.const([[1.0]]), (2**28, 1)))),
    "arange": lambda: fw.arange(0, 2**50, 1, dtype="int64"),
    "ones": lambda: fw.ones(BIG, "float32") + 1.0,
    "broadcast_to": lambda: fw.broadcast_to(x(1), BIG),
    "tile": lambda: fw.tile(x(1), BIG),
    "pad": lambda: fw.nn.pad(x(2, 2), ((0, 2**40), (0, 2**20))),
    "one_hot": lambda: fw.one_hot(x(2, dtype="int32"), fw.const(1.0), fw.const(0.0), 2**50, -1, "float32"),
    "repeat": lambda: fw.repeat(x(2), 2**50, 0),
    "upsampling": lambda: fw.nn.upsampling(x(1, 1, 2, 2), 2**25, 2**25),
    "sort": lambda: fw.sort(x(2**45)),
}

NAMES = ["größe", "x y", "main", "int", "self", "key", "p0", "out", "tid", "args", "fw_team", "x" * 500, "", "0", "%x",
         '"', "a\nb", "\0", "*/", "${HOME}", "名前"]  # fmt: skip

LONG = "".join(f"%{k} = exp({f'%{k - 1}' if k else '%x'}); " for k in range(2000)) + "%1999"

TEXTS = {
    "empty": "",
    "no version": "def @main() { 1 }}",
    "cycle of values": "def @main(%x: Tensor[(2), float32]) { %0 = add(%1, %x); %1 = add(%0, %x); %1 }",
    "cycle of functions": "def @main(%x: float32) { @f(%x) } def @f(%x: float32) -> float32 { @main(%x) }",
    "undefined value": "def @main(%x: float32) { add(%x, %y) }",
    "undefined function": "def @main(%x: float32) { @f(%x) }",
    "unknown operator": "def @main(%x: float32) { nn.frobnicate(%x) }",
    "unknown attribute": "def @main(%x: Tensor[(2), float32]) { sum(%x, colour=3) }",
    "shapes that do not fit": "def @main(%x: Tensor[(2), float32], %y: Tensor[(3), float32]) { add(%x, %y) }",
    "too many arguments": "def @main(%x: float32) { exp(%x, %x) }",
    "wrong result type": "def @main(%x: float32) -> int32 { %x }",
    "missing constant": "def @main() { meta[relay.Constant][7] }",
    "negative dimension": "def @main(%x: Tensor[(-2), float32]) { %x }",
    "unknown dtype": "def @main(%x: Tensor[(2), complex64]) { %x }",
    "unfinished": "def @main(%x: Tensor[(2",
    "deep brackets": "def @main(%x: float32) { " + "(" * 20000 + "%x" + ")" * 20000 + " }",
    "long chain": "def @main(%x: float32) { "
    + "".join(f"%{k} = exp({f'%{k - 1}' if k else '%x'}); " for k in range(2000))
    + "%1999",
    "binary": "\x00\x01\x02\uffff",
    "large number": "def @main() { " + "9" * 5000 + " }",
}


@pytest.mark.parametrize("name", ILL_TYPED)
def test_ill_typed(name: str) -> None:
    with pytest.raises(fw.FusewireError) as error:
        built = ILL_TYPED[name]()
        fw.build(built)
    assert len(str(error.value)) > 10


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(name: str) -> None:
    """Refused before memory is asked for, with the number of bytes in the message."""
    with pytest.raises(fw.FusewireError, match=r"\d+ (bytes|elements)"):
        fw.GraphModule(fw.build(TOO_LARGE[name]())["default"](fw.cpu()))


def test_names_that_are_not_identifiers() -> None:
    variables = [fw.var(name, shape=(2,)) for name in NAMES]
    lib = fw.build(fw.Function(variables, fw.concatenate([fw.exp(v) * 2.0 for v in variables], 0)))
    values = {name: np.full(2, k / 10, np.float32) for k, name in enumerate(NAMES)}
    expected = np.repeat(np.exp(np.arange(len(NAMES)) / 10) * 2, 2)
    np.testing.assert_allclose(lib(**values), expected, rtol=1e-5)
    module = fw.GraphModule(lib["default"](fw.cpu()))
    for name, value in values.items():
        module.set_input(name, value)
    module.run()
    np.testing.assert_allclose(module.get_output(0).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    with pytest.raises(fw.FusewireError):
        fw.build(fw.parse(HEAD + TEXTS[name]))


EMPTY = x(0, 3)
EMPTY_UPDATE = fw.const(np.zeros((0, 3), np.float32))
PICTURE = x(0, 4, 6, 6, name="picture")
ZERO_SIZE: dict[str, tuple[Callable[[], Any], Any]] = {
    "exp": (lambda: fw.exp(EMPTY), np.zeros((0, 3))),
    "add": (lambda: EMPTY + fw.const(np.ones(3, np.float32)), np.zeros((0, 3))),
    "sum of nothing": (lambda: fw.sum(EMPTY, 0), np.zeros(3)),
    "sum of all": (lambda: fw.sum(EMPTY), np.float32(0)),
    "prod of nothing": (lambda: fw.prod(EMPTY, 0), np.ones(3)),
    "sum along": (lambda: fw.sum(EMPTY, 1), np.zeros(0)),
    "mean along": (lambda: fw.mean(EMPTY, 1), np.zeros(0)),
    "max along": (lambda: fw.max(EMPTY, 1), np.zeros(0)),
    "argmax along": (lambda: fw.argmax(EMPTY, 1), np.zeros(0, np.int32)),
    "any of nothing": (lambda: fw.any(EMPTY > 0.0, 0), np.zeros(3, bool)),
    "all of nothing": (lambda: fw.all(EMPTY > 0.0, 0), np.ones(3, bool)),
    "softmax": (lambda: fw.nn.softmax(EMPTY), np.zeros((0, 3))),
    "softmax of nothing": (lambda: fw.nn.softmax(EMPTY, 0), np.zeros((0, 3))),
    "transpose": (lambda: fw.transpose(EMPTY), np.zeros((3, 0))),
    "reshape": (lambda: fw.reshape(EMPTY, (0, 3, 5)), np.zeros((0, 3, 5))),
    "concatenate": (lambda: fw.concatenate([EMPTY, fw.ones((2, 3), "float32"), EMPTY], 0), np.ones((2, 3))),
    "tile": (lambda: fw.tile(EMPTY, (2, 2)), np.zeros((0, 6))),
    "pad": (lambda: fw.nn.pad(EMPTY, ((1, 1), (0, 0))), np.zeros((2, 3))),
    "broadcast_to": (lambda: fw.broadcast_to(EMPTY, (4, 0, 3)), np.zeros((4, 0, 3))),
    "reverse": (lambda: fw.reverse(EMPTY, 0), np.zeros((0, 3))),
    "strided_slice": (lambda: fw.strided_slice(fw.ones((4, 3), "float32"), [2], [2]), np.zeros((0, 3))),
    "cumsum": (lambda: fw.cumsum(EMPTY, 0), np.zeros((0, 3))),
    "sort": (lambda: fw.sort(EMPTY, 0), np.zeros((0, 3))),
    "take": (lambda: fw.take(EMPTY, fw.const(np.zeros(2, np.int32)), 1), np.zeros((0, 2))),
    "where": (lambda: fw.where(EMPTY > 0.0, EMPTY, EMPTY), np.zeros((0, 3))),
    "dense": (lambda: fw.nn.dense(EMPTY, fw.ones((5, 3), "float32")), np.zeros((0, 5))),
    "dense over nothing": (lambda: fw.nn.dense(fw.transpose(EMPTY), fw.zeros((5, 0), "float32")), np.zeros((3, 5))),
    "conv2d": (lambda: fw.nn.conv2d(PICTURE, fw.ones((2, 4, 3, 3), "float32")), np.zeros((0, 2, 4, 4))),
    "max_pool2d": (lambda: fw.nn.max_pool2d(PICTURE, (2, 2)), np.zeros((0, 4, 5, 5))),
    "batch_flatten": (lambda: fw.nn.batch_flatten(PICTURE), np.zeros((0, 144))),
    "resize2d": (lambda: fw.image.resize2d(PICTURE, (3, 3)), np.zeros((0, 4, 3, 3))),
    "one_hot": (
        lambda: fw.one_hot(fw.const(np.zeros(0, np.int32)), fw.const(1.0), fw.const(0.0), 4, -1, "float32"),
        np.zeros((0, 4)),
    ),
}  # fmt: skip


def test_zero_size_tensors() -> None:
    """All in one module; what has no value (the maximum of nothing) is a clear error or the neutral element."""
    body = fw.Tuple([make() for make, _ in ZERO_SIZE.values()])
    lib = fw.build(fw.Function(fw.analysis.free_vars(body), body))
    shapes = fw.GraphModule(lib["default"](fw.cpu())).get_input_info()[0]
    results = lib(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    for (name, (_, expected)), got in zip(ZERO_SIZE.items(), results, strict=True):
        assert got.shape == expected.shape, name
        np.testing.assert_array_equal(got, expected, err_msg=name)


def test_the_process_survives() -> None:
    """Everything above once more in a process of its own, in a row: whatever happens, Python has the last word."""
    script = """
import numpy as np, fusewire as fw
from tests import test_bad_input as bad

refused = 0
for make in [*bad.ILL_TYPED.values(), *bad.TOO_LARGE.values()]:
    try:
        fw.GraphModule(fw.build(make())["default"](fw.cpu()))
    except fw.FusewireError:
        refused += 1
for text in bad.TEXTS.values():
    for cut in (len(text), len(text) // 2, len(text) // 3):
        try:
            fw.build(fw.parse(bad.HEAD + text[:cut]))
        except fw.FusewireError:
            refused += 1
x = fw.var("x", shape=(2, 3))
lib = fw.build(fw.nn.softmax(fw.take(x, fw.cast(x, "int32"), 1)))
for value in (np.nan, np.inf, -np.inf, 1e38, -1e38, 2.0**31, -5.0):
    lib(x=np.full((2, 3), value, np.float32))
print("refused", refused)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused ") and int(done.stdout.split()[1]) >= len(ILL_TYPED) + len(TOO_LARGE) + len(
        TEXTS
    )
