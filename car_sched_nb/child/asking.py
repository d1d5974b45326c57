"""What a body in a process of its own asks of its kernel: `car.current()` there."""

from __future__ import annotations

import functools
import os
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cloudpickle

from car_sched_nb.errors import CarError
from car_sched_nb.executors import wire
from car_sched_nb.runners.base import Progress

Put = Callable[[tuple[bool, Any]], object]


class Kernel:
    """Calls methods of the kernel's objects, from any thread of the body's own process."""

    def __init__(self, link: wire.Link) -> None:
        self._link = link
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._asked = 0
        self._waiting: dict[int, Put] = {}
        self._reads = False

    def ask(self, of: str, method: str, *args: Any, **options: Any) -> Any:
        """Call a method there and return what it returns, or raise what it raises."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._send(answer.put, (of, method, args, options))
        return _value(*answer.get())

    async def ask_async(self, of: str, method: str, *args: Any, **options: Any) -> Any:
        """Do the same without holding up an asyncio loop; a cancellation ends the call there too."""
        import asyncio

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def come(given: Any) -> None:
            if not answer.done():
                answer.set_result(given)

        def put(given: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(come, given)

        # Not a thread that waits: nothing could end it, and the loop would wait for it before it is closed.
        number = self._send(put, (of, method, args, options))
        try:
            return _value(*await answer)
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None:
                self._link.send(wire.DROP, wire.NUMBER.pack(number))
            raise

    def _send(self, put: Put, question: tuple[Any, ...]) -> int:
        """Ask, and have the answer given to a function in another thread; return the question's number."""
        self._check_process()
        asked = cloudpickle.dumps(question, 5)
        with self._lock:
            self._asked += 1
            number = self._asked
            self._waiting[number] = put
            if not self._reads:
                self._reads = True
                threading.Thread(target=self._read, name="car-answers", daemon=True).start()
        self._link.send(wire.ASK, wire.NUMBER.pack(number) + asked)
        return number

    def tell_progress(self, progress: Progress) -> None:
        """Tell how far the body has come, and do not wait."""
        self._check_process()
        self._link.send_object(wire.PROGRESS, (progress.done, progress.total, progress.note))

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise CarError("car.current() reaches the kernel from the body's own process only, not from one it started")

    def _read(self) -> None:
        while True:
            try:
                _, body = self._link.receive()
            except (EOFError, OSError):
                return  # the kernel is gone, and this process with it
            number, good, value = pickle.loads(body)  # noqa: S301 - it comes from the kernel
            try:
                value = pickle.loads(value)  # noqa: S301 - the same
            except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
                good, value = False, error
            put = self._waiting.pop(number, None)
            if put is not None:
                put((good, value))


def _value(good: bool, value: Any) -> Any:
    if not good:
        raise value
    return value


class Remote:
    """One of the kernel's objects: its methods are called there, with values that are carried both ways."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        if not self._kernel.ask("run", "is_async", self._name, method):
            return functools.partial(self._kernel.ask, self._name, method)
        return functools.partial(self._kernel.ask_async, self._name, method)

    def __getitem__(self, key: Any) -> Any:
        return self._kernel.ask(self._name, "__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._kernel.ask(self._name, "__setitem__", key, value)

    def __delitem__(self, key: Any) -> None:
        self._kernel.ask(self._name, "__delitem__", key)

    def __contains__(self, key: Any) -> bool:
        return bool(self._kernel.ask(self._name, "__contains__", key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kernel.ask(self._name, "__iter__"))

    def __len__(self) -> int:
        return int(self._kernel.ask(self._name, "__len__"))

    def __repr__(self) -> str:
        return str(self._kernel.ask(self._name, "__repr__"))
