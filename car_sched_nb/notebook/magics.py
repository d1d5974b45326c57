"""`%%car_task` and `%car`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

from car_sched_nb import options
from car_sched_nb.errors import CarError, InvalidInput, nearest
from car_sched_nb.model import Execution, Task, Trigger
from car_sched_nb.notebook import artifact, card, configure, trial, verbs
from car_sched_nb.notebook.digest import digest
from car_sched_nb.notebook.session import Session
from car_sched_nb.runners.local_files import ModelFile
from car_sched_nb.store import retention
from car_sched_nb.store.records import Defined
from car_sched_nb.when import format_instant


class Verb(msgspec.Struct, frozen=True):
    """One word after `%car`."""

    usage: str
    help: str
    do: Callable[[CarMagics, list[str]], Any]
    takes_task: bool = False
    function: str = ""
    """Its function in the package, when that has another name."""


def _user_error(error: Exception) -> UsageError:
    # A subclass of UsageError would print a traceback.
    return UsageError(str(error))


@magics_class
class CarMagics(Magics):
    """The magics of a session."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.session = session

    @no_var_expand
    @cell_magic
    def car_task(self, line: str, cell: str) -> None:
        try:
            self._define(line, cell)
        except CarError as error:
            raise _user_error(error) from None

    @no_var_expand
    @line_magic
    def car(self, line: str) -> Any:
        try:
            words = options.split_words(line)
            name = words[0] if words and words[0] not in ("--help", "-h") else "help"
            verb = VERBS.get(name)
            if verb is None:
                raise InvalidInput(
                    f"%car has no {name!r}{nearest(name, VERBS, none=';')} %car help lists what there is"
                )
            return verb.do(self, words[1:])
        except CarError as error:
            raise _user_error(error) from None

    # Defining

    def _define(self, line: str, cell: str) -> None:
        if line.split() in (["--help"], ["-h"], ["help"]):
            print(options.help_text())
            return
        parsed = options.parse_cell(line, cell)
        namespace = self.session.namespace.name
        if "test" in parsed.modes or "dry-run" in parsed.modes:
            self._try(parsed.task, parsed.modes)
            return
        defined: Defined = self.session.call(lambda s: s.define(parsed.task))
        task = self.session.call(lambda s: s.arm(defined.task.name))
        notes = self._notes(task)
        if task.trigger is Trigger.MANUAL and "no-run" not in parsed.modes:
            notes += self._run_manual(task)
        card.show(task, namespace, defined.change, notes)

    def _try(self, task: Task, modes: frozenset[str]) -> None:
        scheduler = self.session.start()
        task = scheduler.check(task)
        if "test" in modes:
            trial.run_here(self.session, task)
        now = self.session.call_plain(lambda s: s.clock.now_us())
        task = trial.unstored(task, now)
        card.show(task, self.session.namespace.name, "test" if "test" in modes else "dry-run")

    def _run_manual(self, task: Task) -> list[str]:
        if not task.enabled:
            return []
        execution = verbs.run(task.name)
        return [_started(execution)]

    def _notes(self, task: Task) -> list[str]:
        notes = []
        if self.session.namespace.source == "scratch":
            notes.append(
                "this notebook's path is unknown, so these tasks will not be found again; "
                "put %car namespace NAME into its first cell"
            )
        missing = self.session.call_plain(lambda s: s.runners[task.runner].missing(task))
        if missing and task.trigger is not Trigger.MANUAL:
            notes.append(f"{task.name} waits: {missing}")
        return notes


def _started(execution: Execution) -> str:
    if execution.status == "skipped" and execution.reason == "budget":
        return f"not started: {execution.error}"
    if execution.status == "skipped":
        return f"still running, so not started again: %car cancel {execution.task}, or --overlap allow"
    return "started"


def _one(verb: str, words: Sequence[str]) -> str:
    if len(words) != 1:
        raise InvalidInput(f"write: %car {VERBS[verb].usage}")
    return words[0]


def _name_or_all(verb: str, words: list[str]) -> dict[str, Any]:
    if words == ["--all"]:
        return {"all": True}
    return {"name": _one(verb, words)}


def _list(magics: CarMagics, words: list[str]) -> Any:
    if words:
        raise InvalidInput("write: %car list")
    frame = verbs.tasks()
    return frame[["status", "when", "next_at", "last_run_at", "run_count", "runner"]]


def _run(magics: CarMagics, words: list[str]) -> None:
    name, params = _name_and_params(words)
    print(f"{name}: {_started(verbs.run(name, params))}")


def _name_and_params(words: list[str]) -> tuple[str, dict[str, str]]:
    names, given = _words_and_options("run", words, {"--param": "param"})
    return _one("run", names), dict(options.parse_param(text) for _, text in given)


_SEVERAL = frozenset({"status", "runner"})
"""What may be given several times, or with commas."""


def _words_and_options(
    verb: str, words: list[str], known: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split what follows a verb into plain words and the values of its options, as (what `known` calls it, value)."""
    names: list[str] = []
    given: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    position = 0
    while position < len(words):
        word, equals, value = words[position].partition("=")
        position += 1
        if not word.startswith("--"):
            names.append(words[position - 1])
            continue
        if word not in known:
            hint = nearest(word, known, none=";")
            raise InvalidInput(f"%car {verb} has no option {word}{hint} write: %car {VERBS[verb].usage}")
        if not equals:
            if position >= len(words):
                raise InvalidInput(f"{word} needs a value; write: %car {VERBS[verb].usage}")
            value, position = words[position], position + 1
        name = known[word]
        if name in seen and name not in _SEVERAL:
            twice = f"{word} is given twice" if seen[name] == word else f"{seen[name]} and {word} say the same"
            raise InvalidInput(f"{twice}; give one of them, once")
        seen[name] = word
        given.append((name, value))
    return names, given


def _backfill(magics: CarMagics, words: list[str]) -> None:
    names, given = _words_and_options("backfill", words, {"--start": "start", "--end": "end"})
    name = _one("backfill", names)
    count = verbs.backfill(name, **dict(given))
    if count:
        print(f"{name}: {count} slot{'s' * (count != 1)} run now, in the background; %car cancel {name} ends it")
    else:
        print(f"{name}: no slot of that time was missed or skipped, or all of them have run since")


def _archive(magics: CarMagics, words: list[str]) -> None:
    names, pairs = _words_and_options("archive", words, {"--before": "before", "--to": "to"})
    given = dict(pairs)
    if names or "before" not in given:
        raise InvalidInput(f"write: %car {VERBS['archive'].usage}")
    count = verbs.archive(**given)
    ended = format_instant(retention.before_us(given["before"], time.time_ns() // 1000))
    kept = f", written to {given['to']} first" if "to" in given and count else ""
    said = f"removed {count} execution{'s' * (count != 1)} that ended before {ended}{kept}"
    print(f"{said}; what is live and each task's last run stay")


def _cancel(magics: CarMagics, words: list[str]) -> None:
    count = verbs.cancel(**_name_or_all("cancel", words))
    still = magics.session.call_plain(lambda s: [run for run in s.live() if run.state == "cancelling"])
    if count > len(still) or not count:
        print(f"cancelled {count - len(still)} running" if count else "nothing was running")
    for run in still:
        when = "stops once this cell has ended" if run.row.executor == "loop" else "has not stopped yet"
        print(f"{run.task.name} was told to stop; it {when}")


def _pause(magics: CarMagics, words: list[str]) -> None:
    count = verbs.pause(**_name_or_all("pause", words))
    print(f"paused {count}; %car resume goes on" if count else "already paused")


def _resume(magics: CarMagics, words: list[str]) -> None:
    count = verbs.resume(**_name_or_all("resume", words))
    print(f"resumed {count}" if count else "was not paused")


def _arm(magics: CarMagics, words: list[str]) -> None:
    count = verbs.arm(_one("arm", words) if words and words != ["--all"] else None)
    print(f"armed {count}: planned in this kernel from now on")
    for name, missing in magics.session.call_plain(lambda s: s.waiting_for_names()):
        print(f"{name} waits: {missing}")


def _delete(magics: CarMagics, words: list[str]) -> None:
    name = _one("delete", words)
    verbs.delete(name)
    print(f"deleted {name}; its history stays")


def _show(magics: CarMagics, words: list[str]) -> None:
    print(verbs.show(_one("show", words)))


def _edit(magics: CarMagics, words: list[str]) -> None:
    verbs.edit(_one("edit", words))


def _logs(magics: CarMagics, words: list[str]) -> None:
    if not 1 <= len(words) <= 2:
        raise InvalidInput(f"write: %car {VERBS['logs'].usage}")
    text = verbs.logs(*words)
    sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")


def _artifact(magics: CarMagics, words: list[str]) -> Any:
    if not 1 <= len(words) <= 2:
        raise InvalidInput(f"write: %car {VERBS['artifact'].usage}")
    return artifact.find(magics.session, *words)


def _debug(magics: CarMagics, words: list[str]) -> None:
    verbs.debug(_one("debug", words))


def _transcript(magics: CarMagics, words: list[str]) -> Any:
    if not 1 <= len(words) <= 2:
        raise InvalidInput(f"write: %car {VERBS['transcript'].usage}")
    return verbs.transcript(*words)


def _outputs(magics: CarMagics, words: list[str]) -> Any:
    if not 1 <= len(words) <= 2:
        raise InvalidInput(f"write: %car {VERBS['outputs'].usage}")
    return verbs.outputs(*words)


_HISTORY_OPTIONS = {
    f"--{name}": {"last": "since"}.get(name, name) for name in "last since until status runner limit".split()
}


def _history(magics: CarMagics, words: list[str]) -> Any:
    names, given = _names_and_filters("history", words)
    from car_sched_nb.frames.shown import ReadableHistory

    return ReadableHistory(verbs.history(names or None, **given))


def _export(magics: CarMagics, words: list[str]) -> Any:
    names, given = _names_and_filters("export", words)
    if not names:
        raise InvalidInput(f"write: %car {VERBS['export'].usage}")
    path, *tasks = names
    return verbs.export(path, tasks or None, **given)


def _names_and_filters(verb: str, words: list[str]) -> tuple[list[str], dict[str, Any]]:
    names, pairs = _words_and_options(verb, words, _HISTORY_OPTIONS)
    given: dict[str, Any] = dict(pairs)
    for name in _SEVERAL & given.keys():
        given[name] = [one for key, value in pairs if key == name for one in value.split(",") if one]
    if "limit" in given:
        given["limit"] = _whole(given["limit"], "--limit")
    return names, given


def _whole(text: str, option: str) -> int:
    if not text.isdigit():
        raise InvalidInput(f"{option} is a whole number from 0, not {text!r}")
    return int(text)


def _dashboard(magics: CarMagics, words: list[str]) -> Any:
    if words:
        raise InvalidInput("write: %car dashboard")
    return verbs.dashboard()


def _preview(magics: CarMagics, words: list[str]) -> Any:
    if len(words) > 2:
        raise InvalidInput(f"write: %car {VERBS['preview'].usage}")
    return verbs.preview(words[0] if words else None, _whole(words[1], "N") if len(words) == 2 else None)


def _slots(magics: CarMagics, words: list[str]) -> Any:
    names, given = _words_and_options("slots", words, {"--start": "start", "--end": "end"})
    return verbs.slots(names or None, **dict(given))


def _summary(magics: CarMagics, words: list[str]) -> Any:
    names, given = _words_and_options("summary", words, {"--since": "since", "--last": "since"})
    if names:
        raise InvalidInput(f"write: %car {VERBS['summary'].usage}")
    return verbs.summary(**dict(given))


def _namespace(magics: CarMagics, words: list[str]) -> None:
    if len(words) > 1:
        raise InvalidInput("write: %car namespace NAME, with quotes when it has spaces")
    name = verbs.namespace(words[0] if words else None)
    source = magics.session.namespace.source
    said = {"pinned": "pinned", "notebook": "this notebook's path", "scratch": "for this kernel only"}[source]
    print(f"namespace {name} ({said})")
    if words and not magics.session.started and (told := digest(magics.session)):
        print(told)
    if not words:
        for other, count in verbs.namespaces():
            if other != name:
                print(f"  also in this store: {other}, {count} task{'s' * (count != 1)}")


def _adopt(magics: CarMagics, words: list[str]) -> None:
    count = verbs.adopt(_one("adopt", words))
    print(f"adopted {count} task{'s' * (count != 1)}; run their cells, or %car arm, to plan them here")


def _model(magics: CarMagics, words: list[str]) -> None:
    if words == ["get"]:
        there = {model.path for model in verbs.models()}
        model = verbs.model_get()
        print("there already:" if model.path in there else "fetched:", _said_of(model))
        print("use it with: %%car_task NAME --runner agent --model local")
        return
    if words:
        raise InvalidInput("write: %car model, or %car model get")
    found = verbs.models()
    for model in found:
        print(_said_of(model))
    if not found:
        print("no local model yet; %car model get fetches a small one (90 MB, once)")


def _said_of(model: ModelFile) -> str:
    licence = f", {model.licence}" if model.licence else ""
    return f"{model.name}, {model.size / 1e6:,.0f} MB{licence}{', in memory' if model.loaded else ''}, {model.path}"


_CONFIG_OPTIONS = {"--notify": "notify", "--model": "model", "--keep": "keep", "--keep-files": "keep_files"}


def _config(magics: CarMagics, words: list[str]) -> None:
    flags = {"--test", "--all"} & {*words}
    names, pairs = _words_and_options("config", [word for word in words if word not in flags], _CONFIG_OPTIONS)
    if names:
        raise InvalidInput(f"write: %car {VERBS['config'].usage}")
    given: dict[str, Any] = dict(pairs)
    if given or not flags:
        verbs.config(**given, everywhere="--all" in flags)
        print(configure.shown(magics.session))
    elif "--test" not in flags:
        raise InvalidInput(f"--all goes with a setting; write: %car {VERBS['config'].usage}")
    if "--test" in flags:
        print(configure.tested(magics.session))


def _maintain(magics: CarMagics, words: list[str]) -> None:
    if words:
        raise InvalidInput("write: %car maintain")
    print(verbs.maintain())


def _help(magics: CarMagics, words: list[str]) -> None:
    if words == ["task"]:
        print(options.help_text())
    elif words:
        if words[0] not in VERBS:
            raise InvalidInput(
                f"%car has no {words[0]!r}{nearest(words[0], VERBS, none=';')} %car help lists what there is"
            )
        print(f"%car {VERBS[words[0]].usage}\n    {VERBS[words[0]].help}")
    else:
        print(help_text())


VERBS: dict[str, Verb] = {
    "list": Verb("list", "the tasks of this notebook", _list),
    "run": Verb("run NAME [--param k=v]", "run a task now, outside its grid", _run, takes_task=True),
    "cancel": Verb(
        "cancel NAME | --all", "stop what runs; the task goes on with its next slot", _cancel, takes_task=True
    ),
    "pause": Verb("pause NAME | --all", "start no more slots until it is resumed", _pause, takes_task=True),
    "resume": Verb("resume NAME | --all", "go on after a pause", _resume, takes_task=True),
    "arm": Verb(
        "arm [NAME | --all]", "plan stored tasks in this kernel, without running their cells", _arm, takes_task=True
    ),
    "backfill": Verb(
        "backfill NAME [--start T] [--end T]", "run slots that were missed or skipped", _backfill, takes_task=True
    ),
    "archive": Verb(
        "archive --before T [--to PATH]",
        "remove history that ended before T: 90d, 2026-01-01; --to writes it to a new file first",
        _archive,
    ),
    "delete": Verb("delete NAME", "cancel and hide a task; its history stays", _delete, takes_task=True),
    "show": Verb("show NAME", "print the cell that defines a task", _show, takes_task=True),
    "edit": Verb("edit NAME", "put that cell into a new one", _edit, takes_task=True),
    "logs": Verb("logs NAME [EXECUTION_ID]", "what its newest execution printed", _logs, takes_task=True),
    "artifact": Verb(
        "artifact NAME [EXECUTION_ID]", "the file it has left: an executed notebook", _artifact, takes_task=True
    ),
    "debug": Verb("debug NAME", "open its last exception in the debugger", _debug, takes_task=True),
    "transcript": Verb(
        "transcript NAME [EXECUTION_ID]", "what its newest agent and its tools said", _transcript, takes_task=True
    ),
    "outputs": Verb(
        "outputs NAME [EXECUTION_ID]", "the same with tables and pictures, drawn again", _outputs, takes_task=True
    ),
    "history": Verb(
        "history [NAME ...] [--last DUR] [--since T] [--until T] [--status S] [--runner R] [--limit N]",
        "executions as a DataFrame",
        _history,
        takes_task=True,
    ),
    "export": Verb(
        "export PATH [NAME ...] [--last DUR] [--since T] [--until T] [--status S] [--runner R] [--limit N]",
        "the same as a file: .parquet, .csv, .jsonl (.csv.gz, .jsonl.gz), or .db, a copy of the store",
        _export,
        takes_task=True,
    ),
    "preview": Verb(
        "preview [NAME] [N]",
        "the next planned slots, of one task or of all in the order of time",
        _preview,
        takes_task=True,
    ),
    "slots": Verb(
        "slots [NAME ...] [--start T] [--end T]", "each planned slot and what became of it", _slots, takes_task=True
    ),
    "summary": Verb("summary [--last DUR]", "a row a task: served, failed, missed, errors, what is next", _summary),
    "dashboard": Verb("dashboard", "live status and buttons", _dashboard),
    "namespace": Verb("namespace [NAME]", "whose tasks these are; with a name, pin it in the first cell", _namespace),
    "config": Verb(
        "config [--notify env:NAME] [--model NAME] [--keep N|DUR|all] [--keep-files DUR] [--all] [--test]",
        "settings of this notebook, or of --all; --keep: of each task; 'none' takes one off; --test sends a notice",
        _config,
    ),
    "maintain": Verb("maintain", "remove now what --keep does not keep, as every hour; %car config tells", _maintain),
    "adopt": Verb("adopt OLD", "take over the tasks of this notebook's former name", _adopt),
    "model": Verb(
        "model [get]", "the local models; get fetches a small one, for --model local", _model, function="models"
    ),
    "help": Verb("help [task | VERB]", "this help; 'task' lists the options of %%car_task", _help),
}


def help_text() -> str:
    """Return the help of `%car`, from the table."""
    width = 30
    lines = ["%car VERB ..., each also a function: car.run('prices')", ""]
    for verb in VERBS.values():
        if len(verb.usage) < width:
            lines.append(f"  %car {verb.usage:<{width}} {verb.help}")
        else:
            lines += [f"  %car {verb.usage}", f"  {'':<{width + 5}} {verb.help}"]
    lines += ["", "%%car_task NAME [options] makes a cell a task; %car help task lists the options."]
    return "\n".join(lines)


# `?` shows the docstring, and the table is its only source.
CarMagics.car_task.__doc__ = options.help_text()
CarMagics.car.__doc__ = help_text()
