"""What a task finds around it: environment variables, a working folder, memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.model import Task
from car_sched_nb.runners.base import Work

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_LONGEST = 128 * 1024
"""Bytes that a variable may have, with its name and the zero behind it: Linux's MAX_ARG_STRLEN."""
LEAST_MEMORY = 64 * 1000 * 1000
"""Bytes below which a process does not get as far as its body."""


def parse_size(text: str) -> int:
    """Return how many bytes `500MB`, `2GB` or `1.5GiB` are.

    Raises
    ------
    InvalidInput
        For anything else, a bare number too, and for less than a process needs to start.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        number = re.fullmatch(r"\s*(\d+)\s*B?\s*", text, re.IGNORECASE)
        hint = f"write {number[1]}MB or {number[1]}GB" if number else "write it as in --memory 500MB, --memory 2GB"
        raise InvalidInput(f"--memory needs a number with its unit, not {text!r}; {hint}")
    base = 1024 if found[3] else 1000
    size = int(float(found[1]) * base ** _POWERS[found[2].upper()])
    if size < LEAST_MEMORY:
        raise InvalidInput(f"--memory {text} is too little for a process to start in; give at least 64MB")
    return size


def check_surroundings(task: Task, *, process: bool) -> None:
    """Refuse surroundings that a task cannot have.

    Raises
    ------
    InvalidInput
        Each says what to type instead.
    """
    for option in ("memory", "cwd"):
        if getattr(task, option) and not process:
            add = "add --executor process" if task.runner == "python" else "a shell task or --executor process has one"
            raise InvalidInput(f"--{option} goes with a process; {add}, or leave --{option} away")
    if task.memory:
        parse_size(task.memory)
    if task.cwd and not Path(task.cwd).expanduser().is_dir():
        raise InvalidInput(f"--cwd {task.cwd}: there is no such folder in {Path.cwd()}; make it, or name another")
    for name in task.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            bare = name.partition("=")[0]
            better = bare if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", bare) else "API_KEY"
            raise InvalidInput(
                f"--env takes the name of an environment variable, not {name.partition('=')[0]!r} and a value; "
                f"write --env {better}, and set it with %env {better}=..."
                if "=" in name
                else f"--env takes the name of an environment variable, not {name!r}; write --env {better}"
            )


def unset(task: Task) -> str | None:
    """Return what to say of the environment variables that a task needs and that are not set, or None."""
    missing = [name for name in task.env if name not in os.environ]
    if not missing:
        return None
    listed = ", ".join(missing)
    return f"{listed} {'is' if len(missing) == 1 else 'are'} not set; set it with %env {missing[0]}=..."


def environment(work: Work, *, only_way: bool = False) -> dict[str, str]:
    """Return the kernel's environment and the run's values: they travel beside a program, never inside it.

    Parameters
    ----------
    only_way
        The parameters come in no other way: one that no variable can hold fails the run. Otherwise it is left out.

    Raises
    ------
    BodyFailed
        Which one.
    """
    runtime = work.runtime
    params = {f"CAR_PARAM_{name.upper()}": str(value) for name, value in runtime.params.items()}
    for name, value in list(params.items()):
        size = len(name.encode()) + len(value.encode("utf-8", "replace")) + 2
        if size > _LONGEST or "\0" in value:
            if only_way:
                why = "is longer than 128 KiB" if size > _LONGEST else "has a zero byte"
                raise BodyFailed(f"{name} {why}: write the value to a file, and give its path", "InvalidInput")
            del params[name]
    return {
        **os.environ,
        "CAR_OWNER": work.owner,
        "CAR_EXECUTION": runtime.occurrence.execution_id,
        "CAR_GROUP": "",  # not one that the kernel itself has inherited; the program is given its own
        "CAR_TASK": runtime.occurrence.task,
        "CAR_SCHEDULED_AT": runtime.scheduled_at.isoformat().replace("+00:00", "Z"),
        "CAR_SLOT": runtime.slot,
        "CAR_ATTEMPT": str(runtime.attempt),
        **params,
        **work.environment,
    }


def memory_of(task: Task) -> int:
    """Return how many bytes each process of a task may have, or 0."""
    return parse_size(task.memory) if task.memory else 0


def folder(task: Task) -> str | None:
    """Return the working folder of a task's process; None for the kernel's.

    Raises
    ------
    BodyFailed
        When it is not there any more.
    """
    if not task.cwd:
        return None
    found = Path(task.cwd).expanduser()
    if not found.is_dir():
        raise BodyFailed(f"--cwd {task.cwd}: there is no such folder in {Path.cwd()}", "FileNotFoundError")
    return str(found)
