"""Writes docs/runners.md: its prose, and the matrix of what is tested, read from the tests' names.

`python -m tests.matrix.table` writes it; `--times FILE` takes new figures of cancel from the bench along.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "runners.md"
ROWS = {
    "loop": "Python, `loop`",
    "thread": "Python, `thread`",
    "process": "Python, `process`",
    "shell": "`shell`",
    "argv": "`shell --argv`",
    "agent": "`agent`",
    "local": "`agent --model local`",
    "notebook": "`notebook`",
    "own": "a runner of your own",
}
COLUMNS = (
    "completes fails_with_a_traceback times_out is_cancelled output_is_captured system_exit killed_child "
    "unpicklable_answer prints_100_mb broken_utf8".split()
)
NO_CHILD = "it has no process of its own that could be killed"
NO_EXIT = "it has no Python of yours that could exit; an exit code or an error is in *fails with a traceback*"
TEXT = "its answer is text, or JSON"
JSON = "what a model says comes as JSON, which is UTF-8"
BOUNDED = "a model's answer is bounded by its tokens"
IMPOSSIBLE = {
    **dict.fromkeys([(row, "killed_child") for row in ("loop", "thread", "agent", "local", "own")], NO_CHILD),
    **dict.fromkeys([(row, "system_exit") for row in ("shell", "argv", "local")], NO_EXIT),
    **dict.fromkeys([(row, "unpicklable_answer") for row in ("shell", "argv", "agent", "local", "notebook")], TEXT),
    **dict.fromkeys([(row, "prints_100_mb") for row in ("agent", "local")], BOUNDED),
    **dict.fromkeys([(row, "broken_utf8") for row in ("agent", "local")], JSON),
}
"""Why a claim cannot be made there; where a test makes it all the same, the test counts."""
MARKS = ("<!-- cancel times -->", "<!-- end of cancel times -->")
NOT_MEASURED = "Not measured yet."


def parsed(name: str) -> tuple[str, str] | None:
    """Return (row, column) of a test's name, or None when it does not parse; what follows `__` is free."""
    claim = name.removeprefix("test_").partition("__")[0]
    row, _, column = claim.partition("_")
    return (row, column) if row in ROWS and column in COLUMNS else None


def names() -> dict[str, list[str]]:
    """Return the names of the tests of each file."""
    found = {}
    for file in sorted(HERE.glob("test_*.py")):
        if file.stem != "test_table":
            tree = ast.parse(file.read_text())
            functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            found[file.stem] = [name for name in functions if name.startswith("test_")]
    return found


def counted() -> Counter[tuple[str, str]]:
    """Return how many tests each cell has."""
    return Counter(cell for listed in names().values() for name in listed if (cell := parsed(name)))


def empty() -> list[tuple[str, str]]:
    """Return the cells that should have a test and have none."""
    tests = counted()
    cells = [(row, column) for row in ROWS for column in COLUMNS]
    return [cell for cell in cells if not tests[cell] and cell not in IMPOSSIBLE]


def matrix() -> str:
    """Return the table and its footnotes."""
    tests = counted()
    notes: dict[str, int] = {}
    lines = ["| | " + " | ".join(column.replace("_", " ") for column in COLUMNS) + " |", "|---" * 11 + "|"]
    for row, title in ROWS.items():
        cells = []
        for column in COLUMNS:
            if count := tests[row, column]:
                cells.append(f"✓ {count}")
            elif reason := IMPOSSIBLE.get((row, column)):
                cells.append(f"- [{notes.setdefault(reason, len(notes) + 1)}]")
            else:
                cells.append("**no test**")
        file = f"tests/matrix/test_{row}.py"
        linked = f"[{title}](../{file})" if (HERE.parents[1] / file).exists() else title
        lines.append(f"| {linked} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in notes.items())])


def times(measured: dict[str, Any]) -> str:
    """Return the table of cancel's times."""
    lines = [
        f"{measured['machine']}; each {measured['times']} times; milliseconds, median / worst.",
        "",
        "| what runs | kernel | until its row | until it has stopped |",
        "|---|---|---|---|",
    ]
    for row in measured["rows"]:
        figures = [
            f"{row[f'{what}_p50_ms']:.1f} / {row[f'{what}_max_ms']:.1f}" if f"{what}_p50_ms" in row else row["said"]
            for what in ("row", "stop")
        ]
        lines.append(f"| {row['what']} | {row['kernel']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def kept_times() -> str:
    """Return the figures that the page has now."""
    text = PAGE.read_text() if PAGE.exists() else ""
    _, begun, rest = text.partition(MARKS[0])
    return rest.partition(MARKS[1])[0].strip() if begun else NOT_MEASURED


def page(figures: str | None = None) -> str:
    """Return what docs/runners.md is to be."""
    between = f"{MARKS[0]}\n{figures or kept_times()}\n{MARKS[1]}"
    return (HERE / "prose.md").read_text().replace("{matrix}", matrix()).replace("{times}", between)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix.table", description=__doc__)
    parser.add_argument("--times", type=Path, metavar="FILE", help="what `python -m tests.bench.cancel` wrote")
    asked = parser.parse_args()
    PAGE.write_text(page(times(json.loads(asked.times.read_text())) if asked.times else None))
    for row, column in empty():
        print(f"no test: {row} {column}")


if __name__ == "__main__":
    main()
