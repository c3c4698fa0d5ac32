"""One sample's landscape says how often a classifier is right under any radial law."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.study import Given, Subject
from dsrs_jax.study.landscape import Landscape
from dsrs_jax.study.lengths import length_at, share_within
from dsrs_jax.votes import VoteTable, count_votes

D, SIGMA, BINS = 64, 0.5, 40
WIDE = generalized_gaussian(D, SIGMA, (D - 2) / 2)


def of_a_ball(edge: float) -> Landscape:
    """Exact counts of the classifier that is right on noise no longer than `edge`."""
    quantiles = np.linspace(0.0, 1.0, BINS + 1)
    within = np.minimum(share_within(WIDE, edge), quantiles)
    draws = np.full((1, BINS), 10**6)
    votes = np.round(np.diff(within) * BINS * 10**6).astype(np.int64)[None]
    return Landscape(WIDE, quantiles, draws, votes)


@settings(max_examples=50)
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


def network(images):
    """Right (class 1) less and less often on longer noise, whatever its direction."""
    z = (images - 0.5).reshape(len(images), -1)
    length = jnp.sqrt(jnp.sum(z * z, axis=1))
    angle = jnp.sum(z[:, : D // 2], axis=1) / length
    right = angle < 1.6 - 0.3 * length
    return jnp.stack([jnp.zeros_like(length), jnp.where(right, 1.0, -1.0)], axis=1)


@pytest.fixture(scope="module")
def studied() -> Given:
    images = np.full((2, 8, 8, 1), 0.5, np.float32)
    labels = np.array([1, 0])
    law = generalized_gaussian(D, SIGMA, 28.0)
    subject = Subject("ball", network, images, labels, np.arange(2), law, None)  # type: ignore[arg-type]
    return Given(load=lambda: subject, n=40_000)


@pytest.mark.parametrize(
    "law",
    [gaussian(D, SIGMA), generalized_gaussian(D, SIGMA, 28.0), generalized_gaussian(D, 0.4, 28.0),
     generalized_gaussian(D, SIGMA, 0.0, 1.0), generalized_gaussian(D, SIGMA, 28.0).truncated(0.5)],
)  # fmt: skip
def test_a_classifier_is_right_under_other_laws_as_its_landscape_says(
    law: RadialLaw, studied: Given
) -> None:
    subject = studied.subject
    base = law if law.cutoff is None else subject.law
    counted = count_votes(network, subject.images, subject.labels, base, 40_000, seed=5,
                          inside=[law] if law.cutoff is not None else [])  # fmt: skip
    there = counted.votes[:, -1] / counted.draws[:, -1]
    np.testing.assert_allclose(studied.landscape.right(law), there, atol=0.015)


def test_bins_are_the_differences_of_the_counts_inside(studied: Given) -> None:
    table = studied.votes
    found = Landscape.of(table)
    assert np.all(found.draws.sum(axis=1) == studied.n) and np.all(found.votes <= found.draws)
    assert np.all(found.votes.sum(axis=1) == table.votes[:, 0])
    np.testing.assert_allclose(found.draws, studied.n / found.draws.shape[1], rtol=0.15)
    expected = found.expected([table.base], ["p"], [studied.n])
    assert isinstance(expected, VoteTable)
    np.testing.assert_allclose(expected.votes, table.votes[:, :1], atol=0.01 * studied.n)
