"""Convolutions of cuDNN in float16 and bfloat16, with what follows fused: its graph interface, by its frontend.

A region becomes a graph of cuDNN, with sums and all between the operators in float32. All plans that cuDNN builds for
it are timed on memory of their own when a module is made; the fastest runs. They are logged, fastest first.
"""

import importlib
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import frozen

from ...fuse.chain import Chain, Link, Links
from ...fuse.dataflow_pattern import Match
from ...fuse.library import Executable, Region
from ...fuse.postops import ADD, BIAS, CLIP, GELU, GELU_TANH, LEAKY_RELU, MULTIPLY, RELU, SIGMOID, SWISH, TANH
from ...ir.errors import DeviceError, LibraryCallError, LibraryNotFound
from ...ir.expr import Call, Expr
from ...ir.op import Attrs
from ...ir.types import TensorType
from ..calls import anchor_call, position, shown, tensors, why_not_plain
from ..layers import addend
from ..vendor import log_search
from .ffi import CUDNN

_log = logging.getLogger("fusewire")

INSTALL = "pip install 'fusewire[cudnn]'"
CHAIN = Chain(
    "nn.conv2d",
    [[MULTIPLY], [ADD, BIAS], [ADD], [RELU, CLIP, LEAKY_RELU, GELU, GELU_TANH, SWISH, SIGMOID, TANH]],
)
"""y = f(conv(x) * scale + bias + z), each part of which may be missing."""

DTYPES = MappingProxyType({"float16": "HALF", "bfloat16": "BFLOAT16"})
LAYOUTS = MappingProxyType({("NCHW", "OIHW"): False, ("NHWC", "OHWI"): True})
"""Of data and weights; whether channels come last. Not every device has plans for the first."""

REPEAT = 5
"""How often a plan is timed; the least time counts."""

_ACTIVATIONS: Mapping[str, Callable[[Any, Any, Attrs], Any]] = MappingProxyType({
    "relu": lambda g, x, a: g.relu(input=x),
    "clip": lambda g, x, a: g.relu(input=x, lower_clip=float(a.a_min), upper_clip=float(a.a_max)),
    "leaky_relu": lambda g, x, a: g.leaky_relu(input=x, negative_slope=float(a.alpha)),
    "gelu": lambda g, x, a: g.gelu(input=x),
    "gelu_tanh": lambda g, x, a: g.gelu_approx_tanh(input=x),
    "swish": lambda g, x, a: g.swish(input=x),
    "sigmoid": lambda g, x, a: g.sigmoid(input=x),
    "tanh": lambda g, x, a: g.tanh(input=x),
})  # fmt: skip


def frontend() -> Any:
    """The package cudnn, which finds the library that is loaded already.

    Raises:
        LibraryNotFound: it is not installed, or cuDNN is not.

    """
    CUDNN.load()
    try:
        return importlib.import_module("cudnn")
    except (ImportError, RuntimeError) as error:
        raise LibraryNotFound(f"cuDNN in 16 bits needs its Python frontend ({error}): {INSTALL}") from None


def why_not(match: Match) -> str | None:
    """Why cuDNN's graphs cannot take a convolution with what follows, or None."""
    links = CHAIN.links(match)
    call = anchor_call(links.anchor)
    a = call.attrs
    if reason := why_not_plain(call, tuple(DTYPES)):
        return reason
    layouts = a.data_layout, a.kernel_layout
    if layouts not in LAYOUTS or (a.out_layout or a.data_layout) != a.data_layout:
        return f"layouts are {', '.join(layouts)} (data, kernel), expected NCHW, OIHW or NHWC, OHWI"
    for link in links.steps:
        if link.result.checked_type != link.value.checked_type:
            return f"{link.post_op.name} makes a {link.result.checked_type}, expected {link.value.checked_type}"
        if link.operand is None:
            continue
        kind = addend(link, _channels(call))
        if kind is None or (kind == "residual" and link.post_op is MULTIPLY):
            return f"the operand of {link.post_op.name} is neither a vector of the channels nor a sum's second tensor"
    return None


def _channels(call: Call) -> int:
    return 3 if LAYOUTS[call.attrs.data_layout, call.attrs.kernel_layout] else 1


def geometry(shape: Sequence[int], last: bool) -> tuple[list[int], list[int]]:
    """Sizes and strides as cuDNN wants them, channels second, of a tensor whose channels lie second or last."""
    n, *rest = shape
    sizes = [n, rest[-1], *rest[:-1]] if last else list(shape)
    _, c, h, w = sizes
    return sizes, [c * h * w, 1, w * c, c] if last else [c * h * w, h * w, w, 1]


@frozen(eq=False)
class _Graph:
    """A built graph: its tensors by the position of the region's input, and the result."""

    graph: Any
    inputs: dict[int, Any]
    result: Any


class _Writer:
    """Writes a region as a graph of cuDNN."""

    def __init__(self, cudnn: Any, region: Region, links: Links, handle: Any) -> None:
        self.region, self.links, self.call = region, links, anchor_call(links.anchor)
        kinds = cudnn.data_type
        self.kind = getattr(kinds, DTYPES[tensors(self.call)[0].dtype])
        self.graph = cudnn.pygraph(
            io_data_type=self.kind, intermediate_data_type=kinds.FLOAT, compute_data_type=kinds.FLOAT, handle=handle
        )
        self.last = _channels(self.call) == 3
        self.inputs: dict[int, Any] = {}

    def tensor(self, value: Expr, vector: bool = False) -> Any:
        """An input of the region; a vector is one of the channels."""
        place = position(self.region, value)
        if place not in self.inputs:
            type_ = value.checked_type
            assert isinstance(type_, TensorType)
            count = type_.nbytes // 2
            dim, stride = ([1, count, 1, 1], [count, 1, 1, 1]) if vector else geometry(type_.static_shape, self.last)
            self.inputs[place] = self.graph.tensor(name=f"p{place}", dim=dim, stride=stride, data_type=self.kind)
        return self.inputs[place]

    def step(self, value: Any, link: Link) -> Any:
        """A step behind the convolution."""
        name = link.post_op.name
        if link.operand is None:
            return _ACTIVATIONS[name](self.graph, value, link.call.attrs)
        if addend(link, _channels(self.call)) == "residual":
            return self.graph.add(a=value, b=self.tensor(link.operand))
        operand = self.tensor(link.operand, vector=True)
        return self.graph.scale(input=value, scale=operand) if name == "multiply" else self.graph.bias(
            input=value, bias=operand)  # fmt: skip

    def written(self) -> _Graph:
        """The graph."""
        a, (data, weight) = self.call.attrs, self.call.args
        value = self.graph.conv_fprop(
            image=self.tensor(data), weight=self.tensor(weight), pre_padding=list(a.padding[:2]),
            post_padding=list(a.padding[2:]), stride=list(a.strides), dilation=list(a.dilation),
        )  # fmt: skip
        for link in self.links.steps:
            value = self.step(value, link)
        dim, stride = geometry(tensors(self.call)[-1].static_shape, self.last)
        value.set_output(True).set_data_type(self.kind).set_dim(dim).set_stride(stride)
        return _Graph(self.graph, self.inputs, value)


@frozen
class Plan:
    """A plan that runs: its number, seconds, bytes of workspace, and name."""

    index: int
    seconds: float
    nbytes: int
    name: str


def implement(region: Region) -> Executable:
    """Build all plans, time them, and keep the fastest.

    Raises:
        LibraryNotFound: the frontend is not installed.
        LibraryCallError: cuDNN has no plan for the region on this device.

    """
    cudnn, links, queue = frontend(), CHAIN.links(region.function), region.queue
    what = " + ".join([shown(anchor_call(links.anchor)), *(link.post_op.name for link in links.steps)])
    with queue.using("building plans of cuDNN") as stream:
        handle = queue.kept("cudnn frontend", lambda: _handle(cudnn, queue))
        cudnn.set_stream(handle=handle, stream=stream)
        made = _Writer(cudnn, region, links, handle).written()
        graph, modes = made.graph, cudnn.heur_mode
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
            graph.check_support()
            graph.build_plans(cudnn.build_plan_policy.ALL)
        except _errors(cudnn) as error:
            raise LibraryCallError(f"cuDNN has no plan for {what}: {error}") from error
        plans = _timed(cudnn, queue, region, made, handle)
    if not plans:
        raise LibraryCallError(f"none of cuDNN's plans for {what} runs")
    told = [(plan.name, plan.seconds * 1e3, plan.nbytes) for plan in plans]
    log_search(CUDNN.title, "plans", what, told, plans[0].name)
    queue.reserve(plans[0].nbytes)
    return _run(cudnn, queue, made, handle, plans[0].index)


def _handle(cudnn: Any, queue: Any) -> Any:
    """A handle that ends with the module; not with the process, when the device may be gone."""
    made = cudnn.create_handle()
    weakref.finalize(queue, cudnn.destroy_handle, made).atexit = False
    return made


def _errors(cudnn: Any) -> tuple[type[Exception], ...]:
    """What the frontend raises; its own error is neither of the others."""
    return cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError


def _timed(cudnn: Any, queue: Any, region: Region, made: _Graph, handle: Any) -> list[Plan]:
    """The plans that run, fastest first."""
    types = [param.checked_type for param in region.function.params]
    device, found = queue.device, list[Plan]()
    # A plan may not be built, not run here, or want too much memory.
    refusals: tuple[type[Exception], ...] = (*_errors(cudnn), DeviceError)
    blocks = {made.inputs[k]: device.allocate(t.nbytes, "timing plans") for k, t in enumerate(types) if k in made.inputs
              and isinstance(t, TensorType)}  # fmt: skip
    result = region.function.body.checked_type
    assert isinstance(result, TensorType)
    blocks[made.result] = device.allocate(result.nbytes, "timing plans")
    pack = {tensor: block.address for tensor, block in blocks.items()}
    for index in range(made.graph.get_execution_plan_count()):
        try:
            nbytes = made.graph.get_workspace_size_plan_at_index(index)
            scratch = device.allocate(nbytes, "timing plans")

            def once(index: int = index, scratch: Any = scratch) -> None:
                made.graph.execute_plan_at_index(pack, scratch.address, index, handle)

            once()
            seconds = min(device.seconds_of(once, REPEAT))
        except refusals as error:
            _log.debug("plan %d of cuDNN does not run: %s", index, error)
            continue
        found.append(Plan(index, seconds, nbytes, str(made.graph.get_plan_name_at_index(index))))
    device.wait()  # before the memory goes
    return sorted(found, key=lambda plan: plan.seconds)


def _run(cudnn: Any, queue: Any, made: _Graph, handle: Any, index: int) -> Executable:
    def run(inputs: Sequence[int], outputs: Sequence[int]) -> None:
        pack = {tensor: inputs[place] for place, tensor in made.inputs.items()}
        pack[made.result] = outputs[0]
        with queue.using("calling cuDNN") as stream:
            cudnn.set_stream(handle=handle, stream=stream)
            made.graph.execute_plan_at_index(pack, queue.scratch, index, handle)

    return run
