"""What a scheduler promises, said a second time in a few lines: which slots there are, and what may be seen of them.

The model knows what was asked for and what the bodies noted of themselves. From the store it takes what the claims are
about: rows of history, cursors and labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from car_sched_nb.model import WHEN, Task, Trigger, from_us, to_us
from car_sched_nb.store.records import CRASH_ATTEMPTS
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.by_hand import SECOND_US, Body

MINUTE_US, HOUR_US, DAY_US = 60 * SECOND_US, 3600 * SECOND_US, 86_400 * SECOND_US
LENGTHS = {"1s": SECOND_US, "1m": MINUTE_US, "10m": 10 * MINUTE_US, "1h": HOUR_US}
CRONS = {
    "*/5 * * * *": (0, 5 * MINUTE_US),
    "0 * * * *": (0, HOUR_US),
    "30 9 * * *": (9 * HOUR_US + HOUR_US // 2, DAY_US),
}
"""(the first instant since 1970, period) of each cron expression; in UTC they are plain grids."""

LIVE = {"waiting", "running"}
ENDS = {"completed", "failed", "cancelled", "timed_out", "interrupted"}
MAY_BECOME = {"waiting": LIVE | ENDS | {"missed"}, "running": {"running"} | ENDS}


class Broken(AssertionError):
    """A promise that was not kept."""


class Grid(NamedTuple):
    """The slots of one revision: number k at `zero_us + k * period_us`, from `first` on."""

    trigger: Trigger
    zero_us: int
    period_us: int
    first: int

    def number(self, slot: str) -> int:
        """Return the number of a slot, or of the newest one not after a cursor."""
        if self.trigger is Trigger.ONCE:
            return -1 if slot == "-" else 0
        if self.trigger is Trigger.INTERVAL:
            return int(slot)
        return self.newest(to_us(datetime.strptime(slot, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)))

    def newest(self, at_us: int) -> int:
        """Return the number of the newest slot not after an instant."""
        number = (at_us - self.zero_us) // self.period_us
        return min(number, 0) if self.trigger is Trigger.ONCE else number


def grid_of(task: Task, now_us: int) -> Grid | None:
    """Return the slots of a definition that is made now; none where another task triggers it, or a hand."""
    if task.trigger is Trigger.ONCE:
        delay_us = {"": 0, "delay 90s": 90 * SECOND_US}[task.schedule]
        return Grid(task.trigger, now_us + delay_us, 1 << 62, 0)
    if task.trigger is Trigger.CRON:
        zero_us, period_us = CRONS[task.schedule]
        return Grid(task.trigger, zero_us, period_us, (now_us - zero_us) // period_us + 1)
    if task.trigger is Trigger.INTERVAL:
        period_us = LENGTHS[task.schedule]
        zero_us = -(-now_us // period_us) * period_us if task.align else now_us
        return Grid(task.trigger, zero_us, period_us, 0 if task.first == "now" else 1)
    return None


class Known:
    """What the model knows of one task."""

    def __init__(self, stored: Task) -> None:
        self.id = stored.id
        self.name = stored.name
        self.given: Task = stored
        """The newest definition."""
        self.defined: dict[int, Task] = {}
        """By their numbers."""
        self.revision = -1
        self.grids: list[Grid | None] = []
        self.highest: dict[int, int] = {}
        """The newest slot that a cursor has stood at, by revision."""
        self.cursor = ""
        self.enabled = True
        self.deleted = False
        self.by_hand = 0
        self.begun: Counter[int] = Counter()
        """Runs of slots, by revision."""
        """First attempts at planned slots."""

    def define(self, task: Task, now_us: int) -> None:
        """Take a definition that was stored."""
        if self.revision < 0 or any(getattr(task, name) != getattr(self.given, name) for name in WHEN):
            self.revision += 1
            self.grids.append(grid_of(task, now_us))
            self.cursor = ""
        self.given = task
        self.defined[task.agent_metadata["number"]] = task

    def most_attempts(self) -> int:
        """Return how many attempts one occurrence may have had by now."""
        tasks = self.defined.values()
        retried = max(task.retries + 1 for task in tasks)
        crashed = CRASH_ATTEMPTS if any(task.on_crash == "retry" for task in tasks) else 1
        return max(retried, crashed) + self.by_hand


class Row(NamedTuple):
    seq: int
    execution_id: str
    occurrence_id: str
    task_id: str
    slot: str
    attempt: int
    status: str
    slots: int
    cause: str
    trigger: str
    owner: str | None
    started_at: int | None
    finished_at: int | None
    reason: str | None
    error: str | None


_ROWS = f"SELECT {', '.join(Row._fields)} FROM executions ORDER BY seq"
_TASKS = "SELECT id, revision, cursor, enabled, run_count, next_at FROM tasks"


class Promises:
    """Hears of everything that is asked for and begun, and looks at the store after each step."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.known: dict[str, Known] = {}
        self.named: dict[str, Known] = {}
        self.living: Callable[[], list[Body]] = list
        """Returns the bodies that go on, in every kernel."""
        self.loose = False
        """A clock was set back, or two clocks differ: a slot may be settled a second time, and cursors fall back."""
        self._began: Counter[str] = Counter()
        self._retries: dict[str, int] = {}
        """How many retries the definition has under which an execution began."""
        self._rows: dict[int, Row] = {}
        self._said: list[str] = []

    def say(self, what: str) -> None:
        """Note a broken promise; told at the end of the step, since a body's own error is the engine's business."""
        self._said.append(what)

    # What bodies note

    def begin(self, body: Body) -> None:
        """A body begins."""
        self._began[body.execution_id] += 1
        if self._began[body.execution_id] > 1:
            self.say(f"{body.execution_id} began a second time")
        task = self.known[body.task_id]
        self._retries[body.execution_id] = task.defined[body.number].retries
        if task.deleted:
            self.say(f"{body.execution_id} began though its task is deleted")
        others = [one for one in self.living() if one.task_id == task.id and one is not body]
        if any(one.occurrence_id == body.occurrence_id for one in others):
            self.say(f"{body.execution_id} began while another attempt of its occurrence goes on")
        if others and task.given.overlap != "allow":
            self.say(f"{body.execution_id} began beside {others[0].execution_id}")
        if not task.enabled and self._row(body).cause not in ("hand", "backfill"):
            self.say(f"{body.execution_id} began though its task is paused")
        self._begin_slot(task, body)

    def _begin_slot(self, task: Known, body: Body) -> None:
        if body.attempt > 1 or ":manual:" in body.execution_id or self._row(body).cause != "slot":
            return
        revision, slot = revision_of(self._row(body).slot)
        task.begun[revision] += 1
        most = [one.max_runs for one in task.defined.values()]
        if all(most) and task.begun[revision] > max(most):
            self.say(f"{body.execution_id} is number {task.begun[revision]} of {max(most)} runs at most")
        grid, until = task.grids[revision], task.defined[body.number].until
        if grid and until and grid.zero_us + grid.number(slot) * grid.period_us > instant_us(until):
            self.say(f"{body.execution_id} began after `until`")

    def _row(self, body: Body) -> Row:
        sql = _ROWS.replace("ORDER", "WHERE execution_id = ? ORDER")
        return Row(*self._store.rows(sql, body.execution_id)[0])

    # What the store shows

    def look(self, owners: set[str], *, idle: bool) -> None:
        """Compare the store with what was promised, and raise what was noted.

        Parameters
        ----------
        owners
            The owners that live, and the dead whom nobody has found yet.
        idle
            Everything that was asked for is written.
        """
        rows = {row[0]: Row(*row) for row in self._store.rows(_ROWS)}
        changed = {row.task_id for seq, row in rows.items() if self._rows.get(seq) != row}
        self._check_changes(rows)
        self._check_owners(rows, owners, idle)
        for stored in self._store.rows(_TASKS):
            self._check_task(stored, [row for row in rows.values() if row.task_id == stored[0]], changed)
        self._rows = rows
        if self._said:
            raise Broken("; ".join(self._said))

    def _check_changes(self, rows: dict[int, Row]) -> None:
        for seq, old in self._rows.items():
            new = rows.get(seq)
            if new is None:
                self.say(f"{old.execution_id} is gone")
            elif old.status in MAY_BECOME:
                if new.status not in MAY_BECOME[old.status]:
                    self.say(f"{old.execution_id} was {old.status} and is {new.status}")
            elif new != old and not (
                old.attempt == 0 and new._replace(slots=old.slots, finished_at=old.finished_at) == old
            ):
                self.say(f"{old.execution_id} had ended as {old} and is {new}")

    def _check_owners(self, rows: dict[int, Row], owners: set[str], idle: bool) -> None:
        bodies = {body.execution_id for body in self.living()}
        running = {row.execution_id: row for row in rows.values() if row.status == "running"}
        for row in running.values():
            if row.owner not in owners:
                self.say(f"{row.execution_id} is running with nobody")
        for execution_id in bodies - set(running):
            self.say(f"{execution_id} goes on and its row says that it does not run")
        dead = owners - {body.kernel.owner for body in self.living()}
        if idle:
            for execution_id in set(running) - bodies:
                if running[execution_id].owner not in dead:
                    self.say(f"{execution_id} has ended and its row says that it runs")

    def _check_task(self, stored: tuple[Any, ...], rows: list[Row], changed: set[str]) -> None:
        id_, revision, cursor, enabled, _, _ = stored
        task = self.known[id_]
        if revision != task.revision:
            self.say(f"{task.name} has revision {revision}, not {task.revision}")
            return
        if bool(enabled) != task.enabled:
            failed = sum(row.status in ENDS - {"completed", "cancelled"} for row in rows)
            if enabled or not any(0 < one.max_failures <= failed for one in task.defined.values()):
                self.say(f"{task.name} was {'resumed' if enabled else 'paused'} by nobody")
            task.enabled = False
        moved = cursor != task.cursor
        if moved:
            self._check_cursor(task, cursor)
        if moved or id_ in changed:
            self._check_attempts(task, rows)
            for number, grid in enumerate(task.grids):
                if grid:
                    self._check_slots(task, number, grid, rows)

    def _check_cursor(self, task: Known, cursor: str) -> None:
        grid = task.grids[task.revision]
        if grid:
            here, before = grid.number(cursor), task.highest.get(task.revision, grid.first - 1)
            if here < grid.number(task.cursor or cursor) and not self.loose:
                self.say(f"the cursor of {task.name} moved back from {task.cursor} to {cursor}")
            task.highest[task.revision] = max(here, before)
        elif task.given.trigger is Trigger.AFTER and task.cursor:
            pairs = zip(map(int, task.cursor.split(",")), map(int, cursor.split(",")), strict=True)
            if any(new < old for old, new in pairs):
                self.say(f"the cursor of {task.name} moved back from {task.cursor} to {cursor}")
        task.cursor = cursor

    def _check_attempts(self, task: Known, rows: list[Row]) -> None:
        ids = {row.execution_id for row in rows}
        for row in rows:
            next_id = f"{row.occurrence_id}#{row.attempt + 1}"
            if row.reason == "replaced":
                continue  # a newer slot asked it to stop while it failed, and runs instead of its next attempt
            if row.status == "failed" and row.attempt <= self._retries[row.execution_id] and next_id not in ids:
                self.say(f"{row.execution_id} failed and is not tried again")
        attempts = defaultdict(list)
        for row in rows:
            if row.attempt:
                attempts[row.occurrence_id].append(row.attempt)
        most = task.most_attempts()
        for occurrence_id, numbers in attempts.items():
            if numbers != list(range(1, len(numbers) + 1)):
                self.say(f"{occurrence_id} has the attempts {numbers}")
            if len(numbers) > most:
                self.say(f"{occurrence_id} has {len(numbers)} attempts, {most} at most")

    def _check_slots(self, task: Known, revision: int, grid: Grid, rows: Iterable[Row]) -> None:
        """Each slot up to the newest cursor is in one claim or one gap."""
        covered = []
        for row in rows:
            if row.trigger != grid.trigger or row.attempt > 1:
                continue
            number, slot = revision_of(row.slot)
            if number == revision:
                first = grid.number(slot)
                covered.append((first, first + row.slots, row.attempt == 0 or row.cause == "slot", row.execution_id))
        upto = task.highest.get(revision, grid.first - 1) + 1
        self._check_whole(task, [one[:2] for one in covered], grid.first, upto)
        if not self.loose:
            self._check_once(sorted(one for one in covered if one[2]), upto)

    def _check_whole(self, task: Known, covered: list[tuple[int, int]], first: int, upto: int) -> None:
        seen = first
        for start, end in sorted(covered):
            if start > seen:
                break
            seen = max(seen, end)
        if seen < upto:
            self.say(f"slot {seen} of {task.name} is settled and has no row; {upto - 1} is the newest settled")

    def _check_once(self, covered: list[tuple[int, int, bool, str]], upto: int) -> None:
        for one, other in pairwise(covered):
            if other[0] < one[1]:
                self.say(f"slot {other[0]} is in {one[3]} and in {other[3]}")
        if covered and covered[-1][1] > upto:
            self.say(f"{covered[-1][3]} is later than the newest settled slot")

    # What must come to be

    def unsettled(self, task: Known, now_us: int) -> str:
        """Return what of a task that is planned and free should have been settled by now, or nothing."""
        _, revision, cursor, enabled, run_count, next_at = self._store.rows(f"{_TASKS} WHERE id = ?", task.id)[0]
        grid = task.grids[revision]
        if not grid or not enabled or (task.given.max_runs and run_count >= task.given.max_runs):
            return ""
        until_us = min(now_us, instant_us(task.given.until)) if task.given.until else now_us
        due = max(grid.newest(until_us), grid.first - 1)
        if due <= grid.number(cursor):
            return ""
        return f"slot {due} of {task.name} is due at {from_us(now_us)}, {cursor} is settled, next at {next_at}"

    def rows_of(self, task: Known, *statuses: str) -> list[Row]:
        """Return the rows of a task in one of these states."""
        return [Row(*row) for row in self._store.rows(_ROWS) if row[3] == task.id and row[6] in statuses]


def revision_of(slot: str) -> tuple[int, str]:
    """Return the revision and the bare slot of a row's slot."""
    if slot.startswith("r"):
        revision, _, bare = slot[1:].partition(".")
        return int(revision), bare
    return 0, slot


def instant_us(text: str) -> int:
    """Return an instant with its zone as UTC microseconds."""
    return to_us(datetime.fromisoformat(text))
