"""A scheduler whose body forks: `python -m tests.crash.forks MODE STORE LOG`; the log tells what the child met."""

import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio

import car_sched_nb as car
from car_sched_nb.errors import StoreForked
from car_sched_nb.runners.python import PythonRunner
from car_sched_nb.store import records
from car_sched_nb.store.sqlite import SqliteStore
from tests.crash import life


class Forks:
    """What a body does with a child of its own."""

    def __init__(self, store: SqliteStore, log: str) -> None:
        self.store = store
        self.log = log

    def say(self, text: str) -> None:
        life.note(self.log, text)

    def touch_store(self) -> None:
        """Do in a child what it must not, and what happens when it ends."""
        for touch in (self.read, self.write):
            try:
                touch()
            except StoreForked as error:
                self.say(f"refused: {error}")
        self.store.close()
        gc.collect()

    def read(self) -> None:
        records.tasks(self.store)

    def write(self) -> None:
        with self.store.transaction() as db:
            db.execute("DELETE FROM executions")

    def fork(self) -> str:
        """Fork; the child touches the store and ends."""
        return self.in_child(self.touch_store)

    def fork_in_transaction(self) -> str:
        """Fork while this process is in the middle of a transaction."""
        with self.store.transaction() as db:
            db.execute("UPDATE tasks SET name = 'half'")
            said = self.in_child(self.touch_store)
            db.execute("UPDATE tasks SET name = 'forks'")
        return said

    def in_child(self, do: Callable[[], None]) -> str:
        child = os.fork()
        if child == 0:
            do()
            os._exit(0)
        os.waitpid(child, 0)
        return "the parent went on"

    def come_back(self) -> str:
        """Return in the child as in the parent."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            self.say("came back")
        return "came back"

    def orphan(self) -> str:
        """Leave a child behind that outlives its parent."""
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        self.say(f"orphan {child}")
        time.sleep(60)
        return ""

    def multiprocess(self) -> str:
        """Do some work in two processes of a pool."""
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self.touch_store)
        process.start()
        process.join()
        with context.Pool(2) as pool:
            return str(sum(pool.map(abs, [-1, -2, -3])))


async def main(mode: str, path: str, log: str) -> None:
    store = SqliteStore(path)
    store.migrate()
    forks = Forks(store, log)
    python = PythonRunner({"forks": forks})
    async with car.Scheduler(store, python=python) as scheduler:
        await scheduler.add(car.Task("forks", f"forks.{mode}()"))
        await scheduler.run_now("forks")
        print("UP", flush=True)
        await scheduler.wait()
        await scheduler.add(car.Task("later", "forks.say('later')"))
        await scheduler.run_once("later")
    store.close()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
    assert not list(Path(f"{sys.argv[2]}.d").glob("*.lock"))
