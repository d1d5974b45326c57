"""What docs/cron.md says of an expression is what it does."""

import re
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

from car_sched_nb.cadence import parse_phrase
from car_sched_nb.cron import MACROS, Cron
from car_sched_nb.errors import InvalidInput
from tests.bench.cron_peers import CLOCK_CHANGES, DAYS, Fires, dates, of_cronsim, of_ours, row, times
from tests.unit.cron_oracle import EPOCH, changes

PAGE = (Path(__file__).parents[2] / "docs" / "cron.md").read_text()


def table(after: str) -> list[list[str]]:
    """The cells of the first table after a text."""
    lines = PAGE.split(f"{after}\n", 1)[1].split("\n| ", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(("expr", "reads"), table("The card of a task says how its expression was read:"))
def test_an_expression_reads_as_the_page_says(expr, reads):
    assert Cron(expr.strip("`"), "UTC").words() == f"{reads}, UTC"


@pytest.mark.parametrize(("written", "expr"), table("A name or a phrase stands for an expression:"))
def test_a_phrase_is_the_expression_that_the_page_says(written, expr):
    for phrase in re.findall(r"`(.+?)`", written):
        assert parse_phrase(phrase) == ("cron", expr.strip("`"))


def test_every_macro_is_on_the_page():
    assert [macro for macro in MACROS if f"`{macro}`" not in PAGE] == []


@pytest.mark.parametrize(("expr", "says"), table("with what to write instead:"))
def test_a_refusal_says_what_the_page_says(expr, says):
    with pytest.raises(InvalidInput) as caught:
        Cron(expr.strip("`"), "UTC")
    assert says in str(caught.value)


def test_every_term_of_the_fields_is_understood():
    for expr in [
        "59 59 23 31 12 7",
        "0 0 0 1 1 0",
        "0 0 0 L JAN SUN",
        "0 0 0 LW DEC SAT",
        "0 0 * * MON#2",
        "0 0 * * 5L",
    ]:
        assert Cron(expr, "UTC").expr == expr


def known(section: str) -> Sequence[Fires]:
    """What can be asked here: this package, and cronsim as long as it is the one that was measured."""
    return [of_ours, of_cronsim][: 1 + (f"| cronsim {version('cronsim')} |" in section)]


HEADINGS = re.findall(r"^### (\S+), (\S+?)(?:, a Friday)?: (\d\d:\d\d) becomes (\d\d:\d\d)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("zone", "day", "before", "after"), HEADINGS)
def test_a_clock_changes_as_the_page_says(zone, day, before, after):
    at, offsets = changes(zone)
    shown = [
        [f"{EPOCH + timedelta(seconds=int(at_s + offset)):%Y-%m-%d %H:%M}" for offset in around]
        for at_s, around in zip(at, pairwise(offsets), strict=True)
    ]
    (walls,) = [walls for walls in shown if any(wall.startswith(day) for wall in walls)]
    assert [wall[-5:] for wall in walls] == [before, after]


SECTIONS = [(zone, day, expr) for (zone, day), exprs in CLOCK_CHANGES.items() for expr in exprs]


@pytest.mark.parametrize(("zone", "day", "expr"), SECTIONS)
def test_a_change_of_the_clock_is_as_in_the_tables(zone, day, expr):
    section = PAGE.split(f"### {zone}, {day}", 1)[1].split("\n#", 1)[0]
    told = [times(fires, expr, zone, day) for fires in known(section)]
    assert row(expr, told).removesuffix("|") in section


@pytest.mark.parametrize("expr", DAYS)
def test_the_days_are_as_in_the_table(expr):
    section = PAGE.split("### The days of November 2026", 1)[1].split("\n#", 1)[0]
    assert row(expr, [dates(fires, expr) for fires in known(section)]).removesuffix("|") in section
