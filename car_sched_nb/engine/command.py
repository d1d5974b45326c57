"""`--on-failure CMD`: a shell command that is run at the first failure in a row."""

from __future__ import annotations

import anyio
import msgspec

from car_sched_nb.engine.edges import Turn
from car_sched_nb.engine.messages import masked, of_task, secrets_of
from car_sched_nb.engine.run import Run
from car_sched_nb.engine.source import RunSource, Told
from car_sched_nb.errors import BodyFailed
from car_sched_nb.model import Execution
from car_sched_nb.output import Output, clean, clip
from car_sched_nb.runners.base import Work
from car_sched_nb.runners.shell import ShellRunner

TIMEOUT_S = 60.0
"""Seconds until a command is ended."""

_SHOWN = 300
_shell = ShellRunner()


async def run_command(running: Told, run: Run, turned: Turn, owner: str, error: str) -> str:
    """Run a task's command as a shell body is run; return why it failed, if it did.

    What failed travels in the environment, never inside the command. A cancellation ends all that it started.
    """
    secrets = secrets_of(of_task(run.task))

    def told(text: str) -> str:  # masked first: half a secret, or one in another form, is not known
        return clip(" ".join(masked(run.output.masked(text), secrets).split()), _SHOWN)

    task = msgspec.structs.replace(
        run.task, prompt=run.task.on_failure, runner="shell", executor="", argv=False, memory="", into="", timeout=""
    )
    source = RunSource(running, Run(task, run.row, run.params, Output()))
    work = Work(source, running.infra, owner, _environment(run.execution, turned, error))
    with anyio.move_on_after(TIMEOUT_S) as limit:
        try:
            await _shell.run(work)
        except BodyFailed as failed:
            return told(str(failed))
        except Exception as failed:  # noqa: BLE001 - no shell, no process: told, and the engine goes on
            return told(f"{type(failed).__name__}: {failed}")
    return f"did not end within {TIMEOUT_S:g} s" if limit.cancelled_caught else ""


def _environment(execution: Execution, turned: Turn, error: str) -> dict[str, str]:
    return {
        "CAR_STATUS": execution.status.value,
        "CAR_ERROR": clean(error),
        "CAR_ERROR_TYPE": clean(execution.error_type or ""),
        "CAR_NAMESPACE": clean(execution.namespace),
        "CAR_FAILURES": str(turned.in_a_row),
    }
