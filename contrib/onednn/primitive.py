"""Prepared primitives: what oneDNN built from a description, run on NumPy arrays.

    conv = Convolution((1, 3, 224, 224), (16, 3, 3, 3), (1, 16, 224, 224), (1, 1), (0, 0), (1, 1), (1, 1))
    primitive = Primitive(conv)
    primitive.set_weights(weights)
    primitive.execute(src, dst)

An argument whose layout is the one that oneDNN chose is passed on without a copy; others are reordered at each call,
constant weights once.
"""

import ctypes
import math
import weakref
from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import RuntimeInputError
from ...ir.types import numpy_dtype
from ...targets.locks import Lock
from . import ffi
from .describe import Description, Sum, Tensor, require
from .ffi import ALIGNMENT, Api, Array, ExecArg, Handle, aligned_buffer, chosen_layout, memory_object, round_up


class Kernel:
    """What oneDNN compiled for a description; has no memory of its own, so equal descriptions share one."""

    _alive: ClassVar["weakref.WeakValueDictionary[Description, Kernel]"] = weakref.WeakValueDictionary()
    _lock: ClassVar[Lock] = Lock()

    def __init__(self, api: Api, description: Description) -> None:
        self.described = description.primitive_descriptor(api)
        self.primitive = Handle(api, "primitive", "dnnl_primitive_create", self.described)

    @classmethod
    def of(cls, api: Api, description: Description) -> "Kernel":
        """The kernel for a description: one that is in use already, or a new one.

        Raises:
            OneDNNError: see `Description.primitive_descriptor`.

        """
        with cls._lock:
            found = cls._alive.get(description)
            if found is None:
                found = cls._alive[description] = cls(api, description)
        return found


class Step:
    """One primitive with its arguments bound, and its scratchpad memory if it needs one."""

    def __init__(
        self, api: Api, described: Handle, memories: Mapping[int, Handle], primitive: Handle | None = None
    ) -> None:
        self._api = api
        self.implementation = ffi.implementation_name(api, described)
        self._primitive = primitive or Handle(api, "primitive", "dnnl_primitive_create", described)
        scratchpad = chosen_layout(api, described, ffi.SCRATCHPAD)
        self.scratch_size = int(api.dll.dnnl_memory_desc_get_size(scratchpad))
        self.scratch = memory_object(api, scratchpad)
        self._memories = {**memories, ffi.SCRATCHPAD: self.scratch}  # keeps alive what the array points to
        arguments = [ExecArg(arg, memory._as_parameter_) for arg, memory in self._memories.items()]
        self._arguments = (ExecArg * len(arguments))(*arguments)

    def run(self, stream: Handle) -> None:
        """Put the primitive on the stream; raises OneDNNError if it fails."""
        self._api.dll.dnnl_primitive_execute(self._primitive, stream, len(self._arguments), self._arguments)


class Port:
    """A tensor at the border: the caller's memory, the primitive's, and the reorders between them where they differ."""

    def __init__(self, api: Api, tensor: Tensor, described: Handle, *, load: bool, store: bool) -> None:
        self._api, self.tensor = api, tensor
        plain, chosen = tensor.plain(api), chosen_layout(api, described, tensor.arg)
        self.same = bool(api.dll.dnnl_memory_desc_equal(plain, chosen))
        self.size = 0 if self.same else int(api.dll.dnnl_memory_desc_get_size(chosen))
        self.outer = memory_object(api, plain)
        self.inner = self.outer if self.same else memory_object(api, chosen)
        self.load = self._reorder(plain, chosen, self.outer, self.inner) if load and not self.same else None
        self.store = self._reorder(chosen, plain, self.inner, self.outer) if store and not self.same else None

    def _reorder(self, source: Handle, target: Handle, source_memory: Handle, target_memory: Handle) -> Step:
        api = self._api
        arguments = (source, api.engine, target, api.engine, ffi.scratchpad_attributes(api))
        described = Handle(api, "primitive_desc", "dnnl_reorder_primitive_desc_create", *arguments)
        return Step(api, described, {ffi.SRC: source_memory, ffi.DST: target_memory})


class Primitive:
    """A prepared convolution or matrix product; owns its oneDNN objects, constant weights and, unless given, workspace.

    Safe to use from several Python threads: calls on one Primitive take turns (a lock), calls on different ones run
    side by side, since ctypes releases the interpreter lock. The OpenMP thread count is the same while preparing and
    running (oneDNN sizes its scratch memory by it); the calling thread's own setting is restored after each call.

    Attributes:
        description: what was prepared.
        kernel: what oneDNN compiled for it, shared with other primitives of the same description.
        implementation: oneDNN's name of it, such as "brgconv:avx512_core".
        reorders: implementation of each reorder at the border, by "src", "weights", "dst", "operand of post-op j".
        num_threads: the OpenMP thread count in use; None if this oneDNN has another threading runtime.
        workspace_size: bytes needed while running: oneDNN's scratchpad, and reordered copies of inputs and output.

    """

    def __init__(self, description: Description) -> None:
        self.description, self._fixed = description, description.constants
        self._api = api = ffi.load()
        self._lock = Lock()
        self._workspace: Array | None = None
        self._constants: dict[str, Array] = {}
        with api.threads(description.num_threads) as self.num_threads:
            self._stream = Handle(api, "stream", "dnnl_stream_create", api.engine, ffi.IN_ORDER)
            self.kernel = Kernel.of(api, description)
            described = self.kernel.described
            self._operand_names = [tensor.name for tensor in description.operands()]
            self._ports = self._make_ports(described)
            memories = {port.tensor.arg: port.inner for port in self._ports.values()}
            self._main = Step(api, described, memories, self.kernel.primitive)
        self._variable = [name for name in self._ports if not self._is_constant(name)]
        self.implementation = self._main.implementation
        reorders = {name: port.load or port.store for name, port in self._ports.items()}
        self.reorders = MappingProxyType({name: step.implementation for name, step in reorders.items() if step})
        self._steps = [self._main, *(s for port in self._ports.values() for s in (port.load, port.store) if s)]
        loads = [self._ports[name].load for name in self._variable]
        self._order = [step for step in (*loads, self._main, self._ports["dst"].store) if step]
        self._bound: Sequence[Array] = ()
        self._slots, self.workspace_size = self._plan()

    def _make_ports(self, described: Handle) -> dict[str, Port]:
        description = self.description
        tensors = description.tensors() | {tensor.name: tensor for tensor in description.operands()}
        summed = any(isinstance(op, Sum) for op in description.post_ops)
        return {
            name: Port(self._api, tensor, described, load=name != "dst" or summed, store=name == "dst")
            for name, tensor in tensors.items()
        }

    def _plan(self) -> tuple[list[tuple[Handle, int]], int]:
        """Place the scratchpads (they take turns) at 0, reordered copies behind; return the offsets and the size."""
        slots = [(step.scratch, 0) for step in self._steps]
        size = round_up(max(step.scratch_size for step in self._steps))
        for name, port in self._ports.items():
            if not port.same and not self._is_constant(name):
                slots.append((port.inner, size))
                size += round_up(port.size)
        return slots, size

    def _is_constant(self, name: str) -> bool:
        return name in self._fixed

    def set_workspace(self, buffer: NDArray[np.uint8]) -> None:
        """Use `buffer` instead of own memory: uint8, 1-D, writeable, 64-byte aligned, at least `workspace_size` long.

        Primitives that share a buffer must not run at the same time.

        Raises:
            RuntimeInputError: the buffer does not fit.

        """
        fits = buffer.dtype == np.uint8 and buffer.ndim == 1 and buffer.flags.c_contiguous and buffer.flags.writeable
        if not fits or buffer.size < self.workspace_size or buffer.ctypes.data % ALIGNMENT:
            expected = f"a writeable uint8 vector of {self.workspace_size} bytes or more at a multiple of {ALIGNMENT}"
            raise RuntimeInputError(f"workspace: expected {expected}, got {buffer.dtype} {buffer.shape}")
        with self._lock:
            self._bind_workspace(buffer)

    def _bind_workspace(self, buffer: Array) -> None:
        for memory, offset in self._slots:
            self._api.dll.dnnl_memory_set_data_handle(memory, buffer.ctypes.data + offset)
        self._workspace = buffer

    def _own_workspace(self) -> None:
        if self._workspace is None:
            self._bind_workspace(aligned_buffer(self.workspace_size))

    def set_weights(self, weights: Array | c_void_p, bias: Array | c_void_p | None = None) -> None:
        """Copy constant weights (and bias) into the layout the primitive works in; may be called again to change them.

        Raises:
            RuntimeInputError: wrong shape or dtype, bias missing or unexpected, or weights that are not constant.

        """
        if not self.description.constant_weights:
            raise RuntimeInputError("set_weights: the description says constant_weights=False, give them to execute")
        values = self._match({"weights": weights, "bias": bias}, ["weights", "bias"])
        with self._lock, self._api.threads(self.num_threads):
            self._own_workspace()
            for port, address in values:
                self._store_constant(port, address)

    def _store_constant(self, port: Port, address: c_void_p) -> None:
        tensor, set_handle = port.tensor, self._api.dll.dnnl_memory_set_data_handle
        if port.load is None:
            size = math.prod(tensor.stored) * numpy_dtype(tensor.dtype).itemsize
            copy = self._constants.setdefault(tensor.name, aligned_buffer(size))
            ctypes.memmove(copy.ctypes.data, address, size)
            set_handle(port.outer, copy.ctypes.data)
            return
        copy = self._constants.setdefault(tensor.name, aligned_buffer(port.size))
        set_handle(port.outer, address)
        set_handle(port.inner, copy.ctypes.data)
        port.load.run(self._stream)
        self._api.dll.dnnl_stream_wait(self._stream)

    def execute(
        self,
        src: Array | c_void_p,
        dst: Array | c_void_p,
        weights: Array | c_void_p | None = None,
        bias: Array | c_void_p | None = None,
        operands: Sequence[Array | c_void_p] = (),
    ) -> None:
        """Compute into `dst`.

        Arrays are C-contiguous, of the description's dtype and stored shapes; a `c_void_p` is trusted to point at such
        memory. `weights` and `bias` are given exactly when the description says constant_weights=False; `operands`
        holds one array for each `Binary` post-op (stored like dst: per-channel in NHWC is (1, 1, 1, C)).

        Raises:
            RuntimeInputError: an array is missing, unexpected, of the wrong shape or dtype, or overlaps dst.
            OneDNNError: oneDNN failed while running.

        """
        names = self._operand_names
        require(len(operands) == len(names), f"operands: expected {len(names)}, got {len(operands)}")
        named = dict(zip(names, operands, strict=True))
        self.execute_on({"src": src, "dst": dst, "weights": weights, "bias": bias, **named})

    def execute_on(self, given: Mapping[str, Array | c_void_p | None], arrays: Sequence[Array] = ()) -> None:
        """`execute`, with every tensor by its name in `description.tensors()` or of `description.operands()`.

        Args:
            given: the tensors.
            arrays: the arrays that these are views of, for `execute_again`.

        """
        dst = given["dst"]
        values = self._match(given, self._variable)
        for name, array in given.items():
            if name != "dst" and isinstance(array, np.ndarray) and isinstance(dst, np.ndarray):
                require(not np.may_share_memory(array, dst), f"{name}: overlaps dst, expected separate memory")
        with self._lock, self._api.threads(self.num_threads):
            require(len(self._constants) == len(self._fixed), "weights: call set_weights before execute")
            self._own_workspace()
            for port, address in values:
                self._api.dll.dnnl_memory_set_data_handle(port.outer, address)
            self._bound = arrays
            self._run()

    def execute_again(self, arrays: Sequence[Array]) -> bool:
        """Run once more if the last `execute_on` was given the very same `arrays`, which need no checks then.

        Returns:
            Whether that was so; if not, nothing was done.

        """
        with self._lock:
            bound = self._bound
            if len(bound) != len(arrays) or any(a is not b for a, b in zip(arrays, bound, strict=True)) or not bound:
                return False
            with self._api.threads(self.num_threads):
                self._run()
        return True

    def _match(self, given: Mapping[str, Any], wanted: Sequence[str]) -> list[tuple[Port, c_void_p]]:
        """Pair each wanted tensor's port with the address of what was given for it."""
        for name, array in given.items():
            expected = name in wanted and name in self._ports
            require(array is None or expected, f"{name}: unexpected, the description has none that is given here")
            require(array is not None or not expected, f"{name}: missing, expected shape {self.stored(name)}")
        ports = [(name, self._ports[name]) for name in wanted if name in self._ports]
        return [(port, port.tensor.address(given[name], written=name == "dst")) for name, port in ports]

    def stored(self, name: str) -> tuple[int, ...]:
        """Return the shape in which the caller gives a tensor, () if the description has no such tensor."""
        return self._ports[name].tensor.stored if name in self._ports else ()

    def _run(self) -> None:
        for step in self._order:
            step.run(self._stream)
        self._api.dll.dnnl_stream_wait(self._stream)
