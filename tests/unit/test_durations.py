import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_sched_nb.durations import LONGEST_US, duration_words, format_duration, parse_duration
from car_sched_nb.errors import CarError, InvalidInput

S = 1_000_000
M = 60 * S
H = 60 * M
D = 24 * H


def refusal(value: Any, **options: bool) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_duration(value, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("500ms", S // 2),
        ("30s", 30 * S),
        ("5m", 5 * M),
        ("1h30m", 90 * M),
        ("2d", 2 * D),
        ("1w", 7 * D),
        ("1.5h", 90 * M),
        (".5h", 30 * M),
        ("0.001ms", 1),
        (" 1h 30m ", 90 * M),
        ("1d2h3m4.5s", D + 2 * H + 3 * M + 4 * S + S // 2),
    ],
)
def test_compact_forms_are_read(text, us):
    assert parse_duration(text) == us


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("5 minutes", 5 * M),
        ("5min", 5 * M),
        ("5mins", 5 * M),
        ("an hour", H),
        ("a minute", M),
        ("90 sec", 90 * S),
        ("1 hour 30 minutes", 90 * M),
        ("1 hour and 30 minutes", 90 * M),
        ("1 hour, 30 minutes", 90 * M),
        ("2 Weeks", 14 * D),
    ],
)
def test_words_are_read(text, us):
    assert parse_duration(text) == us


@pytest.mark.parametrize(("value", "us"), [("30", 30 * S), (30, 30 * S), (0.1, S // 10), ("1.5", 3 * S // 2)])
def test_a_bare_number_is_seconds(value, us):
    assert parse_duration(value) == us


def test_a_timedelta_is_itself():
    assert parse_duration(timedelta(hours=1, microseconds=1)) == H + 1


@pytest.mark.parametrize(
    "garbage",
    [
        "banana",
        "",
        " ",
        "5x",
        "every 5m",
        "1e3",
        "0x10",
        "5m,",
        "5m and",
        "and 5m",
        "m5",
        "aminute",
        "5 5",
        "PT5M",
        "٣s",
    ],
)
def test_garbage_is_refused_not_sixty_seconds(garbage):
    assert repr(garbage) in refusal(garbage)


@pytest.mark.parametrize("value", [-5, -0.5, "-5", "-5m", math.nan, math.inf, -math.inf, "nan", "inf", timedelta(-1)])
def test_negative_and_nan_are_refused(value):
    refusal(value)


@pytest.mark.parametrize("value", [True, None, b"5m", [5]])
def test_what_is_no_text_number_or_timedelta_is_refused(value):
    refusal(value)


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0s", "0h0m", timedelta(0)])
def test_zero_is_refused_unless_it_is_allowed(zero):
    assert "write 1s" in refusal(zero)
    assert parse_duration(zero, allow_zero=True) == 0


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("1:30", "write 1h30m or 1m30s"),
        ("1:30:05", "write 1h30m5s"),
        ("-5", "a duration is positive: write 5s"),
        (-5, "a duration is positive: write 5s"),
        ("+5m", "write 5m"),
        ("1M", "write 1m for a minute or 30d for a month"),
        ("5x", "write 5s, 5m, 5h or 5d"),
        ("5 minuts", "write 5 minutes"),
        ("1 month", "write 30d"),
        ("1y", "write 365d"),
        ("1m30", "write 1m30s"),
        ("30 s 5", "write 30s"),
        ("1,5h", "write 1h30m"),
        ("minute", "write 1m"),
        ("30m1h", "from the largest to the smallest"),
        ("5m5m", "each one once"),
        ("1.5h30m", "only the last number may have decimals"),
        ("0.0001ms", "finer than a microsecond"),
        ("0." + "0" * 5000 + "1", "finer than a microsecond"),
        ("banana", "500ms, 30s, 5m, 1h30m, 2d, 1w or '5 minutes'"),
    ],
)
def test_a_refusal_says_what_to_type_instead(given, instead):
    assert instead in refusal(given)


@pytest.mark.parametrize("value", ["36526d", "9" * 5000, 10**30, 1e300, -1e300, timedelta.max])
def test_more_than_a_hundred_years_is_refused(value):
    assert "100 years" in refusal(value)


def test_a_hundred_years_are_accepted():
    assert parse_duration("36525d") == LONGEST_US


def test_the_refusal_is_also_a_value_error():
    assert issubclass(InvalidInput, CarError)
    assert issubclass(InvalidInput, ValueError)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=LONGEST_US))
def test_the_canonical_form_is_read_back_exactly(us):
    assert parse_duration(format_duration(us), allow_zero=True) == us


@settings(deadline=None)
@given(st.integers(1, 10_000), st.sampled_from([1, 1000, S, M, H, D, 7 * D]))
def test_round_lengths_are_read_back_exactly(count, unit):
    us = min(count * unit, LONGEST_US)
    assert parse_duration(format_duration(us)) == us


@settings(deadline=None)
@given(st.integers(1, 10**9), st.sampled_from(["ms", "s", "m", "h", "d", "w"]))
def test_the_canonical_form_is_stable(count, unit):
    try:
        canonical = format_duration(parse_duration(f"{count}{unit}"))
    except InvalidInput as error:
        assert "100 years" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert format_duration(parse_duration(canonical)) == canonical


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_length_or_a_refusal(text):
    try:
        assert parse_duration(text) > 0
    except InvalidInput as error:
        assert "write" in str(error) or "a duration is like" in str(error)  # noqa: PT017 - either outcome is right


@settings(deadline=None)
@given(st.floats())
def test_any_float_is_a_length_or_a_refusal(number):
    try:
        assert 0 < parse_duration(number) <= LONGEST_US
    except InvalidInput:
        assert not 1e-6 <= number <= LONGEST_US / S


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0s"),
        (1, "0.001ms"),
        (1500, "1.5ms"),
        (250_000, "250ms"),
        (S, "1s"),
        (S + 1, "1.000001s"),
        (5 * M, "5m"),
        (M + S // 2, "1m0.5s"),
        (90 * M, "1h30m"),
        (36 * H, "1d12h"),
        (7 * D, "1w"),
        (8 * D, "8d"),
    ],
)
def test_the_canonical_form_is_short(us, text):
    assert format_duration(us) == text


def test_a_negative_length_has_no_canonical_form():
    with pytest.raises(InvalidInput, match="negative"):
        format_duration(-1)


@pytest.mark.parametrize(
    ("us", "words"),
    [
        (0, "0 s"),
        (250, "0.25 ms"),
        (1_500, "1.5 ms"),
        (250_400, "250 ms"),
        (999_600, "1 s"),
        (5 * S, "5 s"),
        (1_234_567, "1.235 s"),
        (90 * M, "1 h 30 min"),
        (M + 400_000, "1 min"),
        (D, "1 day"),
        (2 * D, "2 days"),
        (-5 * S, "-5 s"),
    ],
)
def test_words_are_for_people(us, words):
    assert duration_words(us) == words
