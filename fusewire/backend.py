"""fusewire as a backend of the onnx package, so that ONNX's own test suite runs against it.

    python -m fusewire.backend                 the whole CPU suite; passed and failed by operator
    python -m fusewire.backend -k softmax      tests whose name contains this
    python -m fusewire.backend --list          what is left out, and why

A model whose inputs decide a shape (the new shape of a Reshape) is compiled anew for each value of such an input.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from .ir.errors import FusewireError
from .ir.module import IRModule
from .ir.types import TensorType
from .targets.build import build
from .testing import evaluate

try:
    import onnx
    from onnx.backend.base import Backend, BackendRep

    from .contrib.onnx import DynamicValueError, Imported, Options, check_model, import_model, load, suite
    from .contrib.onnx.importer import flat
    from .contrib.onnx.values import Sequence as SequenceValue
    from .contrib.onnx.values import Value
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] != "onnx":
        raise
    raise FusewireError("fusewire.backend needs the onnx package: pip install 'fusewire[onnx]'") from None

__all__ = ["FusewireBackend", "FusewireRep", "prepare", "run_model", "run_node", "supports_device"]

Array = npt.NDArray[Any]


@attrs.define(eq=False)
class FusewireRep(BackendRep):
    """A model that is ready to run.

    Attributes:
        model: the model.
        target: the target string.
        plain: compute with the operators' NumPy references instead of compiled code.
        known: the inputs that had to be known to compile it, after a run.
    """

    model: "onnx.ModelProto"
    target: str = "cpu"
    plain: bool = False
    known: tuple[str, ...] = ()
    _compiled: dict[Any, tuple[Imported, Any]] = attrs.field(factory=dict)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run on inputs, given by position or by name.

        Raises:
            FusewireError: the model is not supported, or an input does not fit.
        """
        feed = self._named(inputs)
        imported, library = self._prepared(feed)
        names = [param.name_hint for param in imported.function.params]
        tensors = {name: a for key, value in feed.items() for name, a in _tensors(key, value) if name in names}
        if self.plain:
            found = evaluate(imported.function, {**imported.params, **tensors})
            types = [t.checked_type for value in imported.outputs for t in flat(value)]
            results = [a.astype(_numpy(t)) for a, t in zip(found, types, strict=True)]
        else:
            got = library(**tensors)
            results = got if isinstance(got, list) else [got]
        remaining = iter(results)
        return tuple(_restored(value, remaining) for value in imported.outputs)

    @property
    def is_constant(self) -> bool:
        """Whether all results followed from values that were known when the model was read: no kernel ran."""
        return bool(self._compiled) and not any(i.function.params for i, _ in self._compiled.values())

    def _named(self, inputs: Any) -> dict[str, Any]:
        stored = {tensor.name for tensor in self.model.graph.initializer}
        names = [info.name for info in self.model.graph.input if info.name not in stored]
        if isinstance(inputs, Mapping):
            return dict(inputs)
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) > len(names):
            raise FusewireError(f"the model has {len(names)} inputs, got {len(given)}")
        return dict(zip(names, given, strict=False))

    def _prepared(self, feed: Mapping[str, Any]) -> tuple[Imported, Any]:
        """The compiled model for inputs of these types, and for the values of those that decide shapes."""
        types = tuple((name, _type_key(value)) for name, value in feed.items())
        while True:
            key = (types, tuple((name, _value_key(feed[name])) for name in self.known))
            if key in self._compiled:
                return self._compiled[key]
            try:
                self._compiled[key] = self._compile(feed)
            except DynamicValueError as error:
                more = [name for name in error.names if name in feed and name not in self.known]
                if not more:
                    raise
                self.known = (*self.known, *more)

    def _compile(self, feed: Mapping[str, Any]) -> tuple[Imported, Any]:
        structures = {name: _structure(value) for name, value in feed.items()}
        options = Options(
            shape={name: value.shape for name, value in feed.items() if isinstance(value, np.ndarray)},
            constants={name: feed[name] for name in self.known},
            structures=structures,
        )
        imported = import_model(self.model, options)
        if self.plain:
            return imported, None
        return imported, build(IRModule.from_expr(imported.function), self.target, imported.params)


def _numpy(type_: Any) -> np.dtype[Any]:
    from_type: TensorType = type_
    return np.dtype(from_type.dtype) if from_type.dtype != "bfloat16" else np.asarray(0).astype("bfloat16").dtype


def _tensors(name: str, value: Any) -> list[tuple[str, Array]]:
    if isinstance(value, list):
        return [pair for k, item in enumerate(value) for pair in _tensors(f"{name}.{k}", item)]
    return [] if value is None else [(name, np.asarray(value))]


def _structure(value: Any) -> Any:
    if isinstance(value, list):
        return [_structure(item) for item in value]
    return None if value is None else TensorType(np.shape(value), np.asarray(value).dtype.name)


def _type_key(value: Any) -> Any:
    return tuple(map(_type_key, value)) if isinstance(value, list) else (np.shape(value), str(np.asarray(value).dtype))


def _value_key(value: Any) -> Any:
    return tuple(map(_value_key, value)) if isinstance(value, list) else np.asarray(value).tobytes()


def _restored(value: Value, remaining: Any) -> Any:
    """An output of the model from the function's tensors."""
    if isinstance(value, SequenceValue):
        return [_restored(item, remaining) for item in value.items]
    return next(remaining) if flat(value) else None


class FusewireBackend(Backend):
    """Compiles and runs ONNX models on the CPU.

    Attributes:
        target: the target string for the device "CPU".
        plain: compute with NumPy references instead (to tell errors of the importer from those of code generation).
        last: the model that was prepared last.
    """

    target = "cpu"
    plain = False
    last: FusewireRep | None = None

    @classmethod
    def is_compatible(cls, model: "onnx.ModelProto", device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be read."""
        try:
            check_model(load(model))
        except FusewireError:
            return False
        return True

    @classmethod
    def prepare(cls, model: "onnx.ModelProto", device: str = "CPU", **kwargs: Any) -> FusewireRep:
        """Check a model; it is compiled when the types of its inputs are known.

        Raises:
            FusewireError: the model is malformed, or the device is not supported.
        """
        if not cls.supports_device(device):
            raise FusewireError(f"the backend runs on CPU, not on {device!r}")
        rep = FusewireRep(load(model), kwargs.get("target", cls.target), cls.plain)
        cls.last = rep
        return rep

    @classmethod
    def run_model(cls, model: "onnx.ModelProto", inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: "onnx.NodeProto", inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run a single node on arrays, as a model of that node alone."""
        given = inputs if isinstance(inputs, Mapping) else dict(zip(filter(None, node.input), inputs, strict=True))
        make = onnx.helper.make_tensor_value_info
        infos = [
            make(name, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a))
            for name, a in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        rep = FusewireRep(model, cls.target, cls.plain)
        return rep.run({name: np.asarray(a) for name, a in given.items()})

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return device.split(":")[0] == "CPU"


prepare = FusewireBackend.prepare
run_model = FusewireBackend.run_model
run_node = FusewireBackend.run_node
supports_device = FusewireBackend.supports_device


def main(arguments: Sequence[str]) -> int:
    """The command `python -m fusewire.backend`."""
    parser = argparse.ArgumentParser(prog="python -m fusewire.backend", description="Run ONNX's own tests.")
    parser.add_argument("-k", metavar="TEXT", default="", help="only tests whose name contains this (a regex)")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="worker processes (2)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for each test (60)")
    parser.add_argument("--target", default="cpu", help="target string (cpu)")
    parser.add_argument("--plain", action="store_true", help="NumPy references instead of compiled code")
    parser.add_argument("--all", action="store_true", help="run the tests that are left out, too")
    parser.add_argument("--list", action="store_true", help="show the tests that are left out, with the reasons")
    parser.add_argument("-v", action="store_true", help="show the error of each failed test")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{pattern}: {reason}" for pattern, reason in suite.exclusions()))
        return 0
    FusewireBackend.target, FusewireBackend.plain = options.target, options.plain
    outcomes = suite.run(FusewireBackend, options.k, options.j, options.timeout, everything=options.all)
    print(suite.report(outcomes, verbose=options.v))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
