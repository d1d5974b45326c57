"""Watched files, folders and globs: every change fires once, the baseline never."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from car_sched_nb import files
from car_sched_nb.errors import InvalidInput
from car_sched_nb.model import Task, Trigger
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import Ear, Recorder, agent, running


def watching(*paths: Path | str) -> Task:
    return agent(trigger=Trigger.FILE_WATCH, watch_path="\n".join(map(str, paths)))


async def runs_after(store: SqliteStore | str, task: Task, *changes: Callable[[], object]) -> list[str]:
    """Return the slots that ran, one awaited for each change."""
    recorder = Recorder()
    async with running(store, recorder) as s:
        ear = Ear(s)
        await s.add(task)
        for change in changes:
            change()
            await ear.hears("finished")
        return recorder.slots


def replace(path: Path, text: str) -> None:
    other = path.with_name(".new")
    other.write_text(text)
    other.replace(path)


def make(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("2")


def grow(path: Path) -> None:
    with path.open("a") as file:
        file.write("more")


CHANGES: dict[str, list[Callable[[Path], object]]] = {
    "a file is written": [lambda p: (p / "data.csv").write_text("new")],
    "a file grows": [lambda p: grow(p / "data.csv")],
    "another file is renamed over it": [lambda p: replace(p / "data.csv", "new")],
    "it is deleted": [lambda p: (p / "data.csv").unlink()],
    "it is deleted and made again": [lambda p: (p / "data.csv").unlink(), lambda p: (p / "data.csv").write_text("new")],
    "it is moved away and back": [
        lambda p: (p / "data.csv").rename(p / "away"),
        lambda p: (p / "away").rename(p / "data.csv"),
    ],
}


@pytest.mark.anyio
@pytest.mark.parametrize("what", CHANGES)
async def test_a_file_runs_its_task_when(store: SqliteStore, tmp_path: Path, what: str):
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "data.csv").write_text("old")
    changes = [lambda change=change: change(folder) for change in CHANGES[what]]
    assert len(set(await runs_after(store, watching(folder / "data.csv"), *changes))) == len(changes)


@pytest.mark.anyio
async def test_a_file_that_does_not_exist_yet_runs_its_task_when_it_is_made(tmp_path: Path):
    made = tmp_path / "data.csv"
    assert len(await runs_after(":memory:", watching(made), lambda: made.write_text(""))) == 1


@pytest.mark.anyio
async def test_a_folder_runs_its_task_when_anything_below_it_changes(tmp_path: Path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    changes = [
        lambda: (folder / "a.txt").write_text("1"),
        lambda: (folder / "deep" / "b.txt").write_text("2"),
        lambda: (folder / "deep" / "b.txt").rename(folder / "c.txt"),
        (folder / "a.txt").unlink,
    ]
    assert len(set(await runs_after(":memory:", watching(folder), *changes))) == 4


@pytest.mark.anyio
async def test_a_glob_runs_its_task_when_a_file_that_fits_comes_changes_or_goes(tmp_path: Path):
    changes: list[Callable[[], object]] = [
        lambda: (tmp_path / "a.csv").write_text("1"),
        lambda: (tmp_path / "b.csv").write_text("2"),
        lambda: (tmp_path / "a.csv").write_text("3"),
        (tmp_path / "b.csv").unlink,
    ]
    assert len(set(await runs_after(":memory:", watching(tmp_path / "*.csv"), *changes))) == 4


@pytest.mark.anyio
async def test_several_paths_are_one_task(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    changes: list[Callable[[], object]] = [lambda: a.write_text("1"), lambda: b.write_text("1"), a.unlink]
    assert len(set(await runs_after(":memory:", watching(a, b), *changes))) == 3


@pytest.mark.anyio
async def test_what_does_not_fit_a_glob_or_is_the_same_content_runs_nothing(tmp_path: Path):
    watched, recorder = tmp_path / "a.csv", Recorder()
    watched.write_text("same")
    async with running(":memory:", recorder) as s:
        ear = Ear(s)
        await s.add(watching(tmp_path / "*.csv"))
        (tmp_path / "b.txt").write_text("other")
        watched.write_text("same")
        os.utime(watched)
        watched.write_text("changed")  # what ran before this one would have been counted
        await ear.hears("finished")
        assert len(recorder.seen) == 1


@pytest.mark.anyio
async def test_the_baseline_never_fires_and_run_all_does_not_move_it(store: SqliteStore, tmp_path: Path):
    watched, recorder = tmp_path / "data.csv", Recorder()
    watched.write_text("old")
    async with running(store, recorder) as s:
        await s.add(watching(watched))
        await s.add(watching(watched))
        assert recorder.seen == []
    async with running(store, recorder) as s:
        ear = Ear(s)
        await s.add(watching(watched))
        watched.write_text("new")
        await ear.hears("finished")
        assert len(recorder.seen) == 1


@pytest.mark.anyio
async def test_edits_made_while_nothing_watched_fire_once(store: SqliteStore, tmp_path: Path):
    watched = tmp_path / "data.csv"
    watched.write_text("old")
    async with running(store) as s:
        await s.add(watching(watched))
    for text in ("new", "newer", "newest"):
        watched.write_text(text)
    assert len(await runs_after(store, watching(watched), lambda: None)) == 1
    async with running(store, recorder := Recorder()) as s:
        ear = Ear(s)
        await s.add(watching(watched))
        watched.unlink()
        await ear.hears("finished")
        assert len(recorder.seen) == 1


@pytest.mark.anyio
async def test_a_change_made_while_its_task_runs_runs_it_again(tmp_path: Path):
    watched, recorder = tmp_path / "data.csv", Recorder(held=True)
    async with running(":memory:", recorder) as s:
        ear = Ear(s)
        await s.add(watching(watched))
        watched.write_text("1")
        await recorder.begun.wait()
        watched.write_text("2")
        recorder.let_go()
        for _ in range(2):
            await ear.hears("finished")
        assert len(set(recorder.slots)) == 2


@pytest.mark.anyio
async def test_another_path_starts_afresh_from_its_own_baseline(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    recorder = Recorder()
    async with running(":memory:", recorder) as s:
        ear = Ear(s)
        await s.add(watching(a))
        await s.add(watching(b))
        a.write_text("3")
        b.write_text("4")
        await ear.hears("finished")
        assert len(recorder.seen) == 1
        assert recorder.slots[0].startswith("r1.")


@pytest.mark.anyio
async def test_a_paused_watch_runs_nothing_until_it_is_resumed(tmp_path: Path):
    watched, recorder = tmp_path / "a", Recorder()
    async with running(":memory:", recorder) as s:
        ear = Ear(s)
        await s.add(watching(watched))
        await s.pause("task")
        watched.write_text("1")
        await s.resume("task")
        await ear.hears("finished")
        assert len(recorder.seen) == 1


@pytest.mark.anyio
async def test_two_schedulers_that_watch_one_file_run_each_change_once(path: Path, tmp_path: Path):
    watched, recorder = tmp_path / "data.csv", Recorder()
    async with running(str(path), recorder) as one, running(str(path), recorder) as two:
        ears = Ear(one), Ear(two)
        for s in (one, two):
            await s.add(watching(watched))
        for text in ("1", "2", "3"):
            watched.write_text(text)
            while sum(event.kind == "finished" for ear in ears for event in ear.events) < int(text):  # noqa: ASYNC110
                await anyio.sleep(0.01)  # whoever was first tells of it
        assert len(set(recorder.ids)) == len(recorder.ids) == 3


@pytest.mark.anyio
async def test_a_folder_that_goes_and_comes_back_is_watched_again(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a").write_text("1")
    changes = [
        lambda: shutil.rmtree(folder),
        lambda: make(folder / "a"),
        lambda: (folder / "a").write_text("3"),
    ]
    assert len(set(await runs_after(":memory:", watching(folder / "a"), *changes))) == 3


def test_a_path_whose_parent_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match="does not exist"):
        files.resolve(str(tmp_path / "no" / "data.csv"))


def test_paths_are_kept_absolute_so_that_a_cd_does_not_move_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert files.resolve("data.csv\n*.txt") == f"{tmp_path}/data.csv\n{tmp_path}/*.txt"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.resolve("~/data.csv") == f"{tmp_path}/data.csv"


def test_a_digest_is_of_the_content_and_absence_is_one(tmp_path: Path):
    a = tmp_path / "a"
    assert files.digest(str(a)) == files.ABSENT
    a.write_text("1")
    first = files.digest(str(a))
    assert len(first) == 16
    a.write_text("2")
    assert files.digest(str(a)) != first
    a.write_text("1")
    assert files.digest(str(a)) == first


def test_a_large_file_counts_by_size_time_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "LARGE", 3)
    a = tmp_path / "a"
    a.write_text("1234")
    first = files.digest(str(a))
    os.utime(a, ns=(1, 1))
    assert files.digest(str(a)) != first


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path):
    odd = tmp_path / "data[1].csv"
    odd.write_text("1")
    assert not files.is_glob(str(odd))
    assert files.is_glob(str(tmp_path / "*.csv"))


def test_a_folder_that_cannot_be_read_or_loops_has_a_digest(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / b"\xff\xfe".decode("utf-8", "surrogateescape")).write_text("odd name")
    assert len(files.digest(str(tmp_path))) == 16
