"""`%car debug`: the last exceptions of bodies, as long as this kernel has them, and a debugger on them."""

from __future__ import annotations

import linecache
from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from car_sched_nb.engine.events import Event
from car_sched_nb.engine.messages import masked, of_task, secrets_of
from car_sched_nb.errors import CarError, InvalidInput
from car_sched_nb.model import Status, Task
from car_sched_nb.tracebacks import from_body, words_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

MOST = 20
"""Tasks whose last exception is kept. Each keeps alive what its body's variables held: a body that failed with a table
of a gigabyte holds that gigabyte until the task completes, is deleted, or 20 others have failed since."""


class Failure(NamedTuple):
    """An exception, and the task as it was when it was raised."""

    task: Task
    exception: BaseException


class Failures:
    """The newest exception of each task, by name; written on the engine's loop, read anywhere."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Failure] = OrderedDict()

    def hear(self, event: Event) -> None:
        """Listen to a scheduler."""
        name = event.task.name
        if event.kind == "deleted":
            self._kept.pop(name, None)
        elif event.kind == "finished" and event.execution is not None:
            if event.exception is not None:
                self._kept[name] = Failure(event.task, event.exception)
                self._kept.move_to_end(name)
                if len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            elif event.execution.status in (Status.COMPLETED, Status.FAILED):
                self._kept.pop(name, None)  # what failed before it is of no interest, and may be large

    def of(self, task: Task) -> Failure:
        """Return the last failure of a task.

        Raises
        ------
        InvalidInput
            When this kernel has none, with what to do instead.
        """
        found = self._kept.get(task.name)
        if found is None:
            raise InvalidInput(
                f"this kernel has no exception of {task.name}: it has not failed here since it last completed, or "
                f"failed in a process or another kernel. %car logs {task.name} shows its traceback; a Python body that "
                "is run again by --test leaves one"
            )
        return found


def debug(shell: InteractiveShell, failure: Failure) -> None:
    """Ask for commands on an exception, in the frame that raised it, until `q`."""
    name, error = failure.task.name, failure.exception
    trace = from_body(error.__traceback__, f"<car_task {name}>")
    if trace is None:
        raise InvalidInput(f"the exception of {name} has no traceback: {error!r}")
    filename = f"<car_task {name}>"
    now = linecache.cache.get(filename)
    text = failure.task.prompt
    # The lines as they were: the cell may have been changed since.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    try:
        # A notebook keeps what a cell prints.
        said = masked(words_of(error), secrets_of(of_task(failure.task)))
        print(f"{name}: {type(error).__name__}: {said}")
        _ask(shell, trace)
    finally:
        linecache.cache.pop(filename, None)
        if now is not None:
            linecache.cache[filename] = now


def _ask(shell: InteractiveShell, trace: TracebackType) -> None:
    from IPython.core.error import StdinNotImplementedError

    debugger = shell.InteractiveTB.debugger_cls()
    debugger.reset()
    debugger.botframe = trace.tb_frame  # `up` ends at the body: what called it is not its author's
    try:
        with shell.display_trap:  # what an expression shows is printed, as in Python
            debugger.interaction(None, trace)
    except StdinNotImplementedError:
        raise CarError("nobody is there to answer: %car debug needs a notebook that can ask for input") from None
