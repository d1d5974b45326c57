"""The cells of a notebook, run one by one; what they show goes to the execution as it comes.

Imports `nbclient`, so it is imported when it is used.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from car_sched_nb.displayed import as_kept
from car_sched_nb.errors import BodyFailed
from car_sched_nb.executors.kernel import Kernel
from car_sched_nb.output import Output
from car_sched_nb.runners.base import Progress
from car_sched_nb.runners.parameters import tags

MOST = 1024 * 1024
"""Characters that the kept notebook holds of what one cell printed; the execution's log has the rest."""
_LATE_S = 60  # how long output that the kernel has sent may be on its way
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NO_INPUT = "StdinNotImplementedError"
_silent = logging.getLogger("car_sched_nb.notebook.client")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False  # what it has to say is said by the errors


class Cells(NotebookClient):
    """Runs the code cells of a notebook in a kernel that is ready.

    Parameters
    ----------
    report
        Is told before each cell how far it has come.
    saved
        Called after each cell, however it ended.
    """

    def __init__(
        self,
        notebook: NotebookNode,
        kernel: Kernel,
        output: Output,
        report: Callable[[Progress], None],
        saved: Callable[[], None],
    ) -> None:
        kept = notebook.metadata
        super().__init__(
            notebook,
            km=kernel.manager,
            allow_errors=bool(kept.get("allow_errors") or kept.get("execution", {}).get("allow_errors")),
            coalesce_streams=True,
            iopub_timeout=_LATE_S,
            log=_silent,
            on_cell_error=self._note_error,
            on_cell_executed=self._note_reply,
        )
        self.kc = kernel.client
        self._kernel, self._output = kernel, output
        self._report, self._saved = report, saved
        self._todo = [index for index, cell in enumerate(notebook.cells) if self._runs(cell)]
        self._error: dict[str, Any] = {}
        self._exits = False
        self._printed = 0

    def _runs(self, cell: NotebookNode) -> bool:
        runs = cell.cell_type == "code" and bool(cell.source.strip())
        return runs and self.skip_cells_with_tag not in tags(cell)

    async def run(self) -> str:
        """Run all cells; return the result of the last as text.

        Raises
        ------
        BodyFailed
            With the cell that failed, and its traceback.
        """
        assert self.kc is not None
        info = await self.async_wait_for_reply(self.kc.kernel_info())
        if info is not None:
            self.nb.metadata["language_info"] = info["content"].get("language_info", {})
        count = len(self._todo)
        for done, index in enumerate(self._todo):
            cell = self.nb.cells[index]
            self._report(Progress(done, count, f"[{done + 1}/{count}] {_first_line(cell.source)}"))
            self._printed = 0
            try:
                await self.async_execute_cell(cell, index)
            except CellExecutionError as error:
                raise self._failure(done + 1) from error
            except DeadKernelError:
                raise BodyFailed(
                    f"cell {done + 1}: the kernel died ({self._kernel.last_words() or 'nobody knows why'})",
                    "DeadKernelError",
                ) from None
            finally:
                self._saved()
            if self._exits:
                raise BodyFailed(f"cell {done + 1}: exit() ended the notebook's kernel", "SystemExit")
        self._report(Progress(count, count, ""))
        self.set_widgets_metadata()
        return self._result(self.nb.cells[self._todo[-1]]) if self._todo else ""

    def _result(self, cell: NotebookNode) -> str:
        results = [one for one in cell.outputs if one.output_type == "execute_result"]
        text = str(results[-1].data.get("text/plain", "")) if results else ""
        if text[:1] in ("'", '"') and self._kernel.is_python:
            with suppress(ValueError, SyntaxError):  # text is its own answer, as it is of a Python body
                return str(ast.literal_eval(text))
        return text

    def _failure(self, number: int) -> BodyFailed:
        name, value = str(self._error.get("ename", "Error")), str(self._error.get("evalue", ""))
        trace = plain("\n".join(self._error.get("traceback") or ()))
        if name == _NO_INPUT:
            value = "nobody is there to answer input(); give the notebook what it needs: --param NAME=VALUE"
        elif name == "SystemExit":
            value = f"SystemExit: {value}" if value else name
        return BodyFailed(f"cell {number}: {plain(value) or name}", name, trace + "\n" if trace else None)

    def _note_error(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        self._error = execute_reply["content"]

    def _note_reply(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        payload = execute_reply["content"].get("payload") or ()
        self._exits = any(part.get("source") == "ask_exit" for part in payload)

    # What the cells show

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Pass a message on to the execution's output before the notebook takes it."""
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            self._output.write(content["text"], content["name"])
            if self._is_too_much(len(content["text"]), cell):
                return None
        elif kind in ("display_data", "execute_result", "update_display_data"):
            update = kind == "update_display_data"
            self._output.show(**as_kept(content["data"], content.get("metadata"), content.get("transient"), update))
        elif kind == "error" and (self.allow_errors or "raises-exception" in tags(cell)):
            self._output.write(plain("\n".join(content["traceback"])) + "\n", "stderr")
        shown: NotebookNode | None = super().process_message(msg, cell, cell_index)
        return shown

    def _is_too_much(self, length: int, cell: NotebookNode) -> bool:
        """Tell whether a cell has printed more than the kept notebook holds; the first time, say so in it."""
        before, self._printed = self._printed, self._printed + length
        if self._printed <= MOST:
            return False
        if before <= MOST:
            text = f"\n... more than {MOST:,} characters; the rest is in the task's log: %car logs ...\n"
            cell.outputs.append(new_output("stream", name="stderr", text=text))
        return True


def plain(text: str) -> str:
    """Return a text without a terminal's colours."""
    return _ANSI.sub("", text)


def _first_line(source: str) -> str:
    line = next(line.strip() for line in source.splitlines() if line.strip())
    return line if len(line) <= 60 else line[:59] + "…"
