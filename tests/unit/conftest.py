"""Stores as interchangeable fixtures: one suite for memory and for a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
