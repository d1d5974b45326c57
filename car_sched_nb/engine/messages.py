"""What a message says: short, with no secret in it, and one for many tasks that fail at the same moment. Pure."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from car_sched_nb.durations import format_duration
from car_sched_nb.engine.edges import Turn, error_text
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Execution, Task
from car_sched_nb.output import clean, clip
from car_sched_nb.store.outbox import Delivery

MOST = 1_500
"""Characters of a message."""

_LINES = 5  # of an error
_NAMED = 3  # tasks in the title of a joined message
_LISTED = 20  # notices in its text
_SHORT = 4  # characters: what is shorter than this is a word, not a secret
_PIECE = 8  # characters: a path's or a query's part of an address that may be a token
_WHEN = "%Y-%m-%d %H:%M:%S %Z"


def named(setting: str) -> str:
    """Return NAME of `env:NAME`."""
    return setting.removeprefix("env:")


def check_named(option: str, given: str) -> str:
    """Return `env:NAME`, or refuse it.

    Raises
    ------
    InvalidInput
        For an address itself: it has secrets, which would be kept in the notebook and in the store.
    """
    kind, _, name = given.strip().partition(":")
    if kind == "env" and name.isidentifier() and name.isascii():
        return f"env:{name}"
    if "://" in given:
        raise InvalidInput(
            f"{option} takes no address, because it is a secret: put it into an environment variable before the "
            f"kernel starts, for example CAR_URL, and write {option} env:CAR_URL"
        )
    raise InvalidInput(f"{option} is env:NAME, the environment variable that has the address, not {given!r}")


def secrets_of(names: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return what must never be in a text: the values of these variables, and the parts of addresses among them."""
    found: set[str] = set()
    for value in filter(None, (environment.get(name) for name in names)):
        found.update(part for part in (value, *value.split()) if len(part) >= _SHORT)
        for address in addresses(value):
            found.update(_parts(address))
    return sorted(found, key=len, reverse=True)


def addresses(text: str) -> list[str]:
    """Return the URLs in a text, separated by blanks, commas or lines."""
    parts = re.split(r"\s+|,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)", text)
    return [part.strip(",") for part in parts if "://" in part]


def _parts(address: str) -> Iterable[str]:
    place, *others = re.split(r"[/?#&=,;]", address.partition("://")[2])
    login, at, _ = place.rpartition("@")
    yield address
    for password in login.split(":")[1:] if at else ():
        yield from (part for part in (password, unquote(password)) if len(part) >= _SHORT)
    user = login.split(":")[0]
    # A host's name stays readable: it has dots; what stands in its place in some addresses is a token and has none.
    tokens = [part for part in place.split(":") if "." not in part and part != "localhost"] if not at else []
    yield from (one for part in (user, *others, *tokens) if len(part) >= _PIECE for one in (part, unquote(part)))


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def of_task(task: Task) -> list[str]:
    """Return the names of the variables that a task's texts must not show."""
    return [*task.env, *([task.key_env] if task.key_env else []), *([named(task.ping)] if task.ping else [])]


def said(execution: Execution) -> str:
    """Return the first lines of what an execution ended with."""
    text = error_text(execution.error, execution.error_type) or execution.answer or ""
    return clip("\n".join(text.strip().splitlines()[:_LINES]), MOST // 2)


def title(task: str, turned: Turn, kind: str) -> str:
    """Return `prices failed`, or `prices recovered after 12 failures`."""
    if kind == "recovered":
        return f"{task} recovered after {turned.in_a_row} failure{'s' * (turned.in_a_row != 1)}"
    return f"{task} {kind}"


def body(execution: Execution, text: str, since_us: int | None) -> str:
    """Return what happened, when, where, and for how long it had been failing."""
    lines = [text, ""] if text else []
    ended = execution.finished_at
    if ended is not None:
        lines.append(f"when: {ended.astimezone().strftime(_WHEN)}")
        if since_us is not None:
            lasted = max(round(ended.timestamp() - since_us / 1e6), 1)
            lines.append(f"failing for: {format_duration(lasted * 1_000_000)}")
    lines += [f"notebook: {execution.namespace}", f"execution: {execution.execution_id}"]
    return clean("\n".join(lines))


def joined(deliveries: Sequence[Delivery]) -> tuple[str, str]:
    """Return (title, body) of one message about some notices."""
    if len(deliveries) == 1:
        return deliveries[0].title, clip(deliveries[0].body, MOST)
    kinds = Counter(one.kind for one in deliveries)
    names = list(dict.fromkeys(one.task for one in deliveries))
    if len(kinds) == 1:
        told = f"{len(names)} task{'s' * (len(names) != 1)} {deliveries[0].kind}"
    else:
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    lines = [f"{one.title}: {one.body.partition(chr(10))[0]}"[:200] for one in deliveries[:_LISTED]]
    if len(deliveries) > _LISTED:
        lines.append(f"... and {len(deliveries) - _LISTED} more")
    return f"{told}: {listed}", clip("\n".join(lines), MOST)
