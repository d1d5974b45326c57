"""car_sched_nb, through what it offers everybody."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import apsw

import car_sched_nb as car
from car_sched_nb.frames import recent
from tests.bench import readers
from tests.bench.figures import (
    HAND_WAIT_S,
    STORE,
    Figures,
    Lateness,
    UnfinishedError,
    beside_a_cell,
    idle,
    multiply,
    note_start,
    percentile,
    rate,
    resident_bytes,
)

CALLERS = 100
RARELY = "7d"
YEAR_US = 365 * 86_400_000_000
PLACES = {"file": STORE, "memory": ":memory:"}
LATENESS = Lateness()

# What bodies do: as an async function of the user (runner "agent"), or as the text of a cell.
NOOP = {"python": "pass", "agent": "no-op"}
NOTE = {
    "python": "import tests.bench.contestants.ours as bench\nbench.note(car.current().scheduled_at.timestamp())",
    "agent": "note",
}
ENDLESS = {
    "loop": "await asyncio.sleep(600)",
    "thread": "total = 0\nwhile True:\n    total += 1",
    "shell": "sleep 600",
}


def version() -> str:
    return f"{car.__version__} (SQLite {apsw.sqlite_lib_version()})"


def note(planned: float) -> None:
    LATENESS.note(planned)


async def work(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
    """Do what the prompt says: nothing, or tell that it has begun."""
    if prompt == "note":
        note(runtime.scheduled_at.timestamp())
    elif prompt == "log":
        note_start(runtime.scheduled_at.timestamp())
        await anyio.sleep(0.03)
    return ""


def scheduler_on(store: str, max_running: int = 64) -> car.Scheduler:
    return car.Scheduler(PLACES[store], runner=work, max_running=max_running)


# Executions a second


async def due_slots(store: str, n: int, runner: str = "agent") -> Figures:
    """Time n stored tasks whose slot 0 is due, from arming them all to the last end."""
    async with scheduler_on(store, max_running=n) as scheduler:
        if not scheduler.tasks():
            await define(scheduler, due_tasks(n, runner))
        return await timed(scheduler, n, scheduler.arm_all)


async def by_hand(store: str, n: int) -> Figures:
    """Time n calls of `run_now` by 100 callers, each with a task of its own that may overlap itself."""
    async with scheduler_on(store, max_running=n) as scheduler:
        if not scheduler.tasks():
            await define(scheduler, hand_tasks())

        async def call_all() -> None:
            async with anyio.create_task_group() as group:
                for number in range(CALLERS):
                    group.start_soon(call, number)

        async def call(number: int) -> None:
            for _ in range(number, n, CALLERS):
                await scheduler.run_now(f"hand{number}")

        return await timed(scheduler, n, call_all)


async def timed(scheduler: car.Scheduler, n: int, begin: Callable[[], Awaitable[object]]) -> Figures:
    """Return the rate of n executions from the call of `begin` to the last stored end."""
    ended, all_ended = 0, anyio.Event()

    def hear(event: car.Event) -> None:
        nonlocal ended
        if event.kind == "finished":
            ended += 1
            if ended == n:
                all_ended.set()

    scheduler.listen(hear)
    began = time.perf_counter()
    await begin()
    with anyio.move_on_after(HAND_WAIT_S):
        await all_ended.wait()
    took_s = time.perf_counter() - began
    rows = scheduler.executions(newest=n)
    return rate(sum(row.status is car.Status.COMPLETED for row in rows), n, took_s)


def due_tasks(n: int, runner: str) -> Iterable[car.Task]:
    for number in range(n):
        yield car.Task(f"due{number}", NOOP[runner], car.Trigger.INTERVAL, RARELY, runner=runner)


def hand_tasks() -> Iterable[car.Task]:
    for number in range(CALLERS):
        yield car.Task(f"hand{number}", "no-op", runner="agent", overlap="allow")


async def define(scheduler: car.Scheduler, tasks: Iterable[car.Task]) -> None:
    """Store tasks as many callers do, so that they share transactions."""
    left = iter(tasks)

    async def caller() -> None:
        for task in left:
            await scheduler.define(task)

    async with anyio.create_task_group() as group:
        for _ in range(CALLERS):
            group.start_soon(caller)


async def fill_history(kind: str, n: int, rows: int) -> Figures:
    """Store the tasks of `due_slots` or `by_hand`, and so many completed executions of them."""
    name, tasks = ("due", due_tasks(n, "agent")) if kind == "due_slots" else ("hand", hand_tasks())
    async with scheduler_on("file") as scheduler:
        await define(scheduler, tasks)
        await scheduler.run_now(f"{name}0")
        await scheduler.wait()
        count = len(scheduler.tasks())
    task = f"""(SELECT id FROM tasks
        WHERE namespace = 'default' AND name = '{name}' || (copies.n % {count}) AND deleted_at IS NULL)"""
    ids = "model.task_id || ':manual:' || copies.n"
    multiply("executions", rows, {"task_id": task, "execution_id": ids, "occurrence_id": ids, "slot": "copies.n"})
    return {"rows": rows}


# Waiting


async def fill(n: int, runner: str) -> Figures:
    """Store n tasks that are planned for next week."""
    async with scheduler_on("file") as scheduler:
        await define(scheduler, rare_tasks(n, runner))
        return {"tasks": len(scheduler.tasks())}


def rare_tasks(n: int, runner: str) -> Iterable[car.Task]:
    for number in range(n):
        yield car.Task(f"rare{number}", NOOP[runner], car.Trigger.INTERVAL, RARELY, runner=runner, first="next")


async def wait_armed(store: str, n: int, seconds: float, runner: str = "agent") -> Figures:
    """Return what n stored and armed tasks cost while none of them is due."""
    async with scheduler_on(store) as scheduler:
        before = resident_bytes()
        if store == "memory":
            await define(scheduler, rare_tasks(n, runner))
        armed = await scheduler.arm_all()
        if armed != n:
            raise UnfinishedError(armed, n)
        return await idle(before, n, seconds)


# On time


async def aligned(store: str, n: int, seconds: float, runner: str = "agent") -> Figures:
    """Run n tasks on every full second."""
    async with scheduler_on(store, max_running=n) as scheduler:
        tasks = (
            car.Task(f"tick{number}", NOTE[runner], car.Trigger.INTERVAL, "1s", runner=runner, align=True)
            for number in range(n)
        )
        await define(scheduler, tasks)
        await scheduler.arm_all()
        LATENESS.watch(seconds, lead_s=2)
        await LATENESS.over()
    return LATENESS.figures(int(n * seconds))


def beside(store: str, seconds: float, runner: str) -> Figures:
    """Run 100 tasks a second, the engine in a thread of its own as in a notebook, beside a computing cell."""
    return beside_a_cell(in_a_thread(store, runner), LATENESS, seconds)


@contextmanager
def in_a_thread(store: str, runner: str) -> Iterator[None]:
    up, stop = threading.Event(), anyio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        async with scheduler_on(store) as scheduler:
            begin = anyio.current_time()
            for number in range(100):  # spread over the second: an interval begins when its task is defined
                await anyio.sleep_until(begin + number / 100)
                await scheduler.add(
                    car.Task(f"tick{number}", NOTE[runner], car.Trigger.INTERVAL, "1s", runner=runner, first="next")
                )
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    up.wait()
    yield
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


# Again


async def fill_first(n: int) -> Figures:
    """Store n tasks that wait and one that runs ten times a second and says so."""
    filled = await fill(n, "python")
    async with scheduler_on("file") as scheduler:
        await scheduler.define(
            car.Task("first", "import os\nos.write(1, b'FIRST\\n')", car.Trigger.INTERVAL, "100ms", first="next")
        )
    return filled


async def first() -> None:
    async with scheduler_on("file") as scheduler:
        await scheduler.arm_all()
        await anyio.sleep_forever()


async def live(every_s: float, catchup: str) -> None:
    """Run one task on a grid until killed; a slot takes 30 ms."""
    async with scheduler_on("file") as scheduler:
        schedule = f"{every_s * 1000:.0f}ms"
        await scheduler.add(
            car.Task("tick", "log", car.Trigger.INTERVAL, schedule, runner="agent", catchup=catchup, align=True)
        )
        os.write(1, b"UP\n")
        await anyio.sleep_forever()


def told_slots(first: float, every_s: float) -> set[int]:
    """Return the slots that history has a row for, counted from the first that was started."""
    history = car.history(store=STORE)
    begins = history["scheduled_at"].astype("int64") / 1e6
    return {
        round((begin - first) / every_s) + further
        for begin, slots in zip(begins, history["slots"], strict=True)
        for further in range(int(slots))
    }


# Cancel


async def cancel(kind: str, times: int) -> Figures:
    """Time `cancel` of a running body, to its return: the work has stopped and its row says so."""
    runner, executor = ("shell", "") if kind == "shell" else ("python", kind)
    took_s = []
    async with scheduler_on("file") as scheduler:
        await scheduler.define(car.Task("endless", ENDLESS[kind], runner=runner, executor=executor))
        for _ in range(times):
            await scheduler.run_now("endless")
            await anyio.sleep(0.1)  # a shell is up by then; a body that is not yet would be quicker to cancel
            began = time.perf_counter()
            await scheduler.cancel("endless")
            took_s.append(time.perf_counter() - began)
        stopped = sum(row.status is car.Status.CANCELLED for row in scheduler.executions("endless"))
    if stopped != times:
        raise UnfinishedError(stopped, times)
    return {"p50_ms": percentile(took_s, 0.5) * 1000, "max_ms": max(took_s) * 1000}


# History


async def fill_year(rows: int) -> Figures:
    """Store so many executions of fifty tasks in the year before now: most completed, some with errors or tokens."""
    async with scheduler_on("file") as scheduler:
        await define(scheduler, (car.Task(f"task{number}", "no-op", runner="agent") for number in range(50)))
        await scheduler.run_now("task0")
        await scheduler.wait()
    task = "(SELECT id FROM tasks WHERE namespace = 'default' AND name = 'task' || (copies.n % 50))"
    ids = f"{task} || ':int:' || (copies.n / 50)"
    at = f"({time.time_ns() // 1000} + {YEAR_US // rows} * (copies.n - {rows}))"
    fails, agent = "copies.n % 50 = 7 AND copies.n % 3 = 0", "copies.n % 50 = 3"
    differing = {
        "task_id": task,
        "execution_id": ids,
        "occurrence_id": ids,
        "slot": "copies.n / 50",
        "trigger": "'interval'",
        "cause": "'slot'",
        "status": f"CASE WHEN {fails} THEN 'failed' WHEN copies.n % 97 = 0 THEN 'skipped' ELSE 'completed' END",
        "reason": "CASE WHEN copies.n % 97 = 0 THEN 'overlap' END",
        "scheduled_at": at,
        "started_at": f"{at} + copies.n % 5000",
        "finished_at": f"{at} + copies.n % 5000 + copies.n % 700000",
        "duration": "copies.n % 700000",
        "answer": f"CASE WHEN NOT ({fails}) THEN copies.n || ' rows' END",
        "error": f"CASE WHEN {fails} THEN 'KeyError: pear' END",
        "error_type": f"CASE WHEN {fails} THEN 'KeyError' END",
        "turns": f"CASE WHEN {agent} THEN 2 END",
        "tokens_in": f"CASE WHEN {agent} THEN 1000 + copies.n % 77 END",
        "tokens_out": f"CASE WHEN {agent} THEN 100 + copies.n % 77 END",
        "cost": f"CASE WHEN {agent} THEN 0.001 END",
        "model": f"CASE WHEN {agent} THEN 'a model' END",
    }
    multiply("executions", rows, differing)
    return {"rows": rows}


def read_year(again: bool = False) -> Figures:
    """Time the whole history, once or a second time."""
    held = readers.count()
    if again:
        time.sleep(0.2)  # what was written a moment ago may be followed by more of the same time
        kept = car.history(store=STORE)
        readers.check(kept, held)
    return readers.timed(lambda: car.history(store=STORE), lambda: car.history(store=STORE, limit=3), held)


def read_part(task: str, day: bool, times: int) -> Figures:
    """Time a task's executions or those of a day, each time from the store."""
    until = dt.datetime.now(dt.UTC) - dt.timedelta(days=7)
    asked: dict[str, Any] = {"since": until - dt.timedelta(days=1), "until": until} if day else {"task": task}

    def read() -> Any:
        recent.forget()
        return car.history(store=STORE, **asked)

    return readers.timed_part(read, times, len(read()) if day else readers.count(task))


def beside_reading(how: str, seconds: float) -> Figures:
    """Run 100 tasks a second on a store of a million executions, and read these again and again in another thread."""
    copy, reads, held = f"copy-{STORE}", 0, readers.count()
    shutil.copy(STORE, copy)
    read = readers.reader(how, copy) if how == "sqlite3" else None
    car.history(store=STORE, limit=3)  # imports pandas, which everybody does once
    with in_a_thread("file", "agent"):
        begin = LATENESS.watch(seconds)
        time.sleep(max(0.0, begin - time.time()))
        while time.time() < begin + seconds:
            if how == "ours":
                reads += len(car.history(store=STORE)) >= held
            elif read is not None:
                reads += len(read(f"{readers.ALL} ORDER BY e.seq")) >= held
            else:
                time.sleep(0.1)
        time.sleep(1)
    if how and not reads:
        raise UnfinishedError(0, 1)
    return {**LATENESS.figures(int(100 * seconds)), **({"reads": reads} if how else {})}
