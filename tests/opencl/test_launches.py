"""Cutting the kernel of a team into launches: what starts one, what shares one, where scratch goes."""

import numpy as np

import fusewire as fw
from fusewire.ir.loops import Builder, Kernel
from fusewire.ir.scalar import Buffer, Load
from fusewire.targets.csource import Emitter
from fusewire.targets.implement import finish
from fusewire.targets.launches import ALIGN, EXPANDED_BYTES, Plan, plan_launches
from fusewire.targets.opencl.dialect import OPENCL
from fusewire.targets.prelude import Prelude
from fusewire.targets.rewrite import all_values, values_of, walk

X, OUT = Buffer("x", (64,), "float32"), Buffer("out", (64,), "float32")


def finished(b: Builder) -> Kernel:
    return finish(Kernel("k", (X,), (OUT,), b.finish()), 64)


def cut(b: Builder) -> Plan:
    return plan_launches(finished(b))


def text(plan: Plan) -> str:
    emitter = Emitter(Prelude(OPENCL))
    buffers = [*plan.kernel.params, *plan.team]
    return "\n".join(emitter.launch(f"k{n}", x, (X,), buffers).text for n, x in enumerate(plan.launches))


def copy(b: Builder, source: Buffer, target: Buffer, start: int, count: int, kind: str = "parallel") -> None:
    with b.loop("i", count, kind) as i:
        b.store(target, (i + start,), b.load(source, (i + start,)))


def test_loops_without_a_barrier_between_them_share_a_launch() -> None:
    b = Builder()
    copy(b, X, OUT, 0, 40)
    copy(b, X, OUT, 40, 24)
    plan = cut(b)
    (launch,) = plan.launches
    assert launch.items == 64 and not launch.shared and plan.calls == ((0, ()),)
    printed = text(plan)
    assert "fw_item >= 0 && fw_item < 40" in printed and "fw_item >= 40 && fw_item < 64" in printed


def test_a_barrier_ends_a_launch_and_team_scratch_is_a_global_buffer() -> None:
    b = Builder()
    scratch = b.alloc("scratch", (64,), "float32", "team")
    other = b.alloc("other", (3,), "float32", "team")
    copy(b, X, scratch, 0, 64)
    b.store(other, (0,), 1.0)
    b.barrier()
    copy(b, scratch, OUT, 0, 64)
    plan = cut(b)
    assert [x.items for x in plan.launches] == [65, 64]  # 64 iterations beside the statement that stands alone
    assert plan.team == {scratch: 0, other: ALIGN} and plan.team_bytes == 2 * ALIGN
    assert "__global float *restrict scratch" in text(plan)


def test_scratch_that_nothing_uses_takes_no_memory() -> None:
    b = Builder()
    b.alloc("scratch", (1 << 20,), "float32", "team")
    copy(b, X, OUT, 0, 64)
    assert cut(b).team_bytes == 0


def test_statements_alone_are_one_work_item_in_their_order() -> None:
    b = Builder()
    copy(b, X, OUT, 0, 64, "serial")
    b.store(OUT, (0,), 5.0)
    (launch,) = cut(b).launches
    assert launch.items == 1 and len(launch.loops[0].body) == 2


def test_large_thread_scratch_makes_work_items_take_shares() -> None:
    b = Builder()
    with b.loop("i", 64, "parallel") as i:
        mine = b.alloc("mine", (4096,), "float32", "thread")
        b.store(mine, (i,), b.load(X, (i,)))
        b.store(OUT, (i,), b.load(mine, (i,)))
    plan = cut(b)
    assert plan.launches[0].shared
    emitter = Emitter(Prelude(OPENCL))
    head = emitter.launch("k0", plan.launches[0], (X,), plan.kernel.params)
    assert head.thread_bytes == 16384 and "fw_scratch + fw_item * 16384" in head.text
    assert "64 * fw_item / fw_items" in head.text


def test_on_request_work_items_take_shares_of_all_loops() -> None:
    b = Builder()
    copy(b, X, OUT, 0, 40)
    copy(b, X, OUT, 40, 24)
    b.store(OUT, (0,), 5.0)
    plan = plan_launches(finished(b), shares=True)
    (launch,) = plan.launches
    assert launch.shared and launch.items == 40
    printed = text(plan)
    assert all(f"{n} * fw_item / fw_items" in printed for n in (40, 24, 1)) and "fw_scratch" not in printed


def lockstep(extent: int, size: int) -> Builder:
    b = Builder()
    v = b.alloc("v", (size,), "float32", "team")
    with b.loop("t", extent, "lockstep") as t:
        with b.loop("i", 4, "parallel") as i:
            b.store(v, (i,), b.load(X, (t * 4 + i,)))
        b.barrier()
        with b.loop("j", 4, "parallel") as j:
            b.store(OUT, (t * 4 + j,), b.load(v, (3 - j,)))
        b.barrier()
    return b


def test_iterations_of_a_lockstep_loop_are_done_at_once() -> None:
    plan = cut(lockstep(8, 4))
    assert [x.items for x in plan.launches] == [32, 32] and len(plan.calls) == 2
    (v,) = plan.team
    assert v.shape == (8, 4)
    reads = [n for s in walk(plan.launches[1].loops) for n in all_values(list(values_of(s))) if isinstance(n, Load)]
    assert all(str(n.index[0]) == "t_j // 4" for n in reads if n.buffer is v)


def test_a_lockstep_loop_with_much_scratch_runs_again_and_again() -> None:
    plan = cut(lockstep(8, EXPANDED_BYTES // 4))
    assert len(plan.launches) == 2 and [x.items for x in plan.launches] == [4, 4]
    assert plan.calls == tuple((k, (t,)) for t in range(8) for k in (0, 1))
    assert "const long t" in text(plan)


def test_scratch_read_after_the_loop_keeps_the_iterations_apart() -> None:
    b = lockstep(8, 4)
    (v,) = [s.buffer for s in b.finish() if hasattr(s, "buffer")]
    with b.loop("k", 4, "parallel") as k:
        b.store(OUT, (k,), b.load(v, (k,)))
    assert len(cut(b).calls) == 17


def test_winograd_is_two_launches() -> None:
    """The blocks of tiles of a 56 x 56 picture, which `cpu` does one after the other."""
    rng = np.random.default_rng(0)
    weight = fw.const(rng.uniform(-1, 1, (64, 64, 3, 3)).astype(np.float32))
    x = fw.var("x", shape=(1, 64, 56, 56))
    net = fw.nn.conv2d(x, weight, kernel_size=(3, 3), channels=64, padding=(1, 1))
    for _ in range(3):
        net = fw.nn.conv2d(net, weight, kernel_size=(3, 3), channels=64, padding=(1, 1))
    lib = fw.build(fw.Function([x], net), "opencl")
    found = {c.chosen for c in lib.explain().choices if "nn.conv2d" in c.ops}
    assert found == {"conv2d_winograd4_nchwc.opencl"}
    assert lib.get_source().count("__kernel") == 4  # equal layers share theirs; two more change the layout
