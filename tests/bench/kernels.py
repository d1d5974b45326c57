"""Figures of a real kernel, ours or what people do there today, in the working folder that a measurement has."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import car_sched_nb as car
from tests.bench.figures import Figures, UnfinishedError, spread_ms
from tests.isolation import isolated_environment
from tests.kernel.kernel import Kernel

FOLLOW = {
    "car_sched_nb": """
%%car_task seen --watch data.csv
import time
with open("seen.log", "a") as log:
    log.write(f"{time.time_ns()}\\n")
""",
    "watchfiles": """
import threading, time, watchfiles
def follow():
    for changes in watchfiles.watch("."):
        if any(path.endswith("data.csv") for _, path in changes):
            with open("seen.log", "a") as log:
                log.write(f"{time.time_ns()}\\n")
threading.Thread(target=follow, daemon=True).start()
time.sleep(1)
""",
}
SAVE = """
import asyncio, time
saved = []
for number in range({times}):
    await asyncio.sleep(0.5)
    with open("data.csv", "w") as file:
        file.write(str(number))
    saved.append(time.time_ns())
await asyncio.sleep(1)
print(*saved)
"""
TICK = """
import asyncio, time
late = []
async def tick():
    start = time.monotonic()
    for number in range(600):
        await asyncio.sleep(max(0, start + number - time.monotonic()))
        late.append(time.monotonic() - start - number)
ticking = asyncio.create_task(tick())
"""


@contextmanager
def kernel_here() -> Iterator[Kernel]:
    place = Path.cwd()
    (place / "work").mkdir(exist_ok=True)
    kernel = Kernel(place / "work", isolated_environment(place))
    try:
        yield kernel
    finally:
        kernel.stop()


def load(extension: str, times: int) -> Figures:
    """Time `%load_ext` in a fresh kernel."""
    took_ms = []
    for _ in range(times):
        with kernel_here() as kernel:
            cell = (
                f"import time; t = time.perf_counter()\n%load_ext {extension}\nprint((time.perf_counter() - t) * 1000)"
            )
            took_ms.append(float(kernel.run(cell).text))
    return {"ms": statistics.median(took_ms)}


def file_to_start(who: str, times: int) -> Figures:
    """Return the time from each save of a file to the first line that follows it, by the body's own clock."""
    with kernel_here() as kernel:
        kernel.run("%load_ext car_sched_nb\nopen('data.csv', 'w').close()")
        kernel.run(FOLLOW[who].strip())
        saved = [int(text) for text in kernel.run(SAVE.format(times=times), timeout_s=30 + times).text.split()]
    seen = [int(line) for line in Path("work/seen.log").read_text().split()]
    took_s = [(min(t for t in seen if t > at) - at) / 1e9 for at in saved if any(t > at for t in seen)]
    if len(took_s) != times:
        raise UnfinishedError(len(took_s), times)
    return spread_ms(took_s)


def blocked(who: str, seconds: float) -> Figures:
    """Return how late something that is due every second begins while a cell sleeps."""
    with kernel_here() as kernel:
        kernel.run("%load_ext car_sched_nb\n%car namespace bench")
        kernel.run("%%car_task tick --runner shell --every 1s\ntrue" if who == "car_sched_nb" else TICK)
        kernel.run(f"import time; time.sleep({seconds})", timeout_s=seconds + 30)
        ticked = kernel.run("import asyncio; await asyncio.sleep(0.1); print(*globals().get('late', []))").text
    if who == "car_sched_nb":
        history = car.history(store="car.db")
        late_s = list(history["lateness"].dropna().dt.total_seconds())
    else:
        late_s = [float(text) for text in ticked.split()]
    if len(late_s) < seconds:
        raise UnfinishedError(len(late_s), int(seconds))
    return {**spread_ms(late_s), "max_ms": max(late_s) * 1000}
