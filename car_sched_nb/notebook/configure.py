"""`%car config`: settings of a notebook, or of all notebooks of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from car_sched_nb.engine.check import checked_setting
from car_sched_nb.engine.messages import named
from car_sched_nb.errors import InvalidInput
from car_sched_nb.store import retention, settings, tidying
from car_sched_nb.when import format_instant

if TYPE_CHECKING:
    from car_sched_nb.notebook.session import Session

_WHAT = {
    "notify": "where notices go",
    "model": "an agent's model",
    "keep": "how much history is kept of each task that has no --keep of its own",
    "keep_files": "how long output files are kept",
}

_UNSET = {"keep": retention.ALL, "keep_files": tidying.KEEP}


def change(
    session: Session, given: Mapping[str, str | None], *, everywhere: bool = False, test: bool = False
) -> dict[str, str | None]:
    """Keep what is given, send a test message if that is wanted, and return what is in force."""
    values = {name: checked_setting(name, value) for name, value in given.items() if value is not None}
    namespace = session.namespace.name
    if values:
        with session.store.transaction() as db:
            for name, value in values.items():
                settings.put(db, settings.EVERYWHERE if everywhere else namespace, name, value)
    if test and (missed := [text for text, arrived in _test(session) if not arrived]):
        raise InvalidInput("; ".join(missed))
    found = settings.in_force(session.store, namespace)
    return {name: found.get(name) for name in settings.NAMES}


def shown(session: Session) -> str:
    """Return the settings as lines, with what is amiss."""
    found = settings.in_force(session.store, session.namespace.name)
    own = settings.own(session.store, session.namespace.name)
    lines = []
    for name in settings.NAMES:
        value = found.get(name)
        note = "" if value is None or name in own else "  (for all notebooks)"
        if name == "notify" and value is not None and not os.environ.get(named(value)):
            note += f"  ({named(value)} is not set in this kernel: set it before the kernel starts, or in os.environ)"
        lines.append(f"{name.replace('_', '-'):<12}{value or _UNSET.get(name, 'not set'):<20}{_WHAT[name]}{note}")
    return "\n".join([*lines, f"{'maintenance':<12}{maintained(session)}"])


def maintained(session: Session) -> str:
    """Return when a maintenance was last done and what it removed, and the last that removed something."""
    done = retention.maintained(session.store)
    if not done:
        return "not done yet"
    last = f"{format_instant(done[0].at_us)}: {done[0]}"
    before = next((one for one in done[1:] if one), None)
    return last if done[0] or before is None else f"{last}; {format_instant(before.at_us)}: {before}"


def tested(session: Session) -> str:
    """Send a test message and return how that went, a line for each service."""
    return "\n".join(text for text, _ in _test(session))


def _test(session: Session) -> list[tuple[str, bool]]:
    attempts = session.call(lambda s: s.test_notice())
    return [(f"{one.service}: {one.reason or 'sent'}", not one.reason) for one in attempts]
