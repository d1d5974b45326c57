"""`--test` and `--dry-run`: a task that is checked, perhaps run here, and not stored."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import CarError
from car_sched_nb.model import WHEN, Task, Trigger, from_us
from car_sched_nb.triggers import resolve_once, schedule_of

if TYPE_CHECKING:
    from car_sched_nb.notebook.session import Session

T = TypeVar("T")


class TrialFailed(CarError):
    """Raised when a `--test` run did not complete; what it printed stands above."""


def unstored(task: Task, now_us: int) -> Task:
    """Return a checked task as if it had been stored now, to show its plan."""
    fire_us = resolve_once(task, now_us) if task.trigger is Trigger.ONCE else None
    task = msgspec.structs.replace(
        task, anchored_at=from_us(now_us), fire_at=None if fire_us is None else from_us(fire_us)
    )
    plan = schedule_of(task)
    return msgspec.structs.replace(task, cursor=plan.start()) if plan else task


def run_here(session: Session, task: Task) -> None:
    """Run a task once, print its output into this cell, and wait for its end.

    It runs in a scheduler of its own in memory: the session's store never learns of it. An asynchronous body
    runs on that scheduler's loop, because the kernel's is busy with this very cell.

    Raises
    ------
    TrialFailed
        When it did not complete.
    """
    # When and how often it runs later is of no concern now, and whoever looks at it waits for no second attempt.
    plain = Task(task.name)
    unused = (*WHEN, "jitter", "until", "max_runs", "retries", "retry_delay")
    later = {name: getattr(plain, name) for name in unused}
    manual = msgspec.structs.replace(task, **later)
    trial = Scheduler(namespace=session.namespace.name)
    trial.runners = {name: runner.on_own_loop() for name, runner in session.start().runners.items()}
    trial.listen(session.failures.hear)  # `%car debug` after it
    printed, answer, error = _in_thread(lambda: _run(trial, manual))
    sys.stdout.write(printed + ("\n" if printed and not printed.endswith("\n") else ""))
    if error:
        raise TrialFailed(f"{task.name} failed: {error}; nothing was stored")
    if answer:
        print(answer)


async def _run(trial: Scheduler, task: Task) -> tuple[str, str, str]:
    async with trial:
        execution = await trial.run_once(task)
        text = trial.store.rows("SELECT text, traceback FROM outputs")
    printed = "".join(part for part in text[0] if part) if text else ""
    return printed, execution.answer or "", execution.error or ""


def _in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop in a thread; Stop in the notebook cancels it."""
    found: concurrent.futures.Future[T] = concurrent.futures.Future()
    started: concurrent.futures.Future[Callable[[], Any]] = concurrent.futures.Future()

    async def main() -> T:
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        started.set_result(lambda: loop.call_soon_threadsafe(this.cancel))
        return await make()

    def work() -> None:
        try:
            found.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - it belongs to the cell that waits
            found.set_exception(error)

    threading.Thread(target=work, name="car-trial", daemon=True).start()
    try:
        return found.result()
    except KeyboardInterrupt:
        started.result()()
        raise
