"""How figures read in the table."""

from __future__ import annotations

from tests.bench.figures import Figures


def per_second(found: Figures) -> str:
    return f"{found['per_s']:,.0f}"


def times_as_long(found: Figures) -> str:
    return f"{found['ratio']:.2f}x"


def idle_cost(found: Figures) -> str:
    return f"{found['bytes_each']:,.0f} B, {found['cpu_percent']:.1f} %"


def lateness(found: Figures) -> str:
    missed = f", {found['missed']:,.0f} of {found['expected']:,.0f} missed" if found.get("missed") else ""
    return f"{found['p50_ms']:,.0f} / {found['p99_ms']:,.0f} ms{missed}"


def beside_cell(found: Figures) -> str:
    return f"{lateness(found)}; {round(found['slower_percent'])} % slower"


def in_seconds(found: Figures) -> str:
    return f"{found['s']:.2f} s"


def milliseconds(found: Figures) -> str:
    return f"{found['ms']:,.0f} ms"


def middle_and_worst(found: Figures) -> str:
    return f"{found['p50_ms']:,.1f} / {found['max_ms']:,.1f} ms"


def killed(found: Figures) -> str:
    return f"{found['twice']:.0f} / {found['never']:.0f} / {found['unexplained']:.0f} of {found['slots']:.0f}"


def seconds_and_memory(found: Figures) -> str:
    took = f"{found['s']:.2f} s" if found["s"] >= 0.1 else f"{found['s'] * 1000:.0f} ms"
    return f"{took}, {found['mb']:,.0f} MB"


def beside_reading(found: Figures) -> str:
    read = f", read {found['reads']:,.0f} times" if "reads" in found else ""
    return f"{lateness(found)}{read}"
