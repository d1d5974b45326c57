"""The files that executions leave: where they are, and a link that opens them."""

from __future__ import annotations

import html
import os
import shutil
from pathlib import Path
from urllib.parse import quote

from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Execution
from car_sched_nb.notebook.namespace import notebook_path, server_root
from car_sched_nb.notebook.session import Session
from car_sched_nb.store import records


class Artifact(os.PathLike[str]):
    """A file that an execution has left, such as the executed notebook; `Path(...)` and `open(...)` take it.

    In a notebook it shows a link, when the file lies below what the server shows.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"<Artifact {self.path}>"

    def copy(self, to: str | os.PathLike[str] | None = None) -> Artifact:
        """Copy it beside this notebook, or to a folder or file, and return the copy."""
        target = Path(to).expanduser() if to is not None else _here()
        if target.is_dir():
            target = target / self.path.name
        return Artifact(shutil.copy(self.path, target))

    def _repr_html_(self) -> str:
        name = html.escape(str(self.path))
        link = _link(self.path)
        if link is None:
            return (
                f"<code>{name}</code><br>It lies outside of what Jupyter shows here: <code>.copy()</code> puts it "
                "beside this notebook."
            )
        return f'<a href="{html.escape(link)}" target="_blank">{html.escape(self.path.name)}</a>'


def _here() -> Path:
    return Path(notebook_path() or Path.cwd() / "x").parent


def _link(path: Path) -> str | None:
    """Return where a page in this notebook finds a file, or None when the server does not show it."""
    root = server_root()
    if root is None or not path.is_relative_to(root):
        return None
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return None  # servers keep hidden files to themselves
    return quote(os.path.relpath(path, _here()))


def find(session: Session, name: str, execution_id: str | None = None) -> Artifact:
    """Return what an execution has left: the one of an id, or the newest of a task that has left something.

    Raises
    ------
    InvalidInput, UnknownTask
        When there is none.
    """
    path = _live(session, name, execution_id) or _stored(session, name, execution_id)
    if path is None:
        raise InvalidInput(f"{execution_id or name} has left no file; notebooks do, with --runner notebook")
    if not Path(path).exists():
        raise InvalidInput(f"the file {path} has been removed since")
    return Artifact(path)


def of(session: Session, execution: str | Execution) -> Artifact:
    """Do the same for an execution, an execution's id, or a task's name."""
    if isinstance(execution, Execution):
        return find(session, execution.task, execution.execution_id)
    found = records.execution(session.store, execution)
    return find(session, found.task, execution) if found else find(session, execution)


def _live(session: Session, name: str, execution_id: str | None) -> str | None:
    """Return what an execution that still runs has left so far."""
    runs = session.call_plain(lambda s: s.live(name)) if session.started else []
    noted = [run.noted for run in runs if run.noted and execution_id in (None, run.execution_id)]
    return noted[-1].artifact if noted else None


def _stored(session: Session, name: str, execution_id: str | None) -> str | None:
    sql = """SELECT o.artifact FROM executions e JOIN outputs o ON o.execution_id = e.execution_id
        WHERE o.artifact IS NOT NULL AND """
    if execution_id is not None:
        found = session.store.rows(f"{sql} e.execution_id = ?", execution_id)
    else:
        task = records.get(session.store, session.namespace.name, name)
        found = session.store.rows(f"{sql} e.task_id = ? ORDER BY e.seq DESC LIMIT 1", task.id)
    return str(found[0][0]) if found else None
