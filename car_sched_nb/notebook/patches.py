"""Attributes of others that are replaced for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Patches:
    """Attributes that are replaced, and put back when that is over."""

    def __init__(self) -> None:
        self._back: list[Callable[[], None]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute, its own or one that it has inherited."""
        if name in vars(owner):
            before = vars(owner)[name]
            self._back.append(lambda: setattr(owner, name, before))
        else:
            self._back.append(lambda: delattr(owner, name))
        setattr(owner, name, value)

    def take_back(self) -> None:
        """Put back what was there."""
        while self._back:
            self._back.pop()()
