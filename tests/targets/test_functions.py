"""erf and tanh in float32: how far they are from the exact values, in units of the last place."""

import math

import numpy as np
import pytest

import fusewire as fw


@pytest.mark.parametrize(("name", "limit"), [("erf", 6.5), ("tanh", 5.5)])
def test_units_in_the_last_place(name: str, limit: float) -> None:
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-30, 4, 20001)).astype(np.float32) * rng.choice([-1, 1], 20001).astype(np.float32)
    data = fw.var("x", shape=x.shape)
    got = np.asarray(fw.build(fw.Function([data], getattr(fw, name)(data)))(x=x))
    exact = np.array([getattr(math, name)(float(v)) for v in x])
    assert np.abs(got).max() == 1.0
    assert (np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32))).max() < limit


@pytest.mark.parametrize("name", ["erf", "tanh"])
@pytest.mark.parametrize("count", [3, 16, 35])
def test_special_values(name: str, count: int) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 30, -30], np.float32), count)
    data = fw.var("x", shape=x.shape)
    got = np.asarray(fw.build(fw.Function([data], getattr(fw, name)(data)))(x=x))
    want = np.array([getattr(math, name)(float(v)) for v in x], np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()
