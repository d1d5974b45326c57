"""Mailboxes and the state that runs share: across threads and loops, with nothing lost unsaid."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import pytest

from car_sched_nb.model import Task
from car_sched_nb.runners import mail
from car_sched_nb.runners.base import SharedInfra
from car_sched_nb.runners.mail import MailboxFull, State
from car_sched_nb.runners.python import PythonRunner
from tests.unit.world import HANG_S, come_true, running

pytestmark = pytest.mark.anyio


async def test_messages_come_in_order_and_are_taken_once():
    infra = SharedInfra()
    for number in range(3):
        infra.mailbox("a").send("b", number)
    box = infra.mailbox("b")
    assert len(box) == 3
    assert await box.message() == 0
    assert [(letter.message, letter.sender) for letter in box.letters()] == [(1, "a"), (2, "a")]
    assert (box.receive(), len(box)) == ([], 0)


async def test_a_wait_ends_with_the_message_or_in_time():
    infra = SharedInfra()
    box = infra.mailbox("b")
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        await box.message(0.01)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        await anyio.to_thread.run_sync(box.wait, 0.01)
    with anyio.fail_after(HANG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, infra.mailbox("a").send, "b", "from a thread")
            assert await box.message() == "from a thread"
            group.start_soon(box.message)
            await come_true(lambda: infra._office._boxes)
            group.cancel_scope.cancel()
    assert infra._office._boxes == {}  # who waits no more leaves nothing behind


async def test_each_message_is_taken_by_one_of_many_on_threads_and_loops():
    infra, count = SharedInfra(), 200
    taken: list[int] = []

    def in_a_thread() -> None:
        while (message := infra.mailbox("b").wait()) >= 0:
            taken.append(message)

    async def on_a_loop() -> None:
        while (message := await infra.mailbox("b").message()) >= 0:
            taken.append(message)

    with anyio.fail_after(HANG_S), ThreadPoolExecutor(4) as pool:
        others = [pool.submit(in_a_thread), pool.submit(in_a_thread), pool.submit(asyncio.run, on_a_loop())]
        async with anyio.create_task_group() as group:
            group.start_soon(on_a_loop)
            for number in range(count):
                infra.mailbox("a").send("b", number)
            await come_true(lambda: len(taken) == count)
            for _ in range(4):
                infra.mailbox("a").send("b", -1)
        await anyio.to_thread.run_sync(lambda: [other.result(HANG_S) for other in others])
    assert sorted(taken) == list(range(count))


async def test_a_box_that_nobody_reads_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mail, "MOST", 3)
    infra = SharedInfra()
    for number in range(3):
        infra.mailbox("a").send("nobody", number)
    with pytest.raises(MailboxFull, match="nobody reads the messages for 'nobody', 3 lie there"):
        infra.mailbox("a").send("nobody", 3)
    assert infra.mailbox("nobody").receive() == [0, 1, 2]


@pytest.mark.parametrize("executor", ["thread", "loop"])
async def test_a_cancel_ends_a_wait_for_mail(executor: str):
    names = {"began": threading.Event()}
    wait = "car.current().wait_message()" if executor == "thread" else "await car.current().message()"
    async with running(":memory:", python=PythonRunner(names)) as s:
        await s.define(Task("task", f"began.set()\n{wait}", executor=executor))
        await s.run_now("task")
        await come_true(names["began"].is_set)
        await s.cancel("task")
        assert s.executions("task")[-1].status == "cancelled"
        assert s.infra._office._boxes == {}
        await s.define(Task("next", "import time\ntime.sleep(0.01)\n'well'", executor=executor))
        assert (await s.run_once("next")).answer == "well"


def test_an_update_of_the_state_has_nobody_in_between():
    state = State()

    def add() -> None:
        for _ in range(500):
            state.update_with("n", lambda n: n + 1, 0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert state["n"] == 2000


def test_the_state_is_a_mapping_that_may_change_while_it_is_read():
    state = State()
    state.update(a=1, b=2)
    for key in state:
        del state[key]
    assert (dict(state), state.setdefault("c", 3), state.pop("c"), "c" in state) == ({}, 3, 3, False)
    assert repr(state) == "State({})"
