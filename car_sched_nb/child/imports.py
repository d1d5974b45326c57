"""What a body's own process does when the body imports certain modules, and not before."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from car_sched_nb.imported import when_imported


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

    when_imported("multiprocessing.reduction", carry)


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

    when_imported("IPython.core.interactiveshell", provide)
