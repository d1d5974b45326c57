"""What the package is for: cells become tasks, and their results, outputs and history are there."""

from collections.abc import Iterator

import pytest

from tests.kernel.kernel import Kernel, joined
from tests.kernel.notebook import executions, loaded_kernel, ok, text_of, wait_ended, wait_for_executions

NOISE = """
import logging, warnings
from IPython.display import HTML, display
print("PRINTED", end=" ")
print("TWICE")
print("ERRED", file=sys.stderr)
warnings.warn("WARNED")
logging.warning("LOGGED")
display(HTML("<b>SHOWN</b>"))
"""
SAID = ["PRINTED TWICE", "ERRED", "WARNED", "LOGGED", "IPython.core.display.HTML"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    yield from loaded_kernel(tmp_path_factory.mktemp("main"))


# The cells that everybody writes first


def test_an_interval_runs_at_once_and_its_result_is_a_variable_of_the_next_cell(kernel: Kernel):
    ok(kernel, "%%car_task prices --every 1h --into prices\nprint('fetching')\n[3, 1, 2]")
    wait_ended(kernel, "prices")
    assert ok(kernel, "sorted(prices)") == "[1, 2, 3]"
    assert ok(kernel, "%car logs prices") == "fetching\n"


def test_a_body_may_await(kernel: Kernel):
    ok(kernel, "%%car_task health --every 1h\nawait asyncio.sleep(0.01)\n'healthy'")
    wait_ended(kernel, "health")
    [execution] = executions(kernel, "health")
    assert (execution.status, execution.executor, execution.answer) == ("completed", "loop", "healthy")


def test_a_shell_task_waits_for_its_time_in_its_zone_and_runs_when_asked(kernel: Kernel):
    card = ok(kernel, "%%car_task disk --runner shell --cron '0 9 * * 1-5' --tz Europe/London\necho $CAR_TASK; df -P /")
    assert "shell · at 09:00" in card
    assert "Europe/London" in card
    assert "09:00:00 GMT" in card or "09:00:00 BST" in card
    assert executions(kernel, "disk") == []
    assert ok(kernel, "%car run disk") == "disk: started\n"
    wait_ended(kernel, "disk")
    assert ok(kernel, "%car logs disk").startswith("disk\nFilesystem")


def test_a_watched_file_is_read_again_when_it_changes_and_not_before(kernel: Kernel):
    file = kernel.workdir / "data.csv"
    file.write_text("a\n1\n")
    ok(kernel, "%%car_task reload --watch data.csv --into df\nimport pandas as pd\npd.read_csv('data.csv')")
    assert executions(kernel, "reload") == []
    file.write_text("a\n1\n2\n")
    wait_for_executions(kernel, "reload", "completed")
    assert ok(kernel, "len(df)") == "2"


def test_a_task_without_a_trigger_runs_each_time_its_cell_runs(kernel: Kernel):
    cell = "%%car_task report\n'report'"
    for count in (1, 2):
        assert "started" in ok(kernel, cell)
        wait_ended(kernel, "report")
        assert [e.answer for e in executions(kernel, "report")] == ["report"] * count


def test_history_is_a_dataframe_to_group_and_describe(kernel: Kernel):
    ok(kernel, "%%car_task grouped --no-run\n1 / car.current().params.get('by', 1)")
    ok(kernel, "car.run('grouped')")
    wait_ended(kernel, "grouped")
    ok(kernel, "car.run('grouped', params={'by': 0})")
    wait_ended(kernel, "grouped")
    ok(kernel, "described = car.history('grouped').groupby('status').duration.describe()")
    assert (
        ok(kernel, "list(described.index), [int(n) for n in described['count']]") == "(['completed', 'failed'], [1, 1])"
    )


def test_waiting_for_a_task_that_nobody_defined_is_an_error_and_no_success(kernel: Kernel):
    assert "UnknownTask: no task is named 'repotr'" in kernel.run("await car.wait('repotr')").error


def test_waiting_gives_up_after_its_timeout_and_the_task_goes_on(kernel: Kernel):
    ok(kernel, "gate = asyncio.Event()")
    ok(kernel, "%%car_task gated\nawait gate.wait()\n'through'")
    assert ok(kernel, "await car.wait('gated', timeout=0.2)") == "False"
    ok(kernel, "gate.set()")
    wait_ended(kernel, "gated")
    assert executions(kernel, "gated")[0].answer == "through"


# Whose output, whose names


def test_what_a_body_in_a_thread_says_is_kept_with_it_and_shown_in_no_cell(kernel: Kernel):
    ok(kernel, "said = threading.Event()")
    defining = kernel.send(f"%%car_task noisy --no-run\n{NOISE}\nsaid.set()")
    kernel.wait(defining)
    running = ok(kernel, "%car run noisy\nassert said.wait(10)\nprint('mine')")
    wait_ended(kernel, "noisy")
    assert running == "noisy: started\nmine\n"
    assert "PRINTED" not in joined(kernel.outputs_of(defining))
    assert kernel.strays() == []
    logs = ok(kernel, "%car logs noisy")
    assert [text for text in SAID if text not in logs] == []


def test_what_a_body_on_the_loop_says_is_kept_with_it_and_shown_in_no_cell(kernel: Kernel):
    ok(kernel, "heard = asyncio.Event()")
    defining = kernel.send(f"%%car_task noisy_loop --no-run\nawait asyncio.sleep(0)\n{NOISE}\nheard.set()")
    kernel.wait(defining)
    running = ok(kernel, "%car run noisy_loop\nawait asyncio.wait_for(heard.wait(), 10)\nprint('mine')")
    wait_ended(kernel, "noisy_loop")
    assert running == "noisy_loop: started\nmine\n"
    assert "PRINTED" not in joined(kernel.outputs_of(defining))
    assert kernel.strays() == []
    logs = ok(kernel, "%car logs noisy_loop")
    assert [text for text in SAID if text not in logs] == []


def test_two_bodies_at_once_keep_their_outputs_apart(kernel: Kernel):
    ok(kernel, "met = threading.Barrier(2)")
    for name in ("left", "right"):
        ok(kernel, f"%%car_task {name} --no-run\nfor _ in range(3):\n    met.wait(10)\n    print('{name}')")
    ok(kernel, "car.run('left'); car.run('right')")
    wait_ended(kernel, "left", "right")
    assert ok(kernel, "%car logs left\n%car logs right") == "left\n" * 3 + "right\n" * 3


def test_shell_commands_and_magics_work_inside_a_body(kernel: Kernel):
    ok(kernel, "%%car_task magical\n!echo from the shell\nfound = !echo listed\n%time pass\nfound[0]")
    wait_ended(kernel, "magical")
    assert executions(kernel, "magical")[0].answer == "listed"
    logs = ok(kernel, "%car logs magical")
    assert logs.startswith("from the shell")
    assert "Wall time" in logs


def test_a_body_reads_the_notebook_and_keeps_what_it_assigns(kernel: Kernel):
    ok(kernel, "shared = 20")
    ok(kernel, "%%car_task private\nshared = shared + 1\nown = [shared + n for n in (0, 1)]\nown")
    wait_ended(kernel, "private")
    assert executions(kernel, "private")[0].answer == "[21, 22]"
    assert ok(kernel, "shared, 'own' in globals()") == "(20, False)"


def test_a_failed_run_leaves_the_old_value_and_shows_its_own_traceback(kernel: Kernel):
    ok(kernel, "quote = 'old'")
    ok(kernel, "%%car_task failing --into quote\nx = 1\nx / 0")
    wait_ended(kernel, "failing")
    assert ok(kernel, "quote") == "'old'"
    [execution] = executions(kernel, "failing")
    assert (execution.status, execution.error_type) == ("failed", "ZeroDivisionError")
    logs = ok(kernel, "%car logs failing")
    assert logs.startswith('Traceback (most recent call last):\n  File "<car_task failing>", line 2')
    assert "car_sched_nb" not in logs


def test_a_body_that_exits_or_is_interrupted_ends_as_a_row_and_the_kernel_lives(kernel: Kernel):
    for number, last in enumerate(("raise SystemExit(3)", "raise KeyboardInterrupt", "exit()")):
        for prefix in ("", "await asyncio.sleep(0)\n"):
            name = f"exits{number}{'a' if prefix else ''}"
            ok(kernel, f"%%car_task {name}\n{prefix}{last}")
            wait_ended(kernel, name)
            assert executions(kernel, name)[0].status == "failed", last
    assert ok(kernel, "1 + 1") == "2"


def test_a_body_that_asks_for_input_fails_and_holds_nothing_up(kernel: Kernel):
    for name, prefix in (("asks", ""), ("asks_loop", "await asyncio.sleep(0)\n")):
        ok(kernel, f"%%car_task {name}\n{prefix}input('who? ')")
        wait_ended(kernel, name)
        [execution] = executions(kernel, name)
        assert (execution.error_type, "--param NAME=VALUE" in (execution.error or "")) == ("EOFError", True)


def test_a_body_that_takes_too_long_is_stopped(kernel: Kernel):
    bodies = {"slow_thread": "time.sleep(60)", "slow_loop": "await asyncio.sleep(60)"}
    for name, body in bodies.items():
        ok(kernel, f"%%car_task {name} --timeout 200ms\n{body}")
    ok(kernel, "%%car_task slow_shell --runner shell --timeout 200ms\nsleep 60")
    wait_ended(kernel, "slow_thread", "slow_loop", "slow_shell")
    for name in (*bodies, "slow_shell"):
        assert [e.status for e in executions(kernel, name)] == ["timed_out"], name


# The card


def test_the_card_says_what_the_task_is_when_it_comes_and_how_long_it_lives(kernel: Kernel):
    lines = ok(kernel, "%%car_task carded --every 90s --into quote\n1").splitlines()
    assert lines[:3] == ["carded", "  python · every 1 min 30 s · into quote", "  new"]
    assert lines[3].startswith("  next ")
    assert lines[3].count(", ") == 2
    assert lines[4:] == ["  t · runs while this kernel lives; survives closing the tab, not a restart"]


def test_a_saved_card_has_no_clock_times(kernel: Kernel):
    ok(kernel, "from car_sched_nb.notebook import card\nfresh_s, card._FRESH_S = card._FRESH_S, 0.5")
    cell = kernel.send("%%car_task saved --every 1h\n1")
    kernel.wait(cell)
    kernel.wait_until(lambda: any(o.kind == "update_display_data" for o in kernel.outputs_of(cell)))
    kept = [o for o in kernel.outputs_of(cell) if o.kind == "update_display_data"][-1]
    assert kept.text.splitlines() == [
        "saved",
        "  python · every 1 h",
        "  t · runs while this kernel lives; survives closing the tab, not a restart",
    ]
    assert "next" not in kept.data["text/html"]
    ok(kernel, "card._FRESH_S = fresh_s")


def test_a_card_escapes_what_was_typed(kernel: Kernel):
    result = kernel.run("%%car_task escaped --watch '<b>x<b>.csv'\n1")
    html = result.outputs[0].data["text/html"]
    assert "&lt;b&gt;x&lt;b&gt;.csv changes" in html
    assert "<b>" not in html


def test_the_same_cell_again_is_unchanged_and_runs_nothing_again(kernel: Kernel):
    cell = "%%car_task again --every 1h\n'ran'"
    assert "  new\n" in ok(kernel, cell)
    wait_ended(kernel, "again")
    assert "unchanged" in ok(kernel, cell)
    wait_ended(kernel, "again")
    assert [e.slot for e in executions(kernel, "again")] == ["0"]


def test_a_changed_body_is_told_and_applies_from_the_next_start_only(kernel: Kernel):
    ok(kernel, "%%car_task mail --every 1h\n'v1'")
    wait_ended(kernel, "mail")
    card = ok(kernel, "%%car_task mail --every 1h\n# corrected\n'v2'")
    wait_ended(kernel, "mail")
    assert "changed: the new version runs from its next start" in card
    assert [e.answer for e in executions(kernel, "mail")] == ["v1"]
    ok(kernel, "%car run mail")
    wait_ended(kernel, "mail")
    assert [(e.answer, e.version) for e in executions(kernel, "mail")] == [("v1", 0), ("v2", 1)]


def test_a_changed_schedule_starts_its_slots_afresh(kernel: Kernel):
    ok(kernel, "%%car_task moved --every 1h\n1")
    wait_ended(kernel, "moved")
    assert "changed schedule" in ok(kernel, "%%car_task moved --every 2h\n1")
    wait_ended(kernel, "moved")
    assert [e.slot for e in executions(kernel, "moved")] == ["0", "r1.0"]


def test_a_task_deleted_and_defined_again_is_a_new_one_and_its_history_stays(kernel: Kernel):
    cell = "%%car_task reborn --every 1h\n1"
    ok(kernel, cell)
    wait_ended(kernel, "reborn")
    ok(kernel, "%car delete reborn")
    assert "  new\n" in ok(kernel, cell)
    wait_ended(kernel, "reborn")
    assert [e.slot for e in executions(kernel, "reborn")] == ["0", "0"]
    assert len({e.task_id for e in executions(kernel, "reborn")}) == 2


# Options


def test_a_body_knows_its_occurrence_and_its_parameters(kernel: Kernel):
    ok(kernel, "%%car_task load --param region=eu --param n=3\nc = car.current()\n[c.params, c.attempt, c.slot]")
    wait_ended(kernel, "load")
    ok(kernel, "%car run load --param region=us")
    wait_ended(kernel, "load")
    defined, overridden = executions(kernel, "load")
    assert defined.answer == str([{"region": "eu", "n": "3"}, 1, defined.slot])
    assert overridden.params == {"region": "us", "n": "3"}
    assert overridden.answer == str([overridden.params, 1, overridden.slot])


def test_a_shell_body_gets_its_parameters_as_text_and_never_as_code(kernel: Kernel):
    ok(kernel, "%%car_task told --runner shell --no-run\nprintf '%s' \"$CAR_PARAM_WHO\"")
    ok(kernel, """car.run('told', params={'who': '$(echo no); `echo no` "quoted"'})""")
    wait_ended(kernel, "told")
    assert executions(kernel, "told")[0].answer == '$(echo no); `echo no` "quoted"'


def test_options_may_go_on_below_the_line(kernel: Kernel):
    card = ok(kernel, "%%car_task below\n#| every: 10m\n#| param: a=1\n#| into: lower\n'body'")
    assert "every 10 min · into lower" in card
    wait_ended(kernel, "below")
    assert executions(kernel, "below")[0].params == {"a": "1"}


def test_dollars_and_braces_on_the_line_are_not_expanded(kernel: Kernel):
    ok(kernel, "HOME = 'expanded'")
    ok(kernel, "%%car_task literal --param a=$HOME --param b={HOME}\n1")
    wait_ended(kernel, "literal")
    assert executions(kernel, "literal")[0].params == {"a": "$HOME", "b": "{HOME}"}


@pytest.mark.parametrize("prefix", ["", "await asyncio.sleep(0.01)\n"], ids=["thread", "loop"])
def test_a_trial_runs_once_in_its_cell_and_stores_nothing(kernel: Kernel, prefix: str):
    shown = ok(kernel, f"%%car_task tried --every 5m --test\n{prefix}print('out')\n40 + 2")
    assert shown.startswith("out\n42\ntried\n")
    assert "nothing was stored" in shown
    assert "tried" not in ok(kernel, "list(car.tasks().index)")


def test_a_trial_that_fails_says_so_in_its_cell(kernel: Kernel):
    result = kernel.run("%%car_task tried --test\nprint('out')\n1 / 0")
    assert result.status == "error"
    assert text_of(result).startswith('out\nTraceback (most recent call last):\n  File "<car_task tried>", line 2')
    assert text_of(result).rstrip().endswith("UsageError: tried failed: division by zero; nothing was stored")


def test_a_dry_run_shows_the_card_and_runs_and_stores_nothing(kernel: Kernel):
    ok(kernel, "ran = []")
    shown = ok(kernel, "%%car_task dry --every 5m --dry-run\nran.append(1)")
    assert "dry run: nothing was stored" in shown
    assert "every 5 min" in shown
    assert ok(kernel, "ran, 'dry' in car.tasks().index") == "([], False)"


def test_no_run_defines_only(kernel: Kernel):
    ok(kernel, "%%car_task defined --no-run\n1")
    wait_ended(kernel, "defined")
    assert executions(kernel, "defined") == []
    assert ok(kernel, "'defined' in car.tasks().index") == "True"


# Functions and runners


def test_a_decorated_function_is_a_task_and_stays_callable(kernel: Kernel):
    ok(kernel, "@car.task(every='1h')\ndef squared(n=3):\n    print('working')\n    return n * n")
    wait_ended(kernel, "squared")
    assert executions(kernel, "squared")[0].answer == "9"
    assert ok(kernel, "squared(4)") == "working\n16"
    assert ok(kernel, "%car logs squared") == "working\n"


def test_a_decorated_async_function_is_a_task_and_stays_awaitable(kernel: Kernel):
    ok(kernel, "@car.task()\nasync def fetched(region='eu'):\n    await asyncio.sleep(0)\n    return region")
    assert executions(kernel, "fetched") == []
    ok(kernel, "car.run('fetched', params={'region': 'us'})")
    wait_ended(kernel, "fetched")
    assert executions(kernel, "fetched")[0].answer == "us"
    assert ok(kernel, "await fetched()") == "'eu'"


def test_a_runner_of_ones_own_is_given_the_prompt_and_its_answer_is_kept(kernel: Kernel):
    ok(
        kernel,
        "@car.runner('shout')\n"
        "async def shout(spec, prompt, runtime, mailbox):\n"
        "    return car.AgentOutput(answer=prompt.strip().upper(), turns=2, model='loud')",
    )
    ok(kernel, "%%car_task shouted --runner shout --param who=Ana\nhello {who}")
    wait_ended(kernel, "shouted")
    [execution] = executions(kernel, "shouted")
    assert (execution.answer, execution.turns, execution.model) == ("HELLO ANA", 2, "loud")


def test_a_runner_whose_output_has_an_error_is_a_failed_execution(kernel: Kernel):
    ok(
        kernel,
        "@car.runner('refuses')\n"
        "async def refuses(spec, prompt, runtime, mailbox):\n"
        "    return car.AgentOutput(answer='half', error='no budget')",
    )
    ok(kernel, "%%car_task refused --runner refuses\nplease")
    wait_ended(kernel, "refused")
    [execution] = executions(kernel, "refused")
    assert (execution.status, execution.error, execution.answer) == ("failed", "no budget", "half")
