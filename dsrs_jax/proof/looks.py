"""The schedule of looks, once more: draws at each, and its share of alpha (docs/draws.md).

Trusted: the shares of all looks of a plan sum to no more than 1, which is seen from the code.
"""

from __future__ import annotations

import functools
from fractions import Fraction

_FIRST = 1024
LAST = 40  # number of the last look that is believed


@functools.lru_cache(maxsize=1_000)
def look(planned: int, number: int) -> tuple[int, Fraction]:
    """(draws of a law, share of alpha) at look 1, 2, ... of so many planned draws.

    Looks are at 1024, 2048, 4096, ... up to three quarters of the plan, which share a fifth of
    alpha in the ratio 1 : 3/2 : 9/4 ...; at the plan, with seven tenths; then at 2, 4, 8, ... times
    the plan, with 1/20, 1/40, ...: a tenth in all.
    """
    before: list[Fraction] = []
    while 4 * (_FIRST << len(before)) <= 3 * planned:
        before.append(Fraction(3, 2) ** len(before))
    if number <= len(before):
        return _FIRST << (number - 1), before[number - 1] / sum(before) / 5
    later = number - 1 - len(before)
    share = Fraction(1, 10) / 2**later if later else Fraction(7, 10)
    return planned << later, share
