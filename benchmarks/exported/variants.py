"""Other forms in which networks come: half precision, external data, weights as inputs, quantised, with more behind.

`VARIANTS` has them by name: functions of the example and the path of its exported file, which they rewrite; only
`half` changes the network before it is exported.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static  # type: ignore[import-untyped]

from .model import Example

Array = npt.NDArray[Any]


def half(example: Example) -> Example:
    """The network in float16."""
    inputs = tuple(x.half() if x.is_floating_point() else x for x in example.inputs)
    return example._replace(module=example.module.half(), inputs=inputs)


def external(example: Example, path: Path) -> None:
    """All but small tensors in a file beside the model."""
    model = onnx.load(path)
    data = path.with_suffix(".data")
    data.unlink(missing_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)


def weights_as_inputs(example: Example, path: Path) -> None:
    """Every initialiser listed as an input as well, as files of IR version 3 have to."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, path)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Two batches in which a quantiser sees the ranges of values: the example, and one with its pixels mixed."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next inputs by name."""
        return next(self.feeds, None)


def _without_shapes(path: Path) -> Path:
    """A copy without the shapes of inner values: the quantiser turns matrices over and forgets to turn their shapes."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    copy = path.with_suffix(".float.onnx")
    onnx.save(model, copy)
    return copy


def _quantised(
    example: Example, path: Path, form: QuantFormat, weights: QuantType = QuantType.QInt8, by_channel: bool = True
) -> None:
    plain = _without_shapes(path)
    arrays = dict(zip(example.names, (x.numpy() for x in example.inputs), strict=True))
    mixed = {name: np.random.default_rng(0).permuted(array, axis=-1) for name, array in arrays.items()}
    quantize_static(
        plain, path, _Calibration([arrays, mixed]), quant_format=form, per_channel=by_channel,
        activation_type=QuantType.QUInt8, weight_type=weights,
    )  # fmt: skip
    plain.unlink()


def qdq(example: Example, path: Path) -> None:
    """QuantizeLinear and DequantizeLinear around every operator; weights in int8, with a scale for each channel."""
    _quantised(example, path, QuantFormat.QDQ)


def qoperator(example: Example, path: Path) -> None:
    """QLinearConv and its relatives; weights in uint8, with one scale."""
    _quantised(example, path, QuantFormat.QOperator, QuantType.QUInt8, False)


def dynamic(example: Example, path: Path) -> None:
    """Weights in uint8; the scales of activations are computed at run time (DynamicQuantizeLinear, ConvInteger)."""
    plain = _without_shapes(path)
    quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    plain.unlink()


def suppressed(example: Example, path: Path) -> None:
    """For the detector: NonMaxSuppression behind it, so that the number of rows depends on the image."""
    model = onnx.load(path)
    (found,) = model.graph.output
    classes = found.type.tensor_type.shape.dim[1].dim_value - 4
    numbers: dict[str, Array] = {
        "nms_split": np.array([4, classes], np.int64), "nms_most": np.array(20, np.int64),
        "nms_overlap": np.array(0.5, np.float32), "nms_least": np.array(0.6, np.float32),
    }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in numbers.items())
    model.graph.node.extend([
        helper.make_node("Split", [found.name, "nms_split"], ["nms_places", "nms_scores"], axis=1),
        helper.make_node("Transpose", ["nms_places"], ["nms_boxes"], perm=[0, 2, 1]),
        helper.make_node(
            "NonMaxSuppression", ["nms_boxes", "nms_scores", "nms_most", "nms_overlap", "nms_least"], ["kept"],
            center_point_box=1,
        ),
    ])  # fmt: skip
    model.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, ["kept_boxes", 3]))
    onnx.save(model, path)


VARIANTS: Mapping[str, Callable[[Example, Path], None]] = {
    function.__name__: function for function in (external, weights_as_inputs, qdq, qoperator, dynamic, suppressed)
}
"""How to rewrite an exported file, by name."""
