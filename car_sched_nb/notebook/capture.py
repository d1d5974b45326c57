"""What bodies print and display stays with their execution: the kernel's own streams and `display`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from car_sched_nb.notebook import figures, redirect
from car_sched_nb.output import current_output, route_streams

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MOST_DISPLAYS = 100


def install(shell: InteractiveShell) -> Callable[[], None]:
    """Route streams and `display` to the execution that uses them; return what takes it off again."""
    taken_off = [route_streams(), figures.install(), redirect.install()]
    publisher = shell.display_pub
    publish = publisher.publish

    def routed(data: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> None:
        output = current_output.get()
        if output is None:
            publish(data, metadata, **options)
            return
        if len(output.displays) < _MOST_DISPLAYS:
            output.displays.append({mime: _plain(value) for mime, value in data.items()})
        output.write(str(data.get("text/plain", "")) + "\n")

    clear = publisher.clear_output

    def routed_clear(wait: bool = False) -> None:
        output = current_output.get()
        if output is None:
            clear(wait)  # type: ignore[no-untyped-call]
        else:
            output.clear()

    publisher.clear_output = routed_clear  # type: ignore[method-assign]
    publisher.publish = routed  # type: ignore[method-assign,assignment]

    def restore() -> None:
        for take_off in taken_off:
            take_off()
        if publisher.clear_output is routed_clear:
            publisher.clear_output = clear  # type: ignore[method-assign]
        if publisher.publish is routed:
            publisher.publish = publish  # type: ignore[method-assign]

    return restore


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def show(shell: InteractiveShell, result: Any) -> str:
    """Return a result as the notebook would print it."""
    if shell.display_formatter is None:
        return repr(result)
    formatted, _ = shell.display_formatter.format(result, include={"text/plain"})  # type: ignore[no-untyped-call]
    return str(formatted.get("text/plain", repr(result)))
