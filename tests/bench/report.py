"""The table: Markdown, between two marks of a page."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.plan import CONTESTANTS, Row
from tests.bench.rounds import Cell, Found

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
HOW = """\
Medians of {rounds}, everybody once a round, each measurement in a process of its own. A peer has its defaults,
and what its documentation or SQLite's advises where that is quicker; "-" says why there is no figure. The floor is
the least code that does the thing: it promises nothing."""


def page(
    found: Mapping[Cell, Found], rows: Iterable[Row], contestants: list[str], versions: Mapping[str, str], rounds: int
) -> str:
    """Return the table and what has to be known to read it."""
    used = "; ".join(f"{CONTESTANTS[name]} {versions[name]}" for name in contestants)
    machine = f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}: {machine}. {used}.",
            "",
            HOW.format(rounds=f"{rounds} rounds" if rounds > 1 else "a single round"),
            "",
            *table(found, rows, contestants),
        ]
    )


def table(found: Mapping[Cell, Found], rows: Iterable[Row], contestants: list[str]) -> list[str]:
    lines = [_line("what", "goal", *(CONTESTANTS[name] for name in contestants)), "|---" * (len(contestants) + 2) + "|"]
    for row in rows:
        cells = [cell(found, row, name) for name in contestants]
        lines.append(_line(row.what, row.goal or "-", *cells))
    return lines


def _line(*cells: str) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def cell(found: Mapping[Cell, Found], row: Row, contestant: str) -> str:
    """Return a contestant's lines, one a configuration; ours ends with how it compares."""
    calls = row.cells[contestant]
    if isinstance(calls, str):
        return calls
    lines = [one(found.get(Cell(row.key, contestant, label)), row, label) for label in calls]
    return "<br>".join([*lines, *([compared(found, row)] if contestant == "ours" else [])]).removesuffix("<br>")


def one(found: Found | None, row: Row, label: str) -> str:
    """Return the figures of one configuration; a failure is told, never left out."""
    if found is None:
        return "not measured"
    after = f" ({label})" if label else ""
    if not found.figures:
        return f"**failed**: {found.failures[-1]}{after}"
    rounds = len(found.figures) + len(found.failures)
    failed = f" **{len(found.failures)} of {rounds} failed: {found.failures[-1]}**" if found.failures else ""
    return row.show(found.median) + after + failed


def compared(found: Mapping[Cell, Found], row: Row) -> str:
    """Return how our best configuration compares with the best of the peers, or nothing."""
    ours, peers = _best(found, row, {"ours"}), _best(found, row, set(CONTESTANTS) - {"ours", "floor"})
    if not row.compared or ours is None or peers is None or not ours > 0 or not peers > 0:
        return ""
    if row.more_is_better:
        return f"{ours / peers:.1f}x the best peer"
    return f"{ours / peers:.2f}x the best peer's"


def _best(found: Mapping[Cell, Found], row: Row, contestants: set[str]) -> float | None:
    values = [
        kept.median[row.main]
        for where, kept in found.items()
        if where.row == row.key and where.contestant in contestants and row.main in kept.median
    ]
    if not values:
        return None
    return max(values) if row.more_is_better else min(values)


def processor() -> str:
    """Return the processor's name as the system tells it."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip()
    return platform.processor() or platform.machine()


def write_between_marks(file: Path, text: str) -> None:
    """Replace what stands between the marks of a page.

    Raises
    ------
    ValueError
        When it has no such place.
    """
    page_now = file.read_text()
    before, begin, rest = page_now.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no {BEGIN} ... {END} to write between")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
