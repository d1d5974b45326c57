"""`@car.task` on functions, and `@car.runner`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from car_sched_nb import options
from car_sched_nb.engine.edges import Notice
from car_sched_nb.engine.hooks import Hook
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Trigger
from car_sched_nb.notebook import card
from car_sched_nb.notebook.session import current_session

F = TypeVar("F", bound=Callable[..., Any])


def task(name: str | None = None, **given: Any) -> Callable[[F], F]:
    """Make a function, sync or async, a task; it stays callable.

    Parameters
    ----------
    name
        The function's name when not given.
    **given
        The options of `%%car_task` with underscores: `every="5m"`, `watch=["a.csv"]`, `param={"n": 1}`. Without a
        trigger the function is defined only; `car.run(name)` runs it.

    Raises
    ------
    InvalidInput
        For what `%%car_task` refuses too; nothing is stored.
    """
    if callable(name):
        raise InvalidInput("write @car.task() with parentheses, and options inside: @car.task(every='5m')")

    def decorate(function: F) -> F:
        define(function, name or function.__name__, given)
        return function

    return decorate


def define(function: Callable[..., Any], name: str, given: dict[str, Any]) -> None:
    """Store and plan a function as a task of this notebook."""
    session = current_session()
    values = {}
    for key, value in given.items():
        option = options.find_option(key.replace("_", "-"))
        if option.name in options.MODES:
            raise InvalidInput(f"{option.flag} belongs to a cell; call the function itself to try it")
        if value is not None and value is not False:
            values[option.name] = value
    prompt = source_of(function)
    built = options.make_task(name, prompt, values)
    function.car_prompt = prompt  # type: ignore[attr-defined]
    before = session.python.functions.get(name)
    session.python.functions[name] = function
    try:
        defined = session.call(lambda s: s.define(built))
        stored = session.call(lambda s: s.arm(defined.task.name))
    except BaseException:
        session.python.functions.pop(name, None)
        if before is not None:
            session.python.functions[name] = before
        raise
    notes = [f"run it: car.run({name!r})"] if stored.trigger is Trigger.MANUAL else []
    card.show(stored, session.namespace.name, defined.change, notes)


def source_of(function: Callable[..., Any]) -> str:
    """Return a body that says the same as the function: its text without decorators, and a call.

    It is what the history's version and `%car show` tell of it, and what runs after `%car arm` in a kernel where the
    function itself has not been defined again.
    """
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise InvalidInput(f"the text of {function!r} cannot be found; define it in a cell or a file") from error
    parsed = ast.parse(text).body[0]
    if not isinstance(parsed, ast.FunctionDef | ast.AsyncFunctionDef):
        raise InvalidInput("@car.task goes on a function: def refresh(): ...")
    given = parsed.args
    required = [one.arg for one in given.args[: len(given.args) - len(given.defaults)]]
    required += [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    lines = text.splitlines()[parsed.lineno - 1 :]
    call = f"{parsed.name}({', '.join(f'{name}=car.current().params[{name!r}]' for name in required)})"
    wait = "await " if isinstance(parsed, ast.AsyncFunctionDef) else ""
    return "\n".join(lines) + f"\n\n{wait}{call}\n"


def on(kind: str, *, task: str | None = None, every: bool = False) -> Callable[[Callable[[Notice], Any]], Hook]:
    """Call the decorated function when a task of this notebook fails, recovers or completes; see `Scheduler.on`."""
    decorate: Callable[[Callable[[Notice], Any]], Hook] = current_session().call_plain(
        lambda s: s.on(kind, task=task, every=every)
    )
    return decorate


def runner(name: str) -> Callable[[Any], Any]:
    """Register a runner of this kernel: an `AgentRunner`, or an async function `(spec, prompt, runtime, mailbox)`."""

    def register(given: Any) -> Any:
        current_session().call_plain(lambda s: s.register(name, given))
        return given

    return register
