"""What a runner is given and what it gives back, in the shape of the Common Agent Runtime."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from car_sched_nb.errors import CarError
from car_sched_nb.output import Output
from car_sched_nb.runners.mail import Mailbox as Mailbox  # noqa: PLC0414 - runners look for it here
from car_sched_nb.runners.mail import PostOffice, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from car_sched_nb.model import Execution, Task


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who is to do the work: a task's agent settings."""

    name: str
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    max_turns: int = 10
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    cache_control: bool = False


class AgentOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What came of the work; an output whose `error` is set is a failed execution."""

    name: str = ""
    answer: str = ""
    turns: int | None = None
    tool_calls: int | None = None
    duration_ms: float | None = None
    error: str | None = None
    outcome: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    model: str | None = None
    tools_used: tuple[str, ...] = ()
    transcript: str | None = None
    """The conversation as JSON, for `car.transcript`."""
    artifact: str | None = None
    """The path of a file that it made: the executed notebook."""


class Occurrence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a run is for: its id, its slot and the instant that was planned (aware UTC)."""

    id: str
    execution_id: str
    task: str
    slot: str
    scheduled_at: datetime
    attempt: int = 1
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class Upstream:
    """What a task that follows others is told of one of them: its execution, and the live result in this kernel.

    `result` is None after a restart, or when the upstream task has run again since.
    """

    __slots__ = ("execution", "result")

    def __init__(self, execution: Execution, result: Any = None) -> None:
        self.execution = execution
        self.result = result

    def __repr__(self) -> str:
        return f"<Upstream {self.execution.execution_id} {self.status}>"

    @property
    def status(self) -> str:
        """How it ended."""
        return str(self.execution.status)

    @property
    def answer(self) -> str:
        """Its stored text."""
        return self.execution.answer or ""


class Progress(msgspec.Struct, frozen=True):
    """How far a run has come; `total` is None when nobody knows."""

    done: float
    total: float | None = None
    note: str = ""


class Source(Protocol):
    """Where a runner and a body learn of one execution; the engine has it."""

    runtime: Runtime

    @property
    def task(self) -> Task:
        """The task as it is run."""
        ...

    @property
    def occurrence(self) -> Occurrence:
        """What it is for."""
        ...

    @property
    def output(self) -> Output:
        """What it prints."""
        ...

    async def begin(self) -> None:
        """Commit the start of work that waited for its loop."""
        ...

    def note(self, output: AgentOutput) -> None:
        """Keep what is known so far, for an end that brings nothing of its own."""
        ...

    def tokens_today(self) -> int:
        """Return what the other executions of its task have used since midnight."""
        ...

    def report(self, progress: Progress) -> None:
        """Note how far it has come."""
        ...

    def last_success(self) -> datetime | None:
        """Return when its task last completed."""
        ...

    def upstream(self) -> dict[str, Upstream]:
        """Return what it follows."""
        ...

    def file(self, suffix: str) -> str:
        """Return where a file of it is kept."""
        ...


class Runtime:
    """What a running body may reach: its occurrence, progress, shared state, tools and a logger."""

    __slots__ = ("_infra", "_occurrence", "_source")

    def __init__(self, source: Source, infra: SharedInfra) -> None:
        self._source = source
        self._infra = infra
        self._occurrence: Occurrence | None = None

    @property
    def occurrence(self) -> Occurrence:
        """What this run is for."""
        if self._occurrence is None:
            self._occurrence = self._source.occurrence
        return self._occurrence

    @property
    def state(self) -> State:
        """What all runs of this scheduler share: a dictionary, safe from any thread."""
        return self._infra.state

    @property
    def mailbox(self) -> Mailbox:
        """The messages for this task."""
        return self._infra.mailbox(self.occurrence.task)

    def send(self, task: str, message: Any) -> None:
        """Send a message to another task, by its name."""
        self.mailbox.send(task, message)

    def receive(self) -> list[Any]:
        """Take all messages that came for this task, oldest first."""
        return self.mailbox.receive()

    async def message(self, timeout: float | None = None) -> Any:
        """Take the oldest message, or wait for one; TimeoutError when none comes within so many seconds."""
        return await self.mailbox.message(timeout)

    def wait_message(self, timeout: float | None = None) -> Any:
        """Do the same in a body without `await`, which runs in a thread; Cancel ends the wait."""
        return self.mailbox.wait(timeout)

    @property
    def tools(self) -> dict[str, Callable[..., Any]]:
        """The tools of this scheduler, by name."""
        return self._infra.tools

    @property
    def output(self) -> Output:
        """What this run prints."""
        return self._source.output

    @property
    def logger(self) -> logging.Logger:
        """A logger of the task's own; what it logs is kept with the execution."""
        return logging.getLogger(f"car_sched_nb.task.{self.occurrence.task}")

    @property
    def scheduled_at(self) -> datetime:
        """The instant that was planned, aware UTC."""
        return self.occurrence.scheduled_at

    @property
    def slot(self) -> str:
        """The planned slot."""
        return self.occurrence.slot

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self.occurrence.attempt

    @property
    def params(self) -> dict[str, Any]:
        """The task's parameters, with those of this run over them."""
        return self.occurrence.params

    @property
    def last_success(self) -> datetime | None:
        """When the task last completed, or None."""
        return self._source.last_success()

    @property
    def upstream(self) -> dict[str, Upstream]:
        """What this run follows, by task name (`--after`); empty for any other."""
        return self._source.upstream()

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell the dashboard how far the work has come; from any thread."""
        self._source.report(Progress(float(done), None if total is None else float(total), str(note)))


class SharedInfra:
    """What all runs of one scheduler share."""

    def __init__(self) -> None:
        self.state = State()
        self.tools: dict[str, Callable[..., Any]] = {}
        self._office = PostOffice()

    def mailbox(self, task: str, sender: str | None = None) -> Mailbox:
        """Return the mailbox of a task; what is sent from it comes from `sender`, or from that task."""
        return Mailbox(task, self._office, sender)


@runtime_checkable
class AgentRunner(Protocol):
    """Does the work of a task; an exception or an output with `error` is a failed execution."""

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        """Do the work; cancelled by cancelling this coroutine."""
        ...


class Work:
    """One execution, as the engine hands it to a runner of its own."""

    __slots__ = ("_infra", "_source", "environment", "owner")

    def __init__(
        self, source: Source, infra: SharedInfra, owner: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._source = source
        self._infra = infra
        self.owner = owner
        """The id of the scheduler's life that runs it."""
        self.environment = environment
        """Variables that a process gets beside those of every run."""

    @property
    def task(self) -> Task:
        """The task as it is run."""
        return self._source.task

    @property
    def runtime(self) -> Runtime:
        """What its body may reach."""
        return self._source.runtime

    @property
    def spec(self) -> AgentSpec:
        """Who is to do it."""
        task = self.task
        return AgentSpec(
            name=task.name,
            system_prompt=task.system_prompt,
            tools=task.tools,
            max_turns=task.max_turns,
            metadata={**_model_options(task), **task.agent_metadata},
        )

    @property
    def mailbox(self) -> Mailbox:
        """The messages for its task."""
        return self._infra.mailbox(self.task.name)

    async def begin(self) -> None:
        """Return after its start is committed; awaited before the work, where that may have to wait for its loop."""
        await self._source.begin()

    def note(self, output: AgentOutput) -> None:
        """Keep what there is so far, from any thread: it is stored when the work is stopped, or fails without more."""
        self._source.note(output)

    def file(self, suffix: str) -> str:
        """Return the path of a file that is kept with the execution and removed with it: its `artifact`."""
        return self._source.file(suffix)

    def tokens_today(self) -> int:
        """Return the tokens that its task has used since midnight, without this execution; from any thread."""
        return self._source.tokens_today()


_MODEL_OPTIONS = ("model", "base_url", "key_env", "output_type", "total_tokens", "max_cost", "daily_tokens")


def _model_options(task: Task) -> dict[str, Any]:
    """Return what was given of a model and its budget, for runners that the user wrote."""
    return {name: value for name in _MODEL_OPTIONS if (value := getattr(task, name))}


class Runner(Protocol):
    """A runner of the engine: checks a task where it is defined, and does its work on the engine's loop."""

    def check(self, task: Task) -> None:
        """Raise InvalidInput when the task can never run."""
        ...

    def executor(self, task: Task) -> str:
        """Return where the work runs: loop, thread, process."""
        ...

    def missing(self, task: Task) -> str | None:
        """Return what the task waits for before it can run at all, or None."""
        ...

    def waits_for_loop(self, task: Task) -> bool:
        """Tell whether the work may have to wait for a loop that is not the engine's."""
        ...

    def on_own_loop(self) -> Runner:
        """Return the same runner for a scheduler that waits for no other loop."""
        ...

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        """Do the work; return its output and the live result. Cancelling it stops the work before it returns."""
        ...


class NotInATask(CarError, RuntimeError):
    """Raised when `car.current()` is called outside the body of a task."""

    def __init__(self) -> None:
        super().__init__("car.current() works inside the body of a task only")


current_runtime: ContextVar[Runtime | None] = ContextVar("car_current_runtime", default=None)


def current() -> Runtime:
    """Return the runtime of the execution that asks.

    Raises
    ------
    NotInATask
        Outside the body of a task.
    """
    runtime = current_runtime.get()
    if runtime is None:
        raise NotInATask
    return runtime


_FIELD = re.compile(r"\{(\{)?([^\W\d]\w*)\}(?(1)\})")


def field_names(text: str) -> list[str]:
    """Return the names that stand in `{name}` fields, each once, in their order."""
    return list(dict.fromkeys(found[2] for found in _FIELD.finditer(text) if not found[1]))


def prompt_fields(text: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` by plain-name substitution only: no attributes, no indexes, no format codes.

    In one pass: what a value brings is never a field. `{{name}}` is the text `{name}`; any other brace, and a name
    that has no value, stays as it is, so that JSON in a prompt survives.
    """

    def value(found: re.Match[str]) -> str:
        name = found[2]
        return f"{{{name}}}" if found[1] else values.get(name, found[0])

    return _FIELD.sub(value, text)
