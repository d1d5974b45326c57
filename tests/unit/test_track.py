"""Progress from inside a loop."""

import pytest

from car_sched_nb.engine.run import Run
from car_sched_nb.model import Task
from car_sched_nb.runners.base import NotInATask, Progress
from car_sched_nb.runners.track import progress, track
from tests.unit.world import running


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("for one in car.track(range(5), note='of five'): pass", Progress(5, 5, "of five")),
        ("for one in car.track(iter('abc')): pass", Progress(3, None)),
        ("for one in car.track('abcdef', total=10):\n    if one == 'c': break", Progress(2, 10)),
        ("car.progress(3, 2, '<b>')", Progress(3, 2, "<b>")),
    ],
)
async def test_the_last_report_is_how_far_the_loop_came(body: str, told: Progress):
    found: list[Run] = []
    async with running(":memory:") as s:
        ended = s.running.ended

        def over(run: Run) -> None:
            found.append(run)
            ended(run)

        s.running.ended = over
        done = await s.run_once(Task("task", body))
        assert done.status == "completed"
        assert found[0].progress == told


def test_outside_a_task_a_loop_is_just_a_loop():
    assert list(track("abc")) == ["a", "b", "c"]
    with pytest.raises(NotInATask):
        progress(1)
