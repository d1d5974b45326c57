"""`%load_ext car_sched_nb`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from car_sched_nb.errors import CarError
from car_sched_nb.notebook import session as sessions
from car_sched_nb.notebook.completion import Matcher
from car_sched_nb.notebook.digest import digest
from car_sched_nb.notebook.magics import CarMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_matcher: Any = None


def load(shell: InteractiveShell) -> None:
    """Register the magics and say what the store holds; nothing of it runs."""
    global _matcher  # noqa: PLW0603 - one shell, one matcher
    try:
        session = sessions.open_session(shell)
    except CarError as error:
        # A store that cannot be used is told in its own words, without a traceback.
        raise UsageError(str(error)) from None
    shell.register_magics(CarMagics(shell, session))
    shell.events.register("pre_run_cell", session.pre_run_cell)
    shell.events.register("post_run_cell", session.post_run_cell)
    _matcher = Matcher(session).complete
    shell.Completer.custom_matchers.append(_matcher)
    told = digest(session)
    if told:
        print(told)


def unload(shell: InteractiveShell) -> None:
    """End the engine and take everything off again."""
    session = sessions.current_session()
    shell.events.unregister("pre_run_cell", session.pre_run_cell)
    shell.events.unregister("post_run_cell", session.post_run_cell)
    if _matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(_matcher)
    for kind, name in (("cell", "car_task"), ("line", "car")):
        shell.magics_manager.magics[kind].pop(name, None)  # IPython has no way to unregister
    sessions.close_session()
