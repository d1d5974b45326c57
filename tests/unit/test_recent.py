"""What is asked for again: nothing is read when nothing was written, and nobody's change reaches another."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from car_sched_nb import frames
from car_sched_nb.frames import recent, scan
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import DAY, HOUR, MONDAY, Recorder, advance, clock_at, every, running

NOW = clock_at(MONDAY + DAY).now_us()

pytestmark = pytest.mark.skipif(
    int(pd.__version__.partition(".")[0]) < 3 or os.name == "nt", reason="every frame is read there"
)


def settle(store: SqliteStore) -> None:
    """Make what was written older than the files' clock is coarse."""
    for name in (store.path, f"{store.path}-wal"):
        if Path(name).exists():
            at_ns = Path(name).stat().st_mtime_ns - 1_000_000_000
            os.utime(name, ns=(at_ns, at_ns))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a day of an hourly task."""

    async def fill() -> None:
        clock = clock_at()
        async with running(store, Recorder(), clock=clock, namespace="n") as s:
            await s.add(every("1h", "a", params={"region": "eu"}))
            await advance(s, clock, DAY)

    store = SqliteStore(tmp_path_factory.mktemp("recent") / "car.db")
    anyio.run(fill)
    store.close()
    return Path(store.path)


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Iterator[SqliteStore]:
    """That store, for one test."""
    store = SqliteStore(shutil.copy(made, tmp_path))
    settle(store)
    yield store
    store.close()
    recent.forget()


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of the store as a table, the real reading behind it."""
    sources: list[str] = []
    real = frames.history.__globals__["scan"]

    def read(store: SqliteStore, source: str, *rest: Any) -> Any:
        sources.append(source)
        return real(store, source, *rest)

    monkeypatch.setitem(frames.history.__globals__, "scan", read)
    return sources


def history(store: SqliteStore, **asked: Any) -> pd.DataFrame:
    return frames.history(store, **{"now_us": NOW, **asked})


def test_nothing_is_read_again_when_nothing_was_written(filled: SqliteStore, scans: list[str]):
    first = history(filled)
    assert_frame_equal(history(filled), first)
    assert_frame_equal(history(filled, task="a", columns=["status", "params"]), first[["status", "params"]])
    assert_frame_equal(history(filled), first)
    assert len(scans) == 2


def test_what_is_written_is_seen_at_once(filled: SqliteStore, scans: list[str]):
    before = history(filled)
    with filled.transaction() as db:
        db.execute("UPDATE executions SET answer = 'another' WHERE seq = 1")
    after = history(filled)
    assert after["answer"].iloc[0] == "another"
    assert before["answer"].iloc[0] != "another"
    assert len(scans) == 2
    history(filled)
    assert len(scans) == 2
    filled.close()  # all is in the one file then, whose clock is coarse: what was written just now is not trusted
    again = SqliteStore(filled.path)
    for _ in range(2):
        assert history(again)["answer"].iloc[0] == "another"
    assert len(scans) == 4
    settle(again)
    for _ in range(2):
        history(again)
    assert len(scans) == 5
    again.close()


THEIRS = """
import sys
from car_sched_nb.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
for line in sys.stdin:
    with store.transaction() as db:
        db.execute("UPDATE executions SET answer = ? WHERE seq = 1", (line.strip(),))
    print("written", flush=True)
"""


def test_what_another_process_writes_is_seen_at_once(filled: SqliteStore, scans: list[str]):
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", THEIRS, filled.path], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        for number in range(20):
            print(number, file=other.stdin, flush=True)
            assert other.stdout.readline() == "written\n"
            for _ in range(2):
                assert history(filled)["answer"].iloc[0] == str(number)
        other.stdin.close()
    assert len(scans) == 20


def test_what_is_not_on_the_disk_yet_is_seen_when_it_is(filled: SqliteStore, scans: list[str]):
    """A commit shows when its journal is on the disk: until then a reader has the old rows, and the file a new time."""
    with filled.transaction() as db:
        db.execute("UPDATE executions SET answer = 'first' WHERE seq = 1")
    with filled.transaction() as db:
        db.execute("PRAGMA cache_spill = 1")
        db.execute("UPDATE executions SET answer = 'second' || hex(randomblob(50000))")  # too much to be held back
        settle(filled)
        assert history(filled)["answer"].iloc[0] == "first"
    settle(filled)
    assert history(filled)["answer"].iloc[0].startswith("second")
    assert len(scans) == 2


def test_what_pandas_gives_away_is_nobody_elses(filled: SqliteStore):
    first = history(filled)
    untouched = first.copy(deep=True)
    untouched["params"] = pd.Series([dict(values) for values in first["params"]], index=first.index, dtype=object)
    changes: list[Callable[[pd.DataFrame], Any]] = [
        lambda frame: frame["task"].to_numpy().__setitem__(0, "other"),
        lambda frame: frame["status"].array.__setitem__(0, "failed"),
        lambda frame: frame["started_at"].array.__setitem__(0, pd.Timestamp(0, tz="UTC")),
        lambda frame: frame["tokens_in"].array.__setitem__(0, 5),
        lambda frame: frame["owner"].array.__setitem__(0, "other"),
        lambda frame: frame["cost"].array.__setitem__(0, 9.0),
        lambda frame: frame["attempt"].array.__setitem__(0, 99),
        lambda frame: frame["duration"].array.__setitem__(0, pd.Timedelta(5, "s")),
    ]
    for change in changes:
        before, mine = history(filled), history(filled)
        change(mine)
        assert_frame_equal(before, untouched)
        assert_frame_equal(history(filled), untouched)
        recent.forget()
        mine = history(filled)  # the first to whom it is given
        change(mine)
        assert not mine.equals(untouched)
        assert_frame_equal(history(filled), untouched)
        recent.forget()


def test_a_change_of_one_caller_does_not_reach_the_next(filled: SqliteStore, scans: list[str]):
    mine = history(filled)
    untouched = mine.copy(deep=True)
    untouched["params"] = pd.Series([dict(values) for values in mine["params"]], index=mine.index, dtype=object)
    mine.loc[mine.index[0], "answer"] = "mine"
    mine["status"] = mine["status"].cat.rename_categories(str.upper)
    mine["more"] = 1
    mine["params"].iloc[0]["region"] = "mine"
    del mine["slot"]
    assert_frame_equal(history(filled), untouched)
    assert len(scans) == 1


def test_the_last_hours_are_cut_from_what_was_read(filled: SqliteStore, scans: list[str]):
    hour_us = HOUR.total_seconds() * 1e6
    for after_us in (0, 1, int(hour_us), int(2.5 * hour_us), int(30 * hour_us)):
        for asked in ({}, {"columns": ["params", "scheduled_at"]}):
            recent.forget()
            alone = history(filled, since="6h", now_us=NOW + after_us, **asked)
            recent.forget()
            history(filled, since="6h", **asked)
            count = len(scans)
            assert_frame_equal(history(filled, since="6h", now_us=NOW + after_us, **asked), alone)
            assert len(scans) == count


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"since": "6h"}, {"since": "7h"}),
        ({"since": "6h"}, {}),
        ({}, {"since": "6h"}),
        ({"since": "6h", "limit": 3}, {"since": "5h", "limit": 3}),
        ({"since": "6h", "columns": ["status"]}, {"since": "5h", "columns": ["status"]}),
        ({"until": "6h"}, {"until": "5h"}),
        ({"status": "completed"}, {"status": "failed"}),
        ({"columns": ["status", "slot"]}, {"columns": ["slot", "status"]}),
        ({"limit": 3}, {"limit": 4}),
        ({"task": "a"}, {"task": "a", "runner": "shell"}),
    ],
    ids=str,
)
def test_what_was_asked_for_otherwise_is_read(
    filled: SqliteStore, scans: list[str], first: dict[str, Any], then: dict[str, Any]
):
    alone = history(filled, **then)
    recent.forget()
    history(filled, **first)
    count = len(scans)
    assert_frame_equal(history(filled, **then), alone)
    assert len(scans) == count + 1


def test_memory_is_given_back(filled: SqliteStore, scans: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recent, "MOST_ROWS", 30)
    history(filled)
    history(filled, limit=20)
    history(filled)
    assert len(scans) == 3  # the older one had to go
    recent.forget()
    monkeypatch.setattr(recent, "KEEP_S", 0.01)
    history(filled)
    for _ in range(1_000):
        if not recent._kept:
            return
        time.sleep(0.01)
    pytest.fail("it is kept for ever")


@pytest.mark.parametrize("guarded", [True, False])
def test_no_row_is_half_of_before_a_change(filled: SqliteStore, monkeypatch: pytest.MonkeyPatch, guarded: bool):
    """A row fails while its usual columns have been read and its others have not; without the guard it is seen."""
    real = scan._unusual

    def later(*given: Any) -> Any:
        with filled.transaction() as db:
            db.execute("UPDATE executions SET status = 'failed', error = 'broken' WHERE seq = 7")
        return real(*given)

    @contextmanager
    def unguarded() -> Iterator[SqliteStore]:
        yield filled

    monkeypatch.setattr(scan, "FEW", 0)
    monkeypatch.setattr(scan, "_unusual", later)
    if not guarded:
        monkeypatch.setattr(filled, "snapshot", unguarded)
    frame = history(filled, columns=["status", "error"])
    torn = ((frame["status"] == "failed") != frame["error"].notna()).any()
    assert torn == (not guarded)
