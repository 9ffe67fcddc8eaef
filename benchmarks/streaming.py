"""Memory-bound kernels beside the machine's copy bandwidth, measured in the same run.

    python -m benchmarks.streaming [KERNEL ...] [--threads N] [--size BYTES] [--json FILE]

Each kernel works on a tensor of 1 MiB (which stays in the caches) and one of 64 MiB (which does not). Bytes moved are
those of its inputs and outputs, each counted once. The copy it is compared with is the faster of C's memcpy and of a
generated copy, on as many threads and on buffers of the same size, timed in turns with the kernel; both are shown.
The fastest of the repetitions counts. Kernels that compute more than they move (softmax, layer_norm) cannot always
reach the bandwidth of the nearer caches.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

import fusewire as fw
from fusewire.targets.host import aligned
from fusewire.targets.team import TEAM_HEADER, ThreadTeam
from fusewire.targets.toolchain import load_shared

MIB = 1 << 20
SIZES = (MIB, 64 * MIB)

_COPY = """#include <stdint.h>
#include <string.h>
void copy_part(void *arg, int tid, int nthreads, fw_team *team) {
  char *const *args = arg;
  int64_t n = (int64_t)(intptr_t)args[2] / 64, first = n * tid / nthreads * 64, end = n * (tid + 1) / nthreads * 64;
  memcpy(args[1] + first, args[0] + first, end - first);
  (void)team;
}
"""


@frozen
class Row:
    """One measurement: bandwidths in GB/s, bytes moved by one run of the kernel."""

    kernel: str
    size: int
    threads: int
    nbytes: int
    microseconds: float
    gbps: float
    copy_gbps: float

    @property
    def share(self) -> float:
        """The kernel's bandwidth by that of the copy."""
        return self.gbps / self.copy_gbps


def _var(shape: Sequence[int], dtype: str = "float32", name: str = "x") -> fw.Var:
    return fw.var(name, shape=tuple(shape), dtype=dtype)


def _chain(x: fw.Expr) -> fw.Expr:
    for _ in range(5):
        x = fw.nn.relu(x) * fw.const(np.float32(0.999))
    return x


def _shape(x: fw.Var) -> tuple[int, ...]:
    assert isinstance(x.checked_type, fw.TensorType)
    return x.checked_type.static_shape


def _norm(x: fw.Var) -> fw.Expr:
    columns = _shape(x)[-1]
    return fw.nn.layer_norm(x, _var((columns,), name="gamma"), _var((columns,), name="beta"))


def _group(x: fw.Var) -> fw.Expr:
    channels = _shape(x)[1]
    return fw.nn.group_norm(x, _var((channels,), name="gamma"), _var((channels,), name="beta"), 8)


def _matrix(n: int) -> tuple[int, int]:
    """N elements in rows of 1024 at most, as square as that allows."""
    side = min(1024, 1 << (n.bit_length() // 2))
    return n // side, side


def _square(n: int) -> tuple[int, int]:
    side = 1 << ((n.bit_length() - 1) // 2)
    return n // side, side


def _image(n: int) -> tuple[int, int, int, int]:
    """N elements as NCHW: 64 channels, 32 x 32 pixels a image or more."""
    side = 64 if n <= 1 << 20 else 128
    return n // (64 * side * side), 64, side, side


def _heads(n: int) -> tuple[int, int, int, int]:
    """N elements as (batch, sequence, heads, size of a head)."""
    return max(n // (512 * 16 * 64), 1), min(512, n // (16 * 64)), 16, 64


Make = Callable[[int], fw.Expr]
KERNELS: Mapping[str, Make] = {
    "copy": lambda n: fw.copy(_var((n,))),
    "add": lambda n: _var((n // 2,)) + _var((n // 2,), name="y"),
    "relu_chain": lambda n: _chain(_var((n,))),
    "broadcast_add": lambda n: _var(_matrix(n)) + _var((_matrix(n)[1],), name="y"),
    "broadcast_column": lambda n: _var(_matrix(n)) + _var((_matrix(n)[0], 1), name="y"),
    "cast_f32_f16": lambda n: fw.cast(_var((n,)), "float16"),
    "cast_i32_f32": lambda n: fw.cast(_var((n,), "int32"), "float32"),
    "cast_u8_f32": lambda n: fw.cast(_var((n,), "uint8"), "float32"),
    "transpose_2d": lambda n: fw.transpose(_var(_square(n))),
    "transpose_nhwc": lambda n: fw.transpose(_var(_image(n)), (0, 2, 3, 1)),
    "transpose_nchw": lambda n: fw.transpose(_var([_image(n)[k] for k in (0, 2, 3, 1)]), (0, 3, 1, 2)),
    "transpose_0213": lambda n: fw.transpose(_var(_heads(n)), (0, 2, 1, 3)),
    "transpose_u8": lambda n: fw.transpose(_var(_square(4 * n), "uint8")),
    "transpose_odd": lambda n: fw.transpose(_var((_square(n)[0] - 3, _square(n)[1] + 5))),
    "to_nchw16c": lambda n: fw.layout_transform(_var(_image(n)), "NCHW", "NCHW16c"),
    "from_nchw16c": lambda n: fw.layout_transform(
        _var((_image(n)[0], 4, *_image(n)[2:], 16)), "NCHW16c", "NCHW"
    ),
    "concatenate_last": lambda n: fw.concatenate([_var(_matrix(n // 2)), _var(_matrix(n // 2), name="y")], 1),
    "concatenate_first": lambda n: fw.concatenate([_var(_matrix(n // 2)), _var(_matrix(n // 2), name="y")], 0),
    "strided_slice": lambda n: fw.strided_slice(_var(_matrix(2 * n)), [0, 13], [2 * n, 13 + _matrix(n)[1] // 2]),
    "pad": lambda n: fw.nn.pad(_var(_image(n)), ((0, 0), (0, 0), (1, 1), (1, 1))),
    "sum_last": lambda n: fw.sum(_var(_matrix(n)), 1),
    "mean_last": lambda n: fw.mean(_var(_matrix(n)), 1),
    "max_last": lambda n: fw.max(_var(_matrix(n)), 1),
    "sum_first": lambda n: fw.sum(_var(_matrix(n)), 0),
    "max_first": lambda n: fw.max(_var(_matrix(n)), 0),
    "sum_all": lambda n: fw.sum(_var(_matrix(n))),
    "max_all": lambda n: fw.max(_var(_matrix(n))),
    "sum_middle": lambda n: fw.sum(_var((16, n // 16 // 512, 512)), 1),
    "argmax_last": lambda n: fw.argmax(_var(_matrix(n)), 1),
    "argmax_first": lambda n: fw.argmax(_var(_matrix(n)), 0),
    "softmax_last": lambda n: fw.nn.softmax(_var(_matrix(n)), -1),
    "softmax_axis1": lambda n: fw.nn.softmax(_var(_image(n)), 1),
    "layer_norm": lambda n: _norm(_var(_matrix(n))),
    "group_norm": lambda n: _group(_var(_image(n))),
    "global_avg_pool2d": lambda n: fw.nn.global_avg_pool2d(_var(_image(n))),
    "max_pool2d": lambda n: fw.nn.max_pool2d(_var(_image(n)), (3, 3), (2, 2), padding=(1, 1)),
    "avg_pool2d": lambda n: fw.nn.avg_pool2d(_var(_image(n)), (2, 2), (2, 2)),
}  # fmt: skip
"""Kernels by name, each from the number of float32 elements of its largest tensor."""


class Copies:
    """memcpy on a team of threads, and a generated copy, of tensors of one size."""

    def __init__(self, nbytes: int, threads: int) -> None:
        self.nbytes = nbytes
        self.team = ThreadTeam(threads)
        self.buffers = aligned(nbytes), aligned(nbytes)
        for buffer in self.buffers:
            buffer[:] = 1
        places = [b.ctypes.data for b in self.buffers]
        self.args = np.array([*places, nbytes], np.int64)
        self.library = load_shared([("copy", TEAM_HEADER + _COPY)])
        self.generated = Timed(fw.copy(_var((nbytes // 4,))), threads)

    def __call__(self) -> None:
        """One memcpy."""
        self.team.run(self.library.copy_part, self.args.ctypes.data)


class Timed:
    """A kernel with its inputs set."""

    def __init__(self, body: fw.Expr, threads: int) -> None:
        func = fw.Function(fw.analysis.free_vars(body), body)
        lib = fw.build(func, f"cpu -num-cores={threads}")
        self.module = fw.GraphModule(lib["default"](fw.cpu(0)))
        rng = np.random.default_rng(0)
        written = sum(lib.program.slots[s].nbytes for s in lib.program.outputs)
        self.nbytes = written
        for name, type_ in lib.program.types.items():
            assert isinstance(type_, fw.TensorType)
            # Of what a slice is taken from, no more is read than is written.
            self.nbytes += type_.nbytes if "strided_slice" not in str(body) else written
            whole = type_.dtype.startswith(("int", "uint"))
            data = rng.integers(0, 100, type_.static_shape) if whole else rng.random(type_.static_shape, np.float32)
            self.module.set_input(name, data.astype(type_.dtype, copy=False))

    def __call__(self) -> None:
        """One run."""
        self.module.run()


def fastest(actions: Sequence[Callable[[], Any]], budget: float) -> list[float]:
    """The least time of each action in seconds, taken in turns for `budget` seconds."""
    best = [float("inf")] * len(actions)
    end, rounds = time.perf_counter() + budget, 0
    while rounds < 3 or time.perf_counter() < end:
        rounds += 1
        for k, action in enumerate(actions):
            start = time.perf_counter()
            action()
            best[k] = min(best[k], time.perf_counter() - start)
    return best


def measure(names: Sequence[str], size: int, threads: int, budget: float) -> list[Row]:
    """The rows of some kernels for one size of tensors."""
    rows: list[Row] = []
    copies = Copies(size, threads)
    fastest([copies, copies.generated], 0.3)
    for name in names:
        kernel = Timed(KERNELS[name](size // 4), threads)
        taken, *baseline = fastest([kernel, copies, copies.generated], budget)
        copy = 2 * size / min(baseline) / 1e9
        gbps = kernel.nbytes / taken / 1e9
        rows.append(Row(name, size, threads, kernel.nbytes, taken * 1e6, gbps, copy))
        if name == names[0]:
            both = [2 * size / t / 1e9 for t in baseline]
            rows.insert(0, Row("(memcpy)", size, threads, 2 * size, baseline[0] * 1e6, both[0], copy))
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Kernels in rows; for each size the bandwidth and its share of the copy's."""
    shown = Table(title="GB/s moved, and percent of the copy bandwidth in the same run")
    sizes = sorted({row.size for row in rows})
    shown.add_column("kernel")
    for size in sizes:
        for head in (f"{size // 1024} KiB: us", "GB/s", "copy", "%"):
            shown.add_column(head, justify="right")
    for name in dict.fromkeys(row.kernel for row in rows):
        cells: list[str] = []
        for size in sizes:
            row = next(r for r in rows if r.kernel == name and r.size == size)
            cells += [f"{row.microseconds:.1f}", f"{row.gbps:.1f}", f"{row.copy_gbps:.1f}", f"{row.share:.0%}"]
        shown.add_row(name, *cells)
    return shown


@click.command()
@click.argument("kernels", nargs=-1, type=click.Choice(list(KERNELS)))
@click.option("--threads", default=1, show_default=True, help="Threads of the team.")
@click.option("--size", "sizes", multiple=True, type=int, help="Bytes of the largest tensor; 1 MiB and 64 MiB if none.")
@click.option("--budget", default=0.25, show_default=True, help="Seconds for each kernel and size.")
@click.option("--json", "json_file", type=Path, help="Write the rows here.")
def main(kernels: Sequence[str], threads: int, sizes: Sequence[int], budget: float, json_file: Path | None) -> None:
    """Time memory-bound kernels beside a copy."""
    names = kernels or list(KERNELS)
    rows = [row for size in sizes or SIZES for row in measure(names, size, threads, budget)]
    Console(width=120).print(table(rows))
    if json_file:
        json_file.write_text(json.dumps([{**asdict(row), "share": row.share} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
