"""Where messages go: services by apprise, and addresses that are pinged. Blocks; runs in a thread of its own.

No text that leaves here has any part of an address that may be a secret.
"""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from car_sched_nb.engine.messages import addresses, joined, masked, named, secrets_of
from car_sched_nb.errors import InvalidInput
from car_sched_nb.output import clip
from car_sched_nb.store.outbox import Delivery

PING_S = 10.0
_REASON = 200
_LOUD = ("apprise", "urllib3.connectionpool")
"""Loggers that tell addresses."""


class Attempt(msgspec.Struct, frozen=True):
    """What became of a message at one service: `reason` is empty when it arrived."""

    place: int
    """Of its URL in the variable."""
    service: str
    reason: str = ""


def deliver(setting: str, deliveries: Sequence[Delivery]) -> list[Attempt]:
    """Send to each service what it does not have yet, as one message; return what became of each.

    Raises
    ------
    InvalidInput
        When nothing can be sent at all; the message says what to do.
    """
    apprise = apprise_or_refuse()
    name = named(setting)
    found = addresses(os.environ.get(name, ""))
    if not found:
        raise InvalidInput(f"the environment variable {name} has no address such as mailto://... in it")
    secrets = secrets_of([name])
    attempts = []
    for place, address in enumerate(found):
        wanted = [one for one in deliveries if place not in one.done]
        with _quiet(secrets) as heard:
            service = apprise.Apprise.instantiate(address)
            if service is None:
                attempts.append(Attempt(place, f"address {place + 1} in {name}", "apprise does not understand it"))
                continue
            reason = ""
            if wanted:
                title, body = joined(wanted)
                kind = apprise.NotifyType.FAILURE if wanted[-1].kind == "failed" else apprise.NotifyType.INFO
                sender = apprise.Apprise()
                sender.add(service)
                reason = _reason(
                    lambda: sender.notify(  # noqa: B023 - called at once
                        title=masked(title, secrets),  # noqa: B023
                        body=masked(body, secrets),  # noqa: B023
                        notify_type=kind,  # noqa: B023
                        body_format=apprise.NotifyFormat.TEXT,
                    ),
                    heard,
                )
        attempts.append(Attempt(place, _called(service), clip(masked(reason, secrets), _REASON)))
    return attempts


def _reason(send: Callable[[], object], heard: list[str]) -> str:
    try:
        if send():
            return ""
    except Exception as error:  # noqa: BLE001 - whatever a service's plugin does, it is told and tried again
        return f"{type(error).__name__}: {error}"
    return heard[-1] if heard else "it was not taken"


def _called(service: Any) -> str:
    """Return a service's name, with its host where that is one: in some addresses a token stands there."""
    name = str(service.service_name)
    templates = [str(one) for one in service.templates]
    if service.host and templates and all("{host}" in one for one in templates):
        return f"{name} at {service.host}"
    return name


def apprise_or_refuse() -> Any:
    """Return the library that knows a hundred services.

    Raises
    ------
    InvalidInput
        When it is not installed, with the command that does.
    """
    try:
        import apprise
    except ImportError:
        raise InvalidInput('notices need the extra: pip install "car-sched-nb[notify]"') from None
    return apprise


class _Filter(logging.Filter):
    """Masks what loggers tell of addresses, and keeps what apprise says for the warning."""

    def __init__(self, secrets: Sequence[str], heard: list[str]) -> None:
        super().__init__()
        self._secrets = secrets
        self._heard = heard

    def filter(self, record: logging.LogRecord) -> bool:
        text = masked(record.getMessage(), self._secrets)
        if record.name == "apprise":
            if record.levelno >= logging.WARNING:
                self._heard.append(text)
            return False  # it is told once, as a warning of ours
        record.msg, record.args = text, ()
        return True


@contextmanager
def _quiet(secrets: Sequence[str]) -> Iterator[list[str]]:
    """Keep addresses out of the log; yield what apprise had to say."""
    heard: list[str] = []
    quiet = _Filter(secrets, heard)
    for name in _LOUD:
        logging.getLogger(name).addFilter(quiet)
    try:
        yield heard
    finally:
        for name in _LOUD:
            logging.getLogger(name).removeFilter(quiet)


def ping(setting: str) -> Attempt:
    """Fetch the address that a variable has; return what became of it."""
    name = named(setting)
    address = os.environ.get(name, "").strip()
    if not address:
        return Attempt(0, f"the ping ({setting})", f"the environment variable {name} is not set")
    try:
        parts = urlsplit(address)
        service = f"the ping to {parts.hostname}"
    except ValueError:
        return Attempt(0, f"the ping ({setting})", f"what {name} has is no address")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Attempt(0, f"the ping ({setting})", f"what {name} has is no http:// or https:// address")
    return Attempt(0, service, clip(masked(_fetch(address), secrets_of([name])), _REASON))


def _fetch(address: str) -> str:
    """Fetch an address, whose answer nobody reads; return why that failed."""
    import urllib.error
    import urllib.request

    parts = urlsplit(address)
    login, at, place = parts.netloc.rpartition("@")  # left in, it would be looked up as a part of the host's name
    bare = urlunsplit(parts._replace(netloc=place))
    request = urllib.request.Request(bare, headers={"User-Agent": "car_sched_nb"})  # noqa: S310 - the caller looked
    if at:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(login).encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=PING_S):  # noqa: S310 - the same
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except Exception as error:  # noqa: BLE001 - an odd answer, or an address that http.client refuses and quotes
        return type(error).__name__
