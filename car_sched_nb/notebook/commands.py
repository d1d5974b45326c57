"""`!command` in a body ends with its body: what was cancelled does not go on at a terminal of its own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from car_sched_nb import processes
from car_sched_nb.errors import TaskCancelled
from car_sched_nb.notebook.patches import Patches

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def install(shell: InteractiveShell) -> Callable[[], None]:
    """End a command when the body that waits for it is cancelled; return what takes that off again."""
    patches = Patches()
    # Not the shell's method: it looks into its caller's frame for the names in `!ls {folder}`.
    module = sys.modules[type(shell).system_piped.__module__]
    system = getattr(module, "system", None)  # IPython's, which starts the command with pexpect
    if system is not None:
        patches.put(module, "system", _ending(system))
    return patches.take_back


def _ending(system: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(system)
    def run(command: str) -> Any:
        try:
            return system(command)
        except TaskCancelled as error:
            # IPython ends it for a KeyboardInterrupt only; otherwise it lives until the garbage collector comes.
            for child in _spawned(error.__traceback__):
                processes.end({child.pid})
                child.close(force=True)
            raise

    return run


def _spawned(trace: TracebackType | None) -> list[Any]:
    """Return the commands in the frames of an exception that have been started."""
    import pexpect

    found: dict[int, Any] = {}
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, pexpect.spawn) and value.pid:
                found[value.pid] = value
        trace = trace.tb_next
    return list(found.values())
