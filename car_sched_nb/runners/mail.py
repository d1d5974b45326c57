"""What tasks tell each other: mailboxes by name, and a state that all runs of a scheduler share.

All of it is safe from any thread and any loop. `executors/thread.py` knows this module: a cancel never raises while
one of its locks is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import msgspec

from car_sched_nb.errors import CarError
from car_sched_nb.executors.thread import wait_for
from car_sched_nb.loops import soon_caller

MOST = 10_000
"""Messages that a box holds which nobody reads."""


class MailboxFull(CarError):
    """Raised when a task is sent a message that nobody will read."""

    def __init__(self, task: str) -> None:
        super().__init__(
            f"nobody reads the messages for {task!r}, {MOST:,} lie there; "
            f"is it the right name? car.mailbox({task!r}).receive() empties it"
        )


class Letter(msgspec.Struct, frozen=True):
    """A message, who sent it (a task's name, or `notebook`) and when (aware UTC)."""

    message: Any
    sender: str
    sent_at: datetime


class _Box:
    """What came for one task, and who waits for more."""

    __slots__ = ("bells", "letters")

    def __init__(self) -> None:
        self.letters: deque[Letter] = deque()
        self.bells: list[Callable[[], object]] = []


class PostOffice:
    """The boxes of one scheduler, by task name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[str, _Box] = {}

    def send(self, task: str, letter: Letter) -> None:
        with self._lock:
            box = self._boxes.setdefault(task, _Box())
            if len(box.letters) >= MOST:
                raise MailboxFull(task)
            box.letters.append(letter)
            bells = tuple(box.bells)
        for ring in bells:
            with suppress(RuntimeError):  # rung already, or its loop has been closed
                ring()

    def take_all(self, task: str) -> list[Letter]:
        with self._lock:
            box = self._boxes.get(task)
            letters = list(box.letters) if box else []
            if box:
                box.letters.clear()
                self._tidy(task, box)
        return letters

    def take(self, task: str, ring: Callable[[], object]) -> Letter | None:
        """Return the oldest letter; when there is none, ring as soon as one comes."""
        with self._lock:
            box = self._boxes.setdefault(task, _Box())
            if not box.letters:
                box.bells.append(ring)
                return None
            letter = box.letters.popleft()
            self._tidy(task, box)
        return letter

    def hush(self, task: str, ring: Callable[[], object]) -> None:
        """Ring no more."""
        with self._lock:
            box = self._boxes.get(task)
            if box is not None:
                box.bells = [bell for bell in box.bells if bell is not ring]
                self._tidy(task, box)

    def count(self, task: str) -> int:
        with self._lock:
            box = self._boxes.get(task)
            return len(box.letters) if box else 0

    def _tidy(self, task: str, box: _Box) -> None:
        if not box.letters and not box.bells:
            self._boxes.pop(task, None)


class Mailbox:
    """Messages from task to task, by name, within one scheduler; from any thread.

    They live in memory, as long as the scheduler does. A box that nobody reads takes 10,000 messages, then `send`
    raises `MailboxFull`: none is ever dropped unsaid.
    """

    def __init__(self, owner: str, office: PostOffice, sender: str | None = None) -> None:
        self._owner = owner
        self._office = office
        self._sender = sender or owner

    def __len__(self) -> int:
        """Return how many messages wait."""
        return self._office.count(self._owner)

    def __bool__(self) -> bool:
        return True  # an empty box is a box

    def __repr__(self) -> str:
        return f"<Mailbox of {self._owner}: {len(self)} waiting>"

    def send(self, task: str, message: Any) -> None:
        """Put a message into another task's box.

        Raises
        ------
        MailboxFull
            When nobody has read the last 10,000.
        """
        self._office.send(task, Letter(message, self._sender, datetime.now(UTC)))

    def receive(self) -> list[Any]:
        """Take all that came for this task, oldest first."""
        return [letter.message for letter in self.letters()]

    def letters(self) -> list[Letter]:
        """Take all that came, each with its sender and its time."""
        return self._office.take_all(self._owner)

    async def message(self, timeout: float | None = None) -> Any:
        """Take the oldest message, or wait for one; `timeout` in seconds.

        Raises
        ------
        TimeoutError
            When none came in time.
        """
        soon = soon_caller()
        with anyio.move_on_after(timeout):
            while True:
                there = anyio.Event()
                ring = partial(soon, there.set)
                letter = self._office.take(self._owner, ring)
                if letter is not None:
                    return letter.message
                try:
                    await there.wait()
                finally:
                    self._office.hush(self._owner, ring)
        raise _late(timeout)

    def wait(self, timeout: float | None = None) -> Any:
        """Take the oldest message, or hold this thread until one comes; a cancel of its task ends that.

        For bodies in threads: on a loop it would hold up everything there, so `await message()` is for those.

        Raises
        ------
        TimeoutError
            When none came in time.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            bell = threading.Lock()
            bell.acquire()
            ring = bell.release
            letter = self._office.take(self._owner, ring)
            if letter is not None:
                return letter.message
            try:
                rung = wait_for(bell, -1 if limit is None else max(0.0, limit - time.monotonic()))
            finally:
                self._office.hush(self._owner, ring)
            if not rung and limit is not None and time.monotonic() >= limit:
                raise _late(timeout)


def _late(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"no message came within {timeout:g} s")


class State(MutableMapping[str, Any]):
    """What all runs of a scheduler share: a dictionary that is safe from any thread; in memory.

    One reading or writing is atomic. For a change that depends on what is there use `update_with`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        with self._lock:
            self._values[key] = value

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"State({self.copy()!r})"

    def copy(self) -> dict[str, Any]:
        """Return all of it as it is at one moment."""
        with self._lock:
            return dict(self._values)

    def update_with(self, key: str, fn: Callable[[Any], Any], default: Any = None) -> Any:
        """Replace a value by `fn` of it, with nobody in between, and return the new one.

        Parameters
        ----------
        fn
            Is given the value, or `default`; everybody else waits for it, so it should be quick.
        """
        with self._lock:
            value = self._values[key] = fn(self._values.get(key, default))
        return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return a value, after putting `default` there when there is none; atomic."""
        with self._lock:
            return self._values.setdefault(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """Take a value out; atomic."""
        with self._lock:
            return self._values.pop(key, *default)
