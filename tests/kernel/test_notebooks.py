"""Notebooks as tasks, mail, shared state and the debugger, as a user has them in a kernel."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.kernel.kernel import PATIENCE_S, Kernel
from tests.kernel.notebook import loaded_kernel, ok, refused, text_of, wait_ended


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    yield from loaded_kernel(tmp_path_factory.mktemp("lesson"))


def write(path: Path, *cells: str) -> None:
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)


def test_a_notebook_runs_beside_this_one_and_leaves_itself_behind(kernel: Kernel):
    write(kernel.workdir / "my report.ipynb", "region = 'eu'", "import os\nprint(os.getpid())\nregion.upper()")
    ok(kernel, "import os\n%car namespace")
    ok(kernel, "%%car_task report --runner notebook --param region=us --param count=3\n'my report.ipynb'")
    wait_ended(kernel, "report")
    assert ok(kernel, "car.history('report')[['status', 'answer']].values.tolist()") == "[['completed', 'EU']]"
    assert ok(kernel, "int(car.logs('report').splitlines()[0]) != os.getpid()") == "True"
    assert "outputs/" in ok(kernel, "%car artifact report")
    html = ok(kernel, "car.artifact('report')._repr_html_()")
    assert "outside of what Jupyter shows here" in html  # there is no server
    ok(kernel, "copy = car.artifact(car.scheduler().executions('report')[-1]).copy()")
    assert "region = &#x27;us&#x27;" not in html
    assert ok(kernel, "'region = \\'us\\'' in open(copy).read()") == "True"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("nowhere.ipynb", "there is no notebook"),
        ("broken.ipynb", "is not a notebook"),
        ("julia.ipynb", "its kernel 'julia-9.9' is not installed here"),
        ("a.ipynb\nb.ipynb", "is one line"),
    ],
)
def test_what_can_never_run_is_refused_where_it_is_defined(kernel: Kernel, body: str, said: str):
    (kernel.workdir / "broken.ipynb").write_text("{")
    spec = {"kernelspec": {"name": "julia-9.9", "display_name": "Julia", "language": "julia"}}
    nbformat.write(new_notebook(metadata=spec), kernel.workdir / "julia.ipynb")
    assert said in refused(kernel, f"%%car_task refused --runner notebook\n{body}")


def test_two_tasks_talk_by_mail_and_by_the_state_and_the_notebook_looks_in(kernel: Kernel):
    ok(kernel, "%%car_task answers\nme = car.current()\nme.send('asks', await me.message(60) * 2)")
    ok(
        kernel,
        "%%car_task asks\nme = car.current()\nme.send('answers', 21)\nfound = me.wait_message(60)\n"
        "me.state.update_with('sum', lambda n: n + found, 0)\nme.send('notebook', 'done')\nfound",
    )
    wait_ended(kernel, "asks", "answers")
    assert ok(kernel, "car.state()['sum'], car.mailbox().receive(), len(car.mailbox('asks'))") == "(42, ['done'], 0)"
    ok(kernel, "car.send('reads', {'a': 1})")
    ok(kernel, "%%car_task reads\n[(letter.message, letter.sender) for letter in car.current().mailbox.letters()]")
    wait_ended(kernel, "reads")
    assert ok(kernel, "car.history('reads').answer.iloc[-1]") == "\"[({'a': 1}, 'notebook')]\""


def test_a_body_that_waits_for_mail_in_a_thread_is_cancelled(kernel: Kernel):
    ok(kernel, "%%car_task waits\nprint('begun')\ncar.current().wait_message()")
    kernel.wait_until(lambda: "begun" in ok(kernel, "print(car.logs('waits'))"))
    assert ok(kernel, "%car cancel waits") == "cancelled 1 running\n"


def answer(kernel: Kernel, code: str, *lines: str) -> str:
    """Run a cell that asks for input, as a front end does that has somebody to answer."""
    client = kernel.client
    cell = client.execute(code, allow_stdin=True)
    for line in lines:
        client.get_stdin_msg(timeout=PATIENCE_S)
        client.input(line)
    return text_of(kernel.wait(cell))


def test_the_debugger_opens_the_last_exception_of_a_body(kernel: Kernel):
    ok(kernel, "%%car_task fails\ndef ratio(a, b):\n    return a / b\nratio(7, 0)")
    wait_ended(kernel, "fails")
    ok(kernel, "%%car_task fails --no-run\n'another body since'")
    said = answer(kernel, "%car debug fails", "p a, b", "up", "l", "q")
    assert "ZeroDivisionError: division by zero" in said
    assert "(7, 0)" in said
    assert "----> 2     return a / b" in said  # the lines as they were
    assert "ratio(7, 0)" in said
    assert "car_sched_nb" not in said


def test_the_debugger_opens_what_a_trial_raised(kernel: Kernel):
    assert "division by zero" in text_of(kernel.run("%%car_task tried --test\nn = 5\nn / 0"))
    ok(kernel, "%%car_task tried --no-run\nn = 5\nn / 0")
    assert "10" in answer(kernel, "%car debug tried", "p n * 2", "q")


def test_the_debugger_says_why_it_has_nothing(kernel: Kernel):
    ok(kernel, "%%car_task shells --runner shell\nexit 3")
    wait_ended(kernel, "shells")
    assert "%car logs shells" in refused(kernel, "%car debug shells")
    ok(kernel, "%%car_task heals\nif not car.state().pop('well', None):\n    1 / 0")
    wait_ended(kernel, "heals")
    assert "UsageError: nobody is there to answer" in text_of(kernel.run("%car debug heals"))
    ok(kernel, "car.state()['well'] = True\n%car run heals")
    wait_ended(kernel, "heals")
    assert "it has not failed here since it last completed" in refused(kernel, "%car debug heals")
