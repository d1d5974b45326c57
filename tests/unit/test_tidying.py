"""Long texts and artifacts are not kept for ever; no row is lost by it, and nothing that lives."""

import os
import time
from pathlib import Path

import anyio
import pytest

from car_sched_nb.model import Task
from car_sched_nb.store import records, tidying
from car_sched_nb.store.ops import Call
from tests.unit.world import Recorder, agent, running

pytestmark = pytest.mark.anyio

LONG = "print('x' * 200_000)"
DAY_S = 86_400.0


def old(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


async def test_the_file_of_an_old_execution_goes_and_its_row_stays(tmp_path: Path):
    store = str(tmp_path / "tasks.db")
    async with running(store) as s:
        done = [await s.run_once(Task(name, LONG)) for name in ("young", "old")]
        paths = [Path(str(records.output(s.store, one.execution_id)[4])) for one in done]
        old(paths[0], 29)
        old(paths[1], 31)
        assert tidying.tidy(s.store, time.time()).files == 1
        assert [path.exists() for path in paths] == [True, False]
        assert records.output_text(s.store, done[1].execution_id).startswith("xxx")


@pytest.mark.parametrize(("space", "gone"), [("", 1), ("default", 1), ("other", 0)])
async def test_how_long_is_what_the_setting_says(tmp_path: Path, space: str, gone: int):
    async with running(str(tmp_path / "tasks.db")) as s:
        done = await s.run_once(Task("task", LONG))
        old(Path(str(records.output(s.store, done.execution_id)[4])), 2)
        sql = "INSERT INTO settings (namespace, name, value) VALUES (?, 'keep_files', '1d')"
        await s.writer.write(Call(lambda db: db.execute(sql, (space,)).fetchall()))
        assert tidying.tidy(s.store, time.time()).files == gone


async def test_a_file_of_nobody_goes_and_that_of_a_live_execution_stays_however_old(tmp_path: Path):
    recorder = Recorder(held=True)
    async with running(str(tmp_path / "tasks.db"), recorder) as s:
        await s.add(agent())
        await s.run_now("task")
        await recorder.begun.wait()
        folder = tmp_path / "tasks.db.d" / "outputs"
        folder.mkdir()
        live = folder / (recorder.ids[0].replace(":", "_") + ".ipynb")
        orphan, young = folder / "0123456789_manual_abc.txt", folder / "9876543210_manual_abc.txt"
        for path in (live, orphan, young):
            path.write_text("x")
        old(live, 100)
        old(orphan, 1)
        assert tidying.tidy(s.store, time.time()).files == 1
        assert (live.exists(), orphan.exists(), young.exists()) == (True, False, True)
        recorder.let_go()
        await s.wait()


async def test_beyond_the_most_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tidying, "MOST_BYTES", 500_000)
    async with running(str(tmp_path / "tasks.db")) as s:
        done = [await s.run_once(Task(f"t{k}", LONG)) for k in range(4)]
        paths = [Path(str(records.output(s.store, one.execution_id)[4])) for one in done]
        for days, path in enumerate(paths):
            old(path, days + 1)
        assert tidying.tidy(s.store, time.time()).files == 2
        assert [path.exists() for path in paths] == [True, True, False, False]


async def test_a_scheduler_tidies_when_it_starts(tmp_path: Path):
    store = str(tmp_path / "tasks.db")
    async with running(store) as s:
        done = await s.run_once(Task("task", LONG))
        path = Path(str(records.output(s.store, done.execution_id)[4]))
    old(path, 31)
    async with running(store):
        while path.exists():  # noqa: ASYNC110, ASYNC240 - nobody tells of it
            await anyio.sleep(0.01)
