"""The record of certified radii with all that is needed to check them again."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Shaped

from dsrs_jax.certify.blocks import Bools
from dsrs_jax.noise import RadialLaw


class Solver(enum.StrEnum):
    """What found a certificate's multipliers."""

    FAST = "fast"
    REFERENCE = "reference"  # SciPy had to help
    NONE = ""  # radius 0


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Certified radii of n instances, from bounds under P and J other laws.

    For each instance, g(multipliers; radius) - error_bound > 1/2 wherever the radius is positive
    (weak duality: dual.py), so no perturbation of l2 norm up to `radius` changes the answer, if
    the bounds hold.

    Attributes:
        laws: (P, Q_1, ..., Q_J) as they were given.
        bounds: (n, J + 1) lower bounds of the probability of the class under each law.
        radius: (n,) certified l2 radius, rounded down; 0 certifies nothing.
        multipliers: (n, J + 1), all >= 0.
        value: (n,) g at the multipliers and the radius.
        error_bound: (n,) declared numerical error of `value`.
        solver: (n,) of `Solver`.
    """

    laws: tuple[RadialLaw | Sequence[RadialLaw], ...]
    bounds: Float64[np.ndarray, "n laws"]
    radius: Float64[np.ndarray, " n"]
    multipliers: Float64[np.ndarray, "n laws"]
    value: Float64[np.ndarray, " n"]
    error_bound: Float64[np.ndarray, " n"]
    solver: Shaped[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.radius)

    def binding(self) -> Bools:
        """(n, J + 1) whether a law's bound plays a part; a multiplier may stop short of 0."""
        largest = self.multipliers.max(axis=1, keepdims=True)
        return self.multipliers > _SLACK * largest

    def with_radius(self, radius: Float64[np.ndarray, " n"]) -> Certificates:
        """The same with other radii, none of them longer."""
        assert np.all(radius <= self.radius)
        return dataclasses.replace(self, radius=radius)

    def replaced_by(self, other: Certificates, where: Bools) -> Certificates:
        """These certificates, and those of `other` (of as many laws or fewer) where `where` is."""
        missing = ((0, 0), (0, self.bounds.shape[1] - other.bounds.shape[1]))
        fields = {name: getattr(other, name) for name in PER_INSTANCE}
        for name in ("bounds", "multipliers"):
            fields[name] = np.pad(getattr(other, name), missing)
        chosen = {
            name: np.where(where[:, None] if field.ndim == 2 else where, field, getattr(self, name))
            for name, field in fields.items()
        }
        return dataclasses.replace(self, **chosen)


PER_INSTANCE = ("bounds", "radius", "multipliers", "value", "error_bound", "solver")
_SLACK = 1e-9  # of the largest multiplier: a law with less is called slack
