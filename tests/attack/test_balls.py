"""Balls: projections are exact, starts are uniform in them, steps are the steepest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from dsrs_jax.attack import NORMS, balls, distance, exactly_within

SHAPE = (3, 28, 28, 1)
STARTS = 4_000

within = jax.jit(balls.within, static_argnums=0)
offsets = arrays.arrays(
    np.float32,
    SHAPE,
    elements=st.floats(-2.0, 2.0, width=32, allow_subnormal=False),
    fill=st.sampled_from([0.0, 0.5, 1e-3, 2.0**-20]),
)
radii = arrays.arrays(np.float32, 3, elements=st.floats(2.0**-10, 64.0, width=32))
images = arrays.arrays(np.float32, SHAPE, elements=st.floats(0.0, 1.0, width=32))


def norms(norm: str, some: np.ndarray) -> np.ndarray:
    return np.array([distance(norm, one, np.zeros_like(one)) for one in some])


@pytest.mark.parametrize("norm", NORMS)
@given(offsets=offsets, radii=radii, images=images)
def test_projections_end_in_the_ball_and_leave_what_is_inside(
    norm: str, offsets: np.ndarray, radii: np.ndarray, images: np.ndarray
) -> None:
    moved = np.asarray(within(norm, offsets, radii))
    ends = radii.astype(np.float64)
    assert np.all(norms(norm, moved) <= ends * (1.0 + 1e-6))
    inside = norms(norm, offsets) <= ends
    np.testing.assert_array_equal(moved[inside], offsets[inside])
    # Outside the nearest point lies on the sphere, in the same direction.
    assert np.all(norms(norm, moved)[~inside] >= ends[~inside] * (1.0 - 1e-6))
    assert np.all(moved * offsets >= 0.0) and np.all(np.abs(moved) <= np.abs(offsets))
    again = np.asarray(within(norm, moved, radii))
    np.testing.assert_allclose(again, moved, rtol=1e-6, atol=0.0)
    # An attacked image is within the radius to the last bit, where rounding would have it.
    for image, offset, radius in zip(images, moved, ends.tolist(), strict=True):
        attacked = exactly_within(norm, image, offset, radius)
        assert attacked.dtype == np.float32 and distance(norm, attacked, image) <= radius
        np.testing.assert_allclose(attacked, image + offset, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "shape"), [("l2", (2, 1, 1)), ("l2", (8, 8, 1)), ("linf", (8, 8, 1))]
)
def test_starts_are_uniform_in_the_ball(norm: str, shape: tuple[int, int, int]) -> None:
    radius, d = 0.25, shape[0] * shape[1]
    keys = jax.random.split(jax.random.key(0), STARTS)
    draw = jax.vmap(functools.partial(balls.uniform, norm, shape=shape, radius=jnp.float32(radius)))
    starts = np.asarray(draw(keys), np.float64).reshape(STARTS, d)
    if norm == "linf":
        lengths = np.abs(starts).max(axis=1)
        flat = starts[:, 0] / radius
        assert stats.kstest(flat, stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3
    else:
        lengths = np.linalg.norm(starts, axis=1)
        # The cosine with any direction has a symmetric Beta law.
        law = stats.beta((d - 1) / 2, (d - 1) / 2, loc=-1.0, scale=2.0)
        assert stats.kstest(starts[:, 0] / lengths, law.cdf).pvalue > 1e-3
    # The share of the ball's volume inside a start. A cube's points, drawn to the ball, would all
    # lie on the sphere here.
    assert np.all(lengths <= radius * (1 + 1e-6))
    assert stats.kstest((lengths / radius) ** d, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_steps_have_norm_one_and_no_gradient_is_no_step(norm: str) -> None:
    gradient = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    gradient[1] *= 1e-30
    gradient[2], gradient[3, 0, 0, 0] = 0.0, np.nan
    steps, there = map(np.asarray, balls.steepest(norm, jnp.asarray(gradient)))
    assert there.tolist() == [True, True, False, False] and not steps[2:].any()
    if norm == "linf":
        np.testing.assert_array_equal(steps[:2], np.sign(gradient[:2]))
    else:
        wide = gradient[:2].astype(np.float64)
        unit = wide / norms(norm, wide)[:, None, None, None]
        np.testing.assert_allclose(steps[:2], unit, rtol=1e-6)
