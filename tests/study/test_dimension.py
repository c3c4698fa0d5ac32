"""Growth with the dimension: every radius beside SciPy's, and the slopes of the curves."""

import math
from typing import Any

import numpy as np
import pytest

from dsrs_jax.certify import certify, reference
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.study.dimension import (
    COLUMNS,
    DRAWS,
    INSIDE,
    LEFT,
    POWER,
    SIGMA,
    SOFTER,
    of_dimensions,
    slope,
)

FEW = (784, 150_528)  # for the fast suite
MORE = (100, 3072, 12_000, 50_000)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Rows:
    dimensions = sorted((*FEW, *(MORE if request.config.getoption("full") else ())))
    found = of_dimensions(dimensions, 0.001).rows
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def curve(rows: Rows, case: str) -> np.ndarray:
    found = [(row["dimension"], row["radius_in_sigma"]) for row in rows if row["case"] == case]
    assert [d for d, _ in found] == sorted({row["dimension"] for row in rows})
    return np.array(found)


@pytest.mark.parametrize("d", [*(pytest.param(d, marks=pytest.mark.slow) for d in MORE), *FEW])
def test_no_radius_is_larger_at_any_dimension_by_scipys_integrals(d: int, rows: Rows) -> None:
    # What Q_A = 1 gives is in test_ball.py.
    here = [row for row in rows if row["dimension"] == d and row["q_a"] < 1.0]
    assert len(here) == len(LEFT) + 1 + len(SOFTER) + 1 + len(DRAWS)
    for k in {row["k"] for row in here}:
        law = generalized_gaussian(d, SIGMA, k)
        laws = [law, law.truncated(INSIDE)]
        some = [row for row in here if row["k"] == k]
        p, q = (np.array([row[name] for row in some]) for name in ("p_a", "q_a"))
        found = certify(law, p, laws[1:], [q])
        for i, row in enumerate(some):
            np.testing.assert_allclose(row["radius_in_sigma"], found.radius[i], rtol=1e-9)
            # g is concave in the multipliers: where each bound is met, or its multiplier is 0 and
            # it is more than met, and half of the moved noise is in S, r is the largest radius.
            outside, moved = reference.integrals(laws, found.multipliers[i], found.radius[i])
            assert abs(moved - 0.5) < 1e-6
            for j, bound in enumerate((p[i], q[i])):
                wrong = 1.0 - bound
                assert outside[j] < wrong * (1.0 + 1e-5)
                if found.binding()[i, j]:
                    assert outside[j] > wrong * (1.0 - 1e-5)


@pytest.mark.slow
def test_scipys_search_finds_the_same(rows: Rows) -> None:
    d = 150_528
    name = f"DSRS, {DRAWS[1]:,} draws"
    [row] = [row for row in rows if row["dimension"] == d and row["case"] == name]
    law = generalized_gaussian(d, SIGMA, row["k"])
    found = reference.solve([law, law.truncated(INSIDE)], [row["p_a"], row["q_a"]])
    assert found is not None and abs(found[1] - row["radius_in_sigma"]) < 1e-6 * found[1]


def test_dsrs_grows_with_the_root_of_the_dimension_and_neyman_pearson_stays(rows: Rows) -> None:
    for left in LEFT:
        assert abs(slope(curve(rows, f"DSRS, d − 2k = {left}")) - 0.5) < 0.005
        assert abs(slope(curve(rows, f"Neyman-Pearson, d − 2k = {left}"))) < 0.005
    ideal = curve(rows, f"DSRS, d − 2k = {LEFT[0]}")
    assert np.all(ideal[:, 1] > 0.02 * SIGMA * np.sqrt(ideal[:, 0]))  # Theorem 2
    assert abs(slope(curve(rows, "DSRS, Gaussian")) - 0.25) < 0.02


def test_what_votes_can_prove_does_not_grow(rows: Rows) -> None:
    for n in DRAWS:
        sampled = curve(rows, f"DSRS, {n:,} draws")
        assert abs(slope(sampled)) < 0.01
        assert np.all(sampled[:, 1] < curve(rows, f"DSRS, d − 2k = {LEFT[0]}")[:, 1])
        # h/p_moved is about exp(-r^2/2 sigma^2): what n draws leave open bounds r.
        assert np.all(sampled[:, 1] < math.sqrt(2.0 * math.log(n)))
    grows = slope(curve(rows, f"wrong exp(−d^{POWER:g}) inside"))
    assert 0.5 * POWER < grows < 2.0 * POWER
