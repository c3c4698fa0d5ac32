"""Certified radii against closed forms, the slow reference and the laws that they must obey."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import slow_reference as reference
from numpy.typing import NDArray
from scipy import special

import dsrs_jax
from dsrs_jax.certify import (
    Certificates,
    Solver,
    blocks,
    certify,
    evaluate,
    search,
    verifier,
    worst_case,
)
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.system.errors import UserError

LAW = generalized_gaussian(784, 0.5, 380.0)
SMALL = generalized_gaussian(64, 0.5, 24.0)
LARGE = generalized_gaussian(150_528, 0.25, 75_260.0)


def in_full(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def random_bounds(seed: int, rows: int, columns: int = 2) -> NDArray[np.float64]:
    """Bounds from 1/2 to 1 - 1e-6, as many near 1 as near 1/2."""
    return 1 - 10 ** np.random.default_rng(seed).uniform(-6, np.log10(0.5), (rows, columns))


def assert_proved(result: Certificates) -> None:
    """What certificates promise, verified anew from their own record."""
    some = result.radius > 0
    assert np.all(result.multipliers >= 0)
    assert np.all(result.binding().any(axis=1) == some)
    assert np.all((result.solver == Solver.NONE) == ~some)
    laws = [
        law if isinstance(law, RadialLaw) else [law[i] for i in np.flatnonzero(some)]
        for law in result.laws
    ]
    rows = result.bounds[some], result.multipliers[some], result.radius[some]
    value, error_bound = evaluate(laws, *rows)
    assert np.all(value - error_bound > 0.5)
    np.testing.assert_allclose(result.value[some], value, atol=1e-12)
    assert np.all((result.value - result.error_bound)[some] > 0.5)


def assert_radii_of_the_reference(result: Certificates, rows: Sequence[int]) -> None:
    """Radii to 1e-6 of sigma, 0 where the reference finds none."""
    for i in rows:
        laws = [law if isinstance(law, RadialLaw) else law[i] for law in result.laws]
        found = reference.solve(laws, result.bounds[i])
        radius = 0.0 if found is None else found[1]
        assert result.radius[i] == pytest.approx(radius, abs=1e-6 * laws[0].sigma), laws


@pytest.mark.slow
def test_kernels_are_compiled_once() -> None:
    """One program for a number of laws: for all dimensions from 48 on, truncated laws or not."""
    search.compile_ahead(2)()
    kernels = (search._solve, verifier.verify_block)
    sizes = [kernel._cache_size() for kernel in kernels]
    for dimension, rows in ((48, 1), (784, blocks.block_size() + 1), (150_528, 3)):
        law = generalized_gaussian(dimension, 0.5, 0.0 if rows == 3 else 0.4 * dimension)
        bounds, extra = random_bounds(rows, rows), [law.truncated(0.7)] * rows
        extra[-1] = law.with_sigma(0.49)
        assert np.any(certify(law, bounds[:, 0], [extra], [bounds[:, 1]]).radius > 0)
    assert [kernel._cache_size() for kernel in kernels] == sizes


# A dimension under 48 has programs of its own, which take long, and one under 8 finer panels too;
# all others share one.
@pytest.mark.parametrize(
    ("dimension", "sigma"),
    [in_full(2, 1.0), in_full(8, 0.12), (48, 0.12), (784, 1.0), (150_528, 0.25)],
)
def test_gaussian_radius_is_the_closed_form(dimension: int, sigma: float) -> None:
    """sigma Phi^-1(p): Cohen et al. (ICML 2019)."""
    p = np.concatenate([1 - np.logspace(-12, np.log10(0.5 - 1e-6), 60), [0.5 + 1e-6, 0.75]])
    result = certify(gaussian(dimension, sigma), p)
    exact = sigma * special.ndtri(p)
    # 1 - 1e-12 is a rounded number: its complement is known to 1e-4 of itself.
    assert np.all(np.abs(result.radius - exact) < 1e-9 * sigma)
    assert np.all(result.radius <= exact * (1 + 1e-15))
    assert np.all(result.solver == Solver.FAST)
    assert_proved(result)


@pytest.mark.parametrize(
    ("dimension", "k", "factor"),
    [(150_528, 75_260.0, 0.8), in_full(64, 24.0, 0.7), in_full(64, 0.0, 0.9),
     in_full(784, 0.0, 0.95), in_full(3_072, 1_530.0, 0.8), in_full(150_528, 0.0, 0.996)],
)  # fmt: skip
def test_radii_agree_with_the_reference(dimension: int, k: float, factor: float) -> None:
    """With one extra law or two, of another sigma or truncated; some bounds say nothing."""
    law = generalized_gaussian(dimension, 0.5, k)
    scaled, inner, outer = (
        law.with_sigma(factor * law.sigma),
        law.truncated(0.3),
        law.truncated(0.8),
    )
    first = [scaled, outer, inner, inner, inner, inner]
    second = [outer, inner, outer, outer, scaled, inner]
    bounds = [[0.97, 0.99, 0.0], [0.97, 0.99, 0.0], [0.9, 0.95, 0.0], [0.99, 0.999, 0.995]]
    bounds += [[0.999, 0.9, 0.99999], [0.9, 0.95, 0.95]]
    p, *each = np.array(bounds).T
    result = certify(law, p, [first, second], each)
    assert_proved(result)
    assert np.all(result.solver == Solver.FAST) and np.all(result.binding()[[0, 1, 3], :2])
    # SciPy needs seconds for the last one.
    assert_radii_of_the_reference(result, range(5 if dimension == 64 else 4))
    # The same law twice is the law once.
    assert result.radius[5] == pytest.approx(result.radius[2], abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("law", [LAW, SMALL, LARGE, gaussian(784, 0.12)])
def test_radii_grow_with_knowledge_and_scale_with_sigma_and_do_not_depend_on_other_rows(
    law: RadialLaw,
) -> None:
    rng = np.random.default_rng(law.dimension)
    ends, factors = rng.uniform(0.1, 0.95, 80).tolist(), rng.uniform(0.6, 0.95, 80).tolist()
    extra = [law.truncated(end) for end in ends[::2]]
    extra += [law.with_sigma(law.sigma * factor) for factor in factors[::2]]
    bounds, share = random_bounds(3, 80), rng.uniform(0, 1, (80, 1))
    more = [1 - (1 - bounds) * np.where(raised, share, 1) for raised in ([1, 0], [0, 1])]
    p, q = np.concatenate([bounds, *more]).T
    both = certify(law, p, [extra * 3], [q])
    assert_proved(both)
    again = certify(law, np.tile(p[::-1], 2), [extra[::-1] * 6], [np.tile(q[::-1], 2)])
    np.testing.assert_array_equal(again.radius, np.tile(both.radius[::-1], 2))
    assert np.all(both.radius >= certify(law, p).radius)
    first, *others = np.split(both.radius, 3)
    for other in others:
        assert np.all(other >= first - 1e-9 * law.sigma)
    wide, wider = law.with_sigma(7.3 * law.sigma), [q.with_sigma(7.3 * q.sigma) for q in extra * 3]
    np.testing.assert_allclose(certify(wide, p, [wider], [q]).radius, 7.3 * both.radius, rtol=1e-8)


@pytest.mark.slow
def test_p_may_need_no_multiplier() -> None:
    """Q alone proves far more than P: the search must let P's multiplier go to 0."""
    p = np.array([0.98968, 0.9, 0.6, 0.4])
    q = np.array([0.99935, 0.999, 0.9995, 0.9999])
    far = certify(LARGE, p, [LARGE.with_sigma(0.2)], [q])
    alone = certify(LARGE, p)
    assert np.all(far.radius >= 1.3 * alone.radius)
    assert np.all(far.solver == Solver.FAST) and np.all(far.binding() == [False, True])
    assert np.all(far.multipliers[:, 0] == 0.0)
    found = reference.solve((LARGE, LARGE.with_sigma(0.2)), (p[0], q[0]))
    assert found is not None and found[0][0] == 0.0
    assert far.radius[0] == pytest.approx(found[1], abs=1e-6)


def test_slack_laws_and_extreme_bounds() -> None:
    top = 1 - 1e-12
    bounds = np.array(
        [
            # (p, q), first those that the slow reference is asked about
            (0.9, 0.3), (0.0, top), (0.5001, 0.5001), (0.999, 0.9), (0.9, 0.999),
            (0.9, 0.0), (0.5, 0.5), (0.0, 0.0), (0.5, top), (top, 0.0), (top, 0.5), (top, top),
            (0.3, 0.999), (0.2, 0.4),
        ]
    )  # fmt: skip
    extra = [q for q in (SMALL.truncated(0.5), SMALL.with_sigma(0.4)) for _ in bounds]
    p, q = np.tile(bounds, (2, 1)).T
    result, alone = certify(SMALL, p, [extra], [q]), certify(SMALL, p)
    assert_proved(result)
    assert_proved(alone)
    assert set(result.solver) <= {Solver.FAST, Solver.NONE}
    assert np.all((alone.radius > 0) == (p > 0.5))
    binds = result.binding()
    assert not binds[q == 0, 1].any() and not binds[p == 0, 0].any()
    np.testing.assert_allclose(result.radius[q == 0], alone.radius[q == 0], rtol=1e-12)
    # A Q within P says nothing of what is outside: alone it proves no radius. A narrower one does.
    truncated, scaled = np.split(result.radius, 2)
    np.testing.assert_array_equal(truncated > 0, bounds[:, 0] > 0.5)
    np.testing.assert_array_equal(scaled > 0, np.max(bounds, axis=1) > 0.5)
    np.testing.assert_allclose(scaled[[8, 12]], scaled[[1, 4]], atol=1e-9)
    assert_radii_of_the_reference(result, [*range(5), *range(14, 18)])


def test_the_worst_classifier_meets_the_bounds() -> None:
    """What binds is met exactly, what does not is exceeded, and a further law may be asked for."""
    extra, further = LAW.truncated(0.6), LAW.with_sigma(0.4)
    bounds = random_bounds(11, 40)
    bounds[0] = 0.4, 0.45  # no radius
    result = certify(LAW, bounds[:, 0], [extra], [bounds[:, 1]])
    masses = worst_case(result, (LAW, extra, further))
    some = result.radius > 0
    assert some.sum() > 30 and np.all(np.isnan(masses[~some])) and not some[0]
    wrong, allowed = 1 - masses[some, :2], 1 - bounds[some]
    binds = result.binding()[some]
    np.testing.assert_allclose(wrong[binds], allowed[binds], rtol=1e-5)
    assert np.all(wrong[~binds] <= allowed[~binds] * (1 + 1e-5)) and not np.all(binds)
    row = int(np.flatnonzero(some)[0])
    outside, _ = reference.integrals(
        (LAW, extra, further), [*result.multipliers[row], 0.0], float(result.radius[row])
    )
    np.testing.assert_allclose(1 - masses[row], outside, rtol=1e-6)


@pytest.mark.slow
def test_the_reference_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = SMALL.truncated(0.5)
    p, q = np.array([0.9, 0.99]), np.array([0.97, 0.999])
    fast = certify(SMALL, p, [extra], [q])
    monkeypatch.setattr(search, "_FIRST_ITERATIONS", 1)
    monkeypatch.setattr(search, "_LAST_ITERATIONS", 1)
    # Without the run-time checks of types that would take most of its time.
    monkeypatch.setattr(search, "reference", reference)
    slow = certify(SMALL, p, [extra], [q])
    assert np.all(fast.solver == Solver.FAST) and np.all(slow.solver == Solver.REFERENCE)
    np.testing.assert_allclose(slow.radius, fast.radius, atol=1e-8)
    assert_proved(slow)


def test_the_names_of_the_package_are_no_modules() -> None:
    """A module and a name of one spelling: which of them a user got would depend on the order."""
    for name in dsrs_jax.__all__:
        assert not inspect.ismodule(getattr(dsrs_jax, name)), name
    assert dsrs_jax.certify_bounds is certify


def test_bounds_and_laws_that_do_not_fit_are_refused() -> None:
    law, q, other = gaussian(64, 0.5), gaussian(64, 0.4), gaussian(65, 0.4)
    for p, bound, extra, extra_bounds in (
        (law, [1.0], [], []),
        (law, [-0.1], [], []),
        (law, [np.nan], [], []),
        (law, [[0.9]], [], []),
        (law, [0.9], [q], []),
        (law, [0.9], [q], [[0.9, 0.8]]),
        (law, [0.9], [other], [[0.9]]),
        (law.truncated(0.5), [0.9], [], []),
    ):
        with pytest.raises(UserError) as error:
            certify(p, bound, extra, extra_bounds)
        assert "\n" not in str(error.value)
    for multipliers, radius in ([[-1.0]], [0.1]), ([[0.0]], [0.1]), ([[1.0]], [0.0]):
        with pytest.raises(UserError):
            evaluate((law,), [[0.9]], multipliers, radius)
