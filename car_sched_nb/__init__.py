"""Background and scheduled tasks that live in a Jupyter notebook.

`%load_ext car_sched_nb`, then write `%%car_task NAME --every 5m` over a cell. In a script:
`async with car.Scheduler("tasks.db") as s: await s.add(car.Task("hello", "print('hi')", "interval", "5m"))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from car_sched_nb.engine.events import Event as Event
    from car_sched_nb.engine.handle import TaskHandle as TaskHandle
    from car_sched_nb.engine.scheduler import Scheduler as Scheduler
    from car_sched_nb.errors import CarError as CarError
    from car_sched_nb.errors import InvalidInput as InvalidInput
    from car_sched_nb.errors import StoreError as StoreError
    from car_sched_nb.errors import UnknownTask as UnknownTask
    from car_sched_nb.model import Cause as Cause
    from car_sched_nb.model import Execution as Execution
    from car_sched_nb.model import Status as Status
    from car_sched_nb.model import Task as Task
    from car_sched_nb.model import TaskStatus as TaskStatus
    from car_sched_nb.model import Trigger as Trigger
    from car_sched_nb.notebook import plot as plot
    from car_sched_nb.notebook.decorator import on as on
    from car_sched_nb.notebook.decorator import runner as runner
    from car_sched_nb.notebook.decorator import task as task
    from car_sched_nb.notebook.verbs import adopt as adopt
    from car_sched_nb.notebook.verbs import answers as answers
    from car_sched_nb.notebook.verbs import archive as archive
    from car_sched_nb.notebook.verbs import arm as arm
    from car_sched_nb.notebook.verbs import artifact as artifact
    from car_sched_nb.notebook.verbs import backfill as backfill
    from car_sched_nb.notebook.verbs import cancel as cancel
    from car_sched_nb.notebook.verbs import config as config
    from car_sched_nb.notebook.verbs import dashboard as dashboard
    from car_sched_nb.notebook.verbs import debug as debug
    from car_sched_nb.notebook.verbs import delete as delete
    from car_sched_nb.notebook.verbs import edit as edit
    from car_sched_nb.notebook.verbs import export as export
    from car_sched_nb.notebook.verbs import help as help
    from car_sched_nb.notebook.verbs import history as history
    from car_sched_nb.notebook.verbs import list as list
    from car_sched_nb.notebook.verbs import logs as logs
    from car_sched_nb.notebook.verbs import mailbox as mailbox
    from car_sched_nb.notebook.verbs import maintain as maintain
    from car_sched_nb.notebook.verbs import maintenance as maintenance
    from car_sched_nb.notebook.verbs import model_get as model_get
    from car_sched_nb.notebook.verbs import models as models
    from car_sched_nb.notebook.verbs import namespace as namespace
    from car_sched_nb.notebook.verbs import outputs as outputs
    from car_sched_nb.notebook.verbs import pause as pause
    from car_sched_nb.notebook.verbs import preview as preview
    from car_sched_nb.notebook.verbs import resume as resume
    from car_sched_nb.notebook.verbs import run as run
    from car_sched_nb.notebook.verbs import run_now as run_now
    from car_sched_nb.notebook.verbs import scheduler as scheduler
    from car_sched_nb.notebook.verbs import send as send
    from car_sched_nb.notebook.verbs import show as show
    from car_sched_nb.notebook.verbs import slots as slots
    from car_sched_nb.notebook.verbs import state as state
    from car_sched_nb.notebook.verbs import summary as summary
    from car_sched_nb.notebook.verbs import tasks as tasks
    from car_sched_nb.notebook.verbs import transcript as transcript
    from car_sched_nb.notebook.verbs import wait as wait
    from car_sched_nb.runners.base import AgentOutput as AgentOutput
    from car_sched_nb.runners.base import AgentRunner as AgentRunner
    from car_sched_nb.runners.base import AgentSpec as AgentSpec
    from car_sched_nb.runners.base import Runtime as Runtime
    from car_sched_nb.runners.base import SharedInfra as SharedInfra
    from car_sched_nb.runners.base import current as current
    from car_sched_nb.runners.mail import Mailbox as Mailbox
    from car_sched_nb.runners.mail import State as State
    from car_sched_nb.runners.track import progress as progress
    from car_sched_nb.runners.track import track as track

__version__ = "0.1.0"

# Names are loaded when they are used: importing the package, and `%load_ext`, stay quick.
_HOMES = {
    "engine.events": "Event",
    "engine.handle": "TaskHandle",
    "engine.scheduler": "Scheduler",
    "errors": "CarError InvalidInput StoreError UnknownTask",
    "model": "Cause Execution Status Task TaskStatus Trigger",
    "notebook.decorator": "on runner task",
    "notebook.verbs": "adopt answers archive arm artifact backfill cancel config dashboard debug delete edit export "
    "help history list logs mailbox maintain maintenance model_get models namespace outputs pause preview resume run "
    "run_now scheduler send show slots state summary tasks transcript wait",
    "runners.base": "AgentOutput AgentRunner AgentSpec Runtime SharedInfra current",
    "runners.mail": "Mailbox State",
    "runners.track": "progress track",
}
_MODULES = {"plot": "notebook.plot"}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

# `car.list` and `car.help` are meant; `from car_sched_nb import *` must not replace the builtins of these names.
_HERE = ("__version__", "load_ipython_extension", "unload_ipython_extension")
__all__ = sorted({*_HOME, *_MODULES, *_HERE} - {"help", "list"})  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    value: Any
    if name in _MODULES:
        value = import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> Sequence[str]:
    return __all__


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Load into a kernel: register `%%car_task` and `%car`; nothing stored runs by it."""
    from car_sched_nb.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take everything off again; what runs is stopped."""
    from car_sched_nb.notebook.extension import unload

    unload(shell)
