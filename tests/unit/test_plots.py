"""Charts tell what the history holds, in colours for everybody, and with any text; also where plotly is missing."""

import html
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import car_sched_nb as car
from car_sched_nb import frames, plots
from car_sched_nb.errors import InvalidInput, UnknownTask
from car_sched_nb.model import Status, Task, Trigger, to_us
from car_sched_nb.plots import looks, scales
from car_sched_nb.plots.figure import DRAWN_AS_BARS, figure
from car_sched_nb.plots.graph import critical_path, levels
from car_sched_nb.plots.still import Still
from car_sched_nb.store.sqlite import SqliteStore
from tests import years
from tests.unit.world import (
    DAY,
    HOUR,
    MINUTE,
    MONDAY,
    SECOND,
    Script,
    advance,
    agent,
    clock_at,
    every,
    follower,
    running,
)

HOSTILE = '<a href="javascript:alert(1)">x</a> <b>bold</b> $a$ & <script>alert(2)</script>'
NOW_US = to_us(MONDAY + DAY)
FIELDS = ("task", "since", "until", "status", "runner")
NO_FILTERS: dict[str, Any] = dict.fromkeys(FIELDS)
EMPTY: dict[str, Any] = {**NO_FILTERS, "namespace": None, "now_us": NOW_US}


@pytest.fixture(autouse=True)
def london(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looks, "zone", lambda: "Europe/London")


def timeline(store: SqliteStore, **filters: Any) -> Any:
    return plots.timeline(store, **{**EMPTY, "limit": None, **filters})


def durations(store: SqliteStore, **filters: Any) -> Any:
    return plots.durations(store, **{**EMPTY, "limit": None, **filters})


def calendar(store: SqliteStore, **filters: Any) -> Any:
    return plots.calendar(store, **{**EMPTY, "limit": None, **filters})


def plan(store: SqliteStore, **filters: Any) -> Any:
    given = {"namespace": None, "task": None, "runner": None, "days": 7, "now_us": to_us(MONDAY), **filters}
    return plots.plan(store, **given)


def graph(store: SqliteStore, **filters: Any) -> Any:
    given = {name: value for name, value in EMPTY.items() if name != "status"}
    return plots.graph(store, **{**given, **filters})


def marks(chart: Any, kind: str, panel: int = 0) -> dict[str, Any]:
    """Return what a panel shows of a kind, by name."""
    return {mark.name: mark for mark in chart.panels[panel].marks if type(mark).__name__ == kind}


def written(store: SqliteStore, runs: list[dict[str, Any]], *tasks: Task) -> SqliteStore:
    names = dict.fromkeys(run["task"] for run in runs)
    years.define(store, tasks or [Task(name, "1", Trigger.INTERVAL, "1h") for name in names], MONDAY)
    years.write(store, runs)
    return store


@pytest.mark.anyio
async def test_a_timeline_has_a_bar_for_each_run_and_a_symbol_for_each_gap(store: SqliteStore):
    clock, recorder = clock_at(), Script(fails=lambda occurrence: occurrence.slot == "2")
    async with running(store, recorder, clock=clock) as s:
        await s.add(every("1h", "a"))
        await s.add(every("6h", "b"))
        await advance(s, clock, 5 * HOUR)
        await s.pause("a")
        await advance(s, clock, 3 * HOUR)
        await s.resume("a")
        await s.wait()
        history = frames.history(store, now_us=clock.now_us())
        chart = timeline(store, now_us=clock.now_us())
    bars, points = marks(chart, "Bars"), marks(chart, "Points")
    for status, count in history["status"].value_counts().items():
        mark = points if status in ("skipped", "missed", "waiting") else bars
        assert len(mark[str(status)].y if count else []) == count if count else str(status) not in mark
    assert [text for _, text in chart.panels[0].y.ticks] == ["a", "b"]
    assert len(points["failed"].x) == (history["status"] == "failed").sum() > 0
    assert any("it failed, as told" in text for text in bars["failed"].hover)
    assert any("completed: do it" in text for text in bars["completed"].hover)
    assert chart.x.title == "started (Europe/London)"


def test_a_timeline_takes_the_filters_of_the_history(store: SqliteStore):
    runs: list[dict[str, Any]] = [{"task": name, "at": MONDAY + n * HOUR} for name in "ab" for n in range(6)]
    runs.append({"task": "a", "at": MONDAY + 7 * HOUR, "status": Status.FAILED, "error": "no"})
    written(store, runs)
    asked: list[tuple[dict[str, Any], int]] = [
        ({"task": "a"}, 7),
        ({"task": ["a", "b"], "limit": 3}, 3),
        ({"since": MONDAY + 4 * HOUR, "until": MONDAY + 5 * HOUR}, 2),
        ({"status": "failed"}, 1),
        ({"runner": "python"}, 13),
    ]
    for filters, count in asked:
        assert sum(len(mark.y) for mark in marks(timeline(store, **filters), "Bars").values()) == count, filters
    assert "leave one of them away" in timeline(store, runner="shell").subtitle
    with pytest.raises(UnknownTask, match="car list"):
        timeline(store, task="nobody")
    for wrong, said in (({"status": "done"}, "there are"), ({"limit": -1}, "from 0")):
        with pytest.raises(InvalidInput, match=said):
            timeline(store, **wrong)


def test_a_timeline_says_when_it_shows_the_newest_runs_only(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looks, "MOST", 20)
    monkeypatch.setattr(looks, "ROWS", 4)
    written(store, [{"task": f"t{n % 6}", "at": MONDAY + n * MINUTE} for n in range(30)])
    chart = timeline(store)
    assert chart.subtitle.startswith("the newest 20 runs")
    bars = marks(chart, "Bars")["completed"]
    assert bars.start.min() == looks.wall_ms(to_us(MONDAY + 10 * MINUTE))
    assert [text for _, text in chart.panels[0].y.ticks] == ["t3", "t4", "t5", "3 others"]


def test_a_timeline_tells_runs_from_slots_that_did_not_run_and_shows_an_outage_as_a_band(store: SqliteStore):
    runs: list[dict[str, Any]] = [{"task": "a", "at": MONDAY + n * HOUR, "attempt": 1 + (n == 3)} for n in range(12)]
    gap = {"task": "a", "status": Status.MISSED, "attempt": 0, "reason": "no_owner"}
    runs.append({"at": MONDAY + 12 * HOUR, "until": MONDAY + 27 * HOUR, "slots": 15, **gap})
    runs += [{"at": MONDAY + n * HOUR, "until": MONDAY + n * HOUR + MINUTE, **gap} for n in (30, 31)]
    chart = timeline(written(store, runs))
    assert chart.subtitle.startswith("12 runs, 1 of them a retry, 17 slots that did not run, 23 Nov 2026")
    band = marks(chart, "Bars")["missed"]
    assert (list(band.length), band.pale) == ([15 * 3_600_000.0], True)
    assert band.start[0] == looks.wall_ms(to_us(MONDAY + 12 * HOUR))
    assert band.hover[0].split("\n")[1] == "15 slots missed: no_owner"
    assert len(marks(chart, "Points")["missed"].x) == 3
    fill = looks.pale(band.colour)
    assert Still(chart).svg.count(f'fill="{fill}"') == 1
    assert [trace.name for trace in figure(chart).data if trace.type == "bar" and trace.marker.color == fill] == [
        "missed"
    ]
    assert "12 runs, 1 of them a retry, 0 failed, 17 slots that did not run" in calendar(store).subtitle


def test_a_run_for_several_slots_is_one_run_of_a_day(store: SqliteStore):
    chart = calendar(written(store, [{"task": "a", "at": MONDAY, "slots": 4}]))
    assert chart.subtitle.startswith("1 run, 0 failed,")


def test_two_hours_of_one_name_lie_beside_each_other(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looks, "zone", lambda: "Europe/Berlin")
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    written(store, [{"task": "a", "at": start + n * HOUR, "took": HOUR} for n in (-96, *range(6))])
    chart = timeline(store, since=start)
    assert chart.x.title == "started (UTC+2, Berlin's time before 25 Oct 03:00)"
    bars = marks(chart, "Bars")["completed"]
    assert [after - before for after, before in zip(bars.start[1:], bars.start, strict=False)] == [3_600_000.0] * 5
    assert bars.hover[3].split("\n")[2].startswith("Sun 25 Oct 2026 03:00:00 UTC+2")
    assert timeline(store).x.title == "started (Europe/Berlin)"
    monkeypatch.setattr(looks, "zone", lambda: "Australia/Lord_Howe")
    at_us = to_us(datetime(2026, 4, 4, 12, tzinfo=UTC))
    assert looks.wall_for(at_us, at_us + 86_400_000_000).name == "UTC+11, Lord Howe's time before 05 Apr 02:00"


def test_an_empty_chart_says_why(store: SqliteStore):
    written(store, [{"task": "a", "at": MONDAY}], Task("a", "1"), Task("nightly", "1"))
    for chart in (timeline, durations, calendar):
        assert "no run fits these filters" in chart(store, limit=0).subtitle
        assert chart(store, task="nightly").subtitle == "nightly has not run yet"
        assert chart(store, task=["nightly", "nightl?"]).subtitle == "nightly, nightl? have not run yet"


def test_many_bars_are_few_elements_and_the_shortest_has_an_edge(store: SqliteStore):
    count = DRAWN_AS_BARS + 1
    chart = timeline(written(store, [{"task": "a", "at": MONDAY + n * SECOND} for n in range(count)]))
    made = figure(chart)
    assert len(made.layout.shapes) == 1
    assert made.layout.shapes[0].path.count("M") == count
    assert made.layout.shapes[0].line.width == 1
    assert [(trace.mode, len(trace.x)) for trace in made.data] == [("none", count)]
    few = figure(timeline(store, limit=10))
    assert [trace.type for trace in few.data] == ["bar", "scatter"]
    assert few.data[0].marker.line.width == 1 and len(few.layout.shapes) == 0


def test_runs_whose_task_is_gone_from_the_store_are_shown(store: SqliteStore):
    runs = [{"task": name, "at": MONDAY + n * HOUR} for name in "ab" for n in range(6)]
    written(store, runs)
    with store.transaction() as connection:
        connection.execute("DELETE FROM tasks WHERE name = 'b'")
    assert [text for _, text in timeline(store).panels[0].y.ticks] == ["a", "unknown task"]
    assert set(marks(durations(store), "Points")) == {"a", "unknown task"}
    calendar(store), plan(store)


def test_hostile_text_stays_text(store: SqliteStore):
    run = {"task": "a", "at": MONDAY, "status": Status.FAILED, "error": HOSTILE}
    chart = timeline(written(store, [run]))
    made = figure(chart)
    hover = made.data[0].hovertext[0]
    assert re.findall(r"<[^>]*>", hover) == ["<br>"] * hover.count("<br>")
    assert "$" not in hover and "&lt;b&gt;bold" in hover
    hostile = chart._replace(title=HOSTILE, subtitle=HOSTILE, x=chart.x._replace(title=HOSTILE))
    picture = Still(hostile).svg
    assert set(re.findall(r"</?([a-z]+)", picture)) <= {"svg", "text", "path", "g", "rect"}
    assert html.escape(HOSTILE) in picture
    assert re.findall(r"<[^>]*>", figure(hostile).layout.title.text) == []


def test_an_answer_is_cut_to_a_few_lines():
    lines = looks.said("word " * 1000)
    assert len(" ".join(lines)) <= 200 and lines[-1].endswith("…")
    assert all(len(line) <= 70 for line in looks.said("x" * 500))
    assert looks.said(None) == []


def test_durations_follow_a_task_that_gets_slower_and_mark_its_versions(store: SqliteStore):
    def took(n: int) -> timedelta:
        return MINUTE * (4 + n * 86 / 499) * (3 if n % 30 == 7 else 1)

    runs: list[dict[str, Any]] = [
        {"task": "a", "at": MONDAY + n * HOUR, "took": took(n), "version": n // 250} for n in range(500)
    ]
    runs.append({"task": "a", "at": MONDAY + 300.5 * HOUR, "took": SECOND, "status": Status.FAILED, "version": 1})
    chart = durations(written(store, runs), task="a")
    assert chart.panels[0].y.title == "took (min)"
    assert chart.panels[0].top.texts == ["v1", "v0"]
    lines, points = marks(chart, "Line"), marks(chart, "Points")
    median, slow = lines["median of 33 runs"], lines["95 % of 33 runs were quicker"]
    assert median.y[0] == pytest.approx(5, rel=0.2) and median.y[-1] == pytest.approx(89, rel=0.1)
    assert median.y[250] == pytest.approx(47, rel=0.05)
    assert (slow.y > median.y).all()
    assert set(points["completed, slowest 5 %"].x) >= {
        looks.wall_ms(to_us(MONDAY + (30 * n + 7) * HOUR)) for n in range(16)
    }
    assert len(points["completed, slowest 5 %"].x) < 40
    assert points["failed"].symbol == "x" != points["completed"].symbol
    assert Still(chart).svg.count("h0") == len(points["completed"].x)  # each is a dot of one path
    assert "501 runs, median 48 min 2 s, of the newest 33: 1 h 27 min 15 s," in chart.subtitle


def test_durations_of_several_tasks_have_a_colour_and_a_median_each(store: SqliteStore):
    runs = [
        {"task": f"t{name:02}", "at": MONDAY + n * HOUR, "took": (name + 1) * MINUTE}
        for name in range(10)
        for n in range(30 - name)
    ]
    chart = durations(written(store, runs))
    shown, medians = marks(chart, "Points"), marks(chart, "Line")
    assert set(shown) == {*(f"t{name:02}" for name in range(7)), "3 others"} == set(medians)
    assert len({mark.colour for mark in shown.values()}) == len({mark.symbol for mark in shown.values()}) + 1 == 8
    assert all(shown[name].colour == median.colour for name, median in medians.items())
    assert (medians["t04"].y == 5.0).all()
    assert chart.subtitle.startswith("255 runs, 10 tasks, 23 Nov 2026")


@pytest.mark.parametrize(
    ("took", "unit"),
    [(3 * SECOND / 1000, "ms"), (SECOND, "s"), (10 * MINUTE, "min"), (5 * HOUR, "h"), (9 * DAY, "days")],
)
def test_the_unit_of_durations_fits_them(store: SqliteStore, took: timedelta, unit: str):
    chart = durations(written(store, [{"task": "a", "at": MONDAY, "took": took}]))
    assert chart.panels[0].y.title == f"took ({unit})"
    assert Still(chart).svg.count("<text") > 5


def test_durations_of_very_different_lengths_have_a_logarithmic_axis(store: SqliteStore):
    runs = [{"task": "a", "at": MONDAY + n * HOUR, "took": SECOND * (1000 if n == 7 else 1)} for n in range(9)]
    chart = durations(written(store, runs))
    assert chart.panels[0].y.kind == "log"
    assert figure(chart).layout.yaxis.type == "log"
    assert "<svg" in Still(chart).svg


def test_a_calendar_counts_local_days_also_where_clocks_change(store: SqliteStore):
    # The 29th of March 2026 had 23 hours in London, the 25th of October 25.
    start = datetime(2026, 3, 1, tzinfo=UTC)
    written(store, [{"task": "a", "at": start + n * HOUR} for n in range(260 * 24)])
    values = marks(calendar(store), "Cells")["runs a day"]
    days = {
        text.split("\n")[0]: count
        for row, counts in zip(values.hover, values.values, strict=True)
        for text, count in zip(row, counts, strict=True)
        if text
    }
    assert len(days) == 365
    assert (days["Sun 29 Mar 2026"], days["Sun 25 Oct 2026"], days["Mon 26 Oct 2026"]) == (23, 25, 24)
    assert values.values[6][[text.startswith("Sun 29 Mar 2026") for text in values.hover[6]].index(True)] == 23


def test_a_calendar_marks_the_days_with_failures(store: SqliteStore):
    runs: list[dict[str, Any]] = [{"task": "a", "at": MONDAY - n * DAY} for n in range(10)]
    runs += [{"task": "a", "at": MONDAY - 3 * DAY, "status": Status.FAILED}]
    runs += [{"task": "a", "at": MONDAY - 20 * DAY, "status": Status.MISSED, "slots": 7}]
    chart = calendar(written(store, runs))
    points = marks(chart, "Points")
    (failed,), (missed,) = points["with failures (larger: a larger part)"].hover, points["missed, none ran"].hover
    assert failed.split("\n") == ["Fri 20 Nov 2026", "2 runs", "1 completed", "1 failed"]
    assert missed.split("\n") == ["Tue 03 Nov 2026", "0 runs", "7 missed"]
    assert "11 runs, 1 failed" in chart.subtitle


def test_a_plan_has_each_slot_to_come_and_names_where_they_pile_up(store: SqliteStore):
    noon = [Task(name, "1", Trigger.CRON, "0 12 * * *", tz="UTC") for name in ("a", "b", "c")]
    years.define(store, [*noon, Task("hourly", "1", Trigger.INTERVAL, "1h"), Task("by-hand", "1")], MONDAY)
    chart = plan(store, days=2)
    expected = frames.preview(_tasks(store), to_us(MONDAY), None, to_us(MONDAY + 2 * DAY))
    slots = marks(chart, "Points")["slot"]
    assert sorted(slots.x) == sorted(looks.local_ms(expected["scheduled_at"]))
    assert "most in one 15 min: 4, Mon 23 Nov 12:00" in chart.subtitle
    assert sum(marks(chart, "Bars", 1)["slots in each 15 min"].length) == len(expected)
    assert [text for _, text in chart.panels[0].y.ticks] == ["a", "b", "c", "hourly"]
    assert len(marks(plan(store, task="?"), "Points")["slot"].x) == 21


def _tasks(store: SqliteStore) -> list[Task]:
    from car_sched_nb.store import records

    return records.tasks(store)


def test_a_plan_of_a_task_every_second_is_bounded_and_says_so(store: SqliteStore):
    years.define(store, [Task("tick", "1", Trigger.INTERVAL, "1s"), Task("daily", "1", Trigger.INTERVAL, "1d")], MONDAY)
    chart = plan(store)
    assert chart.subtitle.startswith("about 604,807 slots of 2 tasks; most in one hour: 3,60")
    every_hour = marks(chart, "Bars", 1)["slots in each hour"].length
    assert min(every_hour[1:-1]) >= 3600 and sum(every_hour) == pytest.approx(604_807, abs=2)
    assert marks(chart, "Bars")["too many to draw each"].colour not in (looks.AMBER, looks.RED)
    assert list(marks(chart, "Bars")) == ["too many to draw each"]
    assert len(marks(chart, "Points")["slot"].x) == 7
    assert len(figure(chart).to_json()) < 100_000


def test_a_plan_counts_in_whole_numbers_up_to_a_tick_above_all(store: SqliteStore):
    years.define(store, [Task("once", "1", Trigger.INTERVAL, "1d")], MONDAY)
    assert plan(store, days=1).subtitle == "1 slot of 1 task"
    assert [text for _, text in plan(store, days=1).panels[1].y.ticks] == ["0", "1"]
    for top, ticks in ((5, "0 2 4 6"), (4, "0 1 2 3 4"), (7, "0 2 4 6 8"), (3601.2, "0 1,000 2,000 3,000 4,000")):
        axis = scales.counts(top, 4)
        assert " ".join(text for _, text in axis.ticks) == ticks
        assert axis.ticks[-1][0] == axis.high >= top


@pytest.mark.parametrize("days", [0, -1, 367, "7", True, None])
def test_days_that_are_none_are_refused(store: SqliteStore, days: Any):
    with pytest.raises(InvalidInput, match=r"car\.plot\.plan\(days=7\)"):
        plan(store, days=days)


@pytest.mark.anyio
async def test_a_graph_has_levels_and_the_critical_path_of_what_was_measured(store: SqliteStore):
    clock = clock_at()
    async with running(store, clock=clock) as s:
        for task in (
            agent("a"),
            agent("b"),
            follower("a,b", "c"),
            follower("c", "d"),
            follower("a", "e"),
            agent("alone"),
        ):
            await s.add(task)
        await s.run_now("a")
        await s.run_now("b")
        await s.wait()
        await s.delete("b")
        took = {"a": 2.0, "c": 3.0, "d": 1.0, "e": 9.0}
        with store.transaction() as db:
            for name, seconds in took.items():
                sql = "UPDATE executions SET duration = ? WHERE task_id = (SELECT id FROM tasks WHERE name = ?)"
                db.execute(sql, (round(seconds * 1e6), name))
        chart = graph(store, now_us=clock.now_us())
    assert chart.subtitle == "5 tasks in 3 levels; critical path 11 s, by medians: a → e"
    shown = marks(chart, "Points")
    labels = {label.split("\n")[0]: x for mark in shown.values() for label, x in zip(mark.labels, mark.x, strict=True)}
    assert labels == {"a": 0, "b": 0, "c": 1, "e": 1, "d": 2}
    assert list(shown["no such task any more"].labels) == ["b"]
    critical, others = (marks(chart, "Line")[name] for name in ("critical path", "then"))
    assert critical.width > 2 * others.width
    assert {label.split("\n")[0] for label in shown["last completed"].labels} == {"a", "c", "d", "e"}


def test_levels_and_paths_go_the_longest_way():
    def key(name: str) -> tuple[str, str]:
        return ("n", name)

    follows = {key("d"): [key("a"), key("c")], key("c"): [key("b")], key("b"): [key("a")], key("a"): []}
    level = levels(follows)
    assert [level[key(name)] for name in "abcd"] == [0, 1, 2, 3]
    assert critical_path(follows, level, dict.fromkeys(follows, 1.0)) == ([key(name) for name in "abcd"], 4.0)


def test_a_graph_of_a_task_shows_those_that_it_is_tied_with(store: SqliteStore):
    ties = {"a": "", "b": "a", "c": "b", "x": "", "y": "x"}
    years.define(
        store,
        [Task(name, "1", Trigger.AFTER if after else Trigger.MANUAL, after=after) for name, after in ties.items()],
        MONDAY,
    )
    labels = [label for mark in marks(graph(store, task="b"), "Points").values() for label in mark.labels]
    assert sorted(labels) == ["a", "b", "c"]
    with pytest.raises(UnknownTask, match="did you mean"):
        graph(store, task="bb")


def test_where_nothing_happened_a_chart_says_what_to_type(store: SqliteStore):
    charts = [timeline(store), durations(store), calendar(store), plan(store), graph(store)]
    for chart, said in zip(charts, ["%%car_task"] * 3 + ["--every 1h", "--after OTHER"], strict=True):
        assert said in chart.subtitle
        assert said in figure(chart).layout.annotations[0].text
        assert said in Still(chart).svg
    assert len(charts) == 5


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [look.colour for look in (*looks.STATES.values(), *looks.TASKS)] + [looks.INK])
@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_each_colour_is_read_on_white_and_on_black(colour: str, ground: str):
    low, high = sorted((luminance(colour), luminance(ground)))
    assert (high + 0.05) / (low + 0.05) >= (4.2 if colour == looks.INK else 3)


def test_no_two_states_differ_in_their_hue_alone():
    assert set(looks.STATES) == set(Status)
    for (one, look), (other, another) in combinations(looks.STATES.items(), 2):
        assert look.symbol != another.symbol, (one, other)


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "plotly":
            raise ModuleNotFoundError("no plotly", name=name)

sys.meta_path.insert(0, Missing())
import car_sched_nb as car
for name in ("timeline", "durations", "calendar", "plan", "graph"):
    made = getattr(car.plot, name)(store=sys.argv[1])
    print(type(made).__module__, made.svg.count("</svg>"), "pip install car-sched-nb[plots]" in made._repr_html_())
"""


def run_python(code: str, *arguments: str) -> str:
    env = {**os.environ, "TZ": "Europe/London"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_plotly_each_chart_is_a_still_picture(path: Path):
    store = SqliteStore(path)
    store.migrate()
    written(store, [{"task": "a", "at": MONDAY + n * MINUTE} for n in range(3)])
    store.close()
    assert run_python(WITHOUT, str(path)).splitlines() == ["car_sched_nb.plots.still 1 True"] * 5


def test_the_namespace_of_charts_imports_nothing_heavy():
    code = "import car_sched_nb as car, sys; car.plot; print(sorted({'plotly', 'pandas', 'numpy'} & set(sys.modules)))"
    assert run_python(code) == "[]\n"


def test_a_figure_is_plotlys_and_can_be_changed(path: Path):
    import plotly.graph_objects as go

    store = SqliteStore(path)
    store.migrate()
    written(store, [{"task": "a", "at": MONDAY + n * MINUTE, "took": SECOND} for n in range(3)])
    store.close()
    made = car.plot.timeline("a", store=str(path))
    assert isinstance(made, go.Figure)
    made.update_layout(title_text="Loads", template="plotly_dark")
    assert json.loads(made.to_json())["layout"]["title"]["text"] == "Loads"
    assert "plot" in car.__all__ and "plot" in dir(car)
