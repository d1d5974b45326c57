"""What the dashboard's buttons do, on the engine's loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec

from car_sched_nb import options
from car_sched_nb.errors import CarError
from car_sched_nb.model import Status
from car_sched_nb.output import clip
from car_sched_nb.store import board, records
from car_sched_nb.widget.words import said

if TYPE_CHECKING:
    from car_sched_nb.engine.scheduler import Scheduler
    from car_sched_nb.widget.view import View

_TOGETHER = 50  # commands under way at a time
_SAID = 1000
_GONE = "this task is gone"
_log = logging.getLogger(__name__)


class Done(msgspec.Struct):
    """What became of a command; `failed` has (task id, why)."""

    text: str = ""
    failed: list[tuple[str, str]] = []


async def answer(scheduler: Scheduler, view: View, content: dict[str, Any]) -> dict[str, Any]:
    """Carry a command out and return what its page is told of it."""
    if content.get("verb") == "dismiss":
        view.notices.dismiss(content.get("execution"))
        done = Done()
    else:
        done = await carry_out(scheduler, view.names(), content)
    texts = dict.fromkeys([*(why for _, why in done.failed), done.text])
    return {
        "ok": not done.failed,
        "text": clip("; ".join(filter(None, texts)), _SAID),
        "failed": [{"task": task_id, "text": why} for task_id, why in done.failed],
    }


async def carry_out(scheduler: Scheduler, names: Mapping[str, str], content: dict[str, Any]) -> Done:
    """Do what a page asks for, each task for itself; `names` are the tasks' by their ids."""
    verb, tasks = said(content.get("verb")), content.get("tasks")
    ids = list(dict.fromkeys(id_ for id_ in tasks if isinstance(id_, str))) if isinstance(tasks, list) else []
    match verb:
        case "run" | "pause" | "resume" | "delete":
            do = {"run": _run, "pause": _pause, "resume": _resume, "delete": _delete}[verb]
            return await _each(names, ids, lambda name: do(scheduler, name)) if ids else _no_button(verb, "a task")
        case "cancel":
            execution_id = said(content.get("execution"))
            if execution_id is not None and _cancel_one(scheduler, execution_id):
                return Done()
            if execution_id is not None and any(task_id in scheduler.running.runs for task_id in ids):
                return Done("it has ended already")
            return await _cancel(scheduler, names, ids) if ids else _no_button(verb, "a task")
        case "cancel_all":
            return await _cancel(scheduler, names, None)
        case "retry" | "run_slot":
            execution_id = said(content.get("execution"))
            if execution_id is None:
                return _no_button(verb, "an execution")
            return await _once_more(scheduler, verb, execution_id)
        case _:
            return Done(failed=[("", f"the dashboard has no button {verb!r}")])


def _no_button(verb: str, wanted: str) -> Done:
    return Done(failed=[("", f"{verb} needs {wanted}")])


async def _each(names: Mapping[str, str], ids: list[str], do: Callable[[str], Awaitable[str]]) -> Done:
    """Do the same to each task, many at once: what they write is then one transaction."""
    done = Done()

    async def one(task_id: str) -> str:
        name = names.get(task_id)
        if name is None:
            done.failed.append((clip(task_id, 60), _GONE))
            return ""
        text, why = await _guarded(do(name))
        if why is not None:
            done.failed.append((task_id, why))
        return text

    texts: list[str] = []
    for begin in range(0, len(ids), _TOGETHER):
        texts += await asyncio.gather(*map(one, ids[begin : begin + _TOGETHER]))
    done.text = _joined(texts)
    return done


async def _guarded(work: Awaitable[str]) -> tuple[str, str | None]:
    """Return (what it says, None), or why it failed."""
    try:
        return await work, None
    except CarError as error:
        return "", clip(str(error), _SAID)
    except Exception as error:  # noqa: BLE001 - whoever pressed it must learn of it
        _log.exception("a command of the dashboard failed")
        return "", clip(f"{type(error).__name__}: {error}", _SAID)


def _joined(texts: list[str]) -> str:
    """Return what several tasks say: each text once, and how often."""
    counted = [(text, texts.count(text)) for text in dict.fromkeys(filter(None, texts))]
    return "; ".join(text if len(texts) == 1 else f"{count} {text}" for text, count in counted)


async def _run(scheduler: Scheduler, name: str) -> str:
    execution = await scheduler.run_now(name)
    return "still running" if execution.status == "skipped" else ""


async def _pause(scheduler: Scheduler, name: str) -> str:
    await scheduler.pause(name)
    return ""


async def _resume(scheduler: Scheduler, name: str) -> str:
    await scheduler.resume(name)
    return ""


async def _delete(scheduler: Scheduler, name: str) -> str:
    await scheduler.delete(name)
    return ""


async def _cancel(scheduler: Scheduler, names: Mapping[str, str], ids: list[str] | None) -> Done:
    """Ask what runs to stop, all of it here before any of it elsewhere; nobody waits for an end."""
    counts = {}
    for number, task_id in enumerate(scheduler.busy() if ids is None else ids):
        counts[task_id] = scheduler.cancel_id_soon(task_id)
        if number % _TOGETHER == _TOGETHER - 1:
            await asyncio.sleep(0)
    try:
        others = await anyio.to_thread.run_sync(
            board.live_elsewhere, scheduler.store, scheduler.namespace, scheduler.owner, abandon_on_cancel=True
        )
    except CarError as error:
        return Done(failed=[("", clip(str(error), _SAID))])

    async def elsewhere(name: str) -> str:
        await scheduler.cancel_elsewhere(name, 0)
        return ""

    wanted = [task_id for task_id in (names if ids is None else ids) if task_id in others]
    done = await _each(names, wanted, elsewhere)
    done.failed += [(clip(task_id, 60), _GONE) for task_id in ids or () if task_id not in names]
    if not wanted and not any(counts.values()) and not done.failed:
        done.text = "nothing was running"
    return done


def _cancel_one(scheduler: Scheduler, execution_id: str) -> bool:
    """Ask one execution to stop; return whether it is in progress here (elsewhere its task is asked)."""
    for runs in scheduler.running.runs.values():
        if execution_id in runs:
            scheduler.running.stop(runs[execution_id], Status.CANCELLED)
            return True
    return False


async def _once_more(scheduler: Scheduler, verb: str, execution_id: str) -> Done:
    async def work() -> str:
        if verb == "retry":
            return "still running" if (await scheduler.retry(execution_id)).status == "skipped" else ""
        count = await scheduler.run_slot(execution_id)
        return f"{count} slots" if count > 1 else ""

    text, why = await _guarded(work())
    return Done(text) if why is None else Done(failed=[("", why)])


def source(scheduler: Scheduler, content: dict[str, Any]) -> dict[str, Any]:
    """Return the cell of a task, or that it is gone."""
    task_id = said(content.get("task"))
    try:
        task = records.by_id(scheduler.store, task_id) if task_id is not None else None
    except CarError as error:
        return {"ok": False, "text": clip(str(error), _SAID)}
    if task is None or task.namespace != scheduler.namespace:
        return {"ok": False, "text": _GONE}
    return {"ok": True, "text": options.cell_of(task)}
