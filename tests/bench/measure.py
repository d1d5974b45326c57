"""Figures of a real kernel, each beside what people do today in the same run: `python -m tests.bench.measure`.

They are printed, and decide nothing.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import car_sched_nb as car
from tests.isolation import isolated_environment
from tests.kernel.kernel import Kernel

LOADS = 7
SAVES = 30
BLOCK_S = 10

FILE_LOG = """
%%car_task seen --watch data.csv
import time
with open("ours.log", "a") as log:
    log.write(f"{time.time_ns()}\\n")
"""
FILE_PEER = """
import threading, time, watchfiles
def follow():
    for changes in watchfiles.watch("."):
        if any(path.endswith("data.csv") for _, path in changes):
            with open("peer.log", "a") as log:
                log.write(f"{time.time_ns()}\\n")
threading.Thread(target=follow, daemon=True).start()
time.sleep(1)
"""
SAVE = f"""
import asyncio, time
saved = []
for number in range({SAVES}):
    await asyncio.sleep(0.5)
    with open("data.csv", "w") as file:
        file.write(str(number))
    saved.append(time.time_ns())
await asyncio.sleep(1)
print(*saved)
"""
TICK_PEER = """
import asyncio, time
late = []
async def tick():
    start = time.monotonic()
    for number in range(60):
        await asyncio.sleep(max(0, start + number - time.monotonic()))
        late.append(time.monotonic() - start - number)
ticking = asyncio.create_task(tick())
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, bench in enumerate((load, file_to_start, blocked)):
            place = Path(folder) / str(number)
            (place / "work").mkdir(parents=True)
            bench(place)


def kernel_in(place: Path) -> Kernel:
    return Kernel(place / "work", isolated_environment(place))


def load(place: Path) -> None:
    ours, peer = [], []
    for _ in range(LOADS):
        kernel = kernel_in(place)
        timed = "import time; t = time.perf_counter()\n%load_ext {}\nprint((time.perf_counter() - t) * 1000)"
        peer.append(float(kernel.run(timed.format("autoreload")).text))
        ours.append(float(kernel.run(timed.format("car_sched_nb")).text))
        kernel.stop()
    report("%load_ext in a fresh kernel, ms", ours, "autoreload", peer)


def file_to_start(place: Path) -> None:
    kernel = kernel_in(place)
    kernel.run("%load_ext car_sched_nb\nopen('data.csv', 'w').close()")
    kernel.run(FILE_LOG.strip())
    kernel.run(FILE_PEER)
    saved = [int(text) for text in kernel.run(SAVE, timeout_s=120).text.split()]
    kernel.stop()
    report(
        "file saved -> body started, ms",
        after(saved, place / "work" / "ours.log"),
        "watchfiles with its defaults",
        after(saved, place / "work" / "peer.log"),
    )


def after(saved: list[int], log: Path) -> list[float]:
    """Return the milliseconds from each save to the first line after it."""
    seen = [int(line) for line in log.read_text().split()]
    return [(min(t for t in seen if t > at) - at) / 1e6 for at in saved if any(t > at for t in seen)]


def blocked(place: Path) -> None:
    kernel = kernel_in(place)
    kernel.run("%load_ext car_sched_nb\n%car namespace bench")
    kernel.run(TICK_PEER)
    kernel.run("%%car_task tick --runner shell --every 1s\ntrue")
    kernel.run(f"import time; time.sleep({BLOCK_S})", timeout_s=60)
    peer = [float(text) * 1000 for text in kernel.run("await asyncio.sleep(0.1); print(*late)").text.split()]
    kernel.stop()
    history = car.history(store=str(place / "car.db"))
    ours = [late / 1e3 for late in history["lateness"].dropna().dt.total_seconds() * 1e6]
    became = ", ".join(f"{count} {status}" for status, count in history["status"].value_counts().items() if count)
    print(f"shell task every 1 s beside time.sleep({BLOCK_S}): {became}")
    report("  lateness, ms", ours, "an asyncio task on the kernel's loop", peer)


def report(what: str, ours: Iterable[float], peer_name: str, peer: Iterable[float]) -> None:
    print(f"{what}: {spread(ours)}; {peer_name}: {spread(peer)}", flush=True)


def spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    worst = ordered[-1]
    return f"median {statistics.median(ordered):.1f}, max {worst:.1f} of {len(ordered)}"


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"python {sys.version.split()[0]}, {time.monotonic() - began:.0f} s")
