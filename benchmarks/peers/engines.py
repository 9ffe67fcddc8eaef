"""The engines: each loads an ONNX file and gives a function that runs it once and returns the first output.

All compute in float32 on the processor, with so many threads. Importing an engine happens in the process that runs it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Run = Callable[[], Array]


def inputs_of(path: Path) -> dict[str, Array]:
    """Random values for the inputs of a model, always the same; whole numbers are small (tokens, masks)."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    stored = {w.name for w in graph.initializer}
    rng, values = np.random.default_rng(7), {}
    for info in graph.input:
        if info.name in stored:
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        values[info.name] = drawn.astype(dtype)
    return values


class Fusewire:
    """This project. Calling it runs the model."""

    def __init__(self, path: Path, threads: int, target: str) -> None:
        import fusewire as fw

        mod, params = fw.frontend.from_onnx(path)
        lib = fw.build(mod, f"{target} -num-cores={threads}" if target.startswith("cpu") else target, params)
        self.module = fw.GraphModule(lib["default"](fw.device(target.split()[0], 0)))
        for name, value in inputs_of(path).items():
            self.module.set_input(name, value)

    def __call__(self) -> Array:
        """Run once. The result is looked at where it lies; ONNX Runtime and OpenVINO do not copy theirs either."""
        self.module.run()
        return np.from_dlpack(self.module.get_output(0))

    def profile(self) -> dict[str, Any]:
        """Each step, and how near it comes to the machine's peak."""
        return self.module.profile().to_dict()


def onnxruntime_session(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime(path: Path, threads: int, target: str) -> Run:
    """ONNX Runtime's CPU provider."""
    session = onnxruntime_session(path, threads)
    feed = inputs_of(path)
    return lambda: np.asarray(session.run(None, feed)[0])


def openvino(path: Path, threads: int, target: str) -> Run:
    """OpenVINO's CPU plug-in, tuned for latency."""
    import openvino as ov

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(str(path), "CPU", config).create_infer_request()
    feed = inputs_of(path)

    def run() -> Array:
        request.infer(feed)
        return np.asarray(request.get_output_tensor(0).data)

    return run


def mnn(path: Path, threads: int, target: str) -> Run:
    """MNN, with the file converted by its own tool."""
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.mnn"
        tool = Path(sys.executable).with_name("mnnconvert")
        command = [str(tool), "-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted), "--bizCode", "x"]
        subprocess.run(command, check=True, capture_output=True)
        net = MNN.Interpreter(str(converted))
        session = net.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    for name, value in inputs_of(path).items():
        kind = MNN.Halide_Type_Float if value.dtype.kind == "f" else MNN.Halide_Type_Int
        value = value.astype(np.float32 if value.dtype.kind == "f" else np.int32)  # it has no wider types
        host = MNN.Tensor(value.shape, kind, value, MNN.Tensor_DimensionType_Caffe)
        net.getSessionInput(session, name).copyFrom(host)
    output = net.getSessionOutput(session)

    def run() -> Array:
        net.runSession(session)
        shape = output.getShape()
        empty = np.zeros(shape, np.float32)
        host = MNN.Tensor(shape, output.getDataType(), empty, MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData())  # a copy: the tensor takes its memory with it

    return run


def tinygrad(path: Path, threads: int, target: str) -> Run:
    """Tinygrad's OpenCL backend, on the platform of the device that `target` means; it takes all cores."""
    from fusewire.targets.opencl.devices import VENDORS, find, intel_runtime
    from fusewire.targets.target import Target

    os.environ["DEV"] = "CL"
    device = find(Target(target).device if target.startswith("opencl") else None)
    if "Intel" in device.platform and (library := intel_runtime()):
        os.environ[VENDORS] = str(library)
    from tinygrad import Tensor, TinyJit  # type: ignore[import-not-found]
    from tinygrad.nn.onnx import OnnxRunner  # type: ignore[import-not-found]

    model = OnnxRunner(str(path))
    feed = {name: Tensor(value).realize() for name, value in inputs_of(path).items()}
    run = TinyJit(lambda: next(iter(model(feed).values())).realize())
    return lambda: np.asarray(run().numpy())


OPENCL_ONLY = ("tinygrad",)
"""Engines that run on an OpenCL device, to be compared with fusewire there."""

ENGINES: Mapping[str, Callable[[Path, int, str], Run]] = {
    "fusewire": Fusewire,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "mnn": mnn,
    "tinygrad": tinygrad,
}
