"""What the quick ways of reading return is what a plain query returns, whatever is in the rows."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pandas as pd
import pytest

from car_sched_nb import frames
from car_sched_nb.frames import gathered, scan
from car_sched_nb.model import Cause, Status, Trigger
from car_sched_nb.store.sqlite import SqliteStore

TEXTS = (None, None, "", " ", "a", "grün 🚗\n", "\x01\x1f,;|", "'\"--", "0", "long " * 5_000)
COLUMNS = {
    "execution_id": str,
    "task_id": str,
    "trigger": str,
    "slot": str,
    "attempt": int,
    "status": str,
    "scheduled_at": "instant",
    "started_at": "instant",
    "finished_at": "instant",
    "duration": "length",
    "slots": int,
    "cause": str,
    "version": int,
    "runner": str,
    "executor": str,
    "answer": str,
    "error": str,
    "error_type": str,
    "turns": int,
    "tool_calls": int,
    "tokens_in": int,
    "tokens_out": int,
    "cost": float,
    "model": str,
}


def random_row(chance: random.Random, seq: int, tasks: int) -> dict[str, Any]:
    """Return a row with anything in it that a column may hold."""
    often = chance.random() < 0.5
    row: dict[str, Any] = {
        "seq": seq,
        "execution_id": f"e{seq}" + chance.choice(["", " ü", "#1"]),
        "occurrence_id": f"o{seq}",
        "task_id": f"task {chance.randrange(tasks)}",
        "trigger": chance.choice(list(Trigger)),
        "slot": chance.choice(["7", "2026-10-25T02:30:00+02:00", "x"]),
        "status": chance.choice([Status.FAILED, Status.COMPLETED, Status.SKIPPED]),
        "cause": Cause.SLOT if often else chance.choice(list(Cause)),
        "attempt": 1 if often else chance.randrange(9),
        "slots": 1 if often else chance.choice([0, 5, 10**12]),
        "version": chance.choice([0, 3, 2**62]),
        "runner": chance.choice(["python", "shell", "ünï"]),
        "executor": chance.choice(["thread", "loop"]),
        "scheduled_at": chance.choice([0, -(10**15), 1_700_000_000_000_000 + seq]),
        "cost": chance.choice([None, 0.0, -1.5, 1e-300, 12345.678901]),
    }
    for name in ("started_at", "finished_at", "duration", "turns", "tool_calls", "tokens_in", "tokens_out"):
        row[name] = None if often else chance.choice([None, 0, -5, 7, 2**53 + 1, 4 * 10**15])
    for name in ("answer", "error", "error_type", "model"):
        row[name] = None if often else chance.choice(TEXTS)
    return row


def filled(store: SqliteStore, rows: list[dict[str, Any]]) -> None:
    with store.transaction() as db:
        names = ", ".join(rows[0])
        db.executemany(f"INSERT INTO executions ({names}) VALUES ({', '.join(f':{name}' for name in rows[0])})", rows)


def as_plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the values of a frame's columns as SQLite has them."""
    found: dict[str, list[Any]] = {}
    for name, kind in COLUMNS.items():
        series = frame.index.to_series() if name == "execution_id" else frame[name]
        if kind in ("instant", "length"):
            unit = "datetime64[us]" if kind == "instant" else "timedelta64[us]"
            whole = series.to_numpy(unit).astype("int64")
            found[name] = [None if value == gathered.NOT_A_TIME else int(value) for value in whole]
        else:
            assert callable(kind)
            found[name] = [None if pd.isna(value) else kind(value) for value in series]
    return found


def by_plain_query(store: SqliteStore, where: str, *bound: Any) -> dict[str, list[Any]]:
    rows = store.rows(f"SELECT {', '.join(COLUMNS)} FROM executions WHERE {where} ORDER BY seq", *bound)
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    return {
        name: [None if value == "" else value for value in column]
        for name, column in zip(COLUMNS, columns, strict=True)
    }


def pieces_of(store: SqliteStore) -> pd.DataFrame:
    """Return all as an export reads it."""
    from car_sched_nb.frames.history import batches

    with store.snapshot() as view:
        return pd.concat(list(batches(view, "TRUE", [], None, 11)))


@pytest.mark.parametrize("few", [True, False], ids=["by the index", "in pieces"])
@pytest.mark.parametrize("seed", range(4))
def test_the_quick_ways_read_what_a_plain_query_reads(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, few: bool, seed: int
):
    monkeypatch.setattr(scan, "FEWEST", 5)
    if not few:
        monkeypatch.setattr(scan, "FEW", 0)
        monkeypatch.setattr(scan, "CHUNK", 13)
    chance = random.Random(seed)
    seqs = sorted(chance.sample(range(1, 400), 150))
    filled(store, [random_row(chance, seq, tasks=(2, 60)[seed % 2]) for seq in seqs])
    ask: Callable[..., pd.DataFrame] = lambda **given: frames.history(store, now_us=0, **given)  # noqa: E731
    assert as_plain(ask()) == by_plain_query(store, "TRUE")
    assert as_plain(ask(status="failed")) == by_plain_query(store, "status = 'failed'")
    assert as_plain(ask(runner="ünï", until="1970-01-02T00:00Z")) == by_plain_query(
        store, "runner = 'ünï' AND scheduled_at < 86400000000"
    )
    assert as_plain(pieces_of(store)) == by_plain_query(store, "TRUE")
    assert as_plain(ask(limit=20)) == by_plain_query(
        store, "seq IN (SELECT seq FROM executions ORDER BY seq DESC LIMIT 20)"
    )


@pytest.mark.parametrize("broken", ["a place too far", "others in another order"])
def test_what_is_gathered_at_a_wrong_place_is_caught_by_this_test(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, broken: str
):
    monkeypatch.setattr(scan, "FEW", 0)
    monkeypatch.setattr(scan, "CHUNK", 13)
    chance = random.Random(1)
    filled(store, [random_row(chance, seq, tasks=5) for seq in range(1, 150)])
    real = gathered.Gathered.add

    def shifted(self: gathered.Gathered, piece: Any, count: int, at: Any) -> None:
        real(self, piece, count, (at + 1) % max(count, 1) if broken == "a place too far" else at[::-1])

    monkeypatch.setattr(gathered.Gathered, "add", shifted)
    read = frames.history(store, columns=["attempt"], now_us=0)["attempt"].tolist()
    assert read != by_plain_query(store, "TRUE")["attempt"]


@pytest.mark.parametrize("few", [True, False], ids=["by the index", "in pieces"])
def test_texts_that_are_too_long_together_are_read_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch, few: bool):
    real = SqliteStore._connect

    def narrow(self: SqliteStore, read: bool = False) -> apsw.Connection:
        connection = real(self, read)
        if read:
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, 60_000)  # as a billion is for a million long answers
        return connection

    monkeypatch.setattr(SqliteStore, "_connect", narrow)
    if not few:
        monkeypatch.setattr(scan, "FEW", 0)
    store = SqliteStore(path)
    store.migrate()
    chance = random.Random(7)
    filled(store, [random_row(chance, seq, tasks=3) | {"answer": "語" * 4_000} for seq in range(1, 100)])
    assert as_plain(frames.history(store, now_us=0)) == by_plain_query(store, "TRUE")
    assert as_plain(pieces_of(store)) == by_plain_query(store, "TRUE")
    store.close()
