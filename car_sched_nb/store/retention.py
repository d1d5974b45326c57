"""Removing old history, by hand or by rules, without what admission needs to know.

Whoever removes goes through `expired` (which tasks), `choose` (which rows) and `remove` (some of them, in one
transaction).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from car_sched_nb.durations import parse_duration
from car_sched_nb.errors import InvalidInput
from car_sched_nb.store.settings import NONE
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.when import read_instant

AT_ONCE = 500
"""Rows that one transaction removes: a claim may have to wait for it."""

ALL = "all"
"""The rule that keeps everything."""

_CHOSEN = 20_000  # rows that are chosen at once
_EVER = 1 << 62
_DAY_US = 25 * 3_600_000_000  # the longest that there is
_MOST = 1_000_000_000
_RUNS = 100  # maintenances that are remembered

Query = Callable[..., list[tuple[Any, ...]]]
"""Runs SQL with its bindings and returns the rows: `SqliteStore.rows`, or the same inside a transaction."""


class Rule(NamedTuple):
    """How much history is kept: so many newest executions of each task, or those that ended so long ago at most."""

    text: str
    newest: int = 0
    age_us: int = 0


def rule_of(text: str) -> Rule:
    """Return what `--keep` says; without a number and a length it keeps everything.

    Raises
    ------
    InvalidInput
        Says what to type instead.
    """
    text = text.strip()
    if text in ("", ALL):
        return Rule(text)
    if text.isdecimal() and text.isascii():
        if not 0 < len(text) < len(str(_MOST)) or int(text) < 1:
            raise _refusal(text)
        return Rule(text, newest=int(text))
    try:
        if text.lstrip("+-").replace(".", "").isdigit():
            raise _refusal(text)  # as a length it would be seconds
        return Rule(text, age_us=parse_duration(text))
    except InvalidInput:
        raise _refusal(text) from None


def _refusal(text: str) -> InvalidInput:
    return InvalidInput(
        f"--keep is a number of executions from 1 (--keep 1000), a length of time (--keep 90d) or all, not {text!r}"
    )


def kept_in_words(keep: str) -> str:
    """Return what a task's `--keep` says, in words."""
    rule = rule_of(keep)
    if rule.newest:
        return f"keeps its newest {rule.newest:,} execution{'s' * (rule.newest != 1)}"
    return f"keeps its history for {rule.text}" if rule.age_us else "keeps all its history"


class Expired(NamedTuple):
    """A task with rows to be removed: those below a `seq`, and of them those that ended before an instant."""

    task_id: str
    rule: str
    below: int = _EVER
    before_us: int = _EVER


class Gone(NamedTuple):
    """What a transaction removed: how many rows, and the files that their outputs have left."""

    executions: int
    paths: list[Path]


# Each task with its own rule, else its notebook's, else the one for all; that of a deleted task is not heeded any more.
_RULES = """
    SELECT t.id, coalesce(nullif(iif(t.deleted_at IS NULL, t.definition ->> 'keep', NULL), ''), own.value, every.value)
    FROM tasks t LEFT JOIN settings own ON own.namespace = t.namespace AND own.name = 'keep'
        LEFT JOIN settings every ON every.namespace = '' AND every.name = 'keep'
    WHERE coalesce(nullif(iif(t.deleted_at IS NULL, t.definition ->> 'keep', NULL), ''), own.value, every.value)
        IS NOT NULL"""
# The oldest of those that are kept, of tasks that have older ones.
_BELOW = """
    SELECT * FROM (SELECT t.value AS id, (SELECT e.seq FROM executions e INDEXED BY by_task WHERE e.task_id = t.value
        ORDER BY e.seq DESC LIMIT 1 OFFSET ?) AS below FROM json_each(?) t)
    WHERE below > (SELECT min(e.seq) FROM executions e INDEXED BY by_task WHERE e.task_id = id)"""
_OLDER = """
    SELECT t.value FROM json_each(?) t WHERE (SELECT coalesce(e.finished_at, 0) FROM executions e INDEXED BY by_task
        WHERE e.task_id = t.value ORDER BY e.seq LIMIT 1) < ?"""


def expired(store: SqliteStore, now_us: int) -> list[Expired]:
    """Return the tasks that may have more history than their rules keep; from any thread."""
    tasks: dict[str, list[str]] = {}
    for task_id, text in store.rows(_RULES):
        tasks.setdefault(str(text), []).append(task_id)
    found: list[Expired] = []
    tasks.pop(NONE, None)
    for text, ids in tasks.items():
        rule, given = rule_of(text), msgspec.json.encode(ids).decode()
        if rule.newest:
            found += [Expired(id_, text, below=below) for id_, below in store.rows(_BELOW, rule.newest - 1, given)]
        elif rule.age_us:
            before_us = now_us - rule.age_us
            found += [Expired(id_, text, before_us=before_us) for (id_,) in store.rows(_OLDER, given, before_us)]
    return found


def before_us(given: Any, now_us: int) -> int:
    """Return the instant before which history is to be removed.

    Raises
    ------
    InvalidInput
        For what is no instant, and for one that lies ahead: that would be nearly all.
    """
    if given is None:
        raise InvalidInput("say before when: before='90d', before='2026-01-01'")
    found_us = read_instant(given, now_us=now_us).at_us
    if found_us > now_us:
        raise InvalidInput(f"{given} lies ahead; write how long ago, 90d, or a day that has passed, 2026-01-01")
    return found_us


def ended_before(store: SqliteStore, namespace: str, before_us: int) -> list[Expired]:
    """Return the tasks of a namespace, deleted ones too, for removing what ended before an instant."""
    # All rows in one go: by an index of the tasks each row of a large store would be looked up by itself.
    sql = """SELECT t.id FROM (SELECT DISTINCT e.task_id FROM executions e NOT INDEXED WHERE e.finished_at < ?) old
        CROSS JOIN tasks t ON t.id = old.task_id WHERE t.namespace = ?"""
    return [Expired(row[0], "", before_us=before_us) for row in store.rows(sql, before_us, namespace)]


# Kept whatever its age:
# - what is live, and the attempts before it, and what it follows;
# - the newest row of each task (its status, what follows it), and so the newest of all: numbers are never given again;
# - its newest attempt, its newest success (bodies ask for it), and the end that other tasks may still follow;
# - the newest row of its plan, which may be a gap that goes on;
# - its newest slot, which `run_once` must find served, also when something else ran since;
# - slots beyond its cursor, which were run by a hand or before the clock was set back;
# - slots that were run by a hand or filled in while there is a gap that they may be in: gaps go first;
# - what counts for a budget of today.
_NEWEST = """e.seq NOT IN (SELECT n.seq FROM executions n INDEXED BY by_task WHERE n.task_id = ?1 AND {}
        ORDER BY n.seq DESC LIMIT 1)"""
_IS_AN_END = """(n.status IN ('completed', 'failed', 'cancelled', 'timed_out', 'interrupted')
            OR (n.status = 'skipped' AND n.trigger = 'after' AND n.reason IN ('upstream', 'budget')))
        AND NOT EXISTS (SELECT 1 FROM executions x WHERE x.occurrence_id = n.occurrence_id AND x.seq != n.seq
            AND x.status IN ('waiting', 'running', 'completed'))"""
_GUARDS = {
    "the newest": _NEWEST.format("true"),
    "the newest attempt": _NEWEST.format("n.attempt > 0"),
    "the newest of its plan": _NEWEST.format("n.cause = 'slot'"),
    "the newest success": _NEWEST.format("n.status = 'completed'"),
    "the newest end": _NEWEST.format(_IS_AN_END),
    "the newest slot": """NOT (e.trigger != 'manual' AND e.attempt > 0 AND e.scheduled_at = (SELECT max(n.scheduled_at)
        FROM executions n WHERE n.task_id = ?1 AND n.attempt > 0 AND n.trigger != 'manual'))""",
    "before what is live": """e.occurrence_id NOT IN (SELECT l.occurrence_id FROM executions l INDEXED BY live
        WHERE l.task_id = ?1 AND l.status IN ('waiting', 'running'))""",
    "followed by what is live": """e.execution_id NOT IN (SELECT u.value FROM executions l INDEXED BY live,
        json_each(l.upstream) u WHERE l.status IN ('waiting', 'running') AND l.upstream IS NOT NULL)""",
    "beyond the cursor": """NOT (e.trigger != 'manual' AND e.attempt > 0
        AND coalesce(e.scheduled_at >= (SELECT t.next_at FROM tasks t WHERE t.id = ?1), FALSE))""",
    "in a gap": """NOT (e.cause IN ('backfill', 'hand', 'retry') AND e.trigger != 'manual'
        AND coalesce(e.scheduled_at >= (SELECT min(g.scheduled_at) FROM executions g WHERE g.task_id = ?1
            AND g.status IN ('missed', 'skipped')), FALSE))""",
    "of today's budget": """NOT (e.finished_at > ?4
        AND coalesce((SELECT t.definition ->> 'daily_tokens' FROM tasks t WHERE t.id = ?1), 0) > 0)""",
}


def choose(rows: Query, which: Expired, now_us: int, *, gaps: bool, after: int) -> list[int]:
    """Return the `seq` of rows that may go, the oldest first: of those after a `seq`, gaps or all others.

    What it keeps, it keeps by what is in the store: whoever stops after any of them leaves a history that is right.
    Gaps have to go first.
    """
    part = f"e.seq > ?5 AND {'' if gaps else 'NOT'} (e.status IN ('missed', 'skipped'))"
    sql = f"{_may_go(part)} ORDER BY e.seq LIMIT {_CHOSEN}"
    return [int(row[0]) for row in rows(sql, *_given(which, now_us), after)]


def chosen(rows: Query, found: Sequence[Expired], now_us: int) -> list[int]:
    """Return the `seq` of all rows that may go now, while none of them has gone: `choose` may find a few more then."""
    sql = _may_go()
    return sorted(int(row[0]) for which in found for row in rows(sql, *_given(which, now_us)))


def _may_go(part: str = "TRUE") -> str:
    guards = " AND ".join(_GUARDS.values())
    return f"""SELECT e.seq FROM executions e INDEXED BY by_task WHERE e.task_id = ?1 AND e.seq < ?2
        AND e.finished_at < ?3 AND e.status NOT IN ('waiting', 'running') AND {part} AND {guards}"""


def _given(which: Expired, now_us: int) -> tuple[str, int, int, int]:
    return which.task_id, which.below, which.before_us, now_us - _DAY_US


_BEGUN_SINCE = """
    SELECT e.seq FROM json_each(?) j JOIN executions e ON e.seq = j.value
    WHERE EXISTS (SELECT 1 FROM executions l INDEXED BY live WHERE l.task_id = e.task_id
        AND l.status IN ('waiting', 'running') AND l.occurrence_id = e.occurrence_id)"""
_REMOVED_TO = """
    UPDATE tasks SET removed_to = max(coalesce(removed_to, 0), r.at)
    FROM (SELECT e.task_id, max(e.scheduled_at) AS at FROM json_each(?) j JOIN executions e ON e.seq = j.value
        WHERE e.trigger != 'manual' AND e.attempt > 0 GROUP BY e.task_id) r
    WHERE tasks.id = r.task_id"""
# A content's first slot is told from those when it came back by having no counter.
_CONTENTS = """
    INSERT OR IGNORE INTO removed_contents SELECT e.occurrence_id
    FROM json_each(?) j JOIN executions e ON e.seq = j.value JOIN tasks t ON t.id = e.task_id
    WHERE e.trigger = 'file_watch' AND instr(replace(e.slot, 'r' || t.revision || '.', ''), '.') = 0"""
_FILES = """
    SELECT o.path, o.artifact FROM json_each(?) j JOIN executions e ON e.seq = j.value
    JOIN outputs o ON o.execution_id = e.execution_id WHERE o.path IS NOT NULL OR o.artifact IS NOT NULL"""


def remove(db: apsw.Connection, seqs: Sequence[int]) -> Gone:
    """Remove chosen rows with their outputs, and remember what admission has to know of them.

    An attempt that was asked for since keeps those before it.
    """
    begun = {row[0] for row in db.execute(_BEGUN_SINCE, (_json(seqs),))}
    given = (_json([seq for seq in seqs if seq not in begun]),)
    db.execute(_REMOVED_TO, given)
    db.execute(_CONTENTS, given)
    paths = [Path(str(path)) for row in db.execute(_FILES, given).fetchall() for path in row if path]
    db.execute(
        """DELETE FROM outputs WHERE execution_id IN
            (SELECT e.execution_id FROM json_each(?) j JOIN executions e ON e.seq = j.value)""",
        given,
    )
    db.execute("DELETE FROM executions WHERE seq IN (SELECT value FROM json_each(?))", given)
    return Gone(db.changes(), paths)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def removed_to(store: SqliteStore, task_id: str) -> int | None:
    """Return the planned instant of the last slot of a task that ran and whose row is gone, or None."""
    found = store.rows("SELECT removed_to FROM tasks WHERE id = ?", task_id)
    return found[0][0] if found else None


def was_removed(store: SqliteStore, occurrence: str) -> bool:
    """Tell whether this was the first slot of a watched path's content, and its row is gone."""
    return bool(store.rows("SELECT 1 FROM removed_contents WHERE occurrence_id = ?", occurrence))


class Maintained(msgspec.Struct, frozen=True, kw_only=True):
    """What a maintenance removed: executions, by which rules, and files with their size."""

    at_us: int
    executions: int
    files: int
    bytes: int
    rules: tuple[str, ...] = ()
    """As they are typed: `--keep 1000`."""

    def __bool__(self) -> bool:
        return bool(self.executions or self.files)

    def __str__(self) -> str:
        if not self:
            return "nothing was to be removed"
        executions = f"{self.executions:,} execution{'s' * (self.executions != 1)}"
        files = f"{self.files:,} file{'s' * (self.files != 1)} ({self.bytes / 1e6:,.1f} MB)"
        said = " and ".join(text for text, count in ((executions, self.executions), (files, self.files)) if count)
        return f"removed {said}{' by ' * bool(self.rules)}{', '.join(self.rules)}"


def note(db: apsw.Connection, done: Maintained) -> None:
    """Remember a maintenance: the newest of all, and the newest that removed something."""
    db.execute("DELETE FROM maintenance WHERE executions + files = 0")
    values = (done.at_us, done.executions, done.files, done.bytes, _json(done.rules))
    db.execute(
        """INSERT INTO maintenance VALUES (?, ?, ?, ?, ?) ON CONFLICT (at) DO UPDATE SET files = files + excluded.files,
            executions = executions + excluded.executions, bytes = bytes + excluded.bytes,
            rules = iif(excluded.executions, excluded.rules, rules)""",
        values,
    )
    db.execute(
        f"DELETE FROM maintenance WHERE at < (SELECT at FROM maintenance ORDER BY at DESC LIMIT 1 OFFSET {_RUNS - 1})"
    )


def maintained(store: SqliteStore) -> list[Maintained]:
    """Return what maintenances removed, the newest first; of those that removed nothing only the last of all."""
    rows = store.rows("SELECT at, executions, files, bytes, rules FROM maintenance ORDER BY at DESC")
    return [
        Maintained(at_us=at, executions=executions, files=count, bytes=size, rules=tuple(msgspec.json.decode(rules)))
        for at, executions, count, size, rules in rows
    ]
