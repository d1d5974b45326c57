"""Charts of what ran and what is to come: each is prepared once, and drawn by plotly or as a still picture."""

from car_sched_nb.plots.drawing import drawn
from car_sched_nb.plots.durations import durations
from car_sched_nb.plots.graph import graph
from car_sched_nb.plots.plan import plan
from car_sched_nb.plots.timeline import timeline
from car_sched_nb.plots.year import calendar

__all__ = ["calendar", "drawn", "durations", "graph", "plan", "timeline"]
