"""A control: lives whose claims are guarded by nothing. What watches the promise must see it broken."""

from __future__ import annotations

from car_sched_nb.store import schema, sqlite
from tests.crash import life

CURSOR = "AND (j.expected IS NULL OR tasks.cursor = j.expected)"
GUARD = "CREATE UNIQUE INDEX guard"
OWN_ID = "execution_id TEXT NOT NULL UNIQUE"
SAME_GAP = sqlite._INSERT[sqlite._INSERT.index("ON CONFLICT") :]


def live(store: str, log: str, grid: str) -> None:
    _drop_the_guards()
    life.live(store, log, grid)


def live_calmly(store: str, log: str, grid: str) -> None:
    _drop_the_guards()
    life.live_calmly(store, log, grid)


def _drop_the_guards() -> None:
    """Do without the cursor's check, the unique index, and ids that are there once."""
    sqlite._SETTLE = _without(sqlite._SETTLE, CURSOR, "")
    sqlite._INSERT = _without(sqlite._INSERT, SAME_GAP, "")
    tables = _without(schema.STEPS[0], GUARD, "CREATE INDEX guard")
    schema.STEPS = (_without(tables, OWN_ID, "execution_id TEXT NOT NULL"), *schema.STEPS[1:])


def _without(sql: str, guard: str, instead: str) -> str:
    assert guard in sql, f"the guard reads differently now: {guard}"
    return sql.replace(guard, instead)
