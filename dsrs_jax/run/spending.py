"""What a run spends its draws on: all of them on every image, or those that are worth while."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify import Budget, Goal, Stopping
from dsrs_jax.noise import sound
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import option
from dsrs_jax.votes import SamplingPlan, State, counted, looks_of, unfinished


@dataclasses.dataclass(frozen=True)
class SpendingOptions:
    """Draws where they pay (by themselves N of every image, the paper's protocol)."""

    radii: tuple[float, ...] = option(
        (), "only to know which of these an image reaches", metavar="R", several=True, often=True
    )
    tolerance: float | None = option(
        None, "until N add less than this share of a radius", metavar="T", often=True
    )
    budget: int | None = option(None, "so many of all images, where they add most", metavar="DRAWS")
    times: int = option(
        1, "up to F * N draws, also of a finished run", metavar="F", flags=["--continue"]
    )

    def __post_init__(self) -> None:
        if self.tolerance is not None and (self.radii or self.budget is not None):
            raise UserError("--tolerance, and --radii or --budget, are two goals; give one")
        if self.budget is not None and self.budget < 1:
            raise UserError(f"--budget must be positive, got {self.budget}")
        if not all(low < high for low, high in itertools.pairwise((0.0, *self.radii))):
            raise UserError(
                f"--radii must be positive and increase, got {' '.join(map(str, self.radii))}"
            )
        if self.tolerance is not None and not 0.0 <= self.tolerance < 1.0:
            raise UserError(f"--tolerance must lie in [0, 1), got {self.tolerance:g}")
        if self.times > 1 and not self.goal:
            raise UserError(
                "all of alpha is spent at N draws: --continue goes with --radii, --budget or "
                "--tolerance above 0, and an --out that was begun with one of them"
            )

    @property
    def goal(self) -> Goal | None:
        """None: all draws of every image. A tolerance of 0 is that, too."""
        if self.radii or self.tolerance or self.budget:
            return Goal(self.tolerance, self.radii)
        return None

    def looks(self, n: int) -> Looks | None:
        """The schedule of looks for `n` planned draws, where there is a goal."""
        return Looks(n) if self.goal else None

    def refuse_other_looks(self, earlier: Mapping[str, Any]) -> None:
        """Refuses to go on with a run whose alpha was shared among looks in another way.

        Args:
            earlier: its settings, none where there was no run.

        Raises:
            UserError: it was.
        """
        if not earlier or earlier.get("looks") == self.described:
            return
        if self.goal:
            raise UserError(
                "the run in --out spent all of alpha at its N draws, nothing is left for looks; "
                "give no --radii, --tolerance, --budget or --continue, or another --out"
            )
        raise UserError(
            "the run in --out shares alpha among looks: give --radii, --tolerance or --budget, or "
            "another --out"
        )

    @property
    def described(self) -> str | None:
        """Of the looks, as config.json has it."""
        return "1024, 2048, ..., n, 2n, ..." if self.goal else None


def rule(
    options: SpendingOptions,
    plan: SamplingPlan,
    protocol: Protocol,
    grid: int | None,
    images: int,
    processes: int,
) -> Stopping | Budget | None:
    """Which images go on after a look; None where there is one look only.

    Raises:
        UserError: a budget that is too small, or for several processes.
    """
    if plan.looks is None or options.goal is None:
        return None
    laws = [plan.law, *(plan.fixed_law(extra) for extra in plan.extra)]
    charges = [0.0 if grid is None else sound.charge(law, grid) for law in laws]
    most = plan.schedule[-1]
    stopping = Stopping(laws, plan.names, charges, protocol, plan.looks, most, options.goal)
    if options.budget is None:
        return stopping
    if processes > 1:
        raise UserError("--budget weighs all images against one another: give it to one process")
    budget = Budget(stopping, options.budget)
    budget.refuse_too_few(images)
    return budget


def left(
    goes_on: Stopping | Budget | None,
    plan: SamplingPlan,
    records: Mapping[int, dict[str, Any]],
    indices: Sequence[int],
) -> list[int]:
    """Which images need draws, unreadable ones that may have become readable included."""
    if isinstance(goes_on, Budget):
        goes_on.decide(
            [index for index in indices if State.UNREADABLE not in records.get(index, {})],
            lambda index: looks_of(records[index]) if index in records else 0,
            lambda own, number: counted([records[index] for index in own], number),
        )
    return unfinished(plan, records, indices, goes_on)


def say_draws(
    plan: SamplingPlan, records: Iterable[Mapping[str, Any]], seconds: float, console: Console
) -> None:
    """One line: draws of an image, and what fewer of them saved.

    Args:
        plan: of the run.
        records: of all its images.
        seconds: that sampling took, if all was drawn now; else 0.
        console: for the line.
    """
    own = np.array([r["draws"][0] for r in records if State.UNREADABLE not in r])
    if plan.looks is None or not own.size:
        return
    mean = float(own.mean())
    middle = ", ".join(f"{int(value):,}" for value in np.quantile(own, (0.25, 0.5, 0.75)))
    saved = seconds * (plan.n / mean - 1.0)
    console.print(
        f"Draws of an image: {mean:,.0f} on average (quartiles {middle}; {plan.n:,} or more: "
        f"{100 * np.mean(own >= plan.n):.0f}%), {plan.n / mean:.2f} times fewer than {plan.n:,}"
        + (f"; about {saved:,.0f} s saved." if saved >= 1.0 else "."),
        soft_wrap=True,
    )
