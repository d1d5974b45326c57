import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from car_sched_nb.cadence import parse_phrase
from car_sched_nb.cron import MACROS, Cron
from car_sched_nb.errors import InvalidInput

LONDON, NEW_YORK, LORD_HOWE, KATHMANDU = "Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"
ZONES = [LONDON, NEW_YORK, LORD_HOWE, KATHMANDU, "Africa/Cairo", "Africa/Casablanca", "UTC"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000


def us(iso: str) -> int:
    return (datetime.fromisoformat(iso) - EPOCH) // timedelta(microseconds=1)


def fires(expr: str, zone: str, after: str, until: str) -> list[str]:
    """The fires as "HH:MM" of UTC."""
    return [Cron.slot(at)[9:11] + ":" + Cron.slot(at)[11:13] for at in Cron(expr, zone).between(us(after), us(until))]


def refusal(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        call(*args)
    return str(caught.value)


instants = st.integers(us("2026-01-01T00:00:00Z"), us("2027-12-31T00:00:00Z"))
expressions = st.sampled_from(
    [
        "* * * * *", "*/15 * * * *", "0 9 * * MON-FRI", "30 1 * * *", "30 2 * * *", "0,30 2 * * *", "0 0 * * *",
        "*/15 3 * * *", "0 */2 * * *", "15 0 * * SUN", "0 0 3 * * *", "0 30 1 * * *", "*/20 30 2 * * *", "0 12 L * *",
        "0 12 LW * *", "5 4 * * MON#2", "5 4 1,15 * FRI", "*/7 1-3 * * *", "@hourly", "@weekly", "0 0 29 2 *",
    ]
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the instants


def test_nine_o_clock_does_not_fire_every_minute():
    at = list(Cron("0 9 * * *", LONDON).between(us("2026-11-23T00:00:00Z"), us("2026-11-26T00:00:00Z")))
    assert [Cron.slot(one) for one in at] == ["20261123T090000Z", "20261124T090000Z", "20261125T090000Z"]


def test_the_next_fire_is_strictly_after_and_the_latest_may_be_now():
    cron, nine = Cron("0 9 * * *", LONDON), us("2026-11-23T09:00:00Z")
    assert cron.next_after(nine) == nine + DAY
    assert cron.next_after(nine - 1) == nine
    assert cron.latest_at(nine) == nine
    assert cron.latest_at(nine - 1) == nine - DAY


def test_a_range_is_open_at_its_start_and_closed_at_its_end():
    cron, nine = Cron("0 9 * * *", LONDON), us("2026-11-23T09:00:00Z")
    assert list(cron.between(nine, nine + DAY)) == [nine + DAY]
    assert cron.count_between(nine, nine + DAY) == 1
    assert cron.count_between(nine - 1, nine) == 1
    assert cron.count_between(nine, nine) == cron.count_between(nine, nine - DAY) == 0


def test_a_year_of_minutes_is_counted_without_walking_through_it():
    assert Cron("* * * * *", NEW_YORK).count_between(us("2026-01-01T00:00:00Z"), us("2027-01-01T00:00:00Z")) == 525_600


@pytest.mark.parametrize(
    ("expr", "slot"),
    [("0 0 29 2 *", "20280229T000000Z"), ("0 0 29 2 */7", "20320229T000000Z"), ("0 0 * 2 MON#5", "20440229T000000Z")],
)
def test_a_rare_date_is_found(expr, slot):
    after = Cron(expr, "UTC").next_after(us("2026-11-23T00:00:00Z"))
    assert after is not None
    assert Cron.slot(after) == slot


def test_beyond_the_calendar_nothing_fires():
    assert Cron("0 9 * * *", "UTC").next_after(10**18) is None
    assert Cron("0 9 * * *", "UTC").latest_at(-(10**18)) is None


# ------------------------------------------------------------------------------------------------- the clock changes


@pytest.mark.parametrize(
    ("zone", "expr", "day", "at"),
    [
        (LONDON, "30 1 * * *", "2026-03-29", "01:00"),
        (NEW_YORK, "30 2 * * *", "2026-03-08", "07:00"),
        (LORD_HOWE, "10 2 * * *", "2026-10-03", "15:30"),
        (NEW_YORK, "15 30 2 * * *", "2026-03-08", "07:00"),
        ("Africa/Cairo", "15 0 * * *", "2026-04-23", "22:00"),
        ("Africa/Cairo", "0-59 0 * * FRI", "2026-04-23", "22:00"),
    ],
)
def test_a_time_in_the_gap_fires_once_at_its_end(zone, expr, day, at):
    assert fires(expr, zone, f"{day}T00:30:00Z", f"{day}T23:59:59Z") == [at]


def test_two_times_in_one_gap_are_one_fire():
    assert fires("0,30 2 * * *", NEW_YORK, "2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z") == ["07:00"]


@pytest.mark.parametrize(
    ("zone", "expr", "day", "at"),
    [
        (LONDON, "30 1 * * *", "2026-10-25", "00:30"),
        (NEW_YORK, "30 1 * * *", "2026-11-01", "05:30"),
        (NEW_YORK, "15 30 1 * * *", "2026-11-01", "05:30"),
        (LORD_HOWE, "45 1 * * *", "2026-04-04", "14:45"),
    ],
)
def test_a_time_in_the_overlap_fires_once_the_first_time(zone, expr, day, at):
    assert fires(expr, zone, f"{day}T00:00:00Z", f"{day}T23:59:59Z") == [at]


def test_after_the_overlap_the_latest_is_the_first_of_the_two():
    # cronsim 2.8 backwards gives the day before.
    cron = Cron("30 1 * * *", LONDON)
    assert cron.latest_at(us("2026-10-25T01:10:00Z")) == us("2026-10-25T00:30:00Z")
    assert cron.next_after(us("2026-10-25T01:10:00Z")) == us("2026-10-26T01:30:00Z")


def test_hourly_follows_real_time():
    assert fires("0 * * * *", LONDON, "2026-10-24T23:30:00Z", "2026-10-25T03:00:00Z") == [
        "00:00",
        "01:00",
        "02:00",
        "03:00",
    ]
    assert fires("0 * * * *", LONDON, "2026-03-28T23:30:00Z", "2026-03-29T02:00:00Z") == ["00:00", "01:00", "02:00"]


@pytest.mark.parametrize("expr", ["* 0 * * FRI", "*/15 0 24 * *", "* 0 * * *", "0 * 0 * * FRI"])
def test_a_wildcard_has_nothing_in_an_hour_that_no_wall_shows(expr):
    # Nor has Debian's cron. cronsim 2.8 says 22:00 where it comes from a day that does not match.
    assert fires(expr, "Africa/Cairo", "2026-04-23T21:59:59Z", "2026-04-24T20:59:59Z") == []


@pytest.mark.parametrize("expr", ["0 0 3 * * *", "*/15 3 * * *", "* 4 * * *"])
def test_half_an_hour_of_summer_time_loses_nothing(expr):
    # cronsim 2.8 skips 03:00 here, and with seconds the whole day.
    at = Cron(expr, LORD_HOWE).next_after(us("2026-10-03T15:30:00Z"))
    hour = 4 if expr.startswith("* 4") else 3
    assert at == us(f"2026-10-04T0{hour}:00:00+11:00")


def test_a_zone_between_the_hours_has_slots_between_the_hours():
    assert fires("0 9 * * *", KATHMANDU, "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z") == ["03:15"]


@settings(deadline=None)
@given(expressions, st.sampled_from(ZONES), instants)
def test_next_and_latest_are_neighbours(expr, zone, at_us):
    cron = Cron(expr, zone)
    latest, following = cron.latest_at(at_us), cron.next_after(at_us)
    assert latest is not None
    assert following is not None
    assert latest <= at_us < following
    assert cron.next_after(latest) == following
    assert cron.latest_at(following - 1) == latest
    assert cron.latest_at(following) == following


@settings(deadline=None)
@given(expressions, st.sampled_from(ZONES), instants, st.integers(0, 40 * 3600))
def test_a_count_is_the_number_of_fires(expr, zone, at_us, seconds):
    cron, until_us = Cron(expr, zone), at_us + seconds * 1_000_000
    at = list(cron.between(at_us, until_us))
    assert at == sorted(set(at))
    assert cron.count_between(at_us, until_us) == len(at)
    assert (at[0] if at else None) == next(
        (n for n in [cron.next_after(at_us)] if n is not None and n <= until_us), None
    )


CHANGES = [
    (LONDON, "2026-03-29T01:00:00Z"), (LONDON, "2026-10-25T01:00:00Z"),
    (NEW_YORK, "2026-03-08T07:00:00Z"), (NEW_YORK, "2026-11-01T06:00:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00:00Z"), ("Africa/Cairo", "2026-10-29T21:00:00Z"),
    (KATHMANDU, "2026-03-29T01:00:00Z"), ("UTC", "2026-03-29T01:00:00Z"),
]  # fmt: skip


@settings(deadline=None)
@given(expressions, st.sampled_from(CHANGES), st.integers(-48 * 3600, 24 * 3600))
def test_whole_hours_of_summer_time_follow_cronsim(expr, change, seconds):
    assume(expr not in {"0 0 29 2 *", "0 0 3 * * *", "0 30 1 * * *"})  # with seconds cronsim has no fixed times
    zone, at = change
    start = datetime.fromisoformat(at) + timedelta(seconds=seconds)
    told: list[int] = []
    for fire in CronSim(MACROS.get(expr, expr), start.astimezone(ZoneInfo(zone))):
        instant = (fire.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
        # cronsim repeats the end of a gap, and from inside an overlap it begins in the past.
        if instant > max([us(start.isoformat()), *told[-1:]]):
            told.append(instant)
        if len(told) == 5:
            break
    ours = Cron(expr, zone).between(us(start.isoformat()), told[-1])
    assert list(ours) == told


# ---------------------------------------------------------------------------------------------------------- the slots


def test_a_slot_is_the_planned_utc_instant():
    assert Cron.slot(us("2026-11-22T09:00:00Z")) == "20261122T090000Z"
    assert Cron.slot(us("2026-11-22T09:00:00Z") + 999_999) == "20261122T090000Z"


@settings(deadline=None)
@given(instants)
def test_a_slot_is_read_back(at_us):
    assert Cron.from_slot(Cron.slot(at_us)) == at_us // 1_000_000 * 1_000_000


@pytest.mark.parametrize(
    "text", ["", "20261122", "20261122T090000", "20260230T090000Z", "2026-11-22T09:00:00Z", "r1.2"]
)
def test_what_is_no_slot_is_refused(text):
    assert "20261122T090000Z" in refusal(Cron.from_slot, text)


def test_the_two_instants_of_one_local_time_have_two_slots():
    at = list(Cron("30 * * * *", LONDON).between(us("2026-10-25T00:00:00Z"), us("2026-10-25T02:00:00Z")))
    assert [Cron.slot(one) for one in at] == ["20261025T003000Z", "20261025T013000Z"]


# ----------------------------------------------------------------------------------------------------- the expression


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("  0   09 * *  mon-fri ", "0 9 * * MON-FRI"),
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("00 05 01 jan *", "0 5 1 JAN *"),
        ("*/10 * * * * *", "*/10 * * * * *"),
        ("10,020 00 * * *", "10,20 0 * * *"),
        ("5,30-030/7 9 * * mon-Mon/2", "5,30 9 * * MON"),
    ],
)
def test_an_expression_has_one_canonical_form(given, canonical):
    assert Cron(given, "UTC").expr == canonical
    assert Cron(given, "UTC") == Cron(canonical, "UTC")


@pytest.mark.parametrize("macro", MACROS)
def test_every_macro_is_accepted(macro):
    assert Cron(macro, "UTC").expr == MACROS[macro]


@pytest.mark.parametrize(
    "expr", ["0 0 * JAN-DEC *", "0 0 * * MON-SAT,SUN", "0 0 L * *", "0 0 LW * *", "0 0 * * 5L", "0 0 * * MON#2"]
)
def test_names_last_and_nth_are_accepted(expr):
    assert Cron(expr, "UTC").expr == expr


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("61 * * * *", "minute '61' is not in its range: write 0-59"),
        ("* 24 * * *", "hour '24' is not in its range: write 0-23"),
        ("0 0 1,32 * *", "day of the month '32' is not in its range: write 1-31"),
        ("0 0 * 13 *", "month '13' is not in its range: write 1-12 or JAN-DEC"),
        ("0 0 * * 8", "day of the week '8' is not in its range: write 0-6 or SUN-SAT"),
        ("60 * * * * *", "second '60' is not in its range: write 0-59"),
        ("0 0 * * FRI-SUN", "write FRI-SAT,SUN"),
        ("0 22-3 * * *", "write 22-23,0-3"),
        ("0 0 * NOV-FEB *", "write NOV-DEC,JAN-FEB"),
        ("*/0 * * * *", "a step is 1 or more"),
        ("0 0 ? * *", "'?' is written as *"),
        ("1,,2 * * * *", "minute ''"),
        ("0 0 L-3 * *", "day of the month 'L-3'"),
        ("* * * *", "has 4 fields, cron has 5: minute hour day-of-month month day-of-week"),
        ("* * * * * * *", "has 7 fields"),
        ("banana", "'banana' has 1 field,"),
        ("", "has 0 fields"),
        ("@reboot", "there are @hourly, @daily"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6 *", "never fires"),
        ("0 0 */31 2 MON#5", "never fires"),
    ],
)
def test_a_refusal_says_which_field_and_what_to_write(expr, said):
    assert said in refusal(Cron, expr, "UTC")


@pytest.mark.parametrize(
    ("expr", "instead"), [("0 0 * * FRI-SUN", "0 0 * * FRI-SAT,SUN"), ("0 22-3 * * *", "0 22-23,0-3 * * *")]
)
def test_what_a_refusal_says_to_write_is_accepted(expr, instead):
    assert instead.split()[1 if "22" in expr else 4] in refusal(Cron, expr, "UTC")
    assert Cron(instead, "UTC").expr == instead


def test_an_unknown_zone_is_refused_with_the_nearest():
    assert "Europe/Londn is not a time zone: did you mean Europe/London?" in refusal(Cron, "0 9 * * *", "Europe/Londn")


def test_no_zone_is_kept_as_the_name_of_this_machines():
    assert Cron("0 9 * * *").zone
    assert Cron("0 9 * * *", None) == Cron("0 9 * * *", Cron("@daily").zone)


def test_a_cron_is_a_frozen_value():
    cron = Cron("0 9 * * *", LONDON)
    assert pickle.loads(pickle.dumps(cron)) == cron
    assert len({cron, Cron("00 09 * * *", LONDON)}) == 1
    assert not hasattr(cron, "__dict__")
    with pytest.raises(AttributeError):
        cron.expr = "* * * * *"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("0-59/5 * * * *", "every 5 minutes"),
        ("*/5 * * * MON-FRI", "every 5 minutes on weekdays"),
        ("@hourly", "every hour"),
        ("15 * * * *", "every hour at :15"),
        ("*/90 * * * *", "every hour"),
        ("30 */2 * * *", "every 2 hours at :30"),
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("30 0 9 * * *", "at 09:00:30 every day"),
        ("0 9 * * *", "at 09:00 every day"),
        ("0 9,17 * * *", "at 09:00 and 17:00 every day"),
        ("0 9 * * 1-5", "at 09:00 on weekdays"),
        ("0 9 * * 6,7", "at 09:00 on weekends"),
        ("0 9 * * 0,1", "at 09:00 on Monday and Sunday"),
        ("0 9 * * 5L", "at 09:00 on the last Friday of the month"),
        ("0 9 1 * *", "at 09:00 on day 1 of the month"),
        ("0 9 1,15 * *", "at 09:00 on days 1 and 15 of the month"),
        ("0 9 25 12 *", "at 09:00 on 25 December"),
        ("0 9 L * *", "at 09:00 on the last day of the month"),
        ("0 9 * 1 *", "at 09:00 every day in January"),
        ("0 9 1 1,7 *", "at 09:00 on day 1 of January and July"),
        ("0 9 1-31 * MON", "at 09:00 every day"),
        ("*/7 9-17 * * *", "every seventh minute from 09:00 through 17:59"),
    ],
)
def test_an_expression_reads_as_english(expr, words):
    assert Cron(expr, LONDON).words() == f"{words}, Europe/London"


# ----------------------------------------------------------------------------------------------------------- --every


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("5m", "5m"),
        ("90", "1m30s"),
        ("5 minutes", "5m"),
        ("every 5 minutes", "5m"),
        ("an hour", "1h"),
        ("minute", "1m"),
        ("hour", "1h"),
        ("every hour", "1h"),
        ("day", "1d"),
        ("week", "1w"),
    ],
)
def test_a_length_or_a_bare_unit_is_an_interval(text, canonical):
    assert parse_phrase(text) == ("interval", canonical)


@pytest.mark.parametrize(
    ("text", "expr"),
    [
        ("weekday at 09:00", "0 9 * * MON-FRI"),
        ("weekdays at 9", "0 9 * * MON-FRI"),
        ("every weekday 9am", "0 9 * * MON-FRI"),
        ("monday 8:30", "30 8 * * MON"),
        ("Mon,Wed,Fri at 12:15", "15 12 * * MON,WED,FRI"),
        ("mon, wed, and fri at 9", "0 9 * * MON,WED,FRI"),
        ("monday and friday at 8", "0 8 * * MON,FRI"),
        ("every monday and every friday at 8", "0 8 * * MON,FRI"),
        ("mon-fri at 9", "0 9 * * MON-FRI"),
        ("friday to monday at 9", "0 9 * * MON,FRI,SAT,SUN"),
        ("weekend at 10:00", "0 10 * * SAT,SUN"),
        ("monday", "0 0 * * MON"),
        ("day at 7:00", "0 7 * * *"),
        ("daily at 7pm", "0 19 * * *"),
        ("every day at noon", "0 12 * * *"),
        ("day at 9:00 and 17:00", "0 9,17 * * *"),
        ("day at 9:00:30", "30 0 9 * * *"),
        ("midnight", "0 0 * * *"),
        ("9am", "0 9 * * *"),
        ("at 09:00", "0 9 * * *"),
        ("hourly", "0 * * * *"),
        ("hour at :15", "15 * * * *"),
        ("hour at :15 and :45", "15,45 * * * *"),
        ("daily", "0 0 * * *"),
        ("weekly", "0 0 * * 0"),
        ("month", "0 0 1 * *"),
        ("month on the 1st at 9:00", "0 9 1 * *"),
        ("monthly on day 15 at 9", "0 9 15 * *"),
        ("1st at 09:00", "0 9 1 * *"),
        ("1st and 15th at 9", "0 9 1,15 * *"),
        ("last day of the month at 18:00", "0 18 L * *"),
        ("9am on weekdays", "0 9 * * MON-FRI"),
        ("@daily", "0 0 * * *"),
    ],
)
def test_a_time_or_a_day_is_cron(text, expr):
    assert parse_phrase(text) == ("cron", expr)
    assert Cron(expr, "UTC").expr == expr


@pytest.mark.parametrize(
    "expr",
    [
        "0 9 * * MON-FRI",
        "30 8 * * MON,FRI",
        "0 0 * * *",
        "0 10 * * SAT,SUN",
        "15 9 1,15 * *",
        "0 9,17 L * *",
        "30 0 9 * * *",
    ],
)
def test_the_words_of_an_expression_are_a_phrase(expr):
    words = Cron(expr, "UTC").words().removesuffix(", UTC")
    assert parse_phrase(words) == ("cron", expr)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("25:00", "hours go from 00 to 23"),
        ("day at 25:00", "hours go from 00 to 23"),
        ("monday at 9:75", "minutes go from 00 to 59"),
        ("hour at :75", "minutes go from 00 to 59"),
        ("1:30", "write 1h30m or 'day at 01:30'"),
        ("5x", "write 5s, 5m, 5h or 5d"),
        ("-5", "a duration is positive: write 5s"),
        ("1M", "write 1m for a minute"),
        ("*/5 * * * *", "write --cron '*/5 * * * *'"),
        ("week at 9:00", "write 'monday at 09:00'"),
        ("day at 9:00 and 17:30", "needs a task for each time"),
        ("32nd at 9:00", "write 1-31"),
        ("2 days at 9:00", "'weekday at 09:00'"),
    ],
)
def test_a_phrase_is_refused_with_what_to_type(text, said):
    assert said in refusal(parse_phrase, text)


@pytest.mark.parametrize(
    "text", ["banana", "", "every", "at", "weekday at banana", "blursday at 9", "monday-banana at 9", "weekday 9"]
)
def test_what_is_no_phrase_is_refused_with_both_shapes(text):
    said = refusal(parse_phrase, text)
    assert "'5 minutes'" in said
    assert "'weekday at 09:00'" in said


@settings(deadline=None)
@given(st.text(alphabet="0159: ,-amptonsdyweklrfih@*", max_size=25))
def test_any_text_is_a_schedule_or_a_refusal(text):
    try:
        kind, value = parse_phrase(text)
    except InvalidInput as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert kind == "interval" or Cron(value, "UTC").expr == value
