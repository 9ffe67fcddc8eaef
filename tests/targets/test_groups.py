"""Kernels for work-groups: what the verifier lets pass, how they become launches, and their text."""

import pytest

from fusewire.ir.errors import VerifyError
from fusewire.ir.index import Index
from fusewire.ir.loops import Builder, Kernel
from fusewire.ir.scalar import Buffer, apply
from fusewire.targets.csource import Emitter
from fusewire.targets.implement import finish
from fusewire.targets.launches import Plan, plan_launches
from fusewire.targets.opencl.dialect import OPENCL
from fusewire.targets.prelude import Prelude

X, OUT = Buffer("x", (8, 64), "float32"), Buffer("out", (8, 64), "float32")


def finished(b: Builder) -> Kernel:
    return finish(Kernel("k", (X,), (OUT,), b.finish()), 16)


def text(plan: Plan) -> str:
    emitter = Emitter(Prelude(OPENCL))
    buffers = [*plan.kernel.params, *plan.team]
    return "\n".join(emitter.launch(f"k{n}", x, (X,), buffers).text for n, x in enumerate(plan.launches))


def mirrored(barrier: bool = True, size: int = 64, divisor: int = 1) -> Builder:
    """Each group turns a row round by way of local memory."""
    b = Builder()
    with b.loop("row", 8, "workgroup") as row:
        tile = b.alloc("tile", (size,), "float32", "local")
        with b.loop("l", 64, "workitem") as lane:
            b.store(tile, (lane // divisor,), b.load(X, (row, lane)))
            if barrier:
                b.barrier("local")
            b.store(OUT, (row, lane), b.load(tile, (size - 1 - lane // divisor,)))
    return b


def test_quotients_are_known_in_their_shorter_form() -> None:
    """Pixels of rows that are as wide as a group: (64*g + l) // 512 is g // 8, whose remainder stands beside it."""
    b = Builder()
    out = Buffer("out", (4, 8, 64), "float32")
    with b.loop("g", 32, "workgroup") as g, b.loop("l", 64, "workitem") as lane:
        pixel = g * 64 + lane
        b.store(out, (pixel // 512, pixel // 64 % 8, pixel % 64), 1.0)
    assert finish(Kernel("k", (), (out,), b.finish()), 16)
    wrong = Builder()
    with wrong.loop("g", 64, "workgroup") as g, wrong.loop("l", 64, "workitem") as lane:
        wrong.store(out, ((g * 64 + lane) // 1024, g % 8, lane), 1.0)  # g and g + 8 meet
    with pytest.raises(VerifyError, match="may meet in out"):
        finish(Kernel("k", (), (out,), wrong.finish()), 16)


def test_groups_are_a_launch_with_their_size() -> None:
    plan = plan_launches(finished(mirrored()))
    (launch,) = plan.launches
    assert (launch.items, launch.group, launch.shared) == (512, 64, False)
    printed = text(plan)
    assert "reqd_work_group_size(64, 1, 1)" in printed
    lines = [line.strip() for line in printed.split("\n{\n")[1].splitlines()]
    assert lines[2] == "__local float tile[64] __attribute__((aligned(16)));"
    assert "barrier(CLK_LOCAL_MEM_FENCE);" in lines and "const long row = fw_group;" in lines


def test_counters_are_digits_of_the_numbers_of_group_and_item() -> None:
    b = Builder()
    with b.loops("ab", (2, 4), "workgroup") as (y, x), b.loops("cd", (4, 16), "workitem") as (i, j):
        b.store(OUT, (y * 4 + i, x * 16 + j), b.load(X, (y * 4 + i, x * 16 + j)))
    printed = text(plan_launches(finished(b)))
    for line in ("a = fw_group / 4", "b = fw_group % 4", "c = fw_local_item / 16", "d = fw_local_item % 16"):
        assert f"const long {line};" in printed


def test_nests_behind_each_other_and_parallel_loops_are_launches_of_their_own() -> None:
    b = mirrored()
    with b.loop("i", 8, "parallel") as i:
        b.store(OUT, (i, 0), 1.0)
    with b.loop("g", 8, "workgroup") as g, b.loop("l", 32, "workitem") as lane:
        b.store(OUT, (g, lane), 2.0)
    plan = plan_launches(finished(b))
    assert [(x.items, x.group) for x in plan.launches] == [(512, 64), (8, 0), (256, 32)]


def refused(b: Builder, words: str) -> None:
    with pytest.raises(VerifyError, match=words):
        finished(b)


def test_a_missing_barrier_is_refused() -> None:
    refused(mirrored(barrier=False), "may meet in tile")


def test_an_index_that_items_share_is_refused() -> None:
    refused(mirrored(size=8, divisor=8), "may meet in tile")


def test_items_of_different_groups_must_not_meet_in_memory() -> None:
    b = Builder()
    with b.loop("g", 8, "workgroup"), b.loop("l", 64, "workitem") as lane:
        b.store(OUT, (0, lane), 1.0)
    refused(b, "may meet in out")


@pytest.mark.parametrize("limit, fine", [(1, True), (2, False)])
def test_a_branch_may_leave_one_item(limit: int, fine: bool) -> None:
    b = Builder()
    with b.loop("g", 8, "workgroup") as g, b.loop("l", 64, "workitem") as lane:
        test = apply("eq", lane, 0) if limit == 1 else apply("lt", lane, limit)
        with b.when(test):
            b.store(OUT, (g, 0), 1.0)
    if fine:
        finished(b)
    else:
        refused(b, "may meet in out")


def tree(step: int) -> Builder:
    """Sums of 64 elements: in each step, half of the items add what lies `step` halves away."""
    b = Builder()
    with b.loop("g", 8, "workgroup") as g:
        part = b.alloc("part", (64,), "float32", "local")
        with b.loop("l", 64, "workitem") as lane:
            b.store(part, (lane,), b.load(X, (g, lane)))
            for half in (32, 16, 8, 4, 2, 1):
                b.barrier("local")
                with b.when(apply("lt", lane, half)):
                    near = min(half * step // 2, 63 - half + 1)
                    b.store(part, (lane,), b.load(part, (lane,)) + b.load(part, (lane + near,)))
            b.barrier("local")
            b.store(OUT, (g, lane), b.load(part, (0,)))
    return b


def test_a_tree_in_local_memory_passes_and_one_that_overlaps_does_not() -> None:
    assert plan_launches(finished(tree(2))).launches[0].group == 64
    refused(tree(1), "may meet in part")


def rounds(last: bool) -> Builder:
    """A loop that fills local memory again and again, with or without a barrier at its end."""
    b = Builder()
    with b.loop("g", 8, "workgroup") as g:
        tile = b.alloc("tile", (16,), "float32", "local")
        with b.loop("l", 16, "workitem") as lane, b.loop("k", 4) as k:
            b.store(tile, (lane,), b.load(X, (g, k * 16 + lane)))
            b.barrier("local")
            b.store(OUT, (g, k * 16 + lane), b.load(tile, (15 - lane,)))
            if last:
                b.barrier("local")
    return b


def test_the_end_of_an_iteration_meets_the_start_of_the_next() -> None:
    finished(rounds(last=True))
    refused(rounds(last=False), "may meet in tile")


def test_tiles_of_items_may_be_mixed_radix_numbers_and_guarded() -> None:
    b, out = Builder(), Buffer("out", (5, 50), "float32")
    with b.loop("g", 3, "workgroup") as g, b.loop("l", 32, "workitem") as lane:
        flat = g * 32 + lane
        y, x = flat // 13, flat % 13 * 4
        with b.when(apply("lt", flat, 65)), b.loop("j", 4) as j, b.when(apply("lt", x + j, 50)):
            b.store(out, (y, x + j), 1.0)
    finish(Kernel("k", (), (out,), b.finish()), 16)


def misplaced(where: str) -> Builder:
    b = Builder()
    with b.loop("g", 8, "workgroup") as g:
        if where == "statement":
            b.store(OUT, (g, 0), 1.0)
        with b.loop("l", 64, "workitem") as lane:
            if where == "local":
                b.alloc("tile", (4,), "float32", "local")
            if where == "branch":
                with b.when(apply("lt", lane, 7)):
                    b.barrier("local")
            if where == "load":
                with b.when(apply("gt", b.load(X, (g, Index())), 0)):
                    b.barrier("local")
            if where == "loop":
                with b.loop("i", 4, "parallel") as i:
                    b.store(OUT, (g, i), 1.0)
    return b


@pytest.mark.parametrize(
    "where, words",
    [
        ("statement", "work-groups without work-items"), ("local", "not allocated between"),
        ("branch", "a branch that not all"), ("load", "a branch that not all"), ("loop", "stands between statements"),
    ],
)  # fmt: skip
def test_what_stands_in_the_wrong_place_is_refused(where: str, words: str) -> None:
    refused(misplaced(where), words)


def test_items_without_groups_and_barriers_outside_are_refused() -> None:
    b = Builder()
    with b.loop("l", 64, "workitem") as lane:
        b.store(OUT, (0, lane), 1.0)
    refused(b, "workitem loop stands inside")
    b = Builder()
    b.barrier("local")
    refused(b, "outside of work-items")


def test_a_branch_that_all_items_take_may_have_a_barrier() -> None:
    b = Builder()
    with b.loop("g", 8, "workgroup") as g, b.loop("l", 64, "workitem") as lane:
        with b.when(apply("lt", g, 3)):
            b.barrier("local")
        b.store(OUT, (g, lane), 1.0)
    finished(b)


def test_large_private_arrays_are_refused() -> None:
    b = Builder()
    with b.loop("g", 8, "workgroup") as g, b.loop("l", 64, "workitem") as lane:
        own = b.alloc("own", (4096,), "float32", "thread")
        b.store(own, (lane,), 1.0)
        b.store(OUT, (g, lane), b.load(own, (lane,)))
    with pytest.raises(VerifyError, match="the private array own has 16384 bytes"):
        plan_launches(finished(b))
