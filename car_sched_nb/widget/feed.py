"""What the dashboards of one session are told: one feed for all of them, on the engine's loop only.

It hears the engine's events as long as a dashboard is open. While somebody looks it sends what changed, at most ten
messages a second, and looks itself once a second at what no event tells. Nobody looks: it sends and keeps nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from car_sched_nb.errors import CarError
from car_sched_nb.output import clip
from car_sched_nb.store import board
from car_sched_nb.widget import commands, still
from car_sched_nb.widget.looks import STALE_S, Look, Message, Page
from car_sched_nb.widget.reading import Reading
from car_sched_nb.widget.surroundings import Surroundings
from car_sched_nb.widget.timers import BEAT_S, PERIOD_S, Timers
from car_sched_nb.widget.view import View
from car_sched_nb.widget.words import LINE, said

if TYPE_CHECKING:
    from car_sched_nb.engine.events import Event
    from car_sched_nb.engine.scheduler import Scheduler

_GATHER_S = 0.01  # after the first of what changed: the rest of it often comes at once
_FOLLOW_S = 0.2  # between two looks at what a run prints
_OUTPUT = 64 * 1024  # bytes of output in a message
_STEP = 500  # rows that are made in one go
_FEW = 1000  # tasks that are counted at each message
_log = logging.getLogger(__name__)


class Feed:
    """Tells the pages of a session's dashboards what they look at.

    Parameters
    ----------
    ask_kernel
        Calls a function on the kernel's loop as soon as that is free.
    timers
        Where its timers are, by default the running loop; a test has its own.
    """

    def __init__(
        self, scheduler: Scheduler, ask_kernel: Callable[[Callable[[], Any]], None], timers: Timers | None = None
    ) -> None:
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._timers: Timers = timers or self._loop
        self._jobs: set[asyncio.Task[None]] = set()
        self._pages: list[Page] = []
        self.view = View(scheduler)
        self._around = Surroundings(scheduler, self.view, ask_kernel)
        self._still = still.Still(self.view)
        self._reading = Reading(
            scheduler, self.view, self._timers, looks=self._looks, start=self._start, ready=self._poke
        )
        self._stop_listening: Callable[[], None] | None = None
        self._early: list[Event] | None = None
        """Events that came while the store was being read."""
        self._loaded: asyncio.Future[None] | None = None
        self._due: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._beat: asyncio.TimerHandle | None = None
        """There while somebody looks."""
        self._sent_s = -PERIOD_S
        self._telling_all = False
        self._head: Message = {}
        self._head_s = -BEAT_S

    # Pages

    async def join(self, page: Page) -> None:
        """Take a page; return when the store was read."""
        self._pages.append(page)
        if self._loaded is not None:
            await asyncio.shield(self._loaded)
            return
        self._loaded = loaded = self._loop.create_future()
        try:
            await self._load()
        except BaseException as error:
            loaded.set_exception(error)
            loaded.exception()  # others may wait for it, or nobody
            self._pages.clear()
            self._shut()
            raise
        loaded.set_result(None)
        if not self._pages:
            self._shut()

    def leave(self, page: Page) -> None:
        """Tell a page nothing more."""
        if page in self._pages:
            self._pages.remove(page)
        if not self._pages and self._early is None:
            self._shut()

    async def _load(self) -> None:
        scheduler, self._early = self._scheduler, []
        self._stop_listening = scheduler.listen(self._hear)
        await anyio.to_thread.run_sync(lambda: self.view.fill(board.state(scheduler.store, scheduler.namespace)))
        early, self._early = self._early, None
        for event in early:
            self.view.hear(event)
        await self._around.recount()
        self._poke()

    def _shut(self) -> None:
        if self._stop_listening is not None:
            self._stop_listening()
        self._stop_listening = self._loaded = self._early = None
        if self._beat is not None:
            self._beat.cancel()
        self._rest()

    def still(self) -> tuple[str, str]:
        """Return the table that a saved notebook shows, as HTML and as text."""
        return self._still.bundle()

    def _looks(self) -> list[Look]:
        return [look for page in self._pages for look in page.looks.values()]

    # What pages say

    def receive(self, page: Page, content: Any) -> None:
        """Take a message of a page, whatever it is."""
        if not isinstance(content, dict) or page not in self._pages:
            return
        try:
            self._receive(page, content)
        except Exception:  # noqa: BLE001 - what a page says must not end what the others are told
            _log.exception("a message of a dashboard's page failed")

    def _receive(self, page: Page, content: Message) -> None:
        match content.get("type"):
            case "hello":
                self._seen(page, wants_all=True)
            case "look":
                self._look(page, content)
            case "command":
                self._seen(page)
                self._start(self._command(page, content))
            case "source":
                self._seen(page)
                self._tell(page, {"type": "source", "id": _echo(content), **commands.source(self._scheduler, content)})

    def _seen(self, page: Page, wants_all: bool = False) -> None:
        """Somebody looks at a page; one that came back after a while has missed what was not sent."""
        now_s = self._timers.time()
        page.wants_all = page.wants_all or wants_all or page.until_s <= now_s
        page.until_s = now_s + STALE_S
        if self._beat is None:
            self._beat = self._timers.call_later(0, self._tick)
        if page.wants_all:
            self._poke()

    def _look(self, page: Page, content: Message) -> None:
        look = page.look(content, self._timers.time())
        if look is not None:
            page.waits = True
            self._seen(page)
            self._reading.follow(look)
            self._look_at_rows()
            self._reading.soon()
            self._poke()

    def _look_at_rows(self) -> None:
        self._reading.look_at(set().union(*(page.rows() for page in self._pages)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        job = self._loop.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _command(self, page: Page, content: Message) -> None:
        try:
            answer = await commands.answer(self._scheduler, self.view, content)
        except Exception as error:  # noqa: BLE001 - whatever happens, the click is answered
            _log.exception("a command of the dashboard failed")
            answer = {"ok": False, "text": clip(f"{type(error).__name__}: {error}", LINE), "failed": []}
        self._tell(page, {"type": "ack", "id": _echo(content), **answer})
        self._poke()

    # What pages are told

    def _hear(self, event: Event) -> None:
        if self._early is not None:
            self._early.append(event)
            return
        self.view.hear(event)
        self._around.heard(event.task.id, event.kind)
        if self._beat is None:
            self.view.rest()
        else:
            self._reading.hear(event)
            self._poke()

    def _poke(self, after_s: float = _GATHER_S) -> None:
        """Send before long, and not before the last message is a period old."""
        if self._beat is None:
            return
        now_s = self._timers.time()
        at_s = max(self._sent_s + PERIOD_S, now_s + after_s)
        if self._due is not None:
            if self._due_s <= at_s:
                return
            self._due.cancel()
        self._due, self._due_s = self._timers.call_later(at_s - now_s, self._flush), at_s

    def _flush(self) -> None:
        self._due = None
        if self._telling_all or self._early is not None:
            return  # it goes on when that is done
        now_s = self._timers.time()
        self._sent_s = now_s
        awake = [page for page in self._pages if page.until_s > now_s]
        if any(page.wants_all for page in awake):
            self._telling_all = True
            self._start(self._tell_all([page for page in awake if page.wants_all]))
            return
        rows, gone = self.view.take()
        notices, self.view.notices.changed = self.view.notices.changed, False
        if rows or gone:
            self._still.note(now_s)
            self._count_up()
        for page in awake:
            self._update(page, rows, gone, notices)
        self._go_on()

    def _go_on(self) -> None:
        """See to what is left over, and to what comes without an event."""
        looks = self._looks()
        if any(look.due for look in looks):
            self._reading.soon()
        outputs = [look.output for look in looks if look.output is not None]
        if any(output.behind for output in outputs):
            self._poke()
        elif any(look.unended for look in looks if look.output is not None and look.output.live):
            self._poke(_FOLLOW_S)

    def _update(self, page: Page, rows: list[Message], gone: list[str], notices: bool) -> None:
        views = page.say(_OUTPUT)
        stats = page.new_stats(self._reading.stats, page.rows())
        if not (rows or gone or notices or views or stats or page.waits or page.head != self._head):
            return
        message: Message = {"rows": rows, "gone": gone, "stats": stats}
        if notices:
            message["notices"] = self.view.notices.newest()
        if views:
            message["views"] = views
        self._send(page, "update", message)

    async def _tell_all(self, pages: list[Page]) -> None:
        """Send all rows, made in steps: ten thousand take a while. What changes meanwhile follows."""
        try:
            rows = []
            for row in self.view.rows():
                rows.append(row)
                if len(rows) % _STEP == 0:
                    await asyncio.sleep(0)
            self.view.unsettle()
            self._count_up()
            for page in pages:
                page.begin_again()
                self._send(page, "snapshot", {"rows": rows, "notices": self.view.notices.newest()})
        finally:
            self._telling_all = False
            self._sent_s = self._timers.time()
            self._reading.soon()
            self._poke()

    def _send(self, page: Page, kind: str, content: Message) -> None:
        page.head, page.waits = self._head, False
        self._tell(page, {"type": kind, "now_us": self._scheduler.clock.now_us(), "head": self._head, **content})

    def _tell(self, page: Page, message: Message) -> None:
        if page not in self._pages:
            return  # it left while its answer was on the way
        try:
            page.tell(message)
        except Exception:  # noqa: BLE001 - a connection that is gone is no concern of the other pages
            _log.debug("a dashboard's page could not be told", exc_info=True)

    def _count_up(self) -> None:
        """Count what the head says; with ten thousand tasks not at each message."""
        now_s = self._timers.time()
        if len(self.view) < _FEW or now_s - self._head_s >= BEAT_S:
            self._head, self._head_s = self.view.head(self._around.blocked_us), now_s

    # The beat

    def _tick(self) -> None:
        """Once a second, while somebody looks: what no event tells."""
        now_s = self._timers.time()
        for page in self._pages:
            page.forget_stale(now_s)
        if not any(page.until_s > now_s for page in self._pages):
            self._rest()
            return
        self._beat = self._timers.call_later(BEAT_S, self._tick)
        if self._early is not None:
            return
        self._look_at_rows()
        for page in self._pages if self._scheduler.running.runs else ():
            page.waits = True
        self._around.look_at_kernel()
        self.view.kernel_blocked = self._around.blocked_us is not None
        self.view.touch_running(self._reading.rows)
        self._count_up()
        self._reading.beat()
        self._start(self._look_around())
        self._poke()
        bundle = self._still.bundle_if_due(now_s)
        if bundle is not None:
            for page in [page for page in self._pages if page.until_s > now_s]:
                page.show(bundle)

    def _rest(self) -> None:
        """Nobody looks."""
        self._beat = None
        self._around.rest()
        self.view.rest()
        self._reading.rest()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    async def _look_around(self) -> None:
        try:
            await self._around.look(self._reading.rows)
        except CarError:
            return  # whoever writes next says so
        if self.view.pending:
            self._poke()


def _echo(content: Message) -> Any:
    """Return the id of a question, as long as it is one."""
    given = content.get("id")
    return given if type(given) is int and abs(given) < 1 << 53 else said(given)
