"""The options of the policies: refused with what to type instead, shown as typed, checked in `car.Task` too."""

from typing import Any

import pytest

from car_sched_nb.errors import CarError, InvalidInput
from car_sched_nb.model import Task, Trigger
from car_sched_nb.options import OPTIONS, cell_of, make_task, parse_cell
from tests.unit.typed import read_again
from tests.unit.world import agent, clock_at, cron, every, follower, once, running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a --retries many", "--retries is a whole number from 1, not 'many'"),
        ("a --retries 0", "--retries is a whole number from 1"),
        ("a --retries -1", "--retries is a whole number from 1"),
        ("a --retries 1.5", "--retries is a whole number from 1"),
        ("a --retries", "--retries needs a value: --retries N"),
        ("a --retry 3", "did you mean --retries?"),
        ("a --retry-delay 5m", "--retry-delay goes with --retries; add --retries 3"),
        ("a --retries 3 --retry-delay soon", "soon"),
        ("a --retries 3 --retry-delay -5s", "-5s"),
        ("a --retries 3 --retries 4", "given twice"),
        ("a --every 5m --jitter 5m", "give less than --every 5m"),
        ("a --every 5m --jitter 2h", "would run slots into each other"),
        ("a --every 5m --jitter much", "much"),
        ("a --jitter 5m", "--jitter goes with --every or --cron or --at"),
        ("a --watch . --jitter 5m", "--jitter goes with --every or --cron or --at"),
        ("a --max-runs 3", "--max-runs goes with --every or --cron or --watch or --after"),
        ("a --once --max-runs 3", "--max-runs goes with"),
        ("a --every 5m --max-runs some", "whole number from 1"),
        ("a --every 5m --max-run 3", "did you mean --max-runs?"),
        ("a --every 5m --until banana", "banana"),
        ("a --every 5m --until 2020-01-01", "has passed"),
        ("a --every 5m --until '5m ago'", "--until"),
        ("a --until 18:00", "--until goes with"),
        ("a --at 9:00 --until 18:00", "--until goes with"),
        ("a --every 5m --max-failures none", "whole number from 1"),
        ("a --overlap queu", "did you mean 'queue'?"),
        ("a --overlap Queue", "queue"),
        ("a --catchup everything", "latest or none or all"),
        ("a --on-crash again", "leave or retry"),
        ("a --on-crash retries", "did you mean 'retry'?"),
        ("a --timeout never", "never"),
        ("a --after", "--after needs a value: --after TASK"),
        ("a --after ,", "--after extract,clean"),
        ("a --after nobody", "no task is named so"),
        ("a --after a", "a after a"),
        ("a --after b --every 5m", "--every and --after are two triggers"),
        ("a --after b --cron '0 9 * * *'", "two triggers"),
        ("a --when failed", "--when goes with --after"),
        ("a --every 5m --when failed", "--when goes with --after"),
        ("a --after b --when success", "completed or failed or ended"),
        ("a --after b --when fail", "did you mean 'failed'?"),
    ],
)
async def test_a_policy_that_cannot_be_used_is_refused_with_what_to_type(line: str, said: str):
    async with running(":memory:") as s:
        with pytest.raises(CarError) as caught:
            await s.add(parse_cell(line, "1").task)
        assert s.tasks() == []
    assert said in str(caught.value)


LINES = [
    "--every 5m --retries 3 --retry-delay 1m",
    "--every 5m --retries 3 --retry-delay 0",
    "--every 5m --jitter 1m",
    "--every 5m --max-runs 3",
    "--every 5m --until 'in 3h'",
    "--cron '0 9 * * *' --tz Europe/London --until 'tomorrow 18:00'",
    "--every 5m --max-failures 3",
    "--every 5m --overlap queue",
    "--every 5m --overlap replace",
    "--every 5m --catchup all --grace 2h",
    "--every 5m --on-crash retry",
    "--every 5m --timeout 30s",
    "--after extract",
    "--after extract,clean --when ended",
    "--after extract --when failed --max-runs 2 --until 'in 3h'",
    "--once --retries 2 --on-crash retry --max-failures 1",
]


@pytest.mark.parametrize("options", LINES)
async def test_a_policy_is_shown_as_a_line_that_changes_nothing(options: str):
    async with running(":memory:", clock=clock_at()) as s:
        for name in ("extract", "clean"):
            await s.add(agent(name))
        task = (await s.define(parse_cell(f"a {options}", "1").task)).task
        shown, again = cell_of(task), read_again(task)
        assert (await s.define(again)).change == "unchanged"
        for word in options.split():
            if word.startswith("--"):
                assert word in shown


def test_each_policy_can_be_typed_on_a_line_below_the_name():
    body = "#| retries: 3\n#| retry-delay: 1m\n#| overlap: queue\n#| max-runs: 5\n#| after: extract, clean\n1"
    task = parse_cell("a", body).task
    assert (task.retries, task.retry_delay, task.overlap, task.max_runs) == (3, "1m", "queue", 5)
    assert task.after.split() == ["extract", "clean"]


@pytest.mark.parametrize(
    "words", ["extract,clean", "extract clean", "extract, clean", "extract --after clean", "extract,clean,extract"]
)
def test_upstream_tasks_are_typed_with_commas_or_blanks_and_count_once(words: str):
    assert parse_cell(f"a --after {words}", "1").task.after == "extract\nclean"


def test_after_takes_a_list_as_a_keyword():
    assert make_task("a", "1", {"after": ["extract", "clean"]}).after == "extract\nclean"
    assert make_task("a", "1", {"after": "extract,clean"}).trigger is Trigger.AFTER


def test_each_policy_that_is_typed_has_a_default_that_does_nothing():
    plain, typed = Task("a"), parse_cell("a", "1").task
    for option in OPTIONS:
        if option.group == "policy":
            name = option.field or option.key
            assert getattr(typed, name) == getattr(plain, name)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (agent(retries=-1), "--retries is a whole number from 0, not -1"),
        (agent(retries="3"), "retries"),
        (agent(retries=1.5), "retries"),
        (agent(retry_delay="5m"), "add --retries 3"),
        (agent(retries=1, retry_delay="later"), "later"),
        (every("5m", max_runs=-1), "--max-runs is a whole number from 0"),
        (every("5m", max_failures=-3), "--max-failures is a whole number from 0"),
        (every("5m", jitter="5m"), "give less than --every 5m"),
        (every("5m", jitter="soon"), "soon"),
        (every("5m", overlap="queued"), "skip or queue or replace or allow"),
        (every("5m", catchup=""), "latest or none or all"),
        (every("5m", on_crash="restart"), "leave or retry"),
        (every("5m", when="done"), "completed or failed or ended"),
        (every("5m", until="never"), "never"),
        (every("5m", grace="a while"), "a while"),
        (every("5m", after="other"), "trigger='after'"),
        (agent(after="other"), "trigger='after'"),
        (follower(""), "--after extract,clean"),
        (agent(max_runs=3), "--max-runs goes with"),
        (once(max_runs=3), "--max-runs goes with"),
        (once(until="18:00"), "--until goes with"),
        (agent(until="18:00"), "--until goes with"),
        (agent(jitter="5m"), "--jitter goes with"),
        (every("5m", when="failed"), "--when goes with"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_task_made_in_python_is_checked_as_a_line_is(task: Task, said: str):
    async with running(":memory:") as s:
        with pytest.raises(InvalidInput) as caught:
            await s.add(task)
        assert s.tasks() == []
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"retries": 1, "retry_delay": 90}, {"retry_delay": "1m30s"}),
        ({"jitter": 30}, {"jitter": "30s"}),
        ({"timeout": 2.5}, {"timeout": "2.5s"}),
        ({"grace": 0}, {"grace": "0s"}),
    ],
    ids=str,
)
async def test_a_bare_number_is_seconds(given: dict[str, Any], kept: dict[str, str]):
    async with running(":memory:") as s:
        task = await s.add(every("5m", **given))
        assert {name: getattr(task, name) for name in kept} == kept
        again = read_again(task)
        assert s.check(again) == s.check(every("5m", **given))


async def test_a_policy_that_changes_keeps_the_slots_and_another_upstream_does_not():
    async with running(":memory:", clock=clock_at()) as s:
        await s.add(agent("up"))
        await s.add(agent("other"))
        await s.add(follower("up"))
        changes: list[dict[str, Any]] = [{"retries": 2}, {"overlap": "queue"}, {"max_runs": 3}, {"max_failures": 2}]
        for change in changes:
            assert (await s.define(follower("up", **change))).change == "body"
        assert (await s.define(follower("other"))).change == "slots"
        assert (await s.define(follower("other", when="failed"))).change == "slots"
        assert (await s.define(cron("0 9 * * *"))).change == "slots"
