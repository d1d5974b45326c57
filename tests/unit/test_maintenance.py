"""Rules keep so much of history; a maintenance removes the rest in the background and says what it removed."""

import os
import time
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Task, Trigger
from car_sched_nb.store import records, retention
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    Ear,
    Recorder,
    Script,
    agent,
    clock_at,
    come_true,
    every,
    follower,
    now,
    pass_time,
    rest,
    running,
)

pytestmark = pytest.mark.anyio


def slots(s: Scheduler, name: str = "task") -> list[str]:
    return [e.slot for e in s.executions(name)]


@pytest.mark.parametrize("keep", ["0", "-1", "5x", "1,000", "10 lemons", "1.5", "none", "-1d", "1000,90d", True, None])
def test_what_keeps_nothing_that_can_be_told_is_refused(keep: object):
    with pytest.raises(InvalidInput, match="number of executions"):
        Scheduler().check(Task("task", "1", keep=keep))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(1000, "1000"), ("90d", "90d"), ("10 days", "10 days"), ("all", "all"), (timedelta(days=2), "2d"), ("", "")],
)
def test_a_number_is_one_of_executions_and_a_length_one_of_time(given: object, kept: str):
    assert Scheduler().check(Task("task", "1", keep=given)).keep == kept  # type: ignore[arg-type]


async def test_another_rule_makes_no_version_and_moves_no_slot(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        before = await s.add(every("1h"))
        await pass_time(90 * MINUTE, s)
        defined = await s.define(every("1h", keep="5"))
        assert (defined.change, defined.task.keep) == ("keep", "5")
        after = defined.task
        assert (after.version, after.revision, after.anchored_at) == (before.version, 0, before.anchored_at)
        await pass_time(HOUR, s)
        assert slots(s) == ["0", "1", "2"]
        assert (await s.define(every("1h", keep="5"))).change == "unchanged"
        assert (await s.define(every("1h", keep="6", timeout="5m"))).change == "body"


async def test_the_newest_of_a_task_stay_and_the_others_go_by_the_hour(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        ear = Ear(s)
        await s.add(every("10m", keep="5"))
        await s.add(every("10m", "other"))
        await come_true(s.maintained)
        for _ in range(6):
            await pass_time(HOUR, s)
            # It takes real time, in which no more hours pass: it counts its next hour from its end.
            await come_true(lambda: s.maintained()[0].at_us == clock.now_us())
            assert len(slots(s)) <= 11
        told = await ear.hears("removed")
        assert told.task.name == "task"
        assert told.text.endswith("removed by --keep 5")
        assert len(slots(s, "other")) == 37
        done = await s.maintain()
        assert slots(s) == ["32", "33", "34", "35", "36"]
        said = [one for one in s.maintained() if one]
        assert sum(one.executions for one in said) == 32
        assert {one.rules for one in said} == {("--keep 5",)}
        assert done.files == 0


async def test_what_ended_within_the_time_stays(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", keep="150m"))
        await pass_time(10 * HOUR, s)
        await s.maintain()
        assert slots(s) == ["8", "9", "10"]
        assert str(await s.maintain()) == "nothing was to be removed"


async def test_a_task_has_its_own_rule_a_deleted_one_that_of_its_notebook(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.configure(keep="2")
        for name, keep in {"own": "4", "all": "all", "none": "", "gone": "all"}.items():
            await s.add(every("1h", name, keep=keep))
        await pass_time(6 * HOUR, s)
        await s.delete("gone")
        await s.maintain()
        assert {name: len(slots(s, name)) for name in ("own", "all", "none")} == {"own": 4, "all": 7, "none": 2}
        assert store.rows("SELECT count(*) FROM executions") == [(4 + 7 + 2 + 2,)]
        async with running(store, clock=clock_at(now(clock)), namespace="other") as other:
            await other.configure(keep="all")
            await other.add(every("1h"))
        await s.configure(keep="none")
        assert not await s.maintain()


def sizes_in(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.iterdir()]


def make_old(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, (time.time() - 7200,) * 2)


async def test_the_files_of_removed_executions_go_too_and_are_counted(path: Path):
    outputs, clock = Path(f"{path}.d/outputs"), clock_at()
    async with running(str(path), clock=clock) as s:
        for _ in range(4):
            await s.run_now((await s.define(Task("task", "seq 60000", runner="shell", keep="1"))).task.name)
            await s.wait()
        sizes = sizes_in(outputs)
        done = await s.maintain()
        assert (done.executions, done.files, done.bytes) == (3, 3, sum(sizes[:3]))
        assert len(sizes_in(outputs)) == 1
        assert str(done) == f"removed 3 executions and 3 files ({done.bytes / 1e6:.1f} MB) by --keep 1"


async def test_files_whose_rows_went_before_a_crash_are_removed_by_the_next(path: Path):
    outputs = Path(f"{path}.d/outputs")
    async with running(str(path)) as s:
        await come_true(s.maintained)  # its own, which would remove what this does
        for _ in range(3):
            await s.run_now((await s.define(Task("task", "seq 60000", runner="shell", keep="1"))).task.name)
            await s.wait()
        (which,) = retention.expired(s.store, s.clock.now_us())
        with s.store.transaction() as db:  # and then the power went, before a file was removed
            seqs = retention.choose(s.store.rows, which, s.clock.now_us(), gaps=False, after=0)
            retention.remove(db, seqs)
        make_old(outputs)
    async with running(str(path)) as s:
        await come_true(lambda: len(sizes_in(outputs)) == 1)


async def test_one_scheduler_of_a_store_does_it_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch):
    inside, most = 0, 0
    expired = retention.expired

    def slow(store: SqliteStore, now_us: int) -> list[retention.Expired]:
        nonlocal inside, most
        inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.05)
        inside -= 1
        return expired(store, now_us)

    monkeypatch.setattr(retention, "expired", slow)
    async with running(str(path)) as a, running(str(path)) as b, anyio.create_task_group() as group:
        for s in (a, b, a, b):
            group.start_soon(s.maintain)
    assert most == 1


async def test_a_content_whose_first_row_is_gone_is_told_from_it_when_it_comes_back(store: SqliteStore, tmp_path: Path):
    watched, script = tmp_path / "data.txt", Script()
    watched.write_text("A")
    async with running(store, script) as s:
        ear = Ear(s)
        await s.add(agent(trigger=Trigger.FILE_WATCH, watch_path=str(watched), keep="1"))
        for content in "BACBAC":
            watched.write_text(content)
            await ear.hears("finished")
            await s.maintain()
        assert len(slots(s)) == 1
        assert len(set(script.slots)) == 6
        assert [slot for slot in script.slots if "." not in slot] == script.slots[:3]


async def test_an_end_that_somebody_still_waits_to_follow_stays(store: SqliteStore):
    clock, recorder = clock_at(), Recorder()
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", "first", keep="1"))
        await rest(s)
        await s.add(agent("second"))
        await s.add(follower("first,second"))
        await pass_time(HOUR, s)
        (followed,) = [e.execution_id for e in s.executions("first") if e.slot == "1"]
        recorder.hold()
        await pass_time(HOUR, s)  # it runs again, and has not ended
        await s.maintain()
        recorder.let_go()
        await rest(s)
        assert followed.endswith(":1")
        await s.run_now("second")
        await rest(s)
        (after,) = s.executions("task")
        assert after.upstream[0] == s.executions("first")[-1].execution_id


async def test_what_an_execution_that_waits_follows_stays(store: SqliteStore):
    clock, script = clock_at(), Script(lambda o: o.task == "task")
    async with running(store, script, clock=clock) as s:
        await s.add(every("1h", "up", keep="1", first="next"))
        await s.add(follower("up", retries=1, retry_delay="5h"))
        await pass_time(3 * HOUR, s)
        await s.maintain()
        (waits,) = [e for e in s.executions("task") if e.status == "waiting"]
        assert records.execution(s.store, waits.upstream[0]) is not None


async def test_a_gap_that_goes_on_grows_though_all_else_is_removed(store: SqliteStore):
    clock, recorder = clock_at(), Recorder(held=True)
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", keep="1"))
        await pass_time(3 * HOUR, s)
        await s.run_now("task")  # skipped too, and newer than the gap
        await s.maintain()
        await pass_time(3 * HOUR, s)
        (gap,) = [e for e in s.executions("task") if e.status == "skipped" and e.cause == "slot"]
        assert (gap.slot, gap.slots) == ("1", 6)
        recorder.let_go()


async def test_what_was_used_today_is_not_forgotten(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        await s.add(every("1h", keep="1", daily_tokens=100))
        await pass_time(5 * HOUR, s)
        await s.maintain()
        assert len(slots(s)) == 6
        await pass_time(2 * DAY, s)
        await s.maintain()
        assert len(slots(s)) == 25
