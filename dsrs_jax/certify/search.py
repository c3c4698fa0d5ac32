"""From probability bounds to certified radii: numbers in, numbers out.

    certificates = certify(law, lower_bounds)                               Neyman-Pearson
    certificates = certify(law, lower_bounds, [extra_law], [extra_bounds])  DSRS

`certify` searches (solver.py), then verifies: a radius is given only if g at the multipliers that
are given with it, less the error declared for its integrals, is above 1/2 (verifier.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from scipy import special

from dsrs_jax.bounds.clopper_pearson import Numbers
from dsrs_jax.certify import cosine, reference, solver
from dsrs_jax.certify.blocks import (
    Bools,
    Float64s,
    block_size,
    blocks,
    float64,
    log,
    padded,
    some,
    truncated,
)
from dsrs_jax.certify.certificates import PER_INSTANCE, Certificates, Solver
from dsrs_jax.certify.laws import LawArrays, RowLaws
from dsrs_jax.certify.verifier import verified_radii, verify
from dsrs_jax.noise import RadialLaw, gaussian
from dsrs_jax.system.errors import UserError

# Most instances end within ten iterations; the few that do not get a block of their own.
_FIRST_ITERATIONS = 20
_LAST_ITERATIONS = 150
_SMALLEST = 1e-3  # of sigma: a radius under this is given as 0 where P's bound is no more than 1/2


def certify(
    law: RadialLaw,
    bound: Numbers,
    extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]] = (),
    extra_bounds: Sequence[Numbers] = (),
) -> Certificates:
    """Largest l2 radii that the given lower bounds prove; Neyman-Pearson without extra laws.

    Li et al. (ICML 2022), section 5, for any number J of extra laws and without negative
    multipliers. The DSRS radius is never below the Neyman-Pearson radius of the same bound.

    Args:
        law: P, the law under which the classifier is smoothed; not truncated.
        bound: (n,) lower bounds in [0, 1) of the probability of the class under P.
        extra_laws: Q_1, ..., Q_J, of the same dimension; each may be truncated. Instead of one
            law a Q may be a sequence of n, one for each instance.
        extra_bounds: J arrays of shape (n,), lower bounds in [0, 1) under each Q; 0 says nothing.

    Raises:
        UserError: a bound is outside [0, 1), or laws and bounds do not fit together.
    """
    bounds = _checked_bounds(law, bound, extra_laws, extra_bounds)
    rows = RowLaws.of((law, *extra_laws), len(bounds))
    keys = np.column_stack([rows.number, bounds])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    laws = RowLaws(rows.combinations, distinct[:, 0].astype(np.int64))
    result = _neyman_pearson(laws, distinct[:, 1:])
    if extra_laws:
        result = _with_extra_laws(laws, distinct[:, 1:], result)
    fields = {name: getattr(result, name)[inverse.reshape(-1)] for name in PER_INSTANCE}
    return Certificates(laws=(law, *extra_laws), **fields)


def compile_ahead(*laws: int) -> Callable[[], None]:
    """Begins to compile, beside other work, all that `certify` needs for these numbers of laws.

    What is compiled serves every dimension from 48 on.

    Returns:
        What waits until it is done, and says what went wrong; to be called before `certify`.
    """
    executor = ThreadPoolExecutor(2, "compilation")
    base = gaussian(cosine.SMALLEST_SERIES_DIMENSION, 1.0)
    tasks = []
    for size in sorted({1, *laws}, reverse=True):
        rows = RowLaws.of((base, *[base.truncated(0.5)] * (size - 1)), 1)
        tasks += [executor.submit(_compile_solver, rows), executor.submit(_compile_verifier, rows)]
    executor.shutdown(wait=False)

    def wait() -> None:
        for task in tasks:
            task.result()

    return wait


def _compile_solver(laws: RowLaws) -> None:
    size = block_size()
    rows, none = np.zeros(size, dtype=np.int64), np.zeros(size)
    with float64():
        arrays, start = some(laws.arrays(), rows), np.zeros((size, len(laws.combinations[0])))
        inactive = np.zeros(size, dtype=bool)
        _solve(arrays, start, start, none, none, inactive, np.int32(1), np.bool_(True))


def _compile_verifier(laws: RowLaws) -> None:
    start = np.zeros((1, len(laws.combinations[0])))
    with float64():
        verify(laws.arrays(), start, start, np.ones(1))


def _neyman_pearson(laws: RowLaws, bounds: Float64s) -> Certificates:
    """One law, one multiplier."""
    law = laws.base
    able = bounds[:, 0] > 0.5
    deviate = special.ndtri(np.where(able, bounds[:, 0], 0.75))
    radius = law.sigma * deviate / law.scale
    # The Gaussian law's solution, exact for k = 0 and close for the others.
    theta = 0.5 * deviate[:, None] ** 2
    smallest = np.full(len(bounds), 1e-9)
    return _search_and_verify(laws.only_base(), bounds[:, :1], theta, radius, smallest, able)


def _with_extra_laws(laws: RowLaws, bounds: Float64s, neyman_pearson: Certificates) -> Certificates:
    """DSRS from the Neyman-Pearson certificates, and never below them."""
    law, plain = laws.base, neyman_pearson
    able = (plain.radius > 0.0) | ~_half_is_enough(laws, bounds)
    start = np.where(plain.radius > 0.0, log(plain.multipliers[:, 0]), 0.0)
    theta = start[:, None] + laws.each(_starting_weights)
    radius = np.maximum(plain.radius, 0.1 * law.sigma) / law.scale
    smallest = np.where(plain.radius > 0.0, 1e-9, _SMALLEST * law.sigma / law.scale)
    dsrs = _search_and_verify(laws, bounds, theta, radius, smallest, able)
    better = dsrs.replaced_by(plain, dsrs.radius <= plain.radius)
    return dataclasses.replace(better, bounds=bounds)


def _half_is_enough(laws: RowLaws, bounds: Float64s) -> Bools:
    """Whether the bounds allow a classifier that is right on a set of P's measure 1/2.

    Then no positive radius has a proof, whatever the multipliers. The sets tried are the inner
    and the outer half of P; where every Q leans inwards (or every Q outwards) they decide.
    """
    inner = laws.each(_inner_half)
    return np.all(bounds <= inner, axis=1) | np.all(bounds <= 1.0 - inner, axis=1)


def _inner_half(laws: tuple[RadialLaw, ...]) -> list[float]:
    """The measure that each law gives to the inner half of P."""
    base = laws[0]
    median = base.scale * special.gammaincinv(base.shape, 0.5) ** (1.0 / base.eta)
    return [0.5] + [_radial_cdf(q, median) for q in laws[1:]]


def _radial_cdf(law: RadialLaw, radius: float) -> float:
    mass = special.gammainc(law.shape, (radius / law.scale) ** law.eta)
    return min(float(mass) / (law.quantile or 1.0), 1.0)


def _starting_weights(laws: tuple[RadialLaw, ...]) -> Float64s:
    """Log multipliers to start from, relative to Neyman-Pearson's.

    Each Q_j makes half of h at its own mode; P makes up the rest at the mode of P, where the Q's
    may have next to nothing. Only a place to start: its precision does not matter.
    """

    def log_density(law: RadialLaw, radius: float) -> float:
        level = (radius / law.scale) ** law.eta
        return (
            np.log(law.eta / (law.quantile or 1.0))
            - special.gammaln(law.shape)
            + law.shape * np.log(level)
            - level
        )

    base = laws[0]
    modes = [min(q.scale * q.shape ** (1.0 / q.eta), q.truncation_radius) for q in laws]
    theta = [
        log_density(base, mode) - log_density(q, mode) - np.log(2.0)
        for q, mode in zip(laws, modes, strict=True)
    ]
    taken = sum(
        np.exp(t + log_density(q, modes[0]) - log_density(base, modes[0]))
        for t, q in zip(theta[1:], laws[1:], strict=True)
    )
    return np.array([np.log(max(1.0 - taken, 0.25)), *theta[1:]])


def _search_and_verify(
    laws: RowLaws,
    bounds: Float64s,
    theta: Float64s,
    radius: Float64s,
    smallest: Float64s,
    able: Bools,
) -> Certificates:
    scale = laws.base.scale
    with float64():
        arrays = laws.arrays()
        theta, radius, converged = _search(arrays, bounds, theta, radius, smallest, able)
        # A search that ended at the smallest radius found that there is nothing to prove.
        hopeful = able & ~(converged & (radius <= smallest))
        verified = verified_radii(arrays, bounds, theta, radius, hopeful & converged)
        found_by = _FOUND_BY[(verified[0] > 0.0).astype(np.int64)]
        missed = hopeful & (verified[0] == 0.0)
        for i in np.flatnonzero(missed).tolist():
            found = reference.solve(laws.row(i), bounds[i])
            if found is None:
                continue
            weights, longest = found
            one = verified_radii(
                some(arrays, np.array([i])),
                bounds[i : i + 1],
                log(weights)[None, :],
                np.array([longest / scale]),
                np.array([True]),
            )
            for column, entry in zip(verified, one, strict=True):
                column[i] = entry[0]
            found_by[i] = Solver.REFERENCE if one[0][0] > 0.0 else Solver.NONE
    unit, multipliers, value, error_bound = verified
    # Two more roundings lie between the radius that was verified and its value in pixels.
    length = np.where(unit > 0.0, unit * scale * (1.0 - 2.0**-50), 0.0)
    return Certificates((), bounds, length, multipliers, value, error_bound, found_by)


def _search(
    laws: LawArrays,
    bounds: Float64s,
    theta: Float64s,
    radius: Float64s,
    smallest: Float64s,
    able: Bools,
) -> tuple[Float64s, Float64s, Bools]:
    """Solutions of all able instances: a short search for all, a long one for those left."""
    theta, radius = theta.copy(), radius.copy()
    converged = ~able
    any_truncated = truncated(laws)
    for iterations in (_FIRST_ITERATIONS, _LAST_ITERATIONS):
        left = np.flatnonzero(~converged)
        # All are begun before the first is waited for: a device may work on several at once.
        solutions = []
        for block in blocks(left):
            rows = padded(block)
            active = np.arange(len(rows)) < len(block)
            solutions.append(
                _solve(
                    some(laws, rows),
                    bounds[rows],
                    theta[rows],
                    radius[rows],
                    smallest[rows],
                    active,
                    np.int32(iterations),
                    any_truncated,
                )
            )
        for block, solution in zip(blocks(left), solutions, strict=True):
            count = len(block)
            theta[block] = np.asarray(solution.theta)[:count]
            radius[block] = np.asarray(solution.radius)[:count]
            converged[block] = np.asarray(solution.converged)[:count]
    return theta, radius, converged


_solve = jax.jit(solver.solve)
_FOUND_BY = np.array([Solver.NONE, Solver.FAST], dtype=object)


def _checked_bounds(
    law: RadialLaw,
    bound: Numbers,
    extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]],
    extra_bounds: Sequence[Numbers],
) -> Float64s:
    if law.cutoff is not None:
        raise UserError("the first law is the smoothing law itself and must not be truncated")
    if len(extra_bounds) != len(extra_laws):
        raise UserError(
            f"give one array of bounds for each extra law: {len(extra_laws)} laws, "
            f"{len(extra_bounds)} arrays"
        )
    columns = [np.atleast_1d(np.asarray(b, dtype=np.float64)) for b in (bound, *extra_bounds)]
    if any(column.shape != columns[0].shape or column.ndim != 1 for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise UserError(f"bounds must be arrays of one common length, got shapes {shapes}")
    bounds = np.stack(columns, axis=1)
    if not np.all((bounds >= 0.0) & (bounds < 1.0)):
        raise UserError("bounds must lie in [0, 1)")
    for q in extra_laws:
        each = [q] if isinstance(q, RadialLaw) else list(q)
        if len(each) not in (1, len(bounds)):
            raise UserError("a sequence of laws needs one for each instance")
        if any(one.dimension != law.dimension for one in each):
            raise UserError("all laws of a certificate must have the same dimension")
    return bounds
