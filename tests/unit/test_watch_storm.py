"""The watcher under a storm: whatever is done to files, the last state is served, once, and the engine lives."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from watchfiles import awatch

from car_sched_nb import files
from car_sched_nb.engine import scheduler, watch
from car_sched_nb.engine.events import Event
from car_sched_nb.engine.roots import Roots, Told
from car_sched_nb.engine.scheduler import Scheduler
from car_sched_nb.engine.watch import Followed, Watcher
from car_sched_nb.model import Status, Task, Trigger
from car_sched_nb.store.sqlite import SqliteStore
from tests.scale import by_scale
from tests.unit.world import Recorder, agent, every

LIMIT_S = 60
"""Seconds after which a test gives up; nothing passes or fails by being quicker."""

ROUNDS = by_scale(5, 200)

on_one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For a claim about files, which no loop has to do with, that takes long."""


def watching(*paths: Path | str, name: str = "task", **fields: str) -> Task:
    return agent(name, Trigger.FILE_WATCH, watch_path="\n".join(map(str, paths)), **fields)


def content(slot: str) -> str:
    """Return the digest in a slot, which may have a revision before and a counter after it."""
    found = re.search(r"[0-9a-f]{16}", slot)
    assert found
    return found[0]


class Storm:
    """A scheduler whose tasks watch, and what it did."""

    def __init__(self, s: Scheduler, recorder: Recorder) -> None:
        self.s = s
        self.recorder = recorder
        self.events: list[Event] = []
        self._more = anyio.Event()
        s.listen(self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is true after an event."""
        while not true():
            self._more = anyio.Event()
            await self._more.wait()

    def slots(self, name: str = "task") -> list[str]:
        """Return the slots of a task that began, in order."""
        return [occurrence.slot for occurrence in self.recorder.seen if occurrence.task == name]

    def errors(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "error"]

    def finished(self, name: str = "task") -> int:
        return sum(event.kind == "finished" and event.task.name == name for event in self.events)

    async def has_finished(self, count: int) -> None:
        await self.until(lambda: self.finished() >= count)

    def _is_served(self, state: str, name: str) -> bool:
        slots = self.slots(name)
        return bool(slots) and content(slots[-1]) == state and not self.s.live(name)

    async def serves(self, name: str = "task") -> None:
        """Wait until the state of now was served; the invariant holds then and after another task fired."""
        paths = self.s.task(name).watch_path
        state = await anyio.to_thread.run_sync(files.digest, paths)
        await self.until(lambda: self._is_served(state, name))
        beats = self.finished("beat")
        await self.until(lambda: self.finished("beat") >= beats + 2)
        assert self._is_served(state, name)
        self.holds(name)

    def holds(self, name: str = "task") -> None:
        """Each start was settled, none began twice, and each was of another content than the one before."""
        slots, ids = self.slots(name), self.recorder.ids
        assert len(set(ids)) == len(ids), "an execution began twice"
        assert len(set(slots)) == len(slots), "a slot began twice"
        rows = self.s.executions(name)
        assert {row.slot for row in rows} >= set(slots)
        assert {row.status for row in rows} == {Status.COMPLETED}
        contents = [content(row.slot) for row in rows]
        assert all(one != other for one, other in itertools.pairwise(contents)), "a content ran twice in a row"
        assert content(self.s.task(name).cursor) == contents[-1]


@asynccontextmanager
async def storm(*tasks: Task, store: str | SqliteStore = ":memory:") -> AsyncIterator[Storm]:
    recorder = Recorder()
    with anyio.fail_after(LIMIT_S):
        async with Scheduler(store, runner=recorder) as s:
            it = Storm(s, recorder)
            for task in (*tasks, every("20ms", "beat")):
                await s.add(task)
            yield it


async def rages(what: Callable[..., object], *args: object) -> None:
    """Let a storm rage beside the engine's loop."""
    await anyio.to_thread.run_sync(partial(what, *args))


# Editors


def by_backup(path: Path, text: str) -> None:
    """Save as vim does: the old file is renamed to a backup, a new one is written, the backup deleted."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def by_replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)  # noqa: PTH105 - what editors call


def by_truncating(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.flush()
        for sign in text:
            file.write(sign)
            file.flush()


def by_deleting(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def by_two_writes(path: Path, text: str) -> None:
    path.write_text("")
    path.write_text(text)


def saves(save: Callable[[Path, str], None], path: Path) -> None:
    for n in range(ROUNDS):
        save(path, f"text {n}")


@pytest.mark.anyio
@pytest.mark.parametrize("save", [by_backup, by_replace, by_truncating, by_deleting, by_two_writes])
async def test_the_last_save_of_an_editor_is_served(tmp_path: Path, save: Callable[[Path, str], None]):
    watched = tmp_path / "prices.csv"
    watched.write_text("before")
    async with storm(watching(watched), watching(tmp_path / "*.csv", name="glob")) as it:
        await rages(saves, save, watched)
        await it.serves()
        await it.serves("glob")
        assert it.errors() == []


@pytest.mark.anyio
async def test_what_an_editor_writes_beside_a_file_runs_nothing_and_reads_nothing(tmp_path: Path):
    watched = tmp_path / "prices.csv"
    watched.write_text("before")
    beside = [f"{watched}~", f"{tmp_path}/.prices.csv.swp", f"{tmp_path}/4913"]
    assert Roots({"id": str(watched)}).told_by(beside) == (set(), False)
    assert Roots({"id": str(watched)}).told_by([*beside, str(watched)]) == ({"id"}, False)
    async with storm(watching(watched)) as it:
        for name in beside:
            await rages(Path(name).write_text, "temporary")
        await rages(watched.write_text, "after")
        await it.serves()
        assert len(it.slots()) == 1


# Many files


def git(folder: Path, *arguments: str, given: str = "") -> None:
    subprocess.run(["git", "-c", "core.fsync=none", *arguments], cwd=folder, check=True, input=given.encode())


def repository(folder: Path, count: int) -> None:
    """Make a repository whose two commits, `one` and `two`, differ in every file and in its folders."""
    stream = []
    for branch in ("one", "two"):
        stream.append(f"commit refs/heads/{branch}\ncommitter Ana <ana@example.org> 0 +0000\ndata 3\n{branch}\n")
        for name in ("same.txt", *(f"{branch}{n % 7}/{n % 5}/{n}.txt" for n in range(count - 1))):
            text = f"{branch} {name}"
            stream.append(f"M 100644 inline {name}\ndata {len(text)}\n{text}\n")
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "fast-import", "--quiet", given="".join(stream))
    git(folder, "checkout", "--quiet", "one")


@pytest.mark.anyio
@on_one_loop
async def test_a_checkout_is_served_once_for_each_content_that_settled(tmp_path: Path):
    work = tmp_path / "work"
    await rages(repository, work, 1000)
    tasks = [watching(work), watching(work / "**" / "*.txt", name="glob"), watching(work / "same.txt", name="file")]
    async with storm(*tasks) as it:
        for n in range(by_scale(2, 30)):
            await rages(git, work, "checkout", "--quiet", ("two", "one")[n % 2])
            for task in tasks:
                await it.serves(task.name)
        for n in range(by_scale(3, 100)):  # without waiting
            await rages(git, work, "checkout", "--quiet", ("one", "two")[n % 2])
        await rages((work / "same.txt").write_text, "the end")
        for task in tasks:
            await it.serves(task.name)


# Folders that go and come


def remakes(folder: Path, file: Path) -> None:
    """Delete a folder and make it again, at once: the new one often has the old one's inode."""
    for n in range(ROUNDS):
        shutil.rmtree(folder)
        file.parent.mkdir(parents=True)
        file.write_text(f"again {n}")


def moves_away(folder: Path, file: Path) -> None:
    """Rename a folder: its watch goes with it, and no folder below it tells of anything."""
    for n in range(ROUNDS):
        folder.rename(folder.with_name(f"away {n}"))
        file.parent.mkdir(parents=True)
        file.write_text(f"again {n}")


@pytest.mark.anyio
@pytest.mark.parametrize("goes", [remakes, moves_away])
@pytest.mark.parametrize("which", ["a", "a/b", "a/b/c"])
async def test_a_folder_made_again_is_watched_also_when_it_was_one_above(
    tmp_path: Path, which: str, goes: Callable[[Path, Path], None]
):
    file = tmp_path / "a" / "b" / "c" / "file"
    file.parent.mkdir(parents=True)
    tasks = [watching(file), watching(file.parent, name="folder"), watching(file.parent / "f*", name="glob")]
    async with storm(*tasks) as it:
        file.write_text("the first one's events are heard")
        for task in tasks:
            await it.serves(task.name)
        await rages(goes, tmp_path / which, file)
        for task in tasks:
            await it.serves(task.name)
        await rages(file.write_text, "the new one's events are heard")
        for task in tasks:
            await it.serves(task.name)


@pytest.mark.anyio
async def test_a_file_becomes_a_folder_and_a_file_again(tmp_path: Path):
    watched = tmp_path / "it"

    def turns(n: int) -> None:
        watched.unlink(missing_ok=True)
        watched.mkdir()
        (watched / "inside").write_text(f"{n}")
        shutil.rmtree(watched)
        watched.write_text(f"{n}")

    async with storm(watching(watched)) as it:
        for n in range(ROUNDS):
            await rages(turns, n)
        await it.serves()
        watched.unlink()
        (watched / "deep").mkdir(parents=True)
        await it.serves()
        (watched / "deep" / "file").write_text("a folder of a folder")
        await it.serves()


@pytest.mark.anyio
async def test_folders_made_in_a_storm_are_all_watched(tmp_path: Path):
    def grows() -> None:
        for n in range(by_scale(30, 1000)):
            (tmp_path / f"{n % 9}" / f"{n % 5}" / f"{n}").mkdir(parents=True)

    async with storm(watching(tmp_path)) as it:
        await rages(grows)
        for n in range(3):
            (tmp_path / f"{n}" / f"{n}" / f"{n}" / "file").write_text("heard")
            await it.serves()


@pytest.mark.anyio
@on_one_loop
async def test_all_may_vanish_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "in"
    vanish = threading.Event()
    read = files.Contents._read

    def reading(self: files.Contents, path: str) -> str:
        if vanish.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            vanish.clear()
        return read(self, path)

    monkeypatch.setattr(files.Contents, "_read", reading)
    folder.mkdir()
    (folder / "a").write_text("1")
    async with storm(watching(folder), watching(folder / "a", name="file")) as it:
        for n in range(ROUNDS):
            vanish.set()
            (folder / "a").write_text(f"{n} changed")
            await it.until(lambda: not vanish.is_set())
            await it.serves()
            await it.serves("file")
            folder.mkdir()
            (folder / "a").write_text(f"{n} made again")
            await it.serves()
            await it.serves("file")


# Links


@pytest.mark.parametrize("pattern", ["", "**/*.txt", "*/*.txt", "**/in/**/*.txt"])
def test_links_that_loop_cost_nothing(tmp_path: Path, pattern: str):
    folder = tmp_path / "in"
    (folder / "in").mkdir(parents=True)
    for where in (folder, folder / "in"):
        (where / "a.txt").write_text("1")
    before = files.digest(str(folder / pattern))
    for where in (folder, folder / "in"):
        for n in range(4):
            (where / f"itself {n}").symlink_to(where)
            (where / f"parent {n}").symlink_to(where.parent)
            (where / f"everything {n}").symlink_to("/")
            (where / f"no end {n}").symlink_to(f"no end {n}")
    paths = str(folder / pattern)
    if pattern != "*/*.txt":  # this one asks for what a link leads to
        assert files.digest(paths) == before
    assert len(Roots({"id": paths}).folders) <= len(folder.parts) + 30


@pytest.mark.anyio
async def test_a_folder_with_loops_and_dangling_links_is_watched(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "dangling").symlink_to(tmp_path / "later")
    async with storm(watching(folder), watching(folder / "**" / "*", name="glob")) as it:
        for change in (
            lambda: (folder / "file").write_text("1"),
            lambda: (tmp_path / "later").write_text("what dangled leads to a file now"),
            lambda: (tmp_path / "later").write_text("and that changed"),
        ):
            await rages(change)
            await it.serves()
            await it.serves("glob")


@pytest.mark.anyio
async def test_a_link_is_what_it_leads_to_wherever_the_way_changes(tmp_path: Path):
    """As a deployment does: current -> releases/2, and the file is a link into a third folder."""
    for n in (1, 2):
        (tmp_path / "releases" / f"{n}").mkdir(parents=True)
        (tmp_path / "shared" / f"{n}").mkdir(parents=True)
        (tmp_path / "shared" / f"{n}" / "data").write_text(f"shared {n}")
        (tmp_path / "releases" / f"{n}" / "data").symlink_to(f"../../shared/{n}/data")
    current = tmp_path / "current"
    current.symlink_to("releases/1")

    def switch(n: int) -> None:
        (tmp_path / "next").symlink_to(f"releases/{n}")
        (tmp_path / "next").rename(current)

    def target(n: int) -> None:
        by_replace(tmp_path / "shared" / f"{n}" / "data", f"replaced {n}")

    tasks = [watching(current / "data"), watching(current, name="folder"), watching(current / "d*", name="glob")]
    async with storm(*tasks) as it:
        for change, n in ((target, 1), (switch, 2), (target, 2), (switch, 1)):
            await rages(change, n)
            for task in tasks:
                await it.serves(task.name)


# Contents that come back, files that never rest


@pytest.mark.anyio
async def test_a_content_that_comes_back_is_a_new_slot(store: SqliteStore, tmp_path: Path):
    watched = tmp_path / "it"
    watched.write_text("A")
    async with storm(watching(watched), store=store) as it:
        for n in range(ROUNDS):
            watched.write_text("BA"[n % 2])
            await it.serves()
        a, b = (files.digest(str(watched)) if watched.write_text(text) else "" for text in "AB")
        assert it.slots()[:4] == [b, a, f"{b}.3", f"{a}.4"]
        assert len(it.slots()) >= ROUNDS


@pytest.mark.anyio
@on_one_loop
async def test_contents_that_alternate_quickly_end_with_the_last(store: SqliteStore, tmp_path: Path):
    watched = tmp_path / "it"

    def alternates() -> None:
        for n in range(200):
            watched.write_text("AB"[n % 2])

    async with storm(watching(watched), store=store) as it:
        for n in range(by_scale(3, 100)):
            await rages(alternates)
            await rages(watched.write_text, f"{n}")
            await it.serves()


def test_a_change_within_one_tick_of_the_file_systems_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_stamp", lambda stat: (0, 0, 0, 0, 0))
    watched, contents = tmp_path / "it", files.Contents()
    seen = []
    for text in "ABA":
        watched.write_text(text)
        seen.append(contents.digest(str(watched)))
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.anyio
async def test_a_file_that_is_written_all_the_time_is_read_and_starves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watch, "_LONGEST_S", 0.1)
    log, other, over = tmp_path / "log", tmp_path / "other", threading.Event()

    def writes() -> None:
        with log.open("a", buffering=1) as file:
            while not over.wait(0.001):
                file.write("a line\n")

    async with storm(watching(log), watching(other, name="other")) as it, anyio.create_task_group() as group:
        group.start_soon(rages, writes)
        try:
            for n in range(3):
                await it.has_finished(2 * n + 1)
                other.write_text(f"{n}")
                await it.serves("other")
        finally:
            over.set()
    async with storm(watching(log)) as it:
        log.write_text("the end")
        await it.serves()


# Large ones


def many(folder: Path, count: int) -> None:
    for n in range(count):
        where = folder / f"{n % 100}"
        if n < 100:
            where.mkdir(parents=True)
        (where / f"{n}.csv").write_text(f"{n}")


@pytest.mark.anyio
@on_one_loop
async def test_of_a_huge_folder_only_what_changed_is_read_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    count = by_scale(2_000, 20_000)
    folder = tmp_path / "in"
    await rages(many, folder, count)
    monkeypatch.setattr(files, "RACY_NS", -1_000_000_000)  # else whatever is younger than 2 s is read again
    opened: list[str] = []
    read = files.Contents._read

    def reading(self: files.Contents, path: str) -> str:
        opened.append(path)
        return read(self, path)

    monkeypatch.setattr(files.Contents, "_read", reading)
    stalls: list[float] = []
    took_s: list[float] = []

    async def ticks() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.001)
            stalls.append(time.perf_counter() - before - 0.001)

    async with storm(watching(folder)) as it, anyio.create_task_group() as group:
        await it.until(lambda: len(set(opened)) == count)
        (folder / "0" / "0.csv").write_text("warm")
        await it.serves()
        group.start_soon(ticks)
        for n in range(3):
            opened.clear()
            began = time.perf_counter()
            changed = folder / f"{n}" / f"{n}.csv"
            changed.write_text("changed")
            await it.has_finished(it.finished() + 1)
            took_s.append(time.perf_counter() - began)
            assert set(opened) == {str(changed)}
            await it.serves()
        group.cancel_scope.cancel()
    print(f"{count} files: a change is served within {max(took_s):.3f} s, the loop stalls {max(stalls):.3f} s at most")


@pytest.mark.anyio
@on_one_loop
async def test_a_file_above_64_mb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(files.LARGE + 1)
    monkeypatch.setattr(files.Contents, "_read", lambda self, path: pytest.fail("a large file was read"))
    async with storm(watching(large), watching(tmp_path / "l*", name="glob")) as it:
        for n in range(3):
            with large.open("r+b") as file:
                file.write(f"{n}".encode())
            await it.serves()
            await it.serves("glob")


def test_a_file_that_grows_past_64_mb_while_it_is_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "log"
    log.write_bytes(b"1" * 100)
    monkeypatch.setattr(files, "LARGE", 1000)
    read = os.read

    def reading(descriptor: int, size: int) -> bytes:
        with log.open("ab") as file:
            file.write(b"2" * 200)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", reading)
    assert len(files.digest(str(log))) == 16


# Odd ones


@pytest.mark.anyio
@on_one_loop
async def test_odd_names_are_watched_and_told_of(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"new\nline", b"quote's \"", b"\xff\xfe", "snö ☃".encode(), b" ", b"*?[a]", b"-rf", b"a\x01\x7f"]
    async with storm(watching(folder), watching(folder / "*", name="glob"), watching(tmp_path / "x", name="x")) as it:
        for name in names:
            (folder / os.fsdecode(name)).write_text("1")
            await it.serves()
            await it.serves("glob")
        (tmp_path / "x").write_text("watched on after a name that is not UTF-8")
        await it.serves("x")
        assert it.errors() == []


@pytest.mark.anyio
async def test_a_folder_whose_name_is_not_utf_8_is_read_every_second_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watch, "_POLL_S", 0.05)
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    async with storm(watching(tmp_path)) as it:
        for n in range(3):
            (folder / "file").write_text(f"{n}")
            await it.serves()
        assert [text for text in it.errors() if "not UTF-8" in text] == it.errors()[:1] != []


@pytest.mark.anyio
async def test_what_is_no_file_is_never_opened(tmp_path: Path):
    """Reading a pipe waits for a writer for ever, reading /dev/zero never ends."""
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        here = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, here)
        listening.bind(f"/proc/self/fd/{here}/socket")  # its own name may be too long for one
        tasks = [watching(folder), *(watching(folder / name, name=name) for name in ("pipe", "zero", "socket"))]
        async with storm(*tasks) as it:
            (folder / "file").write_text("beside them")
            await it.serves()
            for name in ("pipe", "zero", "socket"):
                (folder / name).unlink()
                (folder / name).write_text("a file now")
                await it.serves(name)
                (folder / name).unlink()
                os.mkfifo(folder / name)
                await it.serves(name)
            await it.serves()


def test_a_file_that_becomes_a_pipe_while_it_is_looked_at_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    watched = tmp_path / "it"
    watched.write_text("a file")
    looked = os.stat

    def stat(path: str, **how: object) -> os.stat_result:
        found = looked(path)
        if path == str(watched) and watched.is_file():
            watched.unlink()
            os.mkfifo(watched)
        return found

    monkeypatch.setattr(os, "stat", stat)
    assert len(files.digest(str(watched))) == 16
    assert watched.is_fifo()


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_a_state(tmp_path: Path):
    watched = tmp_path / "it"
    watched.write_text("1")
    async with storm(watching(watched), watching(tmp_path, name="folder")) as it:
        for mode in (0o000, 0o600):
            watched.chmod(mode)
            await it.serves()
            await it.serves("folder")


@pytest.mark.anyio
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
async def test_a_read_that_is_refused_is_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    watched, refused = tmp_path / "it", threading.Event()
    opens = os.open

    def opening(path: str, *how: int, **more: int) -> int:
        if path == str(watched) and refused.is_set():
            raise OSError(code, os.strerror(code), path)
        return opens(path, *how, **more)

    monkeypatch.setattr(os, "open", opening)
    async with storm(watching(watched)) as it:
        for n in range(3):
            refused.clear()
            watched.write_text(f"{n}")
            await it.serves()
            refused.set()
            os.utime(watched)
            await it.has_finished(2 * n + 2)
        assert it.errors() == []


@pytest.mark.anyio
async def test_a_lack_of_descriptors_is_no_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "_POLL_S", 0.05)
    watched, lacking = tmp_path / "it", threading.Event()
    opens = os.open

    def opening(path: str, *how: int, **more: int) -> int:
        if path == str(watched) and lacking.is_set():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opens(path, *how, **more)

    monkeypatch.setattr(os, "open", opening)
    async with storm(watching(watched)) as it:
        lacking.set()
        watched.write_text("1")
        await it.until(lambda: any("cannot be read" in text for text in it.errors()))
        lacking.clear()
        await it.serves()
        assert len(it.slots()) == len(it.errors()) == 1


# A system that cannot watch


@pytest.mark.anyio
async def test_without_a_watch_paths_are_read_every_second_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watch, "_POLL_S", 0.05)
    monkeypatch.setattr(watch, "_SWEEP_S", 0.3)
    watched, other = tmp_path / "it", tmp_path / "other"
    folder = tmp_path / "in"
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    async with storm() as it, await anyio.open_file(watched, "w", buffering=1) as writing:
        await it.s.maintain()  # the one at the start, which opens files too, is over then
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))  # noqa: PTH208
        try:
            while True:
                try:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            os.close(taken.pop())  # enough to read files, not to watch
            for task in (watching(watched), watching(other, name="other"), watching(folder, name="folder")):
                await it.s.add(task)
            await it.until(lambda: sum("cannot be watched" in text for text in it.errors()) >= 3)
            for n in range(3):
                await writing.write(f"{n}\n")
                await it.has_finished(n + 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        assert all("Too many open files" in text for text in it.errors())
        await it.serves()
        (folder / "file").write_text("1")
        await it.serves("folder")
        told = len(it.errors())
        heard = anyio.Event()

        async def watched_again(*folders: str, **how: object) -> AsyncIterator[object]:
            async for changes in awatch(*folders, **how):  # type: ignore[arg-type]
                heard.set()
                yield changes

        monkeypatch.setattr(watch, "awatch", watched_again)
        await it.s.add(watching(tmp_path / "third", name="third"))
        while not heard.is_set():
            (tmp_path / "third").write_text("the system tells again")
            await anyio.sleep(0.05)
        await it.serves("third")
        assert len(it.errors()) == told


# More than one


@pytest.mark.anyio
async def test_two_schedulers_run_each_content_once_under_a_storm(path: Path, tmp_path: Path):
    watched = tmp_path / "it"
    watched.write_text("A")

    def alternates(n: int) -> None:
        for text in ("A", "B", "A", "B", f"{n}"):
            watched.write_text(text)

    async with storm(watching(watched), store=str(path)) as one, storm(watching(watched), store=str(path)) as two:

        def served(state: str) -> bool:
            rows = [row for row in one.s.executions("task") if row.status is Status.COMPLETED]
            return bool(rows) and content(rows[-1].slot) == state

        for n in range(ROUNDS):
            await rages(alternates, n)
            state = files.digest(str(watched))
            with anyio.move_on_after(LIMIT_S):
                while not served(state):  # noqa: ASYNC110 - whoever was first tells of it
                    await anyio.sleep(0.01)
            assert served(state)
        ids = [*one.recorder.ids, *two.recorder.ids]
        slots = [*one.slots(), *two.slots()]
        assert len(set(ids)) == len(ids)
        assert len(set(slots)) == len(slots) == len(one.s.executions("task"))


@pytest.mark.anyio
async def test_a_task_that_is_given_other_paths_follows_them(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = tmp_path / "a" / "file", tmp_path / "b" / "file"
    async with storm(watching(a)) as it:
        a.write_text("1")
        await it.serves()
        await it.s.add(watching(b))
        b.write_text("2")
        await it.serves()
        a.write_text("3")
        b.write_text("4")
        await it.serves()
        assert len(it.slots()) == 3


@pytest.mark.anyio
async def test_a_task_armed_again_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    watched = tmp_path / "it"
    held = Held(monkeypatch)
    async with storm(watching(watched)) as it:
        await it.until(held.idle)
        held.hold()
        os.utime(tmp_path)
        watched.write_text("1")
        await held.begins(it)
        await it.s.disarm("task")
        watched.write_text("2")
        await it.s.arm("task")
        held.let_go()
        await it.serves()


# The control


class Held:
    """Reading that waits, once its content is known, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go = threading.Event()
        self._go.set()
        self._reading = 0
        self.held = 0
        digest = files.Contents.digest

        def reading(contents: files.Contents, paths: str) -> str:
            self._reading += 1
            try:
                found = digest(contents, paths)
                if not self._go.is_set():
                    self.held += 1
                    self._go.wait(LIMIT_S)
            finally:
                self._reading -= 1
            return found

        monkeypatch.setattr(files.Contents, "digest", reading)

    def idle(self) -> bool:
        return self._reading == 0

    def hold(self) -> None:
        self.held = 0
        self._go.clear()

    def let_go(self) -> None:
        self._go.set()

    async def begins(self, it: Storm) -> None:
        """Wait until somebody reads; the beat's events make the time pass."""
        await it.until(lambda: self.held > 0)


class Forgetful(Watcher):
    """A watcher that breaks the promise: what changes while it reads is forgotten."""

    def _read_soon(self, followed: Followed) -> None:
        if not followed.reading:
            super()._read_soon(followed)


async def changes_while_read(watched: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Change a file after it was read and found unchanged, before that is known; return whether it was served."""
    held = Held(monkeypatch)
    fence = watched.with_name("fence")
    await rages(watched.write_text, "same")
    async with storm(watching(watched)) as it:
        await it.until(held.idle)
        held.hold()
        await rages(watched.write_text, "same")
        await held.begins(it)
        heard: list[str] = []
        told_by = Roots.told_by

        def hearing(self: Roots, changed: list[str]) -> Told:
            heard.extend(changed)
            return told_by(self, changed)

        monkeypatch.setattr(Roots, "told_by", hearing)
        await rages(watched.write_text, "other")
        await it.until(lambda: str(watched) in heard)
        await rages(fence.write_text, "")
        await it.until(lambda: str(fence) in heard)
        held.let_go()
        beats = it.finished("beat")
        await it.until(lambda: it.slots() or it.finished("beat") >= beats + 50)
        return bool(it.slots())


@pytest.mark.anyio
async def test_what_changes_while_it_is_read_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert await changes_while_read(tmp_path / "it", monkeypatch)


@pytest.mark.anyio
async def test_a_watcher_that_forgets_what_changes_while_it_reads_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduler, "Watcher", Forgetful)
    assert not await changes_while_read(tmp_path / "it", monkeypatch)


# Globs


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.txt", "**", "**/*", "**/*.txt", "a/**/c/*", "*/b/*.txt", "**/**/x.txt", ".*", "[ab]/*/?", "a*/**"],
)
def test_a_pattern_means_what_glob_says(tmp_path: Path, pattern: str):
    for folder in ("a/b/c", "b/b", "abc/c/d", ".hidden/a", "a/.hidden"):
        for name in ("x.txt", "y", ".z.txt"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text("")
    (tmp_path / "x.txt").write_text("")
    said = {path for path in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if os.path.isfile(path)}  # noqa: PTH113, PTH207
    assert {path for path in files.survey(f"{tmp_path}/{pattern}").files if os.path.isfile(path)} == said  # noqa: PTH113
