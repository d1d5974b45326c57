"""Exports: what was in the history is in the file, whole or not at all."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from car_sched_nb import frames
from car_sched_nb.errors import CarError, InvalidInput, NotWritten, StoreError, StoreTooNew, UnknownTask
from car_sched_nb.frames.export import ENDINGS
from car_sched_nb.model import Cause, Status, Trigger
from car_sched_nb.notebook import verbs
from car_sched_nb.store.sqlite import SqliteStore
from tests.unit.world import agent, running

NOW = 1_795_000_000_000_000
TABLES = [ending for ending in ENDINGS if ending not in (".db", ".sqlite", ".sqlite3")]
INSTANTS = ["scheduled_at", "started_at", "finished_at"]
LENGTHS = ["duration", "lateness"]
CATEGORIES = {"trigger": Trigger, "status": Status, "cause": Cause}
NUMBERS = {"attempt": "int64", "slots": "int64", "version": "int64", "cost": "Float64"} | dict.fromkeys(
    ["turns", "tool_calls", "tokens_in", "tokens_out"], "Int64"
)

HOSTILE = [
    'say "hi"',
    "a,b;c\td",
    "two\nlines",
    "carriage\rreturn\r\n",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "👩‍🚀 é \u2028 \ufeff",
    "NA",
    "null",
    "nan",
    "007",
    "\\",
    "\\n",
    "'",
    " ",
    "\x01\x1f\x7f",
    "{}",
]
# What a store holds of text: no NUL, no lone surrogate, and nothing that is empty.
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
)
MAYBE_TEXT = st.none() | TEXT
AT = st.integers(0, 4_000_000_000_000_000)
COUNT = st.none() | st.integers(0, 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
PARAMS = st.none() | st.dictionaries(TEXT, VALUES, max_size=2).map(json.dumps)
ROW = st.fixed_dictionaries(
    {
        "trigger": st.sampled_from(list(Trigger)),
        "status": st.sampled_from([one for one in Status if one not in ("waiting", "running")]),
        "cause": st.sampled_from(list(Cause)),
        "scheduled_at": AT,
        "started_at": st.none() | AT,
        "finished_at": st.none() | AT,
        "duration": st.none() | st.integers(0, 10**14),
        "slots": st.integers(1, 1000),
        "version": st.integers(0, 9),
        "params": PARAMS,
        "runner": TEXT,
        "answer": MAYBE_TEXT,
        "error": MAYBE_TEXT,
        "error_type": MAYBE_TEXT,
        "reason": MAYBE_TEXT,
        "model": MAYBE_TEXT,
        "turns": COUNT,
        "tool_calls": COUNT,
        "tokens_in": COUNT,
        "tokens_out": COUNT,
        "cost": st.none() | st.floats(0, 1e9, allow_subnormal=False),
    }
)


def fill(store: SqliteStore, rows: list[dict[str, Any]]) -> None:
    """Put executions into a store, by turns of two tasks in two namespaces; with what each printed."""
    with store.transaction() as db:
        for number, (name, space) in enumerate([('a, "b"', "n"), ("späť", "m")]):
            db.execute(
                "INSERT OR IGNORE INTO tasks (id, namespace, name, definition, created_at, anchored_at) "
                "VALUES (?, ?, ?, '{}', 0, 0)",
                (f"t{number}", space, name),
            )
        db.execute("INSERT OR IGNORE INTO owners VALUES ('o', 'ana@laptop x.ipynb', 1, 0, NULL)")
        for number, given_row in enumerate(rows):
            row = {
                "execution_id": f"t{number % 2}:int:{number}",
                "occurrence_id": f"t{number % 2}:int:{number}",
                "task_id": f"t{number % 2}",
                "slot": str(number),
                "attempt": 1,
                "executor": "thread",
                "owner": "o" if number % 3 else None,
            } | given_row
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO executions ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
            db.execute(
                "INSERT INTO outputs (execution_id, text, path, artifact) VALUES (?, 'printed', '/x/full.txt', '/x/a')",
                (row["execution_id"],),
            )


def some(count: int) -> list[dict[str, Any]]:
    """Return rows of every status and every hostile text."""
    ended = [one for one in Status if one not in ("waiting", "running")]
    return [
        {
            "trigger": "interval",
            "status": str(ended[i % len(ended)]),
            "cause": "slot",
            "scheduled_at": 1_700_000_000_000_000 + i * 60_000_000,
            "started_at": 1_700_000_000_000_001 + i * 60_000_000 if i % 3 else None,
            "finished_at": 1_700_000_001_000_000 + i * 60_000_000,
            "duration": i if i % 3 else None,
            "slots": 1,
            "version": 0,
            "runner": "python",
            "answer": HOSTILE[i % len(HOSTILE)] if i % 4 else None,
        }
        for i in range(count)
    ]


@pytest.fixture
def filled() -> Iterator[SqliteStore]:
    store = SqliteStore()
    store.migrate()
    fill(store, some(40))
    yield store
    store.close()


@pytest.fixture
def filled_file(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    store.migrate()
    fill(store, some(40))
    yield store
    store.close()


def history(store: SqliteStore, **asked: Any) -> pd.DataFrame:
    return frames.history(store, now_us=NOW, **asked)


def read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    for name, kind in CATEGORIES.items() if frame.empty else ():  # Parquet keeps categories with rows only
        frame[name] = frame[name].cat.set_categories([str(one) for one in kind])
    if "params" in frame:
        frame["params"] = pd.Series([json.loads(one) for one in frame["params"]], frame.index, dtype=object)
    return frame


def read_csv(path: Path) -> pd.DataFrame:
    """Read as docs/history.md says."""
    texts = {name: "str" for name in frames.COLUMNS if name not in {*INSTANTS, *LENGTHS, *NUMBERS}}
    frame = pd.read_csv(
        path,
        index_col="execution_id",
        dtype=texts | NUMBERS,
        keep_default_na=False,
        na_values=[""],
        lineterminator="\n",
    )
    return as_history(frame)


def read_json_lines(path: Path) -> pd.DataFrame:
    rows = [json.loads(line) for line in read_text(path).split("\n") if line]
    texts = [name for name in frames.COLUMNS if name not in {*INSTANTS, *LENGTHS, *NUMBERS, "params"}]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in frames.COLUMNS})
    frame = frame.astype(dict.fromkeys(texts, "str") | NUMBERS).set_index("execution_id")
    return as_history(frame)


def read_text(path: Path) -> str:
    import gzip

    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def as_history(frame: pd.DataFrame) -> pd.DataFrame:
    for name in INSTANTS:
        frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    for name in LENGTHS:
        whole = pd.to_numeric(frame[name]).mul(1e6).round().astype("Int64")
        frame[name] = pd.to_timedelta(whole, unit="us").astype("timedelta64[us]")
    for name, kind in CATEGORIES.items():
        frame[name] = pd.Categorical(frame[name], categories=[str(one) for one in kind])
    given = [json.loads(one) if isinstance(one, str) else one for one in frame["params"]]
    frame["params"] = pd.Series(given, frame.index, dtype=object)
    return frame


READ: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".ndjson": read_json_lines,
}


def check_equal(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert [str(one) for one in found.dtypes] == [str(one) for one in expected.dtypes]
    for name in CATEGORIES:
        assert list(found[name].cat.categories) == list(expected[name].cat.categories)
        assert found[name].cat.ordered == expected[name].cat.ordered
    assert found.index.name == "execution_id"
    assert list(found.index) == list(expected.index)
    for name in expected.columns:
        before, after = [[None if is_none(one) else one for one in frame[str(name)]] for frame in (expected, found)]
        assert after == before, name


def is_none(value: Any) -> bool:
    return not isinstance(value, dict) and bool(pd.isna(value))


def left_in(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.name.endswith(".part")]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=6))
def test_what_is_read_back_is_the_history(tmp_path: Path, ending: str, rows: list[dict[str, Any]]):
    store = SqliteStore()
    store.migrate()
    fill(store, rows)
    written = frames.export(store, tmp_path / f"x{ending}", now_us=NOW)
    assert written.rows == len(rows)
    check_equal(READ[ending](written.path), history(store))
    store.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=6), whole=st.booleans())
def test_a_copy_of_the_store_has_the_same_history(tmp_path: Path, rows: list[dict[str, Any]], whole: bool):
    store = SqliteStore()
    store.migrate()
    fill(store, rows)
    asked: dict[str, Any] = {} if whole else {"namespace": "n"}
    written = frames.export(store, tmp_path / "x.db", now_us=NOW, **asked)
    check_equal(verbs.history(store=str(written.path)), history(store, **asked))
    store.close()


@pytest.mark.parametrize("ending", TABLES)
def test_several_pieces_are_one_file(filled: SqliteStore, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["car_sched_nb.frames.export"], "_ROWS", 7)
    written = frames.export(filled, tmp_path / f"x{ending}", now_us=NOW)
    assert written.rows == 40
    check_equal(READ[ending](written.path), history(filled))


FILTERS: list[dict[str, Any]] = [
    {"namespace": "n"},
    {"task": "sp*"},
    {"status": ["failed", "missed"]},
    {"since": "2023-11-14T22:20Z", "until": "2023-11-14T22:40Z"},
    {"limit": 3},
    {"limit": 0},
    {"limit": 2, "namespace": "m", "status": "completed"},
    {"runner": "shell"},
]


@pytest.mark.parametrize("asked", FILTERS, ids=str)
@pytest.mark.parametrize("ending", [".parquet", ".db"])
def test_the_filters_are_those_of_the_history(filled: SqliteStore, tmp_path: Path, ending: str, asked: dict[str, Any]):
    written = frames.export(filled, tmp_path / f"x{ending}", now_us=NOW, **asked)
    expected = history(filled, **asked)
    assert written.rows == len(expected)
    found = verbs.history(store=str(written.path)) if ending == ".db" else read_parquet(written.path)
    check_equal(found, expected)


@pytest.mark.parametrize("ending", TABLES)
def test_columns_can_be_chosen(filled: SqliteStore, tmp_path: Path, ending: str):
    written = frames.export(filled, tmp_path / f"x{ending}", columns=["status", "answer"], now_us=NOW)
    if ending == ".parquet":
        assert list(pd.read_parquet(written).columns) == ["status", "answer"]
    elif ending.startswith(".csv"):
        assert read_text(written.path).split("\n", 1)[0] == '"execution_id","status","answer"'
    else:
        assert [*json.loads(read_text(written.path).split("\n", 1)[0])] == ["execution_id", "status", "answer"]
    with pytest.raises(InvalidInput, match="all columns"):
        frames.export(filled, tmp_path / "x.db", columns=["status"], now_us=NOW)


def test_a_parquet_file_says_who_wrote_it(filled: SqliteStore, tmp_path: Path):
    file = pq.ParquetFile(frames.export(filled, tmp_path / "x.parquet", now_us=NOW).path)
    assert b"car_sched_nb.schema_version" in file.metadata.metadata
    assert b"car_sched_nb.version" in file.metadata.metadata
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_csv_keeps_data_as_it_is_and_says_seconds(tmp_path: Path):
    store = SqliteStore()
    store.migrate()
    fill(store, [some(2)[1] | {"answer": '=1+"1"', "params": '{"a": 1}', "duration": 1_500_001}])
    text = frames.export(store, tmp_path / "x.csv", now_us=NOW).path.read_text()
    assert '"=1+""1"""' in text
    assert ',"2023-11-14T22:14:20.000001Z",' in text
    assert ",1.500001,0.000001," in text
    assert '"{""a"": 1}"' in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.xlsx", "'.xlsx'"),
        ("x.parqet", "'.parquet'"),
        ("x", "no ending"),
        (".csv", "no ending"),
        ("x.db.gz", "'.db.gz'"),
    ],
)
def test_an_unknown_ending_is_told_with_the_known_ones(filled: SqliteStore, tmp_path: Path, name: str, said: str):
    with pytest.raises(InvalidInput) as caught:
        frames.export(filled, tmp_path / name, now_us=NOW)
    assert said in str(caught.value)
    assert all(ending in str(caught.value) for ending in ENDINGS)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("path", [None, 3, b"runs.csv"])
def test_what_is_no_path_is_told(filled: SqliteStore, path: Any):
    with pytest.raises(InvalidInput, match="a path is text"):
        frames.export(filled, path, now_us=NOW)


def test_a_path_that_cannot_be_a_file_is_told(filled: SqliteStore, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "d.csv").mkdir()
    (tmp_path / "full.csv").symlink_to("/dev/full")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, said in {
        "no/where/x.csv": f"{tmp_path / 'no'} does not exist",
        "file/x.csv": "is a file",
        "d.csv": "is a folder",
        "full.csv": "no ordinary file",
        "loop.csv": "cannot be used",
        "nul\0.csv": "cannot be used",
    }.items():
        with pytest.raises(InvalidInput, match=said):
            frames.export(filled, tmp_path / name, now_us=NOW)
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix == ".csv") == ["d.csv", "full.csv", "loop.csv"]
    with pytest.raises(InvalidInput, match="too long"):
        frames.export(filled, tmp_path / f"{'x' * 300}.csv", now_us=NOW)


def test_a_home_folder_is_found(filled: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert frames.export(filled, "~/x.csv", now_us=NOW).path == tmp_path / "x.csv"


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_mode_and_its_link(filled: SqliteStore, tmp_path: Path):
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    frames.export(filled, real, now_us=NOW)
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    real.chmod(0o644)
    link.symlink_to("real.csv")
    frames.export(filled, link, limit=1, now_us=NOW)
    assert link.is_symlink()
    assert len(read_csv(real)) == 1
    assert stat.S_IMODE(real.stat().st_mode) == 0o644
    with pytest.raises(InvalidInput, match="there already"):
        frames.export(filled, link, overwrite=False, now_us=NOW)


def test_the_store_itself_is_never_written_over(filled_file: SqliteStore, path: Path, tmp_path: Path):
    (tmp_path / "soft.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    os.link(f"{path}-wal", tmp_path / "wal.csv")
    for name in ("car.db", "soft.csv", "hard.csv", "wal.csv"):
        with pytest.raises(InvalidInput, match="store itself"):
            frames.export(filled_file, tmp_path / name, now_us=NOW)
    assert len(history(filled_file)) == 40


@pytest.mark.anyio
async def test_a_store_that_somebody_works_with_is_not_replaced_by_a_copy(filled: SqliteStore, tmp_path: Path):
    other, copy = tmp_path / "other.db", tmp_path / "copy.db"
    SqliteStore(other).close()
    frames.export(filled, copy, now_us=NOW)
    frames.export(filled, copy, now_us=NOW)
    verbs.history(store=str(copy))
    frames.export(filled, copy, now_us=time.time_ns() // 1000)
    opened = SqliteStore(other)
    opened.migrate()
    with pytest.raises(InvalidInput, match="open"):
        frames.export(filled, other, now_us=NOW)
    opened.close()
    with pytest.raises(InvalidInput, match="a store"):
        frames.export(filled, other, now_us=NOW)
    async with running(str(copy), namespace="n"):
        pass
    with pytest.raises(InvalidInput, match="worked in it"):
        frames.export(filled, copy, now_us=NOW)


@pytest.mark.anyio
@pytest.mark.parametrize("asked", [{}, {"namespace": "n"}], ids=["whole", "part"])
async def test_nothing_in_a_copy_is_alive(filled_file: SqliteStore, tmp_path: Path, asked: dict[str, Any]):
    with filled_file.transaction() as db:
        db.execute("UPDATE executions SET status = 'running', finished_at = NULL, owner = 'o' WHERE seq = 1")
        db.execute("UPDATE executions SET status = 'waiting', finished_at = NULL, wait_reason = 'queue' WHERE seq = 3")
        db.execute("INSERT INTO armed VALUES ('o', 't0')")
        db.execute(
            "INSERT INTO deliveries (namespace, owner, task, task_id, execution_id, kind, title, body, at, due_at) "
            "VALUES ('n', 'o', 'a', 't0', 'x', 'failed', 't', 'b', 0, 0)"
        )
        db.execute("INSERT INTO settings VALUES ('n', 'keep', '1d'), ('m', 'keep', '2d'), ('', 'model', 'x')")
    written = frames.export(filled_file, tmp_path / "copy.db", now_us=NOW, **asked)
    frame = verbs.history(store=str(written.path))
    assert list(frame["status"].iloc[[0, 2 if not asked else 1]]) == ["interrupted"] * 2
    assert list(frame["error"].iloc[[0, 2 if not asked else 1]]) == [
        "it was running when this copy was made",
        "it was waiting when this copy was made",
    ]
    copy = SqliteStore(written.path)
    assert copy.rows("SELECT count(*) FROM owners WHERE ended_at IS NULL") == [(0,)]
    assert copy.rows("SELECT (SELECT count(*) FROM armed), (SELECT count(*) FROM deliveries)") == [(0, 0)]
    assert copy.rows("SELECT DISTINCT text, path, artifact FROM outputs") == [("printed", None, None)]
    spaces = copy.rows("SELECT namespace FROM settings ORDER BY 1")
    assert spaces == ([("",), ("n",)] if asked else [("",), ("m",), ("n",)])
    assert len(copy.rows("SELECT * FROM tasks")) == (1 if asked else 2)
    names = "SELECT name, sql FROM sqlite_schema WHERE name != 'copied' ORDER BY name"
    assert copy.rows(names) == filled_file.rows(names)
    assert copy.rows("PRAGMA integrity_check") == [("ok",)]
    copy.close()
    async with running(str(written.path), namespace="n") as s:
        assert s.live() == []
    assert filled_file.rows("SELECT count(*) FROM executions WHERE status IN ('running', 'waiting')") == [(2,)]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".db"])
def test_an_export_is_of_one_instant_while_others_write(filled_file: SqliteStore, tmp_path: Path, ending: str):
    """Each transaction changes two rows to the same text: no file may have them different."""
    stop, same = threading.Event(), "UPDATE executions SET answer = ? WHERE seq IN (1, 39)"
    with filled_file.transaction() as db:
        db.execute(same, ("first",))

    def write() -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            with filled_file.transaction() as db:
                db.execute(same, (f"n{number}",))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        module = sys.modules["car_sched_nb.frames.export"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_ROWS", 5)
            patch.setattr(sys.modules["car_sched_nb.store.copying"], "_ROWS", 5)
            for _turn in range(5):
                asked: dict[str, Any] = {"namespace": "n"} if ending == ".db" else {}
                path = frames.export(filled_file, tmp_path / f"x{ending}", now_us=NOW, **asked).path
                frame = verbs.history(store=str(path)) if ending == ".db" else READ[ending](path)
                assert frame["answer"]["t0:int:0"] == frame["answer"]["t0:int:38"]
    finally:
        stop.set()
        writer.join()


CHILD = """
import resource, sys
from car_sched_nb import frames
from car_sched_nb.errors import NotWritten
from car_sched_nb.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
print("begun", flush=True)
try:
    while True:
        frames.export(store, sys.argv[2], now_us=1)
        if sys.argv[3] != "0":
            break
except NotWritten as error:
    print(error)
"""


@pytest.mark.parametrize("ending", [".parquet", ".db"])
def test_a_file_that_finds_no_room_leaves_what_was_there(filled_file: SqliteStore, tmp_path: Path, ending: str):
    old = frames.export(filled_file, tmp_path / f"x{ending}", limit=1, now_us=NOW).path
    before = old.read_bytes()
    command = [sys.executable, "-c", CHILD, filled_file.path, str(old), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "File too large), and what was there is untouched" in done.stdout, done.stderr
    assert old.read_bytes() == before
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("ending", [".csv", ".db"])
def test_a_kill_leaves_no_half_file_under_the_name(filled_file: SqliteStore, tmp_path: Path, ending: str):
    path = tmp_path / f"x{ending}"
    frames.export(filled_file, path, now_us=NOW)
    for wait_s in (0.0, 0.02):
        command = [sys.executable, "-c", CHILD, filled_file.path, str(path), "0"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait_s)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        frame = verbs.history(store=str(path)) if ending == ".db" else read_csv(path)
        assert len(frame) == 40


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error"), ValueError], ids=str)
def test_an_end_in_the_middle_leaves_nothing(filled: SqliteStore, tmp_path: Path, error: Any):
    from car_sched_nb.frames.whole import written_whole

    path = tmp_path / "x.csv"
    path.write_text("old")

    def half() -> None:
        with written_whole(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(NotWritten if isinstance(error, OSError) else error):
        half()
    assert path.read_text() == "old"
    assert left_in(tmp_path) == []


def test_a_store_that_is_missing_is_told_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "nothing.db"), "~/nothing.db"):
        for ask in (verbs.history, lambda store: verbs.export(tmp_path / "x.csv", store=store)):
            with pytest.raises(StoreError, match=r"no store at .*nothing\.db; .*store=PATH"):
                ask(store=name)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_newer_is_told(filled_file: SqliteStore, path: Path, tmp_path: Path):
    with filled_file.transaction() as db:
        db.pragma("user_version", 999)
    filled_file.close()
    for ask in (verbs.history, lambda store: verbs.export(tmp_path / "x.csv", store=store)):
        with pytest.raises(StoreTooNew, match="upgrade"):
            ask(store=str(path))
    assert not (tmp_path / "x.csv").exists()


def test_an_export_of_a_store_in_the_home_folder(
    filled_file: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = verbs.export("~/x.parquet", store="~/car.db", status="failed")
    assert repr(found).startswith(f"{found.rows} executions written to {tmp_path}/x.parquet (")
    assert set(pd.read_parquet(found)["status"]) == {"failed"}
    with pytest.raises(UnknownTask):
        verbs.export("~/y.parquet", "nobody", store="~/car.db")
    with pytest.raises(CarError):
        verbs.export("~/y.parquet", since="banana", store="~/car.db")
    assert not (tmp_path / "y.parquet").exists()


@pytest.mark.anyio
async def test_a_copy_that_was_read_is_replaced_again_and_nothing_lies_beside_it(tmp_path: Path):
    async with running(str(tmp_path / "car.db")) as s:
        await s.run_once(agent("it"))
    copy = tmp_path / "copy.db"
    for _ in range(4):
        verbs.export(copy, store=str(tmp_path / "car.db"))
        assert verbs.history(store=str(copy))["task"].tolist() == ["it"]
        assert [name for name in os.listdir(tmp_path) if "copy" in name] == ["copy.db"]  # noqa: PTH208 - not to wait for
