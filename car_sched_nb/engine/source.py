"""Where a runner and a body learn of one execution that is under way."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from car_sched_nb.engine.run import Run
from car_sched_nb.model import Task
from car_sched_nb.output import Output
from car_sched_nb.runners.base import AgentOutput, Occurrence, Progress, Runtime, SharedInfra, Upstream


class Told(Protocol):
    """What is asked of whoever drives the execution."""

    infra: SharedInfra

    async def begin_here(self, run: Run) -> None:
        """Commit its start."""
        ...

    def tokens_today(self, task: Task, besides: Run | None = None) -> int:
        """Return what its task has used since midnight, without this run."""
        ...

    def last_success(self, task: Task) -> datetime | None:
        """Return when its task last completed."""
        ...

    def upstream(self, run: Run) -> dict[str, Upstream]:
        """Return what it follows."""
        ...

    def file_of(self, execution_id: str, suffix: str) -> str:
        """Return where a file of an execution is kept."""
        ...


class RunSource:
    """One object for all that may be asked, because thousands may be under way."""

    __slots__ = ("_running", "run", "runtime")

    def __init__(self, running: Told, run: Run) -> None:
        self._running = running
        self.run = run
        self.runtime = Runtime(self, running.infra)

    @property
    def task(self) -> Task:
        return self.run.task

    @property
    def occurrence(self) -> Occurrence:
        return self.run.occurrence

    @property
    def output(self) -> Output:
        return self.run.output

    async def begin(self) -> None:
        await self._running.begin_here(self.run)

    def note(self, output: AgentOutput) -> None:
        self.run.noted = output

    def tokens_today(self) -> int:
        return self._running.tokens_today(self.run.task, self.run)

    def report(self, progress: Progress) -> None:
        note = self.output.masked(progress.note)
        self.run.progress = progress if note == progress.note else msgspec.structs.replace(progress, note=note)

    def last_success(self) -> datetime | None:
        return self._running.last_success(self.run.task)

    def upstream(self) -> dict[str, Upstream]:
        return self._running.upstream(self.run)

    def file(self, suffix: str) -> str:
        return self._running.file_of(self.run.execution_id, suffix)
