"""Each series of failures is told once, by whom and in whichever life it goes on: a sequence of ends, its messages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.engine import courier, edges
from car_sched_nb.engine.edges import Turn, turn, worth
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Task
from car_sched_nb.store import settings as kept
from car_sched_nb.store.ops import Call
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import Script, agent, clock_at, come_true, running

_NUMBERS = itertools.count()
ENDS = ("completes", "fails", "fails once", "is cancelled")
Step = tuple[int, str]
"""Which of two owners runs it, and how it ends; `fails once` completes with its second attempt."""
lives = st.lists(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(ENDS)), max_size=6), min_size=1, max_size=3)


def expected(steps: Sequence[Step]) -> list[str]:
    """Say it another way: walk over the ends that count and look at the one before."""
    counted = [end for _, end in steps if end != "is cancelled"]
    told = []
    for before, end in itertools.pairwise(["completes", *counted]):
        if end == "fails" and before != "fails":
            told.append("failed")
        elif end != "fails" and before == "fails":
            told.append("recovered")
        elif end != "fails":
            told.append("completed")
    return told


async def messages_of(folder: Path, lives: Sequence[Sequence[Step]]) -> list[str]:
    """Carry it out, each life with two schedulers on one store, and return the messages that were kept to be sent."""
    path = str(folder / f"{next(_NUMBERS)}.db")
    for steps in lives:
        first, second = Script(), Script()
        async with running(path, first, clock=clock_at()) as a, running(path, second, clock=clock_at()) as b:
            await a.writer.write(Call(lambda db: kept.put(db, "default", "notify", "env:CAR_TEST_NOBODY")))
            await a.define(agent(notify="failed,recovered,completed", retries=1, retry_delay="0s", overlap="allow"))
            for owner, end in steps:
                await _run((a, b)[owner], (first, second)[owner], end)
    store = SqliteStore(path)
    try:
        return [row[0] for row in store.rows("SELECT kind FROM deliveries ORDER BY id")]
    finally:
        store.close()


async def _run(scheduler: Scheduler, script: Script, end: str) -> None:
    # Not run_once, which tries a failed occurrence again: each step is an occurrence of its own.
    script.fails = (lambda o: o.attempt == 1) if end == "fails once" else end == "fails"
    if end == "is cancelled":
        script.hold()
    await scheduler.run_now("task")
    if end == "is cancelled":
        await script.begun.wait()
        await scheduler.cancel("task")
        script.let_go()
    # The next attempt begins with the end of the one before, and a message is written after it.
    await come_true(lambda: not scheduler.live() and not scheduler.telling._courier._writing)


def check(folder: Path, lives: Sequence[Sequence[Step]]) -> None:
    assert anyio.run(messages_of, folder, lives) == expected([step for steps in lives for step in steps])


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def left(*_: object) -> float:
        return 60.0

    monkeypatch.setattr(courier.Courier, "_send_messages", left)


@settings(max_examples=12, deadline=None)
@given(lives=lives)
def test_a_sequence_of_ends_has_the_messages_of_its_edges(tmp_path_factory: pytest.TempPathFactory, lives):
    check(tmp_path_factory.mktemp("edges", numbered=True), lives)


LONG: list[list[Step]] = [
    [(0, "fails"), (1, "fails"), (0, "completes")],
    [(0, "fails"), (1, "completes"), (0, "fails")],
    [(1, "fails"), (1, "is cancelled"), (0, "fails once")],
]


def test_a_series_goes_on_in_another_owner_and_another_life(tmp_path: Path):
    check(tmp_path, LONG)
    assert expected([step for steps in LONG for step in steps]) == ["failed", "recovered"] * 3


@pytest.mark.parametrize(
    "broken",
    [
        lambda failed, before: None if failed is None else turn(failed, 0),  # what the store knows is not asked for
        lambda failed, before: None if failed is None else Turn(failed, before),  # off by one
        lambda failed, before: turn(bool(failed), before),  # an end that says nothing counts
    ],
)
def test_a_broken_rule_is_caught(broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edges, "turn", broken)
    with pytest.raises(AssertionError):
        check(tmp_path, LONG)


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        ("", ["failed", None, "recovered", None]),
        ("none", [None, None, None, None]),
        ("completed", [None, None, "completed", "completed"]),
        ("failed,recovered,completed", ["failed", None, "recovered", "completed"]),
    ],
)
def test_a_task_is_told_of_what_it_asked_for(notify: str, told: list[str | None]):
    ends = [turn(True, 0), turn(True, 1), turn(False, 2), turn(False, 0)]
    assert [worth(Task("task", notify=notify), end) for end in ends if end] == told
