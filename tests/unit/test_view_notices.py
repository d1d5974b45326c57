"""Notices of the dashboard: only where a series of ends turns."""

import pytest

from car_sched_nb.model import Status
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.pages import Viewer, Watched, watched
from tests.unit.world import Recorder, Script, agent, clock_at, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def kinds(page: Viewer) -> list[str]:
    """Return the kinds of the notices that a page has, newest first."""
    newest = [message["notices"] for _, message in page.told if "notices" in message][-1]
    return [notice["kind"] for notice in newest]


async def test_the_first_failure_and_the_recovery_are_told_and_nothing_between(store: SqliteStore):
    script = Script(fails=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent())
        async with watched(s) as (watch, page):
            for fails in (False, False, True, True, True, False, False, True):
                script.fails = fails
                await s.run_once("task")
            await watch.rest()
            assert kinds(page) == ["failed", "recovered", "failed"]
            notice = page.newest("update")["notices"][0]
            assert (notice["task"], notice["text"]) == ("task", "RuntimeError: it failed, as told")
            assert notice["execution_id"] == s.executions()[-1].execution_id
            assert page.rows()["task"]["failures"] == 1


async def test_a_failure_that_is_tried_again_is_told_when_the_last_try_failed(store: SqliteStore):
    script = Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent(retries=1, retry_delay="0s"))
        async with watched(s) as (watch, page):
            await s.run_now("task")
            await watch.rest()
            assert [str(e.status) for e in s.executions()] == ["failed", "completed"]
            assert kinds(page) == []
            script.fails = True
            await s.run_now("task")
            await watch.rest()
            assert kinds(page) == ["failed"]
            assert page.newest("update")["notices"][0]["execution_id"] == s.executions()[-1].execution_id


async def test_what_was_cancelled_or_skipped_neither_begins_nor_ends_a_series(store: SqliteStore):
    script = Script(fails=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent())
        await s.run_once("task")
        async with watched(s) as (watch, page):
            script.hold()
            await s.run_now("task")
            await s.run_now("task")  # skipped
            await script.begun.wait()
            await s.cancel("task")
            script.let_go()
            await s.run_once("task")  # the second failure in a row
            await watch.rest()
            assert kinds(page) == ["failed"]  # the one from before
            assert page.rows()["task"]["failures"] == 2
            script.fails = False
            await s.run_once("task")
            await watch.rest()
            assert kinds(page) == ["recovered", "failed"]


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        ("", ["failed", "recovered"]),
        ("completed", ["completed", "completed", "completed"]),
        ("failed,recovered,completed", ["completed", "failed", "recovered", "completed"]),
        ("none", []),
    ],
)
async def test_a_task_tells_what_it_was_asked_to(store: SqliteStore, notify: str, told: list[str]):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent(notify=notify))
        async with watched(s) as (watch, page):
            for fails in (False, True, True, False, False):
                script.fails = fails
                await s.run_once("task")
            await watch.rest()
            assert list(reversed(kinds(page))) == told


async def test_at_most_fifty_are_kept_and_a_dismissed_one_is_gone_for_every_page(store: SqliteStore):
    script = Script()
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent(notify="completed"))
        async with watched(s) as (watch, page):
            other = await watch.page()
            other.say(type="hello")
            for _ in range(60):
                await s.run_once("task")
            await watch.rest()
            newest = page.newest("update")["notices"]
            assert len(newest) == 50
            assert newest[0]["execution_id"] == s.executions()[-1].execution_id
            page.say(type="command", id=1, verb="dismiss", execution=newest[3]["id"])
            await watch.rest()
            assert [n["id"] for n in other.newest("update")["notices"]] == [n["id"] for n in newest if n != newest[3]]
            page.say(type="command", id=2, verb="dismiss")
            await watch.rest()
            assert other.newest("update")["notices"] == []
            assert [ack["ok"] for ack in page.of("ack")] == [True, True]


async def test_a_series_that_began_before_the_dashboard_was_opened_is_known(store: SqliteStore):
    script = Script(fails=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent())
        await s.add(agent("fine"))
        script.fails = lambda o: o.task == "task"
        for _ in range(3):
            await s.run_once("task")
            await s.run_once("fine")
        assert [s.task(name).failures for name in ("task", "fine")] == [3, 0]
        async with watched(s) as (watch, page):
            assert page.rows()["task"]["failures"] == 3
            failing = page.newest("snapshot")["notices"]
            assert [(n["task"], n["execution_id"]) for n in failing] == [
                ("task", s.executions("task")[-1].execution_id)
            ]
            await s.run_once("task")
            script.fails = False
            await s.run_once("task")
            await watch.rest()
            assert kinds(page) == ["recovered", "failed"]


async def test_a_failure_that_waits_for_its_next_try_is_not_in_the_series_yet(store: SqliteStore):
    async with running(store, Script(fails=True), clock=clock_at()) as s:
        await s.add(agent(retries=1, retry_delay="1h"))
        await s.run_now("task")
        watch = Watched(s)
        await watch.rest()
        assert [e.status for e in s.executions()] == [Status.FAILED, Status.WAITING]
        assert s.task("task").failures == 0


async def test_what_turned_while_nobody_looked_is_told_later(store: SqliteStore):
    async with running(store, Script(fails=True), clock=clock_at()) as s:
        await s.add(agent())
        async with watched(s) as (watch, page):
            await watch.pass_s(200)
            await s.run_once("task")
            await watch.pass_s(200)
            count = len(page.told)
            page.say(type="hello")
            await watch.pass_s(0.2)
            assert page.told[count][1]["type"] == "snapshot"
            assert kinds(page) == ["failed"]


async def test_a_resumed_task_begins_its_series_anew(store: SqliteStore):
    recorder = Recorder()
    recorder.error = RuntimeError("no")
    async with running(store, recorder, clock=clock_at()) as s:
        await s.add(agent())
        async with watched(s) as (watch, page):
            await s.run_once("task")
            await s.pause("task")
            await s.resume("task")
            await s.run_once("task")
            await watch.rest()
            assert kinds(page) == ["failed", "failed"]
