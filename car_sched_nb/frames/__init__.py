"""History, tasks and plans as DataFrames, with the same columns and dtypes whatever is in the store."""

from car_sched_nb.frames.export import Exported, export
from car_sched_nb.frames.history import COLUMNS, history, ids_of
from car_sched_nb.frames.plans import preview, slots, tasks
from car_sched_nb.frames.summary import answers, summary
from car_sched_nb.frames.upkeep import maintenance

__all__ = [
    "COLUMNS",
    "Exported",
    "answers",
    "export",
    "history",
    "ids_of",
    "maintenance",
    "preview",
    "slots",
    "summary",
    "tasks",
]
