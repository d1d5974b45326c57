"""What a changed definition does: `revision` starts the slots afresh, `version` keeps them."""

from pathlib import Path
from typing import Any

import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput, SchedulerClosed, UnknownTask
from car_sched_nb.model import Task, Trigger
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    Ear,
    Recorder,
    advance,
    agent,
    clock_at,
    cron,
    every,
    follower,
    leap,
    now,
    once,
    running,
    short,
)

pytestmark = pytest.mark.anyio


async def test_an_unchanged_definition_changes_nothing(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        before = (await s.define(every("5m"))).task
        await s.add(every("5m"))
        await advance(s, clock, 10 * MINUTE)
        defined = await s.define(every("5m"))
        assert defined.change == "unchanged"
        assert (defined.task.revision, defined.task.version, defined.task.id) == (0, 0, before.id)
        await s.add(every("5m"))
        await s.wait()
        assert recorder.slots == ["0", "1", "2"]


async def test_run_all_after_a_restart_runs_nothing_again(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    tasks = [every("1h", "a"), cron("0 * * * *", name="b"), once(name="c"), once("at 2026-11-23T10:30Z", name="d")]
    for _ in range(3):
        async with running(store, recorder, clock=clock) as s:
            for task in tasks:
                await s.add(task)
            await advance(s, clock, 10 * MINUTE)
    assert sorted(o.task for o in recorder.seen) == ["a", "c"]


@pytest.mark.parametrize(
    "changed",
    [
        every("10m"),
        every("5m", align=True),
        every("5m", first="next"),
        cron("*/5 * * * *"),
        agent(),
        once("delay 1h"),
    ],
    ids=lambda task: f"{task.trigger}-{task.schedule}-{task.align}-{task.first}",
)
async def test_another_schedule_starts_the_slots_afresh(store: SqliteStore, changed: Task):
    async with running(store, clock=clock_at()) as s:
        first = (await s.define(every("5m"))).task
        defined = await s.define(changed)
        assert defined.change == "slots"
        assert (defined.task.revision, defined.task.version, defined.task.id) == (1, 1, first.id)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "something else"},
        {"timeout": "5m"},
        {"catchup": "all"},
        {"grace": "1m"},
        {"overlap": "allow"},
        {"params": {"region": "eu"}},
        {"system_prompt": "be brief"},
        {"max_turns": 3},
    ],
    ids=str,
)
async def test_any_other_change_keeps_the_slots(store: SqliteStore, changes: dict[str, Any]):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("5m"))
        await s.wait()
        defined = await s.define(every("5m", **changes))
        assert (defined.change, defined.task.revision, defined.task.version) == ("body", 0, 1)
        await s.arm("task")
        await s.wait()
        assert recorder.slots == ["0"]
        await advance(s, clock, 5 * MINUTE)
        assert recorder.slots == ["0", "1"]
        assert [e.version for e in s.executions("task")] == [0, 1]


async def test_a_changed_zone_starts_the_slots_afresh(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.define(cron("0 9 * * *", "Europe/London"))
        assert (await s.define(cron("0 9 * * *", "Europe/Paris"))).change == "slots"


async def test_the_same_cron_in_other_words_is_unchanged(store: SqliteStore):
    async with running(store, clock=clock_at()) as s:
        await s.define(cron("0 9 * * 1-5"))
        assert (await s.define(cron("0   9 * *  1-5"))).change == "unchanged"


async def test_a_corrected_comment_never_runs_a_served_slot_again(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(cron("0 8 * * *", prompt="mail"))
        await advance(s, clock, DAY)
        await s.add(cron("0 8 * * *", prompt="mail  # daily"))
        await s.wait()
        assert recorder.prompts == ["mail"]
        await advance(s, clock, DAY)
        assert recorder.prompts == ["mail", "mail  # daily"]


async def test_going_back_to_an_earlier_schedule_does_not_meet_its_slots(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        for schedule in ("5m", "1h", "5m"):
            await s.add(every(schedule))
            await s.wait()
        assert recorder.slots == ["0", "r1.0", "r2.0"]


async def test_once_is_resolved_once_and_never_fires_again(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    task = once("delay 10m")
    async with running(store, recorder, clock=clock) as s:
        due = (await s.add(task)).fire_at
        assert due == now(clock) + 10 * MINUTE
        await advance(s, clock, 5 * MINUTE)
        assert (await s.add(task)).fire_at == due
        await advance(s, clock, HOUR)
    async with running(store, recorder, clock=clock) as s:
        await s.add(task)
        await advance(s, clock, DAY)
        assert recorder.slots == ["0"]
        assert s.task("task").status == "completed"


async def test_a_time_that_passed_since_it_was_stored_is_not_refused_again(store: SqliteStore):
    clock = clock_at()
    task = once("at 2026-11-23T10:00Z")
    async with running(store, clock=clock) as s:
        await s.add(task)
        await advance(s, clock, 2 * HOUR)
        assert (await s.define(task)).change == "unchanged"
        with pytest.raises(InvalidInput, match="has passed"):
            await s.define(once("at 2026-11-23T10:00Z", name="other"))


async def test_a_deleted_tasks_name_used_again_is_a_new_task_and_history_stays(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        old = await s.add(every("1h"))
        await s.wait()
        await s.delete("task")
        with pytest.raises(UnknownTask):
            s.task("task")
        new = await s.add(every("1h"))
        await s.wait()
        assert new.id != old.id
        assert (new.revision, new.version) == (0, 0)
        assert [(e.task_id, e.slot) for e in s.executions()] == [(old.id, "0"), (new.id, "0")]


async def test_delete_cancels_what_runs(store: SqliteStore):
    recorder = Recorder(held=True)
    async with running(store, recorder) as s:
        await s.add(every("1h"))
        await recorder.begun.wait()
        await s.delete("task")
        await s.wait()
        assert recorder.interrupted == 1
        assert [e.status for e in s.executions()] == ["cancelled"]
        assert s.live() == []


async def test_what_passes_while_a_task_is_paused_is_one_skipped_row(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("5m"))
        await s.wait()
        assert await s.pause("task")
        assert not await s.pause("task")
        await advance(s, clock, HOUR)
        assert recorder.slots == ["0"]
        assert await s.resume("task")
        assert not await s.resume("task")
        await advance(s, clock, 5 * MINUTE)
        assert short(s.executions("task")) == [("completed", "0", 1), ("skipped", "1", 12), ("completed", "13", 1)]
        assert s.executions("task")[1].reason == "paused"


async def test_pause_survives_run_all_and_a_restart(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("5m", first="next"))
        await s.pause("task")
    async with running(store, recorder, clock=clock) as s:
        assert not (await s.add(every("5m", first="next"))).enabled
        await advance(s, clock, HOUR)
        assert recorder.seen == []
        assert s.task("task").status == "disabled"


async def test_a_paused_task_still_runs_when_asked(store: SqliteStore):
    recorder = Recorder()
    async with running(store, recorder) as s:
        await s.add(every("1h", first="next"))
        await s.pause("task")
        await s.run_now("task")
        await s.wait()
        assert len(recorder.seen) == 1


async def test_a_pause_between_two_series_of_skips_keeps_them_apart(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("1m"))
        await recorder.begun.wait()
        for paused in (False, True, False):
            if paused:
                await s.pause("task")
            for _ in range(2):
                await clock.idle()
                clock.set(clock.now_us() + 60_000_000)
                if not paused:
                    await ear.hears("gap")
            if paused:
                await s.resume("task")
        recorder.let_go()
        await s.wait()
        rows = [(e.reason, e.slot, e.slots) for e in s.executions("task") if e.status == "skipped"]
        assert rows == [("overlap", "1", 2), ("paused", "3", 2), ("overlap", "5", 2)]


async def test_adopt_moves_the_tasks_of_a_renamed_notebook_with_their_slots(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock, namespace="old.ipynb") as s:
        await s.add(every("1h"))
        await s.wait()
    async with running(store, recorder, clock=clock, namespace="new.ipynb") as s:
        assert s.tasks() == []
        assert await s.adopt("old.ipynb") == 1
        await s.add(every("1h"))
        await s.wait()
        assert recorder.slots == ["0"]
        assert [e.namespace for e in s.executions("task")] == ["new.ipynb"]


async def test_adopt_closes_no_circle(store: SqliteStore):
    for namespace, first, then in (("old", "b", "a"), ("new", "a", "b")):
        async with running(store, namespace=namespace) as s:
            await s.define(agent(first))
            await s.define(follower(first, then))
            await s.delete(first)
    async with running(store, namespace="new") as s:
        with pytest.raises(
            InvalidInput, match=r"together they would be a circle: (a after b after a|b after a after b)"
        ):
            await s.adopt("old")
        assert [task.name for task in s.tasks()] == ["b"]


async def test_adopt_moves_nothing_when_a_name_is_taken(store: SqliteStore):
    async with running(store, namespace="old") as s:
        await s.define(every("1h"))
        await s.define(every("1h", "other"))
    async with running(store, namespace="new") as s:
        await s.define(every("5m"))
        with pytest.raises(InvalidInput, match="task"):
            await s.adopt("old")
        assert [t.name for t in s.tasks()] == ["task"]


async def test_names_are_of_their_namespace(store: SqliteStore):
    recorder = Recorder()
    for namespace in ("a", "b"):
        async with running(store, recorder, namespace=namespace) as s:
            await s.add(every("1h"))
            await s.wait()
            assert len(s.executions()) == 1
    assert len({o.id for o in recorder.seen}) == 2


async def test_an_unknown_name_is_told_with_the_nearest(store: SqliteStore):
    async with running(store) as s:
        await s.define(every("1h", name="prices"))
        for call in (s.run_now, s.cancel, s.pause, s.resume, s.delete, s.arm, s.run_once):
            with pytest.raises(UnknownTask, match="'prices'"):
                await call("price")


async def test_a_scheduler_that_was_left_says_so(path: Path):
    scheduler = Scheduler(path)
    with pytest.raises(SchedulerClosed):
        await scheduler.add(Task("a", "1"))
    async with scheduler:
        pass
    with pytest.raises(SchedulerClosed):
        scheduler.task("a")


@pytest.mark.parametrize(
    "task",
    [
        Task("a", ""),
        Task("a", "1", "sometimes"),  # type: ignore[arg-type]
        Task("a", "1", runner="pyton"),
        Task("a", "1", Trigger.CRON, "banana"),
        Task("a", "1", Trigger.CRON, "0 9 * * *", tz="Europe/Londn"),
        Task("a", "1", Trigger.FILE_WATCH),
        Task("a", "1", Trigger.FILE_WATCH, watch_path="/no/such/folder/x"),
        Task("a", "1", timeout="soon"),
        Task("a", "1", grace="-1"),
        Task("a", "1", catchup="some"),
        Task("a", "1", overlap="queue-ish"),
        Task("a", "1", params={"a b": 1}),
        Task("a", "1", params={"a": object()}),
        Task("a", "1", executor="moon"),
        Task("a", "1", into="a b"),
        Task("a", 5),  # type: ignore[arg-type]
        Task("a", "1", max_turns="many"),  # type: ignore[arg-type]
        Task("a", "1", timeout=object()),  # type: ignore[arg-type]
        Task("a", "echo '\ud800'", runner="shell"),
        Task(None),  # type: ignore[arg-type]
    ],
    ids=lambda task: f"{task.name}-{task.trigger}".encode("ascii", "replace").decode(),
)
async def test_what_can_never_run_is_refused_and_nothing_is_stored(store: SqliteStore, task: Task):
    async with running(store) as s:
        with pytest.raises((InvalidInput, LookupError)) as caught:
            await s.add(task)
        assert len(str(caught.value)) > 10
        assert s.tasks() == []


async def test_leaving_right_after_spawning_ends(store: SqliteStore):
    async with running(store) as s:
        s.spawn(every("10ms"))
        s.spawn(agent("other"))
    assert s.live() == []


async def test_leaving_while_a_slot_is_settled_leaves_no_row_alive(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        for k in range(20):
            await s.add(every("1h", name=f"t{k}"))
        clock.set(clock.now_us() + 3_600_000_000)
    assert store.rows("SELECT count(*) FROM executions WHERE status IN ('waiting', 'running')") == [(0,)]


async def test_leap_runs_a_task_again_that_was_disarmed_and_armed(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h"))
        await s.wait()
        await s.disarm("task")
        await leap(s, clock, 2 * HOUR)
        assert recorder.slots == ["0"]
        await s.arm("task")
        await s.wait()
        assert recorder.slots == ["0", "2"]
        assert short(s.executions("task"))[1:] == [("missed", "1", 1), ("completed", "2", 1)]
