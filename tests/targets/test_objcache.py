import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusewire.targets.objcache import ObjectCache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("damaged", [False, True])
def test_cache_deleted_at_any_step_of_writing(cache: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """Before the k-th step that changes the disk, for each k, the whole cache disappears."""
    store, steps, deadline = ObjectCache(cache), 0, 0

    def losing(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == deadline:
                shutil.rmtree(cache)
            return change(*args, **kwargs)

        return wrapper

    for name in ("mkdir", "write_bytes", "rename"):
        monkeypatch.setattr(Path, name, losing(getattr(Path, name)))
    while deadline <= steps:  # until a whole put has fewer steps than that
        store.put("key", b"library", {"a.c": "text"}, {})
        if damaged:
            (cache / "objects/ke/key/lib.so").unlink()
        else:
            store.drop("key")
        steps, deadline = 0, deadline + 1
        path = store.put("key", b"library", {"a.c": "text"}, {})
        assert path.is_relative_to(cache)
        # What is there is whole, or refused by the next reader.
        assert store.find("key") is None or (path.parent / "a.c").exists()
        assert store.put("key", b"library", {"a.c": "text"}, {}) == store.find("key") == path
        assert list((cache / "tmp").iterdir()) == []
        failed = store.keep_failed(f"{deadline}", {"b.c": "text"})
        assert failed.name == f"{deadline}"
    assert deadline > 6


def test_eviction_removes_failed_sources_and_abandoned_folders_but_not_the_newest(cache: Path) -> None:
    store = ObjectCache(cache)
    failed = store.keep_failed("bad", {"f.c": "x" * 1000})
    store.put("aa", bytes(1000), {}, {})
    for name, age in (("1-old", 10_000), ("2-new", 0)):
        folder = cache / "tmp" / name
        folder.mkdir()
        now = folder.stat().st_mtime
        os.utime(folder, (now - age, now - age))
    assert store.evict(0, keep="aa") == 1
    assert not failed.exists() and store.find("aa")
    assert [folder.name for folder in (cache / "tmp").iterdir()] == ["2-new"]
    assert store.evict(0) == 1 and store.find("aa") is None
