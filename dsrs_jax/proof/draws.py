"""What lies between sound draws and the law that they stand for (docs/proof.md derives it).

Trusted, as enclosure.py is: of the noise a sampler draws whole cells of a grid, exactly but for
draws that it counts as wrong, from uniforms of 64 bits.
"""

from __future__ import annotations

import functools

from flint import arb, ctx

from dsrs_jax.proof.enclosure import PRECISION, Family, LawNumbers

# The relative error of the sampler's arithmetic that certificates may rely on, and no smaller one.
ROUNDING = 1e-13
_LARGEST_DEVIATE = 9.5  # of 64-bit uniforms: sqrt(2 * 65 log 2) = 9.493


@functools.lru_cache(maxsize=10_000)
def charge(dimension: int, k: float, eta: float, law: LawNumbers, grid: int) -> arb:
    """Largest difference of a label's probability between the draws and the law.

    Args:
        dimension, k, eta: of the law's family.
        law: its sigma, and the level where it is cut off.
        grid: cells in a unit of pixels.
    """
    with ctx.workprec(PRECISION):
        shape = (dimension - 2 * arb(k)) / arb(eta)
        # A level of a shape below 1 is made from one of the shape + 1; doubles decide there, too.
        start = shape + (1 if (dimension - 2.0 * k) / eta < 1.0 else 0) - arb(1) / 3
        largest = start * (1 + _LARGEST_DEVIATE / (9 * start).sqrt()) ** 3
        moment = (shape + 2 / arb(eta)).lgamma() - shape.lgamma()  # E u^(2/eta)
        scale = arb(law.sigma) * (arb(dimension) / moment.exp()).sqrt()
        even = dimension + dimension % 2
        reach = scale * largest ** (1 / arb(eta)) * grid * arb(even).sqrt()
        whole = (reach * (arb(3) / 2 * even + 33) + 13) * arb(2) ** -65
        if law.cutoff is None:
            return whole
        rest = share_inside(dimension, k, eta, law.cutoff) - whole
        return whole / rest if rest > whole else arb(1)


def charges(family: Family, grid: int) -> list[arb]:
    """`charge` of each law of a family."""
    return [charge(family.dimension, family.k, family.eta, law, grid) for law in family.laws]


@functools.lru_cache(maxsize=10_000)
def share_inside(dimension: int, k: float, eta: float, cutoff: float) -> arb:
    """The probability that a law's level lies below a cutoff."""
    with ctx.workprec(PRECISION):
        shape = ((arb(dimension) - 2 * arb(k)) / arb(eta)).mid()  # at a ball Arb finds no value
        # The lower function itself is lost where many terms cancel: in 80 dimensions, say.
        return 1 - arb(cutoff).gamma_upper(shape, regularized=1)
