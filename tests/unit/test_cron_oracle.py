"""Cron fires when a look at every minute says so: in ten years of UTC, and around each change of each zone's clock."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

import numpy as np
import pytest

from car_sched_nb import cron as cron_module
from car_sched_nb.cron import Cron
from tests.scale import by_scale
from tests.unit.cron_oracle import (
    DAY_S,
    EPOCH,
    FIRST_S,
    Expression,
    Scan,
    Seconds,
    Wall,
    changes,
    distinct_zones,
    parse,
)

SECOND_US = 1_000_000
EXPRESSIONS = 300
# Gaps and overlaps of half an hour, an hour, two, three and a day; at midnight, at 00:01, in Ramadan; and none at all.
SAMPLE_OF_ZONES = [
    "Africa/Cairo", "Africa/Casablanca", "America/Havana", "America/New_York", "America/St_Johns", "Antarctica/Casey",
    "Antarctica/Troll", "Asia/Gaza", "Asia/Kathmandu", "Asia/Pyongyang", "Australia/Lord_Howe", "Europe/London",
    "Pacific/Apia",
]  # fmt: skip
CHOSEN = [
    # Wildcards.
    "* * * * *", "*/2 * * * *", "*/5 * * * *", "*/7 * * * *", "*/10 * * * *", "*/15 * * * *", "*/20 * * * *",
    "*/30 * * * *", "*/45 * * * *", "*/90 * * * *", "0 * * * *", "1 * * * *", "15 * * * *",
    "30 * * * *", "59 * * * *", "0,30 * * * *", "15,45 * * * *", "0-10 * * * *", "5-59/10 * * * *", "7/20 * * * *",
    "0 */2 * * *", "0 */3 * * *", "30 */4 * * *", "1 */5 * * *", "0 */6 * * *", "0 */12 * * *", "0 */23 * * *",
    "*/15 */2 * * *", "@hourly", "@HOURLY",
    # A wildcard minute in hours that may be missing or come twice.
    "* 0 * * *", "* 1 * * *", "* 2 * * *", "* 3 * * *", "* 23 * * *", "*/15 0 * * *", "*/15 2 * * *", "*/10 3 * * *",
    "*/7 1-3 * * *", "*/30 0-1 * * *", "* 0 * * FRI", "* 0 * * SUN", "* 0 * * SAT", "*/15 0 * * FRI", "* 0-1 * * FRI",
    "*/20 0 24 * *", "*/20 0 1 * *", "* 1 L * *", "* 2 * 3,4 SUN", "* 0 * * THU", "* 23 * * SAT",
    # Fixed times there.
    "0 0 * * *", "1 0 * * *", "15 0 * * *", "30 0 * * *", "59 0 * * *", "0 1 * * *", "30 1 * * *", "45 1 * * *",
    "0 2 * * *", "1 2 * * *", "10 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *", "30 3 * * *", "0 4 * * *",
    "1 23 * * *", "30 23 * * *", "59 23 * * *", "0,30 0 * * *", "0,30 1 * * *", "0,30 2 * * *", "0,15,30,45 2 * * *",
    "0-59 2 * * *", "0-59 1 * * *", "0-59 0 * * *", "0-59/7 0-3 * * *", "30 0-4 * * *", "0 4-4/5 * * *", "0 0-23 * * *",
    "30 0-23/2 * * *", "15 1-3 * * *", "0 22-23,0-3 * * *", "30 1,2,3 * * *", "59 1,23 * * *", "10 0/3 * * *",
    "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually",
    # Days of the week.
    "0 9 * * MON-FRI", "0 9 * * 1-5", "30 2 * * SUN", "30 1 * * 0", "30 1 * * 7", "15 0 * * FRI", "0 0 * * SAT",
    "0 0 * * 6,7", "30 0 * * SUN,MON", "0 2 * * 5-7", "0 2 * * 1-5/2", "0 2 * * */2", "0 2 * * */7", "0 2 * * 5/2",
    "0 0 * * SUN-SAT", "30 2 * * SUN#2", "30 1 * * SUN#5", "0 2 * * 0#1", "0 2 * * 7#2", "15 2 * * MON#1,FRI#3",
    "30 1 * * 0L", "30 2 * * 7L", "15 0 * * 5L", "*/10 1 * * 0L", "* 0 * * FRI#4", "0 3 * * 0L,WED",
    # Dates.
    "0 0 1 * *", "30 2 1,15 * *", "0 0 28-31 * *", "0 0 31 * *", "30 1 30 * *", "0 0 L * *", "30 0 LW * *",
    "0 12 L,LW * *", "0 2 15,L * *", "0 0 */2 * *", "0 0 */10 * *", "30 23 L * *", "0 0 10/7 * *", "0 0 29 2 *",
    "* 0 29 2 *", "30 1 29 FEB *", "0 0 L 2 *", "0 0 1 1 *", "59 23 31 12 *", "0 0 31 DEC *", "*/30 2 8-14 3 *",
    "30 2 * 3 *", "30 2 * MAR-APR *", "0 1 * 10,11 *", "0 0 * */3 *", "0 0 * 4/4 *", "0 9 30 12 *", "* * 30 12 *",
    # Both day fields: one of the two is enough without a star, both have to match with one.
    "30 2 1-7 * SUN", "30 1 25-31 10 SUN", "0 0 13 * FRI", "0 0 */2 * MON", "0 0 1-31 * */2", "0 0 1 * *,MON",
    "0 2 L * SUN", "0 2 LW * SUN#1", "0 2 8 3 0#2", "15 0 24 4 5L", "* 0 24 4 FRI", "*/15 2 */2 * SUN", "0 0 29 2 MON",
    "0 0 29 2 */7", "30 1 */5 * 1-5",
    # What else is read.
    "  00   09 * * mon-fri ", "0 9 1 jan,JUL *", "00,030 01 * * *",
]  # fmt: skip
WITH_SECONDS = [
    "* * * * * *", "*/10 * * * * *", "30 * * * * *", "0 */15 * * * *", "*/20 30 2 * * *", "* 59 1 * * *",
    "0 0 3 * * *", "0 30 1 * * *", "30 30 2 * * *", "15,45 0-30/10 1-2 * * *", "59 59 23 * * *", "0 0 0 * * FRI",
    "0-59 0 2 * * *", "0 * 0 * * FRI", "10 15 0 L * *", "5 30 1 * 3,10 SUN",
]  # fmt: skip


def generated(count: int, seed: int) -> Iterator[str]:
    """Expressions of all shapes, most of them at hours at which clocks change."""
    dice = Random(seed)

    def number(low: int, high: int) -> str:
        return str(dice.randint(low, high))

    def span(low: int, high: int) -> str:
        first, last = sorted((dice.randint(low, high), dice.randint(low, high)))
        return f"{first}-{last}" + dice.choice(["", "", f"/{dice.randint(1, 7)}"])

    def listed(low: int, high: int) -> str:
        return ",".join(number(low, high) for _ in range(dice.randint(2, 4)))

    def step(most: int) -> str:
        return f"*/{dice.randint(1, most)}"

    def fields() -> Iterator[str]:
        yield dice.choice(["*", step(59), number(0, 59), number(0, 59), "0", "30", span(0, 59), listed(0, 59)])
        early = [number(0, 4), span(0, 4), listed(0, 4)]
        yield dice.choice(["*", step(23), *early, *early, number(22, 23), number(0, 23), span(0, 23), listed(0, 23)])
        any_day = ["*"] * 6
        yield dice.choice(
            [*any_day, step(15), number(1, 31), span(1, 31), listed(1, 31), "L", "LW", f"{number(1, 28)},L"]
        )
        yield dice.choice([*any_day, step(12), number(1, 12), span(1, 12), listed(1, 12), "MAR", "APR,OCT", "SEP-NOV"])
        days = [step(7), number(0, 7), span(0, 7), listed(0, 7), "MON-FRI", "SUN", "FRI,SAT"]
        yield dice.choice([*any_day, *days, f"{number(0, 7)}#{number(1, 5)}", f"{number(0, 7)}L"])

    calendar, found = Wall(np.arange(FIRST_S, FIRST_S + 28 * 366 * DAY_S, DAY_S)), 0
    while found < count:
        expr = " ".join(fields())
        # One that never fires is refused, which is another test's claim.
        if parse(expr).on_days(calendar).any():
            found += 1
            yield expr


ALL = [*CHOSEN, *generated(EXPRESSIONS - len(CHOSEN), seed=20261025)]
READ = {expr: parse(expr) for expr in ALL + WITH_SECONDS}


def iso(utc_s: int) -> str:
    return (EPOCH + timedelta(seconds=int(utc_s))).strftime("%Y-%m-%dT%H:%M:%SZ")


def second(text: str) -> int:
    return int((datetime.fromisoformat(text) - EPOCH).total_seconds())


def differences(cron: Cron, planned: Seconds, low_s: int, high_s: int, probes: list[int]) -> list[str]:
    """What a Cron says of a period, without its end, that is not as planned; `probes` are UTC microseconds in it."""
    found = []
    low_us, end_us = low_s * SECOND_US - 1, high_s * SECOND_US - 1
    plan = planned * SECOND_US
    fires = np.fromiter(cron.between(low_us, end_us), np.int64)
    if not np.array_equal(fires, plan):
        for name, times in (("lost", np.setdiff1d(plan, fires)), ("made up", np.setdiff1d(fires, plan))):
            found += [f"{name}: {iso(at // SECOND_US)}" for at in times[:3]]
        found = found or ["not in order, or twice"]
    if (count := cron.count_between(low_us, end_us)) != len(plan):
        found.append(f"count_between: {count}, not {len(plan)}")
    # What an empty period says before any of its instants, it says before all of them.
    for at_us in probes if len(plan) else probes[:1]:
        past = int(np.searchsorted(plan, at_us, side="right"))
        following, latest = cron.next_after(at_us), cron.latest_at(at_us)
        right = following == plan[past] if past < len(plan) else following is None or following > end_us
        if not right:
            found.append(f"next_after({at_us}): {following}")
        right = latest == plan[past - 1] if past else latest is None or latest <= low_us
        if not right:
            found.append(f"latest_at({at_us}): {latest}")
        if (count := cron.count_between(low_us, at_us)) != past:
            found.append(f"count_between until {at_us}: {count}, not {past}")
    return found


def around(change_s: int, dice: Random) -> tuple[int, int, list[int]]:
    """The three days around a change, and instants in it: at the change, before it, after it, and anywhere."""
    middle = change_s // DAY_S * DAY_S
    low_s, high_s = middle - DAY_S, middle + 2 * DAY_S
    near = [change_s * SECOND_US + by for by in (-1, 0, -1800 * SECOND_US, 1800 * SECOND_US, 3600 * SECOND_US + 1)]
    return low_s, high_s, [*near, *(dice.randrange(low_s * SECOND_US, high_s * SECOND_US) for _ in range(2))]


def compare(zone: str, exprs: list[str], changes_s: list[int], step_s: int = 60) -> list[str]:
    """The differences around some changes of a zone's clock, each with its expression."""
    dice, found = Random(zone), []
    for change_s in changes_s:
        low_s, high_s, probes = around(change_s, dice)
        scan = Scan(zone, low_s, high_s, step_s)
        for expr in exprs:
            planned = scan.planned(READ[expr])
            told = differences(Cron(expr, zone), planned, low_s, high_s, probes)
            found += [f"{expr!r} in {zone} around {iso(change_s)}: {one}" for one in told]
    return found


def every_change(zone: str) -> list[int]:
    """The changes of a zone's clock from 2000 to 2037; a leap day for a zone without any."""
    return [int(at) for at in changes(zone)[0]] or [second("2024-02-29T00:00:00Z")]


def two_changes(zone: str) -> list[int]:
    """The longest gap and the longest overlap of them."""
    jumps = np.diff(changes(zone)[1])
    return [every_change(zone)[i] for i in (jumps.argmax(), jumps.argmin())] if len(jumps) else every_change(zone)


# ------------------------------------------------------------------------------------------------------ no difference


def test_there_are_three_hundred_expressions_and_none_twice():
    assert len(set(ALL)) == len(ALL) == EXPRESSIONS


@pytest.mark.timeout(by_scale(180, 0))
@pytest.mark.parametrize("expr", by_scale([*CHOSEN[::8], *ALL[len(CHOSEN) :: 10]], ALL))
def test_years_of_utc_have_no_difference(expr, years_of_utc):
    scan, low_s, high_s = years_of_utc
    probes = [Random(expr).randrange(low_s * SECOND_US, high_s * SECOND_US) for _ in range(5)]
    assert differences(Cron(expr, "UTC"), scan.planned(READ[expr]), low_s, high_s, probes) == []


@pytest.fixture(scope="module")
def years_of_utc() -> tuple[Scan, int, int]:
    low_s, high_s = second("2024-01-01T00:00:00Z"), second(by_scale("2025-01-01T00:00:00Z", "2034-01-01T00:00:00Z"))
    return Scan("UTC", low_s, high_s), low_s, high_s


@pytest.mark.timeout(by_scale(180, 0))
@pytest.mark.parametrize("zone", by_scale(lambda: SAMPLE_OF_ZONES, distinct_zones)())
def test_the_changes_of_a_zones_clock_have_no_difference(zone):
    assert compare(zone, ALL, by_scale(two_changes, every_change)(zone)) == []


@pytest.mark.timeout(by_scale(180, 0))
@pytest.mark.parametrize("zone", by_scale(SAMPLE_OF_ZONES[::4], SAMPLE_OF_ZONES))
def test_expressions_with_seconds_have_no_difference(zone):
    assert compare(zone, WITH_SECONDS, by_scale(two_changes, every_change)(zone), step_s=1) == []


# ------------------------------------------------------------------------------------------------- controls: caught


LONDON_CHANGES = [second("2026-03-29T01:00:00Z"), second("2026-10-25T01:00:00Z")]


def test_a_rule_that_fires_twice_in_the_overlap_is_caught(monkeypatch):
    right = cron_module._calendar
    monkeypatch.setattr(cron_module, "_calendar", lambda expr: dataclasses.replace(right(expr), at_fixed_times=False))
    spring, autumn = (compare("Europe/London", ["30 1 * * *"], [change]) for change in LONDON_CHANGES)
    assert "'30 1 * * *' in Europe/London around 2026-03-29T01:00:00Z: lost: 2026-03-29T01:00:00Z" in spring
    assert "'30 1 * * *' in Europe/London around 2026-10-25T01:00:00Z: made up: 2026-10-25T01:30:00Z" in autumn
    assert any("count_between: 4, not 3" in one for one in autumn)
    assert any("next_after" in one for one in autumn)
    assert any("latest_at" in one for one in autumn)


def test_a_rule_that_loses_the_second_hour_of_a_wildcard_is_caught(monkeypatch):
    right = cron_module._calendar
    monkeypatch.setattr(cron_module, "_calendar", lambda expr: dataclasses.replace(right(expr), at_fixed_times=True))
    found = compare("Europe/London", ["*/30 * * * *"], LONDON_CHANGES[1:])
    assert any("lost: 2026-10-25T01:30:00Z" in one for one in found)


def test_a_field_read_wrongly_is_caught():
    expr = "0 0 */2 * MON"
    wrong: Expression = dataclasses.replace(READ[expr], needs_both_days=False)
    low_s, high_s = second("2026-11-01T00:00:00Z"), second("2026-12-01T00:00:00Z")
    scan, cron = Scan("UTC", low_s, high_s), Cron(expr, "UTC")
    assert differences(cron, scan.planned(READ[expr]), low_s, high_s, [low_s * SECOND_US]) == []
    assert "lost: 2026-11-01T00:00:00Z" in differences(cron, scan.planned(wrong), low_s, high_s, [low_s * SECOND_US])
