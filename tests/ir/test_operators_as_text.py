"""Every operator, with random attributes, as text and back."""

import zlib

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.verify import verify
from fusewire.ops.spec import OpSpec, all_specs

DRAWS = 15
SPECS = [spec for spec in all_specs() if spec.cases is not None]


def call_of(spec: OpSpec, rng: np.random.Generator) -> fw.Expr:
    """A random use of an operator on variables."""
    assert spec.cases is not None
    case = spec.cases(rng)
    args: list[fw.Expr | list[fw.Expr]] = []
    for i, shape in enumerate(case.shapes):
        dtype = (case.dtypes[i] if case.dtypes else None) or spec.dtypes[0]
        if isinstance(shape, list):
            args.append([fw.var(f"x{i}.{j}", shape=s, dtype=dtype) for j, s in enumerate(shape)])
        else:
            args.append(fw.var(f"x{i}", shape=shape, dtype=dtype))
    built = spec.build(*args, **case.attributes)
    call: fw.Expr = built if isinstance(built, fw.Expr) else built.astuple()
    return call


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_round_trip(name: str) -> None:
    (spec,) = (s for s in SPECS if s.name == name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(DRAWS):
        body = call_of(spec, rng)
        function = fw.Function(fw.analysis.free_vars(body), body)
        text = function.astext()
        back = fw.parse_expr(text)
        assert isinstance(back, fw.Function)
        fw.analysis.assert_structural_equal(back, function)
        assert back.astext() == text
        verify(back)


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_an_unknown_attribute_is_refused(name: str) -> None:
    with pytest.raises(fw.ParseError, match="no attribute 'no_such'"):
        fw.parse_expr(f"{name}(1f, no_such=1)")
