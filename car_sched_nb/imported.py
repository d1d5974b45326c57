"""Something to do with a library, as soon as somebody imports it."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, do: Callable[[Any], None]) -> None:
        self._name = name
        self._do = do

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        # `importlib.util.find_spec` would take the locks of other modules: two imports at once would wait for ever.
        others = (one.find_spec(name, path, target) for one in list(sys.meta_path) if one is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _call(self._do, module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _call(do: Callable[[Any], None], module: ModuleType) -> None:
    with suppress(AttributeError, KeyError):  # another version, without what is replaced: it is used as it is
        do(module)


def when_imported(name: str, do: Callable[[Any], None]) -> Callable[[], None]:
    """Call a function with a module now, or when it is made; return what forgets it again. One for each module."""
    finder = _Finder(name, do)
    if name in sys.modules:
        _call(do, sys.modules[name])
    else:
        sys.meta_path.insert(0, finder)

    def forget() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return forget
