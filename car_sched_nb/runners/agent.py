"""Prompts for a model: an agent with the notebook's functions as its tools."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.loop import LoopHost, OwnLoop, ThreadLoop
from car_sched_nb.executors.thread import ThreadPool
from car_sched_nb.model import Task
from car_sched_nb.runners import models, prompts, tools
from car_sched_nb.runners.base import AgentOutput, SharedInfra, Work
from car_sched_nb.runners.budget import check_limits
from car_sched_nb.runners.models import Choice
from car_sched_nb.runners.python import PythonRunner, check_into

NOT_INSTALLED = 'an agent needs the extra "agents": pip install "car-sched-nb[agents]"'

_agents = ThreadLoop("car-agents")
"""Where all agents of this process run: pydantic-ai alone takes seconds to import, and its work is pure Python."""


def _no_default() -> str:
    return ""


class PromptRunner:
    """Runs prompts: each is an agent that talks with a model, by pydantic-ai.

    Parameters
    ----------
    python
        Has the names that fill a prompt's fields and that are tools, and publishes `--into`.
    infra
        Its `tools` count too.
    host
        Where asynchronous tools run.
    """

    def __init__(self, python: PythonRunner, infra: SharedInfra, host: LoopHost) -> None:
        self._python = python
        self._infra = infra
        self._host = host
        self._threads = ThreadPool()
        self.default_model: Callable[[], str] = _no_default
        """Tells the model of tasks that name none, after `$CAR_MODEL`."""

    @property
    def _names(self) -> Mapping[str, Any]:
        return self._python.names

    def _choice(self, task: Task) -> Choice:
        return models.choice(task, self.default_model())

    def check(self, task: Task) -> None:
        if not task.prompt.strip():
            raise InvalidInput("the body is empty; write the prompt below the %%car_task line")
        if importlib.util.find_spec("pydantic_ai") is None:
            raise InvalidInput(NOT_INSTALLED)
        if task.executor:
            raise InvalidInput("--executor is for Python bodies; an agent has a thread of its own: leave it away")
        check_into(task)
        check_limits(task)
        self._choice(task)
        for name in task.tools:
            if not name.isidentifier():
                raise InvalidInput(f"--tools takes names of functions, by commas: --tools search,price; not {name!r}")
            if self._is_defined(name) and not callable(self._found(name)):
                raise InvalidInput(f"--tools {name}: it is no function but {type(self._found(name)).__name__}")
        if task.output_type:
            with suppress(KeyError):  # its cell may come later
                tools.type_of(task.output_type, self._names)

    def _is_defined(self, name: str) -> bool:
        return name in self._names or name in self._infra.tools

    def _found(self, name: str) -> Any:
        return self._names[name] if name in self._names else self._infra.tools[name]

    def executor(self, task: Task) -> str:
        return "thread"

    def waits_for_loop(self, task: Task) -> bool:
        return False

    def on_own_loop(self) -> PromptRunner:
        twin = PromptRunner(self._python, self._infra, OwnLoop())
        twin.default_model = self.default_model
        return twin

    def missing(self, task: Task) -> str | None:
        try:
            chosen = self._choice(task)
        except InvalidInput as error:
            return str(error)  # $CAR_MODEL has gone since
        fields = prompts.missing(task, self._names)
        plain = [name for name in tools.type_names(task.output_type) if name not in self._names]
        wanted = [name for name in task.tools if not self._is_defined(name)]
        names = sorted({*fields, *wanted, *(name for name in plain if not tools.is_plain(name))})
        if not names:
            return models.missing_key(chosen)
        listed = ", ".join(repr(name) for name in names)
        said = f"{listed} {'is not defined; run its' if len(names) == 1 else 'are not defined; run their'} cell"
        return f"{said}, or write {{{{{fields[0]}}}}} for the text {{{fields[0]}}}" if fields else said

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        missing = self.missing(work.task)
        if missing:
            raise BodyFailed(missing, "Missing")
        desk = tools.Desk(self._host, work.runtime)
        failed: Exception | None = None
        output, result = AgentOutput(), None
        async with desk.open():
            try:
                output, result = await _agents.run(lambda: self._talk(work, desk))
            except Exception as error:  # noqa: BLE001 - told below: out of the block it would come in a group
                failed = error
        if failed is not None:
            raise failed
        if work.task.into:
            await self._python.publish({work.task.into: result})
        return output, result

    async def _talk(self, work: Work, desk: tools.Desk) -> tuple[AgentOutput, Any]:
        """Hold the conversation; in the agents' thread."""
        task, names = work.task, self._names
        chosen = self._choice(task)
        secrets = [models.key(chosen), *(os.environ.get(name) for name in task.env)]
        work.runtime.output.hide(*(secret for secret in secrets if secret))
        try:
            from car_sched_nb.runners.conversation import Conversation, Tool
        except ImportError as error:
            raise InvalidInput(f"{NOT_INSTALLED} ({error})") from None
        system, prompt = await self._threads.run(
            lambda: [prompts.filled(text, work.runtime, names) for text in (task.system_prompt, task.prompt)]
        )
        # Not in a thread that a cancel reaches: cut in two, an import leaves half a module to everybody else.
        model = await asyncio.to_thread(models.made, chosen)
        box = tools.Toolbox(self._threads, desk, work.runtime.output)
        given = [Tool(box.wrapped(name, self._found(name)), name=name) for name in task.tools]
        output_type = tools.type_of(task.output_type, names) if task.output_type else str
        talk = Conversation(work, model, box, system, prompt, local=chosen.is_local)
        try:
            return await talk.hold(given, output_type)
        finally:
            await box.close()
