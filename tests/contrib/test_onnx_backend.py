"""A part of ONNX's own test suite, on compiled kernels; `python -m fusewire.backend` runs all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", "1.16")

import onnx.backend.test.loader as loader  # noqa: E402
from onnx.backend.test.runner import Runner  # noqa: E402

import fusewire as fw  # noqa: E402
from fusewire import backend  # noqa: E402
from fusewire.contrib.onnx import suite  # noqa: E402

CHOSEN = """
add_bcast argmax_negative_axis_keepdims_example averagepool_2d_ceil averagepool_2d_same_upper basic_conv_with_padding
batchnorm_epsilon bitshift_right_uint8 clip_default_int8_max clip_example compress_0 concat_3d_axis_negative_2
constant constant_pad constantofshape_int_zeros convinteger_with_padding convtranspose_output_shape convtranspose_pads
cumsum_2d_axis_1 deform_conv_with_mask_bias depthtospace_example dequantizelinear_axis dft div_uint8
dropout_default_mask dynamicquantizelinear einsum_batch_diagonal einsum_inner_prod einsum_sum elu expand_dim_changed
eyelike_with_dtype flatten_negative_axis4 gather_elements_1 gather_negative_indices gathernd_example_int32 gelu_tanh_1
gemm_all_attributes globalaveragepool gridsample_bicubic group_normalization_example gru_with_initial_bias
hardmax_axis_1 hardsigmoid identity_sequence if instancenorm_example isinf_negative l2normalization_axis_1
layer_normalization_2d_axis0 leakyrelu logsoftmax_axis_0 loop11 lppool_2d_dilations lrn lstm_with_peepholes
matmul_bcast matmulinteger max_int16 maxpool_with_argmax_2d_precomputed_pads maxunpool_export_without_output_shape
mean_example mish mod_mixed_sign_float32 nllloss_NCd1d2 nonmaxsuppression_two_classes onehot_with_axis
optional_has_element_tensor_input pow_types_int32_float32 prelu_broadcast qlinearconv qlinearmatmul_2D_uint8_float32
quantizelinear_axis range_float_type_positive_delta reduce_l2_keep_dims_random
reduce_log_sum_exp_default_axes_keepdims_example reduce_max_empty_set reduce_sum_empty_axes_input_noop_example
reflect_pad reshape_negative_dim resize_downsample_scales_linear_antialias resize_tf_crop_and_resize
resize_upsample_scales_cubic_align_corners reversesequence_time rms_normalization_2d_axis0 rnn_seq_length
roialign_aligned_true scan9_sum scatter_elements_with_reduction_max scatternd_add sce_NCd1d2d3d4d5_mean_weight
selu_example sequence_insert_at_front shape_clip_end shrink_hard simple_rnn_with_initial_bias slice_negative_axes
softmax_axis_0 spacetodepth split_variable_parts_2d_opset18 squeeze_negative_axes stft_with_window swish
tensorscatter_circular tile_precomputed top_k_smallest training_dropout_zero_ratio transpose_all_permutations_2
tril_neg unique_sorted_with_axis unsqueeze_three_axes upsample_nearest where_example wrap_pad xor_bcast3v1d
"""
"""Of every family of operators a few."""

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return {case.name: case for kind in ("node", "simple") for case in loader.load_model_tests(kind=kind)}


def chosen() -> list[str]:
    return sorted(f"test_{name}" for name in CHOSEN.split())


@pytest.mark.parametrize("group", range(8))
def test_of_the_suite(cases: dict[str, Any], group: int) -> None:
    for name in chosen()[group::8]:
        case = cases[name]
        prepared = backend.FusewireBackend.prepare(case.model, "CPU", target="cpu -num-cores=1")
        for inputs, outputs in case.data_sets:
            Runner.assert_similar_outputs(outputs, list(prepared.run(inputs)), case.rtol, case.atol, name)


def test_left_out_tests_have_reasons_and_exist(cases: dict[str, Any]) -> None:
    names = [f"{name}_cpu" for name in cases]
    for pattern, reason in suite.exclusions():
        assert reason, pattern
        assert any(re.search(pattern, name) for name in names), pattern
    assert not [n for n in chosen() if any(re.search(p, f"{n}_cpu") for p, _ in suite.exclusions())]


def test_a_run_node_call() -> None:
    node = onnx.helper.make_node("Sub", ["x", "y"], ["z"])
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)
    (z,) = backend.run_node(node, [x, y])
    np.testing.assert_array_equal(z, x - y)


def test_devices() -> None:
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA")
    with pytest.raises(fw.FusewireError, match="not on 'CUDA'"):
        backend.prepare(onnx.ModelProto(), "CUDA")


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fusewire.backend", "-k", "^test_(not_2d|relu|bernoulli)_cpu$", "-j", "1", "-v"]
    environment = {**os.environ, "FUSEWIRE_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert "2 passed, 0 failed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
