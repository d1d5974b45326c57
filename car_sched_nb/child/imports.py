"""What a body's own process does when the body imports certain modules, and not before."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

Do = Callable[[Any], None]


class _After(importlib.abc.MetaPathFinder):
    """Does something with a module as soon as it is imported."""

    def __init__(self, module: str, do: Do) -> None:
        self._module = module
        self._do = do

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                self._do(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def carry_to_started_processes(name: str) -> None:
    """Let `multiprocessing` carry the body's own functions and classes to the processes that it starts.

    They are in no file that another process could import; pickle alone would look for them in one.

    Parameters
    ----------
    name
        The `__name__` of the body.
    """

    def carry(module: Any) -> None:
        def reducer_override(_: Any, value: Any) -> Any:
            if isinstance(value, types.FunctionType | type) and value.__module__ == name:
                return cloudpickle.loads, (cloudpickle.dumps(value, 5),)
            return NotImplemented

        module.ForkingPickler.reducer_override = reducer_override

    sys.meta_path.insert(0, _After("multiprocessing.reduction", carry))


def make_shell_when_needed(make: Callable[[], Any]) -> None:
    """Let whoever asks IPython for its shell have one: `display`, `get_ipython()`, matplotlib's inline figures."""

    def provide(module: Any) -> None:
        shell: Any = module.InteractiveShell
        initialized = shell.initialized.__func__
        making = False

        def made(cls: Any) -> bool:
            nonlocal making
            if not making and not initialized(cls):
                making = True
                make()
            return bool(initialized(cls))

        shell.initialized = classmethod(made)

    sys.meta_path.insert(0, _After("IPython.core.interactiveshell", provide))
