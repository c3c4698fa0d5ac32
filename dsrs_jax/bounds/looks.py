"""Looks at votes before all are drawn: when, and which share of alpha each may spend.

The schedule follows from the planned number of draws alone, and its shares sum to no more than 1.
So all bounds of all looks hold together with probability 1 - alpha (union bound), and any rule may
end the draws of an image at a look, or go on, whatever it has seen (docs/draws.md).
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction

_FIRST = 1024  # whole tiles of the sampler (`votes.kernel.tile_size`)
_LARGEST_BEFORE = Fraction(3, 4)  # of the planned draws: a look just before these saves little
_BEFORE, _PLANNED, _AFTER = Fraction(1, 5), Fraction(7, 10), Fraction(1, 10)
_GROWTH = Fraction(3, 2)  # of the shares of looks before, each with twice the draws of the last


@dataclasses.dataclass(frozen=True)
class Looks:
    """Looks 1, 2, ...: after 1,024 draws, 2,048, ... while well below the plan, at it, at 2, 4, ...

    Attributes:
        planned: draws that an image is meant to get at most; > 0.
    """

    planned: int

    @functools.cached_property
    def _before(self) -> tuple[int, ...]:
        found: list[int] = []
        while _FIRST << len(found) <= _LARGEST_BEFORE * self.planned:
            found.append(_FIRST << len(found))
        return tuple(found)

    @property
    def planned_look(self) -> int:
        """Number of the look at the planned draws."""
        return len(self._before) + 1

    def draws(self, number: int) -> int:
        """Draws of a law at look 1, 2, ...; twice as many at each look after the plan."""
        if number < self.planned_look:
            return self._before[number - 1]
        return self.planned << (number - self.planned_look)

    def share(self, number: int) -> Fraction:
        """Of alpha, at look 1, 2, ...: 1/5 before the plan, 7/10 at it, 1/10 after it."""
        if number < self.planned_look:
            weights = [_GROWTH**i for i in range(len(self._before))]
            return _BEFORE * weights[number - 1] / sum(weights)
        later = number - self.planned_look
        return _AFTER / 2**later if later else _PLANNED

    def up_to(self, draws: int) -> tuple[int, ...]:
        """Draws at all looks with no more than so many."""
        found: list[int] = []
        while self.draws(len(found) + 1) <= draws:
            found.append(self.draws(len(found) + 1))
        return tuple(found)
