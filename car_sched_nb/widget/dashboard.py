"""The dashboard's kernel side: one anywidget that speaks in messages.

Commands and rows travel as messages, never as traits: a trait that the browser sets can stall for ever while a cell
awaits. A callback may run on the main thread or, while a cell blocks, on a subshell's; both only hand work to the
engine's thread.
"""

from __future__ import annotations

import contextvars
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from car_sched_nb.widget import still
from car_sched_nb.widget.feed import Feed
from car_sched_nb.widget.looks import Page

if TYPE_CHECKING:
    from car_sched_nb.engine.scheduler import Scheduler
    from car_sched_nb.notebook.session import Session

_STATIC = Path(__file__).parent / "static"


class Dashboard(anywidget.AnyWidget):
    """Live status of this notebook's tasks, with buttons to run, cancel, pause and resume."""

    _esm = _STATIC / "dashboard.js"
    _css = _STATIC / "dashboard.css"

    still = traitlets.Unicode().tag(sync=True)
    """What the class of the table ends in that a saved notebook shows in its place; set once."""

    def __init__(self, session: Session) -> None:
        super().__init__(still=secrets.token_hex(4))
        self._session = session
        self._lock = threading.Lock()
        self._number = 0
        self._shown: tuple[contextvars.Context, Any] | None = None
        self._page = Page(self._tell, self._show_still)
        self._feed: Feed = session.call(self._join)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return f"<dashboard of {self._session.namespace.name}: live while its kernel runs>"

    async def _join(self, scheduler: Scheduler) -> Feed:
        feed = self._session.feed
        if feed is None:
            feed = self._session.feed = Feed(scheduler, self._session.ask_kernel)
        await feed.join(self._page)
        return feed

    def open(self) -> None:
        """Open the connection to the browser."""
        super().open()
        # ipykernel 7.4 answers a comm on the shell that last published on it, so that a click would wait for a
        # blocking cell (ipykernel 7.0-7.3 do not have this attribute, and need none of it).
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = _subshell_for  # noqa: SLF001 - there is no public way

    def close(self) -> None:
        """Close the connection and stop listening."""
        self._session.soon(lambda _: self._feed.leave(self._page))
        super().close()

    def _ipython_display_(self) -> None:
        """Show the live view, and below it the table that is there when no kernel answers; the view hides it."""
        from IPython.display import display

        bundle = self._repr_mimebundle_()
        if bundle is None:  # closed
            print(repr(self))  # noqa: T201 - what a display of a closed widget says
            return
        display(bundle[0], metadata=bundle[1], raw=True)  # type: ignore[no-untyped-call]
        now = self._session.call_plain(lambda _: self._feed.still())
        shown = still.bundle(*now, self.still)
        display_id = f"car-still-{self.still}"
        handle = display(shown, raw=True, display_id=display_id)  # type: ignore[no-untyped-call]
        self._shown = (contextvars.copy_context(), handle)

    def _show_still(self, now: tuple[str, str]) -> None:
        """Replace the table, in the cell's own context: a front end must know whose output it is."""
        if self._shown is not None:
            context, handle = self._shown
            context.run(handle.update, still.bundle(*now, self.still), raw=True)

    def _tell(self, message: dict[str, Any]) -> None:
        with self._lock:
            if message["type"] in ("snapshot", "update"):
                self._number += 1
                message["seq"] = self._number
            self.send(message)

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        self._session.soon(lambda _: self._feed.receive(self._page, content))


def _subshell_for(_: object, asked: str | None) -> str | None:
    """Return the subshell that a page asked for, or the main shell when it is one of a former kernel."""
    from IPython import get_ipython

    kernel: Any = getattr(get_ipython(), "kernel", None)
    manager: Any = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    return asked if manager is None or asked in manager.list_subshell() else None
