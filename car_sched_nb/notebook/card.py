"""The card under a cell: what the task is, what changed, and where it lives.

While the cell is fresh it also tells the next fires and what defining it did. What a saved notebook keeps has
neither: no clock times, so that Run All does not dirty a repository.
"""

from __future__ import annotations

import contextvars
import html
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from car_sched_nb.model import Task, Trigger
from car_sched_nb.store.retention import kept_in_words
from car_sched_nb.triggers import upcoming, words
from car_sched_nb.when import format_instant

_FRESH_S = 6.0

LIFE = "runs while this kernel lives; survives closing the tab, not a restart"

_PLACES = {"loop": " on the loop", "thread": " in a thread", "process": " in a process"}

_STYLE = (
    "font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);border-left:3px solid var(--jp-brand-color1,#1976d2);"
    "padding:4px 12px;margin:2px 0;color:var(--jp-ui-font-color1,inherit)"
)
_QUIET = "color:var(--jp-ui-font-color2,#6b6b6b)"


def lines_of(task: Task, namespace: str, *, live: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the card as (kind, text): name, what, live ..., life."""
    where = f"{task.runner}{_PLACES.get(task.executor, '')}"
    parts = [where, words(task)]
    if task.trigger is Trigger.CRON:
        parts.append(f"cron {task.schedule}")  # a phrase is echoed as what it became
    if task.into:
        parts.append(f"into {task.into}")
    if task.keep:
        parts.append(kept_in_words(task.keep))
    return [
        ("name", task.name),
        ("what", " · ".join(parts)),
        *[("live", text) for text in live],
        ("life", f"{namespace} · {LIFE}"),
    ]


def next_fires(task: Task, now_us: int, count: int = 3) -> list[str]:
    """Return the next planned instants in words, with their zone."""
    fires = islice(upcoming(task, now_us - 1_000_000), count)
    return [format_instant(fire.at_us, task.tz or None) for fire in fires]


def fresh_lines(task: Task, change: str, now_us: int, notes: Sequence[str]) -> list[str]:
    """Return what is true now: status, what defining it did, notes, and the next fires."""
    said = {
        "new": "new",
        "unchanged": "unchanged: nothing happens, what was served does not run again",
        "body": "changed: the new version runs from its next start; what was served does not run again",
        "slots": "changed schedule: its slots start afresh",
        "keep": "changed: how much of its history is kept; nothing else",
        "test": "ran once here; nothing was stored",
        "dry-run": "dry run: nothing was stored",
    }[change]
    if change == "unchanged" and task.trigger is Trigger.MANUAL:
        said = "unchanged"
    lines = [said, *notes]
    if not task.enabled:
        lines.append(f"paused, and stays so: %car resume {task.name}")
    fires = next_fires(task, now_us)
    if fires:
        lines.append("next " + _listed(fires))
    if change == "body" and task.trigger is not Trigger.MANUAL:
        lines.append(f"run it now: %car run {task.name}")
    return lines


def _listed(instants: Sequence[str]) -> str:
    """List instants; a day and a zone that all share is said once."""
    days, times, zones = zip(*((t[:14], t[15:23], t[24:]) for t in instants), strict=True)
    if len(set(days)) == len(set(zones)) == 1:
        return f"{days[0]} {', '.join(times)} {zones[0]}"
    return ", ".join(instants)


def bundle(lines: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the card as text and as HTML; every text is escaped."""
    plain = "\n".join(f"{'' if kind == 'name' else '  '}{text}" for kind, text in lines)
    # What is true now stands beside the name, so that the card keeps its height when that is taken away.
    live = html.escape(" · ".join(text for kind, text in lines if kind == "live"))
    parts = []
    for kind, text in lines:
        safe = html.escape(text)
        match kind:
            case "name":
                beside = f' <span style="margin-left:8px;{_QUIET}">{live}</span>' if live else ""
                parts.append(f"<div><strong>{safe}</strong>{beside}</div>")
            case "what":
                parts.append(f"<div>{safe}</div>")
            case "life":
                parts.append(f'<div style="{_QUIET}">{safe}</div>')
    return {"text/plain": plain, "text/html": f'<div style="{_STYLE}">{"".join(parts)}</div>'}


def show(task: Task, namespace: str, change: str, notes: Sequence[str] = ()) -> None:
    """Display the card, and some seconds later what a saved notebook keeps of it."""
    from IPython.display import display

    fresh = bundle(lines_of(task, namespace, live=fresh_lines(task, change, time.time_ns() // 1000, notes)))
    handle: Any = display(fresh, raw=True, display_id=True)  # type: ignore[no-untyped-call]
    if handle is None:
        return
    quiet = bundle(lines_of(task, namespace))
    # In the cell's own context: a front end must know whose output is replaced.
    timer = threading.Timer(_FRESH_S, contextvars.copy_context().run, (lambda: handle.update(quiet, raw=True),))
    timer.daemon = True
    timer.start()
