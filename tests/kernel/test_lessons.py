"""The notebooks that teach run from top to bottom in a real kernel, and leave what they tell of."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

import car_sched_nb as car
from notebooks import demo
from tests.small_model import use_small_model

HERE = Path(demo.__file__).parent
ENDS = {
    "01_executors": {
        **dict.fromkeys("walk slowly left right primes simulate".split(), "completed"),
        **dict.fromkeys("broken crash greedy".split(), "failed"),
        **dict.fromkeys("hour_loop hour_thread hour_process".split(), "cancelled"),
    },
    "02_agents": {**dict.fromkeys("ask morning parse editor analyst".split(), "completed"), "short": "failed"},
    "03_notebooks_and_shell": {
        **dict.fromkeys("lines clerk shopper".split(), "completed"),
        **dict.fromkeys("report broken ratio".split(), "failed"),
    },
}
"""How the last execution of each task ends; the failures are what the text tells of."""


SAID = {
    "slots that were missed, by their reason": (
        "missed.groupby('reason').slots.sum().to_dict()",
        {"asleep": 11, "no_owner": 17},
    ),
    "hours of prices that the outage cost": ("int(outage.slots['prices', 'missed'])", 15),
    "hours by which load was late": ("outage.latest['load', 'completed'] // pd.Timedelta('1h')", 9),
    "load in the nights of the clocks": (
        "nights.berlin.dt.strftime('%m-%d %H:%M %Z').iloc[[1, 4]].to_list()",
        ["03-29 03:00 CEST", "10-25 02:30 CEST"],
    ),
    "hours of those days": ("per_day[per_day != 24].sort_index().to_list()", [23, 25]),
    "the task that got slower, how many times": ("[*slower.round().head(1).items()]", [["clean", 17.0]]),
    "tasks that got slower by half": ("int((slower > 1.5).sum())", 1),
    "minutes of its last month": ("clean[clean.month == '2026-10'].minutes.median().round(1)", 3.5),
    "its version then": ("clean[clean.month == '2026-10'].version.unique().tolist()", [1]),
    "late runs at 03:00 in summer": ("int(late_hours.loc[3, '2026-06':'2026-09'].sum())", 96),
    "nights that report was broken": ("len(broken.groupby(broken['at'].dt.date))", 4),
    "hours of prices lost to failures": ("int(tries.ended['prices'].ne('completed').sum())", 0),
    "slots that were skipped": (
        "skipped.slots.groupby('reason').sum().to_dict()",
        {"overlap": 19, "paused": 7, "upstream": 6},
    ),
    "dollars of the year, and before April": (
        "[round(cost.sum().sum()), round(cost.sum()['example-large'])]",
        [62, 54],
    ),
    "answers of the models that did not fit": ("by_model.failed.to_list()", [0, 8]),
    "the day and month of the most mails": ("[mails.max(axis=1).idxmax(), mails.max().idxmax()]", ["2025-12", 0]),
}
"""What the text of 04_history says, and how its own variables say it."""


@pytest.mark.slow
def test_the_year_is_what_the_text_says_of_it(tmp_path: Path):
    for name in ("04_history.ipynb", "year.py"):
        shutil.copy(HERE / name, tmp_path)
    path = tmp_path / "04_history.ipynb"
    lesson = nbformat.read(path, as_version=4)
    asked = ", ".join(f"{what!r}: {expression}" for what, (expression, _) in SAID.items())
    lesson.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({{{asked}}}, default=float))"))
    assert demo.run(lesson, path, tmp_path / "car.db") == ""
    assert "stderr" not in {output.get("name") for cell in lesson.cells for output in cell.get("outputs", ())}
    assert json.loads(lesson.cells[-1].outputs[0].text) == {what: said for what, (_, said) in SAID.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_a_lesson_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use_small_model(monkeypatch)
    for file in HERE.iterdir():
        if file.suffix in (".ipynb", ".csv"):
            shutil.copy(file, tmp_path)
    path, store = tmp_path / f"{name}.ipynb", tmp_path / "car.db"
    lesson = nbformat.read(path, as_version=4)
    assert demo.run(lesson, path, store) == ""
    history = car.history(store=str(store))
    ended = history[history.attempt > 0].groupby("task").status.last().to_dict()
    assert ended == ENDS[name]
