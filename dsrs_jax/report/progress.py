"""The progress bar of everything that takes long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = "" if task.speed is None else f", {task.speed:.1f}/s, left"
        return Text(self._unit + speed)


@contextlib.contextmanager
def progress(console: Console, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar with the rate and the time left; yields a function that advances it."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=20) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
