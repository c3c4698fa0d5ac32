"""From probability bounds to certificates: the only door into the float64 computation.

    certificates = certify(law, lower_bounds)                               Neyman-Pearson
    certificates = certify(law, lower_bounds, [extra_law], [extra_bounds])  DSRS

`certify` searches (solver.py), then judges: a radius is given only if g at the multipliers that
are given with it, less the error declared for its integrals, is above 1/2 (dual.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Shaped
from numpy.typing import NDArray
from scipy import special

from dsrs_jax.certify import cosine, dual, reference, solver
from dsrs_jax.certify.bounds import Numbers, lower_bound
from dsrs_jax.errors import UserError
from dsrs_jax.noise.radial import RadialLaw

Float64s = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Instances in one compiled call; the last block is padded.
BLOCK = 256
# Most instances end within ten turns; the few that do not are gathered into a block of their own.
_FIRST_TURNS = 20
_LAST_TURNS = 150
_RESOLUTION = dual.Resolution(panels=12, order=16, rounds=3)
# Rounding in the integrals: this multiple of float64's epsilon, for each term of g (measured
# against 30-digit integration: tests/certify/test_allowance.py).
_ROUNDING = 100 * np.finfo(np.float64).eps
_BETA_ROUNDING = 4.0  # the incomplete beta function of small dimensions errs by more
_DIFFERENCES = 4.0
_MARGIN = 4.0  # of the declared error: costs about 1e-13 of radius
_JUDGEMENTS = 12
_LOG_NEGLIGIBLE = -36.0  # a multiplier changes g by no more than itself: 2e-16
_SLACK = 1e-9  # of the largest multiplier: a law with less is called slack
_SMALLEST = 1e-3  # of sigma: a radius under this is given as 0 where P's bound is no more than 1/2


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Certified radii of n instances, with all that is needed to check them again.

    For each instance, g(multipliers; radius) - allowance > 1/2 wherever the radius is positive
    (design: weak duality), so no perturbation of l2 norm up to `radius` changes the answer, if
    the bounds hold.

    Attributes:
        laws: (P, Q_1, ..., Q_J) as they were given.
        bounds: (n, J + 1) lower bounds of the probability of the class under each law.
        radius: (n,) certified l2 radius, rounded down; 0 certifies nothing.
        multipliers: (n, J + 1), all >= 0.
        value: (n,) g at the multipliers and the radius.
        allowance: (n,) declared numerical error of `value`.
        status: (n,) "joint" (P and some Q bind), "P" (only P: the other bounds do not help), "Q"
            (P's own bound does not), "none" (radius 0).
        path: (n,) what found the multipliers: "fast", "reference" (SciPy), or "" for radius 0.
    """

    laws: tuple[RadialLaw | Sequence[RadialLaw], ...]
    bounds: NDArray[np.float64]
    radius: NDArray[np.float64]
    multipliers: NDArray[np.float64]
    value: NDArray[np.float64]
    allowance: NDArray[np.float64]
    status: Shaped[np.ndarray, " n"]
    path: Shaped[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.radius)

    def replaced_by(self, other: Certificate, where: NDArray[np.bool_]) -> Certificate:
        """These certificates, and those of `other` (of as many laws or fewer) where `where` is."""
        missing = ((0, 0), (0, self.bounds.shape[1] - other.bounds.shape[1]))
        fields = {name: getattr(other, name) for name in _PER_INSTANCE}
        for name in ("bounds", "multipliers"):
            fields[name] = np.pad(getattr(other, name), missing)
        chosen = {
            name: np.where(where[:, None] if field.ndim == 2 else where, field, getattr(self, name))
            for name, field in fields.items()
        }
        return dataclasses.replace(self, **chosen)


def certify(
    law: RadialLaw,
    bound: Numbers,
    extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]] = (),
    extra_bounds: Sequence[Numbers] = (),
) -> Certificate:
    """Largest l2 radii that the given lower bounds prove; Neyman-Pearson without extra laws.

    Li et al. (ICML 2022), section 5, for any number J of extra laws and without negative
    multipliers. The DSRS radius is never below the Neyman-Pearson radius of the same bound.

    Args:
        law: P, the law under which the classifier is smoothed; not truncated.
        bound: (n,) lower bounds in [0, 1) of the probability of the class under P.
        extra_laws: Q_1, ..., Q_J, of the same dimension; each may be truncated. Instead of one
            law a Q may be a sequence of n, one for each instance, all truncated or none.
        extra_bounds: J arrays of shape (n,), lower bounds in [0, 1) under each Q; 0 says nothing.

    Raises:
        UserError: a bound is outside [0, 1), or laws and bounds do not fit together.
    """
    bounds = _checked_bounds(law, bound, extra_laws, extra_bounds)
    combinations, combination = _combinations(law, extra_laws, len(bounds))
    keys = np.column_stack([combination, bounds])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    laws = _Laws(combinations, distinct[:, 0].astype(np.int64))
    result = _neyman_pearson(laws, distinct[:, 1:])
    if extra_laws:
        result = _with_extra_laws(laws, distinct[:, 1:], result)
    rows = {name: getattr(result, name)[inverse.reshape(-1)] for name in _PER_INSTANCE}
    return Certificate(laws=(law, *extra_laws), **rows)


def certify_votes(
    law: RadialLaw,
    votes: Numbers,
    draws: Numbers,
    extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]] = (),
    extra_votes: Sequence[Numbers] = (),
    extra_draws: Sequence[Numbers] = (),
    *,
    alpha: float,
) -> Certificate:
    """Certificates from counts of votes: one-sided bounds at alpha/(J + 1) each, then `certify`.

    All bounds of an instance hold together with probability at least 1 - alpha.

    Args:
        law: P.
        votes: (n,) votes for the class among `draws` draws of P.
        draws: (n,) or one number, fixed before sampling.
        extra_laws: Q_1, ..., Q_J.
        extra_votes: J arrays (n,): votes among draws of each Q. For Q = P truncated they may be
            P's own draws inside the truncation radius.
        extra_draws: J arrays (n,) or numbers.
        alpha: failure probability of a whole certificate.

    Raises:
        UserError: counts, alpha or laws outside their domain.
    """
    share = alpha / (1 + len(extra_laws))
    return certify(
        law,
        lower_bound(votes, draws, share),
        extra_laws,
        [lower_bound(v, n, share) for v, n in zip(extra_votes, extra_draws, strict=True)],
    )


_PER_INSTANCE = ("bounds", "radius", "multipliers", "value", "allowance", "status", "path")


def evaluate(
    laws: Sequence[RadialLaw], bounds: Numbers, multipliers: Numbers, radius: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """g and its declared numerical error at given multipliers and radii: checks a certificate.

    Args:
        laws: (P, Q_1, ..., Q_J).
        bounds: (n, J + 1) in [0, 1).
        multipliers: (n, J + 1), >= 0, at least one of each row positive.
        radius: (n,), positive.

    Returns:
        (g, allowance), each (n,): the radius is certified where g - allowance > 1/2.
    """
    rows = np.asarray(bounds, dtype=np.float64)
    weights = np.asarray(multipliers, dtype=np.float64)
    lengths = np.asarray(radius, dtype=np.float64)
    if not np.all((weights >= 0) & np.isfinite(weights)) or not np.all(weights.sum(axis=1) > 0):
        raise UserError("multipliers must be finite and not negative, and one of them positive")
    if not np.all((lengths > 0) & np.isfinite(lengths)):
        raise UserError("radii must be positive and finite")
    with _float64():
        alike = _Laws([tuple(laws)], np.zeros(len(rows), dtype=np.int64))
        judged = _judge(alike.families(), rows, _log(weights), lengths / laws[0].scale)
    return judged.value, judged.allowance


def worst_case(
    certificate: Certificate, laws: Sequence[RadialLaw | Sequence[RadialLaw]]
) -> NDArray[np.float64]:
    """The probability that each law gives to the class under the worst classifier of all.

    The worst classifier is the indicator of S = {p_moved < h} at a certificate's multipliers and
    radius: it moves no more than half of its probability to a point so far away. If what it gives
    to each law lies within that law's confidence interval, no method can certify more from these
    intervals. If it gives more to some Q than Q's upper end, the paper certifies more, with a
    negative multiplier, which is not done here (design: only lower bounds).

    Args:
        certificate: n certificates.
        laws: (P, Q_1, ...) as in `certify`, beginning with the certificate's own laws.

    Returns:
        (n, laws) probabilities; nan where the radius is 0.
    """
    rows = np.flatnonzero(certificate.radius > 0.0)
    base = certificate.laws[0]
    assert isinstance(base, RadialLaw)
    result = np.full((len(certificate), len(laws)), np.nan)
    if not rows.size:
        return result
    combinations, number = _combinations(base, laws[1:], len(certificate))
    own = certificate.multipliers[rows]
    weights = np.pad(own, ((0, 0), (0, len(laws) - own.shape[1])))
    radius = certificate.radius[rows] / base.scale
    with _float64():
        families = _Laws(combinations, number[rows]).families()
        result[rows] = _judge(families, np.zeros_like(weights), _log(weights), radius).masses
    return result


@dataclasses.dataclass(frozen=True)
class _Laws:
    """The laws of each row: a number into a list of distinct combinations (P, Q_1, ..., Q_J)."""

    combinations: list[tuple[RadialLaw, ...]]
    number: NDArray[np.int64]

    @property
    def base(self) -> RadialLaw:
        return self.combinations[0][0]

    def of(self, row: int) -> tuple[RadialLaw, ...]:
        return self.combinations[self.number[row]]

    def only_base(self) -> _Laws:
        return _Laws([(self.base,)], np.zeros_like(self.number))

    def families(self) -> dual.Family:
        """The laws as arrays, each with a leading axis of rows."""
        distinct = [dual.family_of(laws) for laws in self.combinations]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[self.number], *distinct)

    def each(self, function: Callable[[tuple[RadialLaw, ...]], object]) -> NDArray[np.float64]:
        """function(laws) for every row, computed once for each combination."""
        return np.array([function(laws) for laws in self.combinations])[self.number]


def _combinations(
    law: RadialLaw, extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]], size: int
) -> tuple[list[tuple[RadialLaw, ...]], NDArray[np.int64]]:
    columns = [[law] * size]
    columns += [[q] * size if isinstance(q, RadialLaw) else list(q) for q in extra_laws]
    known: dict[tuple[RadialLaw, ...], int] = {}
    number = [known.setdefault(laws, len(known)) for laws in zip(*columns, strict=True)]
    return list(known), np.array(number, dtype=np.int64)


def _neyman_pearson(laws: _Laws, bounds: Float64s) -> Certificate:
    """One law, one multiplier."""
    law = laws.base
    able = bounds[:, 0] > 0.5
    deviate = special.ndtri(np.where(able, bounds[:, 0], 0.75))
    radius = law.sigma * deviate / law.scale
    # The Gaussian law's solution, exact for k = 0 and close for the others.
    theta = 0.5 * deviate[:, None] ** 2
    smallest = np.full(len(bounds), 1e-9)
    return _search_and_judge(laws.only_base(), bounds[:, :1], theta, radius, smallest, able)


def _with_extra_laws(laws: _Laws, bounds: Float64s, plain: Certificate) -> Certificate:
    """DSRS from the Neyman-Pearson certificates, and never below them."""
    law = laws.base
    able = (plain.radius > 0.0) | ~_half_is_enough(laws, bounds)
    start = np.where(plain.radius > 0.0, _log(plain.multipliers[:, 0]), 0.0)
    theta = start[:, None] + laws.each(_shares)
    radius = np.maximum(plain.radius, 0.1 * law.sigma) / law.scale
    smallest = np.where(plain.radius > 0.0, 1e-9, _SMALLEST * law.sigma / law.scale)
    joint = _search_and_judge(laws, bounds, theta, radius, smallest, able)
    better = joint.replaced_by(plain, joint.radius <= plain.radius)
    return dataclasses.replace(better, bounds=bounds)


def _half_is_enough(laws: _Laws, bounds: Float64s) -> NDArray[np.bool_]:
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


def _shares(laws: tuple[RadialLaw, ...]) -> NDArray[np.float64]:
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


def _search_and_judge(
    laws: _Laws,
    bounds: Float64s,
    theta: Float64s,
    radius: Float64s,
    smallest: Float64s,
    able: Bools,
) -> Certificate:
    scale = laws.base.scale
    with _float64():
        family = laws.families()
        theta, radius, converged = _search(family, bounds, theta, radius, smallest, able)
        # A search that ended at the smallest radius found that there is nothing to prove.
        hopeful = able & ~(converged & (radius <= smallest))
        judged = _judge_until_true(family, bounds, theta, radius, hopeful & converged)
        path = np.where(judged[0] > 0.0, "fast", "").astype("U9")
        missed = hopeful & (judged[0] == 0.0)
        for i in np.flatnonzero(missed).tolist():
            found = reference.solve(laws.of(i), bounds[i])
            if found is None:
                continue
            weights, longest = found
            one = _judge_until_true(
                _rows(family, np.array([i])),
                bounds[i : i + 1],
                _log(weights)[None, :],
                np.array([longest / scale]),
                np.array([True]),
            )
            for column, entry in zip(judged, one, strict=True):
                column[i] = entry[0]
            path[i] = "reference" if one[0][0] > 0.0 else ""
    unit, multipliers, value, allowance = judged
    # Two more roundings lie between the radius that was judged and its value in pixels.
    length = np.where(unit > 0.0, unit * scale * (1.0 - 2.0**-50), 0.0)
    # A multiplier on its way to 0 may stop short of it.
    binds = multipliers > _SLACK * multipliers.max(axis=1, keepdims=True)
    others = np.any(binds[:, 1:], axis=1)
    status = np.select([length == 0.0, ~others, ~binds[:, 0]], ["none", "P", "Q"], "joint")
    return Certificate((), bounds, length, multipliers, value, allowance, status, path)


def _search(
    family: dual.Family,
    bounds: Float64s,
    theta: Float64s,
    radius: Float64s,
    smallest: Float64s,
    able: Bools,
) -> tuple[Float64s, Float64s, Bools]:
    """Solutions of all able instances: a short search for all, a long one for those left."""
    theta, radius = theta.copy(), radius.copy()
    converged = ~able
    for turns in (_FIRST_TURNS, _LAST_TURNS):
        left = np.flatnonzero(~converged)
        for block in _blocks(left):
            rows, count = _padded(block), len(block)
            active = np.arange(BLOCK) < count
            solution = _solve(
                _rows(family, rows),
                bounds[rows],
                theta[rows],
                radius[rows],
                smallest[rows],
                active,
                np.int32(turns),
            )
            theta[block] = np.asarray(solution.theta)[:count]
            radius[block] = np.asarray(solution.radius)[:count]
            converged[block] = np.asarray(solution.converged)[:count]
    return theta, radius, converged


def _judge_until_true(
    family: dual.Family, bounds: Float64s, theta: Float64s, radius: Float64s, able: Bools
) -> tuple[Float64s, Float64s, Float64s, Float64s]:
    """Radii that the last evaluation of g proves: those given, or shorter by what it lacks."""
    weights = np.where(theta > _LOG_NEGLIGIBLE, np.exp(theta), 0.0)
    theta = _log(weights)
    radius = np.where(able, radius, 0.0)
    value, allowance = np.zeros(len(bounds)), np.zeros(len(bounds))
    proved = np.zeros(len(bounds), dtype=bool)
    for attempt in range(_JUDGEMENTS):
        open_ = np.flatnonzero(able & ~proved & (radius > 0.0))
        if open_.size == 0:
            break
        g, error, slope, _ = _judge(
            _rows(family, open_), bounds[open_], theta[open_], radius[open_]
        )
        # With a margin, so that whoever evaluates the certificate again finds it true: another
        # order of roundings gives another g and another declared error.
        lacking = 0.5 + _MARGIN * error - g
        good = lacking < 0.0
        value[open_], allowance[open_], proved[open_] = g, error, good
        shrink = (1.1 * lacking + 1e-15) / np.maximum(-slope, 1e-300) * 2.0**attempt
        shorter = radius[open_] - np.where(good, 0.0, shrink)
        radius[open_] = np.where(np.isfinite(shorter), np.maximum(shorter, 0.0), 0.0)
    radius = np.where(proved, radius, 0.0)
    weights = np.where(proved[:, None], weights, 0.0)
    return radius, weights, np.where(proved, value, 0.0), np.where(proved, allowance, 0.0)


class _Judgement(NamedTuple):
    """g, its declared error, dg/dr, and the probability that each law gives to the region S."""

    value: Any
    allowance: Any
    slope: Any
    masses: Any  # (rows, laws)


def _judge(family: dual.Family, bounds: Float64s, theta: Float64s, radius: Float64s) -> _Judgement:
    """Judgements of any number of rows."""
    if not len(radius):
        return _Judgement(radius, radius, radius, bounds)
    out: list[_Judgement] = []
    for block in _blocks(np.arange(len(radius))):
        rows = _padded(block)
        judged = _judge_block(_rows(family, rows), bounds[rows], theta[rows], radius[rows])
        out.append(_Judgement(*(np.asarray(leaf)[: len(block)] for leaf in judged)))
    return _Judgement(*(np.concatenate(leaves) for leaves in zip(*out, strict=True)))


@jax.jit
def _judge_block(
    family: dual.Family,
    bounds: Float64[Array, "instances laws"],
    theta: Float64[Array, "instances laws"],
    radius: Float64[Array, " instances"],
) -> _Judgement:
    def one(
        family: dual.Family,
        bounds: Float64[Array, " laws"],
        theta: Float64[Array, " laws"],
        radius: Float64[Array, ""],
    ) -> _Judgement:
        multipliers = jnp.exp(theta)
        terms = multipliers * (1.0 - bounds)

        def value(halved: Array) -> tuple[Array, dual.Evaluation]:
            result = dual.evaluate(family, theta, radius, _RESOLUTION, halved)
            g = jnp.dot(multipliers, result.outside) - jnp.sum(terms) + result.moved
            return g, result

        both, results = jax.lax.map(value, jnp.array([False, True]))
        coarse, fine = both[0], both[1]
        result = jax.tree.map(lambda leaf: leaf[1], results)
        size = jnp.dot(multipliers, result.outside) + jnp.sum(terms) + result.moved
        # A density's relative error grows with its exponent's size, about sqrt(shape) epsilon.
        rounding = _ROUNDING * (1.0 + 0.1 * jnp.sqrt(jnp.max(family.shape)))
        if family.dimension < cosine.SMALLEST_SERIES_DIMENSION:
            rounding = _BETA_ROUNDING * rounding
        allowance = _DIFFERENCES * jnp.abs(fine - coarse) + rounding * size
        return _Judgement(fine, allowance, result.slope, 1.0 - result.outside)

    return jax.vmap(one)(family, bounds, theta, radius)


_solve = jax.jit(solver.solve)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """64-bit mode, on a device that has it: the default one, or the CPU beside a TPU."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() not in ("cpu", "gpu", "cuda", "rocm"):
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        yield


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _padded(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([rows, np.full(BLOCK - len(rows), rows[0])])


def _rows(family: dual.Family, rows: NDArray[np.int64]) -> dual.Family:
    return jax.tree.map(lambda leaf: leaf[rows], family)


def _log(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(weights)


def _checked_bounds(
    law: RadialLaw,
    bound: Numbers,
    extra_laws: Sequence[RadialLaw | Sequence[RadialLaw]],
    extra_bounds: Sequence[Numbers],
) -> NDArray[np.float64]:
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
        if len(each) not in (1, len(bounds)) or len({one.cutoff is None for one in each}) != 1:
            raise UserError("a sequence of laws needs one for each instance, all truncated or none")
        if any(one.dimension != law.dimension for one in each):
            raise UserError("all laws of a certificate must have the same dimension")
    return bounds
