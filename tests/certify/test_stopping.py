"""Rules that end draws: what they forecast, and what they let go on."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from dsrs_jax.bounds import Looks, Protocol
from dsrs_jax.certify import CertificateTable, Goal, Stopping, certify_table
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.votes import Counted, LookedAt, VoteTable

LAW = generalized_gaussian(784, 0.5, 380.0)
QUANTILES = (0.3, 0.7)
LAWS = [LAW, *(LAW.truncated(q) for q in QUANTILES)]
NAMES = ["p", *(f"inside_{q}" for q in QUANTILES)]
PROTOCOL, LOOKS = Protocol(0.001), Looks(20_000)


@pytest.fixture(scope="module")
def stopping() -> Stopping:
    return Stopping(LAWS, NAMES, [1e-11] * 3, PROTOCOL, LOOKS, 20_000, Goal(tolerance=0.01))


def with_goal(stopping: Stopping, goal: Goal, most: int = 20_000) -> Stopping:
    """The same with another goal, and the same forecast."""
    return Stopping(
        LAWS, NAMES, [1e-11] * 3, PROTOCOL, LOOKS, most, goal, forecast=stopping.forecast
    )


def counted(number: int, images: int, seed: int = 0) -> Counted:
    """Counts as networks have them at a look: fewer right answers the farther out."""
    rng = np.random.default_rng(seed)
    shells = rng.multinomial(LOOKS.draws(number), np.diff([0.0, *QUANTILES, 1.0]), images)
    right = 1.0 - np.minimum(10 ** rng.uniform(-5, 0.0, (images, 1)) * [0.5, 1.0, 1.7], 1.0)
    votes = np.cumsum(rng.binomial(shells, right), axis=1)[:, [2, 0, 1]]
    return Counted(np.arange(images), number, np.cumsum(shells, axis=1)[:, [2, 0, 1]], votes)


def certified(counts: Counted) -> CertificateTable:
    table = VoteTable.from_counts(LAWS, counts.votes, counts.draws, names=NAMES)
    looked = LookedAt(LOOKS, np.full(len(table), counts.number))
    return certify_table(dataclasses.replace(table, looked=looked), PROTOCOL)


@pytest.mark.parametrize("number", [1, 4, LOOKS.planned_look, LOOKS.planned_look + 2])
def test_a_forecast_is_a_little_below_what_is_certified(stopping: Stopping, number: int) -> None:
    counts = counted(number, 120)
    forecast, table = stopping.radius(counts), certified(counts)
    assert np.any(table.radius == 0.0) and np.any(table.status == "all-right")
    assert np.all(forecast <= table.radius * (1 + 1e-4))
    large = table.radius > 0.1 * LAW.sigma
    assert np.all(forecast[large] >= 0.95 * table.radius[large])
    assert np.median(forecast[large] / table.radius[large]) > 0.99


def lines(right: NDArray[np.float64], number: int) -> Counted:
    """Counts at a look of images with these probabilities, as likely as they can be."""
    draws = np.round(LOOKS.draws(number) * np.array([1.0, *QUANTILES])).astype(np.int64)
    votes = np.floor(right[:, None] * draws).astype(np.int64)
    return Counted(np.arange(len(right)), number, np.tile(draws, (len(right), 1)), votes)


def test_an_image_goes_on_for_what_it_can_gain(stopping: Stopping) -> None:
    right = np.array([0.05, 0.4, 0.9, 0.99, 1.0])
    early, late = lines(right, 2), lines(right, LOOKS.planned_look - 1)
    assert stopping(early).tolist() == [False, False, True, True, True]
    # A wide tolerance ends sooner; none at all never, where there is anything to gain.
    assert not with_goal(stopping, Goal(tolerance=0.2))(late).any()
    assert with_goal(stopping, Goal(tolerance=1e-9))(late).tolist()[2:] == [True] * 3
    # At the last look there is nothing more; unless the run may go beyond its plan.
    last = lines(right, LOOKS.planned_look)
    assert not stopping(last).any()
    assert with_goal(stopping, Goal(tolerance=0.01), 80_000)(last).tolist()[2:] == [True] * 3


def test_an_image_goes_on_for_a_radius_within_its_reach(stopping: Stopping) -> None:
    counts = lines(np.array([0.05, 0.9, 0.999]), 3)
    now, (_, middle, high) = stopping.radius(counts), stopping.radius(counts)
    assert now[0] == 0.0 < middle < high
    for radii, on in (
        ((0.9 * middle,), [False, False, False]),  # reached, or out of reach
        ((1.05 * middle,), [False, True, False]),
        ((0.9 * middle, 1.05 * high), [False, False, True]),
        ((5.0,), [False, False, False]),
    ):
        assert with_goal(stopping, Goal(radii=radii))(counts).tolist() == on
