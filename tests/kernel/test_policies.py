"""Policies as they are typed over a cell: tries, chains, what is filled in, and a notebook that is open twice."""

from tests.kernel.conftest import StartKernel
from tests.kernel.kernel import Kernel
from tests.kernel.notebook import ENV, LOAD, executions, ok, refused, wait_ended, wait_for_executions

FLAKY = """%%car_task flaky --every 1h --retries 3 --retry-delay 10ms
tries.append(car.current().attempt)
if len(tries) < 3:
    raise ConnectionError("not yet")
"there"
"""
TOTAL = """%%car_task total --after extract --into total
sum(car.current().upstream["extract"].result)
"""


def loaded(start_kernel: StartKernel) -> Kernel:
    kernel = start_kernel(env=ENV)
    ok(kernel, LOAD)
    return kernel


def test_a_cell_that_fails_is_tried_again_until_it_works(start_kernel: StartKernel):
    kernel = loaded(start_kernel)
    ok(kernel, "tries = []")
    ok(kernel, FLAKY)
    wait_ended(kernel, "flaky")
    rows = executions(kernel, "flaky")
    assert [(e.attempt, str(e.status), str(e.cause)) for e in rows] == [
        (1, "failed", "slot"),
        (2, "failed", "retry"),
        (3, "completed", "retry"),
    ]
    assert len({e.occurrence_id for e in rows}) == 1
    assert ok(kernel, "%car show flaky").startswith("%%car_task flaky --every 1h --retries 3 --retry-delay 10ms")


def test_a_chain_of_cells_hands_results_on_and_stops_at_a_failure(start_kernel: StartKernel):
    kernel = loaded(start_kernel)
    ok(kernel, "%%car_task extract --no-run\n[1, 2, 3 / divisor]")
    assert "after extract completed" in ok(kernel, TOTAL)
    ok(kernel, "divisor = 1\n%car run extract")
    wait_for_executions(kernel, "total", "completed")
    assert ok(kernel, "total") == "6.0"
    ok(kernel, "divisor = 0\n%car run extract")
    [skipped] = wait_for_executions(kernel, "total", "skipped")
    assert (skipped.reason, skipped.error) == ("upstream", "extract failed")
    said = refused(kernel, "%%car_task extract --after total\n1")
    assert "extract after total after extract" in said
    assert "did you mean 'extract'?" in refused(kernel, "%%car_task more --after extrct\n1")


def test_slots_that_nobody_served_are_filled_in_when_asked_for_and_once(start_kernel: StartKernel):
    kernel = loaded(start_kernel)
    ok(kernel, "%%car_task tick --runner shell --every 300ms --catchup none\necho $CAR_SLOT")
    wait_for_executions(kernel, "tick", "completed", 2)
    kernel.kill9()
    kernel.restart()
    ok(kernel, LOAD)
    ok(kernel, "time.sleep(1)\n%car arm tick")
    wait_for_executions(kernel, "tick", "missed")
    ok(kernel, "%car pause tick")
    wait_ended(kernel, "tick")
    unserved = [e for e in executions(kernel, "tick") if e.status in ("missed", "skipped")]
    slots = [str(int(e.slot) + k) for e in unserved for k in range(e.slots)]
    assert f"tick: {len(slots)} slot" in ok(kernel, "%car backfill tick")
    wait_ended(kernel, "tick")
    rows = [e for e in executions(kernel, "tick") if e.cause == "backfill"]
    assert [(e.slot, str(e.status)) for e in rows] == [(slot, "completed") for slot in slots]
    assert "no slot of that time" in ok(kernel, "%car backfill tick")


def test_what_another_kernel_runs_is_seen_and_cancelled_from_here(start_kernel: StartKernel):
    one, two = loaded(start_kernel), loaded(start_kernel)
    ok(one, "%%car_task long --runner shell --no-run\nsleep 300")
    ok(one, "%car run long")
    wait_for_executions(one, "long", "running")
    assert ok(two, "car.history('long').status.tolist()") == "['running']"
    assert ok(two, "%car cancel long") == "cancelled 1 running\n"
    [row] = executions(one, "long")
    assert row.status == "cancelled"
    assert row.owner != ok(two, "car.scheduler().owner").strip("'")


def test_a_cell_run_again_with_another_body_takes_the_task_from_the_other_kernel(start_kernel: StartKernel):
    one, two = loaded(start_kernel), loaded(start_kernel)
    ok(one, "%%car_task tick --every 200ms\n'old'")
    wait_for_executions(one, "tick", "completed", 2)
    ok(two, "%%car_task tick --every 200ms\n'new'")
    one.wait_until(lambda: ok(one, "len(car.scheduler().engine.armed)") == "0")
    count = len(executions(one, "tick"))
    one.wait_until(lambda: len(executions(one, "tick")) > count + 3)
    assert {e.answer for e in executions(one, "tick")[count + 1 :] if e.answer} == {"new"}
