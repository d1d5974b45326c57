"""What is worth a notice: only where a series of ends turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from car_sched_nb.engine.edges import worth
from car_sched_nb.engine.events import Event
from car_sched_nb.model import Status, Task, to_us
from car_sched_nb.widget.words import first_line

MOST = 50
FAILED = frozenset({Status.FAILED, Status.TIMED_OUT, Status.INTERRUPTED})


class Notices:
    """The newest notices, and how often each task failed in a row."""

    def __init__(self) -> None:
        self.in_a_row: dict[str, int] = {}
        """By task id; of those whose last end was a failure."""
        self.changed = False
        """Whether there is anything new since the last `take`."""
        self._kept: deque[dict[str, Any]] = deque(maxlen=MOST)

    def begin(self, in_a_row: Mapping[str, int], failing: Iterable[tuple[Task, dict[str, Any]]]) -> None:
        """Take how often each task failed in a row until now, and the last ends of those that are failing."""
        self.in_a_row = dict(in_a_row)
        self._kept.clear()
        known = [(task, last) for task, last in failing if task.notifies("failed")]
        for task, last in sorted(known, key=lambda one: one[1]["finished_at_us"] or 0)[-MOST:]:
            self._keep("failed", task, last["execution_id"], last["finished_at_us"] or 0, last["text"])

    def set(self, task_id: str, in_a_row: int) -> None:
        """Take how often a task failed in a row that another owner runs; that owner tells of it."""
        if in_a_row:
            self.in_a_row[task_id] = in_a_row
        else:
            self.in_a_row.pop(task_id, None)

    def hear(self, event: Event) -> None:
        """Take an event, and note what turned by it."""
        task_id, execution = event.task.id, event.execution
        if event.kind in ("deleted", "resumed"):
            self.in_a_row.pop(task_id, None)
        if event.kind == "delivery":
            self._hear_delivery(event)
        if event.turn is None or execution is None:
            return
        self.set(task_id, event.turn.in_a_row if event.turn.failed else 0)
        kind = worth(event.task, event.turn)
        if kind is not None:
            at_us = to_us(execution.finished_at) if execution.finished_at else 0
            text = first_line(execution.error, execution.error_type, execution.answer)
            self._keep(kind, event.task, execution.execution_id, at_us, text)
            self.changed = True

    def _hear_delivery(self, event: Event) -> None:
        """Keep what did not reach somebody, the newest of each kind, until it does."""
        self.dismiss(f"delivery:{event.about}")
        if event.text:
            at_us = event.at_us or 0
            self._keep("delivery", event.task, event.execution_id or "", at_us, event.text, event.about)
            self.changed = True

    def _keep(self, kind: str, task: Task, execution_id: str, at_us: int, text: str, about: str = "") -> None:
        self._kept.appendleft(
            {
                "id": f"{kind}:{about or execution_id}",
                "kind": kind,
                "task": task.name,
                "task_id": task.id,
                "execution_id": execution_id,
                "at_us": at_us,
                "text": text,
            }
        )

    def dismiss(self, notice_id: str | None) -> None:
        """Remove a notice, or all of them; for every view."""
        kept = [] if notice_id is None else [notice for notice in self._kept if notice["id"] != notice_id]
        self.changed = self.changed or len(kept) != len(self._kept)
        self._kept = deque(kept, MOST)

    def newest(self) -> list[dict[str, Any]]:
        """Return the notices, newest first."""
        return list(self._kept)
