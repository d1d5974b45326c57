"""What an agent's run may use, and what it has used."""

from __future__ import annotations

from collections.abc import Callable

from car_sched_nb.errors import BodyFailed, InvalidInput
from car_sched_nb.model import Task


class Used:
    """What a run has used so far; a cost of None is one that nobody knows."""

    __slots__ = ("cost", "tokens_in", "tokens_out", "tool_calls", "turns")

    def __init__(self, cost: float | None = None) -> None:
        self.turns = self.tool_calls = self.tokens_in = self.tokens_out = 0
        self.cost = cost

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class Budget:
    """The limits of one run.

    Parameters
    ----------
    today
        Tells what the task's other executions have used since midnight.
    """

    def __init__(self, task: Task, today: Callable[[], int]) -> None:
        self._task = task
        self._today = today

    def most_tokens(self) -> int | None:
        """Return how many tokens the run may use, as things stand; None for any number."""
        task = self._task
        left = [task.total_tokens] if task.total_tokens else []
        if task.daily_tokens:
            left.append(max(0, task.daily_tokens - self._today()))
        return min(left, default=None)

    def check(self, used: Used) -> None:
        """Raise BodyFailed, of type `BudgetExceeded`, when the run has passed a limit."""
        said = self.passed(used)
        if said:
            raise BodyFailed(said, "BudgetExceeded")

    def passed(self, used: Used) -> str | None:
        """Return which limit a run has passed, with how much of how much was used."""
        task = self._task
        if task.total_tokens and used.tokens > task.total_tokens:
            return f"the run used {used.tokens:,} tokens of --total-tokens {task.total_tokens:,}"
        if task.max_cost and used.cost is not None and used.cost > task.max_cost:
            return f"the run cost ${used.cost:.6f} of --max-cost ${task.max_cost:g}"
        if task.daily_tokens:
            today = self._today() + used.tokens
            if today > task.daily_tokens or (not used.turns and today == task.daily_tokens):
                return f"{today:,} tokens are used today of --daily-tokens {task.daily_tokens:,}"
        return None


def check_limits(task: Task) -> None:
    """Refuse limits under which nothing can run."""
    if task.max_turns < 1:
        raise InvalidInput(f"--max-turns is a whole number from 1, not {task.max_turns}")
