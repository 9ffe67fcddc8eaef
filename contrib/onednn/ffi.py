"""oneDNN 3.x through its C API: finding and loading the shared library, typed functions, owned objects, errors.

Enum values and signatures are those of the public headers `dnnl_types.h` and `dnnl.h` of version 3. Nothing is loaded
when this file is imported. Every function that returns a status is declared so that a failure raises `OneDNNError`.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import importlib.metadata
import os
import weakref
from collections.abc import Iterator, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint, c_void_p
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import FusewireError, LibraryNotFound
from ..vendor import why_missing

Array: TypeAlias = NDArray[Any]

DTYPES = MappingProxyType({"float32": 3, "bfloat16": 2, "float16": 1})
"""Element types of a description and oneDNN's number for each; bfloat16 arrays have the dtype of ml_dtypes."""

ELTWISE = MappingProxyType(
    {"relu": 32, "tanh": 33, "elu": 34, "square": 35, "abs": 36, "sqrt": 37, "linear": 38, "soft_relu": 39}
    | {"hardsigmoid": 40, "logistic": 41, "exp": 42, "gelu_tanh": 43, "swish": 44, "log": 45, "clip": 46}
    | {"gelu_erf": 49, "mish": 51, "hardswish": 52}
)
"""Algorithms of an `Eltwise` post-op."""

BINARY = MappingProxyType({"add": 131056, "mul": 131057, "max": 131058, "min": 131059, "div": 131060, "sub": 131061})
"""Algorithms of a `Binary` post-op."""

POOLING = MappingProxyType({"max": 511, "avg_include_padding": 767, "avg_exclude_padding": 1023})
"""Algorithms of pooling."""

REDUCTION = MappingProxyType({"max": 196594, "min": 196595, "sum": 196596, "prod": 196597, "mean": 196598})
"""Algorithms of reductions."""

SOFTMAX = MappingProxyType({"softmax": 196608, "log_softmax": 196609})
"""Softmax and its logarithm."""

BLOCKED = MappingProxyType({(3, 8): 69, (3, 16): 56, (4, 8): 102, (4, 16): 78, (5, 8): 142, (5, 16): 121})
"""Format tags of data whose channels lie in blocks (nChw16c and the like), by rank and block."""

_STATUS = {
    1: "out of memory",
    2: "invalid arguments",
    3: "not implemented for these shapes, types and layouts on this CPU",
    4: "no implementation left to try",
    5: "failed while running",
    6: "not required by this primitive",
}
_threaded_in: int | None = None  # the process in which OpenMP last had several threads
UNIMPLEMENTED = 3
CPU, TAG_ANY, FORWARD_INFERENCE, DIRECT, TRANSPOSED, SCRATCHPAD_USER, IN_ORDER = 1, 1, 96, 1, 10, 1, 1
QUERY_IMPLEMENTATION, QUERY_ARGUMENT = 8, 255
SRC, DST, WEIGHTS, BIAS, SCRATCHPAD, POST_OP, SRC_1 = 1, 17, 33, 41, 80, 32768, 2  # arguments of a primitive
MEAN, VARIANCE, SCALE, SHIFT = 49, 50, 51, 52
GLOBAL_STATISTICS, USE_SCALE, USE_SHIFT = 1, 2, 4  # flags of normalisations
ALIGNMENT = 64  # bytes: a cache line, and the widest vector

_KINDS = ("engine", "stream", "memory_desc", "memory", "post_ops", "primitive_attr", "primitive_desc", "primitive")
_P = c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {  # these return a status; the first _P of a creator is the result
    **{f"dnnl_{kind}_destroy": (_P,) for kind in _KINDS},
    "dnnl_engine_create": (_P, c_int, c_size_t),
    "dnnl_stream_create": (_P, _P, c_uint),
    "dnnl_stream_wait": (_P,),
    "dnnl_memory_desc_create_with_strides": (_P, c_int, _P, c_int, _P),
    "dnnl_memory_desc_create_with_tag": (_P, c_int, _P, c_int, c_int),
    "dnnl_memory_desc_clone": (_P, _P),
    "dnnl_memory_create": (_P, _P, _P, _P),
    "dnnl_memory_set_data_handle": (_P, _P),
    "dnnl_post_ops_create": (_P,),
    "dnnl_post_ops_append_eltwise": (_P, c_int, c_float, c_float),
    "dnnl_post_ops_append_binary": (_P, c_int, _P),
    "dnnl_post_ops_append_sum": (_P, c_float, c_int32, c_int),
    "dnnl_primitive_attr_create": (_P,),
    "dnnl_primitive_attr_set_post_ops": (_P, _P),
    "dnnl_primitive_attr_set_scratchpad_mode": (_P, c_int),
    "dnnl_convolution_forward_primitive_desc_create": (_P, _P, c_int, c_int, *[_P] * 9),
    "dnnl_deconvolution_forward_primitive_desc_create": (_P, _P, c_int, c_int, *[_P] * 9),
    "dnnl_matmul_primitive_desc_create": (_P,) * 7,
    "dnnl_pooling_forward_primitive_desc_create": (_P, _P, c_int, c_int, *[_P] * 8),
    "dnnl_softmax_forward_primitive_desc_create": (_P, _P, c_int, c_int, _P, _P, c_int, _P),
    "dnnl_layer_normalization_forward_primitive_desc_create": (_P, _P, c_int, _P, _P, _P, c_float, c_uint, _P),
    "dnnl_batch_normalization_forward_primitive_desc_create": (_P, _P, c_int, _P, _P, c_float, c_uint, _P),
    "dnnl_eltwise_forward_primitive_desc_create": (_P, _P, c_int, c_int, _P, _P, c_float, c_float, _P),
    "dnnl_reduction_primitive_desc_create": (_P, _P, c_int, _P, _P, c_float, c_float, _P),
    "dnnl_binary_primitive_desc_create": (_P, _P, c_int, _P, _P, _P, _P),
    "dnnl_reorder_primitive_desc_create": (_P,) * 6,
    "dnnl_primitive_desc_query": (_P, c_int, c_int, _P),
    "dnnl_primitive_create": (_P, _P),
    "dnnl_primitive_execute": (_P, _P, c_int, _P),
}
_VALUES: dict[str, tuple[Any, tuple[Any, ...]]] = {  # these return a value, not a status
    "dnnl_memory_desc_equal": (c_int, (_P, _P)),
    "dnnl_memory_desc_get_size": (c_size_t, (_P,)),
    "dnnl_primitive_desc_query_md": (_P, (_P, c_int, c_int)),
}


class OneDNNError(FusewireError):
    """A description does not make sense, or a call into oneDNN failed.

    The message names the call, the problem (the status in words) and, where known, the description.
    """

    def __init__(self, call: str, problem: str, status: int | None = None, where: object = None) -> None:
        super().__init__(f"oneDNN, {call}: {problem}" + (f", in {where}" if where is not None else ""))
        self.call, self.problem, self.status = call, problem, status


class OneDNNRefused(OneDNNError):
    """oneDNN has no implementation, or only its slow reference one, for a description that is otherwise right."""


class _Version(ctypes.Structure):
    """Mirrors `dnnl_version_t`."""

    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class ExecArg(ctypes.Structure):
    """Mirrors `dnnl_exec_arg_t`: which argument, and its memory object."""

    _fields_ = [("arg", c_int), ("memory", c_void_p)]


def raise_on_failure(status: int, function: Any, _arguments: Any) -> int:
    """Turn a status other than success into an `OneDNNError`; the `errcheck` of every function that returns one."""
    if status:
        raise OneDNNError(function.__name__, f"{_STATUS.get(status, 'unknown status')} (status {status})", status)
    return status


@functools.cache
def _system_library() -> str | None:
    """Return the name of the system's library; looking for it starts processes, so only once."""
    return ctypes.util.find_library("dnnl")


def library_candidates() -> list[str]:
    """Return the paths or names to try, best first: the pip packages' files, then the system's library."""
    found = []
    for package in ("onednn-cpu-gomp", "onednn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            files = importlib.metadata.files(package) or []
            found += [str(file.locate()) for file in files if file.name == "libdnnl.so.3"]
    system = _system_library()
    return found + ([system] if system else [])


@contextlib.contextmanager
def _short_spins() -> Iterator[None]:
    """Make a libgomp that is loaded meanwhile put its idle threads to sleep soon, unless the user chose otherwise.

    By default they spin for milliseconds after each region, on the processors that fusewire's own threads need for the
    next step, which then waits for them. libgomp reads the variable when it is loaded, and only then.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


class Api:
    """The loaded shared library with typed functions, its version, one CPU engine, and its OpenMP thread count."""

    def __init__(self, path: str) -> None:
        with _short_spins():
            self.dll = ctypes.CDLL(path)
        self.dll.dnnl_version.restype = ctypes.POINTER(_Version)
        version = self.dll.dnnl_version().contents
        self.version = f"{version.major}.{version.minor}.{version.patch}"
        if version.major != 3:
            raise OSError(f"{path} is version {self.version}, expected 3.x")
        for name, arguments in _SIGNATURES.items():
            function = getattr(self.dll, name)
            function.argtypes, function.restype, function.errcheck = arguments, c_int, raise_on_failure
        for name, (result, arguments) in _VALUES.items():
            getattr(self.dll, name).argtypes, getattr(self.dll, name).restype = arguments, result
        self.engine = Handle(self, "engine", "dnnl_engine_create", CPU, 0)

    @property
    def has_openmp(self) -> bool:
        """Whether this build runs its threads by OpenMP, so that their number can be chosen."""
        return hasattr(self.dll, "omp_set_num_threads") and hasattr(self.dll, "omp_get_max_threads")

    def _use_threads(self) -> None:
        """Note that OpenMP starts threads; GNU's runtime waits for ever for those that a fork left behind."""
        global _threaded_in
        gnu = not hasattr(self.dll, "kmp_get_blocktime")
        if gnu and _threaded_in not in (None, os.getpid()):
            raise FusewireError(
                "oneDNN cannot run on several threads here: this process was forked off one in which it had done so, "
                "and GNU OpenMP does not survive that. Start the process by spawn instead of fork, fork before the "
                "module is made, or give the target -num-cores=1"
            )
        _threaded_in = os.getpid()

    @contextlib.contextmanager
    def threads(self, count: int | None) -> Iterator[int | None]:
        """Set the calling thread's OpenMP thread count for a while; looking up in `dll` searches the libgomp it loaded.

        Raises:
            OneDNNError: a count is wanted, and this build of oneDNN does not use OpenMP.
            FusewireError: several threads are wanted in a process that was forked off one that had used them.

        """
        if not self.has_openmp:
            if count is not None:
                raise OneDNNError("omp_set_num_threads", f"oneDNN {self.version} here was built without OpenMP")
            yield None
            return
        before = self.dll.omp_get_max_threads()
        if (count or before) > 1:
            self._use_threads()
        self.dll.omp_set_num_threads(count or before)
        try:
            yield count or before
        finally:
            self.dll.omp_set_num_threads(before)


@functools.cache
def load() -> Api:
    """Load oneDNN once and return its functions; a failure is not remembered, the next call tries again.

    Raises:
        LibraryNotFound: no candidate loads as oneDNN 3.x; says what was tried and how to install it.

    """
    failures = []
    for path in library_candidates():
        try:
            return Api(path)
        except (OSError, AttributeError, OneDNNError) as error:  # AttributeError: a function is missing
            failures.append(str(error))
    tried = "; ".join(failures) or "libdnnl is in no installed package and not on the system"
    raise LibraryNotFound(f"oneDNN 3.x cannot be loaded: {tried}. Install it with: pip install 'fusewire[onednn]'")


def probe() -> str | None:
    """Return None if oneDNN can be loaded, else why not and how to install it."""
    return why_missing(load)


def version() -> str:
    """Return the version of the library that `load` finds, such as "3.2.0"."""
    return load().version


class Handle:
    """Owns one oneDNN object, which is destroyed at garbage collection; can be passed as a pointer argument."""

    def __init__(self, api: Api, kind: str, create: str, *arguments: Any) -> None:
        self._as_parameter_ = c_void_p()
        getattr(api.dll, create)(byref(self._as_parameter_), *arguments)
        weakref.finalize(self, getattr(api.dll, f"dnnl_{kind}_destroy"), self._as_parameter_)


def dims_t(values: Sequence[int]) -> Any:
    """Return a `dnnl_dims_t`, which has 12 places; the rank says how many count."""
    return (c_int64 * 12)(*values)


def scratchpad_attributes(api: Api) -> Handle:
    """Return attributes by which the caller owns the scratchpad: oneDNN's shared one ties a primitive to one thread."""
    attributes = Handle(api, "primitive_attr", "dnnl_primitive_attr_create")
    api.dll.dnnl_primitive_attr_set_scratchpad_mode(attributes, SCRATCHPAD_USER)
    return attributes


def implementation_name(api: Api, described: Handle) -> str:
    """Return oneDNN's name of the implementation behind a primitive descriptor."""
    name = c_char_p()
    api.dll.dnnl_primitive_desc_query(described, QUERY_IMPLEMENTATION, 0, byref(name))
    return (name.value or b"").decode()


def chosen_layout(api: Api, described: Handle, arg: int) -> Handle:
    """Return the descriptor of the layout that a primitive wants for one of its arguments."""
    borrowed = c_void_p(api.dll.dnnl_primitive_desc_query_md(described, QUERY_ARGUMENT, arg))
    return Handle(api, "memory_desc", "dnnl_memory_desc_clone", borrowed)


def memory_object(api: Api, descriptor: Handle) -> Handle:
    """Return a memory object without storage; its address is set before each run."""
    return Handle(api, "memory", "dnnl_memory_create", descriptor, api.engine, None)


def round_up(size: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def aligned_buffer(size: int) -> Array:
    """Return `size` bytes of aligned memory.

    Raises:
        OneDNNError: the system does not have that much memory.

    """
    try:
        raw = np.empty(size + ALIGNMENT, np.uint8)
    except MemoryError:
        raise OneDNNError("workspace", f"cannot allocate {size} bytes") from None
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
