"""Clopper and Pearson's lower bound in ball arithmetic: an exact number below it, next to it."""

from __future__ import annotations

import functools
import sys
from fractions import Fraction

from flint import arb, ctx

from dsrs_jax.proof import guesses
from dsrs_jax.proof.enclosure import PRECISION


@functools.lru_cache(maxsize=10_000)
def lower_bound(votes: int, draws: int, alpha: float, share: Fraction) -> arb:
    """An exact p with P(`votes` or more of `draws` | p) < share alpha (Clopper and Pearson, 1934).

    Newton's method on the root of -log of that tail, which is close to linear; the last tail that
    is computed decides.
    """
    if votes == 0:
        return arb(0)
    with ctx.workprec(PRECISION):
        a, b = arb(votes), arb(draws - votes + 1)
        log_beta = a.lgamma() + b.lgamma() - (a + b).lgamma()
        failure = arb(alpha) * share.numerator / share.denominator
        wanted = (-failure.log()).sqrt()

        def tail(p: arb) -> arb:
            if 2 * votes <= draws or votes == draws:
                return p.beta_lower(a, b, regularized=1)
            return 1 - (1 - p).beta_lower(b, a, regularized=1)

        # A failure below every double is no more than a worse guess.
        p = arb(guesses.below_bound(votes, draws, max(float(failure), sys.float_info.min)))
        for _ in range(20):
            now = tail(p)
            root = (-now.log()).sqrt()
            slope = ((a - 1) * p.log() + (b - 1) * (1 - p).log() - log_beta).exp() / now
            step = ((root - wanted) * 2 * root / slope).mid()
            p = (p + step).mid()
            if not abs(step) > (1 - p) * 2.0**-50:
                break
        for power in range(-70, -20):
            p = (p - (1 - p) * 2.0**power).mid()
            if 0 <= p <= 1 and tail(p) < failure:
                return p
        return arb(0)
