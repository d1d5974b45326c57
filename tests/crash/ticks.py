"""A scheduler with one task, ten times a second, to be stopped and killed: `python -m tests.crash.ticks STORE LOG`."""

import sys

import anyio

import car_sched_nb as car
from tests.crash.life import WORK_S, note


async def main(store: str, log: str) -> None:
    async def work(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
        note(log, runtime.slot)
        await anyio.sleep(WORK_S)
        return "done"

    async with car.Scheduler(store, runner=work) as scheduler:
        await scheduler.add(car.Task("tick", "work", car.Trigger.INTERVAL, "100ms", runner="agent"))
        print("UP", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
