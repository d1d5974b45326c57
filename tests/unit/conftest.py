"""Stores as interchangeable fixtures: one suite for memory and for a file."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from car_sched_nb.engine import neighbours
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store that outlives the schedulers which use it: leaving one and entering another is a restart."""
    opened = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "car.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store on disk may lie."""
    return tmp_path / "car.db"


@pytest.fixture
def known_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same task ids in each test, and so the same chances, which are hashes of them."""
    numbers = count(3)  # chances of about a half
    monkeypatch.setattr(records, "new_id", lambda: f"{next(numbers):010x}")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers that look at what others wrote 50 times a second, so that a test need not wait for it."""
    for name in ("LOOK_S", "_ALONE_S"):
        monkeypatch.setattr(neighbours, name, 0.02)
