"""The cell of a notebook: a dashboard's kernel side that sends hostile text in every field; see test_hostile.py."""

import json
import time
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from car_sched_nb.widget import dashboard

payloads = [text.encode(errors="replace").decode() for text in json.loads(Path("payloads.json").read_text())]
NOW = time.time_ns() // 1000


def last(text: str) -> dict[str, Any]:
    return {"execution_id": text, "status": text, "finished_at_us": NOW, "duration_us": 1, "text": text, "reason": text}


def progress(text: str) -> dict[str, Any]:
    return {"done": 1, "total": None, "note": text, "rate": None, "left_us": None}


def task_row(n: int, text: str) -> dict[str, Any]:
    run = {
        "execution_id": text,
        "state": text,
        "wait_reason": text,
        "started_at_us": NOW,
        "count": 1,
        "progress": progress(text),
    }
    return {
        "id": f"id-{n}" if n % 2 else text,
        "name": f"{n:03} {text}",
        "runner": text,
        "trigger": text,
        "kind": text,
        "tz": text,
        "status": text,
        "waits": text if n % 3 else None,
        "next_at_us": NOW,
        "enabled": True,
        "armed": n % 5 > 0,
        "armed_in": text if n % 7 else None,
        "run": run if n % 4 else None,
        "last": last(text),
        "served": 1,
        "failed": 1,
        "failures": 1,
    }


def execution(n: int, text: str) -> dict[str, Any]:
    return {
        "execution_id": f"x-{n}",
        "seq": n,
        "slot": text,
        "slots": 1,
        "attempt": 1,
        "status": text,
        "state": text,
        "cause": text,
        "reason": text,
        "wait_reason": text,
        "scheduled_at_us": None,
        "started_at_us": NOW,
        "finished_at_us": NOW,
        "duration_us": 1,
        "late_us": 1,
        "text": text,
        "error_type": text,
        "turns": 1,
        "tool_calls": 1,
        "tokens_in": 1,
        "tokens_out": 1,
        "cost": 1,
        "model": text,
        "progress": progress(text),
        "can": ["retry", "run_slot", "cancel", text],
    }


def detail(text: str, displays: list[dict[str, str]]) -> dict[str, Any]:
    return execution(0, text) | {
        "task": text,
        "task_id": "id-1",
        "answer": text,
        "error": text,
        "traceback": text,
        "params": {text: text},
        "version": 2,
        "runner": text,
        "executor": text,
        "owner": text,
        "upstream": [text],
        "displays": displays,
        "displays_cut": 1,
        "path": text,
        "artifact": text,
        "transcript": text,
    }


def bundles(text: str) -> list[dict[str, str]]:
    kinds = ["text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain", "application/javascript", text]
    return [{kind: text} for kind in kinds]


def notice(n: int, text: str) -> dict[str, Any]:
    return {"id": text, "kind": text, "task": text, "task_id": text, "execution_id": text, "at_us": NOW, "text": text}


class Stage(anywidget.AnyWidget):
    _esm, _css = dashboard._STATIC / "dashboard.js", dashboard._STATIC / "dashboard.css"
    still = traitlets.Unicode("x").tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        self.seq = 0
        self.on_msg(lambda _, message, __: self.answer(message))

    def tell(self, kind: str, text: str, **content: Any) -> None:
        self.seq += 1
        head = {
            "store": text,
            "namespace": text,
            "owner": text,
            "running": 1,
            "waiting": 1,
            "scheduled": 1,
            "failed_24h": 1,
            "blocked_since_us": None,
            "elsewhere": [{"owner": text, "tasks": 1}],
        }
        self.send({"type": kind, "seq": self.seq, "now_us": NOW, "head": head, **content})

    def answer(self, message: dict[str, Any]) -> None:
        if message["type"] == "hello":
            rows = [task_row(n, text) for n, text in enumerate(payloads)]
            self.tell("snapshot", payloads[0], rows=rows, notices=[notice(n, text) for n, text in enumerate(payloads)])
        elif message["type"] == "command":
            self.send(
                {
                    "type": "ack",
                    "id": message["id"],
                    "ok": False,
                    "text": payloads[0],
                    "failed": [{"task": task, "text": payloads[0]} for task in message["tasks"]],
                }
            )
        elif message["type"] == "source":
            self.send({"type": "source", "id": message["id"], "ok": True, "text": "\n".join(payloads)})
        elif message["type"] == "look":
            self.view = message["view"]
            stats = {
                task: {"median_us": 1, "ok": 0.5, "of": 1, "strip": [[text, text, 1, NOW] for text in payloads[:30]]}
                for task in message["rows"]
            }
            view = (
                {
                    "task": message["task"],
                    "more": True,
                    "whole": True,
                    "executions": [execution(n, text) for n, text in enumerate(payloads)],
                }
                if message["task"]
                else {}
            )
            self.tell("update", payloads[0], rows=[], gone=[], stats=stats, views={self.view: view})


stage = Stage()
stage  # noqa: B018 - what the cell shows
