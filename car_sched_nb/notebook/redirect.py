"""`redirect_stdout` and `%%capture` catch what their own author writes, and nobody else.

Both replace `sys.stdout` for the whole process: a body that prints while a cell captures would land in the cell's
capture, and a cell that prints while a body redirects in the body's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from car_sched_nb.output import current_output


class Redirected:
    """A stream for whoever redirected; all others write where they wrote before."""

    def __init__(self, target: Any, before: Any) -> None:
        self._target = target
        self._before = before
        self._owner = current_output.get()

    def _stream(self) -> Any:
        return self._target if current_output.get() is self._owner else self._before

    def write(self, text: str) -> int:
        return int(self._stream().write(text) or 0)

    def flush(self) -> None:
        self._stream().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


def install() -> Callable[[], None]:
    """Keep redirections to their own authors; return what takes that off again."""
    from IPython.utils.capture import capture_output

    redirect: Any = contextlib._RedirectStream  # noqa: SLF001 - both redirections' base
    enter_redirect, enter_capture = redirect.__enter__, capture_output.__enter__

    def redirected(self: Any) -> Any:
        before = getattr(sys, self._stream)
        target = enter_redirect(self)
        setattr(sys, self._stream, Redirected(target, before))
        return target

    def captured(self: Any) -> Any:
        before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        result = enter_capture(self)
        for name, stream in before.items():
            if getattr(sys, name) is not stream:
                setattr(sys, name, Redirected(getattr(sys, name), stream))
        if self.display and self.shell:
            _divide_display(self.shell.display_pub, self.save_display_pub)
        return result

    redirect.__enter__ = redirected
    capture_output.__enter__ = captured  # type: ignore[method-assign]

    def restore() -> None:
        redirect.__enter__ = enter_redirect
        capture_output.__enter__ = enter_capture  # type: ignore[method-assign]

    return restore


def _divide_display(capturing: Any, before: Any) -> None:
    owner, capture = current_output.get(), capturing.publish

    def publish(*args: Any, **options: Any) -> None:
        mine = current_output.get() is owner
        (capture if mine else before.publish)(*args, **options)

    capturing.publish = publish
