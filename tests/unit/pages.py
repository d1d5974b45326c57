"""What the tests of the dashboard share: a feed whose time is told to pass, and a page that keeps what it is sent."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio

from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.widget.feed import Feed
from car_sched_nb.widget.looks import Page
from tests.unit.world import rest

Message = dict[str, Any]


class _Handle:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class HandTimers:
    """Timers of a time that stands still until it is told to pass."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, _Handle]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any:
        handle = _Handle(lambda: callback(*args))
        heapq.heappush(self._heap, (self.now_s + delay, next(self._numbers), handle))
        return handle

    @property
    def waiting(self) -> int:
        """How many timers are set."""
        return sum(handle.call is not None for _, _, handle in self._heap)

    async def step(self, until_s: float) -> bool:
        """Go to the next timer and call it; return whether there was one until then."""
        if not self._heap or self._heap[0][0] > until_s:
            self.now_s = max(self.now_s, until_s)
            return False
        at_s, _, handle = heapq.heappop(self._heap)
        self.now_s = max(self.now_s, at_s)
        if handle.call is not None:
            handle.call()
        return True


class Viewer:
    """Somebody who looks at a page of one widget, with what it was told and when."""

    def __init__(self, feed: Feed, timers: HandTimers) -> None:
        self.page = Page(self._take, self._keep)
        self.feed = feed
        self.timers = timers
        self.told: list[tuple[float, Message]] = []
        self.stills: list[tuple[str, str]] = []

    def _take(self, message: Message) -> None:
        # As the browser gets it: a value that is no JSON, or a text that is no UTF-8, must not come so far.
        sent = json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
        self.told.append((self.timers.now_s, json.loads(sent)))

    def _keep(self, bundle: tuple[str, str]) -> None:
        self.stills.append(bundle)

    def say(self, **content: Any) -> None:
        """Say something to the kernel."""
        self.feed.receive(self.page, content)

    def of(self, kind: str) -> list[Message]:
        """Return the messages of a kind."""
        return [message for _, message in self.told if message["type"] == kind]

    def newest(self, kind: str) -> Message:
        return self.of(kind)[-1]

    def rows(self) -> dict[str, Message]:
        """Return the rows by name, as a page that follows all messages has them."""
        rows: dict[str, Message] = {}
        for _, message in self.told:
            if message["type"] == "snapshot":
                rows = {}
            for row in message.get("rows", ()):
                rows[row["id"]] = row
            for task_id in message.get("gone", ()):
                rows.pop(task_id, None)
        return {row["name"]: row for row in rows.values()}

    def view(self, name: str = "v") -> Message:
        """Return what a view has: its executions, the opened one's detail and output."""
        executions: dict[str, Message] = {}
        seen: Message = {"output": "", "skipped": 0}
        for message in self.of("update"):
            said = message.get("views", {}).get(name, {})
            if said.get("whole"):
                executions = {}
            for row in said.get("executions", ()):
                executions[row["execution_id"]] = row
            seen |= {key: said[key] for key in ("detail", "more", "task") if key in said}
            output = said.get("output")
            if output:
                if output.get("reset"):
                    seen["output"], seen["skipped"] = "", 0
                seen["skipped"] += output["at"] - len(seen["output"]) - seen["skipped"]
                seen["output"] += output["text"]
                seen["size"] = output["size"]
        seen["executions"] = sorted(executions.values(), key=lambda row: -row["seq"])
        return seen


class Watched:
    """A feed over a scheduler, with its time and any number of pages."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.timers = HandTimers()
        self.free = True
        self.feed = Feed(scheduler, lambda answer: answer() if self.free else None, cast("Any", self.timers))

    async def page(self) -> Viewer:
        page = Viewer(self.feed, self.timers)
        await self.feed.join(page.page)
        return page

    async def calm(self) -> None:
        """Return when what the feed has begun is done."""
        await anyio.sleep(0.001)
        while self.feed._jobs:  # noqa: ASYNC110 - nobody tells of the last of them
            await anyio.sleep(0.001)
        await anyio.sleep(0.001)

    async def pass_s(self, seconds: float) -> None:
        """Let time pass for the feed, with what it does on the way; the scheduler's own is another."""
        end_s = self.timers.now_s + seconds
        await self.calm()
        while await self.timers.step(end_s):
            await self.calm()

    async def rest(self, seconds: float = 1.5) -> None:
        """Let the scheduler come to rest, and the feed tell of it."""
        await rest(self.scheduler)
        await self.pass_s(seconds)


@asynccontextmanager
async def watched(scheduler: Scheduler) -> AsyncIterator[tuple[Watched, Viewer]]:
    """Yield a feed with one page that has said hello and was answered."""
    watch = Watched(scheduler)
    page = await watch.page()
    page.say(type="hello")
    await watch.pass_s(0.1)
    yield watch, page
    for one in tuple(watch.feed._pages):
        watch.feed.leave(one)
