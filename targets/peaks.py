"""What a machine can do at most: arithmetic, copying and reading, measured by small generated kernels.

A roofline (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009) compares a kernel with these. They are measured
by the same loop IR, emitter, compiler and thread team as all kernels:

    fma    accumulators in registers, enough of them to hide the latency, updated by `acc = acc * x + y`
    copy   `out[i] = data[i]`; bytes count twice, once for reading and once for writing
    read   sums of `data[i]`

Copying and reading are measured for several sizes, from what fits into the first cache to what fits into none, since
the tensors of a small step never leave the caches. Peaks are kept on disk with their date, for each processor,
instruction set, compiler and number of threads; `fusewire doctor --peaks` measures them anew.
"""

import contextlib
import ctypes
import datetime
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from ..ir.errors import CompileError
from ..ir.index import Index
from ..ir.loops import Builder, Kernel
from ..ir.scalar import Buffer, Value, apply
from ..ir.types import numpy_dtype
from .cpuinfo import Isa, cpu_features, usable_cores
from .csource import Emitter
from .dialects import C
from .implement import finish
from .prelude import Prelude
from .team import TEAM_HEADER, ThreadTeam
from .toolchain import cache_dir, find_compiler, load_shared
from .work import Work

_log = logging.getLogger("fusewire")

VERSION = 1
"""Changes with the kernels: what other ones measured is measured again."""

DTYPES = ("float32", "float64")
LARGEST = 1 << 30
"""Bytes that are copied at most."""

STEPS = 1 << 16
"""Updates of each accumulator in one run."""

CHUNK = 2048
"""Elements that a thread takes at a time."""

ROUNDS, ROUND = 6, 0.008
"""How often, and how many seconds long, each kernel is run; the fastest round counts."""

Curve = tuple[tuple[int, float], ...]
"""Bytes per second by bytes touched, ascending."""


@frozen
class Peaks:
    """What was measured.

    Attributes:
        cpu, isa, compiler: what it was measured on and with.
        threads: how many threads took part.
        date: when, as ISO 8601 in UTC.
        flops: operations per second by dtype.
        copy, read: bytes per second by size.
    """

    cpu: str
    isa: str
    compiler: str
    threads: int
    date: str
    flops: dict[str, float]
    copy: Curve
    read: Curve

    def roof(self, work: Work) -> tuple[float, str]:
        """The least seconds that work can take here, and what bounds it: "compute" or "memory".

        What is written is paired with as much that is read, as in copying; the rest is reading.
        """
        alone = max(sum(work.read) - work.written, 0)
        moving = alone / rate(self.read, work.nbytes) + (work.nbytes - alone) / rate(self.copy, work.nbytes)
        computing = work.flops / self.flops[work.dtype]
        return (computing, "compute") if computing > moving else (moving, "memory")

    def at_least(self, other: "Peaks") -> "Peaks":
        """The larger of the figures of two measurements; the date is that of `other`, the later one."""

        def larger(a: Curve, b: Curve) -> Curve:
            return tuple((size, max(dict(a).get(size, 0.0), r)) for size, r in b)

        flops = {dtype: max(self.flops.get(dtype, 0.0), r) for dtype, r in other.flops.items()}
        return evolve(other, flops=flops, copy=larger(self.copy, other.copy), read=larger(self.read, other.read))

    def summary(self) -> str:
        """The peaks in one line."""
        fma = ", ".join(f"{dtype} {rate_ / 1e9:.0f} GFLOP/s" for dtype, rate_ in self.flops.items())
        memory = f"memory: copy {self.copy[-1][1] / 1e9:.1f}, read {self.read[-1][1] / 1e9:.1f} GB/s"
        near = f"first cache: copy {self.copy[0][1] / 1e9:.0f}, read {self.read[0][1] / 1e9:.0f} GB/s"
        return f"peaks ({self.isa}, threads: {self.threads}, measured {self.date[:10]}): {fma}; {memory}; {near}"


def rate(curve: Curve, nbytes: int) -> float:
    """The rate for a size: between two that were measured, by the logarithm of the size."""
    sizes = [math.log(size) for size, _ in curve]
    return float(np.interp(math.log(max(nbytes, 1)), sizes, [r for _, r in curve]))


@lru_cache(maxsize=64)
def peaks(isa: Isa, threads: int) -> Peaks:
    """The peaks for an instruction set and a number of threads: from the disk, else measured (about a second).

    Raises:
        CompileError: there is no C compiler.
    """
    return stored(isa, threads) or measure(isa, threads)


@lru_cache(maxsize=64)
def second_look(isa: Isa, threads: int) -> Peaks:
    """Measure once more in this process: something ran faster than the peaks, so the machine was busy then."""
    return measure(isa, threads)


def known_peaks(isa: Isa, threads: int) -> Peaks | None:
    """As `peaks`, but None, with a line in the log, where there is no compiler to measure them with."""
    try:
        return peaks(isa, threads)
    except CompileError as error:
        _log.info("no peaks to compare with: %s", error)
        return None


def stored(isa: Isa, threads: int) -> Peaks | None:
    """What was measured before on this machine with this compiler; None if nothing was.

    Raises:
        CompileError: there is no C compiler.
    """
    try:
        return cattrs.structure(json.loads(_file(isa, threads).read_text()), Peaks)
    except (OSError, ValueError, KeyError, TypeError, cattrs.BaseValidationError):
        return None  # nothing there, or damaged: measuring replaces it


def measure(isa: Isa, threads: int, anew: bool = False) -> Peaks:
    """Measure now, and keep the result.

    On a busy machine everything looks slower than it is, never faster: of an earlier measurement the larger figures are
    kept, unless `anew`.

    Raises:
        CompileError: there is no C compiler.
    """
    bench = Bench(isa, threads)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = Peaks(
        cpu_features().name, isa.name, find_compiler().version, threads, now,
        {dtype: bench.flops(dtype) for dtype in DTYPES},
        tuple((n, bench.copying(n)) for n in sizes()), tuple((n, bench.reading(n)) for n in sizes()),
    )  # fmt: skip
    if not anew and (before := stored(isa, threads)):
        found = before.at_least(found)
    path = _file(isa, threads)
    text = json.dumps(cattrs.unstructure(found), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text + "\n")
        beside.replace(path)
    except OSError as error:
        _log.info("the measured peaks are not kept: %s", error)
    peaks.cache_clear()
    return found


def _file(isa: Isa, threads: int) -> Path:
    cpu, compiler = cpu_features(), find_compiler()
    facts = [VERSION, cpu.name, cpu.machine, cpu.features, usable_cores(), isa.cflags, compiler.identity, threads]
    return cache_dir() / "peaks" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def sizes() -> tuple[int, ...]:
    """The sizes to copy and read, in bytes: the last is far beyond the caches."""
    caches = 4 * _last_cache()
    with contextlib.suppress(ValueError, OSError, AttributeError):
        caches = min(caches, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    beyond = min(max(caches, 64 << 20), LARGEST)
    return (*(n for n in (24 << 10, 192 << 10, 1 << 20, 4 << 20, 16 << 20) if n < beyond), beyond)


def _last_cache() -> int:
    """Bytes of the last cache, where the system tells; else 32 MiB."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    found = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            text = path.read_text().strip()
            found = max(found, int(text[:-1]) * units[text[-1]])
    return found or 32 << 20


class Bench:
    """The kernels for one instruction set, compiled and ready to run on a team of threads."""

    def __init__(self, isa: Isa, threads: int) -> None:
        self.isa, self.threads = isa, threads
        self.kernels = {k.name: k for k in self._kernels()}
        prelude, texts = Prelude(C), []
        for kernel in self.kernels.values():
            texts.append(Emitter(prelude).kernel(finish(kernel, isa.vector_bytes)))
            texts.append(
                f"void fw_{kernel.name}(void *arg, int tid, int nthreads, fw_team *team)\n"
                f"{{ {kernel.name}((void *const *)arg, tid, nthreads, team, 0, 0); }}\n"
            )
        source = "\n".join([C.headers, TEAM_HEADER, prelude.text(texts), *texts])
        self.library = load_shared([("peaks", source)], isa.cflags)

    def _kernels(self) -> Iterator[Kernel]:
        for dtype in DTYPES:
            yield self._fma(dtype)
        for nbytes in sizes():
            yield self._copy(nbytes)
            yield self._read(nbytes)

    def lanes(self, dtype: str) -> int:
        """Elements in a vector."""
        return self.isa.vector_bytes // numpy_dtype(dtype).itemsize

    def _accumulators(self) -> int:
        """Enough to hide the latency of the widest processors, few enough to stay in registers with two operands."""
        return 24 if self.isa.registers >= 32 else 12

    def _fma(self, dtype: str) -> Kernel:
        many, lanes = self._accumulators(), self.lanes(dtype)
        data = Buffer("data", (many + 2, lanes), dtype)
        out = Buffer("out", (self.threads, many, lanes), dtype)
        b = Builder()
        with b.loop("t", self.threads, "parallel") as t, b.loop("v", lanes, "vectorised") as v:
            acc = b.alloc("acc", (many,), dtype)
            with b.loop("j", many, "unrolled") as j:
                b.store(acc, (j,), b.load(data, (j, v)))
            with b.loop("i", STEPS, "rolled"), b.loop("j", many, "unrolled") as j:
                x, y = b.load(data, (many, v)), b.load(data, (many + 1, v))
                b.store(acc, (j,), apply("fma", b.load(acc, (j,)), x, y))
            with b.loop("j", many, "unrolled") as j:
                b.store(out, (t, j, v), b.load(acc, (j,)))
        return Kernel(f"fma_{dtype}", (data,), (out,), b.finish())

    def _copy(self, nbytes: int) -> Kernel:
        count = nbytes // 8 // CHUNK * CHUNK
        data, out = Buffer("data", (count,), "float32"), Buffer("out", (count,), "float32")
        b = Builder()
        with (
            b.loop("again", _times(nbytes), "lockstep"),
            b.loop("q", count // CHUNK, "parallel") as q,
            b.loop("i", CHUNK, "vectorised") as i,
        ):
            b.store(out, (q * CHUNK + i,), b.load(data, (q * CHUNK + i,)))
        return Kernel(f"copy_{nbytes}", (data,), (out,), b.finish())

    def _read(self, nbytes: int) -> Kernel:
        lanes, many = self.lanes("float32"), 8
        count = nbytes // 4 // CHUNK
        data, out = Buffer("data", (count, CHUNK), "float32"), Buffer("out", (count, lanes), "float32")
        b = Builder()

        def element(q: Index, step: Index, j: Index, v: Index) -> Value:
            return b.load(data, (q, (step * many + j) * lanes + v))

        with (
            b.loop("again", _times(nbytes), "lockstep"),
            b.loop("q", count, "parallel") as q,
            b.loop("v", lanes, "vectorised") as v,
        ):
            acc = b.alloc("acc", (many,), "float32")
            with b.loop("j", many, "unrolled") as j:
                b.store(acc, (j,), 0)
            with b.loop("step", CHUNK // lanes // many, "rolled") as step, b.loop("j", many, "unrolled") as j:
                b.store(acc, (j,), b.load(acc, (j,)) + element(q, step, j, v))
            sums = [b.load(acc, (j,)) for j in range(many)]
            while len(sums) > 1:  # by pairs: a chain of additions would take longer than the reading
                sums = [x + y for x, y in zip(sums[::2], sums[1::2], strict=True)]
            b.store(out, (q, v), sums[0])
        return Kernel(f"read_{nbytes}", (data,), (out,), b.finish())

    def flops(self, dtype: str) -> float:
        """Operations per second."""
        seconds = self._time(f"fma_{dtype}")
        return 2.0 * STEPS * self._accumulators() * self.lanes(dtype) * self.threads / seconds

    def copying(self, nbytes: int) -> float:
        """Bytes per second, both ways together."""
        return 2.0 * self._bytes(f"copy_{nbytes}") * _times(nbytes) / self._time(f"copy_{nbytes}")

    def reading(self, nbytes: int) -> float:
        """Bytes per second."""
        return self._bytes(f"read_{nbytes}") * _times(nbytes) / self._time(f"read_{nbytes}")

    def _bytes(self, name: str) -> int:
        (data,) = self.kernels[name].inputs
        return math.prod(data.shape) * numpy_dtype(data.dtype).itemsize

    def _time(self, name: str) -> float:
        """The least seconds of one run."""
        arrays = [np.full(b.shape, 0.5, numpy_dtype(b.dtype)) for b in self.kernels[name].params]
        with ThreadTeam(self.threads) as team:
            return fastest(self.call(name, arrays, team))

    def call(self, name: str, arrays: Sequence[npt.NDArray[Any]], team: ThreadTeam) -> Callable[[], None]:
        """A function that runs a kernel on arrays once."""
        table = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        function = getattr(self.library, f"fw_{name}")
        return lambda: team.run(function, table)


def _times(nbytes: int) -> int:
    """How often a run goes over the data: enough to make the call itself small."""
    return max(1, (1 << 20) // nbytes)


def fastest(run: Callable[[], object]) -> float:
    """The least mean time of one call among `ROUNDS` rounds, after one that warms up."""
    best: list[float] = []
    count = 1
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(count):
            run()
        taken = max(time.perf_counter() - start, 1e-9) / count
        best.append(taken)
        count = max(1, round(ROUND / taken))
    return min(best[1:])
