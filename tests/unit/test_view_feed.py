"""When the dashboard's pages are told something: paced, only while somebody looks, and whatever a page says."""

import asyncio
import random
import threading
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest

from car_sched_nb.engine.events import Event
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import StoreError
from car_sched_nb.model import Task, Trigger
from car_sched_nb.runners.base import Progress
from car_sched_nb.store import board
from car_sched_nb.store.sqlite import SqliteStore
from car_sched_nb.widget.looks import STALE_S
from car_sched_nb.widget.timers import PERIOD_S
from tests.unit.pages import Viewer, Watched, watched
from tests.unit.world import Recorder, Script, agent, clock_at, every, rest, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def many(s: Scheduler, count: int) -> list[Task]:
    return [await s.add(every("1h", f"t{number}", first="next")) for number in range(count)]


async def test_a_burst_of_events_is_ten_messages_a_second_at_most(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        tasks = await many(s, 50)
        async with watched(s) as (watch, page):
            for task in tasks[:10]:
                page.say(type="look", view=task.name, rows=[t.id for t in tasks], task=task.id)
            await watch.pass_s(1)
            begun_s, count = watch.timers.now_s, len(page.told)
            for number in range(5_000):
                s.running.tell("claimed", tasks[number % 50])
                if number % 10 == 0:
                    page.say(type="hello")
                    await watch.pass_s(0.002)
            await watch.pass_s(1)
            told = page.told[count:]
            took_s = watch.timers.now_s - begun_s
            assert 5 <= len(told) <= 10 * took_s + 1
            gaps = [later[0] - former[0] for former, later in pairwise(told)]
            assert min(gaps) > PERIOD_S - 1e-9
            assert {row["served"] for row in page.rows().values()} == {100}


async def test_messages_are_not_held_back_longer_than_they_must(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        tasks = await many(s, 1)
        async with watched(s) as (watch, page):
            await watch.pass_s(5)
            now_s = watch.timers.now_s
            s.running.tell("claimed", tasks[0])
            await watch.pass_s(1)
            assert page.told[-1][0] == pytest.approx(now_s + 0.01)


async def test_nobody_looks_and_nothing_is_sent_or_kept(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        tasks = await many(s, 20)
        async with watched(s) as (watch, page):
            page.say(type="look", view="v", rows=[task.id for task in tasks], task=tasks[0].id)
            await watch.pass_s(STALE_S + 2)
            assert watch.timers.waiting == 0
            count, view = len(page.told), watch.feed.view
            for _ in range(3600):
                for task in tasks:
                    s.running.tell("claimed", task)
            gone = await s.add(agent("gone"))
            await s.delete("gone")
            await watch.pass_s(3600)
            assert len(page.told) == count
            assert (watch.timers.waiting, len(view._changed), len(view._gone)) == (0, 0, 0)
            assert page.page.looks == {}
            page.say(type="look", view="v", rows=[tasks[0].id])  # it comes back and knows nothing of the hour
            await watch.pass_s(0.5)
            assert page.told[count][1]["type"] == "snapshot"
            assert {row["served"] for row in page.rows().values()} == {3600}
            assert gone.name not in page.rows()


async def test_a_view_that_goes_on_looking_is_told_of_changes(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        (task,) = await many(s, 1)
        async with watched(s) as (watch, page):
            for _ in range(10):
                page.say(type="look", view="v", rows=[task.id])
                await watch.pass_s(30)
            s.running.tell("claimed", task)
            await watch.pass_s(1)
            assert page.rows()["t0"]["served"] == 1
            assert len(page.of("snapshot")) == 1


async def test_a_view_that_says_what_it_shows_is_answered_though_nothing_changed(store: SqliteStore):
    async with running(store, clock=clock_at()) as s, watched(s) as (watch, page):
        for number in range(3):
            page.say(type="look", view="v", rows=[])
            await watch.pass_s(30)
            assert len(page.of("update")) == number + 1


async def test_while_something_runs_there_is_a_word_each_second(store: SqliteStore):
    async with running(store, Recorder(held=True), clock=clock_at()) as s:
        await s.add(agent())
        await s.run_now("task")
        async with watched(s) as (watch, page):
            await watch.pass_s(1)
            count = len(page.told)
            await watch.pass_s(10)
            assert len(page.told) - count == 10


async def test_a_view_is_forgotten_though_another_looks_on(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        (task,) = await many(s, 1)
        async with watched(s) as (watch, page):
            page.say(type="look", view="gone", rows=[], task=task.id)
            for _ in range(4):
                page.say(type="look", view="here", rows=[])
                await watch.pass_s(30)
            assert list(page.page.looks) == ["here"]


async def test_two_dashboards_share_one_feed_and_each_gets_its_own(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        (task,) = await many(s, 1)
        async with watched(s) as (watch, page):
            other = await watch.page()
            assert len(s._events._listeners) == 1
            s.running.tell("claimed", task)
            await watch.pass_s(1)
            assert page.rows()["t0"]["served"] == 1
            assert other.told == []  # it has not said hello
            other.say(type="look", view="v", rows=[], task=task.id)
            await watch.pass_s(1)
            assert other.rows()["t0"]["served"] == 1
            assert not any("views" in update for update in page.of("update"))
            assert len(page.of("snapshot")) == 1
            watch.feed.leave(page.page)
            count = len(page.told)
            s.running.tell("claimed", task)
            await watch.pass_s(1)
            assert len(page.told) == count
            assert other.rows()["t0"]["served"] == 2
            watch.feed.leave(other.page)
            assert not s._events.heard
            assert watch.timers.waiting == 0


async def test_a_dashboard_that_is_opened_again_begins_with_what_is_stored(store: SqliteStore):
    async with running(store, clock=clock_at()) as s, watched(s) as (watch, page):
        watch.feed.leave(page.page)
        await s.add(agent("late"))
        again = await watch.page()
        again.say(type="hello")
        await watch.pass_s(1)
        assert list(again.rows()) == ["late"]


async def test_what_happens_while_the_store_is_read_is_not_lost(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent("before"))
        state, loop = board.state, asyncio.get_running_loop()
        reading = asyncio.Event()
        go_on = threading.Event()

        def slow(*args: Any) -> board.State:
            found = state(*args)
            loop.call_soon_threadsafe(reading.set)
            assert go_on.wait(15)
            return found

        monkeypatch.setattr(board, "state", slow)
        watch = Watched(s)
        page = Viewer(watch.feed, watch.timers)
        joined = asyncio.create_task(watch.feed.join(page.page))
        await reading.wait()
        page.say(type="hello")
        await s.add(agent("meanwhile"))
        await s.run_once("before")
        assert page.told == []
        go_on.set()
        await joined
        await watch.pass_s(1)
        assert page.told[0][1]["type"] == "snapshot"
        assert page.rows().keys() == {"before", "meanwhile"}
        assert page.rows()["before"]["status"] == "completed"
        watch.feed.leave(page.page)


async def test_a_store_in_trouble_is_told_to_who_opens_the_dashboard(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
):
    async with running(store, clock=clock_at()) as s:

        def refuse(*args: Any) -> board.State:
            raise StoreError("it is gone")

        with monkeypatch.context() as broken:
            broken.setattr(board, "state", refuse)
            watch = Watched(s)
            with pytest.raises(StoreError, match="it is gone"):
                await watch.page()
        assert not s._events.heard
        page = await watch.page()
        page.say(type="hello")
        await watch.pass_s(1)
        assert page.of("snapshot")
        watch.feed.leave(page.page)


async def test_a_store_in_trouble_ends_nothing_of_what_goes_on(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    async with running(store, clock=clock_at()) as s:
        (task,) = await many(s, 1)

        def refuse(*args: Any) -> Any:
            raise StoreError("it is gone")

        async with watched(s) as (watch, page):
            with monkeypatch.context() as broken:
                broken.setattr(board, "ended", refuse)
                broken.setattr(board, "executions", refuse)
                broken.setattr(board, "live_elsewhere", refuse)
                page.say(type="look", view="v", rows=[task.id], task=task.id)
                await watch.pass_s(3)
            page.say(type="look", view="v", rows=[task.id], task=task.id, limit=3)
            await watch.pass_s(2)
            assert page.view()["executions"] == []
            assert list(page.newest("update")["stats"]) == [task.id]


async def test_the_head_says_since_when_the_kernel_does_not_answer(store: SqliteStore):
    async with running(store, clock=clock_at()) as s, watched(s) as (watch, page):
        await watch.pass_s(2)
        assert page.newest("snapshot")["head"]["blocked_since_us"] is None
        watch.free = False
        await watch.pass_s(3)
        assert page.newest("update")["head"]["blocked_since_us"] == s.clock.now_us()


GARBAGE: list[Any] = [
    None,
    1,
    "junk",
    [],
    {},
    {"type": None},
    {"type": ["look"]},
    {"type": "look"},
    {"type": "command"},
    {"type": "source"},
    {"type": "look", "view": None},
    {"type": "look", "view": 3, "rows": "abc"},
    {"type": "look", "view": "x" * 10_000},
    {"type": "look", "view": "g", "rows": None, "task": 5, "limit": "many", "execution": []},
    {"type": "look", "view": "g", "rows": [None, 1, {}, "\ud800", "x" * 10_000] * 50_000, "limit": -5},
    {"type": "look", "view": "g", "rows": {"a": 1}, "task": "\ud800", "limit": True, "execution": "\ud800\x00"},
    {"type": "look", "view": "g", "limit": 10**30, "task": "nobody", "execution": "nothing"},
    {"type": "command", "verb": None, "tasks": None},
    {"type": "command", "verb": ["run"], "tasks": "abc"},
    {"type": "command", "verb": "run", "tasks": [None, {}]},
    {"type": "command", "verb": "run", "tasks": ["nobody", "\ud800"]},
    {"type": "command", "verb": "\ud800", "id": "\ud800"},
    {"type": "command", "verb": "retry", "execution": 7},
    {"type": "command", "verb": "retry", "execution": "\ud800"},
    {"type": "command", "verb": "run_slot"},
    {"type": "command", "verb": "cancel", "tasks": ["x"] * 100_000},
    {"type": "command", "verb": "dismiss", "execution": {}},
    {"type": "source", "task": None, "id": {"a": [1]}},
    {"type": "source", "task": "\ud800", "id": "i" * 1000},
]


async def test_garbage_is_answered_or_left_and_ends_nothing(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.add(agent("works"))
        async with watched(s) as (watch, page):
            for content in GARBAGE:
                watch.feed.receive(page.page, content)
            await watch.pass_s(3)
            acks = page.of("ack")
            asked = [content for content in GARBAGE if isinstance(content, dict) and content.get("type") == "command"]
            assert len(acks) == len(asked)
            assert [ack["ok"] for ack in acks].count(True) == 1  # dismiss, of what is not there
            assert s.executions() == []
            assert page.page.looks["g"].limit <= 500
            page.say(type="command", id=5, verb="run", tasks=[page.rows()["works"]["id"]])
            await watch.rest()
            assert page.newest("ack") == {"type": "ack", "id": 5, "ok": True, "text": "", "failed": []}
            assert page.rows()["works"]["status"] == "completed"


async def test_random_messages_never_end_the_feed(store: SqliteStore):
    chance = random.Random(7)
    values: list[Any] = [None, 0, -1, 1.5, "", "task", "v", [], {}, [1], ["task"], True, "\ud800", "x" * 400]
    keys = ["type", "view", "rows", "task", "limit", "execution", "verb", "tasks", "id"]
    types = ["hello", "look", "command", "source"]
    async with running(store, clock=clock_at()) as s:
        await s.add(agent())
        async with watched(s) as (watch, page):
            for _ in range(500):
                content = {key: chance.choice(values) for key in keys if chance.random() < 0.7}
                watch.feed.receive(page.page, content | {"type": chance.choice(types)})
            await watch.pass_s(5)
            page.say(type="hello")
            await watch.pass_s(1)
            assert page.newest("snapshot")["rows"][0]["name"] == "task"


async def test_a_connection_that_breaks_is_no_concern_of_the_others(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        (task,) = await many(s, 1)
        async with watched(s) as (watch, page):
            other = await watch.page()
            other.say(type="hello")
            await watch.pass_s(1)

            def broken(message: Any) -> None:
                raise OSError("the socket is closed")

            page.page.tell = broken
            s.running.tell("claimed", task)
            await watch.pass_s(1)
            assert other.rows()["t0"]["served"] == 1


async def test_commands_over_several_tasks_say_of_each_what_failed(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at()) as s:
        for name in ("a", "b", "c"):
            await s.add(agent(name))
        await s.run_now("a")
        async with watched(s) as (watch, page):
            ids = {name: row["id"] for name, row in page.rows().items()}
            await s.delete("b")
            page.say(type="command", id=1, verb="run", tasks=[*ids.values(), *ids.values(), "nobody"])
            await watch.pass_s(0.2)
            ack = page.newest("ack")
            assert (ack["ok"], {one["task"] for one in ack["failed"]}) == (False, {ids["b"], "nobody"})
            assert "1 still running" in ack["text"]
            await rest(s)
            assert sorted(run.task.name for run in s.live()) == ["a", "c"]


async def test_a_cancel_is_answered_before_the_work_has_ended(store: SqliteStore):
    stubborn = anyio.Event()

    async def body(spec: Any, prompt: str, runtime: Any, mailbox: Any) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await stubborn.wait()
        return ""

    async with running(store, clock=clock_at()) as s:
        s.register("agent", body)
        await s.add(agent())
        await s.run_now("task")
        async with watched(s) as (watch, page):
            await watch.pass_s(0.2)
            page.say(type="command", id=1, verb="cancel", tasks=[page.rows()["task"]["id"]])
            await watch.pass_s(0.3)
            assert page.newest("ack")["ok"] is True
            assert page.rows()["task"]["run"]["state"] == "cancelling"
            stubborn.set()
            await watch.rest()
            assert page.rows()["task"]["last"]["status"] == "cancelled"
            page.say(type="command", id=2, verb="cancel", tasks=[page.rows()["task"]["id"]])
            await watch.pass_s(0.3)
            assert page.newest("ack")["text"] == "nothing was running"


async def test_cancel_all_stops_all_that_runs(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder, clock=clock_at()) as s:
        for number in range(120):
            await s.define(agent(f"t{number}"))
        async with watched(s) as (watch, page):
            ids = [row["id"] for row in page.rows().values()]
            page.say(type="command", id=1, verb="run", tasks=ids)
            await watch.pass_s(0.2)
            assert len(s.live()) == 120
            page.say(type="command", id=2, verb="cancel_all", tasks=[])
            await watch.rest()
            assert page.newest("ack") == {"type": "ack", "id": 2, "ok": True, "text": "", "failed": []}
            assert s.live() == []
            assert {row["last"]["status"] for row in page.rows().values()} == {"cancelled"}


async def test_each_button_does_what_it_says(store: SqliteStore):
    script = Script(fails=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent())
        failed = await s.run_once("task")
        async with watched(s) as (watch, page):
            id_ = page.rows()["task"]["id"]

            async def press(verb: str, **more: Any) -> dict[str, Any]:
                page.say(type="command", id=verb, verb=verb, **more)
                await watch.rest()
                ack = page.newest("ack")
                assert ack["id"] == verb
                return ack

            assert (await press("pause", tasks=[id_]))["ok"]
            assert page.rows()["task"]["status"] == "disabled"
            assert (await press("resume", tasks=[id_]))["ok"]
            assert page.rows()["task"]["enabled"]
            script.fails = False
            assert (await press("retry", execution=failed.execution_id))["ok"]
            assert s.executions()[-1].attempt == 2
            again = await press("retry", execution=failed.execution_id)
            assert not again["ok"]
            assert again["text"]
            assert not (await press("run_slot", execution=failed.execution_id))["ok"]
            assert not (await press("explode", tasks=[id_]))["ok"]
            page.say(type="source", id="s", task=id_)
            assert page.newest("source") == {
                "type": "source",
                "id": "s",
                "ok": True,
                "text": "%%car_task task --runner agent\ndo it",
            }
            assert (await press("delete", tasks=[id_]))["ok"]
            assert page.rows() == {}


async def test_a_missed_slot_is_run_by_its_button(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", catchup="none"))
        await rest(s)
    clock.set(clock.now_us() + 3 * 3_600_000_000 + 1_800_000_000)
    async with running(store, clock=clock) as s:
        await s.arm_all()
        await rest(s)
        missed = next(e for e in s.executions() if e.status == "missed")
        async with watched(s) as (watch, page):
            page.say(type="command", id=1, verb="run_slot", execution=missed.execution_id)
            await watch.rest()
            await s.wait()
            assert page.newest("ack") == {"type": "ack", "id": 1, "ok": True, "text": "3 slots", "failed": []}
            assert [str(e.status) for e in s.executions()].count("completed") == 4


async def test_a_snapshot_while_much_changes_misses_nothing(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for number in range(1500):
            await s.define(Task(f"t{number}", "1", Trigger.MANUAL))
        async with watched(s) as (watch, page):
            tasks = s.tasks()
            other = await watch.page()
            other.say(type="hello")
            await watch.timers.step(watch.timers.now_s + 1)
            for _ in range(5):
                for task in tasks[::7]:
                    s.running.tell("claimed", task)
                await asyncio.sleep(0)
            await watch.pass_s(1)
            wanted = {task.name: 5 * (number % 7 == 0) for number, task in enumerate(tasks)}
            for one in (page, other):
                assert {name: row["served"] for name, row in one.rows().items()} == wanted


async def test_events_are_heard_as_they_are(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        task = await s.add(agent())
        async with watched(s) as (watch, page):
            stranger = msgspec.structs.replace(task, id="stranger", name="stranger")
            for kind in ("finished", "claimed", "cancelling", "elsewhere", "error", "waits", "what"):
                watch.feed._hear(Event(kind=kind, task=stranger))
            await watch.pass_s(1)
            assert page.rows().keys() == {"task"}


async def test_cancel_reaches_a_task_whose_row_is_gone_and_every_other(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        for name in "ab":
            await s.add(agent(name))
            await s.run_now(name)
        await rest(s)
        async with watched(s) as (watch, page):
            with store.transaction() as db:
                db.execute("UPDATE tasks SET deleted_at = 1 WHERE name = 'a'")
            page.say(type="command", id=1, verb="cancel_all")
            await watch.rest()
            assert page.newest("ack")["id"] == 1
            assert script.interrupted == 2


async def test_progress_that_cannot_be_counted_silences_no_other_row(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        for name in "ab":
            await s.add(agent(name))
        script = Script(held=True)
        s.register("agent", script)
        for name in "ab":
            await s.run_now(name)
        await rest(s)
        async with watched(s) as (watch, page):
            for done in (0.0, 1.0, 2.0):
                s.live("a")[0].progress = Progress(done, 1e308, "")
                s.live("b")[0].progress = Progress(done, 4.0, "")
                await watch.rest(2)
            assert page.rows()["a"]["run"]["progress"]["left_us"] is None
            assert page.rows()["b"]["run"]["progress"]["done"] == 2.0
        script.let_go()


async def test_cancel_of_one_execution_leaves_the_others(store: SqliteStore):
    script = Script(held=True)
    async with running(store, script, clock=clock_at()) as s:
        await s.add(agent(overlap="allow"))
        first, second = [await s.run_now("task") for _ in range(2)]
        await rest(s)
        async with watched(s) as (watch, page):
            task_id = s.task("task").id
            page.say(type="command", id=1, verb="cancel", tasks=[task_id], execution=first.execution_id)
            await watch.rest()
            assert [run.execution_id for run in s.live()] == [second.execution_id]
            page.say(type="command", id=2, verb="cancel", tasks=[task_id], execution=first.execution_id)
            await watch.rest()
            assert (page.newest("ack")["text"], len(s.live())) == ("it has ended already", 1)
        script.let_go()
