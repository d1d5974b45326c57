"""Which exceptions a kernel keeps for `%car debug`."""

from __future__ import annotations

import msgspec
import pytest

from car_sched_nb.engine.events import Event
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Execution, Status, Task, Trigger
from car_sched_nb.notebook.debug import MOST, Failures
from tests.unit.world import MONDAY


def finished(name: str, status: Status, exception: BaseException | None = None) -> Event:
    execution = Execution(
        execution_id="e",
        occurrence_id="e",
        task_id=name,
        task=name,
        namespace="t",
        trigger=Trigger.MANUAL,
        slot="0",
        attempt=1,
        status=status,
        scheduled_at=MONDAY,
    )
    return Event(kind="finished", task=Task(name), execution=execution, exception=exception)


def failed(name: str) -> Event:
    return finished(name, Status.FAILED, RuntimeError(name))


def test_the_newest_of_each_task_is_kept():
    failures = Failures()
    failures.hear(failed("a"))
    failures.hear(finished("a", Status.FAILED, ValueError("newer")))
    failures.hear(finished("a", Status.CANCELLED))
    assert str(failures.of(Task("a")).exception) == "newer"


@pytest.mark.parametrize(
    "event",
    [
        finished("a", Status.COMPLETED),
        finished("a", Status.FAILED),  # in a process: what failed here before is another failure
        msgspec.structs.replace(finished("a", Status.COMPLETED), kind="deleted"),
    ],
    ids=["completed", "failed elsewhere", "deleted"],
)
def test_it_is_dropped_when_it_is_the_last_no_more(event: Event):
    failures = Failures()
    failures.hear(failed("a"))
    failures.hear(event)
    with pytest.raises(InvalidInput, match="%car logs a"):
        failures.of(Task("a"))


def test_only_so_many_tasks_are_kept():
    failures = Failures()
    for number in range(MOST + 1):
        failures.hear(failed(f"t{number}"))
        failures.hear(failed("t1"))  # one that fails again and again is not the oldest
    assert len(failures._kept) == MOST
    assert "t0" not in failures._kept
    assert "t1" in failures._kept
