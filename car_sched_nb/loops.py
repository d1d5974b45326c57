"""Calls from one thread into the loop of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token


def soon_caller() -> Callable[..., Any]:
    """Return this loop's thread-safe "call soon", whichever loop it is."""
    native: Any = current_token().native_token
    # asyncio has the one, trio the other
    soon: Callable[..., Any] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
    return soon
