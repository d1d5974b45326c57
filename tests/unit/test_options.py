"""What is typed after `%%car_task`: refused with what to type instead, and read back as it was typed."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.errors import CarError, InvalidInput
from car_sched_nb.model import Task, Trigger
from car_sched_nb.options import OPTIONS, help_text, make_task, parse_cell, split_header
from tests.unit.typed import read_again
from tests.unit.world import running


async def refusal(line: str, body: str = "print('hi')") -> str:
    """Return what is said to a cell that cannot become a task."""
    async with running(":memory:") as s:
        with pytest.raises(CarError) as caught:
            await s.add(parse_cell(line, body).task)
        assert s.tasks() == []
    return str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a --evry 5m", "did you mean --every?"),
        ("a --Every 5m", "did you mean --every?"),
        ("a --ever=5m", "did you mean --every?"),
        ("a --zzzzzz", "%car help task"),
        ("a --every 5m --cron '0 9 * * *'", "--every and --cron are two triggers"),
        ("a --watch . --once", "two triggers"),
        ("a --at 9:00 --delay 5m", "two triggers"),
        ("a --every banana", "banana"),
        ("a --every 0", "0"),
        ("a --every -5", "-5"),
        ("a --every 5 parsecs", "parsecs"),
        ("a --every", "--every needs a value"),
        ("a --every --align", "--every needs a value"),
        ("a --every 5m --every 6m", "given twice"),
        ("a --cron banana", "banana"),
        ("a --cron '61 9 * * *'", "61"),
        ("a --cron '0 9 * *'", "0 9 * *"),
        ("a --cron 0 9 * * 1-5", "--cron '0 9"),
        ("a --every 1d --tz Europe/Londn", "Europe/London"),
        ("a --cron '0 9 * * *' --tz Europe/Londn", "Europe/London"),
        ("a --watch /no/such/folder/data.csv", "does not exist"),
        ("a --once --tz UTC", "--tz goes with"),
        ("a --align", "--align goes with --every"),
        ("a --every 'weekday at 9:00' --align", "--align"),
        ("a --first later --every 5m", "now or next"),
        ("", "a task needs a name"),
        ("--every 5m", "a task needs a name"),
        ("a b", "'b' is left over"),
        ("a/b", "write a-b"),
        ("'my task'", "write my-task"),
        ("../../evil", "write"),
        ("a --runner pyton", "'python'"),
        ("a --executor moon", "loop or thread"),
        ("a 'unclosed", "a quote is not closed"),
        ("a --timeout soon", "soon"),
        ("a --timeout 0", "0"),
        ("a --catchup newest", "latest"),
        ("a --overlap maybe", "skip"),
        ("a --grace later", "later"),
        ("a --max-turns many", "whole number"),
        ("a --max-turns 0", "whole number"),
        ("a --param region", "region=eu"),
        ("a --param 1a=2", "plain name"),
        ("a --into 'a b'", "variable"),
        ("a --once=yes", "takes no value"),
        ("a --at '2020-01-01 09:00'", "has passed"),
        ("a --at banana", "banana"),
        ("a --delay banana", "banana"),
        ("a --runner shell --into x", "--into"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_what_to_type(line: str, said: str):
    assert said in await refusal(line)


@pytest.mark.anyio
@pytest.mark.parametrize("body", ["", "   \n\n", "#| timeout: 5m\n"])
@pytest.mark.parametrize("runner", ["python", "shell"])
async def test_an_empty_body_is_refused(body: str, runner: str):
    assert "the body is empty" in await refusal(f"a --runner {runner}", body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("#| tmeout: 5m\n1", "did you mean --timeout?"),
        ("#| timeout 5m\n1", "#| timeout"),
        ("#| once: maybe\n1", "true or false"),
        ("#| every: 5m\n#| every: 6m\n1", "given twice"),
    ],
)
async def test_options_below_the_line_are_checked_like_those_on_it(body: str, said: str):
    assert said in await refusal("a", body)


@pytest.mark.anyio
async def test_an_option_on_the_line_and_below_it_is_refused():
    assert "give it once" in await refusal("a --timeout 5m", "#| timeout: 6m\n1")


def test_options_below_the_line_end_where_the_body_begins():
    given_, body = split_header("#| timeout: 30m\n#|\n#| param: region=eu\nx = 1\n#| every: 5m\n")
    assert given_ == {"timeout": "30m", "param": ["region=eu"]}
    assert body == "x = 1\n#| every: 5m\n"


def test_every_option_is_in_the_help():
    for option in OPTIONS:
        assert f"  {option.flag}" in help_text()
        assert option.help in help_text()


def test_every_option_of_a_task_can_be_typed_and_is_a_field():
    for option in OPTIONS:
        if option.group in ("policy", "what"):
            assert (option.field or option.key) in Task.__struct_fields__


def test_the_task_gets_what_was_typed():
    cell = parse_cell("prices --every 5m --timeout 1m --into df --param a=1 --param b=x=y --dry-run", "1 + 1")
    task = cell.task
    assert (task.name, task.trigger, task.schedule, task.timeout, task.into) == ("prices", "interval", "5m", "1m", "df")
    assert task.params == {"a": "1", "b": "x=y"}
    assert cell.modes == {"dry-run"}


def test_a_phrase_is_a_cron():
    assert parse_cell("a --every 'weekday at 09:00'", "1").task.trigger is Trigger.CRON


def test_dollars_and_braces_are_kept_as_typed():
    task = parse_cell("a --param x=$HOME --system '{name} $x'", "1").task
    assert (task.params["x"], task.system_prompt) == ("$HOME", "{name} $x")


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\x00"), max_size=30)
WHEN: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.builds(
        lambda n, u, a: {"every": f"{n}{u}"} | ({"align": True} if a else {}),
        st.integers(1, 99),
        st.sampled_from(["s", "m", "h"]),
        st.booleans(),
    ),
    st.sampled_from([{"cron": "0 9 * * 1-5", "tz": "Europe/London"}, {"cron": "@daily", "tz": "UTC"}]),
    st.just({"once": True}),
    st.sampled_from([{"at": "tomorrow 09:00"}, {"at": "09:00", "tz": "UTC"}, {"delay": "5m"}]),
    st.lists(st.text("abc *?[]'\"$-", min_size=1, max_size=8).map(lambda t: "/tmp/" + t), min_size=1, max_size=3).map(
        lambda p: {"watch": p}
    ),
)
WHAT = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.sampled_from(["30s", "5 minutes"]),
        "catchup": st.sampled_from(["none", "all"]),
        "grace": st.just("1h"),
        "overlap": st.just("allow"),
        "into": st.just("df"),
        "executor": st.sampled_from(["loop", "thread"]),
        "runner": st.sampled_from(["shell", "my-runner"]),
        "system": TEXT.filter(bool),
        "max-turns": st.integers(1, 100).filter(lambda n: n != 10),
        "env": st.lists(st.sampled_from(["KEY", "DB", "TOKEN_2"]), min_size=1, max_size=2, unique=True),
        "tools": st.sampled_from(["f", "f,g"]),
        "model": st.sampled_from(["local", "local:/a b/c.gguf", "openai:gpt-5-mini"]),
        "cwd": TEXT.filter(bool),
        "on-failure": TEXT.filter(bool),
        "daily-tokens": st.integers(1, 10**9),
        "max-cost": st.floats(0.001, 1000),
        "argv": st.just(True),
        "param": st.dictionaries(st.sampled_from(["a", "region", "_x"]), TEXT),
    },
)


@settings(max_examples=300, deadline=None)
@given(WHEN, WHAT)
def test_what_a_task_is_shown_as_defines_the_same_task(when: dict[str, Any], what: dict[str, Any]):
    task = make_task("my.task-1", "body", {**when, **what})
    assert read_again(task) == task


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_whatever_is_typed_becomes_a_task_or_is_refused(line: str, body: str):
    with suppress(InvalidInput):
        parse_cell(line, body)


@pytest.mark.anyio
async def test_a_stored_task_is_shown_as_a_line_that_changes_nothing(tmp_path: Path):
    async with running(":memory:") as s:
        for line in (
            "a --every 5m --align --timeout 30s",
            "b --cron '0 9 * * 1-5' --tz Europe/London",
            f"c --watch '{tmp_path}/*.csv' '{tmp_path}'",
            "d --every 'weekday at 09:00'",
            "e --once --param x='a b'",
        ):
            task = (await s.define(parse_cell(line, "1").task)).task
            again = read_again(task)
            assert (await s.define(again)).change == "unchanged"
