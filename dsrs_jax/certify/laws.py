"""The laws of certificates as arrays: what the compiled programs take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float64
from numpy.typing import NDArray

from dsrs_jax.certify.cosine import CosineLaw, cosine_law
from dsrs_jax.noise import RadialLaw

# Densities are followed to this many standard deviations: e^(-12^2/2) is 5e-32.
REACH = 12.0
_BASE_POINTS = 17
_BASE_MARKS = np.array([-9.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 9.0])
# Levels below e^-600 are taken for that: only shapes under 0.1 reach them.
_SMALLEST_LOG_LEVEL = -600.0

if TYPE_CHECKING:
    _Leaf = Any
else:
    _Leaf = Array | np.ndarray  # rows are stacked on the host


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LawArrays:
    """The laws Q_0 = P, Q_1 ... Q_J of a certificate, in units of the scale of P.

    Built by `law_arrays` on the host, in float64; those of many rows are stacked into one with a
    leading axis. Nothing but the number of laws (and a dimension under 48) is static: one program
    serves all laws, truncated or not.
    """

    shape: Float64[_Leaf, "*rows laws"]
    eta: Float64[_Leaf, "*rows laws"]
    two_k: Float64[_Leaf, "*rows laws"]
    offset: Float64[_Leaf, "*rows laws"]  # log(s_j/s_0)
    log_quantile: Float64[_Leaf, "*rows laws"]
    edge: Float64[_Leaf, "*rows laws"]  # log(T_j/s_0), infinite for a law that is not truncated
    grid: Float64[_Leaf, "*rows points"]  # covers every law to REACH standard deviations
    base_marks: Float64[_Leaf, "*rows marks"]  # covers P alone, in steps of 2 standard deviations
    cosine: CosineLaw


def law_arrays(laws: tuple[RadialLaw, ...]) -> LawArrays:
    """The numbers that the integrals need, from laws whose first is P (not truncated)."""
    base = laws[0]
    shape = np.array([law.shape for law in laws])
    eta = np.array([law.eta for law in laws], dtype=np.float64)
    offset = np.array([math.log(law.scale / base.scale) for law in laws])
    edge = np.array(
        [
            math.inf if law.cutoff is None else math.log(law.cutoff) / law.eta + offset[j]
            for j, law in enumerate(laws)
        ]
    )
    deviations = np.linspace(-REACH, REACH, _BASE_POINTS)
    grids = [
        (np.log(_level_at(shape[j], deviations)) / eta[j] + offset[j]) for j in range(len(laws))
    ]
    last = max(float(points[-1]) for points in grids)
    return LawArrays(
        shape=shape,
        eta=eta,
        two_k=np.array([2.0 * law.k for law in laws], dtype=np.float64),
        offset=offset,
        log_quantile=np.array([math.log(law.quantile or 1.0) for law in laws]),
        edge=edge,
        # Of a law without an end a point that is there already stands for it.
        grid=np.sort(np.concatenate([*grids, np.where(np.isfinite(edge), edge, last)[1:]])),
        base_marks=np.log(_level_at(shape[0], _BASE_MARKS)) / eta[0],
        cosine=cosine_law(base.dimension),
    )


def _level_at(shape: float, deviation: np.ndarray) -> np.ndarray:
    """Levels u with sign(u - a) sqrt(2 a (t - log(1 + t))) = deviation, t = u/a - 1 (bisection)."""
    target = 0.5 * deviation**2 / shape
    upward = deviation > 0
    low = np.where(upward, 0.0, -target - 1.0)  # of log(1 + t)
    high = np.where(upward, np.log1p(target + np.sqrt(2.0 * target) + 1.0), 0.0)
    for _ in range(80):
        middle = 0.5 * (low + high)
        rises = (np.expm1(middle) - middle > target) == upward
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return np.exp(np.maximum(math.log(shape) + 0.5 * (low + high), _SMALLEST_LOG_LEVEL))


@dataclasses.dataclass(frozen=True)
class RowLaws:
    """The laws of each row: a number into a list of distinct combinations (P, Q_1, ..., Q_J)."""

    combinations: list[tuple[RadialLaw, ...]]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, laws: Sequence[RadialLaw | Sequence[RadialLaw]], size: int) -> RowLaws:
        """From P and the Q's, each one law or one for each of `size` rows."""
        columns = [[q] * size if isinstance(q, RadialLaw) else list(q) for q in laws]
        known: dict[tuple[RadialLaw, ...], int] = {}
        number = [known.setdefault(row, len(known)) for row in zip(*columns, strict=True)]
        return cls(list(known), np.array(number, dtype=np.int64))

    @property
    def base(self) -> RadialLaw:
        """P, which all rows share."""
        return self.combinations[0][0]

    def row(self, row: int) -> tuple[RadialLaw, ...]:
        """The laws of one row."""
        return self.combinations[self.number[row]]

    def only_base(self) -> RowLaws:
        """P alone in every row."""
        return RowLaws([(self.base,)], np.zeros_like(self.number))

    def arrays(self) -> LawArrays:
        """The laws as arrays, each with a leading axis of rows."""
        distinct = [law_arrays(laws) for laws in self.combinations]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[self.number], *distinct)

    def each(self, function: Callable[[tuple[RadialLaw, ...]], object]) -> NDArray[np.float64]:
        """function(laws) for every row, computed once for each combination."""
        return np.array([function(laws) for laws in self.combinations])[self.number]
