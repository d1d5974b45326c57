"""Python bodies: they read the notebook's names, keep their own, and end with an answer."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import io
import keyword
import linecache
import marshal
import sqlite3
import sys
import threading
import tokenize
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple

from car_sched_nb.errors import InvalidInput
from car_sched_nb.executors.loop import LoopHost, OwnLoop
from car_sched_nb.executors.thread import ThreadPool
from car_sched_nb.model import Task
from car_sched_nb.output import clip, current_output
from car_sched_nb.runners.base import AgentOutput, Work
from car_sched_nb.runners.carried import CannotBeCarried
from car_sched_nb.runners.needs import needs, reads
from car_sched_nb.runners.process import Job, Left, run_in_process
from car_sched_nb.runners.surroundings import check_surroundings, unset

_ANSWER = "__car_answer__"
_MOST_BODIES = 512  # kept compiled: a task that sleeps for an hour costs nothing but its text


def _always(name: str) -> Any:
    """Return a name that every body has: `asyncio`, and this package as `car`."""
    if name == "asyncio":
        return asyncio
    if name == "car":
        import car_sched_nb

        return car_sched_nb
    if name == "input":
        return _no_input
    raise KeyError(name)


def _no_input(*_: object) -> str:
    # The notebook's own would ask under whatever cell runs, and hold the kernel up until somebody answers.
    raise EOFError("a task cannot ask for input; give it what it needs with --param NAME=VALUE")


class _Builtins(dict[str, Any]):
    """The builtins of one execution, behind the notebook's names.

    The body of a class asks the dictionary of its globals past `__missing__`, and then these.
    """

    def __init__(self, outer: Mapping[str, Any]) -> None:
        super().__init__(vars(builtins))
        self._outer = outer

    def __getitem__(self, name: str) -> Any:
        try:
            return _from_outside(self._outer, name)
        except KeyError:
            return super().__getitem__(name)


_OURS = frozenset({"input", "exit", "quit"})
"""Builtins that mean something else in a body."""


class PrivateNames(dict[str, Any]):
    """The globals of one execution: reads fall through to the notebook, assignments stay here."""

    def __init__(self, outer: Mapping[str, Any]) -> None:
        # Builtins are looked up here as fast as in a cell; what the notebook calls by the same name comes first.
        plain = {name: value for name, value in vars(builtins).items() if name not in outer and name not in _OURS}
        super().__init__(plain, __builtins__=_Builtins(outer))
        self._outer = outer

    def __missing__(self, name: str) -> Any:
        return _from_outside(self._outer, name)


def _from_outside(outer: Mapping[str, Any], name: str) -> Any:
    try:
        found = outer[name]
    except KeyError:
        return _always(name)
    # A notebook's own would end the kernel, and every task with it; in a body they end the body.
    return sys.exit if name in ("exit", "quit") and callable(found) else found


class Body:
    """A compiled body.

    Parameters
    ----------
    source
        Python text; `transform` turns `!cmd` and `%magic` into Python before it is compiled.
    filename
        What tracebacks call it.

    Raises
    ------
    InvalidInput
        For an empty body or a syntax error, with its line and caret.
    """

    def __init__(self, source: str, filename: str, transform: Callable[[str], str] | None = None) -> None:
        if not source.strip():
            raise InvalidInput("the body is empty; write the task's code below the %%car_task line")
        code = transform(source) if transform else source
        # The transformer drops leading blank lines; tracebacks count them.
        lost = len(source) - len(source.lstrip("\n")) - (len(code) - len(code.lstrip("\n")))
        code = "\n" * max(0, lost) + code
        try:
            tree = ast.parse(code, filename)
            silent = _ends_with_semicolon(code)
            if tree.body and isinstance(tree.body[-1], ast.Expr) and not silent:
                last = tree.body[-1]
                target = ast.copy_location(ast.Name(_ANSWER, ast.Store()), last)
                tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            self.code = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise InvalidInput(_syntax_message(error, source)) from None
        self.filename = filename
        self.source = source
        self.is_async = bool(self.code.co_flags & inspect.CO_COROUTINE)
        self.published = _globals_at_top(tree)
        self.needs = needs(tree) - {_ANSWER}
        self.reads = reads(tree)

    def tell_lines(self) -> None:
        """Make its lines known to tracebacks."""
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self.filename] = (len(self.source), None, lines, self.filename)

    def missing(self, names: Mapping[str, Any]) -> list[str]:
        """Return the names that it needs and that nobody has defined."""
        return sorted(name for name in self.needs if name not in names)

    def run(self, names: PrivateNames) -> Any:
        """Run a synchronous body; return its last expression."""
        exec(self.code, names)  # noqa: S102 - running the user's code is the purpose
        return names.get(_ANSWER)

    async def run_async(self, names: PrivateNames) -> Any:
        """Run any body on this loop; return its last expression."""
        result = eval(self.code, names)  # noqa: S307 - the same
        if inspect.isawaitable(result):
            await result
        return names.get(_ANSWER)


def _ends_with_semicolon(code: str) -> bool:
    beside = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    text = [token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type not in beside]
    return text[-1:] == [";"]


def _globals_at_top(tree: ast.Module) -> list[str]:
    return sorted({name for node in tree.body if isinstance(node, ast.Global) for name in node.names})


def _syntax_message(error: SyntaxError | ValueError, source: str) -> str:
    if not isinstance(error, SyntaxError):
        return f"the body cannot be compiled: {error}"
    number = error.lineno or 1
    lines = (error.text or "").rstrip("\n") or (source.splitlines() or [""])[min(number, source.count("\n") + 1) - 1]
    caret = " " * max(0, (error.offset or 1) - 1) + "^"
    said = f"line {number} of the body: {error.msg}\n    {lines}\n    {caret}"
    return said + ("\nlooks like a prompt; add --runner agent" if _reads_like_prose(source) else "")


def _reads_like_prose(source: str) -> bool:
    """Guess whether somebody wrote words for an agent: several words in a row and no sign of code."""
    first = next((line.strip() for line in source.splitlines() if line.strip()), "")
    words = first.rstrip(".?!:").replace(",", "").split()
    code = set('=()[]{}<>"#@%\\') & set(first)
    return len(words) >= 3 and not code and sum(word.replace("'", "").isalpha() for word in words) >= len(words) - 1


class _Done(NamedTuple):
    """What a body left: its result, the answer's text, and the names that it publishes."""

    result: Any
    answer: str
    values: dict[str, Any]


def check_into(task: Task) -> None:
    """Refuse what cannot be a variable of the notebook."""
    if task.into and (not task.into.isidentifier() or keyword.iskeyword(task.into)):
        raise InvalidInput(f"--into needs a variable's name, not {task.into!r}")


def _nothing() -> None:
    """Do nothing."""


Publish = Callable[[Mapping[str, Any]], Awaitable[None]]


class PythonRunner:
    """Runs Python bodies, and functions that were decorated with `@car.task`.

    Parameters
    ----------
    names
        What bodies read and `--into` publishes to: the notebook's namespace.
    host
        Where `executor="loop"` runs.
    transform
        Turns a cell's text into Python; IPython's in a notebook.
    publish
        Puts names into `names`; waits, where it can, until no cell is in the middle of them.
    show
        Turns a result into the answer's text.
    after
        Called in the body's own context when it ends, however it ends.
    """

    def __init__(
        self,
        names: MutableMapping[str, Any] | None = None,
        host: LoopHost | None = None,
        transform: Callable[[str], str] | None = None,
        publish: Publish | None = None,
        show: Callable[[Any], str] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.names = {} if names is None else names
        self.functions: dict[str, Callable[..., Any]] = {}
        self.host = host or OwnLoop()
        self._threads = ThreadPool()
        self._transform = transform
        self._publish = publish or self._publish_now
        self.show = show or repr
        self._after = after or _nothing
        self._bodies: OrderedDict[str, Body] = OrderedDict()
        """By task name, the ones used last at the end."""
        self._lock = threading.Lock()

    async def publish(self, values: Mapping[str, Any]) -> None:
        """Put names into the notebook, as `--into` does."""
        await self._publish(values)

    async def _publish_now(self, values: Mapping[str, Any]) -> None:
        self.names.update(values)

    def body(self, task: Task) -> Body:
        """Return the task's body, compiled when it is first needed and after each change."""
        with self._lock:
            known = self._bodies.get(task.name)
            if known is not None and known.source == task.prompt:
                self._bodies.move_to_end(task.name)
                return known
        body = Body(task.prompt, f"<car_task {task.name}>", self._transform)
        with self._lock:
            self._bodies[task.name] = body
            body.tell_lines()
            if len(self._bodies) > _MOST_BODIES:
                _, dropped = self._bodies.popitem(last=False)
                linecache.cache.pop(dropped.filename, None)
        return body

    def function(self, task: Task) -> Callable[..., Any] | None:
        """Return the live function that this very text came from, or None."""
        found = self.functions.get(task.name)
        return found if found is not None and getattr(found, "car_prompt", None) == task.prompt else None

    def _is_async(self, task: Task) -> bool:
        function = self.function(task)
        return inspect.iscoroutinefunction(function) if function else self.body(task).is_async

    def check(self, task: Task) -> None:
        if task.executor not in ("", "loop", "thread", "process"):
            raise InvalidInput(f"--executor is loop, thread or process for a Python body, not {task.executor!r}")
        if task.argv:
            raise InvalidInput("--argv goes with --runner shell; add it, or leave --argv away")
        check_surroundings(task, process=task.executor == "process")
        asynchronous = self._is_async(task)  # compiles it, so that a mistake is refused before anything is stored
        if task.executor == "thread" and asynchronous:
            raise InvalidInput("a body with a top-level await runs on the loop; leave --executor thread away")
        check_into(task)

    def executor(self, task: Task) -> str:
        return task.executor or ("loop" if self._is_async(task) else "thread")

    def waits_for_loop(self, task: Task) -> bool:
        return self.host.foreign and self.executor(task) == "loop"

    def on_own_loop(self) -> PythonRunner:
        twin = PythonRunner(self.names, None, self._transform, None, self.show, self._after)
        twin.functions = self.functions
        return twin

    def missing(self, task: Task) -> str | None:
        without = unset(task)
        if without or self.function(task):
            return without
        missing = self.body(task).missing(self.names)
        if not missing:
            return None
        listed = ", ".join(repr(name) for name in missing)
        return f"{listed} {'is not defined; run its' if len(missing) == 1 else 'are not defined; run their'} cell"

    async def run(self, work: Work) -> tuple[AgentOutput, Any]:
        try:
            if self.executor(work.task) == "process":
                done = await self._in_process(work)
            elif self.executor(work.task) == "loop":
                done = await self.host.run(lambda: self._call_async(work), work.begin)
            else:
                done = await self._threads.run(lambda: self._call(work))
        except Exception as error:
            _explain(error)
            raise
        values = {**done.values, work.task.into: done.result} if work.task.into else done.values
        if values:
            await self._publish(values)
        return AgentOutput(answer=done.answer), done.result

    def _call(self, work: Work) -> _Done:
        try:
            function = self.function(work.task)
            if function:
                return self._done(function(**work.runtime.params))
            body, names = self.body(work.task), PrivateNames(self.names)
            return self._done(body.run(names), body, names)
        finally:
            self._after()

    async def _call_async(self, work: Work) -> _Done:
        try:
            function = self.function(work.task)
            if function:
                result = function(**work.runtime.params)
                return self._done(await result if inspect.isawaitable(result) else result)
            body, names = self.body(work.task), PrivateNames(self.names)
            return self._done(await body.run_async(names), body, names)
        finally:
            self._after()

    async def _in_process(self, work: Work) -> _Done:
        task, function = work.task, self.function(work.task)
        name = str(self.names.get("__name__", "builtins"))
        filename, notebook = f"<car_task {task.name}>", self.show is not repr
        if function:
            job = Job(filename=filename, source=task.prompt, name=name, notebook=notebook)
            return _brought_back(work, await run_in_process(work, job, {"function": function}))
        body = self.body(task)
        job = Job(
            filename=filename,
            source=body.source,
            code=marshal.dumps(body.code),
            name=name,
            published=tuple(body.published),
            notebook=notebook,
        )
        surely, perhaps = (_there(names, self.names) for names in body.reads)
        return _brought_back(work, await run_in_process(work, job, surely, perhaps))

    def _done(self, result: Any, body: Body | None = None, names: Mapping[str, Any] = MappingProxyType({})) -> _Done:
        """Read what a body leaves where it ran: a value's own `repr` must not hold up the engine."""
        published = body.published if body else ()
        return _Done(result, self._answer(result), {name: names[name] for name in published if name in names})

    def _answer(self, result: Any) -> str:
        if result is None:
            return ""
        text, output = result if isinstance(result, str) else self.show(result), current_output.get()
        return clip(output.masked(text) if output else text)  # before it is cut, lest the cut leave half a secret


def _there(wanted: Iterable[str], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of some names is there and is the notebook's own, not its kernel's."""
    found = {name: names[name] for name in sorted(wanted) if name in names and name not in _KERNELS}
    return {name: value for name, value in found.items() if not _is_ipythons(value)}


_KERNELS = frozenset({"get_ipython", "display", "exit", "quit"})
"""Names that a process has by itself."""


def _is_ipythons(value: Any) -> bool:
    # A kernel puts its own `open` among the names; a process has the real one.
    return inspect.isfunction(value) and value.__module__.startswith("IPython.core.")


def _brought_back(work: Work, left: Left) -> _Done:
    """Return what a process left; what is needed of it and could not be carried fails the run."""
    task = work.task
    needed = {
        f"the result, for --into {task.into}," if not name else repr(name): said
        for name, said in left.refused.items()
        if name or task.into
    }
    if needed:
        raise CannotBeCarried(needed, back=True)
    if left.refused:
        said = f"[the result stays in its process: {left.refused['']}]\n"
        work.runtime.output.write(said, "stderr")
    values = dict(left.values)
    result = values.pop("", None)
    return _Done(result, left.answer, values)


def _explain(error: Exception) -> None:
    """Add the option that avoids an error which the executor, not the body, brought about."""
    if not isinstance(error, sqlite3.ProgrammingError | RuntimeError):
        return
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError) and "same thread" in text:
        error.add_note(
            "The body ran in a thread of its own: open the connection inside the body, or use --executor loop."
        )
    elif isinstance(error, RuntimeError) and ("no running event loop" in text or "no current event loop" in text):
        error.add_note("The body ran in a thread without an event loop: --executor loop runs it on the kernel's.")
