"""Ids of occurrences and executions: `{task_id}:{tag}:{slot}`, and `#n` from the second attempt on."""

from __future__ import annotations

import secrets

from car_sched_nb.model import Trigger

TAGS = {
    Trigger.MANUAL: "manual",
    Trigger.ONCE: "once",
    Trigger.INTERVAL: "int",
    Trigger.CRON: "cron",
    Trigger.FILE_WATCH: "file",
    Trigger.AFTER: "after",
}


def occurrence_id(task_id: str, trigger: Trigger, slot: str) -> str:
    """Return the id of one (task, slot): the same on every machine that plans it."""
    return f"{task_id}:{TAGS[trigger]}:{slot}"


def execution_id(occurrence: str, attempt: int) -> str:
    """Return the id of an attempt; the first has the occurrence's id."""
    return occurrence if attempt == 1 else f"{occurrence}#{attempt}"


def slot_text(revision: int, slot: str) -> str:
    """Return the slot as it stands in ids: a changed schedule never meets the slots of the one before."""
    return slot if revision == 0 else f"r{revision}.{slot}"


def bare_slot(revision: int, text: str) -> str | None:
    """Return the slot that stands in ids as `text`, or None when it is of another revision."""
    prefix = slot_text(revision, "")
    return text.removeprefix(prefix) if text.startswith(prefix) and (prefix or not text.startswith("r")) else None


def manual_slot() -> str:
    """Return a slot of 128 random bits: each run by hand is an occurrence of its own."""
    return secrets.token_hex(16)
