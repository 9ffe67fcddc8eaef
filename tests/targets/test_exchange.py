"""Exchanges between work-items: where they may stand, and what they become without shuffles."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fusewire.ir.errors import VerifyError
from fusewire.ir.index import Index
from fusewire.ir.loops import Alloc, Barrier, Builder, Kernel
from fusewire.ir.scalar import Buffer, apply
from fusewire.targets.groups import check_races, has_exchange
from fusewire.targets.launched.exchange import through_memory
from fusewire.targets.prove import verify
from fusewire.targets.rewrite import walk

X, Y = Buffer("x", (64,), "float32"), Buffer("y", (64,), "float32")


@contextmanager
def items(b: Builder) -> Iterator[tuple[Index, Buffer]]:
    """A group of 64 items, each with one number of its own."""
    with b.loop("group", 1, "workgroup"), b.loop("item", 64, "workitem") as item:
        own = b.alloc("own", (1,), "float32")
        b.store(own, (0,), b.load(X, (item,)))
        yield item, own


def kernel(b: Builder) -> Kernel:
    return Kernel("k", (X,), (Y,), b.finish())


def test_an_exchange_is_an_operand_of_a_store() -> None:
    b = Builder()
    with items(b) as (item, own):
        b.store(own, (0,), b.load(own, (0,)) + apply("item_xor4", b.load(own, (0,))))
        b.store(Y, (item,), b.load(own, (0,)))
    verify(kernel(b))
    b = Builder()
    with items(b) as (item, own):
        b.store(Y, (item,), apply("exp", b.load(own, (0,)) + apply("item_xor4", b.load(own, (0,)))))
    with pytest.raises(VerifyError, match="inside another value"):
        verify(kernel(b))


def test_all_items_come_to_an_exchange() -> None:
    b = Builder()
    with items(b) as (item, own), b.when(apply("lt", item, 7)):
        b.store(own, (0,), apply("item_xor1", b.load(own, (0,))))
    with pytest.raises(VerifyError, match="not all work-items"):
        verify(kernel(b))
    b = Builder()
    with b.loop("i", 64, "parallel") as i:
        b.store(Y, (i,), apply("item_xor1", b.load(X, (i,))))
    with pytest.raises(VerifyError, match="outside of work-items"):
        verify(kernel(b))


def test_without_shuffles_values_go_through_local_memory() -> None:
    b = Builder()
    with items(b) as (item, own):
        b.store(own, (0,), b.load(own, (0,)) + apply("item_xor16", b.load(own, (0,))))
        b.store(Y, (item,), b.load(own, (0,)))
    new = through_memory(kernel(b))
    verify(new)
    check_races(new)
    stmts = list(walk(new.body))
    assert not has_exchange(new.body)
    assert [s.buffer.shape for s in stmts if isinstance(s, Alloc) and s.buffer.scope == "local"] == [(64,)]
    assert sum(isinstance(s, Barrier) for s in stmts) == 2
