"""The kernel's one scheduler: an engine in a thread and loop of its own, and its face for the kernel."""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from car_sched_nb.displayed import text_of
from car_sched_nb.engine.events import MOST, Event
from car_sched_nb.engine.handle import TaskHandle
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import CarError, SchedulerClosed, WouldBlock
from car_sched_nb.executors.loop import ForeignLoop
from car_sched_nb.model import Execution, Task
from car_sched_nb.notebook import capture, figures
from car_sched_nb.notebook.debug import Failures
from car_sched_nb.notebook.namespace import Namespace, find_namespace
from car_sched_nb.runners.base import current_runtime
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store.owners import whoami
from car_sched_nb.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from car_sched_nb.widget.feed import Feed

T = TypeVar("T")
_PUBLISH_S = 0.1
_CANCEL_S = 5.0
_NOT_LOADED = "run %load_ext car_sched_nb first; in a script use `async with car.Scheduler(...)`"
_NOT_HERE = (
    "a body outside the notebook's kernel (--executor process, a script) has car.current(), car.send(), car.state(), "
    "car.progress() and car.track(); for anything else leave --executor process away"
)
_LEAVE_S = 2.0  # an exit handler that takes longer is cut off by the kernel's manager


def default_store() -> str:
    """Return where tasks are kept: `$CAR_SCHED_NB_STORE`, else the user's data folder."""
    given = os.environ.get("CAR_SCHED_NB_STORE")
    if given:
        return given
    from platformdirs import user_data_dir

    return str(Path(user_data_dir("car_sched_nb", appauthor=False)) / "tasks.db")


class Session:
    """The engine's thread, and what ties it to a kernel.

    Made by `%load_ext`; the thread starts with the first call that needs it, so loading stays quick.
    """

    def __init__(self, shell: InteractiveShell, namespace: Namespace | None = None) -> None:
        self.shell = shell
        self.namespace = namespace or find_namespace(shell.user_ns)
        self.store = SqliteStore(default_store())
        self.store.migrate()
        self.python = PythonRunner(
            shell.user_ns,
            transform=shell.transform_cell,
            publish=self._publish,
            show=functools.partial(text_of, shell),
            after=figures.show_and_close,
        )
        self.scheduler: Scheduler | None = None
        self.in_cell = False
        self.failures = Failures()
        self.feed: Feed | None = None
        """What its dashboards are told; made with the first of them."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._restore = capture.install(shell)

    # The thread

    @property
    def started(self) -> bool:
        """Whether the engine runs."""
        return self._thread is not None

    def start(self) -> Scheduler:
        """Start the engine if it does not run yet, and return it.

        Raises
        ------
        StoreError
            When the store cannot be used.
        """
        with self._lock:
            if self._closed:
                raise SchedulerClosed(_NOT_LOADED)
            if self._thread is None:
                host = ForeignLoop(_kernel_loop(self.shell))
                self.python.host = host
                self.scheduler = Scheduler(
                    self.store,
                    namespace=self.namespace.name,
                    python=self.python,
                    host=host,
                    owner_name=whoami(Path(self.namespace.name).name),
                )
                self.scheduler.listen(self.failures.hear)
                self._thread = threading.Thread(target=self._work, name="car-engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        assert self.scheduler is not None
        return self.scheduler

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start must learn of it
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        assert self.scheduler is not None
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.scheduler:
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        """End the engine: what runs is stopped and marked interrupted."""
        self._closed = True
        atexit.unregister(self.close)
        if self._loop and self._stop and self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_LEAVE_S)
        self._restore()

    # Calls

    def call(self, make: Callable[[Scheduler], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of the scheduler on its loop and return its result; from any thread but its own."""
        scheduler = self.start()
        assert self._loop is not None and self._thread is not None
        if threading.current_thread() is self._thread:
            raise CarError("this would wait for itself; call it from the notebook or from a body in a thread")
        self.store.check_process()
        if not self._thread.is_alive():
            raise CarError(f"the engine has stopped ({self._failure}); %reload_ext car_sched_nb starts it anew")
        future = asyncio.run_coroutine_threadsafe(make(scheduler), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()  # Stop ends what the cell waits for, a loop with what it runs
            raise

    def call_plain(self, fn: Callable[[Scheduler], T]) -> T:
        """Call a function on the engine's loop and return its result."""

        async def run(scheduler: Scheduler) -> T:
            return fn(scheduler)

        return self.call(run)

    async def call_async(self, make: Callable[[Scheduler], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of the scheduler on its loop; await it on the kernel's, which stays free."""
        scheduler = self.start()
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(scheduler), self._loop))

    def soon(self, fn: Callable[[Scheduler], Any]) -> None:
        """Call a function on the engine's loop and do not wait; after the end there is nobody to call."""
        if self._closed:
            return
        scheduler = self.start()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(fn, scheduler)

    def on_kernel_thread(self) -> bool:
        """Tell whether the caller would stop the kernel's loop by waiting."""
        return threading.current_thread() is threading.main_thread()

    def ask_kernel(self, answer: Callable[[], Any]) -> None:
        """Call `answer` on the kernel's loop as soon as that is free."""
        _kernel_loop(self.shell).call_soon_threadsafe(answer)

    # Cells

    def pre_run_cell(self, *_: Any) -> None:
        self.in_cell = True

    def post_run_cell(self, *_: Any) -> None:
        self.in_cell = False
        if self.scheduler is not None and self._loop is not None and self._loop.is_running():
            # As a task of that loop, because what it starts makes cancel scopes, which a bare callback cannot.
            asyncio.run_coroutine_threadsafe(self.scheduler.recheck(), self._loop)

    async def _publish(self, values: Mapping[str, Any]) -> None:
        """Put names into the notebook between cells; a cell that goes on for long does not hold them up."""
        published = threading.Lock()

        def put() -> None:
            if published.acquire(blocking=False):
                self.shell.user_ns.update(values)

        if self.in_cell:
            done = asyncio.Event()
            loop = asyncio.get_running_loop()

            def put_and_tell() -> None:
                put()
                with suppress(RuntimeError):  # a `--test` in this cell is over, and with it its loop
                    loop.call_soon_threadsafe(done.set)

            _kernel_loop(self.shell).call_soon_threadsafe(put_and_tell)
            try:
                await asyncio.wait_for(done.wait(), _PUBLISH_S)
            except TimeoutError:
                put()
        else:
            put()


def _kernel_loop(shell: InteractiveShell) -> asyncio.AbstractEventLoop:
    kernel = getattr(shell, "kernel", None)
    loop = getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)
    if loop is None:
        raise CarError("tasks need a Jupyter kernel; in a script use `async with car.Scheduler(...)`")
    return loop  # type: ignore[no-any-return]


class KernelScheduler:
    """The kernel's scheduler: the methods of `Scheduler`, synchronous and from any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<car scheduler of {self._session.namespace.name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(Scheduler, name, None)
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            def call(*args: Any, **options: Any) -> Any:
                return self._session.call(lambda s: getattr(s, name)(*args, **options))

            return call
        if inspect.isfunction(method):

            @functools.wraps(method)
            def call_plain(*args: Any, **options: Any) -> Any:
                return self._session.call_plain(lambda s: getattr(s, name)(*args, **options))

            return call_plain
        return self._session.call_plain(lambda s: getattr(s, name))

    def run_once(self, task: Task | str, **options: Any) -> Execution:
        """Serve the current slot and return its execution.

        Raises
        ------
        WouldBlock
            For work on the kernel's loop, asked for from the kernel's thread.
        """
        self._refuse_to_block(task)
        return self._session.call(lambda s: s.run_once(task, **options))

    def run_loop(self, task: Task | str, max_iterations: int | None = None) -> list[Execution]:
        """Plan a task and return its executions when `max_iterations` of them have ended."""
        self._refuse_to_block(task)
        return self._session.call(lambda s: s.run_loop(task, max_iterations))

    def cancel(self, name: str) -> int:
        """Stop what runs or waits of a task; return how many were asked to stop.

        It returns when they have stopped, but does not wait for work on the kernel's own loop, which it blocks,
        nor longer than 5 s for a call into C.
        """
        runtime = current_runtime.get()
        caller = runtime.occurrence.execution_id if runtime else None
        on_kernel = self._session.on_kernel_thread()
        return self._session.call(lambda s: self._cancel(s, name, on_kernel, caller))

    async def _cancel(self, scheduler: Scheduler, name: str, on_kernel: bool, caller: str | None) -> int:
        runs = scheduler.live(name)
        count = scheduler.cancel_soon(name)
        # A body that cancels itself would wait for its own end.
        blocked = any(run.execution_id == caller or (on_kernel and run.row.executor == "loop") for run in runs)
        if not blocked:
            await scheduler.wait_ended(runs, _CANCEL_S)
        return count + await scheduler.cancel_elsewhere(name, _CANCEL_S)

    def spawn(self, task: Task | str, max_iterations: int | None = None) -> TaskHandle:
        """Run a task in the background and return its handle at once."""
        return self._session.call_plain(lambda s: s.spawn(task, max_iterations))

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens from now on; on the kernel's loop. A slow reader loses the oldest events."""
        waiting: asyncio.Queue[Event] = asyncio.Queue(MOST)
        loop = asyncio.get_running_loop()

        def put(event: Event) -> None:
            if waiting.full():
                waiting.get_nowait()
            waiting.put_nowait(event)

        stop = self.listen(lambda event: loop.call_soon_threadsafe(put, event))
        try:
            while True:
                yield await waiting.get()
        finally:
            stop()

    async def wait(self, *names: str, timeout: float | None = None) -> bool:
        """Return True when what runs or is due now has ended; await it, and the kernel's loop stays free."""
        return await self._session.call_async(lambda s: s.wait(*names, timeout_s=timeout))

    def _refuse_to_block(self, task: Task | str) -> None:
        session = self._session
        scheduler = session.start()
        found = scheduler.check(task) if isinstance(task, Task) else self.task(task)
        if session.on_kernel_thread() and scheduler.runners[found.runner].waits_for_loop(found):
            raise WouldBlock(found.name)


_session: Session | None = None


def current_session() -> Session:
    """Return this kernel's session.

    Raises
    ------
    SchedulerClosed
        Before `%load_ext car_sched_nb`.
    """
    if _session is None:
        raise SchedulerClosed(_NOT_LOADED if current_runtime.get() is None else _NOT_HERE)
    return _session


def open_session(shell: InteractiveShell) -> Session:
    """Return this kernel's session; make it when there is none."""
    global _session  # noqa: PLW0603 - a kernel has exactly one
    if _session is None:
        _session = Session(shell)
    return _session


def close_session() -> None:
    """End this kernel's session."""
    global _session  # noqa: PLW0603 - the same
    if _session is not None:
        _session.close()
        _session = None
