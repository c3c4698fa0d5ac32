"""Claims of radii that the package found from random votes."""

from fractions import Fraction

import numpy as np

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import certify_table
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.proof.claim import Claim
from dsrs_jax.proof.enclosure import Family, LawNumbers
from dsrs_jax.votes import VoteTable

N, ALPHA = 50_000, 0.001
Laws = tuple[RadialLaw, ...]


def family_of(laws: Laws) -> Family:
    own = tuple(LawNumbers(float(law.sigma), law.cutoff) for law in laws)
    return Family(laws[0].dimension, float(laws[0].k), float(laws[0].eta), own)


def claims_of(
    dimension: int, k: float, extra: list[str], rows: int = 4, eta: float = 2.0
) -> list[tuple[Laws, Claim]]:
    """DSRS radii of the fast path, with their laws; `extra`: "truncated" or "scaled" each."""
    rng = np.random.default_rng([dimension, int(k), len(extra)])
    base = generalized_gaussian(dimension, 0.5, k, eta)
    more = [base.truncated(0.7) if kind == "truncated" else base.with_sigma(0.4) for kind in extra]
    laws = (base, *more)
    wrong = 10 ** rng.uniform(-3, -0.6, rows)
    parts = [wrong, *(wrong * rng.uniform(0.1, 0.9, rows) for _ in more)]
    votes = np.stack([np.round(N * (1 - part)) for part in parts], axis=1).astype(np.int64)
    table = certify_table(VoteTable.from_counts(laws, votes, N), Protocol(ALPHA))
    return [
        (
            laws,
            Claim(
                family_of(laws),
                tuple(votes[i].tolist()),
                (N,) * len(laws),
                ALPHA,
                tuple(Fraction(share) for share in table.protocol.shares(len(laws))),
                tuple(table.dsrs.multipliers[i].tolist()),
                float(table.radius[i]),
            ),
        )
        for i in np.flatnonzero(table.radius > 0)
    ]
