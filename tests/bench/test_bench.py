"""The bench measures what it says: work is done, failures are told, the table is one. No figure decides anything."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import car_sched_nb as car
from tests.bench import report
from tests.bench.figures import STORE, Lateness, UnfinishedError, rate, spread_ms
from tests.bench.lives import tally
from tests.bench.plan import CONTESTANTS, Call, Row, call
from tests.bench.rounds import ROOT, Cell, Found, Rounds
from tests.bench.rows import ROWS
from tests.bench.words import per_second

NOTHING = dict.fromkeys(CONTESTANTS, "-")


def row_of(**cells: dict[str, Call]) -> Row:
    return Row("a row", "what", "goal", per_second, "per_s", {**NOTHING, **cells}, more_is_better=True, compared=True)


def run(rows: list[Row], folder: Path, rounds: int = 1) -> tuple[Rounds, list[str]]:
    told: list[str] = []
    measured = Rounds(folder, quick=True, tell=told.append)
    measured.run(rows, CONTESTANTS, rounds)
    return measured, told


def test_a_quick_run_writes_a_well_formed_table_with_figures_of_ours_and_the_floor(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    asked = ["--quick", "--rounds", "1", "--only", "durable", "--contestants", "ours", "floor"]
    kept = ["--into", str(page), "--log", str(tmp_path / "log")]
    subprocess.run([sys.executable, "-m", "tests.bench", *asked, *kept], cwd=ROOT, check=True, capture_output=True)

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    heads, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert heads == "| what | goal | car_sched_nb | floor |"
    assert {line.count("|") for line in (heads, rule, *rows)} == {5}
    (row,) = rows
    for cell in row.split("|")[3:5]:
        assert all(re.match(r"[1-9][\d,]* \(", line) for line in cell.strip().split("<br>")), cell
    assert len((tmp_path / "log").read_text().splitlines()) == 5  # one a measurement


def test_a_figure_of_ours_stands_for_rows_that_completed(tmp_path: Path):
    given = json.dumps({"store": "file", "n": 150})
    command = [sys.executable, "-m", "tests.bench.child", "contestants.ours", "due_slots", given]
    env = {"PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True).stdout)
    assert found["done"] == 150 and found["per_s"] > 0
    assert dict(car.history(store=str(tmp_path / STORE))["status"].value_counts())["completed"] == 150


def test_earlier_rows_are_there_before_the_executions_are_timed(tmp_path: Path):
    filled = call("fill_history", kind="by_hand", n=120, rows=1_000)
    timed = call("by_hand", filled, call("by_hand", store="file", n=120), store="file", n=120)
    measured, told = run([row_of(ours={"": timed})], tmp_path)
    (found,) = measured.found.values()
    assert found.failures == [], told
    assert found.median["done"] == 120 and found.median["ratio"] > 0
    (store,) = tmp_path.glob(f"*/{STORE}")  # what was filled is kept for the next round, as it was
    history = car.history(store=str(store))
    assert len(history) == 1_001 and history["task"].nunique() == 100


def test_a_failed_measurement_is_told_in_its_cell_and_the_others_go_on(tmp_path: Path):
    rows = [
        row_of(
            ours={"": call("nothing_of_this_name")},
            floor={"": call("in_memory", n=10)},
            huey={"": Call("filled", filled=call("nothing_either"))},
        )
    ]
    measured, told = run(rows, tmp_path)
    assert len(told) == 3
    line = report.table(measured.found, rows, ["ours", "floor", "huey", "dbos"])[-1]
    _, _, _, ours, floor, huey, dbos, _ = line.split("|")
    assert "**failed**" in ours and "nothing_of_this_name" in ours
    assert "**failed**" in huey
    assert floor.strip().replace(",", "").isdigit()
    assert dbos.strip() == "-"


def test_a_cell_is_the_median_of_its_rounds_and_says_how_many_failed():
    row = row_of(ours={"": call("x")}, huey={"one": call("x"), "two": call("x")})
    found = {
        Cell(row.key, "ours", ""): Found([{"per_s": 900}, {"per_s": 3000}, {"per_s": 1000}]),
        Cell(row.key, "huey", "one"): Found([{"per_s": 100}], ["TimeoutError"]),
    }
    assert report.cell(found, row, "ours") == "1,000<br>10.0x the best peer"
    assert report.cell(found, row, "huey") == "100 (one) **1 of 2 failed: TimeoutError**<br>not measured"


def test_half_of_the_work_makes_no_figure():
    with pytest.raises(UnfinishedError, match="5 of 10 were done"):
        rate(5, 10, 1.0)


def test_lateness_counts_the_slots_of_its_stretch_and_those_that_never_came():
    lateness = Lateness()
    begin = lateness.watch(seconds=2)
    for planned in (begin - 1, begin, begin + 1, begin + 2):
        lateness.note(planned, began=planned + 0.25)
    found = lateness.figures(expected=3)
    assert (found["count"], found["missed"], round(found["p99_ms"])) == (2, 1, 250)


def test_a_slot_that_began_twice_and_one_that_never_did_are_counted_by_the_bodies_own_word():
    started = [5.0, 5.1, 5.1, 5.2, 5.5]
    assert tally(started, 0.1, told={3}) == {"slots": 6, "twice": 1, "never": 2, "unexplained": 1}


def test_the_99th_percentile_of_a_hundred_is_the_last_but_one():
    assert spread_ms(number / 1000 for number in range(1, 101))["p99_ms"] == pytest.approx(99)


def test_every_row_has_a_cell_for_everybody_and_every_call_fits_a_function():
    assert [row.key for row in ROWS if set(row.cells) != set(CONTESTANTS)] == []
    for row in ROWS:
        for contestant, calls in row.cells.items():
            for each in calls.values() if not isinstance(calls, str) else ():
                for part in filter(None, (each, each.filled, each.against)):
                    module = part.module.replace(".", "/") or f"contestants/{contestant}"
                    assert fits(part, module), (row.key, contestant, part)


def fits(part: Call, module: str) -> bool:
    """Tell whether a module has the function with these parameters; a peer's cannot be imported here."""
    tree = ast.parse((ROOT / "tests" / "bench" / f"{module}.py").read_text())
    for found in tree.body:
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) and found.name == part.function:
            names = [argument.arg for argument in found.args.args]
            needed = names[: len(names) - len(found.args.defaults)]
            return set(needed) <= set(part.given) and (found.args.kwarg is not None or set(part.given) <= set(names))
    return False


def test_writing_into_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="to write between"):
        report.write_between_marks(page, "text")
    assert page.read_text() == "nothing here"


def test_the_readme_has_a_place_for_the_table():
    assert (ROOT / "README.md").read_text().count(report.BEGIN) == 1
