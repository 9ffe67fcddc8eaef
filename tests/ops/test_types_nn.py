"""Activations, normalisations, image resampling and space operators: type rules, known values, tiny runs."""

from typing import Any

import numpy as np
import pytest

from fusewire import ops
from fusewire.ir.errors import TypeInferenceError
from fusewire.ir.expr import Function, TupleGetItem, var
from fusewire.ir.index import size_var
from fusewire.ir.infer import infer_type
from fusewire.ir.types import TensorType, TupleType
from fusewire.ops import image, nn
from fusewire.ops.spec import OpSpec, all_specs, spec_of
from tests.check import check_lowering
from tests.single_call import Builder, Shape, both, call_of, run, type_of

N, C, H, W = (size_var(name) for name in "nchw")
MODULES = ("activation", "norm", "norm_plain", "space", "image", "upsampling", "grid")
INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "expected"),
    [
        (nn.relu, (2, N), {}, (2, N)),
        (nn.softmax, (N, C, 4), {"axis": 1}, (N, C, 4)),
        (nn.l2_normalize, (N, C), {"eps": 1e-3}, (N, C)),
        (nn.lrn, (N, 8, H, W), {}, (N, 8, H, W)),
        (nn.batch_flatten, (N, 2, 3, 4), {}, (N, 24)),
        (nn.batch_flatten, (N, 2, H, 4), {}, (N, 8 * H)),
        (nn.batch_flatten, (5,), {}, (5, 1)),
        (nn.depth_to_space, (N, 12, H, W), {"block_size": 2}, (N, 3, 2 * H, 2 * W)),
        (nn.depth_to_space, (1, H, W, 9), {"block_size": 3, "layout": "NHWC"}, (1, 3 * H, 3 * W, 1)),
        (nn.space_to_depth, (N, C, 4, 6), {"block_size": 2}, (N, 4 * C, 2, 3)),
        (nn.space_to_depth, (1, 1, 4, 6, 8), {"block_size": 2, "layout": "NCHW8c"}, (1, 4, 2, 3, 8)),
        (nn.space_to_batch_nd, (N, 5, 4, C), {"block_shape": [2, 2], "paddings": [[0, 1], [1, 1]]}, (4 * N, 3, 3, C)),
        (nn.space_to_batch_nd, (2, 6), {"block_shape": 3, "paddings": [[0, 0]]}, (6, 2)),
        (nn.batch_to_space_nd, (8, 3, W, C), {"block_shape": [2, 2], "crops": [[1, 0], [1, 1]]}, (2, 5, 2 * W - 2, C)),
        (image.resize1d, (N, C, 7), {"size": [3]}, (N, C, 3)),
        (image.resize2d, (N, C, H, W), {"size": (6, 7)}, (N, C, 6, 7)),
        (image.resize2d, (N, 4, 5, 3), {"size": 6, "layout": "NHWC"}, None),
        (image.resize2d, (1, 2, 4, 5, 8), {"size": (6, 7), "layout": "NCHW8c"}, (1, 2, 6, 7, 8)),
        (image.resize3d, (1, 2, 3, 4, 5), {"size": (6, 7, 8), "layout": "NDHWC"}, (1, 6, 7, 8, 5)),
        (image.affine_grid, (N, 2, 3), {"target_shape": (4, 5)}, (N, 2, 4, 5)),
        (nn.upsampling, (N, C, H, W), {"scale_h": 2, "scale_w": 3.0}, (N, C, 2 * H, 3 * W)),
        (nn.upsampling, (1, 2, 5, 5), {"scale_h": 1.5, "scale_w": 0.5}, (1, 2, 8, 2)),
        (nn.upsampling3d, (1, 2, 3, 4, 5), {"scale_d": 2, "scale_w": 2}, (1, 2, 6, 4, 10)),
    ],
)
def test_result_shape(op: Builder, shape: Shape, attributes: dict[str, Any], expected: Shape | None) -> None:
    if expected is None:
        with pytest.raises(TypeInferenceError, match="size must have 2 entries"):
            type_of(op, [shape], **attributes)
    else:
        assert type_of(op, [shape], "float16", **attributes) == TensorType(expected, "float16")


def test_out_dtype_and_integer_images() -> None:
    assert type_of(image.resize2d, [(1, 3, 4, 4)], "uint8", size=(2, 2)) == TensorType((1, 3, 2, 2), "uint8")
    found = type_of(image.resize2d, [(1, 3, 4, 4)], "uint8", size=(2, 2), out_dtype="float32")
    assert found == TensorType((1, 3, 2, 2), "float32")


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "message"),
    [
        (nn.softmax, [(2, 3)], {"axis": 2}, "axis 2 is out of range for a tensor of 2 dimensions"),
        (nn.softmax, [()], {}, "axis -1 is out of range"),
        (nn.prelu, [(2, 3, 4), (4,)], {}, r"alpha must be Tensor\[\(3,\), float32\].*got Tensor\[\(4,\)"),
        (nn.prelu, [(2, 3), (3,)], {"axis": 2}, "axis 2 is out of range"),
        (nn.dropout, [(2, 3)], {"rate": 1.5}, "rate must lie in 0..1, got 1.5"),
        (nn.batch_norm, [(2, 3), (3,), (3,), (3,), (2,)], {}, "moving_var must be"),
        (nn.layer_norm, [(2, 3), (3,), (2,)], {}, "beta must be"),
        (nn.layer_norm, [(2, 3), (3,), (3,)], {"epsilon": -1}, "epsilon must not be negative"),
        (nn.group_norm, [(2, 6), (6,), (6,)], {"num_groups": 4}, "channels must be a multiple of 4, got 6"),
        (nn.group_norm, [(2, 6), (6,), (6,)], {"num_groups": 0}, "num_groups must be at least 1"),
        (nn.l2_normalize, [(2, 3)], {"eps": 1, "axis": [1, -1]}, "names a dimension twice"),
        (nn.lrn, [(2, 3)], {"size": 4}, "size must be odd"),
        (nn.lrn, [(2,)], {}, "axis 1 is out of range"),
        (nn.batch_flatten, [()], {}, "at least 1 dimension"),
        (nn.depth_to_space, [(1, 6, 2, 2)], {"block_size": 2}, "channels must be a multiple of 4, got 6"),
        (nn.depth_to_space, [(1, 4, 2, 2)], {"block_size": 2, "mode": "RCD"}, "mode must be one of DCR, CRD"),
        (nn.depth_to_space, [(1, 4, 2, 2)], {"block_size": 0}, "block_size must be at least 1"),
        (nn.depth_to_space, [(1, 4, 2)], {"block_size": 2}, "data has 3 dimensions"),
        (nn.space_to_depth, [(1, 4, 2, 3)], {"block_size": 2}, "axis W must be a multiple of 2, got 3"),
        (nn.space_to_depth, [(1, 4, 2, 2)], {"block_size": 2, "layout": "NCDHW"}, "must have the axes NCHW"),
        (nn.space_to_batch_nd, [(1, 5)], {"block_shape": [2], "paddings": [[0, 0]]}, "multiple of 2, got 5"),
        (nn.space_to_batch_nd, [(1, 5)], {"block_shape": [2], "paddings": [0, 1]}, "a pair of integers for each"),
        (nn.space_to_batch_nd, [(1,)], {"block_shape": [2], "paddings": [[0, 1]]}, "data must have a batch axis"),
        (nn.space_to_batch_nd, [(1, 4)], {"block_shape": [2], "paddings": [[-1, 1]]}, "must not be negative"),
        (nn.batch_to_space_nd, [(3, 5)], {"block_shape": [2], "crops": [[0, 0]]}, "batch must be a multiple of 2"),
        (nn.batch_to_space_nd, [(2, 1)], {"block_shape": [2], "crops": [[2, 1]]}, "are larger than axis 1"),
        (image.resize2d, [(1, 3, 4, 4)], {"size": (0, 4)}, "cannot resize axis H from 4 to 0"),
        (image.resize2d, [(1, 3, 0, 4)], {"size": (2, 4)}, "cannot resize axis H from 0 to 2"),
        (image.resize2d, [(1, 3, 4, 4)], {"size": (2, 4), "method": "area"}, "method must be one of nearest_neighbor"),
        (image.resize2d, [(1, 3, 4, 4)], {"size": (2, 4), "rounding_method": "up"}, "rounding_method must be one of"),
        (image.resize2d, [(1, 3, 4, 4)], {"size": (2, 4), "roi": [0, 1]}, "roi must be 2 starts and 2 ends"),
        (image.resize2d, [(1, 3, 4, 4)], {"size": (2, 4), "layout": "NCHW2h"}, "splits the spatial axis H"),
        (
            image.resize2d,
            [(1, 3, 4, 4)],
            {"size": (2, 4), "coordinate_transformation_mode": "tf_half_pixel"},
            "coordinate_transformation_mode must be one of half_pixel",
        ),
        (image.affine_grid, [(1, 2, 3)], {"target_shape": (4, 1)}, "two sizes of at least 2, got"),
        (image.affine_grid, [(1, 3, 2)], {"target_shape": (4, 4)}, r"data must have shape \(batch, 2, 3\)"),
        (image.grid_sample, [(1, 3, 4, 4), (1, 3, 5, 5)], {}, r"grid must have shape \(1, 2, 2 output sizes\)"),
        (image.grid_sample, [(1, 3, 4, 4), (1, 2, 5, 5)], {"layout": "NHWC"}, "layout NCHW or NCDHW"),
        (
            image.grid_sample,
            [(1, 3, 4, 4, 4), (1, 3, 5, 5, 5)],
            {"layout": "NCDHW", "method": "bicubic"},
            "method must be one of nearest, bilinear",
        ),
        (nn.upsampling, [(1, 3, 4, 4)], {"method": "linear"}, "one of nearest_neighbor, bilinear, bicubic"),
        (nn.upsampling, [(1, 3, H, 4)], {"scale_h": 1.5}, "its scale must be a whole number"),
        (nn.upsampling, [(1, 3, 4, 4)], {"scale_w": 0.1}, "cannot resize axis W from 4 to 0"),
        (nn.upsampling, [(1, 3, 4, 4)], {"scale_w": NAN}, "must be positive"),
    ],
)
def test_errors_say_what_is_wrong(op: Builder, shapes: list[Shape], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        type_of(op, shapes, **attributes)


@pytest.mark.parametrize("op", [nn.softmax, nn.log_softmax, nn.leaky_relu, nn.dropout, nn.lrn])
def test_floating_operators_refuse_integers(op: Builder) -> None:
    with pytest.raises(TypeInferenceError, match="int32, expected a floating type"):
        type_of(op, [(2, 3)], "int32")


def test_relu_refuses_bool_and_takes_integers() -> None:
    with pytest.raises(TypeInferenceError, match="expected a number, not bool"):
        type_of(nn.relu, [(2,)], "bool")
    np.testing.assert_array_equal(run(nn.relu, np.array([-3, 0, 5], np.int8)), np.array([0, 0, 5], np.int8))


@pytest.mark.parametrize(
    ("op", "vectors", "axis"),
    [(nn.prelu, 1, 1), (nn.batch_norm, 4, 3), (nn.layer_norm, 2, -1), (nn.instance_norm, 2, 1), (nn.batch_norm, 4, -3)],
)
def test_vectors_get_their_type_from_the_data(op: Builder, vectors: int, axis: int) -> None:
    data_type = TensorType((N, C, 5, 7), "float64")
    data = var("data", data_type)
    unknown = [var(f"v{k}") for k in range(vectors)]
    function = infer_type(Function([data, *unknown], call_of(op(data, *unknown, axis=axis))))
    assert isinstance(function, Function)
    expected = TensorType((data_type.shape[axis],), "float64")
    assert [p.checked_type for p in function.params[1:]] == [expected] * vectors


def test_group_norm_completes_its_vectors() -> None:
    data, gamma, beta = var("data", shape=(2, 6, 3)), var("gamma"), var("beta")
    function = infer_type(Function([data, gamma, beta], nn.group_norm(data, gamma, beta, num_groups=3)))
    assert isinstance(function, Function)
    assert [p.checked_type for p in function.params[1:]] == [TensorType((6,))] * 2


def test_batch_norm_is_a_tuple_that_unpacks() -> None:
    gamma, beta, mean, variance = (var(name, shape=(3,)) for name in ("gamma", "beta", "mean", "var"))
    result = nn.batch_norm(var("x", shape=(2, 3, 4)), gamma, beta, mean, variance)
    types = [TensorType((2, 3, 4)), TensorType((3,)), TensorType((3,))]
    assert [value.checked_type for value in result] == types
    assert result.astuple().checked_type == TupleType(types)


def test_dropout_is_the_first_value_of_its_tuple() -> None:
    x = var("x", shape=(2, 3))
    dropped = nn.dropout(x, 0.25)
    assert dropped.checked_type == x.checked_type
    assert isinstance(dropped, TupleGetItem) and dropped.index == 0
    assert call_of(dropped).attrs.rate == 0.25


def test_relus_keep_nan() -> None:
    x = np.array([NAN, -INF, -2, 0, 3, INF], np.float32)
    for result in both(nn.relu, x):
        np.testing.assert_array_equal(result, np.array([NAN, 0, 0, 0, 3, INF]))
    for result in both(nn.leaky_relu, x, alpha=0.5):
        np.testing.assert_array_equal(result, np.array([NAN, -INF, -1, 0, 3, INF]))
    assert nn.leaky_relu(var("x", shape=(1,))).attrs.alpha == 0.01  # type: ignore[attr-defined]
    for result in both(nn.prelu, np.array([[-1, -1], [4, NAN]], np.float32), np.array([2, 3], np.float32)):
        np.testing.assert_array_equal(result, np.array([[-2, -3], [4, NAN]]))


def test_softmax_of_extreme_rows() -> None:
    x = np.array([[1000, 1000, -INF], [-INF, -INF, -INF], [0, INF, 1], [NAN, 0, 0]], np.float32)
    for op, first in ((nn.softmax, [0.5, 0.5, 0]), (nn.log_softmax, [-np.log(2), -np.log(2), -INF])):
        for result in both(op, x):
            np.testing.assert_allclose(result[0], first, rtol=1e-6)
            assert np.isnan(result[1:]).all()


def test_softmax_along_another_axis_adds_up_to_one() -> None:
    x = np.random.default_rng(3).normal(size=(3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(nn.softmax, x, axis=-2).sum(1), np.ones((3, 2)), rtol=1e-6)
    np.testing.assert_allclose(np.exp(run(nn.log_softmax, x, axis=0)).sum(0), np.ones((4, 2)), rtol=1e-6)


def test_layer_norm_by_hand() -> None:
    x = np.array([[1, 3], [5, 5]], np.float32)
    gamma, beta = np.array([2, 4], np.float32), np.array([10, 20], np.float32)
    for result in both(nn.layer_norm, x[:1], gamma, beta, epsilon=0.0):
        np.testing.assert_allclose(result, [[8, 24]], rtol=1e-6)
    for result in both(nn.layer_norm, x, gamma, beta, epsilon=3.0, scale=False):
        np.testing.assert_allclose(result, np.array([[9.5, 20.5], [10, 20]]), rtol=1e-6)
    for result in both(nn.layer_norm, x, gamma, beta, axis=0, epsilon=0.0, center=False):
        np.testing.assert_allclose(result, [[-2, -2], [4, 4]], rtol=1e-6)


def test_variance_survives_a_large_mean() -> None:
    x = np.array([[4096.0, 4097.0, 4098.0]], np.float32)
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    np.testing.assert_allclose(run(nn.layer_norm, x, one, zero), [[-1.224740, 0, 1.224740]], atol=2e-3)


def test_group_norm_between_instance_and_layer_norm() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 3, 2)).astype(np.float32)
    one, zero = np.ones(6, np.float32), np.zeros(6, np.float32)
    instance = run(nn.instance_norm, x, one, zero)
    np.testing.assert_allclose(run(nn.group_norm, x, one, zero, num_groups=6), instance, atol=1e-6)
    halves = run(nn.group_norm, x, one, zero, num_groups=2).reshape(2, 2, -1)
    np.testing.assert_allclose(halves.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(halves.var(-1), 1, atol=1e-4)


def test_batch_norm_reference_by_hand() -> None:
    op: Builder = nn.batch_norm
    call = call_of(op(var("x", shape=(1, 2)), *(var(f"v{k}", shape=(2,)) for k in range(4)), epsilon=0.0))
    arrays = [np.array(v, float) for v in ([[7, 7]], [2, 3], [1, 1], [5, 4], [4, 9])]
    data, mean, variance = spec_of(call).reference(call.attrs, *arrays)
    np.testing.assert_allclose(data, [[3, 4]])
    assert mean is arrays[3] and variance is arrays[4]
    assert spec_of(call).lowering is None


def test_lrn_and_l2_normalize_by_hand() -> None:
    x = np.array([[1, 2, 3]], np.float32)
    for result in both(nn.lrn, x, size=3, bias=1, alpha=3, beta=1):
        np.testing.assert_allclose(result, [[1 / 6, 2 / 15, 3 / 14]], rtol=1e-6)
    y = np.array([[3, 4], [0.1, 0]], np.float32)
    for result in both(nn.l2_normalize, y, eps=1.0, axis=1):
        np.testing.assert_allclose(result, [[0.6, 0.8], [0.1, 0]], rtol=1e-6)


def mine() -> list[OpSpec]:
    return [s for s in all_specs() if s.builder.__module__.rsplit(".", 1)[-1] in MODULES]


@pytest.mark.parametrize("spec", [s for s in mine() if s.lowering is not None], ids=lambda s: s.name)
def test_lowering_agrees_with_reference(spec: OpSpec) -> None:
    for seed in range(6):
        check_lowering(spec, spec.dtypes[seed % len(spec.dtypes)], np.random.default_rng(seed))


def test_every_operator_is_reachable_by_its_relay_name() -> None:
    spaces = {"nn": nn, "image": image}
    for spec in all_specs():
        space, _, name = spec.name.rpartition(".")
        where = spaces[space] if space else ops
        if spec.name == "nn.dropout":  # Relay's dropout gives the first value only; the operator itself is dropout_raw
            name = "dropout_raw"
        assert getattr(where, name) is spec.builder, spec.name


def test_namespaces_list_functions_only() -> None:
    assert set(ops.__all__) >= {"add", "concatenate", "sort", "nn", "image"}
    assert all(callable(getattr(ops, name)) for name in ops.__all__ if name not in ("nn", "image"))
    assert all(callable(getattr(nn, name)) for name in nn.__all__)
