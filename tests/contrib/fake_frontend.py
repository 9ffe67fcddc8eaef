"""Stands in for cuDNN's Python frontend: writes graphs down and checks them; the fastest plan computes on the host."""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusewire.ir.types import numpy_dtype

PLANS = {"slow": 3.0, "broken": 0.0, "fast": 1.0, "middle": 2.0}
"""Plans by their name, with their times; one does not run."""


class NotSupported(Exception):
    """cudnnGraphNotSupportedError."""


class Tensor:
    def __init__(self, dim: Any = None, stride: Any = None, kind: Any = None, make: Any = None) -> None:
        self.dim, self.stride, self.kind, self.make, self.output = dim, stride, kind, make, False

    def set_output(self, value: bool) -> "Tensor":
        self.output = value
        return self

    def set_data_type(self, kind: Any) -> "Tensor":
        self.kind = kind
        return self

    def set_dim(self, dim: list[int]) -> "Tensor":
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> "Tensor":
        self.stride = stride
        return self

    def seen(self, address: int) -> Any:
        """The memory as an array, channels second."""
        dtype = numpy_dtype(self.kind)
        count = 1 + sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
        strides = [s * dtype.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(np.frombuffer(raw, dtype), self.dim, strides)


class Graph:
    def __init__(self, fake: "Frontend", **given: Any) -> None:
        assert given.pop("handle") == "handle" and given["intermediate_data_type"] == "float32"
        assert given["compute_data_type"] == "float32" and len(given) == 3
        self.fake, self.outputs, self.steps = fake, list[Tensor](), list[str]()

    def tensor(self, name: str, dim: Any, stride: Any, data_type: Any) -> Tensor:
        assert len(dim) == len(stride) == 4
        return Tensor(dim, stride, data_type)

    def _step(self, name: str, inputs: list[Tensor], function: Any) -> Tensor:
        self.steps.append(name)
        self.outputs.append(Tensor(make=lambda known: function(*(_value(t, known) for t in inputs))))
        return self.outputs[-1]

    def conv_fprop(self, image: Any, weight: Any, pre_padding: Any, post_padding: Any, stride: Any,
                   dilation: Any) -> Tensor:  # fmt: skip
        groups = image.dim[1] // weight.dim[1]
        pads = [(0, 0), (0, 0), *zip(pre_padding, post_padding, strict=True)]
        return self._step("conv", [image, weight], lambda x, w: _conv(np.pad(x, pads), w, stride, dilation, groups))

    def scale(self, input: Any, scale: Any) -> Tensor:
        return self._step("scale", [input, scale], lambda x, s: x * s)

    def bias(self, input: Any, bias: Any) -> Tensor:
        return self._step("bias", [input, bias], lambda x, b: x + b)

    def add(self, a: Any, b: Any) -> Tensor:
        return self._step("add", [a, b], lambda x, y: x + y)

    def relu(self, input: Any, lower_clip: Any = 0.0, upper_clip: Any = None) -> Tensor:
        return self._step("relu", [input], lambda x: np.clip(x, lower_clip, upper_clip))

    def tanh(self, input: Any) -> Tensor:
        return self._step("tanh", [input], np.tanh)

    def validate(self) -> None:
        (self.result,) = (t for t in self.outputs if t.output)
        assert self.result is self.outputs[-1] and len(self.result.dim) == 4
        self.fake.graphs.append(self)

    def build_operation_graph(self) -> None: ...

    def create_execution_plans(self, modes: list[str]) -> None:
        assert modes == ["A", "B", "FALLBACK"]

    def check_support(self) -> None:
        if self.fake.unsupported:
            raise NotSupported("no engine")

    def build_plans(self, policy: str) -> None:
        assert policy == "ALL"

    def get_execution_plan_count(self) -> int:
        return len(self.fake.plans)

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return 100 * index

    def get_plan_name_at_index(self, index: int) -> str:
        return list(self.fake.plans)[index]

    def execute_plan_at_index(self, pack: Any, workspace: int, index: int, handle: Any) -> None:
        name = list(self.fake.plans)[index]
        assert handle == "handle" and (workspace or not index)
        if name == "broken":
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        self.fake.ran.append((name, self.fake.stream))
        known = {id(t): t.seen(address).astype(np.float64) for t, address in pack.items() if t is not self.result}
        seen = self.result.seen(pack[self.result])
        seen[...] = _value(self.result, known).astype(seen.dtype)


def _value(tensor: Tensor, known: dict[int, Any]) -> Any:
    if id(tensor) not in known:
        known[id(tensor)] = tensor.make(known)
    return known[id(tensor)]


def _conv(x: Any, w: Any, strides: Any, dilation: Any, groups: int) -> Any:
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))
    view = view[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]
    parts = [np.einsum("nchwab,ocab->nohw", v, k)
             for v, k in zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)]  # fmt: skip
    return np.concatenate(parts, 1)


class Frontend:
    """The module cudnn."""

    cudnnGraphNotSupportedError = NotSupported
    data_type = SimpleNamespace(HALF="float16", BFLOAT16="bfloat16", FLOAT="float32")
    heur_mode = SimpleNamespace(A="A", B="B", FALLBACK="FALLBACK")
    build_plan_policy = SimpleNamespace(ALL="ALL")

    def __init__(self) -> None:
        self.graphs, self.ran, self.stream, self.unsupported = list[Graph](), list[Any](), -1, False
        self.plans, self.ended = dict(PLANS), 0

    def create_handle(self) -> str:
        return "handle"

    def destroy_handle(self, handle: str) -> None:
        self.ended += 1

    def set_stream(self, handle: str, stream: int) -> None:
        assert handle == "handle"
        self.stream = stream

    def pygraph(self, **given: Any) -> Graph:
        return Graph(self, **given)

    def seconds(self, action: Any, repeat: int) -> list[float]:
        """What the device's clock says of the plan that ran last."""
        action()
        return [self.plans[self.ran[-1][0]] * 1e-3] * repeat
