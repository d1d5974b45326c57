"""The notebooks that teach run from top to bottom in a real kernel, and leave what they tell of."""

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
