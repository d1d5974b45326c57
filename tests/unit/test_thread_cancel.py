"""A cancel of a body in a thread, at any moment and in any state: it hits this body only, and once."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from car_sched_nb.errors import TaskCancelled
from car_sched_nb.executors import thread
from car_sched_nb.executors.thread import Job, ThreadPool
from tests.scale import by_scale
from tests.unit import thread_bodies as bodies
from tests.unit.thread_bodies import BODIES, Witness
from tests.unit.world import HANG_S

CANCELS = by_scale(10, 4_000)
"""Of each body."""
TURNS_S = (1e-6, 1e-5, 1e-4)
"""After how long a thread has to give the interpreter away: short, so that there are many moments to hit."""


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What went wrong where nobody would have heard of it."""
    found: Counter[str] = Counter()
    monkeypatch.setattr(
        threading, "excepthook", lambda told: found.update([f"{told.exc_type.__name__} ended a thread"])
    )
    monkeypatch.setattr(thread, "_IDLE_S", 0.05)
    interval = sys.getswitchinterval()
    yield found
    sys.setswitchinterval(interval)


async def cancelled_at_once_or_later(
    pool: ThreadPool, body: Callable[[Witness], Any], wait_s: float
) -> tuple[Witness, str]:
    """Run a body, cancel it after a while; return what it did and how it ended, with the body still."""
    witness, ends = Witness(), []

    async def run() -> None:
        try:
            await pool.run(lambda: body(witness))
            ends.append("completed")
        except anyio.get_cancelled_exc_class():
            ends.append("cancelled")
            raise
        except BaseException as error:  # noqa: BLE001 - as it ended
            ends.append(type(error).__name__)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.lowlevel.checkpoint()
        if wait_s:
            time.sleep(wait_s)  # noqa: ASYNC251 - not anyio's: the moment is to be a random one in the body
        group.cancel_scope.cancel()
    (end,) = ends  # exactly once
    return witness, end


def look(body: Callable[[Witness], Any], witness: Witness, end: str, odd: Counter[str]) -> None:
    """Note what is not as it must be after a body has ended."""
    name = body.__name__
    if witness.entered != witness.left:
        odd[f"{name}: {witness.entered} parts begun, {witness.left} ends"] += 1
    if witness.seen > 1:
        odd[f"{name}: met the exception {witness.seen} times"] += 1
    known = {"ends_soon": "completed", "ends_at_once": "completed", "fails_soon": "KeyError", "exits": "SystemExit"}
    known |= {"swallows_and_ends": "completed", "turns_it_into_another": "ValueError"}
    if end not in ("cancelled", known.get(name, "cancelled")):
        odd[f"{name}: ended as {end}"] += 1
    locks = {"a lock": bodies.LOCK, "a queue": bodies.QUEUE.mutex, "logging": bodies.HANDLER.lock}
    for what, lock in locks.items():
        assert lock is not None
        if lock.acquire(timeout=5):
            lock.release()
        else:
            odd[f"{name}: left the lock of {what} held"] += 1
            pytest.fail(str(odd))


async def storm(odd: Counter[str], cancels: int, seed: int, chosen: list[Callable[[Witness], Any]]) -> Counter[str]:
    """Cancel bodies at random moments, another body on the same threads after each; return how they ended."""
    chance, pool, ends = random.Random(seed), ThreadPool(), Counter[str]()
    still: list[tuple[str, Witness, int]] = []
    for _ in range(cancels):
        for body in chosen:
            sys.setswitchinterval(chance.choice(TURNS_S))
            wait_s = chance.random() ** 3 * 0.0005 if chance.random() < 0.9 else 0.0
            witness, end = await cancelled_at_once_or_later(pool, body, wait_s)
            for started in witness.threads:
                started.join(5)
            still.append((body.__name__, witness, witness.count))
            ends[end] += 1
            look(body, witness, end, odd)
            try:
                if await pool.run(lambda: sum(number for number in range(20))) != 190:
                    odd["the next body computed something else"] += 1
            except TaskCancelled:
                odd["the next body was hit"] += 1
        if len(bodies.STREAM.getvalue()) > 1_000_000:
            bodies.STREAM.seek(0)
            bodies.STREAM.truncate()
    odd.update(f"{name}: went on after its end" for name, witness, count in still if witness.count != count)
    return ends


def bodies_threads() -> list[threading.Thread]:
    return [found for found in threading.enumerate() if found.name == "car-body"]


@pytest.mark.parametrize("seed", range(by_scale(1, 4)))
def test_a_cancel_at_any_moment_hits_its_own_body_and_nothing_else(odd: Counter[str], seed: int):
    async def main() -> Counter[str]:
        with anyio.fail_after(HANG_S * by_scale(2, 60)):
            return await storm(odd, CANCELS, seed, BODIES)

    before = bodies_threads()
    ends = anyio.run(main)
    assert odd == {}
    assert ends.total() == CANCELS * len(BODIES)
    assert ends["cancelled"] > ends.total() / 2
    assert ends["completed"]
    while left := [found for found in bodies_threads() if found not in before]:
        left[0].join(HANG_S)  # those that idle end by themselves


class CarelessJob(Job):
    """The control: it raises wherever the body is."""

    def cancel(self, force: bool = False) -> bool:
        with self._lock:
            if not self._ended and not self.cancelled and self.thread_id is not None:
                thread._set_async_exc(self.thread_id, id(TaskCancelled))
                self.wake.release()
            self.cancelled = True
        return True


def test_a_cancel_that_does_not_look_where_the_body_is_is_caught_by_this_test(
    odd: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thread, "Job", CarelessJob)
    chosen: list[Callable[[Witness], Any]] = [bodies.in_context_manager]
    for seed in range(1_000):
        anyio.run(storm, odd, 20, seed, chosen)
        if odd:
            return
    pytest.fail("nothing was found")


# Beginning and ending: one thread does job after job, another cancels each as fast as it can


def raced(job_type: type[Job], jobs: int) -> Counter[str]:
    """Return how jobs end that are cancelled just when they begin or end."""
    said: Counter[str] = Counter()
    current: list[Job] = []
    over = threading.Event()

    def cancel() -> None:
        while not over.is_set():
            if current:
                current[0].cancel(force=True)

    def work() -> None:
        try:
            for _ in range(jobs):
                done: list[int] = []
                job = job_type(lambda: 5, lambda done=done: done.append(1))  # type: ignore[misc]
                current[:] = [job]
                try:
                    job.work()
                except BaseException:  # noqa: BLE001 - what must not be is what this looks for
                    said["it left the job"] += 1
                    continue
                ended = "TaskCancelled" if isinstance(job.error, TaskCancelled) else repr(job.result)
                said[f"{ended} {len(done)}"] += 1
        except BaseException:  # noqa: BLE001 - the same
            said["the next body was hit"] += 1

    threads = [threading.Thread(target=target) for target in (work, cancel)]
    for started in threads:
        started.start()
    threads[0].join()
    over.set()
    threads[1].join()
    return said


def test_a_job_that_is_cancelled_just_as_it_begins_or_ends_ends_once(odd: Counter[str]):
    said: Counter[str] = Counter()
    ThreadPool()  # it hears of exceptions that hit a callback of the collector
    for turn_s in TURNS_S:
        sys.setswitchinterval(turn_s)
        said += raced(Job, by_scale(10_000, 400_000))
    assert set(said) == {"5 1", "TaskCancelled 1"}, said


class LateGuardJob(Job):
    """A control: the body's guard begins a line too late."""

    def work(self) -> None:
        if self._begin():
            try:
                self.result = self._context.run(self._fn)
            except BaseException as error:  # noqa: BLE001 - as in the original
                self.error = error
        self._leave()
        self._done()


class UnguardedJob(Job):
    """A control: it raises without asking whether the body is still there, and takes nothing back."""

    def cancel(self, force: bool = False) -> bool:
        if self.thread_id is not None and not self.cancelled:
            self.cancelled = True
            thread._set_async_exc(self.thread_id, id(TaskCancelled))
        return True

    def _leave(self) -> None:
        self._ended = True


@pytest.mark.parametrize("control", [LateGuardJob, UnguardedJob])
def test_a_job_without_its_guards_is_caught_by_this_test(
    odd: Counter[str], control: type[Job], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # it hits callbacks of the collector too
    sys.setswitchinterval(1e-6)
    for _ in range(100):
        if set(raced(control, 2_000)) - {"5 1", "TaskCancelled 1"}:
            return
    pytest.fail("nothing was found")
