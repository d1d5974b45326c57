"""History, tasks and plans as DataFrames, with the same columns and dtypes whatever is in the store."""

from car_sched_nb.frames.history import COLUMNS, history, ids_of
from car_sched_nb.frames.plans import preview, slots, tasks
from car_sched_nb.frames.summary import answers, summary

__all__ = ["COLUMNS", "answers", "history", "ids_of", "preview", "slots", "summary", "tasks"]
