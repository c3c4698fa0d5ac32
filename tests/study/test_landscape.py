"""One sample's landscape says how often a classifier is right under any radial law."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.noise import gaussian, generalized_gaussian
from dsrs_jax.study import STUDIES, Given, Subject
from dsrs_jax.study.ball import true_radius
from dsrs_jax.study.draws import ALPHAS, NUMBERS
from dsrs_jax.study.landscape import Landscape
from dsrs_jax.study.lengths import length_at, share_within
from dsrs_jax.votes import count_votes

D, SIGMA, BINS = 64, 0.5, 40
WIDE = generalized_gaussian(D, SIGMA, (D - 2) / 2)
_SLOW = ("k", "eta", "threshold", "draws")


def of_a_ball(edge: float) -> Landscape:
    """Exact counts of the classifier that is right on noise no longer than `edge`."""
    quantiles = np.linspace(0.0, 1.0, BINS + 1)
    within = np.minimum(share_within(WIDE, edge), quantiles)
    draws = np.full((1, BINS), 10**6)
    votes = np.round(np.diff(within) * BINS * 10**6).astype(np.int64)[None]
    return Landscape(WIDE, quantiles, draws, votes)


@given(
    share=st.floats(0.05, 0.95), k=st.sampled_from([0.0, 16.0, 28.0, 31.0]),
    eta=st.sampled_from([1.0, 2.0, 4.0]), scale=st.floats(0.7, 1.1),
    cut=st.sampled_from([None, 0.4, 0.8]),
)  # fmt: skip
def test_a_ball_is_right_as_often_as_its_lengths_say(
    share: float, k: float, eta: float, scale: float, cut: float | None
) -> None:
    law = generalized_gaussian(D, scale * SIGMA, k, eta)
    law = law if cut is None else law.truncated(cut)
    edge = float(length_at(law, share))
    found = float(of_a_ball(edge).right(law)[0])
    # A step inside a bin is spread over it and its neighbours.
    place = float(share_within(WIDE, edge))
    low, high = length_at(WIDE, np.clip([place - 1.6 / BINS, place + 1.6 / BINS], 0.0, 1.0))
    assert share_within(law, low) - 0.01 <= found <= share_within(law, high) + 0.01


@pytest.mark.parametrize(
    "name", [*(pytest.param(one, marks=pytest.mark.slow) for one in _SLOW), "q-sigma"]
)
def test_no_mean_radius_of_a_study_exceeds_the_true_radius(name: str) -> None:
    """Of the classifier that is right on noise no longer than P's quantile 0.9."""
    law, nothing = generalized_gaussian(D, SIGMA, 28.0), np.zeros((1, 8, 8, 1), np.float32)
    index, edge = np.zeros(1, np.int64), float(length_at(law, 0.9))
    subject = Subject("ball", network, nothing, index, index, law, None)
    given = Given(load=lambda: subject, inside=(0.5,))
    given.__dict__["landscape"] = of_a_ball(edge)  # in place of drawn votes
    result = STUDIES[name].run(given)
    assert result.picture.startswith(b"\x89PNG") and result.finding
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    for row in rows:
        own = generalized_gaussian(D, SIGMA, row.get("k", law.k), row.get("eta", law.eta))
        inside = float(share_within(own, edge))
        # A landscape of 40 bins knows the ball's edge up to one.
        most = 1.1 * true_radius(own.truncated(inside)) if inside < 1.0 - 1e-6 else np.inf
        assert 0.0 < row[result.columns[-1]] < most
    if name == "draws":  # more draws, and a larger alpha, never cost radius
        for column in result.columns[-2:]:
            grid = np.array([row[column] for row in rows]).reshape(len(ALPHAS), len(NUMBERS))
            assert np.all(np.diff(grid, axis=1) >= 0.0) and np.all(np.diff(grid, axis=0) <= 0.0)


def network(images):
    """Right (class 1) less and less often on longer noise, whatever its direction."""
    z = (images - 0.5).reshape(len(images), -1)
    length = jnp.sqrt(jnp.sum(z * z, axis=1))
    angle = jnp.sum(z[:, : D // 2], axis=1) / length
    right = angle < 1.6 - 0.3 * length
    return jnp.stack([jnp.zeros_like(length), jnp.where(right, 1.0, -1.0)], axis=1)


@pytest.mark.slow
def test_bins_are_the_differences_of_the_counts_inside_and_say_the_counts_of_other_laws() -> None:
    images, n = np.full((2, 8, 8, 1), 0.5, np.float32), 40_000
    law = generalized_gaussian(D, SIGMA, 28.0)
    subject = Subject("ball", network, images, np.array([1, 0]), np.arange(2), law, None)
    studied = Given(load=lambda: subject, n=n)
    table = studied.votes
    found = Landscape.of(table)
    assert np.all(found.draws.sum(axis=1) == n) and np.all(found.votes <= found.draws)
    assert np.all(found.votes.sum(axis=1) == table.votes[:, 0])
    np.testing.assert_allclose(found.draws, n / found.draws.shape[1], rtol=0.15)
    expected = found.expected([law], ["p"], [n])
    np.testing.assert_allclose(expected.votes, table.votes[:, :1], atol=0.01 * n)
    # One sample of the widest law, beside draws of each.
    for other, shares in [
        *((table.law(j, 0), table.votes[:, j] / table.draws[:, j]) for j in (0, 10)),
        *((one, count_votes(network, images, subject.labels, one, n, seed=5).votes[:, 0] / n)
          for one in (gaussian(D, SIGMA), generalized_gaussian(D, SIGMA, 0.0, 1.0))),
    ]:  # fmt: skip
        np.testing.assert_allclose(studied.landscape.right(other), shares, atol=0.015)
