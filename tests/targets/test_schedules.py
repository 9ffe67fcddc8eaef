"""Golden texts of groups as loop IR and as C, for fixed instruction sets; and what every schedule must keep to."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

import fusewire as fw
from fusewire.fuse.pipeline import pipeline
from fusewire.ir.index import IndexVar, substitute
from fusewire.ir.loops import Alloc, For, If, Kernel, Stmt, Store
from fusewire.targets.cpuinfo import Isa
from fusewire.targets.implement import Decision, implement
from fusewire.targets.looptext import kernel_text
from fusewire.targets.lower import make_problem
from fusewire.targets.program import KernelStep, Program, make_program
from fusewire.targets.prove import verify
from fusewire.targets.rewrite import walk
from fusewire.targets.scales import prepared
from fusewire.targets.schedules import conv
from tests.direct import AVX2, AVX512, SSE, Array, c_text, run_kernels

Golden = Callable[[str, str], None]
ISAS = [AVX512, AVX2, SSE]


def only_step(graph: fw.Expr) -> tuple[Program, KernelStep, dict[int, Array]]:
    """The program of a graph that is one group, its step, and the step's constants by position."""
    program = make_program(pipeline()(fw.transform.InferType()(fw.IRModule.from_expr(graph)))["main"])
    (step,) = program.steps
    assert isinstance(step, KernelStep)
    return program, step, {k: program.constants[s] for k, s in enumerate(step.inputs) if s in program.constants}


def only_group(graph: fw.Expr, isa: Isa, threads: int = 4) -> tuple[KernelStep, Kernel, list[str | Array]]:
    """The step of a graph that is one group, its finished kernel, and what its inputs are: names, or constants.

    Convolutions are direct ones, whatever is predicted to be faster.
    """
    program, step, constants = only_step(graph)
    problem = make_problem(step.function, "KERNEL", isa, threads, constants)
    direct = None
    if problem.anchor is not None and str(problem.anchor.op) == "nn.conv2d":
        direct = Decision("conv2d_nchw.cpu", next(iter(conv.configs(problem))))
    lowered, _, _ = implement(problem, direct)
    names = {slots[0]: name for name, slots in program.inputs.items()}
    known = {k: prepared(k, problem.scales, lowered.packed, constants.__getitem__) for k in constants}
    return step, lowered.kernel, [known[k] if k in known else names[slot] for k, slot in enumerate(step.inputs)]


def tutorial_net(side: int = 20) -> fw.Expr:
    """conv2d, batch norm's scale and shift as constants, relu."""
    rng = np.random.default_rng(0)
    weight, scale, shift = (
        fw.const(rng.normal(size=s).astype(np.float32)) for s in ((16, 3, 3, 3), (16, 1, 1), (16, 1, 1))
    )
    net = fw.nn.conv2d(fw.var("data", shape=(1, 3, 8, side)), weight, padding=(1, 1))
    return fw.nn.relu(net * scale + shift)


def deep_net() -> fw.Expr:
    """A reduction long enough for output channels in lanes."""
    weight, shift = fw.const(np.ones((32, 32, 3, 3), np.float32)), fw.const(np.ones((32, 1, 1), np.float32))
    return fw.nn.relu(fw.nn.conv2d(fw.var("data", shape=(1, 32, 6, 6)), weight, padding=(1, 1)) + shift)


def dense_net() -> fw.Expr:
    return fw.tanh(fw.nn.dense(fw.var("x", shape=(5, 24)), fw.const(np.ones((40, 24), np.float32))) * 0.5)


def chain() -> fw.Expr:
    """Elementwise operators with broadcasting along either axis; one value is used twice."""
    x, row, column = fw.var("x", shape=(6, 35)), fw.var("row", shape=(35,)), fw.var("column", shape=(6, 1))
    twice = fw.exp(x * row)
    return fw.maximum(twice + column, twice * twice)


GRAPHS: dict[str, Callable[[], fw.Expr]] = {
    "conv2d_scale_shift_relu": tutorial_net,
    "deep_conv2d": deep_net,
    "dense": dense_net,
    "softmax": lambda: fw.nn.softmax(fw.var("x", shape=(4, 50))),
    "softmax_across": lambda: fw.nn.softmax(fw.var("x", shape=(50, 20)), 0),
    "chain": chain,
    "transpose_add": lambda: fw.transpose(fw.var("x", shape=(6, 40))) + fw.var("y", shape=(40, 6)),
    "pad_slice": lambda: fw.nn.pad(fw.strided_slice(fw.var("x", shape=(9, 30)), [1], [8]), ((0, 0), (2, 3))) * 2.0,
    "sum": lambda: fw.sqrt(fw.sum(fw.var("x", shape=(6, 70)) * 2.0, axis=1)),
    "argmax": lambda: fw.argmax(fw.var("x", shape=(6, 7)), axis=1),
    "int8": lambda: fw.clip(fw.var("x", shape=(70,), dtype="int8") + fw.var("y", shape=(70,), dtype="int8"), -5, 5),
    "concatenate": lambda: fw.concatenate([fw.var("x", shape=(3, 5)), fw.exp(fw.var("y", shape=(3, 4)))], 1),
    "max_pool2d": lambda: fw.nn.max_pool2d(fw.var("x", shape=(1, 2, 8, 20)), (3, 3), (2, 2), padding=(1, 1)),
}
SHOWN = ["conv2d_scale_shift_relu", "softmax", "chain", "transpose_add"]


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", SHOWN)
def test_golden(name: str, isa: Isa, golden: Golden) -> None:
    _, kernel, _ = only_group(GRAPHS[name](), isa)
    golden(f"{name}.{isa.name}.loops", kernel_text(kernel))
    golden(f"{name}.{isa.name}.c", c_text([kernel]))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_every_schedule_for_every_instruction_set(isa: Isa) -> None:
    """Whatever the machine, the kernels written for each vector width compute the right thing."""
    rng = np.random.default_rng(5)
    work, expected = [], []
    for number, (name, graph) in enumerate(GRAPHS.items()):
        built = graph()
        _, kernel, sources = only_group(built, isa)
        verify(kernel)
        inputs = {v.name_hint: draw(rng, v) for v in fw.analysis.free_vars(built)}
        arrays = [inputs[source] if isinstance(source, str) else source for source in sources]
        work.append((Kernel(f"k{number}", kernel.inputs, kernel.outputs, kernel.body), arrays))
        expected.append((name, fw.testing.evaluate(fw.Function(fw.analysis.free_vars(built), built), inputs)[0]))
    for (got,), (name, want) in zip(run_kernels(work), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=name)


def draw(rng: np.random.Generator, variable: fw.Var) -> Array:
    type_ = variable.checked_type
    assert isinstance(type_, fw.TensorType)
    if type_.dtype == "int8":
        return rng.integers(-128, 128, type_.static_shape).astype(np.int8)
    return rng.uniform(-1, 1, type_.static_shape).astype(type_.dtype)


def stores_to(name: str, text: str) -> list[str]:
    """The assignments to elements of an array in C text."""
    plain = rf"^\s*{name}\[.*?\] = .*;$"
    vector = rf"^\s*\*\(\w+ \*\)&{name}\[.*?\] = .*;$"
    return re.findall(f"{plain}|{vector}", text, re.MULTILINE)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("side", [16, 20, 33])
def test_the_epilogue_works_on_the_accumulator(isa: Isa, side: int) -> None:
    """`out` is stored to once for each element, a value made from an accumulator; nothing lies in between."""
    step, kernel, _ = only_group(tutorial_net(side), isa)
    assert step.name.endswith("fused_nn_conv2d_multiply_add_nn_relu")
    stores = stores_to("out", c_text([kernel]))
    assert stores and all("acc" in s and "fw_maxc_" in s and "*" in s and "+" in s for s in stores)
    allocated = [s.buffer for s in walk(kernel.body) if isinstance(s, Alloc)]
    assert all(b.scope == "register" or b.name.startswith("bordered") for b in allocated)
    places = stored_places(kernel, "out")
    assert sorted(places) == list(range(16 * 8 * side))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", [n for n in GRAPHS if n != "argmax"])
def test_every_element_is_stored_once(name: str, isa: Isa) -> None:
    _, kernel, _ = only_group(GRAPHS[name](), isa)
    (out,) = kernel.outputs
    assert sorted(stored_places(kernel, out.name)) == list(range(int(np.prod(out.shape))))


def stored_places(kernel: Kernel, name: str) -> list[int]:
    """Every element offset that the kernel stores to in a buffer, once for each time it does."""
    found: list[int] = []

    def visit(body: Sequence[Stmt], env: Mapping[IndexVar, int]) -> None:
        for stmt in body:
            match stmt:
                case For(var=var, extent=extent, body=inner):
                    if any(isinstance(s, Store) and s.buffer.name == name for s in walk(inner)):
                        for i in range(extent):
                            visit(inner, {**env, var: i})
                case If():
                    assert not any(isinstance(s, Store) and s.buffer.name == name for s in walk([stmt]))
                case Store(buffer=buffer, index=index, value=value) if buffer.name == name:
                    offset = substitute(buffer.offset(index), env)
                    assert offset.is_const
                    found.extend(offset.const + lane for lane in range(value.lanes))

    visit(kernel.body, {})
    return found


def test_what_is_used_twice_is_computed_once() -> None:
    """exp(x * row) has two uses in `chain`, and one call for each vector width."""
    _, kernel, _ = only_group(chain(), AVX2)
    body = c_text([kernel]).rpartition("void KERNEL(")[2]
    assert body.count("fw_exp_v8f32(") == body.count("fw_max_v8f32(") >= 1


def test_constants_are_packed_once_when_the_model_is_built() -> None:
    weight, x = fw.var("w", shape=(16, 3, 3, 3)), fw.var("x", shape=(1, 3, 8, 20))
    unknown = fw.nn.conv2d(x, weight, padding=(1, 1))
    for graph, at_run_time in ((tutorial_net(), False), (deep_net(), False), (dense_net(), False), (unknown, True)):
        _, kernel, _ = only_group(graph, AVX2)
        packs = any(isinstance(s, Alloc) and s.buffer.name == "packed" for s in walk(kernel.body))
        assert packs == at_run_time


def test_why_an_implementation_was_refused() -> None:
    x, w = fw.var("x", shape=(1, 8, 8, 3)), fw.var("w", shape=(3, 3, 3, 4))
    nhwc = fw.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="HWIO")
    lib = fw.build(nhwc)
    (choice,) = lib.explain().choices
    assert choice.chosen == "loops.cpu"
    assert [c.name for c in choice.candidates if c.refusal is None] == ["loops.cpu"]
    assert "NHWC" in str(lib.explain()) and "NCHW" in str(lib.explain())
