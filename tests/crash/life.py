"""One life of a scheduler, to be killed: `python -m tests.crash.life STORE LOG`."""

import os
import sys

import anyio

import car_sched_nb as car

EVERY = "100ms"


async def main(store: str, log: str) -> None:
    async def work(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
        note(log, runtime.slot)
        await anyio.sleep(0.03)
        return "done"

    async with car.Scheduler(store, runner=work) as scheduler:
        await scheduler.add(car.Task("tick", "work", car.Trigger.INTERVAL, EVERY, runner="agent"))
        print("UP", flush=True)
        await anyio.sleep_forever()


def note(log: str, slot: str) -> None:
    """Append a line that survives whatever comes next."""
    line = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, f"{slot}\n".encode())
    os.close(line)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
