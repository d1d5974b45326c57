"""A task's cell as it is shown, read again."""

from car_sched_nb.model import Task
from car_sched_nb.options import cell_of, parse_cell


def read_again(task: Task) -> Task:
    """Return what the cell of a task defines, as a notebook reads it: its line ends at the first line break."""
    line, _, body = cell_of(task).partition("\n")
    return parse_cell(line.removeprefix("%%car_task "), body).task
