"""How fast `opencl` is on a CPU's runtime: beside the `cpu` target, ONNX Runtime and tinygrad, and against the peak.

    python -m benchmarks.opencl [NAME ...] [--target "opencl -device=intel"] [--tune LEVEL] [--rounds 5]
                                [--peers cpu,onnxruntime,tinygrad] [--results FOLDER] [--label NAME]

NAME is a network (resnet18, resnet50, mobilenetv2, simple), a single layer, or gemm (1024 x 1024 x 1024); all if
none is given. Every engine runs in a process of its own, in alternating rounds, as in benchmarks.peers, with 2 threads.
Of layers and of gemm, the kernels are timed by the device's events, too, in turns with a kernel of nothing but
multiply-adds on registers: the peak that they are compared with. Of networks, the time between kernels is what a run
takes beyond the sum of its kernels' events. `--tune` searches first; the decisions go to the user's own records.
Figures of names that are not measured this time stay in the files of the folder.
"""

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from attrs import evolve, frozen
from tabulate import tabulate

import fusewire as fw
from fusewire.targets.backends import backend_of
from fusewire.targets.compiled import CompiledModule
from fusewire.targets.explain import Choice
from fusewire.targets.implement import Decision
from fusewire.targets.launched.engine import LaunchEngine
from fusewire.targets.opencl.devices import find, pyopencl
from fusewire.targets.opencl.queue import opencl_queue
from fusewire.targets.opencl.runtime import Session, session
from fusewire.targets.program import KernelStep
from fusewire.targets.target import Target
from fusewire.targets.tuning.bench import fill_inputs
from fusewire.targets.tuning.search import BUDGETS
from fusewire.targets.work import work_of_step

from .networks import LAYERS, Network, files_of
from .peers.__main__ import measure, processor

Row = dict[str, Any]

NETWORKS = ("resnet18", "resnet50", "mobilenetv2", "simple")
KERNELS = ("gemm", *(name for name in LAYERS if name != "simple"))
PEERS = ("cpu", "onnxruntime", "tinygrad")
THREADS = 2

WITHIN, LAYER, GEMM, BETWEEN = 1.25, 0.85, 0.80, 0.05
"""What is wanted: times of the `cpu` target at most, parts of the peak at least, the part between kernels at most."""

TEAM = 10
"""The priority of implementations for a team, which CPUs prefer."""

TURNS = 8
"""Turns of kernels in each round."""

CHAINS, LENGTH = 24, 4000
"""Accumulators of the kernel of multiply-adds, and how often each is added to."""


@frozen
class Goal:
    """One thing that is wanted: what, how much it is, and whether that is enough."""

    what: str
    value: float
    wanted: str
    met: bool

    def cells(self) -> list[str]:
        """A row of the table."""
        return [self.what, f"{self.value:.3g}", self.wanted, "yes" if self.met else "NO"]


# Kernels against the peak


def fma_source(lanes: int) -> str:
    """A kernel whose work-items do nothing but multiply-adds: CHAINS vectors of `lanes` floats, LENGTH times."""
    names = [f"a{k}" for k in range(CHAINS)]
    lines = [f"float{lanes} x = start;"]
    lines += [f"float{lanes} {name} = start + {k}.0f;" for k, name in enumerate(names)]
    lines += ["#pragma unroll 1", f"for (int i = 0; i < {LENGTH}; ++i) {{"]
    lines += [f"{name} = fma({name}, x, x);" for name in names]
    lines += ["}", f"vstore{lanes}({' + '.join(names)}, get_global_id(0), out);"]
    body = "\n".join(lines)
    head = "__kernel __attribute__((reqd_work_group_size(1, 1, 1)))\nvoid fma_peak(__global float *out, float start)"
    return f"{head}\n{{\n{body}\n}}\n"


def fma_timer(where: Session, vector_bytes: int) -> Callable[[], float]:
    """A function that runs the kernel of multiply-adds once, and returns GFLOP/s by the device's events."""
    cl, lanes = pyopencl(), vector_bytes // 4
    program = cl.Program(where.context, fma_source(lanes)).build()
    items = 4 * where.device.compute_units
    out = cl.Buffer(where.context, cl.mem_flags.READ_WRITE, size=items * vector_bytes)
    kernel = program.fma_peak
    operations = 2.0 * CHAINS * LENGTH * lanes * items

    def once() -> float:
        kernel.set_args(out, np.float32(0.5))  # kernels do not keep their arguments alive, functions do
        event = cl.enqueue_nd_range_kernel(where.timed_queue(), kernel, (items,), (1,))
        event.wait()
        return float(operations / (event.profile.end - event.profile.start))

    return once


def engine_for(lib: CompiledModule, decision: Decision | None = None) -> LaunchEngine:
    """What runs a module; with a decision, its groups are made by it where they can be."""
    runnable = lib.runnable
    if decision is not None:
        backend = backend_of("opencl")
        code = backend.generate(lib.program, runnable.code.isa, lib.threads, lambda problem, function: decision)
        runnable = evolve(runnable, code=code, arena=backend.plan(lib.program, code))
    engine = LaunchEngine(runnable, opencl_queue(find(lib.target.device).index))
    for name, value in fill_inputs(lib.program).items():
        engine.write(lib.program.inputs[name][0], value)
    for action in engine.compile(lib.program.steps):
        action()
    engine.wait()
    return engine


def seconds_in(engine: LaunchEngine, steps: Sequence[KernelStep], target: Target) -> float:
    """Seconds that the launches of steps take by the device's clock."""
    events = opencl_queue(find(target.device).index).events(engine.launches(steps))
    return sum(end - start for start, end in events)


def engines_for(lib: CompiledModule, choice: Choice) -> dict[str, LaunchEngine]:
    """What runs a module of one main step, by the implementation of that step: all for a team that fit."""
    engines = {choice.chosen: engine_for(lib)}
    for candidate in choice.candidates:
        if candidate.refusal is None and candidate.priority >= TEAM and candidate.name not in engines:
            engines[candidate.name] = engine_for(lib, Decision(candidate.name, candidate.config))
    return engines


def flops_of(step: KernelStep, lib: CompiledModule) -> float:
    """Operations of a step; 0 where they are not known."""
    work = work_of_step(step, lib.program)
    return work.flops if work else 0


def kernels(path: Path, target: str, rounds: int) -> Row:
    """GFLOP/s of the kernel with the most operations, by implementation, and of multiply-adds alone: the best runs."""
    lib = build(path, target)
    steps = [step for step in lib.program.leaf_steps() if isinstance(step, KernelStep)]
    work = {step.name: flops_of(step, lib) for step in steps}
    step = max(steps, key=lambda s: work[s.name])
    choice = next(c for c in lib.explain().choices if c.step == step.name)
    engines = engines_for(lib, choice)
    where = session(find(lib.target.device).index)
    peak, best, found = fma_timer(where, lib.runnable.code.isa.vector_bytes), 0.0, dict.fromkeys(engines, 0.0)
    for _ in range(rounds * TURNS):
        best = max(best, peak())
        for name, engine in engines.items():
            taken = min(seconds_in(engine, [step], lib.target) for _ in range(4))
            found[name] = max(found[name], work[step.name] / 1e9 / taken)
    return {"chosen": choice.chosen, "peak": best, "gflops": found}


def between(path: Path, target: str, rounds: int) -> float:
    """The part of a run that is not spent in kernels: its time on the host against the sum of the device's events.

    Both are medians of runs that take turns.
    """
    lib = build(path, target)
    engine = engine_for(lib)
    steps = [step for step in lib.program.leaf_steps() if isinstance(step, KernelStep)]
    actions = engine.compile(lib.program.steps)
    walls, inside = [], []
    for _ in range(rounds * TURNS):
        start = time.perf_counter()
        for action in actions:
            action()
        engine.wait()
        walls.append(time.perf_counter() - start)
        inside.append(seconds_in(engine, steps, lib.target))
    return float(1 - np.median(inside) / np.median(walls))


def build(path: Path, target: str) -> CompiledModule:
    """A model for the target."""
    mod, params = fw.frontend.from_onnx(path)
    return fw.build(mod, target, params)


# What is wanted


def goals(row: Mapping[str, Any]) -> list[Goal]:
    """What is wanted of a model, as far as it was measured."""
    name, ms = row["model"], {engine: times["min"] for engine, times in row["ms"].items()}
    found, own = [], ms.get("fusewire")
    if own and "cpu" in ms and name in NETWORKS:
        ratio = own / ms["cpu"]
        found.append(Goal(f"{name}: time / cpu target's", ratio, f"<= {WITHIN}", ratio <= WITHIN))
    ahead = ("onnxruntime", "tinygrad") if name in NETWORKS[:3] else ("tinygrad",)
    for peer in ahead:
        if own and peer in ms:
            found.append(Goal(f"{name}: {peer}'s time / ours", ms[peer] / own, "> 1", ms[peer] > own))
    if "kernel" in row:
        found += _kernel_goals(name, row["kernel"])
    if "between" in row:
        part = row["between"]
        found.append(Goal(f"{name}: part of a run between kernels", part, f"< {BETWEEN}", part < BETWEEN))
    return found


def _kernel_goals(name: str, kernel: Mapping[str, Any]) -> list[Goal]:
    speeds: dict[str, float] = kernel["gflops"]
    winograd = max((speed for entry, speed in speeds.items() if "winograd" in entry), default=None)
    direct = max((speed for entry, speed in speeds.items() if "winograd" not in entry and "loops" not in entry))
    wanted = GEMM if name == "gemm" else LAYER
    part = direct / kernel["peak"]
    found = [Goal(f"{name}: direct kernel / peak", part, f">= {wanted}", part >= wanted)]
    if winograd is not None:
        found.append(Goal(f"{name}: Winograd / direct", winograd / direct, "> 1", winograd > direct))
    return found


# Files and tables


def table(rows: Sequence[Row], style: str) -> str:
    """The times of all rows, in one of tabulate's styles."""
    engines = ("fusewire", *PEERS)
    body = []
    for row in rows:
        times = [f"{row['ms'][e]['min']:.3f}" if e in row["ms"] else "-" for e in engines]
        kernel = row.get("kernel")
        speeds = sorted((kernel or {"gflops": {}})["gflops"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{entry.rpartition('.')[0]} {speed:.0f}" for entry, speed in speeds)
        body.append([row["model"], *times, shown or "-", f"{kernel['peak']:.0f}" if kernel else "-"])
    heads = ["model", *(f"{e} (ms)" for e in ("opencl", *PEERS)), "kernels (GFLOP/s)", "multiply-adds (GFLOP/s)"]
    return str(tabulate(body, heads, disable_numparse=True, tablefmt=style))


def verdicts(rows: Sequence[Row], style: str) -> str:
    """What is wanted, and whether it is so."""
    body = [goal.cells() for row in rows for goal in goals(row)]
    return str(tabulate(body, ["figure", "measured", "wanted", "met"], disable_numparse=True, tablefmt=style))


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of an earlier run, those measured again in their new form, and then the new ones."""
    fresh = {row["model"]: row for row in new}
    kept = [fresh.pop(row["model"], row) for row in old]
    return [*kept, *fresh.values()]


def gemm_model(folder: Path) -> Path:
    """A product of two matrices of 1024 x 1024, one of them constant, as an ONNX file."""
    path, net = folder / "gemm.onnx", Network()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        net.node("MatMul", "data", net.random(1024, 1024))
        onnx.save(net.model("gemm", {"data": (1024, 1024)}), path)
    return path.resolve()


def measured(name: str, path: Path, target: str, rounds: int, peers: Sequence[str] = PEERS) -> Row:
    """One row."""
    row = measure(path, THREADS, ["fusewire", *peers], target, rounds)
    row.pop("profile", None)
    row["date"] = str(datetime.date.today())
    if name in KERNELS:
        row["kernel"] = kernels(path, target, rounds)
    if name == "resnet18":
        row["between"] = between(path, target, rounds)
    return row


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice([*NETWORKS, *KERNELS]))
@click.option("--target", default="opencl -device=cpu", show_default=True)
@click.option("--tune", "level", type=click.Choice(list(BUDGETS)), default="none", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--peers", default=",".join(PEERS), show_default=True, help="what to compare with")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("output/networks"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--label", default="opencl", show_default=True, help="the name of the files in that folder")
def main(
    names: Sequence[str], target: str, level: str, rounds: int, peers: str, folder: Path, results: Path, label: str
) -> None:
    """Measure, print, write."""
    rows: list[Row] = []
    for name in names or [*NETWORKS, *KERNELS]:
        path = gemm_model(folder) if name == "gemm" else files_of([name], folder)[0]
        if level != "none":
            mod, params = fw.frontend.from_onnx(path)
            found = fw.tune(mod, target, params, level=level)
        rows.append(measured(name, path, target, rounds, peers.split(",")))
        if level != "none":
            rows[-1]["tuned"] = {
                "level": level,
                "before": found.before,
                "after": found.after,
                "withdrawn": found.withdrawn,
            }
    for engine, reason in {e: r for row in rows for e, r in row["left_out"].items()}.items():
        click.echo(f"{engine} left out: {reason}", err=True)
    click.echo(f"{table(rows, 'simple')}\n\n{verdicts(rows, 'simple')}")
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{label}.json"
    whole = merged(json.loads(file.read_text())["rows"] if file.exists() else [], rows)
    device = find(fw.Target(target).device)
    about = {"processor": processor(), "device": str(device), "driver": device.identity, "threads": THREADS}
    file.write_text(json.dumps({**about, "rows": whole}, indent=1) + "\n")
    head = f"{about['processor']}, {device.identity}; the fastest runs of alternating rounds"
    text = [head, table(whole, "github"), verdicts(whole, "github")]
    (results / f"{label}.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
