"""Processes that fork, stop, die and share one store."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

import car_sched_nb as car
from car_sched_nb.model import Execution
from car_sched_nb.store import records
from car_sched_nb.store.owners import alive
from car_sched_nb.store.sqlite import SqliteStore
from tests.crash import forks, neighbour, ticks

SOON_S = 60
"""Seconds after which a test gives up waiting for another process."""


@contextmanager
def process(module: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module until the end of the block, from when it says UP."""
    command = [sys.executable, "-m", module, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "UP\n"
            yield running
        finally:
            running.kill()


def forked(mode: str, tmp_path: Path) -> tuple[list[str], list[Execution]]:
    """Let a body fork; return what was said in the log and the executions."""
    path, log = tmp_path / "car.db", tmp_path / "log"
    with process(forks.__name__, mode, str(path), str(log)) as running:
        assert running.wait(SOON_S) == 0
    store = SqliteStore(path)
    try:
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
        assert [task.name for task in records.tasks(store)] == ["forks", "later"]
        return log.read_text().splitlines(), records.executions(store)
    finally:
        store.close()


@pytest.mark.parametrize("mode", ["fork", "fork_in_transaction", "multiprocess"])
def test_a_forked_child_is_refused_the_store_and_harms_nothing_of_its_parent(tmp_path: Path, mode: str):
    log, executions = forked(mode, tmp_path)
    assert [line.split(":")[0] for line in log] == ["refused", "refused", "later"]
    assert all("belongs to the process that forked this one; open it here anew" in line for line in log[:2])
    assert [(e.task, str(e.status)) for e in executions] == [("forks", "completed"), ("later", "completed")]


def test_a_forked_child_that_comes_back_from_the_body_ends_there(tmp_path: Path):
    log, executions = forked("come_back", tmp_path)
    assert log == ["came back", "later"]
    assert [e.answer for e in executions] == ["came back", None]


def test_a_child_that_outlives_its_owner_does_not_keep_it_alive(tmp_path: Path):
    path, log = tmp_path / "car.db", tmp_path / "log"
    with process(forks.__name__, "orphan", str(path), str(log)) as running:
        child = int(until(lambda: log.exists() and log.read_text().split()[1:2])[0])
        store = SqliteStore(path)
        (owner,) = store.rows("SELECT id FROM owners")[0]
        assert alive(store, owner)
        running.kill()
        running.wait()
        try:
            os.kill(child, 0)  # it lives
            assert not alive(store, owner)
        finally:
            os.kill(child, signal.SIGKILL)
            store.close()


def until(find, seconds: float = SOON_S):
    """Return what `find` returns, once that is something."""
    end = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_process_that_stood_still_accounts_for_each_slot_and_starts_none_twice(tmp_path: Path):
    path, log = tmp_path / "car.db", tmp_path / "log"
    with process(ticks.__name__, str(path), str(log)) as running:
        time.sleep(0.5)
        running.send_signal(signal.SIGSTOP)
        store = SqliteStore(path)
        (owner,) = store.rows("SELECT id FROM owners")[0]
        time.sleep(1.2)
        assert alive(store, owner)  # it only stands still
        before = len(log.read_text().split())
        running.send_signal(signal.SIGCONT)
        until(lambda: len(log.read_text().split()) > before + 3)
        running.kill()
        running.wait()
        executions = records.executions(store)
        store.close()
    started = Counter(log.read_text().split())
    assert [slot for slot, times in started.items() if times > 1] == []
    told = Counter(slot for e in executions for slot in range(int(e.slot), int(e.slot) + e.slots))
    assert [slot for slot in range(max(told) + 1) if told[slot] != 1] == []
    # Missed when it stood still between two runs, skipped when one was going on.
    assert sum(e.slots for e in executions if e.status in ("missed", "skipped")) > 5


@contextmanager
def neighbours(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another kernel of a store, and return it with the store's path."""
    path = str(tmp_path / "car.db")
    with process(neighbour.__name__, path) as running:
        yield running, path


async def answer(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
    return "here"


async def soon(find, seconds: float = SOON_S):
    """Return what `find` returns, once that is something."""
    with anyio.fail_after(seconds):
        while not (found := find()):  # noqa: ASYNC110 - another process brings it about
            await anyio.sleep(0.02)
        return found


def test_the_work_of_another_process_is_seen_and_cancelled(tmp_path: Path):
    async def main(path: str) -> None:
        async with car.Scheduler(path, runner=answer) as s:
            await soon(lambda: s.executions("tick"))
            (long,) = s.executions("long")
            assert long.status == "running"
            assert long.owner not in (None, s.owner)
            with anyio.fail_after(SOON_S):
                assert await s.cancel("long") == 1
            assert [str(e.status) for e in s.executions("long")] == ["cancelled"]

    with neighbours(tmp_path) as (_, path):
        anyio.run(main, path)


def test_a_pause_a_resume_and_a_delete_elsewhere_are_noticed_within_a_second(tmp_path: Path):
    async def main(path: str, running: subprocess.Popen[str]) -> None:
        async with car.Scheduler(path, runner=answer) as s:
            await soon(lambda: s.executions("tick"))

            async def quiet() -> None:
                counts = [len(s.executions())]
                while len(counts) < 2 or counts[-1] > counts[-2]:
                    await anyio.sleep(0.5)
                    counts.append(len(s.executions()))
                # A second of its own: when the machine is busy its ticks are as late as its looks.
                assert counts[-1] - counts[0] <= 10

            await s.pause("tick")
            await quiet()
            count = len(s.executions("tick"))
            await s.resume("tick")
            await s.disarm("tick")  # the other one plans it
            await soon(lambda: len([e for e in s.executions("tick") if e.answer == "there"]) > count)
            await s.delete("tick")
            await quiet()
            assert running.stdout is not None
            assert await anyio.to_thread.run_sync(running.stdout.readline) == "disarmed tick\n"

    with neighbours(tmp_path) as (running, path):
        anyio.run(main, path, running)


def test_a_task_that_was_changed_elsewhere_is_left_to_whoever_changed_it(tmp_path: Path):
    async def main(path: str, running: subprocess.Popen[str]) -> None:
        async with car.Scheduler(path, runner=answer) as s:
            await soon(lambda: s.executions("tick"))
            await s.add(neighbour.task("tick", car.Trigger.INTERVAL, neighbour.TICK, timeout="1h"))
            assert running.stdout is not None
            with anyio.fail_after(SOON_S):
                assert await anyio.to_thread.run_sync(running.stdout.readline) == "disarmed tick\n"
            ours = await soon(lambda: [e for e in s.executions("tick") if e.answer == "here"])
            await anyio.sleep(0.5)
            later = [e for e in s.executions("tick") if e.scheduled_at > ours[0].scheduled_at]
            assert {e.answer for e in later if e.status == "completed"} == {"here"}
            assert len({e.occurrence_id for e in s.executions("tick")}) == len(s.executions("tick"))

    with neighbours(tmp_path) as (running, path):
        anyio.run(main, path, running)


def test_what_a_neighbour_that_dies_left_is_interrupted_or_taken_over_at_once(tmp_path: Path):
    async def main(path: str, running: subprocess.Popen[str]) -> None:
        async with car.Scheduler(path, runner=answer) as s:
            await soon(lambda: s.executions("tick"))
            for task in neighbour.TASKS:
                await s.add(task)  # unchanged: both plan them
            await soon(lambda: s._neighbours._others)
            running.kill()
            running.wait()
            store = s.store
            await soon(lambda: [e for e in s.executions("long") if e.status == "interrupted"])
            assert store.rows("SELECT count(*) FROM owners WHERE ended_at IS NULL") == [(1,)]
            await soon(lambda: [e for e in s.executions("tick") if e.answer == "here"])
            rows = s.executions("tick")
            assert len({e.occurrence_id for e in rows}) == len(rows)

    with neighbours(tmp_path) as (running, path):
        anyio.run(main, path, running)


def test_a_retry_that_waits_with_an_owner_that_dies_is_tried_by_another(tmp_path: Path):
    async def main(path: str, running: subprocess.Popen[str]) -> None:
        async with car.Scheduler(path, runner=answer) as s:
            await s.add(neighbour.TASKS[2])
            running.kill()
            running.wait()
            found = await soon(lambda: [e for e in s.executions("fails") if e.status == "completed"])
            assert [(e.attempt, e.answer, e.owner) for e in found] == [(2, "here", s.owner)]
            assert [(e.attempt, str(e.status)) for e in s.executions("fails")] == [(1, "failed"), (2, "completed")]

    with neighbours(tmp_path) as (running, path):
        anyio.run(main, path, running)
