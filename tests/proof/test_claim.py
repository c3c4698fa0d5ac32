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
from dsrs_jax.proof.claim import PROVED, prove, shrunk
from dsrs_jax.proof.rows import law_names
from dsrs_jax.proof.schema import Method

TAMPERED = {
    "radius": lambda c: dataclasses.replace(c, radius=c.radius * 1.001),
    "multiplier": lambda c: dataclasses.replace(
        c, multipliers=tuple(w * (1.5 if w == max(c.multipliers) else 1) for w in c.multipliers)
    ),
    "votes": lambda c: dataclasses.replace(
        c,
        votes=tuple(
            v - (w == max(c.multipliers)) for v, w in zip(c.votes, c.multipliers, strict=True)
        ),
    ),
    "alpha": lambda c: dataclasses.replace(c, alpha=c.alpha / 2),
}


@pytest.mark.parametrize("extra", [[], ["scaled"], ["truncated"], ["scaled", "truncated"]])
def test_certificates_are_proved_and_tampered_ones_are_refused(extra: list[str]) -> None:
    for _, claim in claims_of(784, 380.0, extra):
        radius, result = shrunk(claim)
        assert result == PROVED and claim.radius * (1 - 1e-7) < radius <= claim.radius
        for name, change in TAMPERED.items():
            assert prove(change(claim)).startswith("g is"), name


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
    # A first draw that was wrong, or a second sample of another law: not this protocol.
    for change in ({"votes": str(N - 1)}, {"cutoff_threshold_x+": "5.0"}):
        with pytest.raises(ValueError, match="pooled"):
            claims.read(row | change, law_names(row), Method.DSRS)
    # The same law drawn for another reason has P's own first draws: it is no second sample.
    repeated = {name.replace("threshold_x+", "sigma_0.5"): value for name, value in row.items()}
    with pytest.raises(ValueError, match="pooled"):
        claims.read(repeated, law_names(repeated), Method.DSRS)


def test_a_ball_without_end_proves_nothing() -> None:
    for ball in (arb.pos_inf(), arb.nan(), arb(0, 1) / 0, arb(0.75, arb.pos_inf())):
        assert claims.verdict(ball) == "g could not be enclosed"
    assert claims.verdict(arb(0.75, 0.2)) == PROVED
    assert claims.verdict(arb(0.75, 0.3)).startswith("g is")
