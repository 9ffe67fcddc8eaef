"""Text, equality, hashing, verifying and rewriting of random programs with nested scopes and sharing."""

import random
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fusewire as fw
from fusewire.ir.analysis import assert_structural_equal, structural_equal, structural_hash, well_formed
from fusewire.ir.infer import infer_type
from fusewire.ir.structural import binders
from fusewire.ir.verify import verify
from fusewire.ir.visitor import children, with_children

T = fw.TensorType((2, 3), "float32")
SIZE = 30


class Maker:
    """Grows expressions of type `T` in a scope, from the values that are visible there."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.budget = SIZE

    def function(self) -> fw.Function:
        params = [fw.var(self.rng.choice("xyz"), T) for _ in range(self.rng.randrange(1, 4))]
        return fw.Function(params, self.block(list(params)))

    def block(self, visible: list[fw.Expr]) -> fw.Expr:
        """Some values on top of the visible ones, of which the last is the result."""
        values = list(visible)
        for _ in range(self.rng.randrange(1, 8)):
            self.budget -= 1
            kinds: list[Callable[[list[fw.Expr]], fw.Expr]] = [self.unary, self.binary, self.constant, self.item]
            if self.budget > 0:
                kinds += [self.branch, self.let, self.call, self.let]
            values.append(self.rng.choice(kinds)(values))
        return values[-1]

    def pick(self, values: list[fw.Expr]) -> fw.Expr:
        """A value, more often a late one, so that most of what is made is used."""
        return self.rng.choice(values[-3:] if self.rng.random() < 0.7 else values)

    def unary(self, values: list[fw.Expr]) -> fw.Expr:
        made: list[Callable[[fw.Expr], fw.Expr]] = [fw.nn.relu, fw.tanh, lambda x: fw.nn.softmax(x, axis=0)]
        return self.rng.choice(made)(self.pick(values))

    def binary(self, values: list[fw.Expr]) -> fw.Expr:
        return self.rng.choice([fw.add, fw.multiply])(self.pick(values), self.pick(values))

    def constant(self, values: list[fw.Expr]) -> fw.Expr:
        scalar = fw.const(self.rng.choice([0.0, -0.0, 1.5, float("inf"), float("nan")]))
        array = fw.const(np.full((2, 3), self.rng.randrange(3), "float32"))
        return fw.add(self.pick(values), self.rng.choice([scalar, array]))

    def item(self, values: list[fw.Expr]) -> fw.Expr:
        pair = fw.Tuple([self.pick(values), fw.const(1), self.pick(values)])
        return pair[self.rng.choice([0, 2])]

    def branch(self, values: list[fw.Expr]) -> fw.Expr:
        cond = fw.any(fw.less(self.pick(values), fw.const(0.0)))
        return fw.If(cond, self.block(values), self.block(values))

    def let(self, values: list[fw.Expr]) -> fw.Expr:
        v = fw.var(self.rng.choice(["x", "v", "0", "layer.0.w"]), T)
        return fw.Let(v, self.pick(values), self.block([*values, v]))

    def call(self, values: list[fw.Expr]) -> fw.Expr:
        p = fw.var(self.rng.choice(["x", "p"]), T)
        outer = values if self.rng.random() < 0.5 else []
        inner = fw.Function([p], self.block([*outer, p]), None, fw.Attrs({"tag": self.rng.randrange(3)}))
        if self.rng.random() < 0.3:
            return fw.add(inner(self.pick(values)), inner(self.pick(values)))
        return inner(self.pick(values))


def functions() -> st.SearchStrategy[fw.Function]:
    return st.randoms(use_true_random=False).map(lambda rng: Maker(rng).function())


def unshared(expr: fw.Expr, names: dict[fw.Var, fw.Var], budget: list[int]) -> fw.Expr:
    """A copy with new variables in which (until the budget is spent) nothing is shared."""
    budget[0] -= 1
    if budget[0] < 0:
        raise OverflowError
    if isinstance(expr, fw.Var):
        return names.get(expr, expr)
    if isinstance(expr, fw.Constant):
        return fw.Constant(expr.data.copy())
    names = names | {v: fw.var(v.name_hint + "_copy", v.type_annotation) for v in binders(expr)}
    return with_children(expr, [unshared(part, names, budget) for part in children(expr)])


@given(functions())
@settings(max_examples=150, deadline=None)
def test_text_round_trip(function: fw.Function) -> None:
    assert well_formed(function)
    verify(function, "making it")
    text = function.astext()
    back = fw.parse_expr(text)
    assert isinstance(back, fw.Function)
    assert_structural_equal(back, function)
    assert structural_hash(back) == structural_hash(function)
    assert back.astext() == text
    verify(back, "parsing it")
    mod = fw.IRModule.from_expr(function)
    assert_structural_equal(fw.parse(mod.astext()), mod)


@given(functions())
@settings(max_examples=100, deadline=None)
def test_sharing_and_names_do_not_matter(function: fw.Function) -> None:
    try:
        copy = unshared(function, {}, [5000])
    except OverflowError:
        return
    assert_structural_equal(copy, function)
    assert_structural_equal(function, copy)
    assert structural_hash(copy) == structural_hash(function)


@given(functions(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_change_is_noticed(function: fw.Function, rng: random.Random) -> None:
    """Replace one use of one node, so that the program that is written out as a tree differs."""
    order = fw.ir.visitor.post_order(function)
    calls = [n for n in order if isinstance(n, fw.Call) and n.checked_type == T]
    if not calls:
        return
    victim = rng.choice(calls)
    changed = fw.ir.visitor.rewrite(function, _Once(victim))
    assert not structural_equal(function, changed)
    assert structural_hash(function) != structural_hash(changed)


class _Once:
    """Puts a sigmoid, which random programs do not have, around one node."""

    def __init__(self, victim: fw.Expr) -> None:
        self.victim = victim

    def __call__(self, expr: fw.Expr) -> fw.Expr | None:
        return fw.sigmoid(expr) if expr is self.victim else None


@given(functions(), functions())
@settings(max_examples=100, deadline=None)
def test_equality_agrees_with_the_hash(one: fw.Function, other: fw.Function) -> None:
    equal = structural_equal(one, other)
    assert equal == structural_equal(other, one)
    assert equal == (structural_hash(one) == structural_hash(other))


@given(functions())
@settings(max_examples=100, deadline=None)
def test_mutator_without_changes_returns_the_same_object(function: fw.Function) -> None:
    assert fw.ExprMutator().visit(function) is function


class _Untyped(fw.ExprMutator):
    """Drops the types of the variables that lets bind."""

    def __init__(self, function: fw.Function) -> None:
        super().__init__()
        order = fw.ir.visitor.post_order(function)
        self.lets = {n.var for n in order if isinstance(n, fw.Let)}

    def visit_var(self, var: fw.Expr) -> fw.Expr:
        assert isinstance(var, fw.Var)
        return fw.Var(var.name_hint) if var in self.lets else var


@given(functions())
@settings(max_examples=100, deadline=None)
def test_types_of_lets_are_inferred(function: fw.Function) -> None:
    untyped = _Untyped(function).visit(function)
    assert_structural_equal(infer_type(untyped), function)
    assert_structural_equal(infer_type(fw.parse_expr(untyped.astext())), function)


JUNK = [
    "(", ")", "{", "}", "[", "]", ",", ";", "=", ".0", ".9", "%0", "%9", "%x", "@f", "let", "fn", "if", "else", "1f",
    "-", "2i8", "True", "Tensor", "float32", "->", ":", "nn.relu", "add", "meta", "//", "/*", '"', "#[metadata]", "\\",
    "n", "axis",
]  # fmt: skip


@given(functions(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_damaged_text_is_read_or_refused(function: fw.Function, rng: random.Random) -> None:
    """Whatever the text, there is either a program that prints, or a FusewireError."""
    words = function.astext(show_meta_data=rng.random() < 0.8).split(" ")
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(words))
        change = rng.randrange(4)
        if change == 0:
            del words[at : at + rng.randrange(1, 4)]
        elif change == 1:
            words.insert(at, rng.choice(JUNK))
        elif change == 2:
            words.insert(at, rng.choice(words))
        else:
            word = words[at]
            cut = rng.randrange(len(word) + 1)
            words[at] = word[:cut] + rng.choice(JUNK) + word[cut + 1 :]
        words = words or [""]
    try:
        parsed = fw.parse_expr(" ".join(words))
    except fw.FusewireError:
        return
    assert_structural_equal(fw.parse_expr(parsed.astext()), parsed, map_free_vars=True)
