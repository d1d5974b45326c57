"""The collector is held off while very many executions begin, and never for long."""

import gc

import pytest

from car_sched_nb.collector import LONGEST_S, MANY, Collector
from tests.unit.world import MINUTE, clock_at, every, leap, running


@pytest.mark.anyio
async def test_a_burst_holds_the_collector_off_and_leaves_it_on(monkeypatch: pytest.MonkeyPatch):
    held = Collector()
    asked: list[bool] = []
    hold = held.hold

    def noted() -> None:
        hold()
        asked.append(gc.isenabled())

    monkeypatch.setattr(held, "hold", noted)
    monkeypatch.setattr("car_sched_nb.engine.core.collector", held)
    clock = clock_at()
    async with running(":memory:", clock=clock, max_running=10) as s:
        for k in range(MANY + 10):
            await s.define(every("1m", name=f"t{k}", first="next"))
        await s.arm_all()
        await leap(s, clock, MINUTE)
        assert len(s.executions()) == MANY + 10
    assert asked == [False]
    assert gc.isenabled()


def test_a_collector_that_somebody_switched_off_stays_off():
    gc.disable()
    try:
        held = Collector()
        held.hold()
        held.let_go()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_held_off_for_half_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("car_sched_nb.collector.time.monotonic", lambda: now)
    held = Collector()
    held.hold()
    now += LONGEST_S - 0.1
    held.let_go(busy=True)
    assert not gc.isenabled()
    now += 0.2
    held.let_go(busy=True)
    assert gc.isenabled()
    held.hold()
    assert gc.isenabled()
    now += LONGEST_S + 0.2
    held.hold()
    assert not gc.isenabled()
    held.let_go()
    assert gc.isenabled()
