"""History, slots and summary beside a model: what a runner noted, and plans by plain arithmetic."""

from __future__ import annotations

import fnmatch
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import anyio
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from car_sched_nb import frames
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.errors import UnknownTask
from car_sched_nb.frames import plans, recent
from car_sched_nb.frames import scan as scanning
from car_sched_nb.model import Task, Trigger, to_us
from car_sched_nb.runners.base import AgentOutput, AgentSpec, Mailbox, Runtime
from car_sched_nb.store.sqlite import Readable, SqliteStore
from tests.scale import by_scale
from tests.unit.world import (
    HOUR,
    MINUTE,
    Recorder,
    agent,
    clock_at,
    cron,
    every,
    follower,
    jump,
    once,
    pass_time,
    rest,
    running,
)
from tests.unit.world import now as now_of

summing = sys.modules["car_sched_nb.frames.summary"]  # the package has a function of that name
BERLIN = ZoneInfo("Europe/Berlin")
BEGINS = (datetime(2026, 10, 24, 20, 7, tzinfo=UTC), datetime(2026, 3, 28, 20, 7, tzinfo=UTC))  # before clocks change
AT_NIGHT, AT_NOON, QUARTER_PAST = "30 2 * * *", "0 12 * * *", "15 * * * *"
ENDED_BADLY = {"failed", "timed_out", "interrupted"}

# What happens


class World(NamedTuple):
    """Tasks and what is done to them, in order."""

    begin: datetime
    tasks: list[Task]
    actions: list[tuple[str, int]]
    chance: int


class Witness(Recorder):
    """Notes of each attempt that began how it ended; which ones fail is told by their names alone."""

    def __init__(self, chance: int) -> None:
        super().__init__()
        self.chance = chance
        self.ran: dict[str, str] = {}
        self.twice: list[str] = []
        self.calm: list[tuple[str, datetime, datetime]] = []
        """Tasks and times in which nothing kept their slots from running."""

    @property
    def free(self) -> bool:
        """Whether nothing that begins is held."""
        return self._go.is_set()

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        one = runtime.occurrence
        if one.execution_id in self.ran:
            self.twice.append(one.execution_id)
        self.ran[one.execution_id] = "running"
        try:
            output = await super().run(spec, prompt, runtime, mailbox)
        except BaseException:
            self.ran[one.execution_id] = "stopped"
            raise
        if random.Random(f"{self.chance} {one.task} {one.slot} {one.attempt}").random() < 0.3:
            self.ran[one.execution_id] = "failed"
            raise RuntimeError(f"it failed, as told\nin attempt {one.attempt}")
        self.ran[one.execution_id] = "completed"
        return output


HOURS = st.integers(1, 9)
POLICIES: dict[str, Any] = {
    "retries": st.integers(0, 2),
    "catchup": st.sampled_from(["latest", "none", "all"]),
    "overlap": st.sampled_from(["skip", "queue", "allow"]),
}
ACTIONS = ["pass", "pass", "sleep", "leave", "pause", "resume", "run", "hold", "let go", "cancel", "delete"]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    policies = draw(st.fixed_dictionaries(POLICIES))
    policies = {**policies, "retry_delay": "1s"} if policies["retries"] else policies
    tasks = [
        every(f"{draw(st.sampled_from([2, 3, 5]))}h", "each", first=draw(st.sampled_from(["now", "next"])), **policies)
    ]
    others = [
        cron(
            draw(st.sampled_from([AT_NIGHT, AT_NOON, QUARTER_PAST])),
            "Europe/Berlin",
            "clock",
            catchup=policies["catchup"],
        ),
        once(f"delay {draw(HOURS)}h", "once"),
        follower("each", "after", when=draw(st.sampled_from(["completed", "ended"]))),
        agent("hand"),
    ]
    tasks += draw(st.lists(st.sampled_from(others), unique_by=lambda one: one.name, max_size=3))
    actions = draw(st.lists(st.tuples(st.sampled_from(ACTIONS), HOURS), min_size=2, max_size=7))
    return World(draw(st.sampled_from(BEGINS)), tasks, actions, draw(st.integers(0, 1 << 16)))


# What was planned


def planned(task: Task, begin: datetime, end: datetime) -> list[tuple[str, datetime]]:
    """Return (slot, instant) of each slot from the definition to an instant, without the engine's arithmetic."""
    if task.trigger is Trigger.INTERVAL:
        step = int(task.schedule.removesuffix("h")) * HOUR
        first = 0 if task.first == "now" else 1
        return [(str(k), begin + k * step) for k in range(first, 1 + (end - begin) // step) if begin + k * step < end]
    if task.trigger is Trigger.ONCE:
        at = begin + int(task.schedule.removeprefix("delay ").removesuffix("h")) * HOUR
        return [("0", at)] if at < end else []
    if task.trigger is Trigger.CRON:
        return [(f"{at:%Y%m%dT%H%M%SZ}", at) for at in on_the_wall(task.schedule, begin, end)]
    return []


def on_the_wall(schedule: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the minutes, one by one, at which a clock on the wall of Berlin is or first passes what is wanted."""
    minute, hour = (field if field == "*" else int(field) for field in schedule.split()[:2])
    at, done = begin.replace(second=0) + MINUTE, None
    before = begin.astimezone(BERLIN).replace(tzinfo=None)
    while at < end:
        wall = at.astimezone(BERLIN).replace(tzinfo=None)
        if hour == "*":
            if wall.minute == minute:
                yield at
        else:
            assert isinstance(hour, int) and isinstance(minute, int)
            wanted = wall.replace(hour=hour, minute=minute)
            if before < wanted <= wall and done != wanted:
                done = wanted
                yield at
        before, at = wall, at + MINUTE


# What is told of it


async def live(world: World, prove: Callable[[Scheduler, Witness, World, set[str]], None]) -> None:
    """Let a world happen, and have it proved before its last scheduler is left."""
    clock, witness, store = clock_at(world.begin), Witness(world.chance), SqliteStore()
    store.migrate()
    actions, absent, deleted = [*world.actions, ("pass", 1)], 0, set[str]()
    try:
        while actions:
            clock.set(clock.now_us() + absent * 3_600_000_000)
            async with running(store, witness, clock=clock) as s:
                if not s.tasks():
                    for task in world.tasks:
                        await s.add(task)
                else:
                    await s.arm_all()
                await rest(s)
                absent = 0
                while actions and not absent:
                    kind, number = actions.pop(0)
                    absent = number if kind == "leave" and actions else 0
                    await act(s, witness, kind, number, deleted)
                if not absent:
                    prove(s, witness, world, deleted)
    finally:
        store.close()


async def act(s: Scheduler, witness: Witness, kind: str, number: int, deleted: set[str]) -> None:
    names = [task.name for task in s.tasks()]
    name = names[number % len(names)]
    match kind:
        case "pass":
            began, free = now_of(s.clock), not s.live() and witness.free  # type: ignore[arg-type]
            await pass_time(number * HOUR, s)
            ended = now_of(s.clock)  # type: ignore[arg-type]
            witness.calm += [(task.name, began, ended) for task in s.tasks() if free and task.enabled]
        case "sleep":
            await jump(number * HOUR, s)
        case "hold":
            witness.hold()
        case "let go" | "leave":
            witness.let_go()
        case "run":
            await s.run_now(name)
        case "delete" if name not in ("each", "clock"):
            deleted.add(name)
            await s.delete(name)
        case "pause" | "resume" | "cancel":
            await getattr(s, kind)(name)
    await rest(s)


def agrees(s: Scheduler, witness: Witness, world: World, deleted: set[str]) -> None:
    now = now_of(s.clock)  # type: ignore[arg-type]
    history = frames.history(s.store, now_us=to_us(now))
    check_history(history, witness)
    for task in world.tasks:
        if task.name not in deleted:
            check_slots(s, task, history, witness, world.begin, now)
    summary = frames.summary(s.store, s.namespace, 0)
    check_summary(summary, history)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summing, "FEW", -1)  # as it is read when there are many rows
        pd.testing.assert_frame_equal(frames.summary(s.store, s.namespace, 0), summary)


def check_history(history: pd.DataFrame, witness: Witness) -> None:
    assert history.index.is_unique
    assert witness.twice == []
    began = history[history.started_at.notna()]
    assert sorted(began.index) == sorted(witness.ran)
    status = {str(id_): str(state) for id_, state in began.status.items()}
    assert all(fits(status[id_], ended) for id_, ended in witness.ran.items()), (status, witness.ran)
    assert {*history[history.started_at.isna()].status} <= {"waiting", "cancelled", "missed", "skipped"}
    gaps = history.status.isin(["missed", "skipped"])
    assert (history[~gaps].slots == 1).all() and (history[gaps].slots >= 1).all()
    assert history[gaps].reason.notna().all()


def fits(status: str, ended: str) -> bool:
    return status in {"cancelled", "interrupted"} if ended == "stopped" else status == ended


def check_slots(
    s: Scheduler, task: Task, history: pd.DataFrame, witness: Witness, begin: datetime, now: datetime
) -> None:
    stored, ahead = s.task(task.name), now + 26 * HOUR
    told = frames.slots(s.store, [stored], to_us(begin), to_us(ahead), to_us(now))
    expected = planned(task, begin, ahead if stored.enabled else now + timedelta(microseconds=1))
    rows = history[(history.task_id == stored.id) & (history.trigger != "manual")]
    if task.trigger in (Trigger.AFTER, Trigger.MANUAL):
        assert sorted(told.index) == sorted({str(slot) for slot in rows.slot})
        return
    assert list(zip(told.index, told.scheduled_at, strict=True)) == expected
    states = {str(slot): str(state) for slot, state in told.status.items()}
    tag = {Trigger.INTERVAL: "int", Trigger.CRON: "cron", Trigger.ONCE: "once"}[task.trigger]
    waiting = {*rows[rows.status == "waiting"].slot}
    dropped = {*rows[(rows.status == "cancelled") & rows.started_at.isna()].slot}
    for slot, at in expected:
        occurrence = f"{stored.id}:{tag}:{slot}"
        tried = [id_ for id_ in (occurrence, f"{occurrence}#2", f"{occurrence}#3") if id_ in witness.ran]
        if at > now:
            assert states[slot] == "to_come" and not tried
        elif slot in waiting:
            assert states[slot] == "waiting"
        elif slot in dropped:
            assert states[slot] == "cancelled"
        elif tried:
            assert fits(states[slot], witness.ran[tried[-1]])
            assert told.attempts[slot] == len(tried)
        else:
            # The queue has one place, and what is caught up comes one by one.
            behind = (task.overlap == "queue" or task.catchup == "all") and s.live(task.name)
            assert states[slot] in ("missed", "skipped") or (behind and states[slot] == "due")
            assert not any(name == task.name and began < at <= ended for name, began, ended in witness.calm)
    # A gap row may overlap an attempt only where a slot was caught up; each slot is counted once.
    alone = told[told.execution_id.notna()]
    for state in ("missed", "skipped"):
        assert (alone.status == state).sum() == rows[rows.status == state].slots.sum()


def check_summary(summary: pd.DataFrame, history: pd.DataFrame) -> None:
    for name, row in summary.iterrows():
        mine = history[history.task == name]
        bad = mine[mine.status.isin(ENDED_BADLY)]
        served = occurrences(mine[mine.status == "completed"])
        assert row.served == len(served)
        assert row.failed == len(occurrences(bad) - served)
        assert row.cancelled == (mine.status == "cancelled").sum()
        assert row.running == mine.status.isin(["waiting", "running"]).sum()
        assert (row.missed, row.skipped) == tuple(mine[mine.status == s].slots.sum() for s in ("missed", "skipped"))
        done = mine[mine.status == "completed"]
        assert (pd.isna(row.last_success) and done.empty) or row.last_success == done.finished_at.iloc[-1]
        assert (pd.isna(row["median"]) and done.empty) or row["median"] == done.duration.quantile(0.5, "lower")
        if row.failed:
            assert [row.first_error, row.last_error] == [bad.error.iloc[n].splitlines()[0] for n in (0, -1)]
            assert row.last_error_at == bad.finished_at.iloc[-1]
    assert summary.index.is_unique


def occurrences(rows: pd.DataFrame) -> set[str]:
    return {str(id_).partition("#")[0] for id_ in rows.index}


SLEPT = World(BEGINS[0], [every("2h", "each", catchup="none")], [("pass", 9), ("sleep", 9), ("pass", 9)], 1)


def without_the_newest(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:-1]


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (frames, "history", lambda real: lambda *args, **kw: without_the_newest(real(*args, **kw))),
        (plans, "series", lambda real: lambda task, first, slots, from_us: real(task, first, slots - 1, from_us)),
        (plans, "_planned", lambda real: lambda *args: list(real(*args))[1:]),
        (plans, "_OF_SLOTS", lambda real: real.replace("e.scheduled_at >= ?", "e.scheduled_at > ?")),
        (plans, "_OF_SLOTS", lambda real: real.replace("e.status, ", "'completed', ")),
        (summing, "_SUMS", lambda real: real.replace("'missed', e.slots", "'missed', 1")),
        (summing, "_SUCCESS", lambda real: real.replace(" DESC", "")),
        (summing, "_FAILURES", lambda real: real.replace("max(e.seq)", "min(e.seq)")),
    ],
)
def test_a_fault_in_what_is_told_is_caught(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, fault: Any):
    anyio.run(live, SLEPT, agrees)
    monkeypatch.setattr(where, name, fault(getattr(where, name)))
    with pytest.raises(AssertionError):
        anyio.run(live, SLEPT, agrees)


few = settings(
    max_examples=by_scale(15, 2000), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@few
@given(worlds())
def test_history_slots_and_summary_agree_with_what_ran_and_what_was_planned(world: World):
    anyio.run(live, world, agrees)


# Filters

HOSTILE = [
    *("it's", '"', "%", "_", "*", "a*", "[", "[a-z]", "\0", "a\0b", "\n", "a\r\nb", "🦊", "\ud800", "\udfff!", "", " "),
    *(
        "'; DROP TABLE executions; --",
        "NULL",
        "None",
        "nan",
        ",",
        "1,2",
        "\x1f",
        "{}",
        "é́",
        "\u202e",
        "?",
        ":a",
        "ﷺ" * 300,
    ),
    "x" * 1_000_000,
]
RUNNERS = ["100%_*", "'; DROP TABLE tasks; --", "🦊[", "agent"]
NAMES = ["load-eu", "load-us", "load_eu", "L", "-".join(["long"] * 40)]
SPACE = "it's 100% [mine]; --"


def as_kept(text: str) -> str | None:
    """Return what a database can hold of a text; an empty one is none."""
    kept = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return kept or None


class Echo:
    """Answers or fails with the text that it is told."""

    async def run(self, spec: AgentSpec, prompt: str, runtime: Runtime, mailbox: Mailbox) -> AgentOutput:
        if runtime.params.get("fail"):
            return AgentOutput(error=HOSTILE[runtime.params["text"]])
        return AgentOutput(
            answer=HOSTILE[runtime.params["text"]], turns=1, cost=0.25, model=HOSTILE[runtime.params["text"]]
        )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """A store of texts that break what is put together from text: answers, errors, models, runners, a namespace."""
    store = SqliteStore(tmp_path_factory.mktemp("hostile") / "car.db")
    store.migrate()
    anyio.run(_say, store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def whole(hostile: SqliteStore) -> pd.DataFrame:
    return frames.history(hostile, now_us=0)


async def _say(store: SqliteStore) -> None:
    clock, chance = clock_at(), random.Random(1)
    async with running(store, Echo(), clock=clock, namespace=SPACE, owner_name="o'hara\0 %") as s:  # type: ignore[arg-type]
        for name in RUNNERS[:-1]:
            s.register(name, Echo())
        for at, name in enumerate(NAMES):
            await s.add(Task(name, "say it", runner=RUNNERS[at % len(RUNNERS)], overlap="allow"))
        for at in range(2 * len(HOSTILE)):
            params = {
                "text": at % len(HOSTILE),
                "fail": at >= len(HOSTILE),
                "odd": "'; DROP TABLE\n%_*[",
                "nested": {"a": []},
            }
            await s.run_once(chance.choice(NAMES), params=params)
            clock.set(clock.now_us() + 60_000_000)
        await s.add(every("1h", "gaps"))
        await jump(9 * HOUR, s)
        await s.delete("L")
    async with running(store, clock=clock, namespace="other") as s:
        await s.run_once(agent("load-eu"))


def test_what_was_said_is_told_whatever_is_in_it(hostile: SqliteStore):
    history = frames.history(hostile, namespace=SPACE, now_us=0)
    said = history[history.turns.notna()]
    for column in ("answer", "model"):
        assert len(said) == len(HOSTILE)
        for told, text in zip(said[column], map(as_kept, HOSTILE), strict=True):
            if text is None or len(text) < 10_000:
                assert told == text or (text is None and pd.isna(told))
            else:
                assert told.startswith("xxx") and len(told) < len(text)
    failed = history[history.status == "failed"]
    asked_for = [one for one in history.params if one]
    assert [HOSTILE[one["text"]] for one in asked_for] == HOSTILE * 2
    assert {one["odd"] for one in asked_for} == {"'; DROP TABLE\n%_*["}
    assert failed.error.notna().all()
    assert {*history.namespace} == {SPACE}
    assert {*history.runner} == {*RUNNERS}
    assert history.owner.iloc[0] == "o'hara\0 %"


def among(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from([*NAMES, "load-*", "*", "l*[su]", "?"]) | st.lists(st.sampled_from(NAMES), max_size=3),
        "status": st.sampled_from(["failed", "completed", "missed", ["failed", "missed"], [], "waiting"]),
        "runner": st.sampled_from([*RUNNERS, "python", [], RUNNERS, [RUNNERS[1], RUNNERS[2]]]),
        "since": st.integers(-2, 700).map(lambda minutes: clock_at().now_us() + minutes * 60_000_000),
        "until": st.integers(-2, 700).map(lambda minutes: clock_at().now_us() + minutes * 60_000_000),
        "limit": st.integers(0, 70),
        "columns": st.lists(st.sampled_from(list(frames.COLUMNS)), max_size=5),
        "namespace": st.sampled_from([SPACE, "other"]),
    },
)


def same_in_pandas(whole: pd.DataFrame, asked: dict[str, Any]) -> pd.DataFrame:
    """Return the part of the whole history that is asked for, found without a database."""
    found = whole
    if "namespace" in asked:
        found = found[found.namespace == asked["namespace"]]
    if "task" in asked:
        found = found[[any(fnmatch.fnmatchcase(name, one) for one in among(asked["task"])) for name in found.task]]
    for name in ("status", "runner"):
        if name in asked:
            found = found[found[name].isin(among(asked[name]))]
    if "since" in asked:
        found = found[found.scheduled_at >= asked["since"]]
    if "until" in asked:
        found = found[found.scheduled_at < asked["until"]]
    if "limit" in asked:
        found = found.iloc[max(0, len(found) - asked["limit"]) :]
    if "columns" in asked:
        found = found[list(dict.fromkeys(name for name in asked["columns"] if name != "execution_id"))]
    return found


def check_filter(store: SqliteStore, whole: pd.DataFrame, asked: dict[str, Any]) -> None:
    asked = {**asked, **{n: pd.Timestamp(asked[n], unit="us", tz="UTC") for n in ("since", "until") if n in asked}}
    if "since" in asked and "until" in asked and asked["since"] > asked["until"]:
        asked["since"], asked["until"] = asked["until"], asked["since"]
    try:
        found = frames.history(store, now_us=0, **asked)
    except UnknownTask:
        of = {"namespace": asked["namespace"]} if "namespace" in asked else {}
        assert any(same_in_pandas(whole, {**of, "task": one}).empty for one in among(asked["task"]))
        return
    pd.testing.assert_frame_equal(found, same_in_pandas(whole, asked), check_exact=True, check_freq=False)


@pytest.mark.parametrize("much", [False, True], ids=["by an index", "in pieces"])
@settings(max_examples=by_scale(60, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=FILTERS)
def test_a_filter_finds_what_pandas_finds_in_the_whole(
    hostile: SqliteStore, whole: pd.DataFrame, much: bool, asked: dict[str, Any]
):
    with pytest.MonkeyPatch.context() as patch:
        if much:
            patch.setattr(scanning, "FEW", 0)
            patch.setattr(scanning, "CHUNK", 7)
        recent.forget()
        check_filter(hostile, whole, asked)
        check_filter(hostile, whole, asked)  # what was kept of it


@settings(max_examples=by_scale(60, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(FILTERS, min_size=2, max_size=5))
def test_what_was_kept_of_one_question_is_no_answer_to_another(
    hostile: SqliteStore, whole: pd.DataFrame, several: list[dict[str, Any]]
):
    recent.forget()
    for asked in several:
        check_filter(hostile, whole, asked)


def off_by_one(source: str) -> str:
    return source.replace("e.scheduled_at >= ?", "e.scheduled_at > ?").replace(
        "e.scheduled_at < ?", "e.scheduled_at <= ?"
    )


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        (off_by_one, {"since": clock_at().now_us() + 60_000_000}),
        (off_by_one, {"until": clock_at().now_us() + 60_000_000}),
        (lambda source: source.replace("LIMIT ?", "LIMIT ? - 1"), {"limit": 5}),
        (lambda source: source.replace("DESC LIMIT", "LIMIT"), {"limit": 5}),
        (lambda source: source.replace("e.runner = ?", "e.runner != ?"), {"runner": RUNNERS[1]}),
        (lambda source: source.replace("e.seq BETWEEN ? AND ?", "e.seq BETWEEN ? + 1 AND ?"), {}),
    ],
)
def test_a_filter_that_is_wrong_is_caught(
    hostile: SqliteStore,
    whole: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[str], str],
    asked: dict[str, Any],
):
    for name, value in (("FEW", 0), ("CHUNK", 7)):
        monkeypatch.setattr(scanning, name, value)
    recent.forget()
    check_filter(hostile, whole, asked)
    recent.forget()
    right, snapshot = hostile.rows, hostile.snapshot

    class Wrong(NamedTuple):
        view: Readable

        def rows(self, sql: str, *bound: Any) -> list[tuple[Any, ...]]:
            return self.view.rows(fault(sql), *bound)

    @contextmanager
    def wrong() -> Iterator[Readable]:
        with snapshot() as view:
            yield Wrong(view)

    monkeypatch.setattr(hostile, "rows", lambda sql, *bound: right(fault(sql), *bound))
    monkeypatch.setattr(hostile, "snapshot", wrong)
    with pytest.raises(AssertionError):
        check_filter(hostile, whole, asked)
    recent.forget()
