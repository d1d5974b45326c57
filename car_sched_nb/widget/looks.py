"""What each page looks at, and what it was sent of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from car_sched_nb.widget.following import Following
from car_sched_nb.widget.words import said

STALE_S = 90.0
"""Seconds after which a view that says nothing is forgotten."""

_ROWS = 60
_EXECUTIONS = 30
_MOST_EXECUTIONS = 500
_VIEWS = 20  # of one page; whoever opens more is not a person

Message = dict[str, Any]


class Look:
    """What one view shows, as it said last, and what it was sent of it."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self.rows: frozenset[str] = frozenset()
        self.task: str | None = None
        self.limit = _EXECUTIONS
        self.execution: str | None = None
        self.executions_due = self.detail_due = False
        self.live = self.unended = False
        """Whether anything of the opened task, and the opened execution, is in progress, wherever."""
        self.output: Following | None = None
        self._sent: dict[str, int] | None = None
        """Digests of the executions that it has; None before the first."""
        self._detail_sent = 0
        self._new: Message = {}

    @property
    def due(self) -> bool:
        """Whether the store is to be asked."""
        return self.executions_due or self.detail_due

    def see(self, content: Message, now_s: float) -> None:
        """Take what the view says it shows; what it showed before is not sent again."""
        self.until_s = now_s + STALE_S
        self.rows = frozenset(row for row in _listed(content.get("rows"))[:_ROWS] if isinstance(row, str))
        task, execution, limit = said(content.get("task")), said(content.get("execution")), content.get("limit")
        limit = min(max(limit, 1), _MOST_EXECUTIONS) if type(limit) is int else _EXECUTIONS
        if (task, limit) != (self.task, self.limit):
            self.task, self.limit, self.live, self._sent = task, limit, False, None
            self.executions_due = task is not None
            self._new = {key: self._new[key] for key in ("detail", "output") if key in self._new}
        if execution != self.execution:
            self.execution, self.unended, self.output, self._detail_sent = execution, False, None, 0
            self.detail_due = execution is not None
            self._new.pop("detail", None)

    def begin_again(self) -> None:
        """Send all of it anew: the page has lost something."""
        self.executions_due, self.detail_due = self.task is not None, self.execution is not None
        self._sent, self._detail_sent, self._new = None, 0, {}
        if self.output is not None:
            self.output.begin_again()

    def take_executions(self, rows: list[Message], more: bool) -> None:
        """Take the newest executions of the opened task; those that the view does not have are sent."""
        digests = {row["execution_id"]: hash(msgspec.json.encode(row)) for row in rows}
        whole = self._sent is None or self._new.get("whole", False)
        sent = {} if whole or self._sent is None else self._sent
        changed = [row for row in rows if sent.get(row["execution_id"]) != digests[row["execution_id"]]]
        self._sent = digests
        if not (changed or whole):
            return
        if not whole:  # not taken yet: what is newer replaces it
            ids = {row["execution_id"] for row in changed}
            changed += [row for row in self._new.get("executions", ()) if row["execution_id"] not in ids]
        self._new |= {"task": self.task, "executions": changed, "more": more} | ({"whole": True} if whole else {})

    def take_detail(self, detail: Message) -> None:
        """Take the opened execution."""
        # How far it has come is told by its row: its plots need not travel again for that.
        digest = hash(msgspec.json.encode({**detail, "progress": None}))
        if digest != self._detail_sent:
            self._detail_sent = digest
            self._new["detail"] = detail

    def say(self, room: int) -> Message:
        """Return what there is to send; `room` is for output, in bytes."""
        news, self._new = self._new, {}
        if self.output is not None and self.output.behind and room > 0:
            news["output"] = self.output.take(room)
        return news


class Page:
    """One widget's pages: they share a connection, and each view of them has a name."""

    def __init__(self, tell: Callable[[Message], None], show: Callable[[tuple[str, str]], None]) -> None:
        self.tell = tell
        self.show = show
        """Replaces the table that a saved notebook shows."""
        self.looks: dict[str, Look] = {}
        self.until_s = 0.0
        """Until when somebody is taken to look."""
        self.wants_all = False
        self.waits = False
        """Whether it waits for a word, though nothing changed: it takes a kernel that says nothing for gone."""
        self.head: Message | None = None
        """The figures that it was sent last."""
        self.stats: dict[str, Any] = {}
        """The figures that it was sent of the rows that it looks at."""

    def look(self, content: Message, now_s: float) -> Look | None:
        """Take what a view says it shows; None when it says nothing that can be understood."""
        view = said(content.get("view"))
        if view is None:
            return None
        look = self.looks.setdefault(view, Look())
        look.see(content, now_s)
        while len(self.looks) > _VIEWS:
            self.looks.pop(next(iter(self.looks)))
        rows = self.rows()
        self.stats = {task_id: found for task_id, found in self.stats.items() if task_id in rows}
        return look

    def forget_stale(self, now_s: float) -> None:
        """Forget the views that went away."""
        self.looks = {view: look for view, look in self.looks.items() if look.until_s > now_s}

    def begin_again(self) -> None:
        """It gets all rows now; everything else is sent anew."""
        self.wants_all, self.stats = False, {}
        for look in self.looks.values():
            look.begin_again()

    def rows(self) -> set[str]:
        """Return the ids of the rows, and of the opened tasks, that somebody looks at."""
        opened = {look.task for look in self.looks.values() if look.task is not None}
        return opened.union(*(look.rows for look in self.looks.values()))

    def say(self, room: int) -> dict[str, Message]:
        """Return what there is to send to each view; `room` is for the output of all of them, in bytes."""
        news = {}
        for view, look in tuple(self.looks.items()):
            new = look.say(room)
            if not new:
                continue
            news[view] = new
            if "output" in new:
                room -= len(new["output"]["text"].encode())
                self.looks[view] = self.looks.pop(view)  # another goes first the next time
        return news

    def new_stats(self, stats: dict[str, Message], ids: Iterable[str]) -> dict[str, Message]:
        """Return the figures among these that it has not."""
        new = {id_: stats[id_] for id_ in ids if id_ in stats and self.stats.get(id_) != stats[id_]}
        self.stats |= new
        return new


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []
