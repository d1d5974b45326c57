"""Processes of a contestant that end and begin again: how soon the first task runs, and what kill -9 does to slots.

It runs in the contestant's environment. A life is the contestant's function `live`; it prints a line when it is up,
and its bodies write their planned instants into a log (`figures.note_start`).
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.figures import LOG, Figures

LIFE_S = (0.6, 1.2)  # from being up to the kill: some slots
LAST_LIFE_S = 3.0


def restart(contestant: str, lives: int) -> Figures:
    """Return the seconds from the start of the interpreter to the first line that a stored task's body writes."""
    took = []
    for _ in range(lives):
        began = time.perf_counter()
        with life(contestant, "first"):
            took.append(time.perf_counter() - began)
    return {"s": statistics.median(took)}


def kills(contestant: str, times: int, every_s: float, life_s: Sequence[float] = LIFE_S, **given: Any) -> Figures:
    """Return how many slots were started twice or never, by the bodies' own word, through so many kill -9."""
    chance = random.Random(7)
    for number in range(times + 1):
        with life(contestant, "live", every_s=every_s, **given):
            time.sleep(LAST_LIFE_S if number == times else chance.uniform(*life_s))
    started = [float(line) for line in Path(LOG).read_text().split()]
    module = import_module(f"tests.bench.contestants.{contestant}")
    # Who keeps no rows of what did not run leaves each of them unexplained.
    told: set[int] = module.told_slots(min(started), every_s) if hasattr(module, "told_slots") else set()
    return {"kills": times, **tally(started, every_s, told)}


def tally(started: Collection[float], every_s: float, told: set[int]) -> Figures:
    """Count slots from the first that was started to the last, by the planned instants of what was started.

    `told` are those that history has a row for.
    """
    first = min(started)
    counted = Counter(round((planned - first) / every_s) for planned in started)
    never = set(range(max(counted))) - set(counted)
    return {
        "slots": max(counted) + 1,
        "twice": sum(count > 1 for count in counted.values()),
        "never": len(never),
        "unexplained": len(never - told),
    }


@contextmanager
def life(contestant: str, function: str, **given: Any) -> Iterator[None]:
    """Start a process, wait for its first line, and kill it at the end."""
    module = f"contestants.{contestant}"
    command = [sys.executable, "-m", "tests.bench.child", module, function, json.dumps(given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"{contestant} ended before it was up")
            yield
        finally:
            process.kill()
