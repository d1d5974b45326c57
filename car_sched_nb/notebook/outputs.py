"""`car.logs` and `car.outputs`: what an execution wrote and displayed, while it runs and long after."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, overload

import msgspec

from car_sched_nb.errors import InvalidInput, UnknownTask
from car_sched_nb.model import Execution, from_us
from car_sched_nb.pieces import left, pieces
from car_sched_nb.returns import collapse, plain
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore

_WIDGET = "application/vnd.jupyter.widget-view+json"


class Item(NamedTuple):
    """One part of what an execution wrote."""

    kind: str
    """stdout, stderr, display, traceback (or the error alone, where there is none)."""
    at: datetime | None
    """When it began (UTC); None where that is not known any more."""
    text: str
    bundle: dict[str, Any] | None = None
    """What was displayed, by MIME type."""
    metadata: Any = None


class Outputs(Sequence[Item]):
    """What an execution wrote and displayed, in order; shown in a notebook, all of it is drawn again."""

    def __init__(self, execution_id: str, items: Sequence[Item], left_out: int) -> None:
        self.execution_id = execution_id
        self._items = items
        self._left = left_out

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return self._items[index]

    @property
    def text(self) -> str:
        """All of it as text, without colours."""
        return plain("".join(item.text for item in self._items))

    @property
    def displays(self) -> list[dict[str, Any]]:
        """What was displayed: MIME bundles."""
        return [item.bundle for item in self._items if item.bundle is not None]

    def __repr__(self) -> str:
        shown = len(self.displays)
        return f"<Outputs of {self.execution_id}: {len(self.text):,} characters, {shown} display{'s' * (shown != 1)}>"

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        for item in self._items:
            if item.bundle is not None:
                publish_display_data(_drawable(item.bundle), item.metadata or {})  # type: ignore[no-untyped-call]
            else:
                stream = sys.stdout if item.kind == "stdout" else sys.stderr
                stream.write(item.text)
                stream.flush()  # a kernel sends each stream when it likes; only so they come in order
        if self._left:
            sys.stderr.write(f"... {self._left:,} more display{'s' * (self._left != 1)} not kept ...\n")
        if not self._items:
            print(f"{self.execution_id} has written nothing")


def _drawable(bundle: dict[str, Any]) -> dict[str, Any]:
    """Leave out a widget that this kernel does not have any more: a front end would show an error in its place."""
    model = bundle.get(_WIDGET)
    if not isinstance(model, dict):
        return bundle
    widgets = sys.modules.get("ipywidgets.widgets.widget")
    if widgets is not None and model.get("model_id") in widgets._instances:  # noqa: SLF001 - no public way to ask
        return bundle
    return {mime: value for mime, value in bundle.items() if mime != _WIDGET}


class Written(NamedTuple):
    """What is there of an execution now."""

    execution_id: str
    text: str
    displays: list[dict[str, Any]]
    marks: str | None
    traceback: str
    path: str | None


def find(store: SqliteStore, namespace: str | None, given: str | Execution, execution_id: str | None) -> str | None:
    """Return the id of an execution: given itself, by its id, or the newest of a task, also of one that was deleted.

    Raises
    ------
    InvalidInput, UnknownTask
        When there is none of that id or name. None for a task that has never run.
    """
    wanted = given.execution_id if isinstance(given, Execution) else execution_id
    if wanted is not None:
        if records.execution(store, wanted) is None:
            name = given.task if isinstance(given, Execution) else given
            raise InvalidInput(f"no execution has the id {wanted!r}; car.history({name!r}) lists them")
        return wanted
    name = str(given)
    found = records.newest_of(store, namespace, name)
    if found is None and records.execution(store, name) is not None:
        return name
    if found is None and not _is_task(store, namespace, name):
        raise UnknownTask(name, [] if namespace is None else records.names(store, namespace))
    return found


def _is_task(store: SqliteStore, namespace: str | None, name: str) -> bool:
    return any(task.name == name for task in records.tasks(store, namespace))


def stored(store: SqliteStore, execution_id: str) -> Written:
    """Return what the store keeps of an execution."""
    text, traceback, displays, marks, path = records.output(store, execution_id)
    if not traceback:  # a crash, a signal, a missing key: the error is all there is to say why
        found = records.execution(store, execution_id)
        traceback = f"{found.error}\n" if found and found.error else ""
        if traceback and text and not text.endswith("\n"):
            traceback = "\n" + traceback
    return Written(execution_id, text, msgspec.json.decode(displays or "[]"), marks, traceback, path)


def live(execution_id: str, output: Any) -> Written:
    """Return what an execution has written until now."""
    kept, path = output.kept(), output.path
    if kept is None:
        return Written(execution_id, "", [], None, "", None)
    shown = msgspec.json.decode(kept.displays or "[]")
    return Written(execution_id, kept.text, shown, kept.marks, "", str(path) if path else None)


def log(written: Written, *, full: bool) -> str:
    """Return it as text without colours, the traceback last; `full` reads the file, where there is one."""
    text = written.text
    if full and written.path is not None:
        try:
            text = collapse(Path(written.path).read_text(encoding="utf-8", errors="replace"))[0]
        except OSError:
            text += f"\n... the full text is gone: {written.path} was removed ...\n"
    return plain(text + written.traceback)


def outputs(written: Written) -> Outputs:
    """Return it piece by piece."""
    items = [
        Item(
            piece.kind,
            None if piece.at_us is None else from_us(piece.at_us),
            piece.text,
            None if piece.display is None else written.displays[piece.display],
            piece.metadata,
        )
        for piece in pieces(written.text, written.marks, len(written.displays))
    ]
    if written.traceback:
        items.append(Item("traceback", None, written.traceback))
    return Outputs(written.execution_id, items, left(written.marks))
