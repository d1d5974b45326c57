"""Shell bodies: a script, or with `--argv` the words of one command, in a session of its own."""

from __future__ import annotations

import shlex
import shutil
from typing import Any

import anyio

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.process import Session, ended_by, follow, signal_name, start
from car_sched_nb.model import Task
from car_sched_nb.runners.base import AgentOutput, Work
from car_sched_nb.runners.surroundings import check_surroundings, environment, folder, memory_of, unset


class ShellRunner:
    """Runs a body with `bash`, else `sh`, or as it stands with `--argv`; a non-zero exit code is a failed execution."""

    def __init__(self) -> None:
        self._shell = shutil.which("bash") or "/bin/sh"

    def check(self, task: Task) -> None:
        if not task.prompt.strip():
            raise InvalidInput("the body is empty; write the command below the %%car_task line")
        if task.into:
            raise InvalidInput("--into takes the result of a Python body; a shell task has its answer in car.history()")
        if task.executor not in ("", "process"):
            raise InvalidInput("a shell task always runs in a process; leave --executor away")
        check_surroundings(task, process=True)
        if task.argv:
            argv_of(task.prompt, {})

    def executor(self, task: Task) -> str:
        return "process"

    def missing(self, task: Task) -> str | None:
        return unset(task)

    def waits_for_loop(self, task: Task) -> bool:
        return False

    def on_own_loop(self) -> ShellRunner:
        return self

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        # Shielded: a cancel while it starts would end the shell alone, not what the shell has started by then.
        with anyio.CancelScope(shield=True):
            script = await self._start(work)
        try:
            await follow(script)
        finally:
            await script.close()
        masked = work.runtime.output.masked
        answer, errors = (kept.text(masked) for kept in script.streams.kept)
        code = script.process.returncode
        if code:
            said = ": ".join(filter(None, [ended_by(code), errors.strip()]))
            raise BodyFailed(said, "ExitCode" if code > 0 else signal_name(code))
        return AgentOutput(answer=answer), None

    async def _start(self, work: Work) -> Session:
        task = work.task
        command = argv_of(task.prompt, work.runtime.params) if task.argv else [self._shell, "-c", task.prompt]
        surroundings = environment(work, only_way=True)
        if task.argv and shutil.which(command[0], path=surroundings.get("PATH")) is None:
            raise BodyFailed(
                f"there is no program {command[0]!r}; a command of the shell itself needs a task without --argv",
                "FileNotFoundError",
            )
        return await start(command, surroundings, work.runtime.output, cwd=folder(task), memory=memory_of(task))


def argv_of(body: str, params: dict[str, Any]) -> list[str]:
    """Return the words of a body: quotes count as in a shell, nothing else does.

    A word `{name}` that stands alone becomes the parameter's value: one word, whatever is in it.

    Raises
    ------
    InvalidInput
        For a quote that is not closed, and for no word at all.
    """
    try:
        words = shlex.split(body)
    except ValueError as error:
        raise InvalidInput(f"--argv: the body is no command: {str(error).lower()}") from None
    if not words:
        raise InvalidInput("--argv: the body has no command; write it below the %%car_task line")
    return [
        str(params[word[1:-1]]) if word[:1] == "{" and word[1:-1] in params and word[-1:] == "}" else word
        for word in words
    ]
