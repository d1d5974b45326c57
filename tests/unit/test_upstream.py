"""What a follower is told of its upstream, and which upstreams are refused."""

from typing import Any

import pytest

from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Status, Task, Trigger
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    Script,
    agent,
    follower,
    rest,
    running,
)

pytestmark = pytest.mark.anyio


async def test_a_body_is_told_how_its_upstream_ended_and_gets_its_live_result(store: SqliteStore):
    told: dict[str, Any] = {}

    async def run(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> Any:
        told[spec.name] = {
            name: (up.status, up.answer, up.result, up.execution.task) for name, up in runtime.upstream.items()
        }
        if spec.name == "bad":
            return AgentOutput(answer="half", error="boom")
        return {"rows": 3}

    async with running(store) as s:
        s.register("agent", run)
        for name in ("good", "bad"):
            await s.add(agent(name))
        await s.add(follower("good,bad", when="ended"))
        for name in ("good", "bad"):
            await s.run_now(name)
            await rest(s)
        assert told["good"] == {}
        assert told["task"] == {
            "good": ("completed", "{'rows': 3}", {"rows": 3}, "good"),
            "bad": ("failed", "half", None, "bad"),
        }


async def test_after_a_restart_the_upstream_is_known_without_its_live_result(store: SqliteStore):
    told: list[Any] = []

    async def run(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> str:
        told.extend((up.status, up.answer, up.result) for up in runtime.upstream.values())
        return "text"

    async with running(store) as s:
        s.register("agent", run)
        await s.add(agent("up"))
        await s.define(follower("up"))
        await s.run_now("up")
        await rest(s)
    async with running(store) as s:
        s.register("agent", run)
        await s.arm_all()
        await rest(s)
        assert told == [("completed", "text", None)]


async def test_run_once_serves_the_newest_ends_and_not_twice(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.define(follower("up"))
        early = await s.run_once("task")
        assert (early.trigger, early.status, early.upstream) == ("manual", "completed", ())
        await s.run_now("up")
        await rest(s)
        served = await s.run_once("task")
        assert served.upstream == (s.executions("up")[0].execution_id,)
        assert await s.run_once("task") == served
        await s.arm("task")
        await rest(s)
        assert s.executions("task") == [early, served]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("extrct", "extract"),
        ("nobody", "--after nobody: no task is named so"),
        ("task", "task after task"),
        ("end", "task after end after middle after task"),
    ],
)
async def test_an_unknown_upstream_or_a_circle_is_refused_with_what_to_do(store: SqliteStore, after: str, said: str):
    async with running(store) as s:
        await s.add(agent("extract"))
        await s.add(agent("task"))
        await s.add(follower("task", "middle"))
        await s.add(follower("middle", "end"))
        before = s.tasks()
        with pytest.raises(InvalidInput, match=said):
            await s.add(follower(after))
        assert s.tasks() == before


async def test_a_follower_of_a_deleted_task_waits_for_the_next_of_that_name(store: SqliteStore):
    script = Script()
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.add(follower("up"))
        await s.delete("up")
        await rest(s)
        await s.add(agent("up"))
        await s.run_now("up")
        await rest(s)
        assert [o.task for o in script.seen] == ["up", "task"]


async def test_a_skipped_upstream_row_is_no_run(store: SqliteStore):
    script = Script(lambda o: o.task == "up")
    async with running(store, script) as s:
        await s.add(agent("up"))
        await s.add(follower("up"))
        await s.run_now("up")
        await rest(s)
        (skipped,) = s.executions("task")
        assert (skipped.status, skipped.started_at, skipped.attempt) == (Status.SKIPPED, None, 0)
        assert s.task("task").run_count == 0


async def test_a_python_body_reads_the_live_result_of_its_upstream(store: SqliteStore):
    body = "import car_sched_nb as car\ncar.current().upstream['up'].result['rows'] + 1"
    async with running(store) as s:
        await s.add(Task("up", "{'rows': 41}"))
        await s.add(Task("task", body, Trigger.AFTER, after="up"))
        await s.run_now("up")
        await rest(s)
        await s.wait()
        assert [(e.status, e.answer) for e in s.executions("task")] == [("completed", "42")]
