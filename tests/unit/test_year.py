"""The year of the last notebook: the engine makes it, in virtual time, and twice the same."""

from pathlib import Path

import pandas as pd
import pytest

import car_sched_nb as car
from notebooks import year

BY_CHANCE = ["params"]  # dictionaries, which cannot be compared as a column's values; no task here has any


def made(path: Path, start: str, end: str) -> pd.DataFrame:
    rows = year.make(path, year.berlin(start), year.berlin(end))
    history = car.history(store=str(path))
    assert len(history) == rows
    return history.drop(columns=BY_CHANCE).sort_index()


@pytest.fixture(scope="module")
def march(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks with the night that has no 02:30."""
    return tmp_path_factory.mktemp("march") / "year.db"


@pytest.fixture(scope="module")
def fortnight(march: Path) -> pd.DataFrame:
    return made(march, "2026-03-20 00:00", "2026-04-03 00:00")


def test_two_makings_give_the_same_history(fortnight: pd.DataFrame, tmp_path: Path):
    again = made(tmp_path / "again.db", "2026-03-20 00:00", "2026-04-03 00:00")
    assert len(fortnight) > 400
    pd.testing.assert_frame_equal(fortnight, again)


def test_the_history_has_what_the_engine_did_and_no_row_beside_it(fortnight: pd.DataFrame, march: Path):
    assert set(fortnight.owner) == {"shop"}
    assert (fortnight.finished_at <= year.berlin("2026-04-03 00:00")).all()
    nightly = car.slots("load", start="2026-03-20 00:00", end="2026-04-03 00:00", store=str(march))
    assert len(nightly) == 14
    assert set(nightly.status) == {"completed"}
    follows = fortnight[fortnight.task == "clean"]
    loads = fortnight[(fortnight.task == "load") & (fortnight.status == "completed")]
    assert sorted(follows.scheduled_at) == sorted(loads.finished_at)


def test_a_night_without_half_past_two_has_its_load_at_three(fortnight: pd.DataFrame):
    local = fortnight[fortnight.task == "load"].scheduled_at.dt.tz_convert(year.ZONE)
    at = local[local.dt.date == pd.Timestamp("2026-03-29").date()]
    assert [f"{one:%H:%M %Z}" for one in at] == ["03:00 CEST"]


def test_a_day_in_march_has_an_hour_less(fortnight: pd.DataFrame):
    prices = fortnight[(fortnight.task == "prices") & (fortnight.attempt == 1)]
    days = prices.scheduled_at.dt.tz_convert(year.ZONE).dt.strftime("%m-%d").value_counts()
    assert days["03-29"] == 23
    assert set(days.drop(["03-29", "03-20"])) == {24}  # the first hour of the first day is where it begins


def test_a_task_that_changed_goes_on_as_its_next_version(fortnight: pd.DataFrame):
    triage = fortnight[fortnight.task == "triage"]
    assert triage.groupby("version").model.unique().map(list).to_dict() == {0: ["example-large"], 1: ["example-small"]}


def test_timeouts_are_in_virtual_time(tmp_path: Path):
    history = made(tmp_path / "year.db", "2026-10-05 00:00", "2026-10-14 00:00")
    stopped = history[history.status == "timed_out"]
    assert len(stopped)
    assert set(zip(stopped.task, stopped.duration.dt.total_seconds(), strict=True)) <= {
        ("health", 30.0),
        ("backup", 3600.0),
    }


def test_an_outage_and_a_sleep_are_told_apart(tmp_path: Path):
    off = made(tmp_path / "off.db", "2026-06-11 12:00", "2026-06-13 00:00")
    asleep = made(tmp_path / "asleep.db", "2026-01-17 12:00", "2026-01-19 00:00")
    for history, reason, hours in ((off, "no_owner", 15), (asleep, "asleep", 10)):
        missed = history[(history.status == "missed") & (history.task == "prices")]
        assert missed[["reason", "slots"]].to_numpy().tolist() == [[reason, hours]]
        assert history.lateness[history.task == "load"].max() > pd.Timedelta("6h")  # caught up
    assert set(off.status[off.task == "crawl"]) == {"completed", "interrupted", "missed"}
