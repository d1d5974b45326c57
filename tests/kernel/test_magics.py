"""`%car` and `%%car_task`: every word, what is refused and how, help and Tab."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from car_sched_nb.store import schema
from tests.isolation import isolated_environment
from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel
from tests.kernel.notebook import (
    ENV,
    LOAD,
    executions,
    loaded_kernel,
    ok,
    refused,
    wait_ended,
)

SLEEPER = "time.sleep(300)"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    for kernel in loaded_kernel(tmp_path_factory.mktemp("magics")):
        ok(kernel, "%%car_task prices --every 1h --into prices\nprint('fetching')\n1")
        ok(kernel, "%%car_task prices.eu --no-run\n2")
        wait_ended(kernel, "prices")
        yield kernel


def stored(kernel: Kernel) -> list[str]:
    return ok(kernel, "print(*sorted(car.tasks().index))").split()


# The words of %car


def test_list_shows_the_tasks_with_their_status_and_next_fire(kernel: Kernel):
    assert ok(kernel, "table = %car list\nlist(table.columns)").startswith("['status', 'when', 'next_at'")
    assert ok(kernel, "table.loc['prices'].status, table.loc['prices.eu'].status") == "('scheduled', 'pending')"


def test_run_starts_a_task_outside_its_grid(kernel: Kernel):
    assert ok(kernel, "%car run prices") == "prices: started\n"
    wait_ended(kernel, "prices")
    assert [(str(e.trigger), str(e.cause)) for e in executions(kernel, "prices")][-1] == ("manual", "hand")


def test_running_what_still_runs_is_skipped_and_says_how_to_go_on(kernel: Kernel):
    ok(kernel, f"%%car_task busy\n{SLEEPER}")
    assert ok(kernel, "%car run busy") == (
        "busy: still running, so not started again: %car cancel busy, or --overlap allow\n"
    )
    assert ok(kernel, "%car cancel busy") == "cancelled 1 running\n"
    assert [str(e.status) for e in executions(kernel, "busy")] == ["cancelled", "skipped"]


def test_cancel_stops_one_or_all_and_tells_how_many(kernel: Kernel):
    for name in ("first", "second"):
        ok(kernel, f"%%car_task {name}\n{SLEEPER}")
    ok(kernel, "%%car_task third\nawait asyncio.sleep(300)")
    assert ok(kernel, "%car cancel first") == "cancelled 1 running\n"
    assert ok(kernel, "%car cancel first") == "nothing was running\n"
    assert ok(kernel, "%car cancel --all") == (
        "cancelled 1 running\nthird was told to stop; it stops once this cell has ended\n"
    )
    wait_ended(kernel)
    for name in ("first", "second", "third"):
        assert [e.status for e in executions(kernel, name)] == ["cancelled"], name


def test_a_body_that_catches_its_cancel_is_not_said_to_have_stopped(kernel: Kernel):
    ok(kernel, "%%car_task deaf\nprint('begun')\ntry:\n    time.sleep(300)\nexcept BaseException:\n    gate.wait(20)")
    ok(kernel, "gate = threading.Event()\nfrom car_sched_nb.notebook import session")
    ok(kernel, "patience_s, session._CANCEL_S = session._CANCEL_S, 0.5")
    kernel.wait_until(lambda: ok(kernel, "%car logs deaf") == "begun\n")
    assert ok(kernel, "%car cancel deaf") == "deaf was told to stop; it has not stopped yet\n"
    assert [e.status for e in executions(kernel, "deaf")] == ["running"]
    ok(kernel, "gate.set()\nsession._CANCEL_S = patience_s")
    wait_ended(kernel, "deaf")


def test_a_body_may_cancel_itself(kernel: Kernel):
    ok(kernel, "%%car_task tired\ncar.cancel('tired')\ntime.sleep(300)")
    wait_ended(kernel, "tired")
    [execution] = executions(kernel, "tired")
    assert execution.status == "cancelled"
    assert execution.duration is not None and execution.duration.total_seconds() < 3


def test_pause_and_resume_hold_one_or_all(kernel: Kernel):
    assert ok(kernel, "%car pause prices").startswith("paused 1;")
    assert ok(kernel, "%car pause prices") == "already paused\n"
    assert ok(kernel, "car.tasks().loc['prices'].status") == "'disabled'"
    others = len(stored(kernel)) - 1
    assert ok(kernel, "%car pause --all").startswith(f"paused {others};")
    assert ok(kernel, "%car resume --all") == f"resumed {others + 1}\n"
    assert ok(kernel, "%car resume prices") == "was not paused\n"
    assert ok(kernel, "car.tasks().loc['prices'].status") == "'scheduled'"


def test_what_is_shown_of_a_task_is_a_cell_that_defines_the_same_task(kernel: Kernel):
    (kernel.workdir / "a file's name.csv").write_text("1")
    for name, line, body in (
        ("plain", "--every 90s --align --catchup none --grace 5m --timeout 2m --into x", "'it''s'\n"),
        ("cron", "--cron '0 9 * * 1-5' --tz Europe/London --overlap allow", 'x = "a"  # comment\n\nx'),
        ("phrase", "--every 'weekday at 09:00'", "await asyncio.sleep(0)\n"),
        ("once", "--delay 1h --param q='a b' --param j='{\"k\": 1}' --param s=\"it's\"", "1"),
        ("watch", """--watch "a file's name.csv" '*.parquet'""", "1"),
        ("shell", "--runner shell --no-run", "echo \"$HOME\" | sed 's/x/y/'\n"),
        ("header", "", "#| every: 2h\n#| first: next\nprint('x')\n"),
    ):
        card = ok(kernel, f"%%car_task shown-{name} {line}\n{body}")
        assert "  new\n" in card, name
        cell = ok(kernel, f"%car show shown-{name}")
        again = ok(kernel, cell.removesuffix("\n"))
        assert "unchanged" in again, f"{cell}\n{again}"


def test_edit_puts_the_cell_into_a_new_one(kernel: Kernel):
    ok(kernel, "%car edit prices\n[payload] = get_ipython().payload_manager.read_payload()")
    assert ok(kernel, "payload['source'], payload['replace']") == "('set_next_input', False)"
    assert ok(kernel, "print(payload['text'].rstrip())") == ok(kernel, "%car show prices").rstrip("\n") + "\n"


def test_logs_show_the_newest_execution_also_while_it_runs_and_any_other_by_its_id(kernel: Kernel):
    ok(kernel, "%%car_task talks --no-run\nprint(car.current().params['n'])\ngate.wait(20)")
    ok(kernel, "gate = threading.Event(); gate.set()")
    ok(kernel, "%car run talks --param n=one")
    wait_ended(kernel, "talks")
    ok(kernel, "gate.clear()")
    ok(kernel, "%car run talks --param n=two")
    kernel.wait_until(lambda: ok(kernel, "%car logs talks") == "two\n")
    ok(kernel, "gate.set()")
    wait_ended(kernel, "talks")
    first = executions(kernel, "talks")[0].execution_id
    assert ok(kernel, f"%car logs talks {first}") == "one\n"
    assert "no execution has the id 'x'" in refused(kernel, "%car logs talks x")


def test_the_log_of_what_failed_without_a_traceback_ends_with_its_error(kernel: Kernel):
    kernel.run("import car_sched_nb as car")
    kernel.run("%%car_task gone --runner shell\necho -n bye; kill -9 $$")
    kernel.run("%%car_task keyless --runner shell\nkill -9 $$")
    kernel.run("await car.wait()")
    assert kernel.run("%car logs gone").text == "bye\nended by signal SIGKILL\n"
    assert kernel.run("%car outputs keyless").text == "ended by signal SIGKILL\n"
    kernel.run("%car delete gone")
    assert "that is for agents" in kernel.run("%car transcript gone").text, "a deleted task's history stays"


def test_what_is_drawn_again_keeps_the_order_of_both_streams(kernel: Kernel):
    kernel.run("import car_sched_nb as car")
    kernel.run("%%car_task mixed\nimport sys\nfor n in range(6): print(n, file=[sys.stdout, sys.stderr][n % 2])")
    kernel.run("await car.wait()")
    assert kernel.run("car.outputs('mixed')").text.split() == ["0", "1", "2", "3", "4", "5"]


def test_history_filters_by_task_status_time_and_number(kernel: Kernel):
    ok(kernel, "car.run('prices')")
    wait_ended(kernel, "prices")
    assert ok(kernel, "h = %car history prices --last 1h --status completed --limit 1\nlen(h), h.index.name") == (
        "(1, 'execution_id')"
    )
    assert ok(kernel, "h = %car history prices --until 1h\nlen(h)") == "0"
    assert ok(kernel, "h = %car history --status=missed\nlist(h.columns) == list(car.history().columns)") == "True"


def test_preview_shows_the_next_slots_in_utc_and_in_the_tasks_zone(kernel: Kernel):
    ok(kernel, "%%car_task noon --cron '0 12 * * *' --tz Asia/Tokyo\n1")
    ok(kernel, "slots = %car preview noon 3")
    assert (
        ok(kernel, "[t.hour for t in slots.local], [t.hour for t in slots.scheduled_at]") == "([12, 12, 12], [3, 3, 3])"
    )


def test_delete_hides_a_task_and_keeps_its_history(kernel: Kernel):
    ok(kernel, f"%%car_task doomed\n{SLEEPER}")
    assert ok(kernel, "%car delete doomed") == "deleted doomed; its history stays\n"
    assert "doomed" not in stored(kernel)
    assert ok(kernel, "list(car.history('doomed').status)") == "['cancelled']"


def test_arm_plans_what_is_stored(kernel: Kernel):
    assert ok(kernel, "%car arm prices") == "armed 1: planned in this kernel from now on\n"
    assert ok(kernel, "%car arm") == f"armed {len(stored(kernel))}: planned in this kernel from now on\n"


def test_the_namespace_is_told_and_fixed_once_a_task_ran(kernel: Kernel):
    assert ok(kernel, "%car namespace") == "namespace t (pinned)\n"
    assert ok(kernel, "%car namespace t") == "namespace t (pinned)\n"
    assert "restart the kernel" in refused(kernel, "%car namespace other")


def test_adopt_moves_the_tasks_of_a_notebook_that_was_renamed(start_kernel: StartKernel):
    old, new = start_kernel(env=ENV), start_kernel(env=ENV)
    ok(old, LOAD)
    ok(old, "%%car_task moved --every 1h\n'before'")
    wait_ended(old, "moved")
    old.stop()
    ok(new, LOAD.replace("namespace t", "namespace new"))
    assert "also in this store: t, 1 task" in ok(new, "%car namespace")
    assert "there are: t" in refused(new, "%car adopt tee")
    assert ok(new, "%car adopt t").startswith("adopted 1 task;")
    assert "unchanged" in ok(new, "%%car_task moved --every 1h\n'before'")
    wait_ended(new, "moved")
    assert ok(new, "list(car.history('moved').answer)") == "['before']"


def test_the_dashboard_is_a_widget(kernel: Kernel):
    shown = kernel.run("%car dashboard").outputs[0]  # the second is the table for a saved notebook
    assert "application/vnd.jupyter.widget-view+json" in shown.data


# Help and Tab


def test_help_lists_every_word_and_every_option(kernel: Kernel):
    words = ok(kernel, "from car_sched_nb.notebook.magics import VERBS\nprint(*VERBS)").split()
    assert set(words) >= set(
        "list run cancel pause resume arm delete show edit logs history dashboard preview namespace adopt help".split()
    )
    listed = ok(kernel, "%car")
    assert listed == ok(kernel, "%car help")
    assert [word for word in words if f"%car {word}" not in listed] == []
    for word in words:
        assert ok(kernel, f"%car help {word}").startswith(f"%car {word}")
    options = ok(kernel, "from car_sched_nb.options import OPTIONS\nprint(*(o.flag for o in OPTIONS))").split()
    task_help = ok(kernel, "%car help task")
    assert [flag for flag in options if flag not in task_help] == []


@pytest.mark.parametrize("question", ["%%car_task?", "%car?", "?%car"])
def test_a_question_mark_shows_the_help_and_no_code(kernel: Kernel, question: str):
    reply = kernel.client.execute(question, reply=True, timeout=20)
    [page] = [p["data"]["text/plain"] for p in reply["content"]["payload"] if p["source"] == "page"]
    assert "%%car_task NAME" in page
    assert "CarError" not in page


def completions(kernel: Kernel, code: str) -> list[str]:
    reply = kernel.client.complete(code, len(code), reply=True, timeout=10)["content"]
    start, end = reply["cursor_start"], reply["cursor_end"]
    return [code[:start] + match + code[end:] for match in reply["matches"]]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("%%car_task x --ev", "%%car_task x --every"),
        ("%%car_task x --every 5m --in", "%%car_task x --every 5m --into"),
        ("%%car_task x --catchup la", "%%car_task x --catchup latest"),
        ("%%car_task x --catchup=la", "%%car_task x --catchup=latest"),
        ("%%car_task x --overlap ", "%%car_task x --overlap allow"),
        ("%%car_task x --after pri", "%%car_task x --after prices"),
        ("%car pre", "%car preview"),
        ("%car run pri", "%car run prices"),
        ("%car run prices.", "%car run prices.eu"),
        ("%car cancel --a", "%car cancel --all"),
        ("%car help ta", "%car help task"),
        ("%car model g", "%car model get"),
        ("%car config --model lo", "%car config --model local"),
        ("x = 1\n%car run pri", "x = 1\n%car run prices"),
    ],
)
def test_tab_completes_options_values_words_and_task_names(kernel: Kernel, typed: str, meant: str):
    assert meant in completions(kernel, typed)


def test_tab_elsewhere_is_left_alone(kernel: Kernel):
    ok(kernel, "prize_money = 1")
    assert completions(kernel, "prize_m") == ["prize_money"]


# What is refused


@pytest.mark.parametrize(
    ("line", "body", "said"),
    [
        ("bad --evry 5s", "1", "no option is named --evry; did you mean --every?"),
        ("bad --every 5s --cron '* * * * *'", "1", "--every and --cron are two triggers"),
        ("bad --watch x.csv --once", "1", "are two triggers"),
        ("bad --every banana", "1", "write a length like 5m"),
        ("bad --every 0", "1", "a duration of zero is none: write 1s"),
        ("bad --every -5", "1", "a duration is positive: write 5s"),
        ("bad --every 5 minutes", "1", "write --every '5 minutes'"),
        ("bad --every 1ms", "1", "the shortest interval is 10ms"),
        ('bad --cron "61 * * * *"', "1", "minute '61' is not in its range: write 0-59"),
        ("bad --cron '* * *'", "1", "has 3 fields, cron has 5"),
        ("bad --cron '0 9 * * *' --tz Europe/Londn", "1", "did you mean Europe/London?"),
        ("bad --tz UTC", "1", "--tz goes with --every or --cron or --at"),
        ("bad --watch /nowhere/there/x.csv", "1", "the folder /nowhere/there does not exist; make it first"),
        ("bad --every 5s", "", "the cell body is empty"),
        ("bad --every 5s", "   \n", "the body is empty; write the task's code below"),
        ("bad --runner shell", "   \n", "the body is empty; write the command below"),
        ("bad", "x = (1,", "line 1 of the body: '(' was never closed\n    x = (1,\n        ^"),
        ("bad", "x = 1\nfor x in y\n  z", "line 2 of the body: expected ':'\n    for x in y\n              ^"),
        ("bad", "Tell me what is new in the world today.", "looks like a prompt; add --runner agent"),
        ("bad --at 00:00", "1", "00:00 has passed today; the next is tomorrow: --at "),
        ("bad --at '2020-01-01 09:00'", "1", "2020-01-01 09:00 has passed; the next is"),
        ("bad --delay soon", "1", "'soon' is not a duration"),
        ("bad --runner shel", "1", "did you mean 'shell'? there are agent, notebook, python, shell"),
        ("'a b'", "1", "write a-b"),
        ("a'b", "1", "a quote is not closed"),
        ("a/b", "1", "write a-b"),
        ("", "1", "a task needs a name: %%car_task prices --every 5m"),
        ("bad --into 1x", "1", "--into needs a variable's name, not '1x'"),
        ("bad --into class", "1", "--into needs a variable's name, not 'class'"),
        ("bad --into x --runner shell", "ls", "--into takes the result of a Python body"),
        ("bad --executor thread", "await f()", "runs on the loop; leave --executor thread away"),
        ("bad --notify failed,recoverd", "1", "--notify is none, or some of failed,recovered,completed"),
        ("bad --param region", "1", "write --param region=eu"),
        ("bad --timeout forever", "1", "'forever' is not a duration"),
        ("bad --overlap skp", "1", "--overlap is skip or queue or replace or allow, not 'skp'; did you mean 'skip'?"),
        ("bad --every 5s --every 6s", "1", "--every is given twice"),
        ("bad --every", "1", "--every needs a value"),
        ("bad --every 5s --no-run", "1", "--no-run goes with a task that has no trigger"),
        ("bad", "#| evry: 5s\n1", "no option is named --evry; did you mean --every?"),
        ("bad --every 5s", "#| every: 6s\n1", "--every stands on the line and below it; give it once"),
    ],
)
def test_a_bad_cell_is_refused_in_a_few_lines_and_nothing_is_stored(kernel: Kernel, line: str, body: str, said: str):
    before = stored(kernel)
    assert said in refused(kernel, f"%%car_task {line}\n{body}")
    assert stored(kernel) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("histroy", "%car has no 'histroy'; did you mean 'history'? %car help"),
        ("xyzzy", "%car has no 'xyzzy'; %car help lists what there is"),
        ("run", "write: %car run NAME [--param k=v]"),
        ("run price", "no task is named 'price'; did you mean 'prices'?"),
        ("run zzz", "no task is named 'zzz'; %car list shows what there is"),
        ("run prices --into x", "%car run has no option --into"),
        ("cancel", "write: %car cancel NAME | --all"),
        ("pause price", "did you mean 'prices'?"),
        ("resume price", "did you mean 'prices'?"),
        ("delete price", "did you mean 'prices'?"),
        ("arm price", "did you mean 'prices'?"),
        ("show price", "did you mean 'prices'?"),
        ("edit price", "did you mean 'prices'?"),
        ("logs price", "did you mean 'prices'?"),
        ("preview price", "did you mean 'prices'?"),
        ("preview prices x", "N is a whole number"),
        ("history price", "did you mean 'prices'?"),
        ("history --lst 1h", "%car history has no option --lst; did you mean '--last'?"),
        ("history --last", "--last needs a value"),
        ("history --last banana", "'banana' is not a time"),
        ("history --status complete", "did you mean 'completed'?"),
        ("namespace ''", "a namespace needs a name"),
        ("help histroy", "did you mean 'history'?"),
        ("list prices", "write: %car list"),
        ("dashboard prices", "write: %car dashboard"),
        ("run 'prices", "a quote is not closed"),
    ],
)
def test_a_bad_line_is_refused_with_what_to_type_instead(kernel: Kernel, line: str, said: str):
    assert said in refused(kernel, f"%car {line}")


def test_a_refused_change_leaves_the_task_as_it_was(kernel: Kernel):
    ok(kernel, "%%car_task kept --every 1h\n'kept'")
    refused(kernel, "%%car_task kept --every 2h\nx = (")
    assert ok(kernel, "%car show kept").rstrip("\n") == "%%car_task kept --every 1h\n'kept'"


# The store


@pytest.fixture(scope="module")
def unloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Yield a kernel that has no session yet, and after a refused load has none still."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "work").mkdir()
    kernel = Kernel(folder / "work", isolated_environment(folder) | ENV)
    yield kernel
    kernel.stop()


def load_refused(kernel: Kernel, store: Path) -> str:
    ok(kernel, f"import os\nos.environ['CAR_SCHED_NB_STORE'] = {str(store)!r}")
    said = refused(kernel, "%load_ext car_sched_nb")
    assert str(store) in said
    return said


def test_a_store_that_is_no_database_is_refused_at_load_and_left_as_it_is(unloaded: Kernel, tmp_path: Path):
    notes = "these are notes, not a database, and they stay as they are\n" * 20
    (tmp_path / "notes.txt").write_text(notes)
    said = load_refused(unloaded, tmp_path / "notes.txt")
    assert "is not a store of car_sched_nb (not an SQLite file)" in said
    assert (tmp_path / "notes.txt").read_text() == notes


def test_a_folder_is_refused_as_a_store(unloaded: Kernel, tmp_path: Path):
    assert "is not a store of car_sched_nb (a folder)" in load_refused(unloaded, tmp_path)


def test_a_store_of_another_program_is_refused_at_load(unloaded: Kernel, tmp_path: Path):
    other = sqlite3.connect(tmp_path / "recipes.db")
    other.execute("CREATE TABLE recipes (name)")
    other.close()
    assert "a database of another program" in load_refused(unloaded, tmp_path / "recipes.db")


def test_a_store_of_a_newer_version_is_refused_with_both_versions(unloaded: Kernel, tmp_path: Path):
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    newer.close()
    said = load_refused(unloaded, tmp_path / "newer.db")
    assert f"has schema version {schema.VERSION + 1}, this car_sched_nb knows version {schema.VERSION}" in said


def test_a_store_that_cannot_be_written_is_refused_at_load(unloaded: Kernel, tmp_path: Path):
    # Permissions do not hold root back; /proc takes no file from anybody.
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    said = load_refused(unloaded, Path("/proc/car.db") if os.geteuid() == 0 else closed / "car.db")
    assert "cannot be written" in said
    assert "give store=PATH" in said


def test_after_a_refused_load_the_next_one_can_succeed(unloaded: Kernel, tmp_path: Path):
    load_refused(unloaded, tmp_path)
    ok(unloaded, f"os.environ['CAR_SCHED_NB_STORE'] = {str(tmp_path / 'car.db')!r}")
    assert ok(unloaded, LOAD) == "namespace t (pinned)\n"
    ok(unloaded, "%%car_task works\n'works'")
    wait_ended(unloaded, "works")
    assert ok(unloaded, "list(car.history('works').answer)") == "['works']"
