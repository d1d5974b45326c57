"""The dashboard's kernel side: one anywidget that speaks in messages.

Commands and rows travel as messages, never as traits: a trait that the browser sets can stall for ever while a cell
awaits. A callback may run on the main thread or, while a cell blocks, on a subshell's; both only hand work to the
engine's thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget

from car_sched_nb.errors import CarError
from car_sched_nb.widget import still
from car_sched_nb.widget.view import View

if TYPE_CHECKING:
    from car_sched_nb.engine.events import Event
    from car_sched_nb.engine.scheduler import Scheduler
    from car_sched_nb.notebook.session import Session

_STATIC = Path(__file__).parent / "static"
_PERIOD_S = 0.1  # at most ten messages a second, whatever happens
_BEAT_S = 1.0
_RECOUNT = 60  # beats until failures that are a day old are let go


class Dashboard(anywidget.AnyWidget):
    """Live status of this notebook's tasks, with buttons to run, cancel, pause and resume."""

    _esm = _STATIC / "dashboard.js"
    _css = _STATIC / "dashboard.css"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._lock = threading.Lock()
        self._number = 0
        self._feed: _Feed = session.call_plain(lambda scheduler: _Feed(scheduler, session, self._tell))
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return f"<dashboard of {self._session.namespace.name}>"

    def open(self) -> None:
        """Open the connection to the browser."""
        super().open()
        # ipykernel 7.4 answers a comm on the shell that last published on it, so that a click would wait for a
        # blocking cell (ipykernel 7.0-7.3 do not have this attribute, and need none of it).
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = _subshell_for  # noqa: SLF001 - there is no public way

    def close(self) -> None:
        """Close the connection and stop listening."""
        self._session.soon(self._feed.stop)
        super().close()

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the live view, and a table of the present state for where no kernel answers."""
        bundle = super()._repr_mimebundle_(**options)
        if bundle is not None:
            rows = self._session.call_plain(lambda _: self._feed.view.everything())
            bundle[0].update({"text/html": still.table(rows), "text/plain": still.text(rows)})
        return bundle

    def _tell(self, message: dict[str, Any]) -> None:
        with self._lock:
            if message["type"] != "ack":
                self._number += 1
                message["seq"] = self._number
            self.send(message)

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        if not isinstance(content, dict):
            return
        if content.get("type") == "hello":
            self._session.soon(self._feed.snapshot)
        elif content.get("type") == "command":
            self._session.soon(lambda scheduler: self._feed.command(scheduler, content))


def _subshell_for(_: object, asked: str | None) -> str | None:
    """Return the subshell that a page asked for, or the main shell when it is one of a former kernel."""
    from IPython import get_ipython

    kernel: Any = getattr(get_ipython(), "kernel", None)
    manager: Any = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    return asked if manager is None or asked in manager.list_subshell() else None


class _Feed:
    """Sends a snapshot when a view asks, then what changed; on the engine's loop only."""

    def __init__(self, scheduler: Scheduler, session: Session, tell: Callable[[dict[str, Any]], None]) -> None:
        self._scheduler = scheduler
        self._session = session
        self._tell = tell
        self.view = View(scheduler)
        self._loop = asyncio.get_running_loop()
        self._jobs: set[asyncio.Task[None]] = set()
        self._due: asyncio.TimerHandle | None = None
        self._asked_us: int | None = None
        self._beats = 0
        self._blocked_us: int | None = None
        self._stop_listening = scheduler.listen(self._hear)
        self._beat = self._loop.call_later(_BEAT_S, self._tick)

    def stop(self, _: Any) -> None:
        self._stop_listening()
        self._beat.cancel()

    def snapshot(self, _: Any) -> None:
        self._send("snapshot", {"rows": self.view.snapshot()})

    def command(self, scheduler: Scheduler, content: dict[str, Any]) -> None:
        job = self._loop.create_task(self._carry_out(scheduler, content))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _carry_out(self, scheduler: Scheduler, content: dict[str, Any]) -> None:
        wanted = set(content.get("tasks") or ())
        said, ok = [], True
        for name in [task.name for task in scheduler.tasks() if task.id in wanted]:
            try:
                said.append(await _do(scheduler, str(content.get("verb")), name))
            except CarError as error:
                said.append(str(error))
                ok = False
        self._tell({"type": "ack", "id": content.get("id"), "ok": ok, "text": "; ".join(filter(None, said))})

    def _hear(self, event: Event) -> None:
        self.view.hear(event)
        if self._due is None:
            self._due = self._loop.call_later(_PERIOD_S, self._flush)

    def _flush(self) -> None:
        if self._due is not None:
            self._due.cancel()  # the beat flushes too: a timer left over would start a second series
            self._due = None
        rows, gone = self.view.take()
        self._send("update", {"rows": rows, "gone": gone})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        head = self.view.head(self._scheduler.store.path, self._blocked_us)
        self._tell({"type": kind, "now_us": time.time_ns() // 1000, "head": head, **content})

    def _tick(self) -> None:
        """Once a second: ask the kernel's loop whether it is free, and send what runs."""
        blocked = self._asked_us
        if blocked is None:
            self._asked_us = time.time_ns() // 1000
            self._session.ask_kernel(lambda: self._loop.call_soon_threadsafe(self._answered))
        if blocked != self._blocked_us or self._scheduler.running.runs:
            self._blocked_us = blocked
            self.view.touch_running()
            self._flush()
        self._beats += 1
        if self._beats % _RECOUNT == 0:
            self.view.recount()
        self._beat = self._loop.call_later(_BEAT_S, self._tick)

    def _answered(self) -> None:
        self._asked_us = None


async def _do(scheduler: Scheduler, verb: str, name: str) -> str:
    """Carry out one button; return what its row should say, mostly nothing."""
    match verb:
        case "run":
            execution = await scheduler.run_now(name)
            return "still running" if execution.status == "skipped" else ""
        case "cancel":
            return "" if scheduler.cancel_soon(name) else "nothing was running"
        case "pause":
            await scheduler.pause(name)
        case "resume":
            await scheduler.resume(name)
        case _:
            raise CarError(f"the dashboard has no button {verb!r}")
    return ""
