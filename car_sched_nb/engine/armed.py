"""A task that an owner plans now, and what to settle when it is due. No I/O here."""

from __future__ import annotations

from typing import Any

import msgspec

from car_sched_nb.model import Cause, Status, Task, Trigger, to_us
from car_sched_nb.occurrence import execution_id, occurrence_id, slot_text
from car_sched_nb.store.ops import Row, Settle
from car_sched_nb.triggers import Fire, Passed, Schedule, grace_us, next_fire, schedule_of

ON_TIME_US = 1_000_000
"""A slot this late is still on time: catch-up is for what passed unserved."""


class Gap(msgspec.Struct, frozen=True, gc=False):
    """An unbroken series of slots that were not run, ending at the cursor."""

    execution_id: str
    reason: str


class Armed:
    """The engine's view of one task that it plans.

    `settling` while a settling transaction is under way, `arming` until the first one since it was armed,
    `waits` while names are missing that its body needs, `elsewhere` when another owner was found running it,
    `behind` while slots that came during a run wait for their turn (overlap queue), `replacing` while a run is
    stopped for a newer slot (overlap replace).
    """

    __slots__ = (
        "_fire",
        "_fire_after",
        "arming",
        "at_us",
        "behind",
        "cursor",
        "elsewhere",
        "entry",
        "gap",
        "remaining",
        "replacing",
        "schedule",
        "settling",
        "task",
        "waits",
    )

    def __init__(self, task: Task, remaining: int | None = None) -> None:
        self.arming = True
        self.behind = self.replacing = self.elsewhere = False
        self.gap: Gap | None = None
        self.entry = 0
        self.at_us = 0
        self.settling = False
        self.waits: str | None = None
        self.remaining = remaining
        self.cursor = task.cursor
        self.take(task)

    def take(self, task: Task) -> None:
        """Follow a definition that was read again."""
        self.task = task
        if self.cursor != task.cursor:
            self.gap = None  # slots were settled some other way: the series is broken
        self.cursor = task.cursor
        self.schedule: Schedule | None = schedule_of(task)
        self._fire: Fire | None = None
        self._fire_after: str | None = None
        """The cursor that `_fire` was found for."""

    def count_run(self) -> None:
        """Count a claim, as the store did."""
        if self.task.max_runs:
            self.task = msgspec.structs.replace(self.task, run_count=self.task.run_count + 1)
            self._fire_after = None

    @property
    def next_fire(self) -> Fire | None:
        """The next planned slot."""
        if self.schedule is None or not self.task.enabled or self.remaining == 0:
            return None
        if self._fire_after != self.cursor:
            self._fire, self._fire_after = next_fire(self.task, self.schedule, self.cursor), self.cursor
        return self._fire

    def may_run(self, now_us: int) -> bool:
        """Tell whether a task that follows a state may run once more."""
        task = self.task
        left = not task.max_runs or task.run_count < task.max_runs
        in_time = task.until_at is None or now_us <= to_us(task.until_at)
        return task.enabled and left and in_time and self.remaining != 0

    def may_go_on(self, now_us: int) -> bool:
        """Tell whether any more runs of an enabled task can come by its trigger."""
        return self.may_run(now_us) if self.schedule is None else self.next_fire is not None

    def passed(self, now_us: int) -> Passed | None:
        """Return the slots that are due and not settled."""
        if self.next_fire is None or self.schedule is None:
            return None
        until = self.task.until_at
        return self.schedule.passed(self.cursor, now_us if until is None else min(now_us, to_us(until)))

    def ids(self, slot: str, attempt: int = 1) -> tuple[str, str, str]:
        """Return (slot with revision, occurrence id, execution id) of a bare slot."""
        text = slot_text(self.task.revision, slot)
        occurrence = occurrence_id(self.task.id, self.task.trigger, text)
        return text, occurrence, execution_id(occurrence, attempt)


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What to do with the slots that passed: write `gap` (its slots) and run `run`, up to `cursor`."""

    cursor: str
    run: Fire | None
    gap: Fire | None = None
    gap_slots: int = 0
    status: Status = Status.MISSED
    reason: str = ""
    error: str | None = None

    def not_run(self, reason: str, error: str) -> Plan:
        """Return the same plan with what it would have run, and the slots before it, skipped."""
        assert self.run is not None
        return Plan(self.cursor, None, self.gap or self.run, self.gap_slots + 1, Status.SKIPPED, reason, error)


def decide(armed: Armed, passed: Passed, now_us: int, busy: bool) -> Plan | None:
    """Decide about slots that are due; None leaves them for later.

    `busy`: an occurrence of the task is in progress and overlap is neither `allow` nor `queue`.
    """
    task, schedule = armed.task, armed.schedule
    assert schedule is not None
    late = now_us - passed.last.at_us
    if busy and task.overlap == "skip" and not (armed.arming or task.catchup == "all"):
        return Plan(passed.last.slot, None, passed.first, passed.slots, Status.SKIPPED, "overlap")
    if busy:
        return None
    reason = "no_owner" if armed.arming else "asleep"
    if task.catchup == "all":
        old = schedule.passed(armed.cursor, now_us - 1 - grace_us(task, schedule, passed.last)) if task.grace else None
        if old is not None:
            return Plan(old.last.slot, None, old.first, old.slots, Status.MISSED, reason)
        return Plan(passed.first.slot, passed.first)
    if armed.behind:
        return Plan(passed.first.slot, passed.first)
    if armed.replacing:
        return _newest(passed, Status.SKIPPED, "overlap")
    allowed = grace_us(task, schedule, passed.last) if task.catchup == "latest" else 0
    if late > max(allowed, ON_TIME_US):
        return Plan(passed.last.slot, None, passed.first, passed.slots, Status.MISSED, reason)
    return _newest(passed, Status.MISSED, reason)


def _newest(passed: Passed, status: Status, reason: str) -> Plan:
    """Run the newest slot; what passed before it is a gap."""
    if passed.slots == 1:
        return Plan(passed.last.slot, passed.last)
    return Plan(passed.last.slot, passed.last, passed.first, passed.slots - 1, status, reason)


def transaction(task: Task, now_us: int, *, claim: Row | None = None, **what: Any) -> Settle:
    """Return a settling transaction that holds for this very definition of a task; see `Settle` for the rest.

    A claim needs the task free, unless its runs may overlap, or it stands in the queue until it is.
    """
    free = claim is not None and task.overlap != "allow" and claim.wait_reason != "queue"
    return Settle(
        task_id=task.id, revision=task.revision, version=task.version, now=now_us, free=free, claim=claim, **what
    )


def settle(armed: Armed, plan: Plan, now_us: int, claim: Row | None) -> Settle:
    """Build the transaction of a plan; a gap that goes on grows instead of adding a row."""
    schedule = armed.schedule
    assert schedule is not None
    task = armed.task
    runs = task.run_count + (claim is not None)
    following = None if task.max_runs and runs >= task.max_runs else next_fire(task, schedule, plan.cursor)
    gap = extend = None
    if plan.gap is not None and armed.gap and armed.gap.reason == plan.reason:
        extend = (armed.gap.execution_id, plan.gap_slots, now_us)
    elif plan.gap is not None:
        gap = _gap_row(armed, plan, now_us)
    return transaction(
        task,
        now_us,
        expected=armed.cursor,
        cursor=plan.cursor,
        next_at=following.at_us if following else None,
        max_runs=task.max_runs,
        claim=claim,
        gap=gap,
        extend=extend,
    )


def _gap_row(armed: Armed, plan: Plan, now_us: int) -> Row:
    """Return the row of a new series of slots that were not run; it is no attempt, so its number is 0."""
    assert plan.gap is not None
    return new_row(
        armed.task,
        armed.ids(plan.gap.slot, attempt=0),
        attempt=0,
        status=plan.status,
        scheduled_at=plan.gap.at_us,
        finished_at=now_us,
        slots=plan.gap_slots,
        reason=plan.reason,
        error=plan.error,
    )


def new_row(
    task: Task,
    ids: tuple[str, str, str],
    *,
    status: Status,
    scheduled_at: int,
    attempt: int = 1,
    wait_reason: str | None = None,
    started_at: int | None = None,
    finished_at: int | None = None,
    slots: int = 1,
    cause: Cause = Cause.SLOT,
    reason: str | None = None,
    trigger: Trigger | None = None,
    params: str | None = None,
    executor: str = "",
    owner: str | None = None,
    error: str | None = None,
    not_before: int | None = None,
    upstream: str | None = None,
) -> Row:
    """Return a row of history of a task; `ids` is (slot, occurrence id, execution id)."""
    slot, occurrence, execution = ids
    return Row(
        execution_id=execution,
        occurrence_id=occurrence,
        task_id=task.id,
        trigger=trigger or task.trigger,
        slot=slot,
        attempt=attempt,
        status=status,
        wait_reason=wait_reason,
        scheduled_at=scheduled_at,
        started_at=started_at,
        finished_at=finished_at,
        slots=slots,
        cause=cause,
        reason=reason,
        version=task.version,
        params=params,
        runner=task.runner,
        executor=executor,
        owner=owner,
        error=error,
        not_before=not_before,
        upstream=upstream,
    )
