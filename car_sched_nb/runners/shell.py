"""Shell bodies: a script in a process group of its own, its output read while it comes."""

from __future__ import annotations

import codecs
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.model import Task
from car_sched_nb.output import ANSWER, Output, clip
from car_sched_nb.runners.base import AgentOutput, Work

GRACE_S = 2.0
"""Seconds from TERM to KILL."""

_DRAIN_S = 0.2
_POLL_S = 0.01


class ShellRunner:
    """Runs a body with `bash`, else `sh`; a non-zero exit code is a failed execution."""

    def __init__(self) -> None:
        self._shell = shutil.which("bash") or "/bin/sh"

    def check(self, task: Task) -> None:
        if not task.prompt.strip():
            raise InvalidInput("the body is empty; write the command below the %%car_task line")
        if task.into:
            raise InvalidInput("--into takes the result of a Python body; a shell task has its answer in car.history()")
        if task.executor not in ("", "process"):
            raise InvalidInput("a shell task always runs in a process; leave --executor away")

    def executor(self, task: Task) -> str:
        return "process"

    def missing(self, task: Task) -> str | None:
        return None

    def waits_for_loop(self, task: Task) -> bool:
        return False

    def on_own_loop(self) -> ShellRunner:
        return self

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        # A session of its own: a kernel interrupt does not reach it, and a cancel reaches its grandchildren.
        # Shielded: a cancel while it starts would end the shell alone, not what the shell has started by then.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [self._shell, "-c", work.task.prompt],
                stdin=subprocess.DEVNULL,  # nobody is there to type
                env=_environment(work),
                start_new_session=True,
            )
        answer = _Answer(work.runtime.output)
        try:
            await _follow(process, answer)
        finally:
            with anyio.CancelScope(shield=True):
                await _end_group(process)
                await process.aclose()
        code = process.returncode
        if code:
            raise BodyFailed(_exit_message(code, answer.errors()), "ExitCode" if code > 0 else "Signal")
        return AgentOutput(answer=answer.text()), None


def _environment(work: Work) -> dict[str, str]:
    """Return the kernel's environment and the run's values: they travel beside the script, never inside it."""
    runtime = work.runtime
    return {
        **os.environ,
        "CAR_TASK": runtime.occurrence.task,
        "CAR_SCHEDULED_AT": runtime.scheduled_at.isoformat().replace("+00:00", "Z"),
        "CAR_SLOT": runtime.slot,
        "CAR_ATTEMPT": str(runtime.attempt),
        **{f"CAR_PARAM_{name.upper()}": str(value) for name, value in runtime.params.items()},
    }


class _Answer:
    """The last part of what came out on each stream."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._kept = {1: "", 2: ""}
        self.received = 0
        self.closed = anyio.Event()
        self._open = 2

    def add(self, stream: int, text: str) -> None:
        self.received += len(text)
        self._output.write(text)
        self._kept[stream] = (self._kept[stream] + text)[-ANSWER:]

    def close(self) -> None:
        """One of the streams has ended."""
        self._open -= 1
        if not self._open:
            self.closed.set()

    def text(self) -> str:
        return clip(self._kept[1].rstrip("\n"))

    def errors(self) -> str:
        return self._kept[2].strip()


async def _follow(process: Process, answer: _Answer) -> None:
    """Read both streams until they end, or until the script is over and nothing more comes."""
    assert process.stdout is not None and process.stderr is not None
    async with anyio.create_task_group() as readers:
        readers.start_soon(_read, process.stdout, 1, answer)
        readers.start_soon(_read, process.stderr, 2, answer)
        await process.wait()
        # What the script left in the background ends with it; otherwise it would hold the pipes for ever.
        await _end_group(process)
        seen = -1
        while answer.received != seen:
            seen = answer.received
            with anyio.move_on_after(_DRAIN_S):
                await answer.closed.wait()
                return
        readers.cancel_scope.cancel()


async def _read(stream: ByteReceiveStream, number: int, answer: _Answer) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    async for chunk in stream:
        answer.add(number, decoder.decode(chunk))
    answer.add(number, decoder.decode(b"", final=True))
    answer.close()


async def _end_group(process: Process) -> None:
    """End what is left of the group: TERM, after a grace KILL; return when all of it is gone."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process.pid, signum):
            return
        with anyio.move_on_after(GRACE_S):
            while process.returncode is None or _group_lives(process.pid):  # noqa: ASYNC110 - no event tells
                await anyio.sleep(_POLL_S)
            return


def _signal_group(group: int, signum: int) -> bool:
    """Signal every process of a group; return whether there was one."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    return True


def _group_lives(group: int) -> bool:
    """Tell whether a group has a process that is not a zombie waiting for somebody else to reap it."""
    if not _signal_group(group, 0):
        return False
    processes = list(Path("/proc").glob("[0-9]*/stat"))
    for stat in processes:
        try:
            state, _, found = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return True
    return not processes  # without /proc a zombie counts


def _exit_message(code: int, errors: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        said = f"ended by signal {name}"
    else:
        said = f"exit code {code}"
    return f"{said}: {errors}" if errors else said
