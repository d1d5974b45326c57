"""What a scheduler asks a store to write, as rows that one set-based statement can take.

A batch of each kind travels as one JSON array, so the fields' order is the order in the SQL. The garbage collector
need not look at any of them: a thousand under way would be looked at again and again, and none is part of a cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import msgspec

from car_sched_nb.model import Trigger


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A new row of history: a claim, or a gap."""

    execution_id: str
    occurrence_id: str
    task_id: str
    trigger: Trigger
    slot: str
    attempt: int
    status: str
    wait_reason: str | None
    scheduled_at: int
    started_at: int | None
    finished_at: int | None
    slots: int
    cause: str
    reason: str | None
    version: int
    params: str | None
    runner: str
    executor: str
    owner: str | None
    error: str | None = None
    not_before: int | None = None
    upstream: str | None = None


class Settle(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Settle slots of one task: move the cursor and write the claim and gap rows, or do nothing.

    Nothing is written unless revision, version and cursor are the expected ones, the task is enabled
    (or `by_hand`), it has runs left, and, with `free`, no occurrence of it is in progress.
    """

    task_id: str
    revision: int
    version: int
    now: int
    """When it was decided, UTC microseconds."""
    expected: str | None = None
    """The cursor that must be found; None neither checks nor moves it."""
    cursor: str | None = None
    next_at: int | None = None
    by_hand: bool = False
    free: bool = True
    max_runs: int = 0
    """A claim is refused when the task has had so many; 0 counts nothing."""
    claim: Row | None = None
    gap: Row | None = None
    extend: tuple[str, int, int] | None = None
    """(execution_id of a gap row, slots to add, finished_at): an unbroken series stays one row."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What became of a `Settle`: `won` when it was written, `claimed` when its claim may start."""

    won: bool
    claimed: bool


class Start(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A waiting execution begins, this owner's or one that nobody owns; answered by whether it may.

    It may not while its task is deleted or paused (unless a hand asked), when another owner has asked it to stop,
    and, with `free`, while another occurrence of its task is in progress or stands in the queue before it.
    """

    execution_id: str
    owner: str
    started_at: int
    version: int
    executor: str
    free: bool
    task_id: str


class End(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is written into the row of an execution that ended."""

    execution_id: str
    owner: str | None
    status: str
    started_at: int | None
    finished_at: int
    duration: int | None
    answer: str | None = None
    error: str | None = None
    error_type: str | None = None
    turns: int | None = None
    tool_calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    model: str | None = None
    reason: str | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A live execution ends; answered by a `Finished`.

    Only when it was still live and this owner's are its `output` and its next attempt (`retry`) written, and its
    task's failures counted.
    """

    end: End
    output: Output | None = None
    retry: Row | None = None
    task_id: str = ""
    failed: bool | None = None
    """One more failure in a row (True), or an end of the series (False)."""
    max_failures: int = 0
    """The task is paused after so many in a row."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """What became of a `Finish`: true when it was written; `before` is how often its task had failed in a row."""

    written: bool
    before: int = 0

    def __bool__(self) -> bool:
        return self.written


NOT_WRITTEN = Finished(written=False)


class Output(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an execution printed and displayed; `path` holds the full text when it was cut.

    `marks` tells when which stream wrote, and where the displays stand in the text.
    """

    execution_id: str
    text: str
    traceback: str | None
    display: str | None
    path: str | None
    marks: str | None = None
    transcript: str | None = None
    artifact: str | None = None


class Call(msgspec.Struct, frozen=True):
    """Anything rare: a function that runs inside the batch's transaction; answered by what it returns.

    One that raises takes back only what it wrote itself.
    """

    fn: Callable[[apsw.Connection], Any]


Op = Settle | Start | Finish | Call
