"""How many executions work at the same time, and the line of those that wait for a place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Places:
    """A fixed number of places, handed out in the order they were asked for; on the engine's loop only."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._line: deque[Callable[[], bool]] = deque()

    def take(self) -> bool:
        """Take a place if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def when_free(self, go: Callable[[], bool]) -> None:
        """Call `go` with a place taken as soon as one is free, maybe at once; it gives it back by returning False."""
        self._line.append(go)
        if self.take():
            self.give_back()

    def give_back(self) -> None:
        """Give a place to the next in the line, or keep it free."""
        while self._line:
            if self._line.popleft()():
                return
        self._free += 1
