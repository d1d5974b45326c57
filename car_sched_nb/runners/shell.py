"""Shell bodies: a script in a session of its own, its output read while it comes."""

from __future__ import annotations

import codecs
import os
import shutil
import signal
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.supervisor import supervisor
from car_sched_nb.model import Task
from car_sched_nb.output import ANSWER, Output, ends
from car_sched_nb.processes import GRACE_S, POLL_S, SLOW_S, living, tell
from car_sched_nb.runners.base import AgentOutput, Work

_DRAIN_S = 0.2
_GATE = 'read -r CAR_GROUP || exit; export CAR_GROUP=$$; exec "$@" <>/dev/null'
"""What waits for the word to go, and becomes the script; without the word, when the kernel has died, it is gone.

Its standard input is the pipe that brings the word; the script's is empty, because nobody is there to type.
"""


class ShellRunner:
    """Runs a body with `bash`, else `sh`; a non-zero exit code is a failed execution."""

    def __init__(self) -> None:
        bash = shutil.which("bash")
        self._shell = bash or "/bin/sh"
        # `-p`, which the script does not inherit: BASH_ENV is for the script, not for what waits before it.
        self._gate = [bash, "-p", "-c", f"set +p; {_GATE}", "car"] if bash else ["/bin/sh", "-c", _GATE, "car"]

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
        # Shielded: a cancel while it starts would end the shell alone, not what the shell has started by then.
        with anyio.CancelScope(shield=True):
            script = await self._start(work)
        answer = _Answer(work.runtime.output)
        try:
            await _follow(script, answer)
        finally:
            with anyio.CancelScope(shield=True):
                await script.end()
                await script.process.aclose()
        code = script.process.returncode
        if code:
            raise BodyFailed(_exit_message(code, answer.errors()), "ExitCode" if code > 0 else "Signal")
        return AgentOutput(answer=answer.text()), None

    async def _start(self, work: Work) -> _Script:
        gate, go = os.pipe()
        try:
            # A session of its own: a kernel interrupt does not reach it, and a cancel reaches its grandchildren.
            process = await anyio.open_process(
                [*self._gate, self._shell, "-c", work.task.prompt],
                stdin=gate,
                env=environment(work),
                start_new_session=True,
            )
            try:
                supervisor.watch(process.pid)
                os.write(go, b"\n")
            except BaseException:
                supervisor.forget(process.pid)
                process.kill()
                await process.aclose()
                raise
        finally:
            os.close(gate)
            os.close(go)
        return _Script(process)


class _Script:
    """A started script and all that it starts."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._ended = False

    async def end(self) -> None:
        """Send TERM to what is left of it, after a grace KILL; return when all of it is gone, however long that takes.

        Only once: the number of what is gone may be given to somebody else.
        """
        if self._ended:
            return
        signum: int = signal.SIGTERM
        pause, kill_at = POLL_S, anyio.current_time() + GRACE_S
        # The return code first: on trio it is the question that reaps the shell, and without /proc a zombie is alive.
        while self.process.returncode is None or living({self.process.pid}):
            for group in living({self.process.pid}):
                tell(group, signum)
            await anyio.sleep(pause)
            pause = min(2 * pause, SLOW_S)
            # KILL is said again and again, to what was started after the last one was sent.
            signum = signal.SIGKILL if anyio.current_time() >= kill_at else 0
        self._ended = True
        supervisor.forget(self.process.pid)


def environment(work: Work) -> dict[str, str]:
    """Return the kernel's environment and the run's values: they travel beside what runs, never inside it."""
    runtime = work.runtime
    return {
        **os.environ,
        "CAR_OWNER": work.owner,
        "CAR_EXECUTION": runtime.occurrence.execution_id,
        "CAR_GROUP": "",  # not one that the kernel itself has inherited; the script is given its own
        "CAR_TASK": runtime.occurrence.task,
        "CAR_SCHEDULED_AT": runtime.scheduled_at.isoformat().replace("+00:00", "Z"),
        "CAR_SLOT": runtime.slot,
        "CAR_ATTEMPT": str(runtime.attempt),
        **{f"CAR_PARAM_{name.upper()}": str(value) for name, value in runtime.params.items()},
    }


class _Stream:
    """The first and the last part of what came out on one stream, as much as an answer holds."""

    def __init__(self) -> None:
        self.length = 0
        self._first = ""
        self._last = ""

    def add(self, text: str) -> None:
        self.length += len(text)
        self._first += text[: ANSWER - len(self._first)]
        self._last = (self._last + text)[-ANSWER:]

    def text(self) -> str:
        last = self._last.rstrip("\n")
        length = self.length - len(self._last) + len(last)
        return ends(self._first[:length], last, length)


class _Answer:
    """What came out on both streams."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._streams = {1: _Stream(), 2: _Stream()}
        self.closed = anyio.Event()
        self._open = 2

    @property
    def received(self) -> int:
        return sum(stream.length for stream in self._streams.values())

    def add(self, stream: int, text: str) -> None:
        self._output.write(text)
        self._streams[stream].add(text)

    def close(self) -> None:
        """One of the streams has ended."""
        self._open -= 1
        if not self._open:
            self.closed.set()

    def text(self) -> str:
        return self._streams[1].text()

    def errors(self) -> str:
        return self._streams[2].text().strip()


async def _follow(script: _Script, answer: _Answer) -> None:
    """Read both streams until they end, or until the script is over and nothing more comes."""
    process = script.process
    assert process.stdout is not None and process.stderr is not None
    async with anyio.create_task_group() as readers:
        readers.start_soon(_read, process.stdout, 1, answer)
        readers.start_soon(_read, process.stderr, 2, answer)
        await process.wait()
        # What the script left in the background ends with it; otherwise it would hold the pipes for ever.
        await script.end()
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
