"""Synchronous bodies in pooled threads, and a cancel that stops them.

A cancel raises `TaskCancelled` in the body's thread, once, and only while the body is on it. A call into C
must return first; `time.sleep`, the most common of them, is made to wake. A thread that was cancelled is not
used again.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio

from car_sched_nb.errors import TaskCancelled
from car_sched_nb.loops import soon_caller

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
# By address, because a py_object cannot be the NULL that takes a pending exception back.
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_real_sleep = time.sleep
_IDLE_S = 10.0
_PATIENCE_S = 0.5
_LOOK_S = 0.001
_WITH_LOCKS = frozenset(
    "car_sched_nb.output car_sched_nb.runners.mail concurrent.futures._base concurrent.futures.thread "
    "importlib._bootstrap importlib._bootstrap_external logging logging.handlers queue threading".split()
)


class Job:
    """One call in a thread of the pool."""

    def __init__(self, fn: Callable[[], Any], done: Callable[[], None]) -> None:
        self._fn = fn
        self._done = done
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self.thread_id: int | None = None
        self._ended = False
        self.cancelled = False
        self.wake = threading.Lock()
        self.wake.acquire()
        self.bell: threading.Lock | None = None
        """What the body waits for in `wait_for`."""
        self.result: Any = None
        self.error: BaseException | None = None
        self._pid = os.getpid()

    def cancel(self, force: bool = False) -> bool:
        """Raise `TaskCancelled` in the body, if it is still on its thread; from any thread.

        Return False, with nothing done, while the body is inside a module whose locks an exception at the wrong
        moment would leave held; `force` raises all the same.
        """
        with self._lock:
            if self._ended or self.cancelled:
                return True
            if self.thread_id is not None and not force and _handles_locks(self.thread_id):
                return False
            self.cancelled = True
            if self.thread_id is not None:
                _set_async_exc(self.thread_id, id(TaskCancelled))
                # Only then: a body that wakes must meet the exception before its next line.
                self.wake.release()
                bell = self.bell
                if bell is not None:
                    with suppress(RuntimeError):  # it has just been rung
                        bell.release()
        return True

    def work(self) -> None:
        """Run the body on this thread and tell that it ended."""
        with self._lock:
            if self.cancelled:
                self.error, self._ended = TaskCancelled(), True
            else:
                self.thread_id = threading.get_ident()
        if not self._ended:
            try:
                try:
                    self.result = self._context.run(_with_job, self, self._fn)
                except BaseException as error:  # noqa: BLE001 - a body may raise anything; it ends as a row
                    self.error = error
                self._leave()
            except TaskCancelled as late:
                # It was raised while the body was ending; the body is over either way.
                self._leave()
                self.error = self.error or late
        if os.getpid() != self._pid:
            os._exit(self.error is not None)  # a forked copy came back from the body: only its parent goes on
        self._done()

    def _leave(self) -> None:
        with self._lock:
            self._ended = True
            if self.cancelled and self.thread_id is not None:
                _set_async_exc(self.thread_id, None)  # what has not been raised yet never will be


def _handles_locks(thread_id: int) -> bool:
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001 - the only way to see where a thread is
    return frame is not None and frame.f_globals.get("__name__") in _WITH_LOCKS


_current_job: contextvars.ContextVar[Job | None] = contextvars.ContextVar("car_current_job", default=None)


def _with_job(job: Job, fn: Callable[[], Any]) -> Any:
    _current_job.set(job)
    return fn()


def _sleep(seconds: float, /) -> None:
    """`time.sleep`, which in a body's thread ends at a cancel."""
    job = _current_job.get()
    if job is None or job.thread_id != threading.get_ident() or not seconds > 0:
        _real_sleep(seconds)
    else:
        # A bare lock, because its wait is one call into C: an Event's is Python code that must not be cut in two.
        job.wake.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


def wait_for(bell: threading.Lock, timeout_s: float) -> bool:
    """Wait until somebody releases a lock, in seconds (-1: for ever); in a body's thread a cancel ends it too."""
    timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
    job = _current_job.get()
    if job is None or job.thread_id != threading.get_ident():
        return bell.acquire(timeout=timeout_s)
    job.bell = bell
    try:
        # A cancel before this line has found no bell to ring; its exception comes at the next one.
        return not job.cancelled and bell.acquire(timeout=timeout_s)
    finally:
        job.bell = None


class ThreadPool:
    """Threads that are made when needed and kept a while; `max_running` of the scheduler bounds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._idle = 0

    async def run(self, fn: Callable[[], Any]) -> Any:
        """Run `fn` in a thread with this context; a cancellation returns only after `fn` has really ended.

        Raises
        ------
        TaskCancelled
            When the body was stopped by a cancellation.
        """
        time.sleep = _sleep  # type: ignore[assignment]
        ended = anyio.Event()
        soon = soon_caller()
        job = Job(fn, lambda: soon(ended.set))
        self._submit(job)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                patience = anyio.current_time() + _PATIENCE_S
                while not job.cancel(force=anyio.current_time() > patience):  # noqa: ASYNC110 - nobody tells where a thread is
                    await anyio.sleep(_LOOK_S)
                await ended.wait()
            if isinstance(job.error, TaskCancelled):
                raise
        if job.error is not None:
            raise job.error
        return job.result

    def _submit(self, job: Job) -> None:
        self._jobs.put(job)
        with self._lock:
            if self._idle:
                self._idle -= 1
                return
        threading.Thread(target=self._work, name="car-body", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # somebody counts on this thread
                    self._idle -= 1
                return
            job.work()
            if job.cancelled:
                return
            with self._lock:
                self._idle += 1
