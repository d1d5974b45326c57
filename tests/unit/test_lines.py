"""What stands behind a verb of %car: options that may come several times, and those that may not."""

import pytest

from car_sched_nb.errors import InvalidInput
from car_sched_nb.notebook import magics


@pytest.mark.parametrize(
    ("line", "names", "given"),
    [
        ("load --status failed,timed_out --status=missed", ["load"], {"status": ["failed", "timed_out", "missed"]}),
        ("--runner shell --last 7d --limit 3", [], {"runner": ["shell"], "since": "7d", "limit": 3}),
        ("a 'b c' --until now", ["a", "'b", "c'"], {"until": "now"}),
    ],
)
def test_the_filters_of_a_line(line: str, names: list[str], given: dict[str, object]):
    assert magics._names_and_filters("history", line.split()) == (names, given)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--limit 5 --limit 2", "--limit is given twice; give one of them, once"),
        ("--last 1d --since 2026-11-01", "--last and --since say the same"),
        ("--limit -1", "--limit is a whole number from 0, not '-1'"),
        ("--statu failed", "did you mean '--status'?"),
    ],
)
def test_what_is_said_twice_is_refused(line: str, said: str):
    with pytest.raises(InvalidInput) as refused:
        magics._names_and_filters("history", line.split())
    assert said in str(refused.value)
