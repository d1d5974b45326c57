"""`car.current()` in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from car_sched_nb.child.asking import Kernel, Remote
from car_sched_nb.runners.base import Occurrence, Progress, Runtime, Upstream


class _Output:
    """What the run prints; the kernel keeps it."""

    def __init__(self, show: Callable[..., None]) -> None:
        self.show = show

    def write(self, text: str, stream: str = "stdout") -> int:
        """Print text."""
        return int((sys.stderr if stream == "stderr" else sys.stdout).write(text))


class _Source:
    """Where the runtime learns of the execution: partly from the job, partly by asking."""

    def __init__(self, kernel: Kernel, occurrence: Occurrence, output: _Output) -> None:
        self._kernel = kernel
        self.occurrence = occurrence
        self.output = output

    def report(self, progress: Progress) -> None:
        self._kernel.tell_progress(progress)

    def last_success(self) -> datetime | None:
        found: datetime | None = self._kernel.ask("run", "last_success")
        return found

    def upstream(self) -> dict[str, Upstream]:
        parts = self._kernel.ask("run", "upstream")
        return {name: Upstream(execution, result) for name, (execution, result) in parts.items()}


class _Infra:
    """What all runs share: the kernel's own objects."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.state = Remote(kernel, "state")
        self.tools = Remote(kernel, "tools")

    def mailbox(self, task: str) -> Remote:
        """Return the mailbox of this run's task."""
        return Remote(self._kernel, "mailbox")


def runtime_of(kernel: Kernel, job: dict[str, Any], show: Callable[..., None]) -> Runtime:
    """Return what `car.current()` returns."""
    source: Any = _Source(kernel, job["occurrence"], _Output(show))
    infra: Any = _Infra(kernel)
    return Runtime(source, infra)
