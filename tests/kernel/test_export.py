"""`%car export` and `%car archive --to` in a kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.kernel import Kernel
from tests.kernel.notebook import loaded_kernel, ok, refused, wait_ended

# Between writing and removing, somebody makes the archived occurrence live again.
BEGIN_AGAIN = """
import car_sched_nb.frames.export as _, sys
module = sys.modules["car_sched_nb.frames.export"]
real = module.write

def write_and_begin(store, *args, **options):
    written = real(store, *args, **options)
    with store.transaction() as db:
        db.execute("UPDATE executions SET status = 'running' WHERE seq = (SELECT min(seq) FROM executions)")
    return written

module.write = write_and_begin
AS_BEFORE = "UPDATE executions SET status = 'completed'"
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    for kernel in loaded_kernel(tmp_path):
        ok(kernel, "import pandas as pd, json, os")
        ok(kernel, f"os.chdir({str(tmp_path)!r})")
        ok(kernel, "%%car_task prices\n42")
        wait_ended(kernel, "prices")
        ok(kernel, "%%car_task other\n1")
        wait_ended(kernel, "other")
        for _ in range(2):
            ok(kernel, "%car run prices")
            wait_ended(kernel, "prices")
        yield kernel


def test_export_and_archive_on_the_line(kernel: Kernel, tmp_path: Path):
    said = ok(kernel, "%car export runs.parquet prices --last 1h --status completed --limit 2")
    assert said.startswith(f"2 executions written to {tmp_path}/runs.parquet (")
    assert ok(kernel, "set(pd.read_parquet('runs.parquet').task)") == "{'prices'}"
    assert ok(kernel, "set(pd.read_parquet(car.export('all.parquet')).task) == {'prices', 'other'}") == "True"
    for line, words in {
        "export": "write: %car export PATH",
        "export runs": "no ending",
        "export runs.parq": "did you mean '.parquet'?",
        "export runs.csv nobody": "no task is named 'nobody'",
        "export runs.csv --las 1h": "did you mean '--last'?",
        "export no/runs.csv": f"the folder {tmp_path}/no does not exist",
        "archive --before now --to all.parquet": "there already",
        "archive --before now --to no/old.db": "does not exist",
        "archive --to x.csv": "write: %car archive --before T [--to PATH]",
    }.items():
        assert words in refused(kernel, f"%car {line}"), line
    store = ok(kernel, "print(car.scheduler().store.path)").strip()
    assert "store itself" in refused(kernel, f"%car export {store}")

    ok(kernel, "before = car.history()")
    ok(kernel, BEGIN_AGAIN)
    ok(kernel, "%car archive --before now --to old.csv")
    ok(kernel, "module.write = real")
    ok(kernel, "with car.scheduler().store.transaction() as db: db.execute(AS_BEFORE)")
    begun = "before.index[0] in car.history().index, before.index[0] in pd.read_csv('old.csv').execution_id.values"
    assert ok(kernel, begun) == "(True, True)"

    for ending in (".parquet", ".db"):
        ok(kernel, "before = car.history()\n%car run prices")
        wait_ended(kernel, "prices")
        said = ok(kernel, f"%car archive --before now --to old{ending}")
        assert f"written to old{ending} first" in said
        read = f"pd.read_parquet('old{ending}')" if ending == ".parquet" else f"car.history(store='old{ending}')"
        gone = "sorted({*before.index} - {*car.history().index})"
        assert ok(kernel, f"{gone} == sorted({read}.index) != []") == "True"
