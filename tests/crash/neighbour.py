"""Another kernel of one store: `python -m tests.crash.neighbour STORE`; tells what it disarms."""

import sys

import anyio

import car_sched_nb as car
from car_sched_nb.engine.events import Event

TICK = "100ms"


def task(name: str, trigger: car.Trigger = car.Trigger.MANUAL, schedule: str = "", **options: object) -> car.Task:
    """Return a task that is the same in both processes."""
    return car.Task(name, name, trigger, schedule, runner="agent", **options)  # type: ignore[arg-type]


TASKS = [
    task("tick", car.Trigger.INTERVAL, TICK),
    task("long"),
    task("fails", retries=1, retry_delay="1s"),
]


async def main(store: str) -> None:
    async def work(spec: car.AgentSpec, prompt: str, runtime: car.Runtime, mailbox: car.Mailbox) -> str:
        if prompt == "long":
            await anyio.sleep_forever()
        if prompt == "fails":
            raise ValueError("no")
        return "there"

    async with car.Scheduler(store, runner=work) as scheduler:
        scheduler.listen(tell)
        for one in TASKS:
            await scheduler.add(one)
        await scheduler.run_now("long")
        await scheduler.run_now("fails")
        print("UP", flush=True)
        await anyio.sleep_forever()


def tell(event: Event) -> None:
    if event.kind == "disarmed":
        print("disarmed", event.task.name, flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
