"""What cron libraries make of the same days: `python -m tests.bench.cron_peers` prints the tables of docs/cron.md.

It needs croniter and APScheduler 3, which nothing else here does. Each is asked for the days that an expression, as it
stands, has in a time zone.
"""

import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from car_sched_nb.cron import Cron
from car_sched_nb.when import SECOND_US, parse_when

Fires = Callable[[str, ZoneInfo, datetime], Iterator[datetime]]

CLOCK_CHANGES = {
    ("Europe/London", "2026-03-29"): ["30 1 * * *", "0,30 1 * * *", "*/30 1 * * *", "30 30 1 * * *"],
    ("Europe/London", "2026-10-25"): ["30 1 * * *", "0,30 1 * * *", "*/30 1 * * *", "30 30 1 * * *"],
    ("Africa/Cairo", "2026-04-24"): ["0 0 * * *", "0,30 0 * * FRI", "*/30 0 * * *", "*/30 0 * * FRI"],
    ("Africa/Cairo", "2026-10-29"): ["30 23 * * *", "*/30 23 * * *"],
    ("Australia/Lord_Howe", "2026-10-04"): ["10 2 * * *", "*/10 2 * * *", "*/15 3 * * *", "0 0 3 * * *"],
    ("Australia/Lord_Howe", "2026-04-05"): ["45 1 * * *", "*/15 1 * * *"],
    ("Pacific/Apia", "2011-12-31"): ["0 9 * * *"],
}
DAYS = ["0 0 13 * FRI", "0 0 */5 * FRI", "0 0 * * 1-2", "0 0 * * MON#2", "0 0 * * 5L", "0 0 L * *", "0 0 LW * *"]
MONTH = datetime(2026, 11, 1, tzinfo=UTC)


def of_ours(expr: str, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    start_us = round(start.timestamp()) * SECOND_US
    for at_us in Cron(expr, zone.key).between(start_us, start_us + 100 * 86_400 * SECOND_US):
        yield datetime.fromtimestamp(at_us // SECOND_US, UTC)


def of_cronsim(expr: str, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    yield from CronSim(expr, start.astimezone(zone))


def of_croniter(expr: str, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    fires = importlib.import_module("croniter").croniter(expr, start.astimezone(zone), second_at_beginning=True)
    while True:
        yield fires.get_next(datetime)


def of_apscheduler(expr: str, zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    trigger = importlib.import_module("apscheduler.triggers.cron").CronTrigger
    if len(fields := expr.split()) == 5:
        cron = trigger.from_crontab(expr, timezone=zone)
    else:
        names = ("second", "minute", "hour", "day", "month", "day_of_week")
        cron = trigger(**dict(zip(names, fields, strict=True)), timezone=zone)
    at = None
    while (at := cron.get_next_fire_time(at, at or start.astimezone(zone))) is not None:
        yield at


def times(fires: Fires, expr: str, zone: str, day: str) -> str:
    """The times of a day as its wall shows them: "01:00 BST, 01:30 BST"."""
    low, high = (_midnight(day, zone, ahead) for ahead in (0, 1))
    shown = [at.astimezone(ZoneInfo(zone)) for at in _within(fires, expr, zone, low, high)]
    return ", ".join(f"{at:%H:%M:%S}".removesuffix(":00") + f" {at.tzname()}" for at in shown) or "nothing"


def dates(fires: Fires, expr: str) -> str:
    """The days of November 2026, in UTC: "6, 13"."""
    try:
        return ", ".join(str(at.day) for at in _within(fires, expr, "UTC", MONTH, MONTH + timedelta(days=30)))
    except ValueError:  # croniter's own error is one
        return "refused"


def _within(fires: Fires, expr: str, zone: str, low: datetime, high: datetime) -> list[datetime]:
    """The fires of a library from one instant up to another, its doubles among them; it starts two days before."""
    told = (at.astimezone(UTC) for at in fires(expr, ZoneInfo(zone), low - timedelta(days=2)))
    return [at for at in takewhile(lambda at: at < high, told) if at >= low]


def _midnight(day: str, zone: str, ahead: int) -> datetime:
    date = (datetime.fromisoformat(day) + timedelta(days=ahead)).date()
    return datetime.fromtimestamp(parse_when(date.isoformat(), now_us=0, zone=zone) // SECOND_US, UTC)


def row(expr: str, told: list[str]) -> str:
    """A line of a table: what fires here, and of the others what differs from it."""
    return f"| `{expr}` | " + " | ".join([told[0], *("same" if one == told[0] else one for one in told[1:])]) + " |"


def main() -> None:
    peers = [of_ours, of_cronsim, of_croniter, of_apscheduler]
    names = [f"{name} {version(name)}" for name in ("cronsim", "croniter", "APScheduler")]
    head = f"| expression | here | {' | '.join(names)} |\n|{'---|' * 5}"
    for (zone, day), exprs in CLOCK_CHANGES.items():
        print(f"\n{zone}, {day}\n\n{head}")
        for expr in exprs:
            print(row(expr, [times(fires, expr, zone, day) for fires in peers]))
    print(f"\n{MONTH:%B %Y}\n\n{head}")
    for expr in DAYS:
        print(row(expr, [dates(fires, expr) for fires in peers]))


if __name__ == "__main__":
    main()
