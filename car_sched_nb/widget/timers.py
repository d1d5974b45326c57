"""The time that the dashboard's messages keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

PERIOD_S = 0.1  # at most ten messages a second, whatever happens
BEAT_S = 1.0


class Timers(Protocol):
    """What is needed of a loop."""

    def time(self) -> float:
        """Return the time in seconds."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back after so many seconds."""
        ...
