"""Where the engine gets its time from."""

from __future__ import annotations

import time
from typing import Protocol

import anyio

LONGEST_SLEEP_US = 30_000_000
"""The wall clock is read again at least this often, so that sleep, NTP and steps are noticed."""


class Clock(Protocol):
    """Wall time for planning, monotonic time for durations."""

    def now_us(self) -> int:
        """Return the wall clock in UTC microseconds."""
        ...

    def monotonic_us(self) -> int:
        """Return a clock that is never set, in microseconds."""
        ...

    async def wait(self, until_us: int | None, wake: anyio.Event) -> None:
        """Return when `wake` is set, the wall clock reaches `until_us`, or it is time to look again."""
        ...

    async def reach(self, until_us: int) -> None:
        """Return when the wall clock has reached an instant; any number may wait so, for what has no hurry."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000

    async def wait(self, until_us: int | None, wake: anyio.Event) -> None:
        rest_us = LONGEST_SLEEP_US if until_us is None else until_us - self.now_us()
        with anyio.move_on_after(max(0, min(rest_us, LONGEST_SLEEP_US)) / 1e6):
            await wake.wait()

    async def reach(self, until_us: int) -> None:
        while (rest_us := until_us - self.now_us()) > 0:  # noqa: ASYNC110 - nobody tells of the time
            await anyio.sleep(min(rest_us, LONGEST_SLEEP_US) / 1e6)


class VirtualClock:
    """A clock for tests that moves only when told to: a year passes in seconds.

    Parameters
    ----------
    start_us
        Its first instant, UTC microseconds.
    """

    def __init__(self, start_us: int = 1_790_000_000_000_000) -> None:
        self._now_us = start_us
        self._mono_us = 0
        self._until_us: int | None = None
        self._reached = anyio.Event()
        self._waiting = anyio.Event()
        self._moved = anyio.Event()

    def now_us(self) -> int:
        return self._now_us

    def monotonic_us(self) -> int:
        return self._mono_us

    async def wait(self, until_us: int | None, wake: anyio.Event) -> None:
        if until_us is not None and until_us <= self._now_us:
            await anyio.lowlevel.checkpoint()
            return
        self._until_us, self._reached = until_us, anyio.Event()
        self._waiting.set()
        async with anyio.create_task_group() as group:
            for event in (wake, self._reached):
                group.start_soon(_first, event, group.cancel_scope)
        self._waiting = anyio.Event()

    async def reach(self, until_us: int) -> None:
        while self._now_us < until_us:
            await self._moved.wait()

    def set(self, now_us: int) -> None:
        """Let time pass until an instant, at once; an earlier one is a step back."""
        self._mono_us += max(0, now_us - self._now_us)
        self._now_us = now_us
        self._tell()

    def step(self, by_us: int) -> None:
        """Set the wall clock, as NTP or a sleeping laptop does: no monotonic time passes."""
        self._now_us += by_us
        self._tell()

    def _tell(self) -> None:
        self._reached.set()
        self._moved.set()
        self._moved = anyio.Event()

    @property
    def next_us(self) -> int | None:
        """The instant that the engine waits for."""
        return self._until_us

    async def idle(self) -> None:
        """Return when the engine waits for time to pass."""
        await self._waiting.wait()


async def _first(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
