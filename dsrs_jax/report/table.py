"""Certified accuracy as a table for the terminal, and certificates as a file."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from dsrs_jax.certify import Certificate
from dsrs_jax.noise import RadialLaw

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
_MOST_ROWS = 10


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the votes say of one extra law Q, image by image.

    Attributes:
        name: of its columns.
        draws: (n,) number of draws.
        votes: (n,) right ones among them, -1 where only an interval is known.
        lower: (n,) lower bound of Q's probability.
        quantile: (n,) where Q is truncated at a quantile of its own for each image.
    """

    name: str
    draws: NDArray[np.int64]
    votes: NDArray[np.int64]
    lower: NDArray[np.float64]
    quantile: NDArray[np.float64] | None = None


def certified_accuracy(radii: NDArray[np.float64], radius: float) -> float:
    """Share of images with a certificate at `radius`; at radius 0, of those with any at all."""
    return float(np.mean((radii >= radius) & (radii > 0.0)))


def accuracy_table(methods: Mapping[str, NDArray[np.float64]]) -> Table:
    """A column a method: certified accuracy at round radii, abstentions, mean radius.

    The mean radius counts an abstention as 0 (the average certified radius of the literature).
    """
    largest = max(float(radii.max(initial=0.0)) for radii in methods.values())
    step = next((s for s in _STEPS if s * _MOST_ROWS >= largest), _STEPS[-1])
    table = Table(title="certified accuracy", box=box.SIMPLE_HEAD)
    table.add_column("radius", justify="right")
    for name in methods:
        # A line for each part of a name keeps many columns within a terminal.
        table.add_column(name.replace(", ", "\n", 1), justify="right")
    for radius in np.arange(0.0, largest + 1e-12, step):
        shares = [f"{100 * certified_accuracy(radii, radius):.1f}%" for radii in methods.values()]
        table.add_row(f"{radius:.2f}", *shares)
    table.add_section()
    table.add_row("abstain", *[str(int(np.sum(radii == 0))) for radii in methods.values()])
    # Rounded down, as every radius that is shown.
    means = [np.floor(radii.mean() * 1e4) / 1e4 for radii in methods.values()]
    table.add_row("mean", *[f"{mean:.4f}" for mean in means])
    return table


def rounded_down(radius: float) -> str:
    """A radius as a person reads it: four digits, never above what was proved."""
    return f"{math.floor(radius * 1e4) / 1e4:.4f}"


def csv_text(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> str:
    """The columns under their names; floats with all digits that they need, nan as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    written = [[_cell(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*written, strict=True))
    return stream.getvalue()


def certificate_columns(
    plain: Certificate,
    joint: Certificate,
    radius: NDArray[np.float64],
    status: Shaped[np.ndarray, " images"],
    evidence: Sequence[Evidence],
    *,
    bounds: str,
    alpha_np: float,
    alpha_dsrs: float,
) -> dict[str, Any]:
    """The columns of certificates.csv that say what was proved, and from which numbers.

    They suffice to prove it again (certify/proof.py).

    Args:
        plain: Neyman-Pearson's certificates.
        joint: the certificates of DSRS.
        radius: (n,) DSRS radii as they are given, at most those of `joint`.
        status: (n,) as they are given.
        evidence: what is known of each extra law, in the order of `joint.laws`.
        bounds: "one-sided" or "two-sided".
        alpha_np, alpha_dsrs: failure probability of each of the two certificates of a row.
    """
    size, base = len(radius), _law_of(joint.laws[0], 0)
    columns: dict[str, Any] = {
        "dimension": [base.dimension] * size,
        "sigma": [float(base.sigma)] * size,
        "k": [float(base.k)] * size,
        "eta": [float(base.eta)] * size,
        "bounds": [bounds] * size,
        "alpha_np": [alpha_np] * size,
        "alpha_dsrs": [alpha_dsrs] * size,
        "lower_np": plain.bounds[:, 0],
        "lower_p": joint.bounds[:, 0],
    }
    for law, given in zip(evidence, joint.laws[1:], strict=True):
        each = [_law_of(given, i) for i in range(size)]
        cutoff = np.array([math.nan if q.cutoff is None else float(q.cutoff) for q in each])
        if law.quantile is not None:  # none: these draws came from P itself
            cutoff = np.where(np.isnan(law.quantile), math.nan, cutoff)
        columns[f"sigma_{law.name}"] = [float(q.sigma) for q in each]
        columns[f"cutoff_{law.name}"] = cutoff
        if law.quantile is not None:
            columns[f"quantile_{law.name}"] = law.quantile
        columns[f"draws_{law.name}"] = law.draws
        columns[f"votes_{law.name}"] = law.votes
        columns[f"lower_{law.name}"] = law.lower
    columns["radius_np"] = plain.radius
    columns["radius_dsrs"] = radius
    columns["multiplier_np"] = plain.multipliers[:, 0]
    columns["multiplier_p"] = joint.multipliers[:, 0]
    for law, multipliers in zip(evidence, joint.multipliers[:, 1:].T, strict=True):
        columns[f"multiplier_{law.name}"] = multipliers
    return columns | {
        "value": joint.value,
        "allowance": joint.allowance,
        "status": status,
        "path": joint.path,
    }


def _law_of(law: RadialLaw | Sequence[RadialLaw], row: int) -> RadialLaw:
    return law if isinstance(law, RadialLaw) else law[row]


def _cell(value: Any) -> str:
    if isinstance(value, float):  # numpy's float64 too
        return "" if math.isnan(value) else repr(float(value))
    return str(value)
