"""Records of tuning: what is written is read back, whatever happens to the file."""

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from attrs import asdict, evolve

import fusewire as fw
from fusewire.targets.implement import Decision
from fusewire.targets.tuning.store import Key, Timing, TuningStore, default_path, open_store

KEY = Key("cpu", "some processor", "some compiler, avx2", 2, "nn.dense Tensor[(1, 2), float32]", "0123abcd")


def filled(path: Path | None) -> TuningStore:
    store = TuningStore(path)
    store.add_timing(KEY, Timing("gemm.cpu", {"blocks": 2}, 3e-5))
    store.add_timing(KEY, Timing("gemm.cpu", {"blocks": 4}, 1e-5))
    store.add_timing(KEY, Timing("gemm.cpu", {"blocks": 6}, None, "result 0 is wrong"))
    store.decide(KEY, "gemm.cpu", {"blocks": 4}, "fast")
    return store


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_recorded_is_known(tmp_path: Path, stored: bool) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    store = filled(path if stored else None)
    for known in (store, TuningStore(path)) if stored else (store,):
        assert known.decision(KEY) == Decision(
            "gemm.cpu", {"blocks": 4}, {"gemm.cpu": 1e-5}, {"gemm.cpu": "result 0 is wrong"}
        )
        assert known.level(KEY) == "fast" and len(known) == 1


@pytest.mark.parametrize("change", ["target", "device", "driver", "threads", "work", "group", "kernels"])
def test_records_of_something_else_are_not_used(change: str) -> None:
    value = 7 if change in ("threads", "kernels") else "other"
    other = evolve(KEY, **{change: value})  # type: ignore[arg-type]
    assert filled(None).decision(other) is None and filled(None).level(other) == "none"


def test_files_merge_by_putting_them_together(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    filled(one)
    second = TuningStore(other)
    second.decide(KEY, "gemm.cpu", {"blocks": 1}, "heavy")
    second.decide(evolve(KEY, threads=1), "loops.cpu", {}, "fast")
    both = tmp_path / "both.jsonl"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    store = TuningStore(both)
    assert len(store) == 2 and store.level(KEY) == "heavy"
    found = store.decision(KEY)
    assert found is not None and found.config == {"blocks": 1} and found.measured == {"gemm.cpu": 1e-5}


def test_a_store_sees_what_others_add(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    mine, theirs = TuningStore(path), TuningStore(path)
    assert mine.decision(KEY) is None
    theirs.decide(KEY, "gemm.cpu", {}, "fast")
    assert mine.level(KEY) == "fast"
    mine.decide(KEY, "loops.cpu", {}, "normal")
    assert theirs.level(KEY) == "normal" and len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_half_a_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:-cut])
    assert TuningStore(path).level(KEY) == "fast"
    TuningStore(path).decide(KEY, "loops.cpu", {}, "heavy")  # begins a line of its own
    assert TuningStore(path).level(KEY) == "heavy"


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"record": "decision"}',
        json.dumps({"record": "timing", "key": {}, "implementation": "x", "config": {}, "seconds": 1.0}).encode(),
        json.dumps({"record": "decision", "key": asdict(KEY), "implementation": "x", "config": {"a": "b"},
                    "level": "fast"}).encode(),
        json.dumps({"record": "decision", "key": asdict(KEY), "implementation": "x", "config": {},
                    "level": "extreme"}).encode(),
        json.dumps({"record": "decision", "key": {**asdict(KEY), "threads": "2"}, "implementation": "x", "config": {},
                    "level": "fast"}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_record_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "records.jsonl"
    filled(path)
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    found = TuningStore(path).decision(KEY)
    assert found is not None and found.implementation == "gemm.cpu"


def _write_for_ever(path: Path, started: Event) -> None:
    store = TuningStore(path)
    for number in range(10**9):
        store.add_timing(KEY, Timing("gemm.cpu", {"blocks": number}, 1.0))
        store.decide(KEY, "gemm.cpu", {"blocks": number}, "fast")
        if number == 3:
            started.set()


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(path, started))
        writer.start()
        assert started.wait(60)
        time.sleep(0.01)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = TuningStore(path).decision(KEY)
        assert found is not None and found.config["blocks"] >= 3
    lines = path.read_bytes().splitlines()
    broken = [line for line in lines if not line.endswith(b"}")]
    assert len(broken) <= 3 < len(lines)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWIRE_TUNING", str(tmp_path / "mine.jsonl"))
    assert open_store().path == default_path() == tmp_path / "mine.jsonl"
    monkeypatch.setenv("FUSEWIRE_TUNING", "")
    assert open_store().path is None
    monkeypatch.delenv("FUSEWIRE_TUNING")
    assert (found := default_path()) is not None and found.name == "tuning.jsonl"
    store = TuningStore()
    assert open_store(store) is store


def test_what_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(fw.FusewireError, match=r"cannot read tuning records from .*directory"):
        TuningStore(tmp_path).decision(KEY)
    (tmp_path / "file").write_text("")
    with pytest.raises(fw.FusewireError, match="cannot write tuning records to"):
        TuningStore(tmp_path / "file" / "below").decide(KEY, "x", {}, "fast")
