"""What is told of an exception, also of one whose own text fails."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

_PACKAGE = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - compared with a code's file name


def the_bodys_own(error: BaseException) -> BaseException:
    """Return what the body raised: a coroutine on the way turns a StopIteration into a RuntimeError (PEP 479)."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, StopIteration) else error


def words_of(error: BaseException) -> str:
    """Return its text, or the name of its type when it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception as broken:  # noqa: BLE001 - an exception whose own text fails must not take the engine along
        return f"<its text cannot be shown: {type(broken).__name__}>"


def from_body(trace: TracebackType | None, filename: str) -> TracebackType | None:
    """Return a traceback from a body's first frame on; a function's begins where this package has called it."""
    where = ours = trace
    while where is not None and where.tb_frame.f_code.co_filename != filename:
        where = where.tb_next
    while ours is not None and ours.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        ours = ours.tb_next
    return where or ours or trace


def traceback_of(error: BaseException, filename: str) -> str:
    """Format from the first line of `filename` on: what is above is ours, and of no use to the body's author."""
    try:
        return "".join(traceback.format_exception(type(error), error, from_body(error.__traceback__, filename)))
    except Exception as broken:  # noqa: BLE001 - the same
        return f"{type(error).__name__} (its traceback cannot be shown: {type(broken).__name__})\n"
