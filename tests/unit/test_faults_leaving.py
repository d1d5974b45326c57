"""A scheduler that is left, entered again, or cancelled with its program, while things wait and run."""

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.model import Task
from car_sched_nb.store.owners import alive
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.faults import ROOT, stored
from tests.unit.world import HANG_S, HOUR, Ear, Recorder, advance, agent, clock_at, every, once, running


async def busy(s: Scheduler, recorder: Recorder) -> None:
    """Have one execution run, one wait for a place, one for its jitter, one in a queue, and one for its next try."""
    recorder.error = ValueError("no")
    ear = Ear(s)
    await s.add(agent("retry", retries=1, retry_delay="1h"))
    await s.run_now("retry")
    await ear.hears("finished")
    recorder.error = None
    recorder.hold()
    await s.add(agent("runs", overlap="queue"))
    await s.run_now("runs")
    await s.run_now("runs")
    await recorder.begun.wait()
    await s.add(every("1h", "limit"))
    await s.add(once(name="jitter", jitter="10m"))
    while len(s.live()) < 5:
        await s.engine.change()


EXPECTED = {
    ("retry", 1): "failed",
    ("retry", 2): "waiting",
    ("runs", 1): "interrupted",
    ("limit", 1): "waiting",
    ("jitter", 1): "waiting",
}


def rows(path: Path) -> dict[tuple[str, int], str]:
    """Return the status of each execution by (task, attempt), and check that nothing of an owner is left."""
    store = SqliteStore(path)
    try:
        assert store.rows("SELECT id FROM owners WHERE ended_at IS NULL") == []
        assert store.rows("SELECT * FROM armed") == []
        live = "status IN ('waiting', 'running') AND owner IS NOT NULL"
        assert store.rows(f"SELECT execution_id FROM executions WHERE {live}") == []
        assert list((path.parent / "car.db.d").glob("*.lock")) == []
    finally:
        store.close()
    return {(e.task, e.attempt): str(e.status) for e in stored(path)}


@pytest.mark.anyio
async def test_what_runs_is_interrupted_and_what_waits_goes_on_in_the_next_life(path: Path):
    clock, recorder = clock_at(), Recorder()
    async with running(str(path), recorder, clock=clock, max_running=1) as s:
        await busy(s, recorder)
    assert rows(path) == EXPECTED
    assert sorted(str(e.status) for e in stored(path) if e.task == "runs") == ["interrupted", "interrupted"]
    again = Recorder()
    async with running(str(path), again, clock=clock) as s:
        assert await s.arm_all() == 4
        while s.live() or len(again.seen) < 3:
            clock.set(clock.now_us() + 600_000_000)
            await anyio.sleep(0.01)
        last = {e.task: str(e.status) for e in s.executions()}
        assert last["retry"] == last["limit"] == last["jitter"] == "completed"
        assert len(set(again.ids)) == len(again.ids)
        assert set(again.ids).isdisjoint(recorder.ids)


@pytest.mark.anyio
async def test_a_scheduler_that_is_entered_again_is_a_new_owner_and_goes_on(path: Path):
    recorder, clock = Recorder(), clock_at()
    s = Scheduler(str(path), runner=recorder, clock=clock)
    owners = set()
    with anyio.fail_after(HANG_S):
        for life in range(3):
            async with s:
                owners.add(s.owner)
                await s.add(every("1h"))
                await advance(s, clock, HOUR)
                assert recorder.slots[-1] == str(life + 1)
    assert len(owners) == 3
    assert recorder.slots == ["0", "1", "2", "3"]


@pytest.mark.anyio
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.004, 0.01, 0.03])
async def test_a_program_that_is_cancelled_anywhere_leaves_rows_that_are_right(path: Path, after_s: float):
    recorder, threads = Recorder(held=True), threading.active_count()
    with anyio.move_on_after(after_s):
        async with Scheduler(str(path), runner=recorder) as s:
            await s.add(every("10ms", overlap="allow"))
            await anyio.sleep_forever()
    await wait_for_writers()
    store = SqliteStore(path)
    store.migrate()
    store.close()
    if (path.parent / "car.db.d").exists():
        assert set(rows(path).values()) <= {"interrupted", "missed", "waiting"}
    assert threading.active_count() <= threads + 2  # a worker of the loop may idle, no writer does
    begun = set(recorder.ids)
    assert begun <= {e.execution_id for e in stored(path) if e.status == "interrupted"}


async def wait_for_writers() -> None:
    with anyio.fail_after(HANG_S):
        while any(thread.name == "car-writer" for thread in threading.enumerate()):  # noqa: ASYNC110
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_an_error_of_the_program_is_raised_as_it_is_and_rows_are_right(path: Path):
    recorder = Recorder()

    async def program() -> None:
        async with running(str(path), recorder, clock=clock_at(), max_running=1) as s:
            await busy(s, recorder)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await program()
    assert rows(path) == EXPECTED


PROGRAM = """
import sys, anyio
import car_sched_nb as car

async def work(spec, prompt, runtime, mailbox):
    await anyio.sleep_forever()

async def main():
    async with car.Scheduler(sys.argv[1], runner=work) as s:
        await s.add(car.Task("runs", "x", runner="agent"))
        await s.run_now("runs")
        await s.add(car.Task("body", "import time\\nwhile True: time.sleep(60)"))
        await s.run_now("body")
        print("UP", flush=True)
        await anyio.sleep_forever()

try:
    anyio.run(main, backend=sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_ctrl_c_interrupts_what_runs_and_says_so_in_its_row(path: Path, backend: str):
    command = [sys.executable, "-c", PROGRAM, str(path), backend]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "UP\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_S)
    assert (out, err) == ("interrupted\n", "")
    assert rows(path) == {("runs", 1): "interrupted", ("body", 1): "interrupted"}


@pytest.mark.anyio
async def test_leaving_while_the_store_is_gone_still_frees_the_owners_lock(path: Path):
    async def program(harm: Callable[[], object]) -> str:
        async with running(str(path)) as s:
            await s.add(Task("a", "1"))
            harm()
            return s.owner

    with pytest.raises(Exception, match="put it back"):
        await program(path.unlink)
    gc.collect()
    store = SqliteStore(path)
    store.migrate()
    assert list((path.parent / "car.db.d").glob("*.lock")) == []
    assert not alive(store, "whoever")
    store.close()
