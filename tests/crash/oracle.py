"""What must be true at the end: the log says what began, clock and grid say what was planned, the rows must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import car_sched_nb as car
from car_sched_nb.durations import parse_duration
from car_sched_nb.model import to_us

SECOND_US = 1_000_000

Occurrence = tuple[str, int]
"""(task, number of its slot): an interval's index, a second since 1970 for cron."""


class Row(NamedTuple):
    """A row of history: a claim, or a series of slots that were not run."""

    task: str
    first: int
    slots: int
    status: str

    def occurrences(self) -> Iterator[Occurrence]:
        return ((self.task, slot) for slot in range(self.first, self.first + self.slots))


class Log(NamedTuple):
    """What the bodies said, and what was done to them."""

    starts: Counter[Occurrence]
    ends: set[Occurrence]
    together: list[Occurrence]
    """Began while another one of a task that allows no overlap went on."""
    until_us: int
    """Every slot up to here had its chance to be settled."""


class Verdict(NamedTuple):
    """Figures, and what is wrong by its kind; nothing is when `wrong` is empty."""

    slots: int
    starts: int
    rows: int
    wrong: dict[str, list[Occurrence]]

    def __str__(self) -> str:
        return f"{self.slots:,} slots planned, {self.starts:,} started, {self.rows:,} rows"


def judge(store: Path, log: Path, grid: Iterable[car.Task]) -> Verdict:
    """Hold the rows of a store that nobody has open against the log and the grid."""
    tasks = {task.name: task for task in grid}
    said = read_log(log, tasks)
    assert said.until_us, "no calm life has settled what was due"
    rows = read_rows(store)
    due = _due(store, tasks, said.until_us)
    planned = {(task, slot) for task, slots in due.items() for slot in slots}
    told = Counter(occurrence for row in rows for occurrence in row.occurrences())
    status = {(row.task, row.first): row.status for row in rows if row.slots == 1}
    wrong = {
        "started twice": [one for one, times in said.starts.items() if times > 1],
        "began beside another": said.together,
        "planned, without a row": sorted(planned - told.keys()),
        "started, without a row of its own": [one for one in said.starts if one not in status],
        "in two rows": [one for one, times in told.items() if times > 1],
        "not planned": [(task, slot) for task, slot in told if slot < due[task].start],
        "still live": [(row.task, row.first) for row in rows if row.status in ("waiting", "running")],
        "completed without an end": [
            one for one, state in status.items() if state == "completed" and one not in said.ends
        ],
        "not run but started": [one for one in said.starts if status.get(one) in ("missed", "skipped")],
        "cut off but not interrupted": [
            one for one in said.starts if one not in said.ends and status.get(one, "interrupted") != "interrupted"
        ],
    }
    found = {kind: ones for kind, ones in wrong.items() if ones}
    return Verdict(len(planned), said.starts.total(), len(rows), found)


def _due(store: Path, tasks: dict[str, car.Task], until_us: int) -> dict[str, range]:
    """Return what the clock asks for: every slot from a task's definition to the last one that is due."""
    found = {}
    for name, created_at in car.tasks(store=str(store))["created_at"].items():
        anchor_us, task = to_us(created_at.to_pydatetime()), tasks[str(name)]
        if task.trigger is car.Trigger.CRON:
            assert task.schedule == "* * * * * *"
            found[task.name] = range(anchor_us // SECOND_US + 1, until_us // SECOND_US + 1)
        else:
            found[task.name] = range((until_us - anchor_us) // parse_duration(task.schedule) + 1)
    return found


def read_rows(store: Path) -> list[Row]:
    history = car.history(store=str(store))
    columns = (history[name] for name in ("task", "slot", "slots", "status"))
    return [Row(task, number(slot), slots, status) for task, slot, slots, status in zip(*columns, strict=True)]


def read_log(log: Path, tasks: dict[str, car.Task]) -> Log:
    starts, ends = Counter[Occurrence](), set[Occurrence]()
    together, until_us = [], 0
    going: dict[Occurrence, str] = {}
    killed: set[str] = set()
    for line in log.read_text().splitlines():
        match line.split():
            case "START", task, slot, _, pid:
                one = (task, number(slot))
                starts[one] += 1
                if tasks[task].overlap != "allow" and any(name == task for name, _ in going):
                    together.append(one)
                if pid not in killed:
                    going[one] = pid
            case "END", task, slot, _, _:
                one = (task, number(slot))
                ends.add(one)
                going.pop(one, None)
            case "LIFE", pid:
                killed.discard(pid)
            case "KILL", pid:  # written before it is done: what that life still says is over, too
                killed.add(pid)
                going = {one: by for one, by in going.items() if by != pid}
            case "UNTIL", until:
                until_us = int(until)
            case other:
                raise ValueError(other)
    return Log(starts, ends, together, until_us)


def number(slot: str) -> int:
    """Return the number of a slot, so that the ones of a series can be counted up."""
    if not slot.endswith("Z"):
        return int(slot)
    return int(datetime.strptime(slot, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())
