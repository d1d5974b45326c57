"""Tasks that follow others: which ends they wait for, and where a chain stops."""

from pathlib import Path

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Status, Task
from car_sched_nb.runners.base import AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    HOUR,
    MINUTE,
    SECOND,
    Script,
    agent,
    attempts,
    clock_at,
    come_true,
    every,
    follower,
    pass_time,
    rest,
    running,
)

pytestmark = pytest.mark.anyio


async def test_a_follower_runs_after_each_end_of_its_upstream_and_not_for_those_before_it(store: SqliteStore):
    clock, script = clock_at(), Script()
    async with running(store, script, clock=clock) as s:
        await s.add(every("1m", "up"))
        await rest(s)
        await s.add(follower("up"))
        await rest(s)
        assert s.executions("task") == []
        await pass_time(3 * MINUTE, s)
        assert [o.task for o in script.seen] == ["up", *("up", "task") * 3]
        ends = [e.execution_id for e in s.executions("up")[1:]]
        assert [e.upstream for e in s.executions("task")] == [(end,) for end in ends]
        assert len({e.slot for e in s.executions("task")}) == 3
        assert [e.scheduled_at for e in s.executions("task")] == [e.finished_at for e in s.executions("up")[1:]]


async def test_with_several_upstreams_each_needs_a_new_end(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        for name in "ab":
            await s.add(agent(name))
        await s.add(follower("a,b"))
        for name in ("a", "a", "b", "b", "a"):
            await s.run_now(name)
            await rest(s)
        assert "".join(o.task[0] for o in script.seen) == "aabtbat"
        first, second = s.executions("task")
        newest = [s.executions(name) for name in "ab"]
        assert first.upstream == (newest[0][1].execution_id, newest[1][0].execution_id)
        assert second.upstream == (newest[0][2].execution_id, newest[1][1].execution_id)


@pytest.mark.parametrize(
    ("when", "ran"), [("completed", ["task"]), ("failed", ["task"]), ("ended", ["task", "task"])], ids=str
)
async def test_a_follower_chooses_which_ends_it_wants(store: SqliteStore, when: str, ran: list[str]):
    script = Script(lambda o: o.task == "up" and o.params["fail"])
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.add(follower("up", when=when))
        for fail in (True, False):
            await s.run_now("up", params={"fail": fail})
            await rest(s)
        assert [o.task for o in script.seen if o.task == "task"] == ran
        wanted = {"completed": 1, "failed": 0, "ended": None}[when]
        statuses = [e.status for e in s.executions("task")]
        assert statuses == ["completed" if wanted in (None, k) else "skipped" for k in range(2)]


async def test_a_chain_stops_with_a_word_on_every_link(store: SqliteStore):
    script = Script(lambda o: o.task == "a")
    async with running(store, script) as s:
        await s.add(agent("a"))
        await s.add(follower("a", "b"))
        await s.add(follower("b", "c"))
        await s.add(follower("c", "alarm", when="failed"))
        await s.run_now("a")
        await rest(s)
        assert [(e.task, e.status, e.reason, e.error) for e in s.executions()[1:3]] == [
            ("b", "skipped", "upstream", "a failed"),
            ("c", "skipped", "upstream", "b skipped"),
        ]
        assert [o.task for o in script.seen] == ["a", "alarm"]


async def test_of_several_upstreams_the_row_names_those_that_failed(store: SqliteStore):
    script = Script(lambda o: o.task in ("a", "c"))
    async with running(store, script) as s:
        for name in "abc":
            await s.add(agent(name))
        await s.add(follower("a,b,c"))
        for name in "abc":
            await s.run_now(name)
        await rest(s)
        assert [(e.status, e.error) for e in s.executions("task")] == [("skipped", "a failed; c failed")]


async def test_a_diamond_runs_its_last_once_each_time(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        await s.add(agent("top"))
        for name in ("left", "right"):
            await s.add(follower("top", name))
        await s.add(follower("left,right", "bottom"))
        for _ in range(3):
            await s.run_now("top")
            await rest(s)
        assert [len(s.executions(name)) for name in ("top", "left", "right", "bottom")] == [3, 3, 3, 3]


async def test_an_upstream_that_is_tried_again_has_not_ended(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "up" and o.attempt < 3)
    async with running(store, script, clock=clock) as s:
        await s.add(agent("up", retries=2, retry_delay="1m"))
        await s.add(follower("up"))
        await s.run_now("up")
        await pass_time(90 * SECOND, s)
        assert s.executions("task") == []
        await pass_time(HOUR, s)
        assert attempts(s.executions("up"))[2][1:] == (3, "completed")
        assert [e.upstream for e in s.executions("task")] == [(s.executions("up")[2].execution_id,)]


async def test_an_upstream_whose_attempts_all_failed_skips_its_follower_once(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "up")
    async with running(store, script, clock=clock) as s:
        await s.add(agent("up", retries=2, retry_delay="1m"))
        await s.add(follower("up"))
        await s.run_now("up")
        await pass_time(HOUR, s)
        assert [(e.status, e.error) for e in s.executions("task")] == [("skipped", "up failed")]


async def test_a_cancelled_retry_of_its_upstream_is_an_end(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "up")
    async with running(store, script, clock=clock) as s:
        await s.add(agent("up", retries=2, retry_delay="1m"))
        await s.add(follower("up"))
        await s.run_now("up")
        await rest(s)
        await s.cancel("up")
        await rest(s)
        assert [(e.status, e.error) for e in s.executions("task")] == [("skipped", "up cancelled")]


async def test_a_followers_own_failure_is_tried_again_with_the_same_upstream(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "task" and o.attempt == 1)
    async with running(store, script, clock=clock) as s:
        await s.add(agent("up"))
        await s.add(follower("up", retries=1, retry_delay="1m"))
        await s.run_now("up")
        await pass_time(2 * MINUTE, s)
        first, second = s.executions("task")
        assert (first.status, second.status) == ("failed", "completed")
        assert first.upstream == second.upstream == (s.executions("up")[0].execution_id,)


async def test_of_upstream_runs_that_overlap_the_newest_that_ended_counts_and_an_older_end_is_no_news(
    store: SqliteStore,
):
    script = Script(held=True)
    go = anyio.Event()

    async def first_is_slow(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        if runtime.params.get("slow"):
            await go.wait()
        return ""

    async with running(store, script) as s:
        s.register("some", first_is_slow)
        await s.add(Task("up", "do it", overlap="allow", runner="some"))
        script.let_go()
        await s.add(follower("up"))
        await s.run_now("up", params={"slow": True})
        await s.run_now("up")
        await come_true(lambda: script.seen)
        go.set()
        await s.wait()
        ups = s.executions("up")
        assert [e.status for e in ups] == ["completed", "completed"]
        assert [e.upstream for e in s.executions("task")] == [(ups[1].execution_id,)]


async def test_a_paused_follower_runs_once_for_the_newest_end_when_it_is_resumed(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.add(follower("up"))
        await s.pause("task")
        for _ in range(3):
            await s.run_now("up")
            await rest(s)
        assert s.executions("task") == []
        await s.resume("task")
        await rest(s)
        assert [e.upstream for e in s.executions("task")] == [(s.executions("up")[2].execution_id,)]


async def test_an_end_while_nobody_followed_is_followed_after_a_restart(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.define(follower("up"))
        await s.run_now("up")
        await rest(s)
    async with running(store, script) as s:
        await s.arm_all()
        await rest(s)
        assert len(s.executions("task")) == 1
    async with running(store, script) as s:
        await s.arm_all()
        await rest(s)
        assert len(s.executions("task")) == 1


async def rows_of(scheduler: Scheduler, count: int) -> None:
    await come_true(lambda: len(scheduler.executions("task")) >= count)


async def test_two_schedulers_follow_an_end_once(path: Path):
    script = Script()
    async with running(str(path), script) as one, running(str(path), script) as two:
        await one.add(agent("up"))
        await one.add(follower("up"))
        await two.arm("task")
        for k in range(5):
            await (one, two)[k % 2].run_now("up")
            await rows_of(one, k + 1)
            await rest(one, two)
        assert [e.status for e in one.executions("task")] == ["completed"] * 5
        assert [o.task for o in script.seen].count("task") == 5


@pytest.mark.parametrize(
    ("overlap", "followed"), [("skip", [0, 2]), ("queue", [0, 2]), ("replace", [0, 1, 2]), ("allow", [0, 1, 2])]
)
async def test_an_end_meets_a_follower_that_runs_by_its_overlap(store: SqliteStore, overlap: str, followed: list[int]):
    script = Script(held=True)

    async def fast(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        return "done"

    async with running(store, script) as s:
        s.register("fast", fast)
        await s.add(Task("up", "do it", runner="fast"))
        await s.add(follower("up", overlap=overlap))
        for _ in range(3):
            await s.run_now("up")
            await rest(s)
        script.let_go()
        await rest(s)
        ups = [e.execution_id for e in s.executions("up")]
        assert [e.upstream for e in s.executions("task")] == [(ups[k],) for k in followed]
        assert [e.status for e in s.executions("task")].count(Status.CANCELLED) == (2 if overlap == "replace" else 0)
