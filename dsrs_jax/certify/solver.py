"""The search for the largest radius: concave maximisation inside a monotone root search.

For a radius r let G(r) be the maximum of g(lambda; r) over lambda >= 0. G falls with r, and the
radius is the root of G = 1/2. Each instance is a small state machine that makes one evaluation an
iteration: a damped Newton step in theta = log lambda while the maximum is not reached well enough
for the distance of g from 1/2, and a Newton step in r once it is, on the normal deviate of G (for
the Gaussian law that is a straight line in r). Nothing here has to be trusted: the multipliers and
the radius that come out are verified by one more evaluation (`verifier.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float64, Int32

from dsrs_jax.certify import dual
from dsrs_jax.certify.laws import LawArrays
from dsrs_jax.certify.mesh import Resolution

_RESOLUTION = Resolution(panels=8, order=12, rounds=2, corners=2, grading=0.0)
_LONGEST_STEP = 8.0  # in log lambda
_LONGEST_RAW_STEP = 30.0  # relative, in lambda: beyond it only the direction counts
_FIRST_FALL = 1.5  # the first step down of a law that looks slack; each further one doubles
OFF = -80.0  # a log multiplier under which a law does not count
_GAIN = 2e-2  # the maximum is near enough when a step would gain less than this share of |g - 1/2|
_CLOSE = 1e-13


class Solution(NamedTuple):
    """Log multipliers and radius (in units of s_0) of a block, and whether the search ended."""

    theta: Float64[Array, "instances laws"]
    radius: Float64[Array, " instances"]
    converged: Bool[Array, " instances"]
    iterations: Int32[Array, " instances"]


class _State(NamedTuple):
    theta: Float64[Array, " laws"]  # to be evaluated next
    radius: Float64[Array, ""]
    accepted: Float64[Array, " laws"]  # best multipliers so far at this radius
    value: Float64[Array, ""]  # g at them, -inf after a change of radius
    step: Float64[Array, " laws"]  # the step from them that is being tried
    fall: Float64[Array, " laws"]  # the last step down of a law that looks slack, else 0
    stalled: Bool[Array, ""]  # no step improves g: take the maximum as reached
    low: Float64[Array, ""]  # G(low) > 1/2
    high: Float64[Array, ""]  # G(high) < 1/2
    done: Bool[Array, ""]
    iterations: Int32[Array, ""]


def solve(
    laws: LawArrays,
    bounds: Float64[Array, "instances laws"],
    theta: Float64[Array, "instances laws"],
    radius: Float64[Array, " instances"],
    smallest: Float64[Array, " instances"],
    active: Bool[Array, " instances"],
    iterations: Int32[Array, ""],
    truncated: Bool[Array, ""],
) -> Solution:
    """Multipliers and radius with g = 1/2, from a starting point.

    Args:
        laws: the laws of each instance (every array with a leading axis of instances).
        bounds: lower bounds in [0, 1); a bound of 0 switches its law off.
        theta: log multipliers to start from.
        radius: radius to start from, in units of s_0.
        smallest: where G is under 1/2 at this radius the search ends there.
        active: instances to work on; the others return as they are.
        iterations: how many an instance may take.
        truncated: whether any law of the block is truncated (see `dual.evaluate`).
    """
    iteration = jax.vmap(_iteration, in_axes=(0, 0, 0, 0, None))

    def more(state: _State) -> Bool[Array, ""]:
        return jnp.any(~state.done & (state.iterations < iterations))

    def body(state: _State) -> _State:
        return iteration(laws, bounds, state, smallest, truncated)

    theta = jnp.where(bounds > 0.0, theta, -jnp.inf)
    none = jnp.zeros_like(radius)
    state = _State(
        theta=theta,
        radius=jnp.maximum(radius, smallest),
        accepted=theta,
        value=none - jnp.inf,
        step=jnp.zeros_like(theta),
        fall=jnp.zeros_like(theta),
        stalled=jnp.zeros_like(active),
        low=none,
        high=none + jnp.inf,
        done=~active,
        iterations=jnp.zeros(active.shape, jnp.int32),
    )
    state = lax.while_loop(more, body, state)
    return Solution(state.accepted, state.radius, state.done, state.iterations)


def _iteration(
    laws: LawArrays,
    bounds: Float64[Array, " laws"],
    state: _State,
    smallest: Float64[Array, ""],
    truncated: Bool[Array, ""],
) -> _State:
    theta, radius = state.theta, state.radius
    result = dual.evaluate(laws, theta, radius, _RESOLUTION, truncated=truncated)
    multipliers = jnp.exp(theta)
    shortfall = result.outside - (1.0 - bounds)  # p_j - Q_j(S)
    gradient = multipliers * shortfall
    value = jnp.sum(gradient) + result.shifted

    rejected = ~(value >= state.value - 1e-15)
    next_fall = jnp.clip(2.0 * state.fall, _FIRST_FALL, _LONGEST_STEP)
    step, gain, slack = _newton(bounds, theta, result, gradient, next_fall)
    fall = jnp.where(slack, next_fall, 0.0)
    ready = state.stalled | (gain <= _GAIN * jnp.abs(value - 0.5) + _CLOSE)

    # The radius: Newton on the normal deviate of G, inside the bracket.
    best = value + gain
    above = best > 0.5
    low = jnp.where(above, radius, state.low)
    high = jnp.where(above, state.high, radius)
    deviate = ndtri(jnp.clip(best, 1e-12, 1.0 - 1e-12))
    rate = result.slope * jnp.sqrt(2.0 * jnp.pi) * jnp.exp(0.5 * deviate * deviate)
    move = jnp.clip(-deviate / rate, -0.7 * radius, 4.0 * radius)
    target = radius + move
    bracketed = (target > low) & (target < high)
    middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.0 * radius)
    target = jnp.where(bracketed, target, middle)
    target = jnp.maximum(target, smallest)
    finished = ready & (
        (jnp.abs(best - 0.5) < _CLOSE)
        | (jnp.abs(target - radius) <= 1e-13 * radius)
        | (~above & (radius <= smallest))
    )
    follow = _follow(theta, result, gradient, slack, target - radius)
    # What is switched off now costs no more than `gain`, unless the search had stalled.
    follow = jnp.where(slack & ~state.stalled, -fall, follow)
    step = jnp.where(ready, follow, step)

    next_theta = theta + _bend(step)
    next_theta = jnp.where(jnp.isfinite(theta), next_theta, theta)
    advanced = _State(
        theta=next_theta,
        radius=jnp.where(ready, target, radius),
        accepted=theta,
        value=jnp.where(ready, -jnp.inf, value),
        step=step,
        fall=fall,
        stalled=jnp.bool_(False),
        low=jnp.where(ready, low, state.low),
        high=jnp.where(ready, high, state.high),
        done=finished,
        iterations=state.iterations,
    )
    advanced = _where(finished, advanced._replace(radius=radius), advanced)
    shorter = 0.3 * state.step
    stalled = jnp.max(jnp.abs(shorter)) < 1e-7
    shorter = jnp.where(stalled, 0.0, shorter)
    back = state._replace(
        theta=state.accepted + _bend(shorter),
        value=jnp.where(stalled, -jnp.inf, state.value),
        step=shorter,
        stalled=stalled,
    )
    after = _where(rejected, back, advanced)
    after = after._replace(iterations=state.iterations + 1)
    return _where(state.done, state, after)


def _newton(
    bounds: Float64[Array, " laws"],
    theta: Float64[Array, " laws"],
    result: dual.Evaluation,
    gradient: Float64[Array, " laws"],
    fall: Float64[Array, " laws"],
) -> tuple[Float64[Array, " laws"], Float64[Array, ""], Bool[Array, " laws"]]:
    """A step in theta, the gain in g that a Newton step promises, and the laws to switch off.

    In theta g is not concave: the terms of its Hessian that are not are dropped, which leaves a
    positive definite matrix and so a direction of ascent. The right-hand side compares normal
    deviates instead of probabilities, in which the response to theta is close to linear. A law
    whose multiplier the step would make negative is switched off (its log falls by `fall` each
    time), and the others step without it.
    """
    on = theta > OFF
    diagonal = jnp.diagonal(result.curvature)
    slack = on & (gradient < 0.0) & (-gradient > diagonal)
    # Far from the maximum the curvature may be close to singular (laws that act as one): damp it.
    miss = jnp.max(jnp.where(on & ~slack, jnp.abs(gradient) * jnp.exp(-theta), 0.0))
    ridge = (1e-9 + 0.1 * miss) * diagonal + jnp.maximum(-gradient, 0.0) + 1e-290
    outside = jnp.clip(result.outside, 1e-300, 1.0 - 1e-16)
    deviate = -ndtri(outside)
    wanted = -ndtri(1.0 - bounds)
    density = jnp.exp(-0.5 * deviate * deviate) / jnp.sqrt(2.0 * jnp.pi)
    right = jnp.exp(theta) * density * (wanted - deviate)

    def both(
        free: Bool[Array, " laws"],
    ) -> tuple[Float64[Array, " laws"], Float64[Array, " laws"]]:
        by_gradient = _solve_free(result.curvature, ridge, gradient, free)
        by_deviate = _solve_free(result.curvature, ridge, right, free)
        # A Q_j(S) of next to nothing has lost its digits, and its deviate says nothing.
        known = jnp.all(~free | (result.outside < 1.0 - 1e-12))
        ascends = known & (jnp.dot(by_deviate, gradient) > 0.0)
        return jnp.where(ascends, by_deviate, by_gradient), by_gradient

    free = on & ~slack
    step, safe_step = both(free)
    safe_step = jnp.where(slack, -fall, safe_step)
    negative = free & (step < -1.0)
    dropped = jnp.where(jnp.all(negative == free), slack, slack | negative)
    step, newton_step = both(on & ~dropped)
    step = jnp.where(dropped, -fall, step)
    # A law to switch off gains what its term costs.
    gain = 0.5 * jnp.dot(newton_step, gradient)
    gain = gain + jnp.sum(jnp.where(dropped, jnp.maximum(-gradient, 0.0), 0.0))
    ascends = jnp.dot(step, gradient) > 0.0
    step = jnp.where(ascends, step, safe_step)
    dropped = jnp.where(ascends, dropped, slack)
    return _scaled(step, _LONGEST_RAW_STEP), gain, dropped


def _follow(
    theta: Float64[Array, " laws"],
    result: dual.Evaluation,
    gradient: Float64[Array, " laws"],
    slack: Bool[Array, " laws"],
    move: Float64[Array, ""],
) -> Float64[Array, " laws"]:
    """The step in theta that keeps the active bounds met when the radius moves."""
    right = gradient - jnp.exp(theta) * result.drift * move
    ridge = 1e-9 * jnp.diagonal(result.curvature) + 1e-290
    step = _solve_free(result.curvature, ridge, right, (theta > OFF) & ~slack)
    # No line search follows a change of radius.
    return _scaled(step, 1.0)


def _solve_free(
    curvature: Float64[Array, "laws laws"],
    ridge: Float64[Array, " laws"],
    right: Float64[Array, " laws"],
    free: Bool[Array, " laws"],
) -> Float64[Array, " laws"]:
    """(curvature + ridge) step = right on the free laws, 0 on the others."""
    matrix = jnp.where(free[:, None] & free[None, :], curvature, 0.0)
    matrix = matrix + jnp.diag(jnp.where(free, ridge, 1.0))
    scale = jnp.sqrt(jnp.diagonal(matrix))
    scaled = matrix / (scale[:, None] * scale[None, :])
    return jnp.linalg.solve(scaled, jnp.where(free, right, 0.0) / scale) / scale


def _scaled(step: Float64[Array, " laws"], longest: float) -> Float64[Array, " laws"]:
    """The step, each part at most _LONGEST_STEP downward, as a whole at most `longest` upward.

    A part far below -1 asks for a negative multiplier: it must not hold up the others.
    """
    step = jnp.maximum(step, -_LONGEST_STEP)
    return step / jnp.maximum(1.0, jnp.max(step) / longest)


def _bend(step: Float64[Array, " laws"]) -> Float64[Array, " laws"]:
    """The step that theta takes: long steps up are taken in lambda, whose Newton step they are.

    A law with a small share in h responds to lambda linearly, to log lambda exponentially.
    """
    upward = jnp.where(step > 1.0, 1.0 + jnp.log(jnp.maximum(step, 1.0)), step)
    return jnp.clip(upward, -_LONGEST_STEP, _LONGEST_STEP)


def _where(condition: Bool[Array, ""], yes: _State, no: _State) -> _State:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
