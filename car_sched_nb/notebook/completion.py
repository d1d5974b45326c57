"""Tab on the lines of `%%car_task` and `%car`: options, their values, verbs and task names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from car_sched_nb.notebook.magics import VERBS
from car_sched_nb.options import BY_NAME, OPTIONS
from car_sched_nb.store import records

if TYPE_CHECKING:
    from car_sched_nb.notebook.session import Session


class Matcher:
    """Completes the magics' lines; its `complete` is one of the completer's `custom_matchers`.

    The method, not the object: IPython 9 asks a matcher for its `__qualname__`, and all Tab is dead without it.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def complete(self, text: str) -> list[str]:
        """Return what may stand in place of `text`, IPython's last token: it begins anew at an `=` or a quote."""
        line = self._session.shell.Completer.text_until_cursor
        words = self._words(line)
        cut = len(words[-1]) - len(text)
        return [word[cut:] for word in candidates(line, words, self._names())] if cut >= 0 else []

    @staticmethod
    def _words(line: str) -> list[str]:
        return line.split(" ")

    def _names(self) -> list[str]:
        return records.names(self._session.store, self._session.namespace.name)


def candidates(line: str, words: list[str], names: list[str]) -> list[str]:
    """Return what may stand in place of the last word of a line up to the cursor."""
    found = re.match(r"\s*(%%car_task|%car)\s", line)
    if not found:
        return []
    last = words[-1]
    before = [word for word in words[:-1] if word]
    offered = _task_line(before, last, names) if found[1] == "%%car_task" else _car_line(before, names)
    return [one for one in offered if one.startswith(last)]


def _task_line(before: list[str], last: str, names: list[str]) -> list[str]:
    if before[-1] == "--after":
        return names
    for option in OPTIONS:
        if before[-1] == option.flag and option.metavar:
            return list(option.values)
        if last.startswith(option.flag + "="):
            return [f"{option.flag}={value}" for value in option.values]
    given = set(before)
    return [option.flag for option in OPTIONS if option.many or option.flag not in given]


def _car_line(before: list[str], names: list[str]) -> list[str]:
    if len(before) == 1:
        return list(VERBS)
    verb = VERBS.get(before[1])
    if before[1] == "help":
        return ["task", *VERBS]
    if verb is None:
        return []
    if before[-1] == "--notify":
        return ["env:", "none"]
    if before[1] == "config" and before[-1] == "--model":
        return [*BY_NAME["model"].values, "none"]
    if before[1] == "config" and before[-1] == "--keep":
        return ["1000", "90d", "all", "none"]
    if before[1] == "config" and before[-1] == "--keep-files":
        return ["30d", "none"]
    if before[1] == "model":
        return ["get"]
    return [*(names if verb.takes_task else ()), *re.findall(r"--[a-z-]+", verb.usage)]
