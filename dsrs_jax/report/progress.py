"""The progress bar of everything that takes long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text


class _Count(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__(table_column=Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        done = f"{task.completed:,.0f}/{task.total or 0:,.0f} {self._unit}"
        if task.speed is None:
            return Text(done)
        speed = f"{task.speed:,.0f}" if task.speed >= 10.0 else f"{task.speed:.1f}"
        return Text(f"{done}, {speed}/s, left")


class Bar:
    """A progress bar; called with a number, it advances by it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def spare(self, count: int) -> None:
        """So many are not needed after all."""
        total = self._progress.tasks[0].total or 0.0
        self._progress.update(self._task, total=total - count)


@contextlib.contextmanager
def progress(console: Console, what: str, total: int, unit: str) -> Iterator[Bar]:
    """A progress bar with the rate and the time left."""
    columns = (
        TextColumn(what),
        BarColumn(bar_width=20),
        _Count(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=20) as bar:
        yield Bar(bar, bar.add_task(what, total=total))
