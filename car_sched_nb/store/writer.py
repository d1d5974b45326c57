"""One thread does a scheduler's writes; all that waits is one transaction."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from car_sched_nb.errors import SchedulerClosed, StoreError
from car_sched_nb.store.ops import Op, Settle, Start
from car_sched_nb.store.sqlite import SqliteStore

_Answer = Callable[[Any], None]
_MOST = 2_000  # operations in one transaction: beyond that the first would wait for the last


class Writer:
    """Collects operations from its loop and answers them there, after the commit, while `deliver` runs.

    Parameters
    ----------
    store
        An open store.
    soon
        Calls a function on the loop that submits; see `loops.soon_caller`.
    """

    def __init__(self, store: SqliteStore, soon: Callable[..., Any]) -> None:
        self._store = store
        self._soon = soon
        self._waiting: queue.SimpleQueue[list[tuple[Op, _Answer]] | None] = queue.SimpleQueue()
        self._collected: list[tuple[Op, _Answer]] = []
        """Submitted in this turn of the loop."""
        self._held: list[tuple[Op, _Answer]] = []
        self._answers: deque[tuple[_Answer, Any]] = deque()
        self._arrived = anyio.Event()
        self._delivery = anyio.CancelScope(shield=True)
        self._closed = False
        self.commits = 0
        """Transactions of this writer, so that those of others can be told."""
        self._thread = threading.Thread(target=self._work, name="car-writer", daemon=True)
        self._thread.start()

    def submit(self, op: Op, answer: _Answer) -> None:
        """Write `op` with the next batch and call `answer` with what became of it, or its exception."""
        if self._closed:
            raise SchedulerClosed
        self._collected.append((op, answer))
        # What a turn of the loop submits goes over at once: a thread that is woken at the first of a thousand would
        # fight the loop for the GIL over the others.
        if len(self._collected) == 1:
            self._soon(self._hand_over)

    def _hand_over(self) -> None:
        collected, self._collected = self._collected, []
        if collected:
            self._waiting.put(collected)

    async def write(self, op: Op) -> Any:
        """Write `op` and return what became of it; once begun it is never taken back by a cancellation."""
        done = anyio.Event()
        found: list[Any] = []

        def answer(result: Any) -> None:
            found.append(result)
            done.set()

        self.submit(op, answer)
        with anyio.CancelScope(shield=True):
            await done.wait()
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._closed = True
        self._hand_over()
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._collect()) is not None:
            results = self._apply([op for op, _ in batch])
            self._tell([(answer, result) for (_, answer), result in zip(batch, results, strict=True)])

    def _apply(self, batch: Sequence[Op]) -> list[Any]:
        try:
            results = self._store.apply(batch)
            self.commits += 1
        except StoreError as error:
            return [error] * len(batch)
        except BaseException as error:  # noqa: BLE001 - whoever asked must learn of it, and the thread must go on
            # One of them cannot be written; alone it does not take the others along.
            return [error] if len(batch) == 1 else [result for op in batch for result in self._apply([op])]
        return results

    def _tell(self, answers: list[tuple[_Answer, Any]]) -> None:
        self._answers.extend(answers)
        try:
            self._soon(self._arrive)
        except RuntimeError:
            # The loop is gone: nobody is left to be told, and what was written is written.
            self._closed = True

    def _arrive(self) -> None:
        self._arrived.set()

    async def deliver(self) -> None:
        """Answer what was written until `stop`; its task is where every answer is called.

        A cancellation from outside does not end it: whoever ends needs the answer about its own end.
        """
        with self._delivery:
            while True:
                self._arrived = anyio.Event()
                self.answer()
                await self._arrived.wait()

    def answer(self) -> None:
        """Answer what was written so far; after `close` for whoever asked too late for `deliver`."""
        while self._answers:
            answer, result = self._answers.popleft()
            answer(result)

    def stop(self) -> None:
        """End `deliver`."""
        self._delivery.cancel()

    def _collect(self) -> list[tuple[Op, _Answer]] | None:
        """Wait for one operation and take all that are there, at most one `Settle` or `Start` of each task."""
        items, self._held = self._held, []
        if not items:
            first = self._waiting.get()
            if first is None:
                return None
            items = first
        while len(items) < _MOST:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._waiting.put(None)
                break
            items += item
        return self._without_twins(items)

    def _without_twins(self, items: list[tuple[Op, _Answer]]) -> list[tuple[Op, _Answer]]:
        seen: set[str] = set()
        batch = []
        for item in items:
            op = item[0]
            if isinstance(op, Settle | Start):
                if op.task_id in seen:
                    self._held.append(item)
                    continue
                seen.add(op.task_id)
            batch.append(item)
        return batch
