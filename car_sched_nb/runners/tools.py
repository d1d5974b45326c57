"""The functions that an agent may call: synchronous ones in a thread, asynchronous ones on the notebook's loop."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import UnionType
from typing import Any, get_type_hints

import anyio

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.executors.loop import LoopHost
from car_sched_nb.executors.thread import ThreadPool
from car_sched_nb.loops import soon_caller
from car_sched_nb.output import Output, current_output
from car_sched_nb.runners.base import Runtime, current_runtime
from car_sched_nb.runners.prompts import as_text, is_table
from car_sched_nb.tracebacks import words_of

RETRIES = 3
"""How often in a row a model may try a tool again that failed."""


def is_async(tool: Callable[..., Any]) -> bool:
    """Tell whether calling a tool gives something to await."""
    return inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(_called(tool))


def _called(tool: Any) -> Any:
    """Return what has a tool's signature, docstring and types: of an object that can be called, its `__call__`."""
    is_plain = inspect.isroutine(tool) or inspect.isclass(tool) or isinstance(tool, functools.partial)
    return tool if is_plain else tool.__call__


def _inmost(tool: Any) -> Any:
    """Return what a tool is under its partials."""
    found = _called(tool)
    while isinstance(found, functools.partial):
        found = _called(found.func)
    return found


def _types(tool: Any) -> dict[str, Any]:
    """Return the types of a tool's arguments; in words only where they can be looked up by its wrapper."""
    inmost = _inmost(tool)
    if inspect.isclass(inmost) or inmost is not _called(tool):
        return get_type_hints(inmost.__init__ if inspect.isclass(inmost) else inmost, include_extras=True)
    return getattr(inmost, "__annotations__", None) or {}  # a builtin has none


class Desk:
    """Takes calls from the agents' thread and makes them where the notebook's objects live.

    Made and served on the engine's loop; `call` belongs to the agents'.
    """

    def __init__(self, host: LoopHost, runtime: Runtime) -> None:
        self._host = host
        self._runtime = runtime
        self._soon = soon_caller()
        self._send, self._calls = anyio.create_memory_object_stream[_Call](float("inf"))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve while the block goes on; it must raise nothing but a cancellation."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve)
            try:
                yield
            finally:
                self._send.close()

    async def _serve(self) -> None:
        # A cancelled run ends its calls itself, from within: here they would end before it knows why.
        with anyio.CancelScope(shield=True), self._calls:
            async with anyio.create_task_group() as group:
                async for call in self._calls:
                    group.start_soon(self._make, call)

    async def _make(self, call: _Call) -> None:
        current_output.set(self._runtime.output)
        current_runtime.set(self._runtime)
        try:
            with anyio.CancelScope() as call.scope:
                if call.cancelled:
                    call.scope.cancel()
                try:
                    call.result = await self._host.run(call.make, _nothing)
                except Exception as error:  # noqa: BLE001 - it belongs to the agent, which tells its model
                    call.error = error
                except BaseException as error:
                    if isinstance(error, anyio.get_cancelled_exc_class()):
                        raise
                    call.error = error
                call.stopped = False
        finally:
            call.tell()

    async def call(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Make a call there and return its result; a cancellation returns only after it has really ended."""
        call = _Call(make)
        self._soon(self._send.send_nowait, call)
        try:
            await call.ended.wait()
        except asyncio.CancelledError:
            self._soon(call.cancel)
            with anyio.CancelScope(shield=True):
                await call.ended.wait()
            raise
        if call.error is not None:
            raise call.error
        if call.stopped:
            raise asyncio.CancelledError
        return call.result


async def _nothing() -> None:
    """Have nothing to commit: the run has begun."""


class _Call:
    """One call on its way between two loops."""

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self.make = make
        self.scope: anyio.CancelScope | None = None
        self.cancelled = False
        self.stopped = True
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = asyncio.Event()
        self._soon = soon_caller()

    def cancel(self) -> None:
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()

    def tell(self) -> None:
        self._soon(self.ended.set)


class Toolbox:
    """The tools of one run, as pydantic-ai takes them; on the agents' loop.

    Parameters
    ----------
    output
        What the run prints; a tool's error text is masked by it before a model sees it.
    """

    def __init__(self, threads: ThreadPool, desk: Desk, output: Output) -> None:
        self._threads = threads
        self._desk = desk
        self._output = output
        self._under_way: set[asyncio.Task[Any]] = set()
        self.failed: dict[str, BodyFailed] = {}
        """The last failure of each tool that has not succeeded since."""

    def wrapped(self, name: str, tool: Callable[..., Any]) -> Callable[..., Any]:
        """Return a tool as a coroutine function with the same signature, docstring and types."""

        @functools.wraps(_called(tool))
        async def call(*args: Any, **kwargs: Any) -> Any:
            bound = functools.partial(tool, *args, **kwargs)
            if is_async(tool):
                return await self._made(name, lambda: self._desk.call(bound))
            return await self._made(name, lambda: self._threads.run(bound))

        call.__name__ = name
        # What it returns is told as text: no schema of it is wanted, and of a DataFrame there is none.
        call.__annotations__ = {arg: kind for arg, kind in _types(tool).items() if arg != "return"}
        call.__doc__ = _inmost(tool).__doc__
        return call

    async def _made(self, name: str, make: Callable[[], Awaitable[Any]]) -> Any:
        from pydantic_ai import ToolReturn, exceptions

        task = asyncio.ensure_future(_guarded(make))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            result, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await _over(task)
            raise
        if error is None:
            self.failed.pop(name, None)
            return result if isinstance(result, ToolReturn) else _as_return(result)
        # What pydantic-ai's own exceptions ask for is the tool's business.
        if isinstance(error, exceptions.ModelRetry | exceptions.ToolFailed | exceptions.CallDeferred):
            raise error
        said = self._output.masked(f"{type(error).__name__}: {words_of(error)}")
        trace = self._output.masked("".join(traceback.format_exception(error)))
        self.failed[name] = failed = BodyFailed(f"the tool {name} failed: {said}", type(error).__name__, trace)
        if not isinstance(error, Exception):
            raise failed  # SystemExit and its like mean more than "try again"
        raise exceptions.ModelRetry(said) from None

    async def close(self) -> None:
        """Return when nothing that was called is under way any more; what is, is cancelled."""
        for task in (*self._under_way,):
            task.cancel()
            await _over(task)


async def _guarded(make: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """Await a call; an error is returned, because one such as SystemExit would end the loop that it is raised on."""
    try:
        return await make(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - the same
        return None, error


def _as_return(result: Any) -> Any:
    """Return what a model is told of a result; its metadata is a few words on it for people."""
    from pydantic_ai import ToolReturn
    from pydantic_core import from_json, to_json

    if is_table(result):
        count = len(result)
        return ToolReturn(as_text(result), metadata=f"{count:,} row{'s' * (count != 1)}")
    try:
        told = from_json(to_json(result))
    except ValueError:  # it is no JSON, or a text in it is none
        told = as_text(result)
    return ToolReturn(as_text(told) if isinstance(told, str) else told, metadata=str(told))


async def _over(task: asyncio.Task[Any]) -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.wait([task])


def type_of(text: str, names: Mapping[str, Any]) -> Any:
    """Return the type that `--output-type` names: a builtin's, the notebook's, or `list[Name]`, `A | B` of such.

    Raises
    ------
    InvalidInput
        When it is no type.
    KeyError
        When nobody has defined a name in it.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise InvalidInput(f"--output-type names a type: MyModel, list[MyModel], int; not {text!r}") from None
    try:
        return _type(tree, names, text)
    except (TypeError, IndexError) as error:  # `int[str]`, `list[()]`
        raise InvalidInput(f"--output-type {text}: {error}") from None


def _type(node: ast.expr, names: Mapping[str, Any], text: str) -> Any:
    if isinstance(node, ast.Name):
        known = names[node.id] if node.id in names else _PLAIN[node.id]
        if isinstance(known, type | UnionType) or hasattr(known, "__origin__") or hasattr(known, "__value__"):
            return known
    elif isinstance(node, ast.Constant) and node.value is None:
        return None
    elif isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        arguments = tuple(_type(one, names, text) for one in inner)
        return _type(node.value, names, text)[arguments if len(arguments) > 1 else arguments[0]]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, names, text) | _type(node.right, names, text)
    raise InvalidInput(f"--output-type {text}: {ast.unparse(node)} is no type")


_PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, list, dict, tuple, set)}


def is_plain(name: str) -> bool:
    """Tell whether a name in an output type needs nobody to define it."""
    return name in _PLAIN


def type_names(text: str) -> list[str]:
    """Return the names in an output type."""
    try:
        return [node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)]
    except SyntaxError:
        return []
