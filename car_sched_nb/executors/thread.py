"""Synchronous bodies in pooled threads, and a cancel that stops them.

A cancel raises `TaskCancelled` in the body's thread, once, and only while the body is on it. A call into C
must return first; `time.sleep`, the most common of them, is made to wake. A thread that was cancelled is not
used again.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dis
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from car_sched_nb.collector import collector
from car_sched_nb.errors import TaskCancelled
from car_sched_nb.loops import soon_caller

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
# By address, because a py_object cannot be the NULL that takes a pending exception back.
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_TASK_CANCELLED = id(TaskCancelled)
_real_sleep = time.sleep
_IDLE_S = 10.0
_PATIENCE_S = 0.1
_LOOK_S = 0.001
_SELDOM_S = 0.05
_UNSET: Any = object()

_frames_now = iter(sys._current_frames, None)  # noqa: SLF001 - the only way to see where a thread is
_LIBRARY = Path(os.__file__).parent
_OURS = Path(__file__).parents[1]
_DELICATE = frozenset(
    {
        *(f"<frozen importlib.{name}>" for name in ("_bootstrap", "_bootstrap_external")),
        *(
            str(_LIBRARY / f"{name}.py")
            for name in "_weakrefset asyncio/base_events concurrent/futures/_base concurrent/futures/thread contextlib "
            "logging/__init__ logging/handlers multiprocessing/queues multiprocessing/synchronize queue "
            "threading".split()
        ),
        *(
            str(_OURS / f"{name}.py")
            for name in "engine/running engine/source masking notebook/capture notebook/guests notebook/redirect "
            "output returns runners/mail store/sqlite".split()
        ),
    }
)
"""Files in which an exception at the wrong moment leaves a lock held, or something half done that others use."""
_TAKES = frozenset(
    "__enter__ __exit__ _acquireLock _acquire_restore _releaseLock _release_save acquire close flush handle "
    "release start".split()
)
"""Functions there that take or give back a lock without a `with`, or start a thread."""
_real_start = threading.Thread.start
_START = _real_start.__code__
_WAIT = threading.Condition.wait.__code__
_GUARDED = dis.Bytecode(_WAIT).exception_entries[0]  # type: ignore[attr-defined]  # its stubs lack it
"""The `try` in which a wait is blocked; its `finally` puts all right. Events, queues and futures wait there."""


class Job:
    """One call in a thread of the pool."""

    def __init__(self, fn: Callable[[], Any], done: Callable[[], None]) -> None:
        self._fn = fn
        self._done = done
        self._context = contextvars.copy_context()
        # Entered anew where the garbage collector runs a `__del__` in the middle of `_leave`.
        self._lock = threading.RLock()
        self.thread_id: int | None = None
        self._ended = False
        self.cancelled = False
        """The exception has been raised, or the body will not begin."""
        self.wake = threading.Lock()
        self.wake.acquire()
        self.wanted = False
        """A cancel has come while the body was where an exception would do harm."""
        self.bell: threading.Lock | None = None
        """What the body waits for in `wait_for`."""
        self.result: Any = _UNSET
        self.error: BaseException | None = None
        self._pid = os.getpid()

    def cancel(self, force: bool = False) -> bool:
        """Raise `TaskCancelled` in the body, if it is still on its thread; from any thread.

        Return False, with nothing done, while the body is where an exception would leave a lock held; `force`
        raises all the same unless the lock is just being taken or given back.
        """
        with self._lock:
            if self._ended or self.cancelled:
                return True
            if self.thread_id is not None:
                # A collection within `sys._current_frames()` lets other threads on while it holds a lock of the
                # interpreter's; the next one that starts or ends waits for ever (CPython before 3.11.9, gh-106883).
                with collector.stopped():
                    raised = _raise_in(self.thread_id, force)
                if not raised:
                    self.wanted = True
                    return False
                # Only then: a body that wakes must meet the exception before its next line.
                self.wake.release()
                bell = self.bell
                if bell is not None:
                    with contextlib.suppress(RuntimeError):  # it has just been rung
                        bell.release()
            self.cancelled = True
        return True

    def arrive(self) -> None:
        """Raise what a cancel could not, at a place in the body where it does no harm."""
        with self._lock:
            if not self.wanted or self.cancelled or self._ended:
                return
            self.cancelled = True
            self.wake.release()
        raise TaskCancelled

    def dropped(self) -> None:
        """The interpreter has dropped the exception, and the body has never seen it: it may be raised again."""
        with self._lock:
            if self.cancelled and not self._ended:
                self.cancelled = False
                self.wake.acquire(blocking=False)

    def work(self) -> None:
        """Run the body on this thread and tell that it ended."""
        try:
            try:
                if self._begin():
                    self.result = self._context.run(self._fn)
            except BaseException as error:  # noqa: BLE001 - a body may raise anything; it ends as a row
                self.error = error
            self._leave()
        except TaskCancelled as late:
            # It was raised while the body was ending; the body is over either way.
            self._leave()
            if self.error is None and self.result is _UNSET:
                self.error = late
        if os.getpid() != self._pid:
            os._exit(self.error is not None)  # a forked copy came back from the body: only its parent goes on
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._done()

    def _begin(self) -> bool:
        with self._lock:
            if self.cancelled:
                self.error = TaskCancelled()
            else:
                _here.job = self
                # From here on the exception may come: whoever calls this stands inside `try`.
                self.thread_id = threading.get_ident()
            return not self.cancelled

    def _leave(self) -> None:
        with self._lock:
            self._ended = True
            _here.job = None
            if self.cancelled and self.thread_id is not None:
                _set_async_exc(self.thread_id, None)  # what has not been raised yet never will be


def _raise_in(thread_id: int, force: bool) -> bool:
    """Raise `TaskCancelled` in a thread unless it is somewhere delicate.

    Between the look and the raise the thread must not move. CPython hands the interpreter to another thread only
    after a call or at a jump backwards, so there is neither in between; that is why this iterates and has no helpers.
    """
    for frames in _frames_now:
        frame = frames[thread_id]
        code = frame.f_code
        if code is _WAIT and _GUARDED.start <= frame.f_lasti < _GUARDED.end:
            # In 3.11 a thread that is just being started has its starter's id, and would be hit in its place.
            if frame.f_back.f_back.f_code is _START:  # type: ignore[union-attr]
                return False
        elif code.co_filename in _DELICATE:
            if not force or code.co_name in _TAKES:
                return False
        elif code.co_name == "__del__" and not force:
            return False  # the interpreter would drop it
        _set_async_exc(thread_id, _TASK_CANCELLED)
        if code is _WAIT:
            # Its lock ends the wait, as `notify` does; it may have been released already, or be acquired and of no use.
            with contextlib.suppress(RuntimeError):
                frame.f_locals["waiter"].release()
        break
    return True


class _Here(threading.local):
    job: Job | None = None
    """The newest of this thread."""


_here = _Here()


def _sleep(seconds: float, /) -> None:
    """`time.sleep`, which in a body's thread ends at a cancel."""
    job = _here.job
    # Who sleeps after its exception (in a `finally`) sleeps as long as it says.
    if job is None or job.cancelled or not seconds > 0:
        _real_sleep(seconds)
    else:
        # A bare lock, because its wait is one call into C: an Event's is Python code that must not be cut in two.
        job.wake.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


def _start(self: threading.Thread) -> None:
    """`Thread.start`, at whose end a cancel arrives that met a body in the middle of it; some are hardly elsewhere."""
    _real_start(self)
    job = _here.job
    if job is not None and job.wanted and sys._getframe(1).f_code.co_filename not in _DELICATE:  # noqa: SLF001
        job.arrive()


def wait_for(bell: threading.Lock, timeout_s: float) -> bool:
    """Wait until somebody releases a lock, in seconds (-1: for ever); in a body's thread a cancel ends it too."""
    timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
    job = _here.job
    if job is None:
        return bell.acquire(timeout=timeout_s)
    job.bell = bell
    try:
        # A cancel before this line has found no bell to ring; its exception comes at the next one.
        return not job.cancelled and bell.acquire(timeout=timeout_s)
    finally:
        job.bell = None


def _follow_dropped() -> None:
    """Hear of exceptions that the interpreter drops: those of a `__del__` or a callback of the garbage collector."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(unraisable.exc_type, TaskCancelled):
            before(unraisable)
        elif _here.job is not None:
            _here.job.dropped()

    sys.unraisablehook = hook


def _prepare() -> None:
    """Take the place of `time.sleep` and `Thread.start`, and listen for dropped exceptions; the first time only."""
    if time.sleep is _real_sleep:
        time.sleep = _sleep  # type: ignore[assignment]
        threading.Thread.start = _start  # type: ignore[method-assign]
        _follow_dropped()


class ThreadPool:
    """Threads that are made when needed and kept a while; `max_running` of the scheduler bounds them."""

    def __init__(self) -> None:
        _prepare()  # as soon as there is a scheduler: who then says `from time import sleep` gets one that wakes
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
        ended = anyio.Event()
        soon = soon_caller()
        job = Job(fn, lambda: soon(ended.set))
        self._submit(job)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await _stop(job, ended)
            if isinstance(job.error, TaskCancelled):
                raise
        if job.error is not None:
            raise job.error
        return job.result

    def _submit(self, job: Job) -> None:
        with self._lock:
            found = self._idle > 0
            self._idle -= found
        if not found:
            # Before the job is in the queue: when no thread can be started it must not run later, as somebody else's.
            threading.Thread(target=self._work, name="car-body", daemon=True).start()
        self._jobs.put(job)

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
            del job  # nor its result, which may be large
            with self._lock:
                self._idle += 1


async def _stop(job: Job, ended: anyio.Event) -> None:
    """Raise `TaskCancelled` in a job's body as soon as it may be, again if the interpreter drops it, until it ends."""
    patience = anyio.current_time() + _PATIENCE_S
    while not ended.is_set():
        late = anyio.current_time() > patience
        told = job.cancel(force=late)
        with anyio.move_on_after(_SELDOM_S if told or late else _LOOK_S):  # nobody tells where a thread is
            await ended.wait()
