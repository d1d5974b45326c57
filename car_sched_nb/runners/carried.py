"""Values on their way into a process and back: what cannot be carried is named."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from car_sched_nb.errors import BodyFailed
from car_sched_nb.executors import wire
from car_sched_nb.tracebacks import words_of


class CannotBeCarried(BodyFailed):
    """Raised when a body reads values that no other process can be given, or leaves such that are needed here."""

    def __init__(self, refused: Mapping[str, str], *, back: bool = False) -> None:
        listed = "; ".join(f"{name} {reason}" for name, reason in refused.items())
        where, instead = (
            ("back from its process", "Leave plain values, such as a list or a DataFrame")
            if back
            else ("into a process", "Make it inside the body")
        )
        super().__init__(
            f"cannot be carried {where}: {listed}. {instead}, or leave --executor process away", "PicklingError"
        )


def send_values(link: wire.Link, values: Mapping[str, Any], perhaps: Mapping[str, Any]) -> None:
    """Send a body its names; in a thread, because it takes as long as they are large.

    Parameters
    ----------
    values
        What it reads.
    perhaps
        What it may read; what of it cannot be carried stays here.

    Raises
    ------
    CannotBeCarried
        Which names, of which types, and why.
    OSError
        When the other side is gone.
    """
    going = {**values, **{name: value for name, value in perhaps.items() if _refusal(value) is None}}
    failed: OSError | None = None

    def send(kind: bytes, body: Any) -> None:
        nonlocal failed
        try:
            link.send(kind, body)
        except OSError as error:
            failed = error
            raise

    try:
        _dump(going, send)
    except Exception as error:  # noqa: BLE001 - the same
        if failed is not None:
            raise failed from None
        refused = {repr(name): said for name, value in values.items() if (said := _refusal(value)) is not None}
        raise CannotBeCarried(refused or {", ".join(map(repr, values)): f"({words_of(error)})"}) from None
    link.send(wire.WHOLE)


def _dump(value: Any, send: wire.Send) -> None:
    outlet = wire.Outlet(send)
    cloudpickle.Pickler(outlet, 5, buffer_callback=outlet.buffer).dump(value)


def _refusal(value: Any) -> str | None:
    """Return why a value cannot be carried, or None."""
    with contextlib.suppress(BufferError):
        try:
            _dump(value, lambda kind, body: None)
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            return f"({type_name(value)}: {words_of(error)})"
    return None


def type_name(value: Any) -> str:
    """Return the name of a value's type as its author knows it."""
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


class Unpickler(pickle.Unpickler):
    """Reads what a process sends back; classes of the notebook that come back are the notebook's own.

    cloudpickle finds the class again by its number, and then sets all its attributes to the copies that come with
    it: the notebook's class would have the process's methods. Here it keeps its own.
    """

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        tracked = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ())
        self._ours = list(tracked)

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return self._unless_ours(found) if name == "_class_setstate" else found

    def _unless_ours(self, set_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def keep(cls: Any, state: Any) -> Any:
            return cls if any(cls is one for one in self._ours) else set_state(cls, state)

        return keep
