"""What the dashboard shows of a task when it is looked at closely: figures, executions, and all of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from car_sched_nb.model import LIVE, UNDONE
from car_sched_nb.output import clean
from car_sched_nb.store import board
from car_sched_nb.store.board import Ended, Found
from car_sched_nb.widget.notices import FAILED
from car_sched_nb.widget.words import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_sched_nb.engine.run import Run
    from car_sched_nb.store.sqlite import SqliteStore

STRIP = 30
"""Executions in a task's strip."""

DISPLAYS = 5_000_000
"""Characters of displays in one message."""

_PARSED = 10 * DISPLAYS  # what is longer is not even read
Row = dict[str, Any]


def stats(newest_first: Sequence[Ended]) -> Row:
    """Return a task's figures.

    `median_us` is of what completed, `ok` its share of the `of` executions that completed or failed.
    """
    durations = [one.duration_us for one in newest_first if one.status == "completed" and one.duration_us is not None]
    completed = sum(one.status == "completed" for one in newest_first)
    of = completed + sum(one.status in FAILED for one in newest_first)
    return {
        "median_us": int(median(durations)) if durations else None,
        "ok": completed / of if of else None,
        "of": of,
        "strip": [[one.execution_id, one.status, one.duration_us, one.at_us] for one in reversed(newest_first[:STRIP])],
    }


def all_stats(store: SqliteStore, task_ids: Iterable[str]) -> dict[str, Row]:
    """Return the figures of several tasks, from one query; from any thread."""
    return {task_id: stats(found) for task_id, found in board.ended(store, task_ids).items()}


def execution_row(row: board.Row, run: Run | None, progress: Callable[[Run], Row | None]) -> Row:
    """Return an execution as a list shows it; `run` is it while it lives here."""
    state, wait_reason, started_us = row.status, row.wait_reason, row.started_us
    if run is not None and row.status in LIVE:
        state, wait_reason, started_us = run.state, run.wait_reason, run.started_us or started_us
    return {
        "execution_id": row.execution_id,
        "seq": row.seq,
        "slot": row.slot,
        "slots": row.slots,
        "attempt": row.attempt,
        "status": row.status,
        "state": state,
        "cause": row.cause,
        "reason": row.reason,
        "wait_reason": wait_reason,
        "scheduled_at_us": row.scheduled_us,
        "started_at_us": started_us,
        "finished_at_us": row.finished_us,
        "duration_us": row.duration_us,
        "late_us": started_us - row.scheduled_us if started_us is not None else None,
        "text": first_line(row.error, row.error_type, row.answer),
        "error_type": row.error_type,
        "turns": row.turns,
        "tool_calls": row.tool_calls,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "cost": row.cost,
        "model": row.model,
        "progress": progress(run) if run is not None else None,
        "can": _can(row.status),
    }


def _can(status: str) -> list[str]:
    if status in LIVE:
        return ["cancel"]
    if status in UNDONE:
        return ["retry"]
    return ["run_slot"] if status in ("missed", "skipped") else []


def detail(found: Found, run: Run | None, progress: Callable[[Run], Row | None]) -> Row:
    """Return all of an execution but what it printed."""
    if run is not None:
        shown, left = _within(run.output.displays)
        left += run.output.displays_left
    else:
        shown, left = _within(msgspec.json.decode(found.displays or "[]", type=list[msgspec.Raw]))
    return {
        **execution_row(found.row, run, progress),
        "task": found.task,
        "task_id": found.task_id,
        "answer": found.row.answer,
        "error": found.row.error,
        "traceback": found.traceback,
        "params": found.params,
        "version": found.version,
        "runner": clean(found.runner),
        "executor": found.executor,
        "owner": found.owner,
        "upstream": found.upstream,
        "displays": shown,
        "displays_cut": left + found.displays_left,
        "artifact": found.artifact,
        "transcript": f"car.transcript({found.row.execution_id!r})" if found.has_transcript else None,
        "path": found.path or (str(run.output.path) if run is not None and run.output.path else None),
    }


def read_detail(store: SqliteStore, namespace: str, execution_id: str) -> Found | None:
    """Return what is stored of an execution; from any thread."""
    return board.detail(store, namespace, execution_id, _PARSED)


def _within(bundles: Sequence[bytes | msgspec.Raw]) -> tuple[list[Row], int]:
    """Return the first bundles as far as a message holds them, and how many are left."""
    shown: list[Row] = []
    room = DISPLAYS
    for bundle in bundles:
        room -= len(memoryview(bundle))
        if room < 0:
            break
        shown.append(msgspec.json.decode(bundle))
    return shown, len(bundles) - len(shown)
