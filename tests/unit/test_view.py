"""The dashboard's rows and head: what they say of tasks, and that only what changed is sent."""

from pathlib import Path

import pytest

from car_sched_nb.model import Task, Trigger
from car_sched_nb.runners.base import Progress
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.widget import still
from car_sched_nb.widget.progress import Pace, Paces
from tests.unit.pages import watched
from tests.unit.world import HOUR, Recorder, Script, agent, clock_at, cron, every, jump, rest, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """A notebook's engine is on asyncio, and so is what tells its dashboards."""
    return "asyncio"


async def test_a_row_says_what_a_task_is_when_it_fires_and_how_it_ended(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(cron("0 12 * * *", tz="Europe/London", name="noon"))
        await s.add(agent("asked"))
        await s.run_once("asked")
        async with watched(s) as (_, page):
            noon, asked = page.rows()["noon"], page.rows()["asked"]
            assert (noon["kind"], noon["tz"], noon["status"], noon["armed"]) == (
                "cron",
                "Europe/London",
                "scheduled",
                True,
            )
            assert noon["next_at_us"] == s.clock.now_us() + 3 * HOUR.total_seconds() * 1e6
            assert (noon["last"], noon["run"], noon["armed_in"], noon["failures"]) == (None, None, None, 0)
            assert (asked["kind"], asked["status"], asked["served"]) == ("manual", "completed", 1)
            assert asked["last"]["text"] == "completed: do it"
            assert asked["last"]["execution_id"] == s.executions("asked")[-1].execution_id


async def test_the_head_counts_what_works_apart_from_what_waits(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "fails", held=True)
    async with running(store, script, clock=clock) as s:
        await s.add(agent("fails", retries=1, retry_delay="1h"))
        await s.add(every("1h", "hourly", first="next"))
        await s.run_now("fails")
        await rest(s)
        async with watched(s) as (watch, page):
            head = page.newest("snapshot")["head"]
            assert (head["running"], head["waiting"], head["scheduled"], head["failed_24h"]) == (1, 0, 1, 0)
            script.let_go()
            await watch.rest()
            head = page.newest("update")["head"]
            assert (head["running"], head["waiting"], head["failed_24h"]) == (0, 1, 1)
            run = page.rows()["fails"]["run"]
            assert (run["state"], run["wait_reason"], run["count"]) == ("waiting", "retry delay", 1)


async def test_only_rows_that_changed_are_sent(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for name in ("a", "b", "c"):
            await s.add(agent(name))
        async with watched(s) as (watch, page):
            await watch.pass_s(5)
            assert page.of("update") == []
            await s.run_once("b")
            await watch.rest()
            assert {row["name"] for update in page.of("update") for row in update["rows"]} == {"b"}
            count = len(page.told)
            watch.feed.view.touch(list(watch.feed.view.names()))  # looked at again, and the same
            await watch.pass_s(3)
            told = [row["name"] for _, message in page.told[count:] for row in message["rows"]]
            assert set(told) <= {"a", "c"}
            watch.feed.view.touch(list(watch.feed.view.names()))
            count = len(page.told)
            await watch.pass_s(3)
            assert len(page.told) == count


async def test_tasks_that_come_change_and_go_are_told(store: SqliteStore):
    async with running(store, clock=clock_at()) as s, watched(s) as (watch, page):
        assert page.rows() == {}
        await s.add(every("1h", "new"))
        await watch.rest()
        assert page.rows()["new"]["trigger"] == "every 1 h"
        await s.add(every("2h", "new"))
        await s.pause("new")
        await watch.rest()
        row = page.rows()["new"]
        assert (row["trigger"], row["status"], row["enabled"]) == ("every 2 h", "disabled", False)
        await s.delete("new")
        await watch.rest()
        assert page.rows() == {}


async def test_hostile_names_of_runners_paths_and_progress_are_plain_json(store: SqliteStore):
    bad = "\ud800\x00<script>alert(1)</script>\u202e"
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at(), owner_name=bad[1:].replace("\x00", "")) as s:
        await s.add(agent("works"))
        await s.run_now("works")
        await rest(s)
        (run,) = s.live()
        run.progress = Progress(1.0, float("inf"), bad)
        async with watched(s) as (watch, page):
            assert "<script>" in page.newest("snapshot")["head"]["owner"]
            shown = page.rows()["works"]["run"]["progress"]
            assert (shown["done"], shown["total"]) == (1.0, None)
            assert "\ud800" not in shown["note"] and "<script>" in shown["note"]
            run.progress = Progress(float("nan"))
            await watch.pass_s(1.5)
            assert page.rows()["works"]["run"]["progress"] is None


async def test_what_another_kernel_plans_and_runs_is_shown_and_can_be_stopped(path: Path, quick_looks: None):
    there_runs = Recorder(held=True)
    async with (
        running(str(path), clock=clock_at(), owner_name="here") as here,
        running(str(path), there_runs, clock=clock_at(), owner_name="there") as there,
        watched(here) as (watch, page),
    ):
        await there.add(every("1h", "theirs", first="next"))
        await there.run_now("theirs")
        await there_runs.begun.wait()
        await watch.pass_s(2.5)
        row = page.rows()["theirs"]
        assert (row["armed"], row["armed_in"], row["status"]) == (False, "there", "running")
        assert row["run"]["execution_id"] == there.live()[0].execution_id
        assert page.newest("update")["head"]["elsewhere"] == [{"owner": "there", "tasks": 1}]
        page.say(type="command", id="c", verb="cancel", tasks=[row["id"]])
        await watch.pass_s(0.2)
        assert page.newest("ack") == {"type": "ack", "id": "c", "ok": True, "text": "", "failed": []}
        await there.wait_ended(there.live(), 10)
        await watch.pass_s(2.5)
        row = page.rows()["theirs"]
        assert (row["run"], row["last"]["status"]) == (None, "cancelled")
        await there.delete("theirs")
        await watch.pass_s(2.5)
        assert page.rows() == {}


async def test_a_rate_is_of_the_reports_and_falls_when_they_stop():
    pace = Pace()
    assert pace.rate(0, 0) is None
    assert pace.rate(1, 500_000) is None  # too early to tell
    assert pace.rate(4, 2_000_000) == 2.0
    assert pace.rate(8, 4_000_000) == 2.0
    assert pace.rate(8, 8_000_000) == 1.0
    assert pace.rate(0, 9_000_000) is None  # it began anew
    assert pace.rate(10, 11_000_000) == 5.0


async def test_a_rate_follows_the_newest_reports():
    pace = Pace()
    for second in range(100):
        pace.rate(second, second * 1_000_000)
    rates = [pace.rate(100 + (second - 99) * 10, second * 1_000_000) for second in range(100, 200)]
    assert rates[-1] == pytest.approx(10)


async def test_the_time_left_needs_a_total_and_a_rate():
    paces = Paces()
    assert paces.shown("a", Progress(1, 10), 0) == {"done": 1, "total": 10, "note": "", "rate": None, "left_us": None}
    shown = paces.shown("a", Progress(4, 10), 3_000_000)
    assert shown is not None
    assert (shown["rate"], shown["left_us"]) == (1.0, 6_000_000)
    shown = paces.shown("a", Progress(5), 4_000_000)
    assert shown is not None
    assert (shown["rate"], shown["left_us"]) == (1.0, None)


async def test_the_saved_table_has_words_only_and_escapes_them(store: SqliteStore):
    async with running(store, Script(fails=True), clock=clock_at()) as s:
        await s.add(agent("<b>".strip("<>") + "old", prompt="x"))
        await s.run_once("bold")
        async with watched(s) as (watch, page):
            s.executions()
            body, plain = watch.feed.still()
            assert plain.splitlines() == [
                "bold  ✗ failed  agent · when asked  ✗ failed: RuntimeError: it failed, as told"
            ]
            row = {**page.rows()["bold"], "name": "<script>alert(1)</script>", "waits": "<img src=x>"}
            shown = still.table([row], more=3)
            assert "<script>" not in shown
            assert "<img" not in shown
            assert "&lt;script&gt;" in shown
            assert "and 3 more" in shown
            assert "<style" not in body
    assert "no tasks yet" in still.table([])


async def test_the_saved_table_is_replaced_when_it_is_calm_and_not_too_often(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent("a"))
        async with watched(s) as (watch, page):
            await watch.pass_s(30)
            assert page.stills == []
            await s.run_once("a")
            await watch.rest(1.0)
            assert page.stills == []
            await watch.pass_s(3)
            assert len(page.stills) == 1
            assert "completed" in page.stills[0][0]
            for number in range(40):  # never calm for 2 s
                await s.define(agent(f"more{number}"))
                page.say(type="look", view="v", rows=[])
                await watch.pass_s(1)
            assert 2 <= len(page.stills) <= 5
            count = len(page.stills)
            await s.run_once("a")
            await watch.pass_s(200)  # nobody looks any more
            assert len(page.stills) <= count + 1


async def test_a_saved_table_is_short_however_many_tasks_there_are(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for number in range(205):
            await s.define(Task(f"t{number}", "1", Trigger.MANUAL))
        async with watched(s) as (watch, _):
            body, plain = watch.feed.still()
            assert body.count("<tr>") == 201
            assert "and 5 more" in body
            assert plain.endswith("and 5 more")


async def test_time_that_passes_moves_the_next_fire(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", "hourly"))
        await rest(s)
        async with watched(s) as (watch, page):
            before = page.rows()["hourly"]
            await jump(HOUR, s)
            await watch.rest()
            after = page.rows()["hourly"]
            assert after["next_at_us"] - before["next_at_us"] == 3_600_000_000
            assert after["served"] == before["served"] + 1
