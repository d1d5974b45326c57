"""The options of `%%car_task` and `@car.task`: one table for the parser, the help, completion and `%car show`."""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from car_sched_nb.cadence import parse_phrase
from car_sched_nb.errors import InvalidInput, nearest
from car_sched_nb.model import NOTICES, Task, Trigger


class Option(msgspec.Struct, frozen=True):
    """One option: `--name METAVAR`, or a switch when it has no metavar."""

    name: str
    metavar: str
    help: str
    values: tuple[str, ...] = ()
    """What Tab offers; with `closed` nothing else is accepted."""
    closed: bool = False
    bare: str = ""
    """What it means without a value; empty when it needs one."""
    many: bool = False
    """It may be given several times, or with several values."""
    group: str = "policy"
    field: str = ""
    """The task's field, when it is not the name with underscores."""

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def key(self) -> str:
        """The name as a keyword of `@car.task`."""
        return self.name.replace("-", "_")


_WHEN = "every once at delay cron watch after".split()

OPTIONS: tuple[Option, ...] = (
    Option(
        "every",
        "DUR",
        "run every DUR: 30s, 5m, '1h 30m'; or 'weekday at 09:00'",
        ("5s", "1m", "5m", "1h", "1d"),
        group="when",
    ),
    Option("align", "", "put the interval on the clock: every 5m runs at :00, :05 ...", group="when"),
    Option(
        "first",
        "WHEN",
        "first run of an interval: now, or next (one interval later)",
        ("now", "next"),
        True,
        group="when",
    ),
    Option(
        "cron",
        "EXPR",
        "run by a cron expression: '0 9 * * 1-5', @daily",
        ("'0 9 * * 1-5'", "@hourly", "@daily"),
        group="when",
    ),
    Option(
        "tz",
        "ZONE",
        "time zone of --cron, --every and --at; the local one when not given",
        ("UTC", "Europe/London"),
        group="when",
    ),
    Option("once", "", "run one time only, never again, also after a restart", group="when"),
    Option("at", "TIME", "run one time, at TIME: 09:00, 'tomorrow 9:00', 2026-11-24T09:00", group="when"),
    Option("delay", "DUR", "run one time, after DUR", ("10s", "5m", "1h"), group="when"),
    Option("watch", "PATH", "run when a file, a folder or a glob changes", many=True, group="when"),
    Option(
        "after",
        "TASK",
        "run when these tasks have all ended since its last run: extract,clean",
        many=True,
        group="when",
    ),
    Option(
        "when",
        "HOW",
        "which ends --after waits for: completed (default), failed, or ended",
        ("completed", "failed", "ended"),
        True,
        group="when",
    ),
    Option(
        "runner",
        "NAME",
        "what does the work: python (default), shell, agent, notebook, or one that you registered",
        ("python", "shell", "agent", "notebook"),
        group="what",
    ),
    Option(
        "executor",
        "WHERE",
        "where a Python body runs: loop (the kernel's), thread, or process",
        ("loop", "thread", "process"),
        True,
        group="what",
    ),
    Option("into", "VAR", "put the result into this variable of the notebook", group="what"),
    Option(
        "param",
        "NAME=VALUE",
        "a parameter: car.current().params, $CAR_PARAM_NAME, {name}, a notebook's variable",
        many=True,
        group="what",
        field="params",
    ),
    Option(
        "env",
        "NAME",
        "an environment variable that the body needs; its value is masked in what is kept",
        many=True,
        group="what",
    ),
    Option("cwd", "DIR", "the working folder of a shell task or a process; the kernel's when not given", group="what"),
    Option(
        "argv",
        "",
        "a shell task's body is the words of one command; no shell reads them, {name} is one word",
        group="what",
    ),
    Option(
        "memory", "SIZE", "how much memory each process of the run may take: 500MB, 2GB", ("500MB", "2GB"), group="what"
    ),
    Option(
        "model",
        "NAME",
        "an agent's model: local, openai:gpt-5-mini, anthropic:claude-sonnet-4-5",
        ("local", "openai:gpt-5-mini", "anthropic:claude-sonnet-4-5"),
        group="what",
    ),
    Option(
        "base-url",
        "URL",
        "where an OpenAI-compatible model is served; only the key of --key-env is sent there",
        group="what",
    ),
    Option("key-env", "NAME", "the environment variable with its key, if not the provider's usual one", group="what"),
    Option("system", "TEXT", "the system prompt of an agent", group="what", field="system_prompt"),
    Option("tools", "FN,FN", "functions of the notebook that an agent may call", many=True, group="what"),
    Option("output-type", "TYPE", "the notebook's pydantic model that an agent's answer has to fit", group="what"),
    Option("max-turns", "N", "turns that an agent may take (10)", group="what"),
    Option("total-tokens", "N", "end an agent's run that has used more tokens", group="what"),
    Option("max-cost", "USD", "end an agent's run that has cost more", group="what"),
    Option("daily-tokens", "N", "skip the slots of an agent that has used so many tokens today", group="what"),
    Option("timeout", "DUR", "stop a run that takes longer", ("30s", "5m", "30m")),
    Option(
        "catchup",
        "HOW",
        "slots that passed unserved: run the latest (default), none, or all",
        ("latest", "none", "all"),
        True,
    ),
    Option("grace", "DUR", "how late a slot may still run; one period by default, at most 24 h", ("1m", "1h")),
    Option(
        "overlap",
        "HOW",
        "a slot that comes during a run: skip it (default), queue it, replace the run, or allow both",
        ("skip", "queue", "replace", "allow"),
        True,
    ),
    Option("retries", "N", "try a failed run again, at most N times", ("1", "3", "5")),
    Option("retry-delay", "DUR", "wait before a retry (10s); doubled for each further one, up to 1h", ("1s", "1m")),
    Option("jitter", "DUR", "begin each slot up to DUR later, by a chance that belongs to the slot", ("10s", "1m")),
    Option("max-runs", "N", "plan no more after N runs; retries do not count"),
    Option("until", "TIME", "plan no slot after TIME: 18:00, 2026-12-01"),
    Option("max-failures", "N", "pause the task after N failures in a row", ("3",)),
    Option(
        "keep",
        "N|DUR",
        "how much of its history is kept: its newest 1000 executions, those that ended in the last 90d, or all",
        ("1000", "90d", "all"),
    ),
    Option(
        "on-crash",
        "HOW",
        "a run whose kernel went away: leave it interrupted (default), or retry it",
        ("leave", "retry"),
        True,
    ),
    Option(
        "notify",
        "[WHAT]",
        "what is worth a notice: failed,recovered (default; each series once), completed, or none; alone: all",
        (*NOTICES, "none"),
        bare=",".join(NOTICES),
    ),
    Option("on-failure", "CMD", "a command to run at the first failure in a row; $CAR_TASK and $CAR_ERROR tell of it"),
    Option("ping", "env:NAME", "fetch the URL in this environment variable after each success, at most once a second"),
    Option("no-run", "", "only define a task that has no trigger; do not run it now", group="mode"),
    Option("test", "", "run it once in this cell and store nothing", group="mode"),
    Option("dry-run", "", "show what would be defined and store nothing", group="mode"),
)
_COUNTS = frozenset({"max-turns", "retries", "max-runs", "max-failures", "total-tokens", "daily-tokens"})
_NAMES = frozenset({"env", "tools"})
"""Options that are names, several or by commas."""
BY_NAME = {option.name: option for option in OPTIONS}
MODES = frozenset(option.name for option in OPTIONS if option.group == "mode")

_EXAMPLE = "%%car_task prices --every 5m"


class Cell(msgspec.Struct, frozen=True):
    """A parsed `%%car_task` cell."""

    task: Task
    modes: frozenset[str]


def parse_cell(line: str, body: str) -> Cell:
    """Parse a `%%car_task` cell: its line, leading `#| key: value` lines, and the body.

    Raises
    ------
    InvalidInput
        With what to type instead; nothing has been stored.
    """
    name, given = parse_line(line)
    more, body = split_header(body)
    for key, value in more.items():
        if key not in given:
            given[key] = value
        elif BY_NAME[key].many:
            given[key] += value
        else:
            raise InvalidInput(f"--{key} stands on the line and below it; give it once")
    modes = frozenset(MODES & given.keys())
    values = {key: value for key, value in given.items() if key not in MODES}
    task = make_task(name, body.rstrip(), values)
    if "no-run" in modes and task.trigger is not Trigger.MANUAL:
        raise InvalidInput("--no-run goes with a task that has no trigger; an interval can start later: --first next")
    return Cell(task, modes)


def parse_line(line: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a `%%car_task` line; no abbreviations."""
    words = split_words(line)
    given: dict[str, Any] = {}
    loose: list[tuple[str, str]] = []
    position = 0
    last = ""
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--"):
            loose.append((word, last))
            continue
        text, equals, value = word[2:].partition("=")
        option = find_option(text)
        last = ""
        if not option.metavar:
            if equals:
                raise InvalidInput(f"{option.flag} takes no value; write {option.flag}")
            _put(given, option, True)
            continue
        if not equals and option.bare and not _is_a_value(option, words[position : position + 1], named=bool(loose)):
            value = option.bare
        elif not equals:
            if position >= len(words) or words[position].startswith("--"):
                raise InvalidInput(f"{option.flag} needs a value: {option.flag} {option.metavar} ({option.help})")
            value, position = words[position], position + 1
        _put(given, option, value)
        last = f"{option.flag} '{value} "
        while option.name in ("watch", "after") and position < len(words) and not words[position].startswith("--"):
            _put(given, option, words[position])
            position += 1
    return _only_name(loose), given


def _is_a_value(option: Option, following: list[str], *, named: bool) -> bool:
    if not following or following[0].startswith("--"):
        return False
    return named or {*following[0].split(",")} <= {*option.values}  # after the task's name only a value can come


def split_words(line: str) -> list[str]:
    """Split a magic's line as a shell does."""
    try:
        return shlex.split(line)
    except ValueError:
        raise InvalidInput(f"a quote is not closed in: {line.strip()}") from None


def find_option(name: str) -> Option:
    """Return the option of that name, or refuse it with the nearest."""
    option = BY_NAME.get(name)
    if option is None:
        close = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.4) or [n for n in BY_NAME if n.startswith(name)]
        hint = f"; did you mean --{close[0]}?" if close else ""
        raise InvalidInput(f"no option is named --{name}{hint} (%car help task lists all)")
    return option


def _put(given: dict[str, Any], option: Option, value: Any) -> None:
    if option.many:
        given.setdefault(option.name, []).append(value)
    elif option.name in given:
        raise InvalidInput(f"{option.flag} is given twice; give it once")
    else:
        given[option.name] = value


def _only_name(loose: list[tuple[str, str]]) -> str:
    if not loose:
        raise InvalidInput(f"a task needs a name: {_EXAMPLE}")
    name, after = loose[0]
    if len(loose) == 1:
        return name
    extra, before = loose[1]
    if after:
        extra, before = name, after
    hint = f"write {before}{extra}'" if before else "quote values that have spaces"
    raise InvalidInput(f"{extra!r} is left over; {hint}, as in: {_EXAMPLE}")


def split_header(body: str) -> tuple[dict[str, Any], str]:
    """Return the options of leading `#| key: value` lines, and the body below them."""
    given: dict[str, Any] = {}
    lines = body.splitlines(keepends=True)
    count = 0
    for line in lines:
        found = re.match(r"\s*#\|(.*)", line)
        if not found:
            break
        count += 1
        if not found[1].strip():
            continue
        key, colon, value = found[1].partition(":")
        option = find_option(re.split(r"[\s=]", key.strip())[0].removeprefix("--").replace("_", "-"))
        if not colon:
            raise InvalidInput(f"write '#| {option.name}: value', not {line.strip()!r}")
        _put_header(given, option, value.strip())
    return given, "".join(lines[count:])


def _put_header(given: dict[str, Any], option: Option, text: str) -> None:
    if not option.metavar:
        if text.lower() not in ("true", "yes", "false", "no", ""):
            raise InvalidInput(f"'#| {option.name}:' is true or false, not {text!r}")
        if text.lower() not in ("false", "no"):
            _put(given, option, True)
    elif option.bare and text.lower() in ("", "true", "yes"):
        _put(given, option, option.bare)
    elif option.many:
        for value in [_unquoted(text)] if _unquoted(text) is not None else split_words(text):
            _put(given, option, value)
    elif (value := _unquoted(text)) is not None:
        _put(given, option, value)
    else:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        _put(given, option, text[1:-1] if quoted else text)


def _unquoted(text: str) -> str | None:
    """Return the value of a text in double quotes, with line breaks written as in JSON; None for any other text."""
    try:
        found = json.loads(text) if text[:1] == '"' else None
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def make_task(name: str, prompt: str, given: Mapping[str, Any]) -> Task:
    """Build a task from options by their names, as typed; a scheduler checks the rest when it is added.

    Raises
    ------
    InvalidInput
        For two triggers, and for options that do not go together.
    """
    values: dict[str, Any] = {
        key: BY_NAME[key].bare if value is True and BY_NAME[key].bare else value for key, value in given.items()
    }
    for key, value in values.items():
        _check_closed(BY_NAME[key], value)
    when = _trigger(values)
    fields = {
        BY_NAME[key].field or BY_NAME[key].key: value
        for key, value in values.items()
        if key not in _WHEN and key != "param"
    }
    for option in _COUNTS & values.keys():
        field = BY_NAME[option].key
        fields[field] = _count(option, fields[field])
    for option in _NAMES & values.keys():
        fields[option] = _names(fields[option])
    if "max-cost" in values:
        fields["max_cost"] = _dollars(fields["max_cost"])
    return Task(name=name, prompt=prompt, **when, **fields, params=_params(values.get("param", [])))


def _check_closed(option: Option, value: Any) -> None:
    if option.closed and value not in option.values:
        hint = nearest(str(value), option.values)
        raise InvalidInput(f"{option.flag} is {' or '.join(option.values)}, not {value!r}{hint}")


def _trigger(values: dict[str, Any]) -> dict[str, Any]:
    given = [key for key in _WHEN if key in values]
    if "once" in given and len(given) == 2 and given[1] in ("at", "delay"):
        given.remove("once")
    if len(given) > 1:
        listed = " and ".join(f"--{key}" for key in given)
        raise InvalidInput(f"{listed} are two triggers; keep one, or write two tasks")
    key = given[0] if given else ""
    _check_goes_with(key, values)
    value = values.get(key)
    match key:
        case "every":
            kind, schedule = parse_phrase(str(value))
            if kind == "cron" and (values.get("align") or "first" in values):
                raise InvalidInput(
                    f"--align and --first go with an interval; --every {value!r} is on the clock already"
                )
            return {"trigger": Trigger(kind), "schedule": schedule}
        case "cron":
            return {"trigger": Trigger.CRON, "schedule": str(value)}
        case "watch":
            paths = [value] if isinstance(value, str) else list(value or ())
            return {"trigger": Trigger.FILE_WATCH, "watch_path": "\n".join(str(path) for path in paths)}
        case "after":
            names = [value] if isinstance(value, str) else list(value or ())
            names = [name for text in names for name in str(text).replace(",", " ").split()]
            return {"trigger": Trigger.AFTER, "after": "\n".join(dict.fromkeys(names))}
        case "once":
            return {"trigger": Trigger.ONCE}
        case "at" | "delay":
            return {"trigger": Trigger.ONCE, "schedule": f"{key} {value}"}
        case _:
            return {"trigger": Trigger.MANUAL}


_GOES_WITH = {
    "align": ("every",),
    "first": ("every",),
    "tz": ("every", "cron", "at"),
    "when": ("after",),
    "jitter": ("every", "cron", "at", "delay", "once"),
    "until": ("every", "cron", "watch", "after"),
    "max-runs": ("every", "cron", "watch", "after"),
}


def _check_goes_with(key: str, values: Mapping[str, Any]) -> None:
    for option, triggers in _GOES_WITH.items():
        if option in values and key not in triggers:
            listed = " or ".join(f"--{name}" for name in triggers)
            raise InvalidInput(f"--{option} goes with {listed}; add one, or leave --{option} away")


def _count(name: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise InvalidInput(f"--{name} is a whole number from 1, not {value!r}")
    return count


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    return tuple(dict.fromkeys(name for text in texts for name in str(text).replace(",", " ").split()))


def _dollars(value: Any) -> float:
    try:
        dollars = float(str(value).lstrip("$"))
    except ValueError:
        dollars = 0.0
    if not 0 < dollars < math.inf:
        raise InvalidInput(f"--max-cost is a number of US dollars, as in --max-cost 0.50, not {value!r}")
    return dollars


def _params(given: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    return dict(parse_param(text) for text in given)


def parse_param(text: str) -> tuple[str, str]:
    """Split `name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InvalidInput(f"--param needs name=value with a plain name, not {text!r}; write --param region=eu")
    return name, value


def cell_of(task: Task) -> str:
    """Return the whole cell that defines a task, as it would be typed."""
    words, below = _typed(task)
    line = " ".join(word if word.startswith("%%") else shlex.quote(word) for word in words)
    return "\n".join([line, *(f"#| {name}: {json.dumps(value)}" for name, value in below), task.prompt])


def _typed(task: Task) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words of the line, and as (option, value) what has line breaks and stands below it."""
    words, below = ["%%car_task", task.name], []
    match task.trigger:
        case Trigger.INTERVAL:
            words += ["--every", task.schedule, *(["--tz", task.tz] if task.tz else [])]
        case Trigger.CRON:
            words += ["--cron", task.schedule, "--tz", task.tz]
        case Trigger.FILE_WATCH:
            words += ["--watch", *task.watch_path.splitlines()]
        case Trigger.AFTER:
            words += ["--after", ",".join(task.after.split())]
        case Trigger.ONCE:
            kind, _, text = task.schedule.partition(" ")
            words += [f"--{kind}", text] if kind else ["--once"]
            words += ["--tz", task.tz] if task.tz else []
        case _:
            pass
    plain = Task(task.name)
    for option in OPTIONS:
        field = option.field or option.key
        if option.name in _WHEN or option.name in MODES or option.name in ("tz", "param"):
            continue
        value = getattr(task, field)
        if _has_breaks(value):
            below.append((option.name, str(value)))
        elif value != getattr(plain, field):
            words += _as_words(option, value)
    for name, value in task.params.items():
        if _has_breaks(value):
            below.append(("param", f"{name}={value}"))
        else:
            words += ["--param", f"{name}={value}"]
    return words, below


def _has_breaks(value: Any) -> bool:
    text = str(value)
    return text.splitlines() not in ([], [text])


def _as_words(option: Option, value: Any) -> list[str]:
    if value is True:
        return [option.flag]
    value = ",".join(value) if isinstance(value, tuple) else value
    # A value that looks like an option would be taken for the next one.
    return [f"{option.flag}={value}"] if str(value).startswith("--") else [option.flag, str(value)]


def help_text() -> str:
    """Return the help of `%%car_task`, from the table."""
    lines = ["%%car_task NAME [options]", "", "Make this cell a task that runs in the background.", ""]
    for group, title in (("when", "When"), ("what", "What"), ("policy", "How"), ("mode", "Now")):
        listed = [f"  {f'{one.flag} {one.metavar}':<20} {one.help}" for one in OPTIONS if one.group == group]
        lines += [f"{title}:", *listed, ""]
    lines.append("Options may go on below the line, before the body: #| timeout: 30m")
    return "\n".join(lines)
