"""Failures reach someone: messages and pings at real servers, the commands and hooks of a task, on both loops."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from car_sched_nb.engine import command, courier, telling
from car_sched_nb.engine.edges import Notice
from car_sched_nb.engine.messages import addresses, joined, masked, secrets_of
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.engine.targets import Attempt, deliver, ping
from car_sched_nb.errors import InvalidInput
from car_sched_nb.store import outbox, records, settings
from car_sched_nb.store.outbox import Delivery
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.pages import watched
from tests.unit.servers import Post, Web
from tests.unit.world import Ear, Script, agent, come_true, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web().start()
    yield web
    web.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules with short times; nothing passes or fails by them."""
    monkeypatch.setattr(courier, "GATHER_S", 0.05)
    monkeypatch.setattr(courier, "APART_S", 0.05)
    monkeypatch.setattr(courier, "RETRY_S", (0.05,))
    monkeypatch.setattr(courier, "PING_AGAIN_S", 0.05)
    monkeypatch.setattr(courier, "PING_APART_S", 0.0)


async def aim(scheduler: Scheduler, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have messages sent to an address."""
    monkeypatch.setenv("CAR_TEST_NOTIFY", address)
    await scheduler.configure(notify="env:CAR_TEST_NOTIFY")


async def run(scheduler: Scheduler, script: Script, *ends: bool) -> None:
    """Run `task` so often; True is a failure."""
    for fails in ends:
        script.fails = fails
        await scheduler.run_now("task")
        await scheduler.wait()


async def web_has(web: Web, requests: int) -> None:
    await come_true(lambda: len(web.requests) >= requests)


# Messages


async def test_the_first_failure_and_the_recovery_arrive_as_mail(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    post, script = Post().start(), Script()
    try:
        async with running(store, script, namespace="prices.ipynb") as s:
            await aim(s, post.address(), monkeypatch)
            await s.define(agent())
            await run(s, script, False, True)
            await come_true(lambda: post.mails)
            await run(s, script, True, True, False, False)
        assert post.subjects == ["task failed", "task recovered after 3 failures"]
        ids = [row[0] for row in store.rows("SELECT execution_id FROM executions ORDER BY seq")]
        assert "RuntimeError: it failed, as told" in post.text(0)
        assert "prices.ipynb" in post.text(0)
        assert ids[1] in post.text(0)
        assert "failing for: " in post.text(1)
        assert store.rows("SELECT * FROM deliveries") == []
    finally:
        post.stop()


async def test_nothing_is_sent_without_a_target_or_to_who_wants_none(
    store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch
):
    script = Script()
    async with running(store, script) as s:
        await s.define(agent())
        await run(s, script, True)
        await aim(s, web.address("", "json"), monkeypatch)
        await s.define(agent(notify="none"))
        await run(s, script, False, True)
        await s.define(agent(notify="completed"))
        await run(s, script, True, False)
    assert web.titles == ["task completed"]


async def test_what_did_not_arrive_is_a_warning_and_is_sent_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    web, script = Web(), Script(fails=True)
    try:
        async with running(store, script) as s:
            await aim(s, web.address("hook", "json"), monkeypatch)
            ear = Ear(s)
            await s.define(agent())
            await s.run_now("task")
            event = await ear.hears("delivery")
            assert event.text.startswith("JSON at 127.0.0.1: A Connection error occurred")
            assert "tried again in 50ms" in event.text
            assert event.execution_id == s.executions()[0].execution_id
            web.start()
            while (event := await ear.hears("delivery")).text:
                pass
            assert web.titles == ["task failed"]
            assert s.telling.troubles == {}
        assert store.rows("SELECT * FROM deliveries") == []
    finally:
        web.stop()


async def test_who_has_a_message_does_not_get_it_again_because_another_has_not(
    store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch
):
    late, script = Web(), Script(fails=True)
    try:
        async with running(store, script) as s:
            await aim(s, f"{web.address('a', 'json')}, {late.address('b', 'json')}", monkeypatch)
            ear = Ear(s)
            await s.define(agent())
            await s.run_now("task")
            assert (await ear.hears("delivery")).text
            assert (await ear.hears("delivery")).text
            late.start()
            await come_true(lambda: late.messages and not outbox.waiting(store, s.owner))
        assert (web.titles, late.titles) == (["task failed"], ["task failed"])
    finally:
        late.stop()


async def test_four_hundred_failures_are_a_few_messages(store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(courier, "APART_S", 3600.0)
    script = Script(fails=True)
    async with running(store, script) as s:
        await aim(s, web.address("", "json"), monkeypatch)
        for number in range(400):
            await s.define(agent(f"task-{number:03}"))
        for number in range(400):
            await s.run_now(f"task-{number:03}")
        await s.wait()
    assert 1 <= len(web.messages) <= 2  # the rest are joined in one, which leaving does not keep back
    said = [message["title"] for message in web.messages]
    count = sum(1 if title.endswith(" failed") else int(title.split()[0]) for title in said)
    assert count == 400
    assert "more" in said[-1]
    assert all(len(message["message"]) <= 1500 for message in web.messages)


async def test_a_message_that_waits_is_sent_by_the_next_life(
    store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch
):
    web.stop()
    script = Script(fails=True)
    async with running(store, script) as s:
        await aim(s, web.address("", "json"), monkeypatch)
        await s.define(agent())
        await run(s, script, True)
    assert len(store.rows("SELECT * FROM deliveries")) == 1
    web.start()
    async with running(store, script) as s:
        await come_true(lambda: web.messages)
        await run(s, script, True)  # the series goes on: no new edge
    assert web.titles == ["task failed"]
    assert store.rows("SELECT * FROM deliveries") == []


async def test_two_schedulers_of_a_store_tell_each_edge_once(
    path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, quick_looks: None
):
    here, there = Script(), Script()
    async with running(str(path), here) as a, running(str(path), there) as b:
        await aim(a, web.address("", "json"), monkeypatch)
        await a.define(agent())
        for scheduler, script, fails in ((a, here, True), (b, there, True), (a, here, True), (b, there, False)):
            await run(scheduler, script, fails)
            await come_true(lambda: not outbox.waiting(a.store, a.owner) + outbox.waiting(a.store, b.owner))
    assert web.titles == ["task failed", "task recovered after 3 failures"]


async def test_no_secret_is_in_a_message_a_log_or_the_store(
    path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    secrets = ["geheim-in-env", "key-of-the-model", "password-of-the-hook", "token-in-the-path", "uuid-of-the-ping"]
    for name, value in zip(("CAR_TEST_DB", "CAR_TEST_KEY"), secrets[:2], strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CAR_TEST_PING", web.address(secrets[4]))
    script = Script()
    async with running(str(path), script) as s:
        ear = Ear(s)
        await aim(s, f"json://ana:{secrets[2]}@127.0.0.1:{web.port}/{secrets[3]}", monkeypatch)
        heard: list[str] = []
        s.on("failed")(lambda notice: heard.append(notice.text))
        await s.define(
            agent(
                env=("CAR_TEST_DB",),
                key_env="CAR_TEST_KEY",
                ping="env:CAR_TEST_PING",
                on_failure="echo $CAR_ERROR >&2; false",
            )
        )
        script.error = RuntimeError(f"cannot log in with {secrets[0]} and {secrets[1]}")
        await s.run_now("task")
        await come_true(lambda: web.messages and heard)
        assert "cannot log in with *** and ***" in web.messages[0]["message"]
        script.error = None
        web.status = 500
        await run(s, script, False)
        troubles = [(await ear.hears("delivery")).text for _ in range(3)]
        assert any("the ping to 127.0.0.1: HTTP 500" in text for text in troubles)
        assert any("JSON at 127.0.0.1" in text for text in troubles)
        rows = s.store.rows("SELECT title, body FROM deliveries") + s.store.rows("SELECT * FROM settings")
    assert rows
    told = repr((web.messages, heard, troubles, rows, caplog.text))
    assert [secret for secret in secrets if secret in told] == []
    kept = b"".join(file.read_bytes() for file in path.parent.rglob("*") if file.is_file())
    assert b"password-of-the-hook" not in kept
    assert b"token-in-the-path" not in kept
    assert b"uuid-of-the-ping" not in kept


def test_where_a_token_stands_for_a_host_it_is_not_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAR_TEST_NOTIFY", "tgram://123456789:abcdefg_hijklmnop/12315544/, nonsense://tokentoken")
    one = Delivery(1, "task", "id", "x", "failed", "task failed", "", 0, 0, 0, frozenset({0}))
    assert [(a.service, a.reason) for a in deliver("env:CAR_TEST_NOTIFY", [one])] == [
        ("Telegram", ""),
        ("address 2 in CAR_TEST_NOTIFY", "apprise does not understand it"),
    ]


# Texts


def _deliveries(count: int, kind: str = "failed") -> list[Delivery]:
    return [Delivery(n, f"t{n}", "id", "x", kind, f"t{n} {kind}", f"why {n}\nmore", 0, 0) for n in range(count)]


def test_messages_are_joined_by_what_they_tell():
    assert joined(_deliveries(1)) == ("t0 failed", "why 0\nmore")
    title, body = joined(_deliveries(37))
    assert title == "37 tasks failed: t0, t1, t2 and 34 more"
    assert body.splitlines()[0] == "t0 failed: why 0"
    assert body.splitlines()[-1] == "... and 17 more"
    assert joined(_deliveries(2) + _deliveries(1, "recovered"))[0] == "2 failed, 1 recovered: t0, t1"


def test_addresses_stand_apart_by_blanks_commas_or_lines():
    text = "mailto://a@b.example?to=c@d.example,e@f.example, json://h/x\nntfy://t"
    assert addresses(text) == ["mailto://a@b.example?to=c@d.example,e@f.example", "json://h/x", "ntfy://t"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hunter22", "no hunter22"),
        ("postgres://ana:p%40ssw0rd@db.example/prices", "no p@ssw0rd and no p%40ssw0rd"),
        ("slack://TOKENAAAA/TOKENBBBB/TOKENCCCC", "no TOKENAAAA TOKENBBBB TOKENCCCC"),
        ("ntfy://tk_abcdefgh@ntfy.example/topic", "no tk_abcdefgh"),
        ("https://hc-ping.example/6f1c3a52-9e55", "no 6f1c3a52-9e55"),
    ],
)
def test_the_parts_of_a_secret_are_masked(value: str, text: str):
    found = masked(text, secrets_of(["X"], {"X": value}))
    assert {*found.split()} <= {"no", "and", "***"}
    assert masked("db.example hc-ping.example ntfy.example", secrets_of(["X"], {"X": value})).count("***") == 0


# Pings


async def test_each_success_is_pinged_and_no_failure(store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAR_TEST_PING", web.address("alive"))
    script = Script()
    async with running(store, script) as s:
        await s.define(agent(ping="env:CAR_TEST_PING"))
        for fails, pings in ((False, 1), (True, 1), (False, 2)):
            await run(s, script, fails)
            await web_has(web, pings)
    assert web.requests == [("GET", "/alive")] * 2


async def test_of_many_successes_in_a_second_one_is_pinged(
    store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(courier, "PING_APART_S", 3600.0)
    monkeypatch.setenv("CAR_TEST_PING", web.address("alive"))
    script = Script()
    async with running(store, script) as s:
        await s.define(agent(ping="env:CAR_TEST_PING"))
        await run(s, script, False)
        await come_true(lambda: web.requests)
        await run(s, script, *[False] * 20)
    assert len(web.requests) == 2  # the last of them when the scheduler was left


async def test_a_ping_that_fails_is_tried_once_more_and_told(
    store: SqliteStore, web: Web, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CAR_TEST_PING", web.address("alive"))
    web.status = 503
    script = Script()
    async with running(store, script) as s:
        ear = Ear(s)
        await s.define(agent(ping="env:CAR_TEST_PING"))
        await run(s, script, False)
        assert (await ear.hears("delivery")).text == "the ping to 127.0.0.1: HTTP 503; tried once more in 0.05 s"
        assert (await ear.hears("delivery")).text == "the ping to 127.0.0.1: HTTP 503"
        assert len(web.requests) == 2
        web.status = 200
        await run(s, script, False)
        assert (await ear.hears("delivery")).text == ""
        monkeypatch.delenv("CAR_TEST_PING")
        await run(s, script, False)
        assert "CAR_TEST_PING is not set" in (await ear.hears("delivery")).text


def test_a_ping_logs_in_by_its_address(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAR_TEST_PING", f"http://me:p%40ss@127.0.0.1:{web.port}/alive")
    assert ping("env:CAR_TEST_PING") == Attempt(0, "the ping to 127.0.0.1")
    assert (web.requests, web.logins) == ([("GET", "/alive")], ["Basic bWU6cEBzcw=="])


async def test_a_ping_whose_answer_never_ends_is_given_up(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    """Its server says something again and again, so that no limit on a silence ever passes."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        with suppress(OSError), listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.01):
                client.sendall(b"X-More: to come\r\n")

    threading.Thread(target=speak, daemon=True).start()
    monkeypatch.setattr(courier, "PING_ENDS_S", 0.1)
    monkeypatch.setenv("CAR_TEST_PING", f"http://127.0.0.1:{listener.getsockname()[1]}/")
    async with running(store, script := Script()) as s:
        ear = Ear(s)
        await s.define(agent(ping="env:CAR_TEST_PING"))
        await run(s, script, False)
        assert "no answer within 0.1 s" in (await ear.hears("delivery")).text
        over.set()
        listener.close()


async def test_an_address_itself_is_refused_without_being_repeated(store: SqliteStore):
    async with running(store) as s:
        with pytest.raises(InvalidInput, match="--ping env:CAR_URL") as refused:
            await s.define(agent(ping="https://hc-ping.example/secret"))
        assert "secret/" not in str(refused.value)
        assert "hc-ping" not in str(refused.value)


# Commands

TELL = """printf '%s|' "$CAR_TASK" "$CAR_STATUS" "$CAR_ERROR" "$CAR_ERROR_TYPE" "$CAR_FAILURES" "$CAR_NAMESPACE" \
"$CAR_EXECUTION" "$CAR_SCHEDULED_AT" >> {file}"""


async def test_a_command_runs_at_the_first_failure_and_nothing_is_pasted_into_it(store: SqliteStore, tmp_path: Path):
    script, told = Script(), tmp_path / "told"
    async with running(store, script, namespace="n") as s:
        await s.define(agent(on_failure=TELL.format(file=told)))
        script.error = RuntimeError(f"$(touch {tmp_path}/pasted) `touch {tmp_path}/pasted` '; touch {tmp_path}/pasted")
        await run(s, script, False, False)
        execution = s.executions()[0]
    assert not (tmp_path / "pasted").exists()
    at = execution.scheduled_at.isoformat().replace("+00:00", "Z")
    assert told.read_text().split("|") == [
        *("task", "failed", str(script.error), "RuntimeError", "1", "n", execution.execution_id, at, "")
    ]


async def test_a_warning_of_a_command_shows_no_part_of_a_secret(store: SqliteStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAR_TEST_KEY", "q" * 2000)  # longer than the warning
    async with running(store, Script(fails=True)) as s:
        ear = Ear(s)
        await s.define(agent(env=("CAR_TEST_KEY",), on_failure='printf %s "$CAR_TEST_KEY" >&2; exit 3'))
        await s.run_now("task")
        assert (await ear.hears("delivery")).text == "its command --on-failure: exit code 3: ***"


async def test_a_command_that_fails_is_a_warning_until_it_works(store: SqliteStore, tmp_path: Path):
    script = Script()
    async with running(store, script) as s:
        ear = Ear(s)
        await s.define(agent(on_failure=f"echo no mail program >&2; test -e {tmp_path}/works"))
        await run(s, script, True)
        assert (await ear.hears("delivery")).text == "its command --on-failure: exit code 1: no mail program"
        (tmp_path / "works").touch()
        await run(s, script, False, True)
        assert (await ear.hears("delivery")).text == ""


async def test_a_command_that_does_not_end_is_ended(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "TIMEOUT_S", 0.1)
    script = Script()
    async with running(store, script) as s:
        ear = Ear(s)
        await s.define(agent(on_failure="sleep 300 & sleep 300"))
        await run(s, script, True)
        assert (await ear.hears("delivery")).text == "its command --on-failure: did not end within 0.1 s"
        children = psutil.Process().children(recursive=True)
        assert not [one for one in children if one.environ().get("CAR_OWNER") == s.owner]


async def test_leaving_waits_for_what_is_being_told(tmp_path: Path):
    async with running(":memory:", Script(fails=True)) as s:
        await s.define(agent(on_failure=f"sleep 0.2; touch {tmp_path}/told"))
        await s.run_now("task")
        await s.wait()
    assert (tmp_path / "told").exists()


async def test_leaving_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(telling, "LEAVE_S", 0.05)
    async with running(":memory:", Script(fails=True)) as s:
        await s.define(agent(on_failure=f"touch {tmp_path}/begun; sleep 300"))
        s.on("failed")(_for_ever)
        await s.run_now("task")
        await come_true((tmp_path / "begun").exists)


async def _for_ever(notice: Notice) -> None:
    await anyio.sleep_forever()


async def test_a_program_that_is_cancelled_tells_what_failed(tmp_path: Path):
    with anyio.CancelScope() as program:
        async with running(":memory:", Script(fails=True)) as s:
            await s.define(agent(on_failure=f"touch {tmp_path}/begun; sleep 0.1; touch {tmp_path}/told"))
            await s.run_now("task")
            await come_true((tmp_path / "begun").exists)
            program.cancel()
            await anyio.sleep_forever()
    assert (tmp_path / "told").exists()


# Hooks


async def test_hooks_are_called_at_the_edges_or_at_each_failure(store: SqliteStore):
    script = Script()
    heard: list[tuple[Any, ...]] = []
    async with running(store, script) as s:

        @s.on("failed")
        def first(notice: Notice) -> None:
            heard.append(("first", notice.kind, notice.in_a_row, notice.text))

        @s.on("failed", every=True, task="ta*")
        async def each(notice: Notice) -> None:
            heard.append(("each", notice.kind, notice.in_a_row, notice.execution.execution_id))

        @s.on("recovered")
        async def recovered(notice: Notice) -> None:
            heard.append(("recovered", notice.task, notice.in_a_row))

        @s.on("completed", task="another")
        def never(notice: Notice) -> None:
            heard.append(("never",))

        @s.on("completed")
        def completed(notice: Notice) -> None:
            heard.append(("completed", notice.text))

        await s.define(agent(notify="none"))
        await run(s, script, True, True, False, False)
        ids = [execution.execution_id for execution in s.executions()]
    assert [one for one in heard if one[0] == "first"] == [("first", "failed", 1, "RuntimeError: it failed, as told")]
    assert [one for one in heard if one[0] == "each"] == [("each", "failed", n + 1, ids[n]) for n in (0, 1)]
    assert [one for one in heard if one[0] == "recovered"] == [("recovered", "task", 2)]
    assert [one for one in heard if one[0] == "completed"] == [("completed", "completed: do it")] * 2
    assert len(heard) == 6


async def test_a_hook_is_taken_off_or_replaced_by_one_of_its_name(store: SqliteStore):
    script = Script()
    heard: list[str] = []

    def make(said: str) -> Any:
        def hook(notice: Notice) -> None:
            heard.append(said)

        return hook

    async with running(store, script) as s:
        await s.define(agent())
        s.on("failed")(make("old"))
        both = make("new")
        hook = s.on("completed")(s.on("failed")(both))  # one function at two kinds
        await run(s, script, True, False)
        await come_true(lambda: len(heard) == 2)
        hook.off()
        await run(s, script, True, False)
    assert heard == ["new"] * 3
    with pytest.raises(InvalidInput, match="did you mean 'failed'"):
        s.on("faild")(make(""))
    with pytest.raises(InvalidInput, match="every"):
        s.on("recovered", every=True)(make(""))


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), asyncio.CancelledError("mine")])
async def test_what_a_hook_raises_is_a_warning_and_hurts_nobody(store: SqliteStore, error: BaseException):
    script = Script()
    async with running(store, script) as s:
        ear = Ear(s)

        @s.on("failed")
        def broken(notice: Notice) -> None:
            raise error

        @s.on("completed")
        async def broken_too(notice: Notice) -> None:
            raise error

        await s.define(agent())
        await run(s, script, True, False)
        texts = [(await ear.hears("delivery")).text for _ in range(2)]
        said = f"{type(error).__name__}: {error}"
        assert sorted(texts) == [f"the hook broken: {said}", f"the hook broken_too: {said}"]
        await run(s, script, True)


# The dashboard


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_dashboard_shows_what_was_not_delivered_until_it_is(store: SqliteStore, tmp_path: Path):
    script = Script()
    async with running(store, script) as s:
        await s.define(agent(on_failure=f"test -e {tmp_path}/works"))
        ear = Ear(s)
        await run(s, script, True)
        await ear.hears("delivery")
        async with watched(s) as (watch, page):  # opened later
            notices = page.newest("snapshot")["notices"]
            assert [(n["kind"], n["task"], n["text"]) for n in notices] == [
                ("delivery", "task", "its command --on-failure: exit code 1"),
                ("failed", "task", "RuntimeError: it failed, as told"),
            ]
            page.say(type="command", id=1, verb="dismiss", execution=notices[0]["id"])
            await watch.rest()
            await run(s, script, False, True)
            await ear.hears("delivery")
            await watch.rest()
            kinds = [notice["kind"] for notice in page.newest("update")["notices"]]
            assert kinds == ["delivery", "failed", "recovered", "failed"]
            (tmp_path / "works").touch()
            await run(s, script, False, True)
            await ear.hears("delivery")
            await watch.rest()
            newest = [m["notices"] for m in page.of("update") if "notices" in m][-1]
            assert "delivery" not in [notice["kind"] for notice in newest]


def test_settings_are_kept_by_namespace_and_for_all(store: SqliteStore):
    def put(namespace: str, name: str, value: str | None) -> None:
        with store.transaction() as db:
            settings.put(db, namespace, name, value)

    put("", "model", "local")
    put("a", "notify", "env:A")
    assert settings.in_force(store, "a") == {"model": "local", "notify": "env:A"}
    assert settings.in_force(store, "b") == {"model": "local"}
    put("a", "model", None)
    put("a", "notify", None)
    assert settings.in_force(store, "a") == {}
    assert settings.read(store, "b", "model") == "local"
    put("", "model", None)
    assert settings.read(store, "b", "model") is None
    put("a", "keep", "30d")
    with store.transaction() as db:
        records.adopt(db, "a", "renamed")
    assert settings.in_force(store, "renamed") == {"keep": "30d"}
