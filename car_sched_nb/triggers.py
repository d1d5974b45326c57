"""When a task is planned: pure functions from a task and two instants to slots.

Slots are planned, never computed from "now": a timer that wakes early or late changes nothing.
Instants are UTC microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from car_sched_nb.cron import Cron
from car_sched_nb.durations import duration_words, format_duration, parse_duration
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Task, Trigger, to_us
from car_sched_nb.when import format_instant, parse_future, zone_name

SHORTEST_INTERVAL_US = 10_000
DAY_US = 86_400_000_000
_NONE = "-"  # the cursor of a `once` task that has not fired


class Fire(NamedTuple):
    """A planned slot (its text without the revision) and the instant it is planned for."""

    slot: str
    at_us: int


class Passed(NamedTuple):
    """The slots after a cursor and not after an instant: how many (`slots`), the first and the last."""

    slots: int
    first: Fire
    last: Fire


class Schedule(Protocol):
    """The plan of one revision of a task."""

    def start(self) -> str:
        """Return the cursor before any slot is settled."""
        ...

    def next_fire(self, cursor: str) -> Fire | None:
        """Return the first slot after the cursor, or None when there is no more."""
        ...

    def passed(self, cursor: str, now_us: int) -> Passed | None:
        """Return the slots after the cursor that are due at `now_us`."""
        ...

    def current(self, now_us: int) -> Fire | None:
        """Return the newest slot not after `now_us`."""
        ...

    def ahead(self, cursor: str, now_us: int) -> bool:
        """Tell whether a slot later than `now_us` is settled: the clock was ahead when it was."""
        ...


class Interval(msgspec.Struct, frozen=True, gc=False):
    """Slot k at `anchor_us + k * interval_us`: no drift, whatever a run takes."""

    anchor_us: int
    interval_us: int
    first: int

    def start(self) -> str:
        return str(self.first - 1)

    def fire(self, index: int) -> Fire:
        return Fire(str(index), self.anchor_us + index * self.interval_us)

    def next_fire(self, cursor: str) -> Fire:
        return self.fire(int(cursor) + 1)

    def passed(self, cursor: str, now_us: int) -> Passed | None:
        first, last = int(cursor) + 1, (now_us - self.anchor_us) // self.interval_us
        if last < first:
            return None
        newest = self.fire(last)
        return Passed(last - first + 1, newest if last == first else self.fire(first), newest)

    def current(self, now_us: int) -> Fire:
        return self.fire(max(self.first, (now_us - self.anchor_us) // self.interval_us))

    def ahead(self, cursor: str, now_us: int) -> bool:
        return int(cursor) >= self.first and self.fire(int(cursor)).at_us > now_us


class CronSchedule(msgspec.Struct, frozen=True, gc=False):
    """A slot is the planned UTC instant, so two that share a local time are two."""

    cron: Cron
    anchor_us: int

    def start(self) -> str:
        return self.cron.slot(self.anchor_us)

    def _fire(self, at_us: int | None) -> Fire | None:
        return None if at_us is None else Fire(self.cron.slot(at_us), at_us)

    def next_fire(self, cursor: str) -> Fire | None:
        return self._fire(self.cron.next_after(self.cron.from_slot(cursor)))

    def passed(self, cursor: str, now_us: int) -> Passed | None:
        first = self.next_fire(cursor)
        if first is None or first.at_us > now_us:
            return None
        after = self.next_fire(first.slot)
        if after is None or after.at_us > now_us:
            return Passed(1, first, first)
        last = self._fire(self.cron.latest_at(now_us))
        assert last is not None
        return Passed(self.cron.count_between(self.cron.from_slot(cursor), now_us), first, last)

    def current(self, now_us: int) -> Fire | None:
        return self._fire(self.cron.latest_at(now_us))

    def ahead(self, cursor: str, now_us: int) -> bool:
        return cursor > self.cron.slot(now_us)  # of one width, so their order is the instants'


class Once(msgspec.Struct, frozen=True, gc=False):
    """One slot, `0`, at an instant that was resolved when the task was defined."""

    at_us: int

    def start(self) -> str:
        return _NONE

    def next_fire(self, cursor: str) -> Fire | None:
        return Fire("0", self.at_us) if cursor == _NONE else None

    def passed(self, cursor: str, now_us: int) -> Passed | None:
        fire = self.next_fire(cursor)
        return Passed(1, fire, fire) if fire and fire.at_us <= now_us else None

    def current(self, now_us: int) -> Fire:
        return Fire("0", self.at_us)

    def ahead(self, cursor: str, now_us: int) -> bool:
        return False


def schedule_of(task: Task) -> Schedule | None:
    """Return the plan of a stored task, or None when time does not trigger it."""
    if task.trigger is Trigger.INTERVAL:
        assert task.anchored_at is not None
        return _interval(task, to_us(task.anchored_at))
    if task.trigger is Trigger.CRON:
        assert task.anchored_at is not None
        return CronSchedule(_cron(task.schedule, task.tz), to_us(task.anchored_at))
    if task.trigger is Trigger.ONCE:
        assert task.fire_at is not None
        return Once(to_us(task.fire_at))
    return None


def next_fire(task: Task, plan: Schedule | None, cursor: str) -> Fire | None:
    """Return the first slot after a cursor that the task still runs: within `until`, while `max_runs` are left."""
    if plan is None or (task.max_runs and task.run_count >= task.max_runs):
        return None
    fire = plan.next_fire(cursor)
    if fire is None or (task.until_at is not None and fire.at_us > to_us(task.until_at)):
        return None
    return fire


def upcoming(task: Task, from_us: int) -> Iterator[Fire]:
    """Yield the slots of a stored task from an instant on that it will run."""
    plan = schedule_of(task)
    if plan is None or not task.enabled:
        return
    passed = plan.passed(task.cursor, from_us - 1)
    cursor = passed.last.slot if passed else task.cursor
    left = task.max_runs - task.run_count if task.max_runs else None
    while left != 0 and (fire := next_fire(task, plan, cursor)) is not None:
        yield fire
        cursor = fire.slot
        left = None if left is None else left - 1


def series(task: Task, first: Fire, slots: int, from_us: int = 0) -> Iterator[Fire]:
    """Yield so many slots of a task's schedule, `first` and those after it, as far as they lie at an instant or later.

    Those before it are counted and not walked: they may be millions.
    """
    plan = schedule_of(task)
    fire: Fire | None = first
    if plan is not None and first.at_us < from_us:
        before = plan.passed(first.slot, from_us - 1)
        fire = plan.next_fire(before.last.slot if before else first.slot)
        slots = max(0, slots - 1 - (before.slots if before else 0))
    while plan is not None and fire is not None and slots:
        yield fire
        fire, slots = plan.next_fire(fire.slot), slots - 1


@lru_cache(maxsize=4096)
def _cron(expr: str, zone: str) -> Cron:
    return Cron(expr, zone or None)


def _interval(task: Task, anchor_us: int) -> Interval:
    interval_us = parse_duration(task.schedule)
    if task.align:
        anchor_us = -(-anchor_us // interval_us) * interval_us
    return Interval(anchor_us, interval_us, first=0 if task.first == "now" else 1)


def resolve_once(task: Task, now_us: int) -> int:
    """Return the instant of a `once` task that is defined at `now_us`.

    `schedule` is empty (now), `at TIME` or `delay DURATION`.

    Raises
    ------
    InvalidInput
        For a time in the past, with the next one.
    """
    kind, _, text = task.schedule.partition(" ")
    if not kind:
        return now_us
    if kind == "delay":
        return now_us + parse_duration(text, allow_zero=True)
    return parse_future(text if kind == "at" else task.schedule, now_us=now_us, zone=task.tz or None)


def check_trigger(task: Task) -> Task:
    """Return the task with its schedule checked and a cron expression in its canonical form.

    Raises
    ------
    InvalidInput
        When the trigger and its schedule do not fit; it says what to type.
    """
    if task.trigger is Trigger.INTERVAL:
        interval_us = parse_duration(task.schedule)
        if interval_us < SHORTEST_INTERVAL_US:
            raise InvalidInput(f"--every {task.schedule} is too often: the shortest interval is 10ms")
        task = msgspec.structs.replace(task, schedule=format_duration(interval_us))
    elif task.trigger is Trigger.CRON:
        cron = _cron(task.schedule, task.tz)
        # The zone is part of the definition: a laptop that travels must not move the slots.
        return msgspec.structs.replace(task, schedule=cron.expr, tz=cron.zone)
    if task.after and task.trigger is not Trigger.AFTER:
        raise InvalidInput("a task with an `after` needs its trigger: car.Task(..., trigger='after')")
    if task.trigger is Trigger.AFTER and not task.after.split():
        raise InvalidInput("--after needs the names of the tasks to follow: --after extract,clean")
    if task.trigger is Trigger.FILE_WATCH and not task.watch_path.strip():
        raise InvalidInput("--watch needs a file, a folder or a glob: --watch data.csv")
    if task.tz:
        zone_name(task.tz)
    elif task.trigger is Trigger.MANUAL and (task.schedule or task.watch_path):
        given = "schedule" if task.schedule else "watch_path"
        wanted = "interval, cron or once" if task.schedule else "file_watch"
        raise InvalidInput(f"a task with a {given} needs its trigger: car.Task(..., trigger={wanted!r})")
    if task.first not in ("now", "next"):
        raise InvalidInput(f"--first is now or next, not {task.first!r}")
    return task


def words(task: Task) -> str:
    """Return the trigger in words, for people: "every 5 s", "at 09:00 on weekdays, Europe/London"."""
    if task.trigger is Trigger.INTERVAL:
        return f"every {duration_words(parse_duration(task.schedule))}" + (
            ", aligned to the clock" if task.align else ""
        )
    if task.trigger is Trigger.CRON:
        return _cron(task.schedule, task.tz).words()
    if task.trigger is Trigger.ONCE:
        return "once" + (f", {format_instant(to_us(task.fire_at), task.tz or None)}" if task.fire_at else "")
    if task.trigger is Trigger.FILE_WATCH:
        return "when " + ", ".join(map(_short_path, task.watch_path.splitlines())) + " changes"
    if task.trigger is Trigger.AFTER:
        return f"after {' and '.join(task.after.split())} {AFTER_WORDS[task.when]}"
    return "when asked"


AFTER_WORDS = {"completed": "completed", "failed": "failed", "ended": "ended, well or not"}


def _short_path(path: str) -> str:
    """Return a path as seen from the working folder, when it lies in it."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def grace_us(task: Task, schedule: Schedule, last: Fire) -> int:
    """Return how late the newest passed slot may still run: `--grace`, else one period, at most 24 h."""
    if task.grace:
        return parse_duration(task.grace, allow_zero=True)
    following = schedule.next_fire(last.slot)
    return min(DAY_US, following.at_us - last.at_us) if following else DAY_US
