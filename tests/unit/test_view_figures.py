"""What the dashboard shows of a task that is looked at closely: figures, executions, and all of one of them."""

import json
import random
import statistics
from typing import Any

import msgspec
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Status, Task
from car_sched_nb.output import HEAD, TAIL
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store import board, records
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.widget import details
from tests.unit.pages import Viewer, Watched, watched
from tests.unit.world import HOUR, MINUTE, Recorder, Script, agent, attempts, clock_at, every, jump, rest, running

pytestmark = pytest.mark.anyio

STATUSES = ["completed", "failed", "timed_out", "interrupted", "cancelled", "missed", "skipped", "running"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def write_history(store: SqliteStore, task_id: str, count: int, chance: random.Random) -> list[tuple[Any, ...]]:
    """Write executions straight into the store; return (id, status, duration, started, scheduled) in their order."""
    rows = []
    for number in range(count):
        status = chance.choice(STATUSES[:7])
        ran = status not in ("missed", "skipped")
        started = 1_000_000 * number + 5 if ran else None
        duration = chance.choice([None, chance.randrange(10**7)]) if ran else None
        rows.append((f"{task_id}:{number}#1", status, duration, started, 1_000_000 * number))
    with store.transaction() as db:
        db.executemany(
            """INSERT INTO executions (execution_id, occurrence_id, task_id, trigger, slot, attempt, status, duration,
                started_at, scheduled_at, slots, cause, version, runner, executor)
            VALUES (?1, ?1, ?6, 'manual', 's', 1, ?2, ?3, ?4, ?5, 1, 'slot', 0, 'agent', 'loop')""",
            [(*row, task_id) for row in rows],
        )
    return rows


def plainly(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Compute a task's figures from all of its rows, as one would by hand."""
    newest = rows[-100:]
    completed = [row for row in newest if row[1] == "completed"]
    failed = [row for row in newest if row[1] in ("failed", "timed_out", "interrupted")]
    durations = [row[2] for row in completed if row[2] is not None]
    return {
        "median_us": int(statistics.median(durations)) if durations else None,
        "ok": len(completed) / (len(completed) + len(failed)) if completed or failed else None,
        "of": len(completed) + len(failed),
        "strip": [[id_, status, took, at if at is not None else due] for id_, status, took, at, due in newest[-30:]],
    }


@pytest.mark.parametrize("seed", range(5))
async def test_figures_are_what_a_plain_computation_says(store: SqliteStore, seed: int):
    chance = random.Random(seed)
    async with running(store, clock=clock_at()) as s:
        wanted = {}
        for number, count in enumerate([0, 1, 2, 29, 31, 100, 101, 250]):
            task = await s.add(agent(f"t{number}"))
            wanted[task.id] = plainly(write_history(store, task.id, count, chance))
        found = details.all_stats(store, wanted)
        assert found == wanted


async def test_figures_of_a_long_history_read_only_its_newest_rows(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        task = await s.add(agent())
        write_history(store, task.id, 20_000, random.Random(0))
        plan = store.rows(f"EXPLAIN QUERY PLAN {board._STATS}", json.dumps([task.id]), 100)
        steps = [str(row[-1]) for row in plan]
        assert any("SEARCH x USING INDEX by_task (task_id=?)" in step for step in steps), steps
        assert not any("SCAN x" in step or "TEMP B-TREE" in step for step in steps), steps


async def test_only_the_figures_of_rows_that_are_looked_at_are_sent_and_again_when_one_ended(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for name in ("seen", "unseen"):
            await s.add(agent(name))
            await s.run_once(name)
        async with watched(s) as (watch, page):
            ids = {name: row["id"] for name, row in page.rows().items()}
            page.say(type="look", view="v", rows=[ids["seen"], "nobody"])
            await watch.pass_s(0.3)
            stats = page.newest("update")["stats"]
            assert list(stats) == [ids["seen"]]
            assert (stats[ids["seen"]]["ok"], stats[ids["seen"]]["of"], len(stats[ids["seen"]]["strip"])) == (1.0, 1, 1)
            count = len(page.told)
            await watch.pass_s(5)
            assert len(page.told) == count
            await s.run_once("seen")
            await s.run_once("unseen")
            await watch.rest(3)
            told = [message["stats"] for _, message in page.told[count:] if message["stats"]]
            assert [list(stats) for stats in told] == [[ids["seen"]]]
            assert told[0][ids["seen"]]["of"] == 2


def outputs_of(page: Viewer) -> list[dict[str, Any]]:
    """Return what the view `v` was told of output, in order."""
    views = [message.get("views", {}).get("v", {}) for message in page.of("update")]
    return [view["output"] for view in views if "output" in view]


async def opened(watch: Watched, page: Viewer, name: str, **more: Any) -> dict[str, Any]:
    """Open a task, or an execution of it; return what the view then has."""
    page.say(type="look", view="v", rows=[], task=page.rows()[name]["id"], **more)
    await watch.pass_s(0.5)
    return page.view()


async def test_an_opened_task_has_its_newest_executions_and_more_when_asked(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent())
        for _ in range(7):
            await s.run_once("task")
        ids = [e.execution_id for e in reversed(s.executions())]
        async with watched(s) as (watch, page):
            view = await opened(watch, page, "task", limit=5)
            assert [row["execution_id"] for row in view["executions"]] == ids[:5]
            assert view["more"] is True
            view = await opened(watch, page, "task", limit=50)
            assert [row["execution_id"] for row in view["executions"]] == ids
            assert view["more"] is False


async def test_only_executions_that_changed_are_sent_after_the_first_time(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(agent())
        for _ in range(3):
            await s.run_once("task")
        async with watched(s) as (watch, page):
            await opened(watch, page, "task")
            count = len(page.told)
            await opened(watch, page, "task")  # the same again
            (said,) = page.told[count:]
            assert (said[1]["rows"], said[1]["stats"], "views" in said[1]) == ([], {}, False)
            recorder.hold()
            await s.run_now("task")
            await recorder.begun.wait()
            await watch.rest()
            view = page.view()
            live = view["executions"][0]
            assert (live["state"], live["can"], len(view["executions"])) == ("running", ["cancel"], 4)
            clock.set(clock.now_us() + 1_000_000)
            recorder.let_go()
            await watch.rest()
            done = page.view()["executions"][0]
            assert (done["state"], done["duration_us"], done["can"]) == ("completed", 1_000_000, [])
            sent = [row for _, m in page.told[count:] for row in m.get("views", {}).get("v", {}).get("executions", ())]
            assert {row["execution_id"] for row in sent} == {done["execution_id"]}


async def test_an_execution_says_when_how_late_and_what_can_be_done(store: SqliteStore):
    clock, script = clock_at(), Script(fails=True)
    async with running(store, script, clock=clock) as s:
        await s.add(every("10m", catchup="latest"))
        await rest(s)
    clock.set(clock.now_us() + 25 * 60_000_000)
    async with running(store, script, clock=clock) as s:
        await s.arm_all()
        await rest(s)
        async with watched(s) as (watch, page):
            rows = (await opened(watch, page, "task"))["executions"]
            assert [(row["status"], row["can"]) for row in rows] == [
                ("failed", ["retry"]),
                ("missed", ["run_slot"]),
                ("failed", ["retry"]),
            ] or [row["status"] for row in rows].count("failed") == 2
            late = next(row for row in rows if row["status"] == "failed")
            assert late["late_us"] == 5 * MINUTE.total_seconds() * 1e6
            assert late["text"] == "RuntimeError: it failed, as told"
            assert late["error_type"] == "RuntimeError"


async def test_an_opened_execution_has_all_that_is_kept_of_it(store: SqliteStore):
    async with running(store, Script(fails=True), clock=clock_at()) as s:
        await s.add(agent(params={"region": "eu"}))
        done = await s.run_once("task")
        async with watched(s) as (watch, page):
            detail = (await opened(watch, page, "task", execution=done.execution_id))["detail"]
            assert detail["task"] == "task"
            assert detail["params"] == {"region": "eu"}
            assert detail["error"] == "it failed, as told"
            assert "RuntimeError: it failed, as told" in detail["traceback"]
            assert detail["owner"] == s.owner_name
            assert (detail["displays"], detail["displays_cut"]) == ([], 0)


async def test_an_execution_of_another_namespace_is_not_shown(store: SqliteStore):
    async with running(store, clock=clock_at(), namespace="other") as other:
        await other.add(agent("secret"))
        done = await other.run_once("secret")
        async with running(store, clock=clock_at(), namespace="mine") as s, watched(s) as (watch, page):
            page.say(type="look", view="v", rows=[done.task_id], task=done.task_id, execution=done.execution_id)
            page.say(type="source", id=1, task=done.task_id)
            await watch.pass_s(2)
            assert page.view() == {"output": "", "skipped": 0, "executions": [], "more": False, "task": done.task_id}
            assert page.newest("source")["ok"] is False


async def keep_displays(s: Scheduler, displays: list[dict[str, Any]]) -> str:
    """Return an execution that is stored with these displays."""
    done = await s.run_once("task")
    shown = msgspec.json.encode(displays).decode()
    with s.store.transaction() as db:
        db.execute("INSERT OR REPLACE INTO outputs (execution_id, display) VALUES (?, ?)", (done.execution_id, shown))
    return done.execution_id


async def test_displays_are_cut_with_a_count_when_they_are_too_much_for_a_message(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent())
        big = [
            {"image/png": "x" * 2_000_000},
            {"text/plain": "\u2028"},
            {"image/png": "y" * 3_500_000},
            {"text/plain": "z"},
        ]
        huge = [{"image/png": "x" * 60_000_000}, {"text/plain": "a"}]
        async with watched(s) as (watch, page):
            id_ = await keep_displays(s, big)
            detail = (await opened(watch, page, "task", execution=id_))["detail"]
            assert (detail["displays"], detail["displays_cut"]) == (big[:2], 2)
            id_ = await keep_displays(s, huge)
            detail = (await opened(watch, page, "task", execution=id_))["detail"]
            assert (detail["displays"], detail["displays_cut"]) == ([], 2)


async def test_a_running_execution_is_followed_to_its_end(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at()) as s:
        await s.add(agent())
        await s.run_now("task")
        await rest(s)
        (run,) = s.live()
        async with watched(s) as (watch, page):
            run.output.write("first\n")
            view = await opened(watch, page, "task", execution=run.execution_id)
            assert view["output"] == "first\n"
            run.output.write("secönd \ud800\x00\n")
            run.output.show({"text/html": "<b>1</b>", "broken": object()})
            run.output.displays_left = 1
            await watch.pass_s(1.5)
            assert page.view()["output"] == "first\nsecönd ?\ufffd\n"
            assert page.view()["detail"]["displays"] == [{"text/html": "<b>1</b>"}]
            assert page.view()["detail"]["displays_cut"] == 1
            run.output.write("last")
            recorder.let_go()
            await watch.rest()
            view = page.view()
            assert (view["output"], view["size"], view["skipped"]) == ("first\nsecönd ?\ufffd\nlast", 20, 0)
            assert view["detail"]["state"] == Status.COMPLETED
            resets = [output.get("reset") for output in outputs_of(page)]
            assert resets[0] is True
            assert not any(resets[1:])


async def test_much_output_comes_in_bounded_messages_and_says_what_was_skipped(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at()) as s:
        await s.add(agent())
        await s.run_now("task")
        await rest(s)
        (run,) = s.live()
        async with watched(s) as (watch, page):
            await opened(watch, page, "task", execution=run.execution_id)
            text = "".join(f"{number:08d}é" for number in range(60_000))
            run.output.write(text)
            await watch.pass_s(3)
            view = page.view()
            assert view["output"] == text[:HEAD] + text[-TAIL:]
            assert view["skipped"] == len(text) - HEAD - TAIL
            assert view["size"] == len(text)
            said = [output["text"] for output in outputs_of(page)]
            assert max(len(one.encode()) for one in said) <= 64 * 1024
            id_ = run.execution_id
            recorder.let_go()
            await watch.rest()
            page.say(type="look", view="v", rows=[], execution=None)
            page.say(type="look", view="w", rows=[], execution=id_)
            await watch.pass_s(3)
            assert page.view("w")["output"] == records.output_text(store, id_)


async def test_output_that_is_taken_back_begins_anew(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at()) as s:
        await s.add(agent())
        await s.run_now("task")
        await rest(s)
        (run,) = s.live()
        async with watched(s) as (watch, page):
            await opened(watch, page, "task", execution=run.execution_id)
            for step in range(5):
                run.output.write(f"step {step} of 5\n")
                await watch.pass_s(0.5)
                assert page.view()["output"] == f"step {step} of 5\n"
                assert page.view()["skipped"] == 0
                run.output.clear()
            await watch.pass_s(0.5)
            assert page.view()["output"] == ""


async def test_what_waits_is_followed_from_its_first_word(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", "slow", jitter="10m", first="next"))
        async with watched(s) as (watch, page):
            await jump(HOUR, s)
            await watch.rest()
            row = page.rows()["slow"]
            assert row["run"]["state"] == "waiting"
            view = await opened(watch, page, "slow", execution=row["run"]["execution_id"])
            assert view["detail"]["state"] == "waiting"
            await jump(10 * MINUTE, s)
            s.live()[0].output.write("here")
            await watch.rest()
            assert page.view()["output"] == "here"
            assert page.view()["detail"]["state"] == "running"


async def test_two_views_see_each_what_they_opened(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for name in ("a", "b"):
            await s.add(agent(name))
            await s.run_once(name)
        async with watched(s) as (watch, page):
            for name in ("a", "b"):
                page.say(type="look", view=name, rows=[], task=page.rows()[name]["id"])
            await watch.pass_s(0.5)
            for name in ("a", "b"):
                (row,) = page.view(name)["executions"]
                assert row["execution_id"] == s.executions(name)[-1].execution_id


async def test_a_page_that_lost_something_gets_all_of_it_again(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent())
        done = await s.run_once("task")
        async with watched(s) as (watch, page):
            before = await opened(watch, page, "task", execution=done.execution_id)
            page.told.clear()
            page.say(type="hello")
            await watch.pass_s(0.5)
            assert page.newest("snapshot")["rows"][0]["name"] == "task"
            assert page.view() == before
            assert list(page.newest("update")["stats"]) == [done.task_id]


async def test_a_retried_execution_shows_both_attempts(store: SqliteStore):
    script = Script(lambda o: o.attempt == 1)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent())
        failed = await s.run_once("task")
        async with watched(s) as (watch, page):
            await opened(watch, page, "task")
            page.say(type="command", id="r", verb="retry", execution=failed.execution_id)
            await watch.rest()
            assert page.newest("ack")["ok"] is True
            assert [row["attempt"] for row in page.view()["executions"]] == [2, 1]
            assert attempts(s.executions())[-1][1:] == (2, "completed")


async def test_an_opened_execution_tells_where_its_transcript_and_its_notebook_are(store: SqliteStore):
    async def writes(spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        return AgentOutput(transcript='{"messages": []}', artifact="/shop/outputs/report.ipynb")

    async with running(store) as s:
        s.register("writes", writes)
        done = await s.run_once(Task("report", "x", runner="writes"))
        bare = await s.run_once(agent("bare"))
    found = [details.read_detail(store, s.namespace, one.execution_id) for one in (done, bare)]
    shown = [details.detail(one, None, lambda run: None) for one in found if one is not None]
    assert [row["artifact"] for row in shown] == ["/shop/outputs/report.ipynb", None]
    assert [row["transcript"] for row in shown] == [f"car.transcript('{done.execution_id}')", None]
