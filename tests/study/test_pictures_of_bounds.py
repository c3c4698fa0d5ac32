"""The plane of bounds and the plane of the toy: what is drawn is what the certificates say."""

import numpy as np
import pytest

from dsrs_jax.certify import worst_case
from dsrs_jax.noise import gaussian, generalized_gaussian
from dsrs_jax.study import STUDIES, Given
from dsrs_jax.study.bounds_plane import plane
from dsrs_jax.study.toy import P_A, Q_A, SIGMA, density


def nothing() -> Given:
    """For studies that ask for no model."""
    raise AssertionError("a study of formulas asked for a model")


@pytest.mark.parametrize("kind", ["truncated", "sigma"])
def test_a_second_bound_helps_away_from_the_worst_classifier_and_only_there(kind: str) -> None:
    law = generalized_gaussian(784, 0.5, 380.0)
    second = law.truncated(0.6) if kind == "truncated" else law.with_sigma(0.4)
    p = np.array([0.55, 0.7, 0.9])
    q, radius, alone = plane(law, second, p, 7)
    assert np.all(np.diff(q, axis=1) > 0.0) and np.all(q[:, 0] < p)
    assert np.all(np.diff(radius, axis=1) >= -1e-9)  # more probability, no less radius
    worst = worst_case(alone, [law, second])[:, 1]
    for i in range(len(p)):
        below = q[i] <= worst[i]
        np.testing.assert_allclose(radius[i][below], alone.radius[i], rtol=1e-9)
        assert np.all(radius[i][q[i] > worst[i] + 0.05] > 1.0001 * alone.radius[i])


def test_the_worst_classifier_of_the_toy_has_these_probabilities() -> None:
    made = STUDIES["toy"].run(Given(load=nothing))  # type: ignore[arg-type,return-value]
    rows = {row[0]: dict(zip(made.columns, row, strict=True)) for row in made.rows}
    for row in rows.values():
        assert abs(row["worst_under_p_on_grid"] - P_A) < 2e-3
        assert abs(row["worst_moved_on_grid"] - 0.5) < 2e-3
    assert abs(rows["DSRS"]["worst_under_q_on_grid"] - Q_A) < 2e-3
    assert rows["DSRS"]["radius_in_sigma"] > rows["Neyman-Pearson"]["radius_in_sigma"]
    np.testing.assert_allclose(rows["Neyman-Pearson"]["radius_in_sigma"], 0.524400512708, rtol=1e-8)


@pytest.mark.parametrize("k", [0.0, 0.6])
def test_densities_of_the_plane_are_the_laws(k: float) -> None:
    law = generalized_gaussian(2, SIGMA, k)
    rho = np.linspace(1e-4, 12.0, 200_000)
    for one, cut in ((law, 1.0), (law.truncated(0.5), 1.0)):
        mass = np.sum(density(one, rho) * 2.0 * np.pi * rho) * (rho[1] - rho[0])
        np.testing.assert_allclose(mass, cut, atol=5e-3 if k else 1e-4)
    exact = np.exp(-0.5 * rho**2) / (2.0 * np.pi)
    np.testing.assert_allclose(density(gaussian(2, 1.0), rho), exact, rtol=1e-9)
