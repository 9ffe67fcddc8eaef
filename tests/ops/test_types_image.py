"""Image resampling and space operators: known values."""

from typing import Any

import numpy as np
import pytest

from fusewire.ops import image, nn
from tests.single_call import Array, both, run

# Known values of Resize from the examples of the ONNX operator specification
QUAD = np.array([[[[1, 2], [3, 4]]]], np.float32)
SIXTEEN = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("data", "attributes", "expected"),
    [
        (
            QUAD,
            {"size": (4, 4), "method": "linear"},
            [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]],
        ),
        (
            QUAD,
            {"size": (4, 4), "method": "linear", "coordinate_transformation_mode": "align_corners"},
            np.add.outer([0, 2 / 3, 4 / 3, 2], [1, 4 / 3, 5 / 3, 2]),
        ),
        (
            SIXTEEN,
            {"size": (3, 3), "coordinate_transformation_mode": "tf_crop_and_resize", "roi": [0.4, 0.6, 0.6, 0.8]},
            [[7.6, 7.9, 8.2], [8.8, 9.1, 9.4], [10, 10.3, 10.6]],
        ),
        (
            SIXTEEN,
            {
                "size": (3, 3),
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "roi": [0.4, 0.6, 1.2, 1.7],
                "extrapolation_value": 10,
            },
            [[7.6, 10, 10], [12.4, 10, 10], [10, 10, 10]],
        ),
        (
            SIXTEEN,
            {"size": (3, 1), "coordinate_transformation_mode": "pytorch_half_pixel"},
            [[1.6666666], [7], [12.333333]],
        ),
    ],
)
def test_resize_gives_the_values_of_the_onnx_examples(data: Array, attributes: dict[str, Any], expected: Any) -> None:
    for result in both(image.resize2d, data, **attributes):
        np.testing.assert_allclose(result[0, 0], expected, rtol=1e-5)


def test_cubic_gives_the_values_of_the_onnx_example() -> None:
    first = np.array([0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875, 3.68359375])
    for result in both(image.resize2d, SIXTEEN, size=(8, 8), method="cubic", cubic_alpha=-0.75):
        np.testing.assert_allclose(result[0, 0, 0], first, rtol=1e-6)
        np.testing.assert_allclose(result[0, 0, -1], 17 - first[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("rounding", "places"),
    [
        ("", [0, 1]),
        ("floor", [0, 1]),
        ("ceil", [0, 2]),
        ("round", [0, 2]),
        ("round_prefer_ceil", [0, 2]),
        ("round_prefer_floor", [0, 1]),
    ],
)
def test_nearest_rounds_halves_as_asked(rounding: str, places: list[int]) -> None:
    data = np.arange(3, dtype=np.int32).reshape(1, 1, 3)
    asked = {"coordinate_transformation_mode": "asymmetric", "rounding_method": rounding}
    assert run(image.resize1d, data, size=2, method="nearest_neighbor", **asked).tolist() == [[places]]


@pytest.mark.parametrize(("size", "target"), [(7, 3), (3, 7), (299, 224), (10, 90), (1, 5), (5, 1)])
def test_nearest_is_exact_where_floating_coordinates_are_not(size: int, target: int) -> None:
    """floor(x * n / m) in whole numbers, for all places."""
    data = np.arange(size, dtype=np.float32).reshape(1, 1, size)
    for result in both(
        image.resize1d, data, size=target, method="nearest_neighbor", coordinate_transformation_mode="asymmetric"
    ):
        np.testing.assert_array_equal(result[0, 0], [x * size // target for x in range(target)])


def test_cubic_can_leave_out_what_is_outside() -> None:
    data = np.array([[[8, 8, 8, 8]]], np.float32)
    for result in both(image.resize1d, data, size=9, method="cubic", cubic_exclude=1):
        np.testing.assert_allclose(result, np.full((1, 1, 9), 8), rtol=1e-6)


def test_upsampling_repeats_pixels_and_interpolates() -> None:
    for result in both(nn.upsampling, QUAD, scale_h=1, scale_w=2):
        np.testing.assert_array_equal(result[0, 0], [[1, 1, 2, 2], [3, 3, 4, 4]])
    for result in both(nn.upsampling, QUAD, scale_h=1, scale_w=1.5, method="bilinear", align_corners=True):
        np.testing.assert_allclose(result[0, 0], [[1, 1.5, 2], [3, 3.5, 4]])


def test_grid_sample_by_an_affine_grid() -> None:
    mirror = np.array([[[-1, 0, 0], [0, 1, 0]]], np.float32)
    for grid in both(image.affine_grid, mirror, target_shape=(4, 4)):
        np.testing.assert_allclose(grid[0, 0, 0], [1, 1 / 3, -1 / 3, -1], rtol=1e-6)
        for result in both(image.grid_sample, SIXTEEN, grid.astype(np.float32)):
            np.testing.assert_allclose(result, SIXTEEN[..., ::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("padding", "expected"), [("zeros", [0, 0, 0]), ("border", [1, 2, 2]), ("reflection", [2, 1, 2])]
)
def test_grid_sample_outside_of_the_image(padding: str, expected: list[float]) -> None:
    grid = np.array([[[[-3, 3, 5e9 if padding == "border" else 5]], [[0, 0, 0]]]], np.float32)
    for result in both(image.grid_sample, QUAD[:, :, :1], grid, padding_mode=padding):
        np.testing.assert_allclose(result[0, 0, 0], expected, atol=1e-6)


def test_depth_to_space_modes() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    for result in both(nn.depth_to_space, x, block_size=2):
        np.testing.assert_array_equal(result, [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]])
    for result in both(nn.depth_to_space, x, block_size=2, mode="CRD"):
        np.testing.assert_array_equal(result, [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]])


def test_space_operators_undo_each_other() -> None:
    x = np.arange(2 * 4 * 6 * 3, dtype=np.int32).reshape(2, 4, 6, 3)
    there = run(nn.space_to_depth, x, block_size=2, layout="NHWC")
    assert there.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(run(nn.depth_to_space, there, block_size=2, layout="NHWC"), x)
    blocks = {"block_shape": [2, 3]}
    there = run(nn.space_to_batch_nd, x, paddings=[[1, 1], [2, 1]], pad_value=-1, **blocks)
    assert there.shape == (12, 3, 3, 3) and (there == -1).sum() == 2 * 3 * (6 * 9 - 4 * 6)
    np.testing.assert_array_equal(run(nn.batch_to_space_nd, there, crops=[[1, 1], [2, 1]], **blocks), x)
