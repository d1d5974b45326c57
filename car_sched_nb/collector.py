"""Python's garbage collector, held off while very many executions begin at once, or while nothing else may run.

Each execution under way is some forty objects. When a thousand begin in one go, the collector looks at all of them, and
at everything else in the process, again and again and finds nothing: 45 % of the time that such a burst took went there
(docs/decisions/collector.md). What a second leaves uncollected is collected after it.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator

MANY = 150
"""Executions that begin in one go before the collector is held off."""

LONGEST_S = 1.0


class Collector:
    """Whether this process's collector is held off, by whichever scheduler; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held = False
        self._since = self._again_at = 0.0

    def hold(self) -> None:
        """Hold it off, at most half of the time; one that somebody has switched off stays as it is."""
        with self._lock:
            now = time.monotonic()
            if not self.held and now >= self._again_at and gc.isenabled():
                self.held, self._since = True, now
                gc.disable()

    def let_go(self, busy: bool = False) -> None:
        """Let it go on; while `busy`, only when its second is over."""
        if not self.held:
            return
        with self._lock:
            now = time.monotonic()
            if not (busy and now < self._since + LONGEST_S):
                self.held, self._again_at = False, 2 * now - self._since
                gc.enable()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the next few lines, in which no other code may run in this thread."""
        with self._lock:
            on = gc.isenabled()
            gc.disable()
            try:
                yield
            finally:
                if on:
                    gc.enable()


collector = Collector()
