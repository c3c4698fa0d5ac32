"""Where the integrals of a proof begin and end, and where its root searches start: floats.

Nothing here has to be right. A bad guess makes a ball of `enclosure` wide or not finite, never
wrong: what lies outside a range is bounded there, and a root is enclosed around its guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def level_at(shape: float, depth: float) -> float:
    """The level of Gamma(shape) with Chernoff's bound e^-|depth|; above the mode if depth > 0."""
    low, high = 0.0, 2.0 + 2.0 * abs(depth) / shape  # of |log(level/shape)|
    sign = math.copysign(1.0, depth)
    for _ in range(64):
        middle = 0.5 * (low + high)
        far = shape * (math.expm1(sign * middle) - sign * middle) > abs(depth)
        low, high = (low, middle) if far else (middle, high)
    return shape * math.exp(sign * high)


def below_bound(votes: int, draws: int, alpha: float) -> float:
    """A little below Clopper and Pearson's lower bound: Chernoff's, relative entropy = log/n."""
    share, wanted = votes / draws, -math.log(alpha) / draws
    low, high = 0.0, share
    for _ in range(60):
        p = 0.5 * (low + high)
        entropy = share * math.log(share / p)
        if votes < draws:
            entropy += (1.0 - share) * math.log((1.0 - share) / (1.0 - p))
        low, high = (low, p) if entropy < wanted else (p, high)
    return low


class PieceGuess:
    """log H(u) = log sum_j exp(log_w_j + (1 - b_j) u), and the e that belongs to it.

    Args:
        k: k' = 2k/eta.
        terms: (log_w_j, b_j) of the laws that have not ended.
    """

    def __init__(self, k: float, terms: Sequence[tuple[float, float]]):
        self.k, self.terms = k, terms

    def log_ratio(self, u: float) -> float:
        values = [log_w + (1.0 - b) * u for log_w, b in self.terms]
        return max(values) + math.log(sum(math.exp(v - max(values)) for v in values))

    def largest(self, u: float) -> int:
        """The term that counts most at u."""
        return max(range(len(self.terms)), key=lambda j: self.terms[j][0] - self.terms[j][1] * u)

    def root(self, u: float, log_ratio: float) -> float:
        """e with u e - k' log(1 - e) = log H: Newton's method in log(1 - e), from its right."""
        shift = -log_ratio / (self.k + u)
        if log_ratio < 0.0:
            shift = min(shift, math.log1p(-log_ratio / u))
        for _ in range(60):
            grown = u * math.exp(shift)
            step = (self.k * shift + u * math.expm1(shift) + log_ratio) / (self.k + grown)
            shift -= step
            if not abs(step) > 1e-15 * abs(shift):
                break
        return -math.expm1(shift)


def place(level: float, k: float, pieces: Sequence[tuple[float, PieceGuess | None]]) -> float:
    """About where u* reaches a level: a level u, or the end of h at which u* jumps over it.

    Args:
        level: of the shifted law.
        k: k' = 2k/eta.
        pieces: where each piece of h begins, and its guess; None where h is 0.
    """
    wanted = k * math.log(level) + level
    starts = [start for start, _ in pieces] + [1e18]
    for (_, piece), first, last in zip(pieces, starts, starts[1:], strict=False):

        def beyond(u: float, piece: PieceGuess | None = piece) -> bool:
            return piece is None or k * math.log(u) + u - piece.log_ratio(u) >= wanted

        if first > 0.0 and beyond(first):
            return first
        if last < 1e18 and not beyond(last):
            continue
        low, high = math.log(max(first, 1e-290)), math.log(last)
        for _ in range(64):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if beyond(math.exp(middle)) else (middle, high)
        return math.exp(high)
    raise ArithmeticError("the levels of P do not reach so far")
