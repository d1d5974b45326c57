"""What users give is checked once, where it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePath

import msgspec

from car_sched_nb import files
from car_sched_nb.durations import format_duration, parse_duration
from car_sched_nb.engine.messages import check_named
from car_sched_nb.errors import InvalidInput, UnknownRunner, nearest
from car_sched_nb.model import NOTICES, Task, Trigger, check_name
from car_sched_nb.runners.base import Runner
from car_sched_nb.store import settings
from car_sched_nb.store.retention import rule_of
from car_sched_nb.triggers import check_trigger

_TEXTS = ("schedule", "timeout", "grace", "watch_path", "retry_delay", "jitter", "until", "cwd", "memory")
_DURATIONS = {"timeout": False, "grace": True, "retry_delay": True, "jitter": True}
"""Policies that are durations, and whether they may be 0."""
_COUNTS = ("retries", "max_runs", "max_failures", "total_tokens", "max_cost", "daily_tokens")
_CHOICES = {
    "catchup": ("latest", "none", "all"),
    "overlap": ("skip", "queue", "replace", "allow"),
    "on_crash": ("leave", "retry"),
    "when": ("completed", "failed", "ended"),
}
_GRID = {Trigger.INTERVAL: "--every", Trigger.CRON: "--cron"}
_PLANNED = {**_GRID, Trigger.ONCE: "--at"}
_AGAIN = {**_GRID, Trigger.FILE_WATCH: "--watch", Trigger.AFTER: "--after"}
_GOES_WITH = {"jitter": _PLANNED, "until": _AGAIN, "max_runs": _AGAIN, "when": {Trigger.AFTER: "--after"}}
_OF_AGENTS = (
    *("model", "base_url", "key_env", "system_prompt", "tools", "output_type"),
    *("max_turns", "total_tokens", "max_cost", "daily_tokens"),
)
_NO_AGENTS = frozenset({"python", "shell", "notebook"})


def checked(task: Task, runners: Mapping[str, Runner]) -> Task:
    """Return the task in its canonical form.

    Raises
    ------
    InvalidInput, UnknownRunner
        Each says what to type instead.
    """
    if isinstance(task.name, str):
        check_name(task.name)  # it says more of a character that no store takes than the types do
    task = _well_typed(msgspec.structs.replace(task, trigger=_trigger(task)))
    if task.runner not in runners:
        raise UnknownRunner(task.runner, runners)
    for name, choices in _CHOICES.items():
        if getattr(task, name) not in choices:
            given = getattr(task, name)
            raise InvalidInput(f"--{name.replace('_', '-')} is {' or '.join(choices)}, not {given!r}")
    for name, allow_zero in _DURATIONS.items():
        if getattr(task, name):
            parse_duration(getattr(task, name), allow_zero=allow_zero)
    for name in _COUNTS:
        if getattr(task, name) < 0:
            raise InvalidInput(f"--{name.replace('_', '-')} is a whole number from 0, not {getattr(task, name)}")
    rule_of(task.keep)
    if task.retry_delay and not task.retries:
        raise InvalidInput("--retry-delay goes with --retries; add --retries 3, or leave --retry-delay away")
    ping = check_named("--ping", task.ping) if task.ping else ""
    task = msgspec.structs.replace(check_trigger(task), notify=_notices(task.notify), ping=ping)
    _check_goes_with(task)
    _check_of_agents(task)
    _check_jitter(task)
    if task.trigger is Trigger.FILE_WATCH:
        task = msgspec.structs.replace(task, watch_path=files.resolve(task.watch_path))
    runners[task.runner].check(task)
    return task


def checked_setting(name: str, value: str) -> str | None:
    """Return a setting of `%car config` in its one spelling, None for one that is taken off.

    Raises
    ------
    InvalidInput
        Says what to type instead.
    """
    value = str(value).strip()
    if name not in settings.NAMES:
        raise InvalidInput(f"no setting is named {name!r}{nearest(name, settings.NAMES)}")
    if value == settings.NONE:
        return None
    if name == "notify":
        return check_named("--notify", value)
    if name == "keep":
        rule_of(value)
    if name == "keep_files":
        parse_duration(value)
    if not value:
        raise InvalidInput(f"--{name.replace('_', '-')} needs a value, or none to take it off")
    return value


def _notices(given: str) -> str:
    """Return what is worth a notice in its one spelling."""
    wanted = {*given.replace(",", " ").split()}
    if wanted != {"none"} and not wanted <= {*NOTICES}:
        raise InvalidInput(f"--notify is none, or some of {','.join(NOTICES)}, not {given!r}")
    return ",".join(kind for kind in (*NOTICES, "none") if kind in wanted)


def _check_goes_with(task: Task) -> None:
    """Refuse a policy that could never do anything."""
    plain = Task(task.name)
    for name, flags in _GOES_WITH.items():
        if getattr(task, name) != getattr(plain, name) and task.trigger not in flags:
            option, listed = name.replace("_", "-"), " or ".join(flags.values())
            raise InvalidInput(f"--{option} goes with {listed}; add one, or leave --{option} away")


def _check_of_agents(task: Task) -> None:
    """Refuse what only an agent, or a runner of the user's own, can heed."""
    if task.runner not in _NO_AGENTS:
        return
    plain = Task(task.name)
    for name in _OF_AGENTS:
        if getattr(task, name) != getattr(plain, name):
            option = "system" if name == "system_prompt" else name.replace("_", "-")
            raise InvalidInput(
                f"--{option} is for agents, and this is a {task.runner} task; add --runner agent, or leave it away"
            )


def _check_jitter(task: Task) -> None:
    if task.jitter and task.trigger is Trigger.INTERVAL:
        interval_us = parse_duration(task.schedule)
        if parse_duration(task.jitter, allow_zero=True) >= interval_us:
            raise InvalidInput(
                f"--jitter {task.jitter} would run slots into each other; give less than --every {task.schedule}"
            )


def _well_typed(task: Task) -> Task:
    """Return the task as it will be read from the store: what cannot be kept is refused before it is."""
    _check_params(task)
    given = msgspec.structs.replace(
        task, **{name: _as_text(getattr(task, name)) for name in _TEXTS}, keep=_as_rule(task.keep)
    )
    try:
        checked_task = msgspec.convert(msgspec.to_builtins(given), Task)
        msgspec.json.encode(checked_task)  # a lone surrogate is no text
        return checked_task
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError) as error:
        raise InvalidInput(f"car.Task: {error}") from None


def _as_rule(value: object) -> str:
    """Return how much history is kept as the text that would be typed; a bare number is one of executions."""
    if isinstance(value, timedelta):
        return format_duration(parse_duration(value))
    if value is None or isinstance(value, bool):
        raise InvalidInput(f"keep is a number of executions (1000), a length of time ('90d') or 'all', not {value!r}")
    return str(value).strip()


def _as_text(value: object) -> object:
    """Return a number or a timedelta as the text that would be typed; a bare number is seconds."""
    if isinstance(value, int | float | timedelta) and not isinstance(value, bool):
        return format_duration(parse_duration(value, allow_zero=True))
    return str(value) if isinstance(value, PurePath) else value


def _trigger(task: Task) -> Trigger:
    try:
        return Trigger(task.trigger)
    except ValueError:
        listed = ", ".join(trigger.value for trigger in Trigger)
        raise InvalidInput(f"no trigger is named {task.trigger!r}; there are {listed}") from None


def _check_params(task: Task) -> None:
    for name in task.params:
        if not str(name).isidentifier():
            raise InvalidInput(f"--param needs name=value with a plain name, not {name!r}")
    try:
        msgspec.json.encode(task.params)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"params must be plain values (text, numbers, lists): {error}") from None
