import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.errors import InvalidInput
from car_sched_nb.when import format_instant, iso_us, parse_clock, parse_future, parse_when, wall_to_utc_s, zone_name

LONDON = "Europe/London"
ZONES = [
    LONDON,
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
    "UTC",
]


def us(iso: str) -> int:
    """Microseconds of an ISO instant with an offset."""
    return round(datetime.fromisoformat(iso).timestamp()) * 1_000_000


NOW = us("2026-11-23T10:00:00Z")  # a Monday


def when(text: str, zone: str = LONDON, now_us: int = NOW) -> str:
    return iso_us(parse_when(text, now_us=now_us, zone=zone))


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        call(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("09:00", "2026-11-23T09:00:00Z"),
        ("9:00:30", "2026-11-23T09:00:30Z"),
        ("9am", "2026-11-23T09:00:00Z"),
        ("7:30 pm", "2026-11-23T19:30:00Z"),
        ("12am", "2026-11-23T00:00:00Z"),
        ("12pm", "2026-11-23T12:00:00Z"),
        ("noon", "2026-11-23T12:00:00Z"),
        ("at 9", "2026-11-23T09:00:00Z"),
        ("today 11:00", "2026-11-23T11:00:00Z"),
        ("tomorrow", "2026-11-24T00:00:00Z"),
        ("tomorrow 09:00", "2026-11-24T09:00:00Z"),
        ("Tomorrow at 9", "2026-11-24T09:00:00Z"),
        ("yesterday 09:00", "2026-11-22T09:00:00Z"),
        ("now", "2026-11-23T10:00:00Z"),
        ("in 10m", "2026-11-23T10:10:00Z"),
        ("in an hour", "2026-11-23T11:00:00Z"),
        ("10m ago", "2026-11-23T09:50:00Z"),
    ],
)
def test_times_near_now_are_read(text, instant):
    assert when(text) == instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-25", "2026-11-25T00:00:00Z"),
        ("2026-11-25T09:00", "2026-11-25T09:00:00Z"),
        ("2026-11-25 09:00:30", "2026-11-25T09:00:30Z"),
        ("2026-11-25 9am", "2026-11-25T09:00:00Z"),
        ("2026-06-25 09:00", "2026-06-25T08:00:00Z"),
        ("2026-06-25T09:00Z", "2026-06-25T09:00:00Z"),
        ("2026-06-25T09:00+05:45", "2026-06-25T03:15:00Z"),
        ("2026-06-25T09:00-0500", "2026-06-25T14:00:00Z"),
        ("2026-06-25T09:00:00.25Z", "2026-06-25T09:00:00.250000Z"),
    ],
)
def test_dates_are_local_unless_they_have_an_offset(text, instant):
    assert when(text) == instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("monday 11:00", "2026-11-23T11:00:00Z"),
        ("monday 10:00", "2026-11-30T10:00:00Z"),
        ("monday 08:30", "2026-11-30T08:30:00Z"),
        ("mon", "2026-11-30T00:00:00Z"),
        ("tue 08:30", "2026-11-24T08:30:00Z"),
        ("sunday at 9", "2026-11-29T09:00:00Z"),
    ],
)
def test_a_weekday_is_the_next_such(text, instant):
    assert when(text) == instant


def test_today_is_the_day_of_the_zone_not_of_utc():
    late = us("2026-11-23T20:00:00Z")
    assert when("09:00", "Asia/Kathmandu", late) == "2026-11-24T03:15:00Z"


@pytest.mark.parametrize(
    ("zone", "text", "instant"),
    [
        (LONDON, "2026-03-29 01:30", "2026-03-29T01:00:00Z"),
        ("America/New_York", "2026-03-08 02:59:59", "2026-03-08T07:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-04 02:10", "2026-10-03T15:30:00Z"),
        ("Pacific/Apia", "2011-12-30 12:00", "2011-12-30T10:00:00Z"),
    ],
)
def test_a_local_time_in_the_gap_moves_to_its_end(zone, text, instant):
    assert when(text, zone) == instant


@pytest.mark.parametrize(
    ("zone", "text", "instant"),
    [
        (LONDON, "2026-10-25 01:30", "2026-10-25T00:30:00Z"),
        ("America/New_York", "2026-11-01 01:30", "2026-11-01T05:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-05 01:45", "2026-04-04T14:45:00Z"),
    ],
)
def test_a_local_time_that_comes_twice_is_the_first(zone, text, instant):
    assert when(text, zone) == instant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a time is like 09:00"),
        ("banana", "a time is like 09:00"),
        ("next monday", "'monday 08:30'"),
        ("9", "write 09:00"),
        ("25:00", "hours go from 00 to 23"),
        ("24:00", "midnight is 00:00 of the next day"),
        ("09:60", "minutes go from 00 to 59"),
        ("13pm", "from 1 to 12"),
        ("9.30", "write 9:30"),
        ("10m", "write 'in 10m'"),
        ("1764000000", "epoch number"),
        ("2026-02-30", "not in the calendar"),
        ("2026-13-01T09:00", "not in the calendar"),
        ("0001-01-01", "years go from 1970"),
        ("2026-11-23T09", "write 09:00"),
        ("2026-11-23T09:00.5", "only seconds have decimals"),
        ("2026-11-23T09:00+25:00", "write it like +01:00"),
        ("in -5m", "write 5m"),
        ("in banana", "a duration is like"),
        ("tomorrow foo", "09:00"),
    ],
)
def test_a_refusal_says_what_to_type_instead(text, said):
    assert said in refusal(parse_when, text, now_us=NOW, zone=LONDON)


@settings(deadline=None)
@given(st.text(max_size=25))
def test_any_text_is_an_instant_or_a_refusal(text):
    try:
        assert isinstance(parse_when(text, now_us=NOW, zone=LONDON), int)
    except InvalidInput as error:
        assert str(error)  # noqa: PT017 - either outcome is right


@settings(deadline=None)
@given(st.integers(us("1970-01-02T00:00:00Z"), us("2100-01-01T00:00:00Z")))
def test_the_iso_form_is_read_back_exactly(instant):
    assert parse_when(iso_us(instant), now_us=NOW, zone=LONDON) == instant


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000), st.sampled_from(ZONES))
def test_a_wall_second_becomes_the_first_instant_at_or_after_it(wall_s, zone):
    info = ZoneInfo(zone)
    utc_s = wall_to_utc_s(wall_s, info)
    shown = round(datetime.fromtimestamp(utc_s, info).replace(tzinfo=UTC).timestamp())
    before = round(datetime.fromtimestamp(utc_s - 1, info).replace(tzinfo=UTC).timestamp())
    assert before < wall_s <= shown


def test_a_time_that_has_passed_is_refused_with_what_to_type():
    said = refusal(parse_future, "09:00", now_us=NOW, zone=LONDON)
    assert said == "09:00 has passed today; the next is tomorrow: --at 2026-11-24T09:00"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("9am", "2026-11-24T09:00"),
        ("10:00", "2026-11-24T10:00"),
        ("9:00:30", "2026-11-24T09:00:30"),
        ("today", "2026-11-24T00:00"),
        ("2026-11-20T11:00", "2026-11-23T11:00"),
        ("yesterday 12:00", "2026-11-23T12:00"),
        ("2026-11-23T09:00-01:00", "2026-11-24T10:00"),
    ],
)
def test_what_the_refusal_says_to_type_is_accepted(text, typed):
    said = refusal(parse_future, text, now_us=NOW, zone=LONDON, option="--until")
    assert said.endswith(f"--until {typed}")
    assert parse_future(typed, now_us=NOW, zone=LONDON) > NOW


@settings(deadline=None)
@given(
    st.integers(us("2026-01-01T00:00:00Z"), us("2027-01-01T00:00:00Z")), st.integers(0, 1439), st.sampled_from(ZONES)
)
def test_a_passed_time_always_has_a_next_one(now_us, minute, zone):
    text = f"{minute // 60:02d}:{minute % 60:02d}"
    try:
        assert parse_future(text, now_us=now_us, zone=zone) > now_us
    except InvalidInput as error:
        typed = str(error).rpartition(" ")[2]
        assert parse_future(typed, now_us=now_us, zone=zone) > now_us


@pytest.mark.parametrize("text", ["now", "10m ago"])
def test_now_and_ago_are_never_in_the_future(text):
    assert "--at 'in 10m'" in refusal(parse_future, text, now_us=NOW, zone=LONDON)


@pytest.mark.parametrize(
    ("instant", "zone", "shown"),
    [
        ("2026-11-24T09:00:00Z", LONDON, "Tue 2026-11-24 09:00:00 GMT"),
        ("2026-06-24T09:00:00Z", LONDON, "Wed 2026-06-24 10:00:00 BST"),
        ("2026-11-24T09:00:00Z", "America/New_York", "Tue 2026-11-24 04:00:00 EST"),
        ("2026-11-24T09:00:00Z", "Asia/Kathmandu", "Tue 2026-11-24 14:45:00 UTC+05:45"),
        ("2026-11-24T09:00:00Z", "UTC", "Tue 2026-11-24 09:00:00 UTC"),
    ],
)
def test_an_instant_is_shown_with_its_weekday_and_zone(instant, zone, shown):
    assert format_instant(us(instant), zone) == shown


def test_the_two_instants_of_one_local_time_are_told_apart():
    first, second = us("2026-10-25T00:30:00Z"), us("2026-10-25T01:30:00Z")
    assert format_instant(first, LONDON).endswith("01:30:00 BST")
    assert format_instant(second, LONDON).endswith("01:30:00 GMT")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Europe/Londn", "Europe/Londn is not a time zone: did you mean Europe/London?"),
        ("london", "did you mean Europe/London?"),
        ("New York", "did you mean America/New_York?"),
        ("Mars/Olympus", "IANA name"),
        ("../etc/passwd", "IANA name"),
        ("", "empty"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest(given, said):
    assert said in refusal(zone_name, given)


def test_no_zone_is_the_zone_of_this_machine():
    script = "from car_sched_nb.when import zone_name; print(zone_name(None))"
    env = os.environ | {"TZ": "Asia/Kathmandu"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Asia/Kathmandu"


def test_a_bare_hour_needs_to_be_allowed():
    assert str(parse_clock("9", bare_hour=True)) == "09:00"
    assert "write 09:00" in refusal(parse_clock, "9")
