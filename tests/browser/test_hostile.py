"""Text that would like to be more than text: two hundred payloads in every field, of which none is carried out."""

import json
import re
from pathlib import Path

from playwright.sync_api import Dialog, expect

from tests.browser.board import Board
from tests.browser.conftest import OpenNotebook
from tests.browser.payloads import PAYLOADS

IMAGE = "<img src=x onerror=pwn()>"
TRAP = """() => {
  window.pwned = 0;
  window.pwn = () => { window.pwned += 1; };
  window.alert = window.confirm = window.prompt = window.print = window.open = window.pwn;
}"""
# A field of a task's definition that a person writes, an answer, an error, a note, output and what is displayed.
STEPS = {"answers": 1, "errors": 1, "notes": 4}  # of what goes on only so many have a place at the same time
TASKS = (
    f"steps = {STEPS}\n"
    """\
import asyncio, json
from pathlib import Path
from IPython.display import display
import car_sched_nb as car
from car_sched_nb.notebook.session import current_session
from car_sched_nb.runners.base import AgentOutput

payloads = json.loads(Path("payloads.json").read_text())

def bundle(text):
    kinds = ["html", "markdown", "latex", "plain", "javascript"]
    return {f"text/{kind}": text for kind in kinds} | {"image/svg+xml": text, "application/javascript": text,
        "image/png": text, "application/json": {text: text}, text: text}

def legal(text):
    return text.encode(errors="replace").decode()  # a lone surrogate is refused where a task is defined

@car.runner("hostile")
async def hostile(spec, prompt, runtime, mailbox):
    text = payloads[runtime.params["n"]]
    print(text)
    if spec.name.startswith("notes-"):
        runtime.progress(1, 2, text)
        await asyncio.Event().wait()
    if spec.name.startswith("errors-"):
        raise type(legal(text).replace("\\0", " "), (Exception,), {})(text)
    display(bundle(text), raw=True)
    return AgentOutput(answer=text, model=text)

async def define(scheduler):
    for kind, step in steps.items():
        await asyncio.gather(*(add(scheduler, f"{kind}-{n}", n) for n in range(0, len(payloads), step)))

async def add(scheduler, name, n):
    text = legal(payloads[n])
    params = {"n": n, "text": text}
    task = car.Task(name, prompt=text.strip() or ".", runner="hostile", system_prompt=text, params=params)
    await scheduler.add(task)
    await scheduler.run_now(name)

current_session().call(define)
await asyncio.sleep(0)
await car.wait(*(f"{kind}-{n}" for kind in ("answers", "errors") for n in range(len(payloads))))
"""
)
TALK = """\
async def talk(scheduler):
    await scheduler.add(car.Task("everything", prompt="all", runner="chorus"))
    await scheduler.run_now("everything")

@car.runner("chorus")
async def chorus(spec, prompt, runtime, mailbox):
    for text in payloads:
        print(text)
        display(bundle(text), raw=True)
    raise RuntimeError("\\n".join(text for text in payloads if len(text) < 200))

current_session().call(talk)
await car.wait("everything")"""
NAMES = """\
from car_sched_nb.errors import InvalidInput
taken = []
for text in payloads:
    try:
        taken.append(car.scheduler().add(car.Task(text, prompt="1")).name)
    except InvalidInput as error:
        assert str(error).startswith(("a task name has letters, digits", "car.Task: 'utf-8'")), error
print(taken)"""
SHOWN = {  # what does something is named
    "\u202eexe.fdp": "‹U+202E›exe.fdp",  # noqa: RUF001
    "\x1b[31mred\x1b[0m": "^[[31mred^[[0m",
    "re\u200bport": "re‹U+200B›port",  # noqa: RUF001
}
NAMED = ["__proto__", "constructor"]  # names that JavaScript has too, and that do no harm to an object without them


def test_the_corpus_has_two_hundred_payloads():
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 200


def test_no_payload_in_any_field_is_carried_out(open_notebook: OpenNotebook, tmp_path: Path):
    (tmp_path / "payloads.json").write_text(json.dumps(PAYLOADS))
    store = tmp_path / f"{IMAGE}\u202e.db"
    cells = [f"%load_ext car_sched_nb\n%car namespace '{IMAGE}'", TASKS, TALK, "car.dashboard()", NAMES]
    notebook = open_notebook(cells, env={"CAR_SCHED_NB_STORE": str(store)})
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    notebook.page.on("dialog", note)
    notebook.page.evaluate(TRAP)
    for index in range(len(cells)):
        notebook.run(index, timeout_s=60)
    assert notebook.outputs(1) == notebook.outputs(2) == ["True"]
    board = Board(notebook, 3).wait()
    assert notebook.outputs(4) == [str(NAMED)]
    seen = board.read_all()
    assert len(seen) == sum(len(PAYLOADS[::step]) for step in STEPS.values()) + len(["everything", *NAMED])
    for n, text in enumerate(PAYLOADS):
        if text.isascii() and text.isprintable() and len(text) < 300:  # as it is: of the others a sample below
            for kind, step in STEPS.items():
                assert n % step or text in seen[f"{kind}-{n}"]
    for text, shown in SHOWN.items():
        assert shown in seen[f"answers-{PAYLOADS.index(text)}"]
    assert notebook.page.evaluate("window.pwned") == 0
    assert (dialogs, notebook.refused, notebook.errors) == ([], [], [])


# A kernel side that sends each payload in every field of the protocol that can be text, and is not clean at all.
STAGE = (Path(__file__).parent / "stage.py").read_text()
EACH = """\
import asyncio
for n, text in enumerate(payloads):
    views = {stage.view: {"task": "id-1", "detail": detail(text, bundles(text)),
        "output": {"execution": "x-0", "at": 0, "text": text, "size": len(text), "reset": True}}}
    stage.tell("update", text, rows=[task_row(n, text)], gone=[], stats={}, views=views)
    await asyncio.sleep(0.03)
end = detail("the end", [])
stage.tell("update", "the end", rows=[], gone=[], stats={}, views={stage.view: {"task": "id-1", "detail": end}})"""

NOTE_DISPLAYS = """root => {
  root.displayed = 0;
  new MutationObserver(changes => { for (const { addedNodes } of changes) root.displayed += addedNodes.length; })
    .observe(root.querySelector(".car-displays"), { childList: true });
}"""


def test_the_page_carries_nothing_out_whatever_the_kernel_sends(open_notebook: OpenNotebook, tmp_path: Path):
    (tmp_path / "payloads.json").write_text(json.dumps(PAYLOADS))
    notebook = open_notebook([STAGE, EACH], viewport=(1400, 1400))
    notebook.page.evaluate(TRAP)
    notebook.run(0)
    board = Board(notebook, 0).wait()
    assert len(board.read_all()) == len(PAYLOADS)
    notices = board.root.locator(".car-notices")
    notices.get_by_role("button", name=re.compile("^and .* more$")).click()
    expect(notices.locator("[data-notice]")).to_have_count(len(PAYLOADS))
    opener = board.root.locator(".car-row .car-open").nth(1)
    opener.click()
    executions = board.root.locator(".car-executions")
    expect(executions.locator("[data-execution]").first).to_be_visible()
    executions.evaluate("list => { list.scrollTop = list.scrollHeight; }")
    executions.locator("[data-execution=x-0] .car-open").click()
    board.root.evaluate(NOTE_DISPLAYS)
    notebook.run(1, timeout_s=60)
    expect(board.root.locator(".car-detail .car-answer").first).to_have_text("the end")
    board.root.locator(".car-row [data-verb=run]").first.click()
    board.root.locator(".car-row .car-more").first.click()
    board.root.locator(".car-menu [data-verb=source]").click()
    expect(board.root.locator(".car-source")).to_contain_text(PAYLOADS[0])
    assert notebook.page.evaluate("window.pwned") == 0
    assert board.root.evaluate("root => root.displayed") > len(PAYLOADS), "pictures, tables and texts were drawn"
    assert (notebook.refused, notebook.errors) == ([], [])
    # A trap that does not close proves nothing.
    notebook.page.evaluate(f"document.body.insertAdjacentHTML('beforeend', `{IMAGE}`)")
    notebook.page.wait_for_function("window.pwned === 1")
