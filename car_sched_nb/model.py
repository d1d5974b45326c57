"""The values that everything else speaks of: tasks, executions and their states."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from car_sched_nb.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Trigger(StrEnum):
    """What decides when a task runs."""

    MANUAL = "manual"
    ONCE = "once"
    INTERVAL = "interval"
    CRON = "cron"
    FILE_WATCH = "file_watch"
    AFTER = "after"


class TaskStatus(StrEnum):
    """The state of a task, in the words of car-scheduler."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SCHEDULED = "scheduled"
    DISABLED = "disabled"


class Status(StrEnum):
    """The state of an execution.

    `waiting` and `running` are live. `interrupted`: its owner went away while it ran.
    `missed` and `skipped` are one row for an unbroken series of slots that were not run.
    """

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    MISSED = "missed"
    SKIPPED = "skipped"


class Cause(StrEnum):
    """Why an execution was started: its slot came, a hand asked, a retry or a backfill."""

    SLOT = "slot"
    HAND = "hand"
    RETRY = "retry"
    BACKFILL = "backfill"


LIVE = frozenset({Status.WAITING, Status.RUNNING})
UNDONE = frozenset({Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.INTERRUPTED})
"""Ended, and its occurrence may be tried again."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at an occurrence: a row of history.

    Instants are aware UTC datetimes. `started_at` is when the work began, not when it was claimed.
    A `missed` or `skipped` execution stands for `slots` slots, of which `slot` is the first.
    """

    execution_id: str
    occurrence_id: str
    task_id: str
    task: str
    namespace: str
    trigger: Trigger
    slot: str
    attempt: int
    status: Status
    scheduled_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration: timedelta | None = None
    wait_reason: str | None = None
    slots: int = 1
    cause: Cause = Cause.SLOT
    reason: str | None = None
    version: int = 0
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    runner: str = ""
    executor: str = ""
    owner: str | None = None
    answer: str | None = None
    error: str | None = None
    error_type: str | None = None
    turns: int | None = None
    tool_calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    model: str | None = None
    not_before: datetime | None = None
    """Until when a `waiting` execution waits, for a retry's delay or a jitter."""
    upstream: tuple[str, ...] = ()
    """The execution ids that an `after` task's slot follows, in the order of `after`."""

    @property
    def lateness(self) -> timedelta | None:
        """`started_at - scheduled_at`, or None when it did not start."""
        return self.started_at - self.scheduled_at if self.started_at else None

    @property
    def duration_ms(self) -> float | None:
        """How long the work took in milliseconds, as car-scheduler names it."""
        return self.duration / timedelta(milliseconds=1) if self.duration is not None else None


class Task(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A definition: what to run (`prompt`), by whom (`runner`), when (`trigger`), under which policies.

    The first block has the names of car-scheduler 0.25, the second is this project's. What was typed is
    kept as it was typed (`schedule="5m"`, `timeout="30m"`) and is checked when the task is added.
    The last block is state that a scheduler fills in; setting it changes nothing.
    """

    name: str
    prompt: str = ""
    trigger: Trigger = Trigger.MANUAL
    schedule: str = ""
    watch_path: str = ""
    """Paths to watch, one a line: files, folders or globs."""
    agent_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    max_turns: int = 10
    system_prompt: str = ""

    runner: str = "python"
    executor: str = ""
    """loop, thread, process, or empty for what the body needs."""
    memory: str = ""
    """How much memory a process may take: `2GB`."""
    argv: bool = False
    """A shell task's body is words, not a script: no shell reads it."""
    cwd: str = ""
    env: tuple[str, ...] = ()
    """Names of environment variables that the body needs; their values are masked in all that is kept."""
    model: str = ""
    base_url: str = ""
    key_env: str = ""
    """The environment variable with the model's key, when it is not the provider's usual one."""
    tools: tuple[str, ...] = ()
    """Names of the notebook's functions that an agent may call."""
    output_type: str = ""
    """The notebook's pydantic model, dataclass or type that an agent's answer has to fit."""
    total_tokens: int = 0
    max_cost: float = 0.0
    """US dollars a run."""
    daily_tokens: int = 0
    tz: str = ""
    align: bool = False
    first: str = "now"
    into: str = ""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    timeout: str = ""
    catchup: str = "latest"
    grace: str = ""
    overlap: str = "skip"
    retries: int = 0
    retry_delay: str = ""
    jitter: str = ""
    max_runs: int = 0
    until: str = ""
    max_failures: int = 0
    on_crash: str = "leave"
    notify: str = ""
    """What is worth a notice: some of `NOTICES` by commas, `none`, or empty for a failure and the recovery from it."""
    on_failure: str = ""
    """A command to run at the first failure in a row."""
    ping: str = ""
    """`env:NAME`, the variable with a URL to fetch after each success."""
    after: str = ""
    """Names of the tasks that this one follows, one a line."""
    when: str = "completed"
    keep: str = ""
    """How much of its history is kept: `1000` executions, those of `90d`, `all`, or empty for what is set for all."""

    id: str = ""
    namespace: str = ""
    status: TaskStatus = TaskStatus.PENDING
    created_at: datetime | None = None
    last_run_at: datetime | None = None
    run_count: int = 0
    executions: tuple[Execution, ...] = ()
    enabled: bool = True
    revision: int = 0
    version: int = 0
    cursor: str = ""
    """The last settled slot, or a file's `digest.counter`."""
    anchored_at: datetime | None = None
    """When this revision was made: slot 0 of an interval."""
    fire_at: datetime | None = None
    """The instant of a `once` task, resolved when it was defined."""
    until_at: datetime | None = None
    """The last instant of its slots, resolved when `until` was defined."""
    next_at: datetime | None = None
    failures: int = 0
    """Occurrences that failed since the last one that completed."""

    def notifies(self, kind: str) -> bool:
        """Tell whether one of `NOTICES` is wanted of this task."""
        return kind in (self.notify or "failed,recovered").split(",")


NOTICES = ("failed", "recovered", "completed")
"""The first failure in a row, the first success after failures, and each success."""

STATE = frozenset(
    "id namespace status created_at last_run_at run_count executions enabled revision version cursor "
    "anchored_at fire_at until_at next_at failures".split()
)
"""Fields that a scheduler fills in."""

WHEN = frozenset({"trigger", "schedule", "watch_path", "tz", "align", "first", "after", "when"})
"""Fields whose change raises the revision: the slots start afresh."""


APART = frozenset({"keep"})
"""Fields that no run heeds: their change makes no version."""


def definition(task: Task) -> dict[str, Any]:
    """Return what was defined and is no default, without state, as JSON-ready values."""
    return {k: v for k, v in msgspec.to_builtins(task).items() if k not in STATE}


def same_slots(old: Task, new: Task) -> bool:
    """Tell whether two definitions plan the same slots."""
    return all(getattr(old, name) == getattr(new, name) for name in WHEN)


def same_runs(old: Task, new: Task) -> bool:
    """Tell whether two definitions plan and run the same: then they are one version."""
    ours, theirs = definition(old), definition(new)
    return all(ours.get(name) == theirs.get(name) for name in {*ours, *theirs} - APART)


def new_id() -> str:
    """Return a task id: 10 characters, as in car-scheduler."""
    return secrets.token_hex(5)


def check_name(name: str) -> str:
    """Return `name`, or refuse it with a name that would do.

    Raises
    ------
    InvalidInput
        When it has a character outside letters, digits, `.`, `_`, `-`.
    """
    if _NAME.fullmatch(name) and not name.startswith("-"):
        return name
    better = re.sub(r"[^A-Za-z0-9._-]+", "-", str(name)).strip("-")[:60] or "my-task"
    raise InvalidInput(f"a task name has letters, digits, '.', '_' and '-' only, not {name!r}; write {better}")


def to_us(instant: datetime) -> int:
    """Return an aware datetime as UTC microseconds."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return UTC microseconds as an aware datetime."""
    return _EPOCH + timedelta(microseconds=us)
