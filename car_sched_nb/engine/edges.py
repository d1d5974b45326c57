"""Where a series of ends turns: the first failure in a row, and the first success after failures. Pure.

How often a task failed in a row is counted by the store, in the transaction that writes an end: whoever runs the next
slot, in whichever life, goes on from there, and no two owners ever see the same edge. What was skipped, missed,
cancelled or interrupted says nothing of the work and neither begins nor ends a series.
"""

from __future__ import annotations

import msgspec

from car_sched_nb.model import Execution, Task

_WORDED = ("BodyFailed", "ExitCode", "SIG", "Interrupted")  # what begins so says a sentence already


class Turn(msgspec.Struct, frozen=True, gc=False):
    """What a final end is in its series."""

    failed: bool
    in_a_row: int
    """Failures in a row: up to this one, or those that this success ended."""

    @property
    def kind(self) -> str:
        """One of `NOTICES`: failed, recovered or completed."""
        if self.failed:
            return "failed"
        return "recovered" if self.in_a_row else "completed"

    @property
    def edge(self) -> bool:
        """Whether the series turns here."""
        return self.in_a_row == 1 if self.failed else self.in_a_row > 0


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook is told: that a task failed, recovered or completed."""

    task: str
    kind: str
    execution: Execution
    in_a_row: int
    """Failures in a row: up to this one, or those that this success ended."""
    text: str
    """The first lines of the error, or of the answer."""


def turn(failed: bool | None, before: int) -> Turn | None:
    """Return what an end is after `before` failures in a row; None for one that is not part of a series."""
    if failed is None:
        return None
    return Turn(failed, before + 1 if failed else before)


def worth(task: Task, turned: Turn) -> str | None:
    """Return which of the kinds that a task asked for an end is, if any: each series is told once."""
    if turned.failed:
        return "failed" if turned.edge and task.notifies("failed") else None
    if turned.edge and task.notifies("recovered"):
        return "recovered"
    return "completed" if task.notifies("completed") else None


def error_text(error: str | None, error_type: str | None) -> str:
    """Return an error with its type, without which a KeyError's says nothing."""
    if error and error_type not in (None, error) and not (error_type or "").startswith(_WORDED):
        return f"{error_type}: {error}"
    return error or ""
