"""Everything that this package raises on purpose; each class writes its own message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CarError(Exception):
    """Base of every error of this package."""


class InvalidInput(CarError, ValueError):
    """Raised when something that was typed cannot be used; the message says what to type instead."""


class UnknownTask(CarError, KeyError):
    """Raised when no task of the namespace has the name."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        hint = nearest(str(name), known, none="; %car list shows what there is")
        fits = "no task's name fits the pattern" if {*"*?["} & {*str(name)} else "no task is named"
        super().__init__(f"{fits} {name!r}{hint}")

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote the whole sentence.
        return str(self.args[0])


class UnknownExecution(CarError, LookupError):
    """Raised when the history of the namespace has no such execution."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"no execution is {execution_id!r}; car.history() is indexed by their ids")


class UnknownRunner(CarError, LookupError):
    """Raised when a task names a runner that this scheduler does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"no runner is named {name!r}{nearest(name, names, none=';')} there are {', '.join(names)}. "
            f"Register your own with @car.runner({name!r})"
        )


class TaskPaused(CarError):
    """Raised when a paused task is asked to serve its slot."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is paused; resume it first: %car resume {name}")


class DefinitionChanged(CarError):
    """Raised when the task was changed or deleted by somebody else between reading and writing it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed elsewhere at the same moment; run its cell again")


class SchedulerClosed(CarError, RuntimeError):
    """Raised when a scheduler is used before it was entered or after it was left."""

    def __init__(
        self, message: str = "this scheduler is not running; use it inside `async with Scheduler(...)`"
    ) -> None:
        super().__init__(message)


class WouldBlock(CarError, RuntimeError):
    """Raised when waiting here would stop the very loop that has to do the work."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} runs on the kernel's loop, which this call would block; "
            f"start it with car.run_now({name!r}) and then `await car.wait({name!r})`"
        )


class StoreError(CarError):
    """Base of the errors of a store."""


class StoreNotADatabase(StoreError):
    """Raised when the path given as a store holds something else."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} is not a store of car_sched_nb ({why}); give another path: store='tasks.db'")


class StoreReadOnly(StoreError):
    """Raised when the store, or the folder that its journal needs, cannot be written."""

    def __init__(self, path: str, why: str = "read-only") -> None:
        super().__init__(f"the store {path} cannot be written ({why}); change its permissions or give store=PATH")


class StoreTooNew(StoreError):
    """Raised when the store was written by a newer version of this package."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"the store {path} has schema version {found}, this car_sched_nb knows version {known}; "
            "upgrade with: pip install -U car-sched-nb"
        )


class StoreOnNetwork(StoreError):
    """Raised when the store would lie on a network file system, where SQLite's locks do not hold."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(
            f"{path} is on a network file system ({kind}), where locks do not hold; give a local store=PATH"
        )


class StoreBusy(StoreError):
    """Raised when another program held the database locked for longer than 10 s."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the store {path} is locked by another program; end what holds it, then try again")


class StoreFull(StoreError):
    """Raised when there is no room for what has to be written."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no room to write into the store {path}; free some space on its disk, then try again")


class StoreDamaged(StoreError):
    """Raised when the database was truncated or overwritten."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"the store {path} is damaged ({why}); restart the kernel, and put a copy back or move the file away"
        )


class StoreGone(StoreError):
    """Raised when the database was deleted or replaced by another file while it was in use."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the store {path} was deleted or replaced while it was in use; put it back, or restart the kernel to "
            "go on with what is there now"
        )


class StoreUnusable(StoreError):
    """Raised when the system refuses to read or write the database."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"the store {path} cannot be used now ({why}); see to its disk and its folder's permissions")


class StoreForked(StoreError):
    """Raised when a forked child uses the store of its parent."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the store {path} belongs to the process that forked this one; open it here anew")


class MaintainedElsewhere(CarError):
    """Raised when another scheduler is removing old history, and goes on with it."""

    def __init__(self) -> None:
        super().__init__("another scheduler is removing old history of this store; try again when it is done")


class NotWritten(CarError):
    """Raised when a file could not be written; nothing of it is left, and what had its name is as it was."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"{path} was not written ({why}), and what was there is untouched; see to its disk and its folder's "
            "permissions, or give another path"
        )


class TaskCancelled(BaseException):
    """Raised inside a synchronous body whose execution is cancelled or timed out.

    A BaseException, so that `except Exception` in a body does not swallow it.
    """


class BodyFailed(CarError):
    """Raised by a runner to fail an execution with a text of its own, and a traceback if there is one."""

    def __init__(self, message: str, error_type: str = "BodyFailed", traceback: str | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.traceback = traceback


def nearest(given: str, known: Iterable[str], none: str = "") -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or `none`."""
    spoken = {str(one).lower(): str(one) for one in known}
    close = difflib.get_close_matches(given.lower(), spoken, n=1, cutoff=0.5)
    return f"; did you mean {spoken[close[0]]!r}?" if close else none
