"""Runners that the user registers: an `AgentRunner`, or an async function of the same parameters."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.loop import LoopHost, OwnLoop
from car_sched_nb.model import Task
from car_sched_nb.output import clip
from car_sched_nb.runners.base import AgentOutput, AgentRunner, Work, prompt_fields

_MOST = 2**63 - 1  # what a database takes

RunFunction = Callable[..., Awaitable[AgentOutput | str]]


class UserRunner:
    """Runs a user's runner on the kernel's loop, where it shares the notebook's objects.

    Parameters
    ----------
    runner
        An `AgentRunner`, its class, or an async function `(spec, prompt, runtime, mailbox)` that returns an
        `AgentOutput` or text.

    Raises
    ------
    InvalidInput
        For anything else.
    """

    def __init__(self, name: str, runner: AgentRunner | RunFunction | type, host: LoopHost) -> None:
        if isinstance(runner, type):
            runner = runner()
        run = runner.run if isinstance(runner, AgentRunner) else runner
        if not (inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(type(run).__call__)):
            raise InvalidInput(
                f"runner {name!r} needs an async function (spec, prompt, runtime, mailbox) or an object whose "
                "`run` is one; write `async def`"
            )
        self._name, self._given = name, runner
        self._run: RunFunction = run
        self._host = host

    def check(self, task: Task) -> None:
        if not task.prompt.strip():
            raise InvalidInput("the body is empty; write the prompt below the %%car_task line")
        if task.executor not in ("", "loop"):
            raise InvalidInput("a runner of your own runs on the kernel's loop; leave --executor away")
        for option in ("into", "memory", "cwd", "argv"):
            if getattr(task, option):
                raise InvalidInput(f"--{option} does nothing for a runner of your own; leave --{option} away")

    def executor(self, task: Task) -> str:
        return "loop"

    def missing(self, task: Task) -> str | None:
        return None

    def waits_for_loop(self, task: Task) -> bool:
        return self._host.foreign

    def on_own_loop(self) -> UserRunner:
        return UserRunner(self._name, self._given, OwnLoop())

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        prompt = work.task.prompt
        if "{" in prompt:
            fields = {"scheduled_at": work.runtime.scheduled_at.isoformat(), **work.runtime.params}
            prompt = prompt_fields(prompt, {name: str(value) for name, value in fields.items()})
        if self._host.foreign:
            output = await self._host.run(lambda: self._run(work.spec, prompt, work.runtime, work.mailbox), work.begin)
        else:
            output = await self._run(work.spec, prompt, work.runtime, work.mailbox)
        if not isinstance(output, AgentOutput):
            text = "" if output is None else output if isinstance(output, str) else repr(output)
            return AgentOutput(answer=clip(text)), output
        output = _well_typed(output)
        if output.error is not None:
            # car-scheduler counted such a run as completed; here it is a failed execution, answer kept.
            raise AgentFailed(output)
        return output, output


def _well_typed(output: AgentOutput) -> AgentOutput:
    """Return an output that a row can keep; structs take anything when they are made."""
    try:
        kept = msgspec.convert(msgspec.to_builtins(output), AgentOutput, strict=False)
        if any(isinstance(value, int) and abs(value) > _MOST for value in msgspec.structs.astuple(kept)):
            raise ValueError("a number in it has more than 64 bits")  # noqa: TRY301 - told like the others
        return kept
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise BodyFailed(f"the runner gave back an AgentOutput that cannot be kept: {error}", "AgentError") from None


class AgentFailed(BodyFailed):
    """Raised when a runner's output says that it failed; `output` is kept in the history."""

    def __init__(self, output: AgentOutput) -> None:
        super().__init__(output.error or "failed", "AgentError")
        self.output = output
