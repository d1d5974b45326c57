"""What bodies print and display stays with their execution: the kernel's own streams and `display`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from car_sched_nb.displayed import as_kept
from car_sched_nb.notebook import commands, figures, guests, redirect
from car_sched_nb.output import current_output, route_streams

_WIDGET = "application/vnd.jupyter.widget-view+json"

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def install(shell: InteractiveShell) -> Callable[[], None]:
    """Route streams and `display` to the execution that uses them; return what takes it off again."""
    taken_off = [route_streams(), figures.install(), redirect.install(), guests.install(), commands.install(shell)]
    publisher = shell.display_pub
    publish = publisher.publish

    def routed(data: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> None:
        output = current_output.get()
        if output is None:
            publish(data, metadata, **options)
            return
        shown = as_kept(data, metadata, options.get("transient"), options.get("update"))
        widget = data.get(_WIDGET)
        model_id = str(widget.get("model_id", "")) if isinstance(widget, dict) else ""
        region = guests.region_of(model_id)
        if region is not None:
            shown["bundle"], shown["text"] = region.bundle()
        shown["display_id"] = shown["display_id"] or model_id or None
        output.show(**shown)

    clear = publisher.clear_output

    def routed_clear(wait: bool = False) -> None:
        output = current_output.get()
        if output is None:
            clear(wait)  # type: ignore[no-untyped-call]
        else:
            output.clear()

    show_traceback = shell._showtraceback  # noqa: SLF001 - all of IPython's tracebacks come through it

    def routed_traceback(kind: Any, error: Any, lines: list[str]) -> None:
        output = current_output.get()
        if output is None:
            show_traceback(kind, error, lines)
        else:
            output.write("\n".join(lines) + "\n", "stderr")

    shell._showtraceback = routed_traceback  # type: ignore[assignment,method-assign]  # noqa: SLF001 - the same
    publisher.clear_output = routed_clear  # type: ignore[method-assign]
    publisher.publish = routed  # type: ignore[method-assign,assignment]

    def restore() -> None:
        for take_off in taken_off:
            take_off()
        if publisher.clear_output is routed_clear:
            publisher.clear_output = clear  # type: ignore[method-assign]
        if shell._showtraceback is routed_traceback:  # noqa: SLF001 - the same
            shell._showtraceback = show_traceback  # type: ignore[method-assign]  # noqa: SLF001 - the same
        if publisher.publish is routed:
            publisher.publish = publish  # type: ignore[method-assign]

    return restore
