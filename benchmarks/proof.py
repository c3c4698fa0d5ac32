"""Measures the proofs of random certificates: whether, how fast, how tight, and what is refused.

    python benchmarks/proof.py random     1,000 certificates proved on one core
    python benchmarks/proof.py refuses    200 certificates near their optimum, tampered with
    python benchmarks/proof.py contains   500 balls against 30-digit evaluations (about an hour)

Certificates are made by `dsrs_jax.certify_votes` from random votes: three dimensions, k of the
paper and k = 0, Q by scale and by truncation, J = 0, 1, 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mpmath
import numpy as np
from flint import arb, ctx

import dsrs_jax
from dsrs_jax.certify import enclosure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

SIZES = ((784, 380.0), (3_072, 1_530.0), (150_528, 75_260.0))
N, ALPHA = 50_000, 0.001


def certificates(count: int, seed: int) -> Iterator[tuple]:
    """(laws, votes, draws, multipliers, radius) of `count` random certificates of radius > 0."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        dimension, k = SIZES[rng.integers(3)]
        law = dsrs_jax.generalized_gaussian(dimension, 0.5, k * (rng.random() < 0.75))
        kinds = rng.choice(["scale", "truncation"], rng.integers(3))
        extra = [
            law.with_sigma(rng.uniform(0.35, 0.48) if law.k else 0.5 * rng.uniform(0.98, 0.999))
            if kind == "scale"
            else law.truncated(float(rng.uniform(0.1, 0.95)))
            for kind in kinds
        ]
        rows = min(10, count - made)
        wrong = 10 ** rng.uniform(-4.5, -0.35, rows)
        votes = np.minimum(np.round(N * (1 - wrong)), N).astype(int)
        more = [
            np.round(N * (1 - wrong * 10 ** rng.uniform(-1.5, 0.0, rows))).astype(int)
            for _ in extra
        ]
        result = dsrs_jax.certify_votes(law, votes, N, extra, more, [N] * len(extra), alpha=ALPHA)
        for i in np.flatnonzero(result.radius > 0).tolist():
            counts = [int(votes[i]), *(int(column[i]) for column in more)]
            made += 1
            yield (law, *extra), counts, result.multipliers[i].tolist(), float(result.radius[i])


def family(laws: tuple) -> enclosure.Family:
    base = laws[0]
    return enclosure.Family(
        base.dimension,
        base.k,
        base.eta,
        tuple(enclosure.Law(float(law.sigma), law.cutoff) for law in laws),
    )


def bounds(counts: list[int], alpha: float = ALPHA) -> list[arb]:
    return [enclosure.lower_bound(count, N, alpha, len(counts)) for count in counts]


def contains(count: int) -> None:
    import thirty_digits

    inside, largest, seconds, slow = 0, 0.0, 0.0, 0.0
    for i, (laws, counts, multipliers, radius) in enumerate(certificates(count, 2)):
        lower = bounds(counts)
        clock = time.perf_counter()
        ball = enclosure.enclose(family(laws), lower, multipliers, radius)
        seconds += time.perf_counter() - clock
        clock = time.perf_counter()
        exact = [
            mpmath.mpf(int(m)) * mpmath.mpf(2) ** int(e) for m, e in (p.man_exp() for p in lower)
        ]
        value = thirty_digits.g(laws, exact, multipliers, radius)
        slow += time.perf_counter() - clock
        with ctx.workprec(120):
            good = ball.contains(arb(mpmath.nstr(value, 25)))
        inside += good
        largest = max(largest, float(ball.rad()))
        if not good or i % 25 == 24:
            print(
                f"{inside} of {i + 1} balls hold the 30-digit value; largest radius {largest:.1e}; "
                f"{seconds:.1f} s, mpmath {slow:.0f} s",
                flush=True,
            )
            if not good:
                print("OUTSIDE", laws, counts, multipliers, radius, ball, value, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["random", "refuses", "contains"])
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    if arguments.what == "contains":
        contains(arguments.count or 500)


if __name__ == "__main__":
    main()
