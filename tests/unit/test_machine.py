"""Whatever happens, in whatever order: each attempt begins at most once, and every slot ends in a row that can be seen.

A machine does to one or two kernels on one store what people, bodies, clocks and the system do to them, and asks the
model (`promises`) after each step. Everything is driven by hand (`by_hand`), so that what fails once fails again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from car_sched_nb.engine import core, ending
from car_sched_nb.model import Task, Trigger, from_us, to_us
from car_sched_nb.store import records, sqlite
from car_sched_nb.store.ops import Finish, Finished
from car_sched_nb.store.sqlite import SqliteStore
from tests.scale import by_scale
from tests.unit.by_hand import SECOND_US, Body, HandClock, HandLoop, Kernel, Restless, by_hand
from tests.unit.promises import CRONS, DAY_US, HOUR_US, LENGTHS, MINUTE_US, Broken, Known, Promises
from tests.unit.world import MONDAY, agent

STEPS = 50
"""The most steps of one example."""

NAMES = st.sampled_from("abc")
KERNELS = st.sampled_from((0, 0, 1))
MODES = ("held", "held", "held", "quick", "quick", "quick", "fails", "stubborn")
TRIGGERS = (
    *((Trigger.INTERVAL, length) for length in ("1s", "1m", "1m", "10m", "1h")),
    *((Trigger.CRON, expr) for expr in CRONS),
    (Trigger.ONCE, ""),
    (Trigger.ONCE, "delay 90s"),
    (Trigger.MANUAL, ""),
    *((Trigger.AFTER, when) for when in ("completed", "failed", "ended")),
)
POLICIES = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from(("skip", "queue", "replace", "allow")),
        "catchup": st.sampled_from(("latest", "latest", "none", "all")),
        "grace": st.sampled_from((0, 0, 3, 20)),
        "retries": st.sampled_from((0, 0, 1, 3)),
        "retry_delay": st.sampled_from(("", "0s", "20s")),
        "jitter": st.sampled_from(("", "", "30s")),
        "max_runs": st.sampled_from((0, 0, 0, 1, 3)),
        "until": st.sampled_from((0, 0, 0, 90 * SECOND_US, HOUR_US)),
        "max_failures": st.sampled_from((0, 0, 1, 2)),
        "on_crash": st.sampled_from(("leave", "retry")),
    }
)
ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("no"),
    KeyboardInterrupt,
    lambda: SystemExit(3),
    asyncio.CancelledError,
    GeneratorExit,
)
JUMPS = (SECOND_US, 7 * SECOND_US, HOUR_US, DAY_US, 366 * DAY_US)


def task_of(name: str, trigger: Trigger, schedule: str, policies: dict[str, Any], now_us: int, **fields: Any) -> Task:
    """Return a definition that can be stored."""
    period_us = LENGTHS.get(schedule) or (CRONS[schedule][1] if schedule in CRONS else HOUR_US)
    grace = policies["grace"] or (3 if policies["catchup"] == "all" else 0)  # all of a year would take its time
    until = policies["until"]
    fields = {
        **policies,
        "grace": f"{grace * period_us // SECOND_US}s" if grace else "",
        "retry_delay": policies["retry_delay"] if policies["retries"] else "",
        "jitter": "" if period_us == SECOND_US else policies["jitter"],
        "until": from_us(now_us + until).isoformat() if until else "",
        **fields,
    }
    if trigger is Trigger.AFTER:
        followed = "a" if name == "b" else "a\nb"
        return agent(name, trigger, after=followed, when=schedule, **fields)
    if trigger is Trigger.CRON:
        fields["tz"] = "UTC"
    return agent(name, trigger, schedule, **fields)


class Machine(RuleBasedStateMachine):
    """One or two kernels, three names for tasks, and everything that may happen to them."""

    stores: ClassVar[list[SqliteStore]]
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.hand = by_hand()
        self.graves = self.hand.__enter__()
        self.loop = HandLoop()
        asyncio.set_event_loop(None)
        for table in ("tasks", "executions", "outputs", "owners", "armed"):
            with self.stores[0].transaction() as db:
                db.execute(f"DELETE FROM {table}")
        self.promises = Promises(self.stores[0])
        self.promises.living = lambda: [body for kernel in self.kernels for body in kernel.living()]
        self.kernels = [
            Kernel(self.loop, store, HandClock(self.loop, to_us(MONDAY)), self.graves, self.begin)
            for store in self.stores
        ]
        self.number = 0
        self.begun = 0
        self.found: set[str] = set()
        """Owners that crashed and were found dead."""
        self.kernels[0].enter()

    def teardown(self) -> None:
        try:
            for kernel in self.kernels:
                if kernel.lives:
                    kernel.crash()
        finally:
            self.loop.close()
            self.hand.__exit__(None, None, None)

    def begin(self, body: Body) -> None:
        self.begun += 1
        if self.begun > 30 and body.mode in ("quick", "fails"):
            body.mode = "held"  # a step ends somewhere
        self.promises.begin(body)

    # Helpers

    def alive(self) -> list[Kernel]:
        return [kernel for kernel in self.kernels if kernel.lives]

    def kernel(self, number: int) -> Kernel | None:
        """Return a kernel that answers: the one asked for or the other."""
        for kernel in (self.kernels[number], self.kernels[1 - number]):
            if kernel.lives and not kernel.writer.slow:
                return kernel
        return None

    def bodies(self) -> list[Body]:
        return [body for kernel in self.alive() for body in kernel.living()]

    def move(self, by_us: int) -> None:
        """Let wall and monotonic time pass by so much for all, at once."""
        for kernel in self.kernels:
            kernel.clock.move(by_us)
        self.loop.tick(min(by_us / SECOND_US, 1.01))

    def pass_time(self, by_us: int) -> None:
        """Let time pass, stopping at what the engines wait for, so often that a step ends somewhere."""
        for _ in range(25):
            waits = [
                kernel.scheduler.engine._heap[0][0] - kernel.clock.now_us()
                for kernel in self.alive()
                if kernel.scheduler.engine._heap
            ]
            first_us = min((wait for wait in waits if wait > 0), default=by_us)
            if first_us >= by_us:
                break
            self.move(first_us)
            by_us -= first_us
        self.move(by_us)

    def define(self, kernel: Kernel, task: Task, *, arm: bool = True) -> None:
        now_us = kernel.clock.now_us()
        known = self.promises.named.get(task.name)
        stored = kernel.call(self._define(kernel, task, now_us, arm))
        if stored is None:
            return
        self.promises.named[task.name] = known = self.promises.known[stored.id]
        if kernel.scheduler.task(task.name).id != known.id:
            raise Broken(f"{task.name} was stored as another task")

    async def _define(self, kernel: Kernel, task: Task, now_us: int, arm: bool) -> Task:
        # The model has to know before the first body begins, that is before it is planned.
        defined = await kernel.scheduler.define(task)
        known = self.promises.named.get(task.name)
        if known is None:
            known = self.promises.known[defined.task.id] = Known(defined.task)
        if defined.change != "unchanged":
            known.define(task, now_us)
        if arm:
            await kernel.scheduler.arm(task.name)
        return defined.task

    def define_task(
        self, kernel: int, name: str, trigger: tuple[Trigger, str], mode: str, policies: dict[str, Any], rare: str
    ) -> None:
        """Define a task of a trigger, a way its body behaves, and policies."""
        here = self.kernel(kernel)
        if here is None or (trigger[0] is Trigger.AFTER and name == "a"):
            return
        self.number += 1
        fields: dict[str, Any] = {"prompt": mode, "agent_metadata": {"number": self.number}}
        if trigger[0] is Trigger.INTERVAL and rare:
            fields |= {"first": "next"} if rare == "next" else {"align": True}
        self.define(here, task_of(name, *trigger, policies, here.clock.now_us(), **fields))

    # People

    @initialize(
        tasks=st.tuples(
            *(st.tuples(st.sampled_from(TRIGGERS[:7]), st.sampled_from(MODES), POLICIES) for _ in "ab"),
            st.tuples(st.sampled_from(TRIGGERS), st.sampled_from(MODES), POLICIES),
        ),
        second=st.booleans(),
        most=st.sampled_from((64, 64, 1, 2)),
    )
    def two_or_three_tasks(self, tasks: tuple[Any, ...], second: bool, most: int) -> None:
        for kernel in self.kernels:
            kernel.most = most
        self.kernels[0].leave()
        self.kernels[0].enter()
        for name, (trigger, mode, policies) in zip("abc", tasks, strict=True):
            self.define_task(0, name, trigger, mode, policies, "")
        if second:
            self.kernels[1].enter()
            self.kernels[1].call(self.kernels[1].scheduler.arm_all())

    @rule(
        kernel=KERNELS,
        name=NAMES,
        trigger=st.sampled_from(TRIGGERS),
        mode=st.sampled_from(MODES),
        policies=POLICIES,
        rare=st.sampled_from(("", "", "next", "align")),
    )
    def define_a_task(
        self, kernel: int, name: str, trigger: tuple[Trigger, str], mode: str, policies: dict[str, Any], rare: str
    ) -> None:
        self.define_task(kernel, name, trigger, mode, policies, rare)

    @rule(kernel=KERNELS, name=NAMES, mode=st.sampled_from((*MODES, None)), arm=st.booleans())
    def change_its_body_or_nothing(self, kernel: int, name: str, mode: str | None, arm: bool) -> None:
        here, known = self.kernel(kernel), self.promises.named.get(name)
        if here is None or known is None:
            return
        task = known.given
        if mode is not None:
            self.number += 1
            task = msgspec.structs.replace(task, prompt=mode, agent_metadata={"number": self.number})
        self.define(here, task, arm=arm)

    @rule(kernel=KERNELS, name=NAMES, trigger=st.sampled_from(TRIGGERS[:8]))
    def change_its_schedule(self, kernel: int, name: str, trigger: tuple[Trigger, str]) -> None:
        here, known = self.kernel(kernel), self.promises.named.get(name)
        if here is None or known is None or (trigger[1] == "1s" and known.given.jitter):
            return
        self.number += 1
        changes = {"trigger": trigger[0], "schedule": trigger[1], "agent_metadata": {"number": self.number}}
        tz = "UTC" if trigger[0] is Trigger.CRON else ""
        fresh = {"after": "", "when": "completed", "align": False, "first": "now", "tz": tz}
        if known.given.catchup == "all":
            fresh["grace"] = f"{3 * (LENGTHS.get(trigger[1]) or CRONS[trigger[1]][1]) // SECOND_US}s"
        self.define(here, msgspec.structs.replace(known.given, **changes, **fresh))

    def ask(self, kernel: int, name: str, verb: str, *args: Any) -> Any:
        """Ask a kernel for something by its method's name."""
        here = self.kernel(kernel)
        if here is None or name not in self.promises.named:
            return None
        return here.call(getattr(here.scheduler, verb)(name, *args))

    @rule(kernel=KERNELS, name=NAMES)
    def arm(self, kernel: int, name: str) -> None:
        self.ask(kernel, name, "arm")

    @rule(kernel=KERNELS)
    def arm_all(self, kernel: int) -> None:
        here = self.kernel(kernel)
        if here:
            here.call(here.scheduler.arm_all())

    @rule(kernel=KERNELS, name=NAMES)
    def disarm(self, kernel: int, name: str) -> None:
        self.ask(kernel, name, "disarm")

    @rule(kernel=KERNELS, name=NAMES)
    def cancel(self, kernel: int, name: str) -> None:
        self.ask(kernel, name, "cancel")

    @rule(kernel=KERNELS, name=NAMES)
    def pause(self, kernel: int, name: str) -> None:
        if self.ask(kernel, name, "pause") is not None:
            self.promises.named[name].enabled = False

    @rule(kernel=KERNELS, name=NAMES)
    def resume(self, kernel: int, name: str) -> None:
        if name in self.promises.named and self.kernel(kernel):
            self.promises.named[name].enabled = True
            self.ask(kernel, name, "resume")

    @rule(kernel=KERNELS, name=NAMES)
    def delete(self, kernel: int, name: str) -> None:
        here = self.kernel(kernel)
        if here is None or name not in self.promises.named:
            return
        known = self.promises.named.pop(name)
        here.call(here.scheduler.delete(name))
        known.deleted = True

    @rule(kernel=KERNELS, name=NAMES)
    def run_now(self, kernel: int, name: str) -> None:
        self.ask(kernel, name, "run_now")

    @rule(kernel=KERNELS, name=NAMES)
    def run_once(self, kernel: int, name: str) -> None:
        if name in self.promises.named:
            self.promises.named[name].by_hand += 1
        self.ask(kernel, name, "run_once")

    @rule(kernel=KERNELS, name=NAMES)
    def backfill(self, kernel: int, name: str) -> None:
        here = self.kernel(kernel)
        if here and name in self.promises.named:
            self.promises.named[name].by_hand += 1
            self.ask(kernel, name, "backfill", from_us(here.clock.now_us()) - timedelta(minutes=1))

    def ask_of_a_row(self, kernel: int, verb: str, statuses: str, which: int) -> None:
        """Ask a kernel for something about one of the newest rows of some statuses."""
        here = self.kernel(kernel)
        sql = f"""SELECT execution_id, task_id FROM executions WHERE status IN ({statuses}) ORDER BY seq DESC LIMIT 4"""
        rows = self.kernels[0].store.rows(sql)
        if here and rows:
            execution_id, task_id = rows[which % len(rows)]
            self.promises.known[task_id].by_hand += 1
            here.call(getattr(here.scheduler, verb)(execution_id))

    @rule(kernel=KERNELS, which=st.integers(0, 3))
    def retry(self, kernel: int, which: int) -> None:
        self.ask_of_a_row(kernel, "retry", "'failed', 'cancelled', 'interrupted', 'completed'", which)

    @rule(kernel=KERNELS, which=st.integers(0, 3))
    def run_slot(self, kernel: int, which: int) -> None:
        self.ask_of_a_row(kernel, "run_slot", "'missed', 'skipped'", which)

    # Bodies

    @precondition(lambda self: self.bodies())
    @rule(which=st.integers(0, 3), error=st.sampled_from((None, None, *ERRORS)))
    def end_a_body(self, which: int, error: Callable[[], BaseException] | None) -> None:
        bodies = self.bodies()
        bodies[which % len(bodies)].end(error() if error else None)
        self.loop.until_idle()

    @precondition(lambda self: self.bodies())
    @rule()
    def end_all_bodies(self) -> None:
        for body in self.bodies():
            body.end()
        self.loop.until_idle()

    # Time

    @rule(by_us=st.sampled_from((1000, 300_000, SECOND_US, 2 * SECOND_US, 10 * SECOND_US, 30 * SECOND_US)))
    def a_moment_passes(self, by_us: int) -> None:
        self.pass_time(by_us)

    @rule(by_us=st.sampled_from((2 * SECOND_US, 10 * SECOND_US, MINUTE_US, 3 * MINUTE_US)))
    def some_time_passes(self, by_us: int) -> None:
        self.pass_time(by_us)
        self.check_settled()

    @rule(by_us=st.sampled_from((MINUTE_US, 3 * MINUTE_US, 10 * MINUTE_US, HOUR_US, DAY_US)))
    def slots_pass(self, by_us: int) -> None:
        self.pass_time(by_us)
        self.check_settled()

    @rule(by_us=st.sampled_from((MINUTE_US, 10 * MINUTE_US, HOUR_US, 26 * HOUR_US, 5 * DAY_US)))
    def the_machine_sleeps(self, by_us: int) -> None:
        self.move(by_us)
        self.check_settled()

    @rule(by_us=st.sampled_from(JUMPS), forward=st.booleans(), first_only=st.booleans())
    def a_clock_is_set(self, by_us: int, forward: bool, first_only: bool) -> None:
        by_us = by_us if forward else -by_us
        for kernel in self.kernels[: 1 if first_only else 2]:
            kernel.clock.move(by_us)
        self.promises.loose |= not forward or first_only
        self.loop.until_idle()

    # Kernels

    @rule()
    def a_second_kernel(self) -> None:
        if not self.kernels[1].lives:
            self.kernels[1].enter()

    @rule(kernel=KERNELS, arm=st.booleans())
    def restart(self, kernel: int, arm: bool) -> None:
        here = self.kernels[kernel]
        if here.lives:
            here.leave()
        here.enter()
        if arm:
            here.call(here.scheduler.arm_all())

    @rule(kernel=KERNELS)
    def crash(self, kernel: int) -> None:
        here = self.kernels[kernel]
        if here.lives:
            here.crash()

    @rule(kernel=KERNELS, by_us=st.sampled_from((0, SECOND_US, MINUTE_US, HOUR_US)), turns=st.integers(0, 12))
    def crash_in_the_middle(self, kernel: int, by_us: int, turns: int) -> None:
        here = self.kernels[kernel]
        if here.lives:
            for one in self.kernels:
                one.clock.move(by_us)
            for body in here.living():
                body.end()
            self.loop.turns(turns)
            here.crash()

    @rule(kernel=KERNELS)
    def its_disk_is_slow(self, kernel: int) -> None:
        if self.kernels[kernel].lives:
            self.kernels[kernel].slow_down()

    @rule()
    def disks_are_fast_again(self) -> None:
        for kernel in self.alive():
            kernel.speed_up()

    # What must hold

    @invariant()
    def promises_are_kept(self) -> None:
        self.steps[type(self).__name__] += 1
        self.begun = 0
        if not self.alive():
            self.kernels[0].enter()
        for kernel in self.alive():
            self.check_places(kernel)
        owners = {kernel.owner for kernel in self.alive()} | self.graves
        self.promises.look(owners, idle=not any(kernel.writer.slow for kernel in self.alive()))

    def check_places(self, kernel: Kernel) -> None:
        """No place is lost, and nothing waits for one while one is free."""
        if kernel.writer.slow:
            return
        free = kernel.scheduler.running._places._free
        runs = kernel.scheduler.live()
        if free + sum(run.holds_place for run in runs) != kernel.most:
            raise Broken(f"{free} of {kernel.most} places are free, and {sum(run.holds_place for run in runs)} taken")
        for run in runs if free else ():
            # One that is tried again in a moment has an entry; a paused task's is held.
            if run.idle and run.wait_reason == "limit" and not run.entry and not kernel.scheduler.engine.held(run):
                raise Broken(f"{run.execution_id} waits for a place, and {free} are free")

    def check_settled(self) -> None:
        """After some time, what is due of the tasks that are planned and free has been settled."""
        if self.promises.loose or any(kernel.writer.slow for kernel in self.alive()):
            return
        if any(map(self._unsettled, self.promises.named.values())):
            now_us = self.kernels[0].clock.now_us()
            for _ in range(3):  # one that was busy elsewhere is looked at again after a second
                self.move(SECOND_US)
            for known in self.promises.named.values():
                said = self._unsettled(known, now_us)
                if said:
                    raise Broken(said)

    def _unsettled(self, known: Known, now_us: int | None = None) -> str:
        planned = [armed for kernel in self.alive() if (armed := kernel.scheduler.engine.armed.get(known.id))]
        if not planned or self.promises.rows_of(known, "waiting", "running"):
            return ""
        return self.promises.unsettled(known, now_us or self.kernels[0].clock.now_us())


def machine_on(stores: list[SqliteStore], name: str) -> type[Machine]:
    return type(name, (Machine,), {"stores": stores})


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[list[SqliteStore]]:
    """Open a store for each kernel: one in memory for both, or a file that both have open."""
    if kind == "memory":
        stores = [SqliteStore()] * 2
    else:
        stores = [SqliteStore(folder / "car.db") for _ in range(2)]
        for store in stores:
            store._write.execute("PRAGMA synchronous = OFF")  # no power cut here
    stores[0].migrate()
    yield stores
    for store in set(stores):
        store.close()


def run(machine: type[Machine], examples: int, number: int, *phases: Phase) -> None:
    """Run so many examples, the same ones each time."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=phases or (Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],  # a step is much work, and means it
        print_blob=False,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(seed(number)(machine), settings=chosen)


WANTED = by_scale(10_000, 200_000)
"""Steps of each part: four in memory and one on disk."""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "part"), [("memory", 0), ("memory", 1), ("memory", 2), ("memory", 3), ("sqlite", 0)])
def test_whatever_happens_the_promises_are_kept(kind: str, part: int, tmp_path: Path):
    with opened(kind, tmp_path) as stores:
        machine = machine_on(stores, f"On{kind}{part}")
        machine.steps = Counter()
        run(machine, WANTED // STEPS * 5 // 4, part)
        print(f"{sum(machine.steps.values())} steps")
        assert sum(machine.steps.values()) >= WANTED


UNGUARDED = sqlite._SETTLE.replace("(j.expected IS NULL OR tasks.cursor = j.expected)", "1")
UNGUARDED = UNGUARDED[: UNGUARDED.index("AND NOT (j.free")]
NO_GAPS = sqlite._INSERT.replace("WHERE true", "WHERE value ->> 5 != 0")
finish_of, next_attempt = ending.finish_of, ending.next_attempt


def without_its_retry(run: Any, owner: str, closing: bool) -> Any:
    return msgspec.structs.replace(finish_of(run, owner, closing), retry=None)


def with_every_attempt_the_third(run: Any, now_us: int, owner: str | None) -> Any:
    return msgspec.structs.replace(next_attempt(run, now_us, owner), attempt=3)


def said_to_be_finished(db: Any, finishes: list[Finish]) -> dict[str, Finished]:
    return dict.fromkeys((op.end.execution_id for op in finishes), Finished(written=True))


def said_to_be_written(db: Any, given: list[Any]) -> set[str]:
    return {one.execution_id for one in given}


def without_pausing(db: Any, task_id: str, enabled: bool) -> bool:
    return True


CONTROLS = {
    "nothing guards a slot": (
        (sqlite, "_SETTLE", UNGUARDED),
        (sqlite, "_insert", said_to_be_written),
    ),
    "overlap is not looked at": ((sqlite, "_SETTLE", sqlite._SETTLE.replace("NOT (j.free AND", "NOT (0 AND")),),
    "a gap is not written": ((sqlite, "_INSERT", NO_GAPS),),
    "a gap does not grow": ((sqlite, "_EXTEND", "SELECT ?"),),
    "a retry is not planned": ((ending, "finish_of", without_its_retry),),
    "an attempt is left out": ((ending, "next_attempt", with_every_attempt_the_third),),
    "an end is not written": ((sqlite, "_finish", said_to_be_finished),),
    "a start is not written": ((sqlite, "_start", said_to_be_written),),
    "a pause is not kept": ((records, "set_enabled", without_pausing),),
    "the timer forgets what comes next": ((core.Engine, "replan", lambda engine, armed: None),),
}


@pytest.mark.parametrize("broken", CONTROLS)
def test_control_what_is_broken_on_purpose_is_found(broken: str, tmp_path: Path):
    with opened("memory", tmp_path) as stores, ExitStack() as stack:
        for where, name, what in CONTROLS[broken]:
            assert getattr(where, name) != what
            stack.enter_context(mock.patch.object(where, name, what))
        with pytest.raises((Broken, Restless)):
            run(machine_on(stores, "Control"), 200, 0, Phase.generate)
