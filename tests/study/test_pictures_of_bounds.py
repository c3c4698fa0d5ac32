"""The plane of bounds: what is drawn is what the certificates say."""

import numpy as np
import pytest

from dsrs_jax.certify import worst_case
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.study.bounds_plane import plane


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
