"""Rules that end draws: what they forecast, and what they let go on."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify import Goal, Stopping, certify_table
from dsrs_jax.certify.forecast import Forecast
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.votes import Counted, LookedAt, VoteTable

LAW = generalized_gaussian(784, 0.5, 380.0)
QUANTILES = (0.3, 0.7)
LAWS = [LAW, *(LAW.truncated(q) for q in QUANTILES)]
NAMES = ["p", *(f"inside_{q}" for q in QUANTILES)]
PROTOCOL, LOOKS = Protocol(0.001), Looks(20_000)


@pytest.fixture(scope="module")
def forecast() -> Forecast:
    return Forecast(LAWS)


def stopping(goal: Goal, forecast: Forecast, most: int = 20_000) -> Stopping:
    return Stopping(LAWS, NAMES, [1e-11] * 3, PROTOCOL, LOOKS, most, goal, forecast)


def counted(number: int, images: int, seed: int = 0) -> Counted:
    """Counts as networks have them at a look: fewer right answers the farther out."""
    rng = np.random.default_rng(seed)
    shells = rng.multinomial(LOOKS.draws(number), np.diff([0.0, *QUANTILES, 1.0]), images)
    right = 1.0 - np.minimum(10 ** rng.uniform(-5, 0.0, (images, 1)) * [0.5, 1.0, 1.7], 1.0)
    votes = np.cumsum(rng.binomial(shells, right), axis=1)[:, [2, 0, 1]]
    return Counted(np.arange(images), number, np.cumsum(shells, axis=1)[:, [2, 0, 1]], votes)


def test_a_forecast_is_a_little_below_what_is_certified(forecast: Forecast) -> None:
    rule = stopping(Goal(tolerance=0.01), forecast)
    looks = [1, 4, LOOKS.planned_look, LOOKS.planned_look + 2]
    counts = [counted(number, 60) for number in looks]
    votes, draws = (np.concatenate([getattr(c, n) for c in counts]) for n in ("votes", "draws"))
    table = VoteTable.from_counts(LAWS, votes, draws, names=NAMES)
    looked = LookedAt(LOOKS, np.repeat(looks, 60))
    table = certify_table(dataclasses.replace(table, looked=looked), PROTOCOL)
    # A look has a share of alpha, of which each law has its own.
    alphas = [0.001 * float(LOOKS.share(number)) * PROTOCOL.shares(3) for number in looks]
    lower = PROTOCOL.lower(votes, draws, np.repeat(alphas, 60, axis=0))
    np.testing.assert_allclose(table.lower, lower, rtol=1e-12)
    for number, counts_then in enumerate(counts):
        rows = slice(60 * number, 60 * (number + 1))
        expected, radius = rule.radius(counts_then), table.radius[rows]
        assert np.any(radius == 0.0) and np.any(table.status[rows] == "all-right")
        assert np.all(expected <= radius * (1 + 1e-4))
        large = radius > 0.1 * LAW.sigma
        assert np.all(expected[large] >= 0.95 * radius[large])
        assert np.median(expected[large] / radius[large]) > 0.99


def lines(right: NDArray[np.float64], number: int) -> Counted:
    """Counts at a look of images with these probabilities, as likely as they can be."""
    draws = np.round(LOOKS.draws(number) * np.array([1.0, *QUANTILES])).astype(np.int64)
    votes = np.floor(right[:, None] * draws).astype(np.int64)
    return Counted(np.arange(len(right)), number, np.tile(draws, (len(right), 1)), votes)


def test_an_image_goes_on_for_what_it_can_gain(forecast: Forecast) -> None:
    right = np.array([0.05, 0.4, 0.9, 0.99, 1.0])
    early, late = lines(right, 2), lines(right, LOOKS.planned_look - 1)
    rule = stopping(Goal(tolerance=0.01), forecast)
    assert rule(early).tolist() == [False, False, True, True, True]
    # A wide tolerance ends sooner; none at all never, where there is anything to gain.
    assert not stopping(Goal(tolerance=0.2), forecast)(late).any()
    assert stopping(Goal(tolerance=1e-9), forecast)(late)[2:].all()
    # At the last look there is nothing more; unless the run may go beyond its plan.
    last = lines(right, LOOKS.planned_look)
    assert not rule(last).any()
    assert stopping(Goal(tolerance=0.01), forecast, 80_000)(last)[2:].all()


def test_an_image_goes_on_for_a_radius_within_its_reach(forecast: Forecast) -> None:
    counts = lines(np.array([0.05, 0.9, 0.999]), 3)
    none, middle, high = stopping(Goal(), forecast).radius(counts)
    assert none == 0.0 < middle < high
    for radii, on in (
        ((0.9 * middle,), [False, False, False]),  # reached, or out of reach
        ((1.05 * middle,), [False, True, False]),
        ((0.9 * middle, 1.05 * high), [False, False, True]),
        ((5.0,), [False, False, False]),
    ):
        assert stopping(Goal(radii=radii), forecast)(counts).tolist() == on
