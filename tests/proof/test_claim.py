"""What a row claims: proved where it is true, refused where it was tampered with."""

import dataclasses
from fractions import Fraction

import pytest
from flint import arb
from random_claims import ALPHA, N, claims_of

from dsrs_jax.certify import certify
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import claim as claims
from dsrs_jax.proof.bound import lower_bound
from dsrs_jax.proof.claim import PROVED, Claim, prove, shrunk
from dsrs_jax.proof.rows import law_names
from dsrs_jax.proof.schema import Method


def tampered(claim: Claim) -> list[Claim]:
    """With one number changed that the radius follows from, of the law that weighs most."""
    first = claim.multipliers.index(max(claim.multipliers))
    votes, weights = list(claim.votes), list(claim.multipliers)
    votes[first] -= 1
    weights[first] *= 1.5
    changes = (
        {"radius": claim.radius * 1.001},
        {"multipliers": tuple(weights)},
        {"votes": tuple(votes)},
        {"alpha": claim.alpha / 2},
        {"shares": tuple(share / 2 for share in claim.shares)},
    )
    return [dataclasses.replace(claim, **change) for change in changes]


@pytest.mark.parametrize(
    "extra",
    [
        *([], ["scaled"], ["truncated"]),
        pytest.param(["scaled", "truncated"], marks=pytest.mark.slow),
    ],
)
def test_certificates_are_proved_and_tampered_ones_are_refused(extra: list[str]) -> None:
    for _, claim in claims_of(784, 380.0, extra)[:2]:
        radius, result = shrunk(claim)
        assert result == PROVED and claim.radius * (1 - 1e-7) < radius <= claim.radius
        for other in tampered(claim):
            assert prove(other).startswith("g is"), other


def test_a_radius_that_is_too_long_by_rounding_is_shortened() -> None:
    _, claim = claims_of(784, 380.0, ["truncated"])[0]
    long = dataclasses.replace(claim, radius=claim.radius * (1 + 1e-8))
    assert prove(long) != PROVED
    radius, result = shrunk(long)
    assert result == PROVED and claim.radius * (1 - 3e-8) < radius < long.radius
    wrong = dataclasses.replace(claim, radius=claim.radius * 1.1)
    assert shrunk(wrong)[0] == wrong.radius and "below 1/2" in shrunk(wrong)[1]


def test_twice_the_draws_of_p() -> None:
    law = generalized_gaussian(784, 0.5, 380.0)
    bound = lower_bound(2 * N - 3, 2 * N, ALPHA, Fraction(1, 2))
    made = certify(law, [float(bound) * (1 - 1e-15)])
    row = {
        "dimension": "784", "sigma": "0.5", "k": "380", "eta": "2", "bounds": "one-sided",
        "alpha_np": "0.001", "alpha_dsrs": "0.001", "n": str(N), "votes": str(N),
        "share_p": "0.5", "planned": "", "look": "", "ceiling": "",
        "draws": "float32", "status": "pooled", "radius_np": "0",
        "radius_dsrs": repr(float(made.radius[0])),
        "multiplier_np": "0", "multiplier_p": repr(float(made.multipliers[0, 0])),
        "sigma_threshold_x+": "0.5", "cutoff_threshold_x+": "", "multiplier_threshold_x+": "0",
        "quantile_threshold_x+": "",
        "votes_threshold_x+": str(N - 3), "draws_threshold_x+": str(N),
    }  # fmt: skip
    claim = claims.read(row, law_names(row), Method.DSRS)
    assert claim is not None and prove(claim) == PROVED
    assert claims.read(row, law_names(row), Method.NEYMAN_PEARSON) is None
    # A first draw that was wrong, a second sample of another law: not this protocol. The same law
    # drawn for another reason has P's own first draws: it is no second sample.
    renamed = {name.replace("threshold_x+", "sigma_0.5"): value for name, value in row.items()}
    for other in (row | {"votes": str(N - 1)}, row | {"cutoff_threshold_x+": "5.0"}, renamed):
        with pytest.raises(ValueError, match="pooled"):
            claims.read(other, law_names(other), Method.DSRS)


def test_a_ball_without_end_proves_nothing() -> None:
    for ball in (arb.pos_inf(), arb.nan(), arb(0, 1) / 0, arb(0.75, arb.pos_inf())):
        assert claims.verdict(ball) == "g could not be enclosed"
    assert claims.verdict(arb(0.75, 0.2)) == PROVED
    assert claims.verdict(arb(0.75, 0.3)).startswith("g is")
