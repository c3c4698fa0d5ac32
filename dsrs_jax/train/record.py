"""What a training run leaves on disk, so that a killed one goes on bit for bit.

    recipe.json      what the run depends on
    model/           the model after the last whole epoch (certify --model)
    state-STEPS/     all that continues the run after so many steps
    metrics.csv      one row an epoch;  events.out.*  the same for TensorBoard

A state is written after each epoch, now and then within one, and where it is told to end there. Its
folder appears whole under its name, and older ones go only then: killed at any moment, a run loses
what it did since the last of them, and ends as if it had not been killed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from dsrs_jax.models import check_space, read_arrays, write_arrays
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import make_folder, write_whole
from dsrs_jax.system.folder_lock import LOCK_FILE, held

_RECIPE, _METRICS, _STATE = "recipe.json", "metrics.csv", "state-"
# More epochs may be asked of a run than it was begun with.
_MAY_CHANGE = {"epochs"}

Tree = TypeVar("Tree")


class EpochInfo(NamedTuple):
    """One row of metrics.csv; loss and accuracy are means over the epoch's noisy images."""

    epoch: int  # from 0
    k: float
    learning_rate: float
    loss: float
    accuracy: float
    test_accuracy: float  # on noisy test images; nan without a test set
    images_per_second: float
    input_wait: float  # share of the time in which the devices waited for images


class TrainingRun:
    """The folder of one run, which no other run may write in (a context manager).

    Args:
        path: the folder; None: nothing is written.
        recipe: what the run depends on.
        resume: whether the run in the folder, if there is one, is continued.
        epoch_steps: steps of an epoch.

    Attributes:
        steps: how many the state on disk has behind it; 0 for a new run.

    Raises:
        UserError: the folder holds a run and `resume` was not asked for, it holds another run or
            more epochs than the recipe asks for, another run is writing in it, or it cannot be
            written.
    """

    def __init__(
        self, path: Path | None, recipe: dict[str, Any], resume: bool, epoch_steps: int
    ) -> None:
        self.path, self.steps = path, 0
        self._rows: list[EpochInfo] = []
        self._events: Any = None
        self._lock = contextlib.ExitStack()
        if path is None:
            return
        if path.exists() and not (path / _RECIPE).exists() and not _is_empty(path):
            raise UserError(f"{path} exists and holds no run; give another --out")
        make_folder(path)
        with contextlib.ExitStack() as lock:
            lock.enter_context(held(path))
            self._take_up(path, recipe, resume, epoch_steps)
            self._lock = lock.pop_all()

    def _take_up(self, path: Path, recipe: dict[str, Any], resume: bool, epoch_steps: int) -> None:
        known = sorted(_states(path))
        if (path / _RECIPE).exists():
            if not resume:
                raise UserError(
                    f"{path} holds a run, {_age(known, epoch_steps)}; continue it "
                    "with --resume or give another --out"
                )
            _check_recipe(path, recipe)
        if known and known[-1] > recipe["epochs"] * epoch_steps:
            raise UserError(
                f"{path} is {_age(known, epoch_steps)} already; ask for more than "
                f"{recipe['epochs']} by --epochs, or give another --out"
            )
        for left in (*path.glob(f".{_STATE}*"), *path.glob(".model.*")):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed as it wrote
        self.steps = known[-1] if known else 0
        write_whole(path / _RECIPE, json.dumps(recipe, indent=2) + "\n")
        if self.steps >= epoch_steps:
            self._rows = _read_rows(path / _METRICS, self.steps // epoch_steps)

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()
        self._lock.close()

    def check_space(self, state: Any) -> None:
        """UserError unless an epoch's files will fit: two states and two models for a moment."""
        if self.path is not None:
            check_space(self.path, 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)))

    def read_state(self, like: Tree) -> Tree:
        """The recorded state, in the shape of `like`; `like` itself where nothing is recorded."""
        if self.path is None:
            return like
        named = _named(like)
        arrays = read_arrays(self.path / f"{_STATE}{self.steps}", named)
        for name, leaf in named.items():
            if arrays[name].shape != leaf.shape:
                raise UserError(f"{self.path} holds the state of another model")
        leaves = [arrays[name] for name in named]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def write_row(self, info: EpochInfo) -> None:
        """Records an epoch that is over; its state comes next: one without its row is damaged."""
        assert self.path is not None
        if self._events is None:
            # Where PyTorch is installed it comes with it, a second that only training needs.
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self.path), purge_step=len(self._rows) + 1)
        self._rows.append(info)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(EpochInfo._fields)
        writer.writerows(self._rows)
        write_whole(self.path / _METRICS, text.getvalue())
        for name, value in info._asdict().items():
            if name != "epoch" and not np.isnan(value):
                self._events.add_scalar(name, value, info.epoch + 1)
        self._events.flush()

    def write_state(self, steps: int, state: Any) -> None:
        """Records what continues the run after so many steps, in place of what was there."""
        assert self.path is not None
        whole = self.path / f"{_STATE}{steps}"
        being_written = self.path / f".{whole.name}.{os.getpid()}"
        shutil.rmtree(being_written, ignore_errors=True)
        try:
            # There already where a signal came between its writing and the next step.
            if not whole.exists():
                arrays = {name: np.asarray(leaf) for name, leaf in _named(state).items()}
                write_arrays(being_written, arrays)
                being_written.rename(whole)
        except OSError as error:
            raise UserError(f"cannot write into {self.path}: {error.strerror}") from error
        for number, old in _states(self.path).items():
            if number != steps:
                shutil.rmtree(old)
        self.steps = steps


def recorded_steps(path: Path) -> int:
    """How many steps the newest state of the run in a folder has behind it; 0 without one."""
    return max(_states(path), default=0)


def _is_empty(path: Path) -> bool:
    """Whether it is a folder with nothing in it, but for the lock of a run that was killed."""
    return path.is_dir() and all(one.name.startswith(LOCK_FILE) for one in path.iterdir())


def _states(path: Path) -> dict[int, Path]:
    """The state folders by their steps; a copy that somebody made, state-3 (old), is none."""
    found = (folder for folder in path.glob(f"{_STATE}*") if folder.is_dir())
    return {
        int(folder.name.removeprefix(_STATE)): folder
        for folder in found
        if re.fullmatch(_STATE + "[1-9][0-9]*", folder.name)
    }


def _age(states: list[int], epoch_steps: int) -> str:
    """How far a run is whose states have so many steps."""
    epochs, steps = divmod(states[-1] if states else 0, epoch_steps)
    return f"{epochs} epochs old" + (f" and {steps} steps" if steps else "")


def _named(state: Any) -> dict[str, Any]:
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}


def _check_recipe(path: Path, recipe: dict[str, Any]) -> None:
    try:
        before = json.loads((path / _RECIPE).read_bytes().decode())
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path / _RECIPE}: {error}") from error
    for name, value in recipe.items():
        if name not in _MAY_CHANGE and before.get(name) != value:
            raise UserError(
                f"{path} was begun with {name} = {before.get(name)}, not {value}; give the same "
                "recipe or another --out"
            )


def _read_rows(file: Path, epochs: int) -> list[EpochInfo]:
    """The rows of the first so many epochs."""
    try:
        lines = file.read_bytes().decode().splitlines()
        rows = [
            EpochInfo(int(row["epoch"]), *(float(row[name]) for name in EpochInfo._fields[1:]))
            for row in list(csv.DictReader(lines))[:epochs]
        ]
        if [row.epoch for row in rows] != list(range(epochs)):
            raise ValueError(f"it has no row for each of {epochs} epochs")
        return rows
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged or not there: {error}") from error
