"""The notebook's shell in a body's own process: magics, `!commands` and `display`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from car_sched_nb.displayed import as_kept


class _Publisher(DisplayPublisher):
    """Sends what is displayed to the kernel."""

    send: Callable[..., None]
    clear: Callable[[], None]

    def publish(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> None:  # type: ignore[override]
        self.send(**as_kept(data, metadata, options.get("transient"), options.get("update")))

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
