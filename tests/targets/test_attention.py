"""nn.attention compiled: which schedule runs, and its numbers for every instruction set, with what is fused around."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.targets.cpuinfo import Isa
from fusewire.targets.implement import TABLE, Chosen, finish
from fusewire.targets.lower import make_problem
from fusewire.targets.prove import verify
from tests.direct import AVX2, AVX512, SSE, Array, run_kernels
from tests.targets.test_schedules import draw, only_step

Shape = tuple[int, ...]
ISAS = [AVX512, AVX2, SSE]


def attention(parts: Sequence[fw.Expr], **attributes: Any) -> fw.Expr:
    query, key, value = parts
    return fw.nn.attention(query, key, value, **attributes)


def heads(name: str, tokens: int, count: int, size: int, order: tuple[int, ...] = (0, 2, 1, 3)) -> fw.Expr:
    """A matrix of tokens taken apart into heads, as models do."""
    return fw.transpose(fw.reshape(fw.var(name, shape=(1, tokens, count * size)), (1, tokens, count, size)), order)


def cut_out(tokens: int, count: int, size: int) -> list[fw.Expr]:
    """Query, key and value cut out of one matrix."""
    whole = fw.reshape(fw.var("qkv", shape=(1, tokens, 3 * count * size)), (1, tokens, 3, count, size))
    parts = fw.transpose(whole, (2, 0, 3, 1, 4))
    return [fw.squeeze(fw.strided_slice(parts, [n], [n + 1], axes=[0]), [0]) for n in range(3)]


def masked() -> fw.Expr:
    mask = fw.var("mask", shape=(1, 1, 1, 37))
    key = heads("k", 37, 3, 20, (0, 2, 3, 1))
    query, value = heads("q", 37, 3, 20), heads("v", 37, 3, 20)
    return fw.nn.attention(query, key, value, mask, scale=0.25, key_transposed=True, swap_heads=True)


def with_epilogue() -> fw.Expr:
    return fw.nn.relu(attention(cut_out(33, 2, 16), scale=0.25)) * 2.0


def one_row(length: int) -> fw.Expr:
    cache = [fw.var(name, shape=(1, 3, length, 32)) for name in "kv"]
    return attention([heads("q", 1, 3, 32), *cache], scale=0.2, swap_heads=True)


def of_shapes(q: Shape, k: Shape, v: Shape, **attributes: Any) -> fw.Expr:
    return fw.nn.attention(fw.var("q", shape=q), fw.var("k", shape=k), fw.var("v", shape=v), **attributes)


def hidden() -> fw.Expr:
    """Some rows see nothing: their scores are all -inf."""
    query, key, value = (fw.var(name, shape=(2, 1, 18, 16)) for name in "qkv")
    mask = np.where(np.arange(18)[:, None] % 3 == 0, -np.inf, 0).astype(np.float32)
    return fw.nn.attention(query, key, value, fw.const(mask), nan_to_zero=True)


GRAPHS: dict[str, Callable[[], fw.Expr]] = {
    "masked": masked,
    "with epilogue": with_epilogue,
    "one row": lambda: one_row(50),
    "one row, few keys": lambda: one_row(5),
    "rows that see nothing": hidden,
    "odd": lambda: of_shapes((2, 1, 9, 7), (2, 1, 65, 7), (2, 1, 65, 5)),
}


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_every_schedule_for_every_instruction_set(isa: Isa) -> None:
    rng = np.random.default_rng(3)
    work: list[Any] = []
    expected: list[tuple[str, Array]] = []
    for name, make in GRAPHS.items():
        graph = make()
        inputs = {v.name_hint: 2 * draw(rng, v) for v in variables(graph)}
        (want,) = fw.testing.evaluate(fw.Function(variables(graph), graph), inputs)
        program, step, constants = only_step(graph)
        names = {slots[0]: name for name, slots in program.inputs.items()}
        for entry in TABLE:
            problem = make_problem(step.function, f"k{len(work)}", isa, 2, constants)
            if (entry.ops is None or "nn.attention" in entry.ops) and entry.check(problem) is None:
                kernel, packed = Chosen(entry, next(iter(entry.configs(problem)))).schedule(problem)
                verify(kernel)
                assert not packed
                slots = enumerate(step.inputs)
                arrays = [constants[k] if k in constants else inputs[names[slot]] for k, slot in slots]
                work.append((finish(kernel, isa.vector_bytes), arrays))
                expected.append((f"{name} by {entry.name}", want))
    assert len(work) > 2 * len(GRAPHS)
    for (got,), (name, want) in zip(run_kernels(work), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=name)


def variables(graph: fw.Expr) -> list[fw.Var]:
    return fw.analysis.free_vars(graph)


def chosen(graph: fw.Expr) -> str:
    (choice,) = fw.build(fw.Function(variables(graph), graph), target="cpu -mcpu=skylake-avx512").explain().choices
    return choice.chosen


def test_keys_are_copied_for_many_rows_and_not_for_one() -> None:
    assert chosen(one_row(128)) == "attention_dots.cpu"
    assert chosen(masked()) == "attention.cpu"
    assert chosen(with_epilogue()) == "attention.cpu"
    across = of_shapes((1, 2, 1, 32), (1, 2, 32, 64), (1, 2, 64, 32), key_transposed=True)
    assert chosen(across) == "attention.cpu"  # there the elements of a key do not lie side by side


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_layer_runs_as_one_kernel(threads: int) -> None:
    """Products, softmax and transposes of a model come to one attention group, right at any number of threads."""
    rng = np.random.default_rng(threads)
    tokens, count, size = 45, 3, 24
    query, key, value = cut_out(tokens, count, size)
    turned = fw.reshape(fw.transpose(key, (0, 1, 3, 2)), (count, size, tokens))
    scores = fw.nn.batch_matmul(fw.reshape(query, (count, tokens, size)), turned, transpose_b=False)
    scores = fw.divide(fw.reshape(scores, (1, count, tokens, tokens)), fw.const(5.0)) + fw.var("mask", shape=(tokens,))
    weights = fw.reshape(fw.nn.softmax(scores), (count, tokens, tokens))
    result = fw.nn.batch_matmul(weights, fw.reshape(value, (count, tokens, size)), transpose_b=False)
    result = fw.transpose(fw.reshape(result, (1, count, tokens, size)), (0, 2, 1, 3))
    lib = fw.build(fw.Function(variables(result), result), target=f"cpu -num-cores={threads}")
    assert [c.chosen for c in lib.explain().choices] == ["attention.cpu"]
    inputs = {
        "qkv": rng.standard_normal((1, tokens, 3 * count * size), np.float32),
        "mask": np.where(rng.random(tokens) < 0.3, -10000, 0).astype(np.float32),
    }
    (want,) = fw.testing.evaluate(fw.Function(variables(result), result), inputs)
    np.testing.assert_allclose(lib(**inputs), want, rtol=2e-5, atol=2e-5)
