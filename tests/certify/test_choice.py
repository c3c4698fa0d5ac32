"""What a pilot says of ways to spend draws is what the certifier gives; the best is chosen."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Protocol
from dsrs_jax.certify import (
    Candidate,
    Mixture,
    Shell,
    certify_table,
    choice,
    choose,
    expected_radii,
)
from dsrs_jax.certify.landscape import right
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.votes import VoteTable

BASE = generalized_gaussian(784, 0.5, 380.0)
PROTOCOL = Protocol(0.001)
N = 50_000


def networks(*pairs: tuple[float, float]) -> Mixture:
    """One image of each network."""
    levels, slopes = np.array(pairs).T
    return Mixture(levels, slopes, np.eye(len(pairs)))


def drawn(mixture: Mixture, draws: int, laws: list[RadialLaw]) -> list[Shell]:
    """Draws of each image's own network, in twenty shells of each law."""
    generator = np.random.default_rng(0)
    ends = np.linspace(0.0, 1.0, 21).tolist()
    found = []
    for law in laws:
        counts = generator.multinomial(draws, np.full(20, 0.05), size=len(mixture.weights))
        for j, between in enumerate(itertools.pairwise(ends)):
            p = right(BASE, law, mixture.levels, mixture.slopes, between)
            found.append(Shell(law, between, counts[:, j], generator.binomial(counts[:, j], p)))
    return found


@given(
    level=st.floats(-1.0, 5.0),
    slope=st.floats(0.0, 4.0),
    cut=st.floats(0.05, 0.95),
    scale=st.floats(0.5, 1.2),
)
def test_networks_are_right_as_often_as_their_draws(
    level: float, slope: float, cut: float, scale: float
) -> None:
    one = np.array([level]), np.array([slope])
    law = BASE.with_sigma(0.5 * scale)
    inner, outer = (right(BASE, law, *one, ends) for ends in ((0.0, cut), (cut, 1.0)))
    whole = right(BASE, law, *one)
    assert cut * inner + (1 - cut) * outer == pytest.approx(whole, abs=2e-3)
    assert right(BASE, law.truncated(cut), *one) == pytest.approx(inner, abs=1e-6)
    assert inner >= outer - 1e-12  # on longer noise right less often
    assert whole >= right(BASE, BASE, *one) - 1e-12 or scale > 1.0


def test_a_mixture_says_how_often_images_are_right() -> None:
    generator = np.random.default_rng(1)
    truth = networks(*zip(generator.normal(2, 1, 40), generator.uniform(0, 1.5, 40), strict=True))
    found = Mixture.of(BASE, drawn(truth, 2000, [BASE, BASE.with_sigma(0.4)]))
    assert found.weights.sum(axis=1) == pytest.approx(np.ones(40))
    for law in (BASE, BASE.truncated(0.5), BASE.with_sigma(0.45)):
        wanted = right(BASE, law, truth.levels, truth.slopes)
        said = found.weights @ right(BASE, law, found.levels, found.slopes)
        assert np.abs(said - wanted).max() < 0.03 and np.abs(said - wanted).mean() < 0.006


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """Of up to two second laws: the programs for three laws are those of other tests."""
    inside = [Candidate((0.3,), base_share=0.8), Candidate((0.3, 0.6))]
    drawn = [Candidate(scale=0.8, base_share=0.3), Candidate(threshold=0.6)]
    tried = [*inside, *drawn, Candidate((0.3,), scale=0.7), Candidate()]
    monkeypatch.setattr(choice, "_MOST_INSIDE", 2)
    monkeypatch.setattr(choice, "candidates", lambda first: [first, *tried])
    return tried


@pytest.mark.slow
def test_expected_radii_are_the_certificates_of_the_expected_votes(few: list[Candidate]) -> None:
    mixture = networks((0.2, 0.3), (1.0, 0.0), (1.5, 1.0), (2.5, 1.5))  # none always right
    expected = expected_radii(BASE, mixture, few, PROTOCOL, N)
    for candidate, found in zip(few, expected, strict=True):
        each, laws = N // candidate.drawn, [BASE, *candidate.laws(BASE)]
        draws = [each, *(int(each * one) for one in candidate.inside)]
        draws += [each] * (len(laws) - len(draws))
        p = np.stack([right(BASE, law, mixture.levels, mixture.slopes) for law in laws], axis=1)
        names = ["p", *(f"inside_{one:g}" for one in candidate.inside)]
        names += [f"q{j}" for j in range(len(names), len(laws))]
        votes = np.floor(p * draws).astype(int)
        table = VoteTable.from_counts(laws, votes, draws, names=names)
        protocol = dataclasses.replace(PROTOCOL, base_share=candidate.base_share)
        assert found == pytest.approx(certify_table(table, protocol).radius, rel=1e-6), candidate


@pytest.mark.slow
def test_the_best_is_chosen(few: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    # Programs for two laws are enough.
    monkeypatch.setattr(choice, "_MOST_INSIDE", 1)
    monkeypatch.setattr(choice, "candidates", lambda first: [first, few[0], Candidate()])
    concentrated = networks(*[(0.5 + 0.02 * i, 3.0) for i in range(6)])
    poor = Candidate((0.95,), base_share=0.9)
    found = choose(BASE, concentrated, poor, PROTOCOL, N)
    assert found.chosen == found.best != 0 and found.gain > 5 * found.error
    assert found.mean[found.chosen] == max(found.mean) and found.tried[0] == poor


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_first_stays_where_nothing_is_surely_better_and_wanted_radii_are_counted() -> None:
    never_right = networks((-1.0, 0.0), (-2.0, 0.5))
    assert choose(BASE, never_right, Candidate((0.2, 0.4)), PROTOCOL, N).chosen == 0
    mixture = networks((0.8, 1.0), (1.0, 1.0), (1.2, 1.0))
    mean = choose(BASE, mixture, Candidate(), PROTOCOL, N, wanted=(0.3, 0.4)).mean
    assert set(np.unique(mean * 3).round(9)) <= set(range(7))
