"""What is measured: one job for each network, batch, precision and engine, the most telling ones first."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from fusewire.ir.errors import TargetError
from fusewire.targets.target import Target

from . import models
from .models import Model

PRECISIONS = ("float32", "tf32", "bfloat16")
BATCHES = (1, 8, 64)
EAGER, COMPILED = "torch eager", "torch.compile"
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "cuda": ("cudnn", "cudnn,cublas"),
    "rocm": ("miopen", "miopen,rocblas"),
    "opencl": ("clblast",),
}
"""By kind of target: the libraries that take turns with generated code."""

BY_TYPES: Mapping[str, tuple[str, ...]] = {"layers": ("cudnn",), "gemm": ("cublas", "rocblas")}
"""By section: the libraries that take its operators where tensors are bfloat16. `-precision=bfloat16` does not reach
libraries: what is not named here would be measured in float32, or be generated code, so it is left out."""

KERNELS = ("add", "relu_chain", "broadcast_add", "cast_f32_f16", "transpose_2d", "transpose_nhwc", "concatenate_last",
           "sum_last", "max_last", "sum_first", "sum_all", "softmax_last", "layer_norm")  # fmt: skip
"""Of benchmarks.streaming."""


TUNED = ("simple", "c3_64_56", "c3_256_14")
"""Networks of the section "tuning"."""


@frozen
class Job:
    """One measurement.

    Attributes:
        section: where it belongs.
        case: the network.
        batch: images, sequences; for products the size, for kernels the elements.
        precision: "float32", "tf32" or "bfloat16".
        engine: a target of fusewire, EAGER or COMPILED.
    """

    section: str
    case: str
    batch: int
    precision: str
    engine: str

    @property
    def name(self) -> str:
        """What it is called in logs, and to the worker."""
        return "/".join((self.section, self.case, str(self.batch), self.precision, self.engine))

    @property
    def subject(self) -> tuple[str, int, str]:
        """What jobs of other engines share with it."""
        return self.case, self.batch, self.precision

    @property
    def with_libraries(self) -> bool:
        """Whether libraries take part."""
        return "-libs=" in self.engine

    @property
    def by_types(self) -> bool:
        """Whether weights and inputs are bfloat16 themselves: for products, and for what libraries are to take."""
        return self.precision == "bfloat16" and (self.section == "gemm" or self.with_libraries)

    @property
    def target(self) -> str:
        """The target with the precision, for engines of fusewire, unless the types have it."""
        plain = self.precision == "float32" or self.by_types
        return self.engine if plain else f"{self.engine} -precision={self.precision}"

    @property
    def by_torch(self) -> bool:
        """Whether PyTorch runs it."""
        return self.engine in (EAGER, COMPILED)

    def model(self, small: bool) -> Model:
        """The network; by types (see `by_types`) only layers and products are made."""
        match self.section:
            case "layers" | "tuning":
                cin, cout, k, side = models.LAYERS[self.case]
                made = models.layer_in_16_bits if self.by_types else models.layer
                return made(self.batch, cin, cout, k, side // 7 if small else side)
            case "gemm":
                return models.product(self.batch, "bfloat16" if self.precision == "bfloat16" else "float32")
            case "streaming":
                return models.kernel(self.case, self.batch)
        return (models.SMALL if small else models.NETWORKS)[self.case](self.batch)


def engines(target: str, section: str) -> list[str]:
    """Fusewire's targets, and PyTorch where it runs on the same device."""
    kind = Target(target).kind
    libraries = LIBRARIES.get(kind, ())
    peers = [EAGER, COMPILED] if kind in ("cuda", "rocm") else []
    match section:
        case "tutorial":
            return [target, *(f"{target} -libs={names}" for names in libraries), *peers]
        case "layers":
            return [target, *(f"{target} -libs={names}" for names in libraries[:1]), *peers]
        case "gemm":
            return [target, *(f"{target} -libs={names}" for names in libraries[-1:]), *peers[:1]]
        case "streaming" | "tuning":
            return [target]
    return [target, *(f"{target} -libs={names}" for names in libraries[-1:]), *peers]


def jobs(section: str, target: str, small: bool = False) -> list[Job]:
    """The jobs of a section: batch 1 in float32 first, then the rest, so that what ends early has the most telling."""
    makers = engines(target, section)
    batches = (1, 2) if small else BATCHES
    if section == "tutorial":
        return [Job("layers", "simple", 1, "float32", engine) for engine in makers]
    if section == "tuning":
        return [Job(section, case, 1, "float32", engine) for case in TUNED for engine in makers]
    if section == "gemm":
        size = 64 if small else 8192
        made = [Job(section, "matmul", size, p, engine) for p in reversed(PRECISIONS) for engine in makers]
        return [job for job in made if _possible(job)]
    if section == "streaming":
        return [Job(section, name, 1 << (18 if small else 26), "float32", e) for name in KERNELS for e in makers]
    cases = tuple(models.LAYERS) if section == "layers" else tuple(models.NETWORKS)
    order = sorted(((b, p) for b in batches for p in PRECISIONS), key=_rank)
    made = [Job(section, case, b, p, engine) for b, p in order for case in cases for engine in makers]
    return [job for job in made if _possible(job)]


def _possible(job: Job) -> bool:
    """Whether the kind of target has such a precision at all, and the libraries take part in it."""
    if job.by_torch:
        return True
    try:
        Target(job.target)
    except TargetError:
        return False
    if job.precision != "bfloat16" or not job.with_libraries:
        return True
    return not set(BY_TYPES.get(job.section, ())).isdisjoint(Target(job.engine).libs)


def _rank(subject: tuple[int, str]) -> tuple[int, int]:
    batch, precision = subject
    return (0 if batch == 1 else 1) + PRECISIONS.index(precision), batch


def named(name: str) -> Job:
    """The job with a name."""
    section, case, batch, precision, engine = name.split("/", 4)
    return Job(section, case, int(batch), precision, engine)


SECTIONS: Mapping[str, int] = {
    "environment": 3,
    "tutorial": 25,
    "streaming": 30,
    "gemm": 25,
    "layers": 110,
    "tuning": 50,
    "networks": 180,
    "sanitizer": 40,
    "tests": 110,
}
"""What is run, in this order, and its share of the time."""

MEASURED: Sequence[str] = ("tutorial", "streaming", "gemm", "layers", "tuning", "networks")
"""Sections that consist of jobs."""
