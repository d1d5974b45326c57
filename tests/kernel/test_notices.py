"""Failures reach someone, from a notebook: `%car config`, mails at a real server, hooks and commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.kernel import Kernel
from tests.kernel.notebook import loaded_kernel, ok, refused, wait_ended
from tests.unit.servers import Post

QUICK = "from car_sched_nb.engine import courier\ncourier.GATHER_S = courier.APART_S = 0.05\ncourier.RETRY_S = (0.1,)"


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    post = Post().start()
    yield post
    post.stop()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, post: Post) -> Iterator[Kernel]:
    for kernel in loaded_kernel(tmp_path_factory.mktemp("notices"), {"CAR_MAIL": post.address()}):
        ok(kernel, QUICK)
        yield kernel


def test_the_settings_are_shown_and_what_is_wrong_with_them(kernel: Kernel):
    assert ok(kernel, "%car config").splitlines() == [
        "notify      not set             where notices go",
        "model       not set             an agent's model",
        "keep        all                 how much history is kept of each task that has no --keep of its own",
        "keep-files  30d                 how long output files are kept",
        "maintenance not done yet",
    ]
    assert refused(kernel, "%car config --test") == "no target is set; write %car config --notify env:NAME first"
    said = refused(kernel, "%car config --notify mailto://ana:geheim@mail.example")
    assert said.endswith("for example CAR_URL, and write --notify env:CAR_URL")
    assert "geheim" not in said
    assert "--keep is a number of executions from 1" in refused(kernel, "%car config --keep lots")
    assert "'lots' is not a duration" in refused(kernel, "%car config --keep-files lots")
    assert "did you mean '--notify'" in refused(kernel, "%car config --notfy env:X")
    assert "CAR_NONE is not set in this kernel" in ok(kernel, "%car config --notify env:CAR_NONE --all")
    assert "(for all notebooks)" in ok(kernel, "%car config --model local --keep 30d --keep-files 7d")
    told = "{'notify': None, 'model': 'local', 'keep': '30d', 'keep_files': '7d'}"
    assert ok(kernel, "car.config(notify='none', everywhere=True)") == told


def test_a_maintenance_says_what_it_removed(kernel: Kernel):
    ok(kernel, "%%car_task count --keep 2\n1")
    for _ in range(4):
        wait_ended(kernel, "count")
        ok(kernel, "car.run('count')")
    wait_ended(kernel, "count")
    assert ok(kernel, "%car maintain") == "removed 3 executions by --keep 2\n"
    assert "removed 3 executions by --keep 2" in ok(kernel, "%car config").splitlines()[-1]
    assert ok(kernel, "car.maintain().executions") == "0"
    assert "nothing was to be removed; " in ok(kernel, "%car config").splitlines()[-1]
    assert ok(kernel, "car.maintenance().executions.tolist()") == "[3, 0]"
    assert ok(kernel, "print(car.show('count'))") == "%%car_task count --keep 2\n1\n"


def test_a_failure_and_the_recovery_arrive_as_mail(kernel: Kernel, post: Post):
    ok(kernel, "%car config --notify env:CAR_MAIL")
    assert ok(kernel, "%car config --test") == "E-Mail at 127.0.0.1: sent\n"
    assert post.subjects == ["car_sched_nb: a test"]
    ok(kernel, "broken = True")
    ok(
        kernel,
        "%%car_task prices --no-run\nif broken:\n    raise ConnectionError('it is closed')\n'12 markets'",
    )
    for _ in range(2):
        ok(kernel, "car.run('prices')")
        wait_ended(kernel, "prices")
    kernel.wait_until(lambda: len(post.mails) == 2)
    assert "ConnectionError: it is closed" in post.text(1)
    ok(kernel, "broken = False\ncar.run('prices')")
    kernel.wait_until(lambda: len(post.mails) == 3)
    assert post.subjects[1:] == ["prices failed", "prices recovered after 2 failures"]


def test_a_hook_prints_into_no_cell_and_a_cell_run_again_replaces_it(kernel: Kernel, tmp_path: Path):
    hook = (
        "@car.on('completed', task='hooked')\n"
        "{}def tell(notice):\n    print('loud')\n    heard.append((notice.text, {}))"
    )
    ok(kernel, "heard = []\n" + hook.format("", 1))
    ok(kernel, hook.format("async ", "threading.current_thread() is threading.main_thread()"))
    ok(kernel, "%%car_task hooked --no-run\n42")
    cell = kernel.send("import asyncio\ncar.run('hooked')\nwhile not heard:\n    await asyncio.sleep(0.01)\nheard")
    assert "loud" not in kernel.wait(cell).text
    assert ok(kernel, "heard") == "[('42', True)]"
    ok(kernel, "tell.off()\ncar.run('hooked')")
    wait_ended(kernel, "hooked")
    assert ok(kernel, "len(heard)") == "1"


def test_a_warning_of_a_command_prints_into_no_cell(kernel: Kernel):
    ok(kernel, "%%car_task commanded --no-run --on-failure 'echo $CAR_ERROR >&2; exit 4'\n1 / 0")
    shown = ok(
        kernel,
        "troubles = lambda: [e.text for e in car.scheduler().telling.troubles.values()]\n"
        "car.run('commanded')\nwhile not troubles():\n    await asyncio.sleep(0.01)\ntroubles()",
    )
    assert shown == "['its command --on-failure: exit code 4: division by zero']"
    assert kernel.strays() == []
