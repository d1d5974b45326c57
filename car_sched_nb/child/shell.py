"""The notebook's shell in a body's own process: magics, `!commands`, `display` and the text of answers."""

from __future__ import annotations

import base64
from collections.abc import Callable
from types import ModuleType
from typing import Any

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


class _Publisher(DisplayPublisher):
    """Sends what is displayed to the kernel."""

    send: Callable[..., None]
    clear: Callable[[], None]

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> None:  # type: ignore[override]
        self.send(
            {mime: _plain(value) for mime, value in data.items()},
            text=str(data.get("text/plain", "")),
            metadata=metadata or None,
            display_id=(options.get("transient") or {}).get("display_id"),
            update=bool(options.get("update")),
        )

    def clear_output(self, wait: bool = False) -> None:
        self.clear()


def make(module: ModuleType, show: Callable[..., None], clear: Callable[[], None]) -> InteractiveShell:
    """Make the one shell of this process."""
    config = Config()
    config.HistoryManager.enabled = False
    _Publisher.send, _Publisher.clear = staticmethod(show), staticmethod(clear)
    shell: Any = InteractiveShell.instance(
        config=config, user_module=module, user_ns=vars(module), display_pub_class=_Publisher
    )
    # The other one starts commands at a terminal of their own, in a session that a cancel would not find.
    shell.system = shell.system_raw
    made: InteractiveShell = shell
    return made


def text(shell: InteractiveShell, result: Any) -> str:
    """Return a result as the notebook would print it."""
    if shell.display_formatter is None:
        return repr(result)
    formatted, _ = shell.display_formatter.format(result, include={"text/plain"})  # type: ignore[no-untyped-call]
    return str(formatted.get("text/plain", repr(result)))


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
