"""Certified radii against closed forms, the slow reference and the laws that they must obey."""

import inspect

import numpy as np
import pytest
import slow_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

import dsrs_jax
from dsrs_jax.certify import (
    Certificates,
    Solver,
    certify,
    evaluate,
    search,
    verifier,
    worst_case,
)
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian
from dsrs_jax.system.errors import UserError

DIMENSIONS = (64, 784, 150_528)
FAR = generalized_gaussian(150_528, 0.25, 75_260.0)


@st.composite
def laws(draw: st.DrawFn) -> RadialLaw:
    """P in one of DIMENSIONS, heavy-tailed as in the paper, with d - 2k from 4 to 24."""
    dimension = draw(st.sampled_from(DIMENSIONS))
    k = 0.5 * (dimension - draw(st.sampled_from([4.0, 8.0, 13.0, 24.0])))
    return generalized_gaussian(dimension, draw(st.sampled_from([0.12, 0.5, 1.0])), k)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[RadialLaw, RadialLaw]:
    """P and Q: P at a smaller sigma or P truncated."""
    law = draw(laws())
    if draw(st.booleans()):
        return law, law.truncated(draw(st.floats(0.1, 0.95)))
    return law, law.with_sigma(law.sigma * draw(st.floats(0.6, 0.95)))


def random_bounds(seed: int, rows: int, columns: int = 2) -> NDArray[np.float64]:
    """Bounds from 1/2 to 1 - 1e-6, as many near 1 as near 1/2."""
    return 1 - 10 ** np.random.default_rng(seed).uniform(-6, np.log10(0.5), (rows, columns))


def assert_proved(result: Certificates) -> None:
    """What certificates promise, verified anew from their own record."""
    some = result.radius > 0
    assert np.all(result.multipliers >= 0)
    assert np.all(result.binding().any(axis=1) == some)
    assert np.all((result.solver == Solver.NONE) == ~some)
    if some.any():
        value, error_bound = evaluate(
            result.laws, result.bounds[some], result.multipliers[some], result.radius[some]
        )
        assert np.all(value - error_bound > 0.5)


def assert_radii_of_the_reference(result: Certificates) -> None:
    """Radii to 1e-6 of sigma, 0 where the reference finds none."""
    unit = result.laws[0].sigma
    for row, radius in zip(result.bounds, result.radius, strict=True):
        found = reference.solve(result.laws, row)
        slow = 0.0 if found is None else found[1]
        assert radius == pytest.approx(slow, abs=1e-6 * unit), row


def test_kernels_are_compiled_once() -> None:
    """One program for a number of laws: for all dimensions from 48 on, truncated laws or not."""
    kernels = (search._solve, verifier.verify_block)
    for kernel in kernels:
        kernel.clear_cache()
    search.compile_ahead(2)()
    sizes = [kernel._cache_size() for kernel in kernels]
    assert sizes == [2, 2]  # with the one for Neyman-Pearson
    for dimension, rows in ((48, 1), (784, search.BLOCK + 1), (150_528, 3)):
        law = generalized_gaussian(dimension, 0.5, 0.0 if rows == 3 else 0.4 * dimension)
        bounds = random_bounds(rows, rows)
        scaled, cut = law.with_sigma(0.49), law.truncated(0.7)
        for extra in (scaled, cut, [scaled, cut, *[scaled] * rows][:rows]):
            result = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
        assert np.any(result.radius > 0)
    assert [kernel._cache_size() for kernel in kernels] == sizes


# A dimension under 48 has programs of its own, which take long, and one under 8 finer panels too;
# all others share one.
@pytest.mark.parametrize(
    ("dimension", "sigma"),
    [(2, 1.0), (8, 0.12), (48, 0.12), (64, 1.0), (784, 0.12), (150_528, 1.0)],
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


@pytest.mark.parametrize("kind", ["scaled", "truncated"])
@pytest.mark.parametrize(
    ("dimension", "k", "factor"),
    [(64, 24.0, 0.7), (64, 0.0, 0.9), (150_528, 75_260.0, 0.8), (150_528, 0.0, 0.996)],
)
def test_radii_agree_with_the_reference(dimension: int, k: float, factor: float, kind: str) -> None:
    law = generalized_gaussian(dimension, 0.5, k)
    extra = law.truncated(0.7) if kind == "truncated" else law.with_sigma(factor * law.sigma)
    # One row in which Q's bound helps, and one of independent bounds.
    bounds = np.stack([random_bounds(dimension, 1)[0], [0.97, 0.99]])
    result = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    assert_proved(result)
    assert np.all(result.binding()[1]) and np.all(result.solver == Solver.FAST)
    assert_radii_of_the_reference(result)


@pytest.mark.parametrize(
    ("law", "second"),
    [
        (generalized_gaussian(64, 0.5, 24.0), "truncated"),
        (generalized_gaussian(150_528, 0.5, 75_260.0), "scaled"),
    ],
)
def test_two_extra_laws_agree_with_the_reference(law: RadialLaw, second: str) -> None:
    extra = [
        law.truncated(0.3),
        law.truncated(0.8) if second == "truncated" else law.with_sigma(0.4),
    ]
    bounds = np.array([[0.9, 0.95, 0.93], [0.99, 0.999, 0.995], [0.999, 0.9, 0.99999]])
    result = certify(law, bounds[:, 0], extra, [bounds[:, 1], bounds[:, 2]])
    assert_proved(result)
    assert_radii_of_the_reference(result)
    assert np.any(np.all(result.binding(), axis=1))
    # A law that says nothing changes nothing; the same law twice is the law once.
    alone = certify(law, bounds[:, 0], extra[:1], [bounds[:, 1]]).radius
    silent = certify(law, bounds[:, 0], extra, [bounds[:, 1], np.zeros(3)])
    np.testing.assert_allclose(silent.radius, alone, atol=1e-9)
    twice = certify(law, bounds[:, 0], [extra[0]] * 2, [bounds[:, 1]] * 2)
    np.testing.assert_allclose(twice.radius, alone, atol=1e-7)


@settings(max_examples=4, derandomize=True)
@given(pairs(), st.integers(0, 2**31))
def test_more_knowledge_never_costs_radius(pair: tuple[RadialLaw, RadialLaw], seed: int) -> None:
    law, extra = pair
    rows = search.BLOCK
    bounds = random_bounds(seed, rows)
    share = np.random.default_rng(seed).uniform(0, 1, rows)
    alone = certify(law, bounds[:, 0])
    both = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    assert np.all(both.radius >= alone.radius)
    assert_proved(both)
    for column in (0, 1):
        raised = bounds.copy()
        raised[:, column] = 1 - (1 - bounds[:, column]) * share
        more = certify(law, raised[:, 0], [extra], [raised[:, 1]])
        assert np.all(more.radius >= both.radius - 1e-9 * law.sigma)


@settings(max_examples=4, derandomize=True)
@given(laws(), st.integers(0, 2**31), st.floats(0.1, 10.0))
def test_radii_scale_with_sigma(law: RadialLaw, seed: int, factor: float) -> None:
    bounds = random_bounds(seed, 20)
    one = certify(law, bounds[:, 0], [law.truncated(0.5)], [bounds[:, 1]])
    wide = law.with_sigma(factor * law.sigma)
    other = certify(wide, bounds[:, 0], [wide.truncated(0.5)], [bounds[:, 1]])
    np.testing.assert_allclose(other.radius, factor * one.radius, rtol=1e-8)


def test_p_may_need_no_multiplier() -> None:
    """Q alone proves far more than P: the search must let P's multiplier go to 0."""
    p = np.array([0.98968, 0.9, 0.6, 0.4])
    q = np.array([0.99935, 0.999, 0.9995, 0.9999])
    far = certify(FAR, p, [FAR.with_sigma(0.2)], [q])
    alone = certify(FAR, p)
    assert np.all(far.radius >= 1.3 * alone.radius)
    assert np.all(far.solver == Solver.FAST) and np.all(far.binding() == [False, True])
    assert np.all(far.multipliers[:, 0] == 0.0)
    found = reference.solve((FAR, FAR.with_sigma(0.2)), (p[0], q[0]))
    assert found is not None and found[0][0] == 0.0
    assert far.radius[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["scaled", "truncated"])
def test_slack_laws_and_extreme_bounds(kind: str) -> None:
    top = 1 - 1e-12
    bounds = np.array(
        [
            # (p, q)
            (0.9, 0.0), (0.9, 0.3), (0.5, 0.5), (0.0, 0.0), (0.0, top), (0.5, top),
            (top, 0.0), (top, 0.5), (top, top), (0.5001, 0.5001), (0.999, 0.9),
            (0.9, 0.999), (0.3, 0.999), (0.2, 0.4),
        ]
    )  # fmt: skip
    p, q = bounds.T
    law = generalized_gaussian(64, 0.5, 24.0)
    extra = law.truncated(0.5) if kind == "truncated" else law.with_sigma(0.4)
    result = certify(law, p, [extra], [q])
    alone = certify(law, p)
    assert_proved(result)
    assert_proved(alone)
    assert set(result.solver) <= {Solver.FAST, Solver.NONE}
    assert np.all((alone.radius > 0) == (p > 0.5))
    binds = result.binding()
    assert not binds[q == 0, 1].any() and not binds[p == 0, 0].any()
    np.testing.assert_allclose(result.radius[q == 0], alone.radius[q == 0], rtol=1e-12)
    assert np.all(result.radius[np.max(bounds, axis=1) <= 0.5] == 0)
    # A Q within P says nothing of what is outside: alone it proves no radius. A narrower one does.
    lost = p <= 0.5 if kind == "truncated" else np.max(bounds, axis=1) <= 0.5
    assert np.all((result.radius == 0) == lost)
    # SciPy's search takes long where P's bound is 1/2 or less: there one row of each kind.
    slow = np.flatnonzero((p > 0.5) | ((p == 0.0) & (q == top)))
    assert_radii_of_the_reference(certify(law, p[slow], [extra], [q[slow]]))
    if kind == "scaled":
        np.testing.assert_allclose(result.radius[5], result.radius[4], atol=1e-9)
        np.testing.assert_allclose(result.radius[12], result.radius[11], atol=1e-9)


def test_the_worst_classifier_meets_the_bounds() -> None:
    """What binds is met exactly, what does not is exceeded, and a further law may be asked for."""
    law = generalized_gaussian(784, 0.5, 380.0)
    extra, further = law.truncated(0.6), law.with_sigma(0.4)
    bounds = random_bounds(11, 40)
    bounds[0] = 0.4, 0.45  # no radius
    result = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    masses = worst_case(result, (law, extra, further))
    some = result.radius > 0
    assert some.sum() > 30 and np.all(np.isnan(masses[~some])) and not some[0]
    wrong, allowed = 1 - masses[some, :2], 1 - bounds[some]
    binds = result.binding()[some]
    np.testing.assert_allclose(wrong[binds], allowed[binds], rtol=1e-5)
    assert np.all(wrong[~binds] <= allowed[~binds] * (1 + 1e-5)) and not np.all(binds)
    row = int(np.flatnonzero(some)[0])
    outside, _ = reference.integrals(
        (law, extra, further), [*result.multipliers[row], 0.0], float(result.radius[row])
    )
    np.testing.assert_allclose(1 - masses[row], outside, rtol=1e-6)


def test_the_reference_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    extra = law.truncated(0.5)
    p, q = np.array([0.9, 0.99]), np.array([0.97, 0.999])
    fast = certify(law, p, [extra], [q])
    monkeypatch.setattr(search, "_FIRST_ITERATIONS", 1)
    monkeypatch.setattr(search, "_LAST_ITERATIONS", 1)
    slow = certify(law, p, [extra], [q])
    assert np.all(fast.solver == Solver.FAST) and np.all(slow.solver == Solver.REFERENCE)
    np.testing.assert_allclose(slow.radius, fast.radius, atol=1e-8)
    assert_proved(slow)


def test_repeated_rows_and_their_order_do_not_matter() -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    bounds = random_bounds(1, 5)
    order = np.array([4, 0, 0, 3, 1, 2, 2, 2])
    extra = law.truncated(0.5)
    once = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    again = certify(law, bounds[order, 0], [extra], [bounds[order, 1]])
    for name in ("radius", "multipliers", "value", "error_bound", "solver"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name)[order])


def test_each_instance_may_have_its_own_law() -> None:
    """Truncated or not, side by side in one call."""
    law = generalized_gaussian(64, 0.5, 24.0)
    each = [law.truncated(0.4), law.with_sigma(0.4), law.truncated(0.6), law.truncated(0.6)]
    bounds = random_bounds(2, 4)
    together = certify(law, bounds[:, 0], [each], [bounds[:, 1]])
    for i, extra in enumerate(each):
        alone = certify(law, bounds[i : i + 1, 0], [extra], [bounds[i : i + 1, 1]])
        assert together.radius[i] == pytest.approx(alone.radius[0], abs=1e-10)


def test_the_names_of_the_package_are_no_modules() -> None:
    """A room and a name of one spelling: which of them a user got would depend on the order."""
    for name in dsrs_jax.__all__:
        assert not inspect.ismodule(getattr(dsrs_jax, name)), name
    assert dsrs_jax.certify_bounds is certify


def test_evaluate_refuses_what_is_no_certificate() -> None:
    law = gaussian(64, 0.5)
    for multipliers, radius in ([[-1.0]], [0.1]), ([[0.0]], [0.1]), ([[1.0]], [0.0]):
        with pytest.raises(UserError):
            evaluate((law,), [[0.9]], multipliers, radius)


@pytest.mark.parametrize(
    ("bound", "extra", "extra_bounds"),
    [
        ([1.0], [], []),
        ([-0.1], [], []),
        ([np.nan], [], []),
        ([[0.9]], [], []),
        ([0.9], [gaussian(64, 0.4)], []),
        ([0.9], [gaussian(64, 0.4)], [[0.9, 0.8]]),
        ([0.9], [gaussian(65, 0.4)], [[0.9]]),
    ],
)
def test_bounds_and_laws_that_do_not_fit_are_refused(
    bound: list[float], extra: list[RadialLaw], extra_bounds: list[list[float]]
) -> None:
    with pytest.raises(UserError) as error:
        certify(gaussian(64, 0.5), bound, extra, extra_bounds)
    assert "\n" not in str(error.value)


def test_a_truncated_smoothing_law_is_refused() -> None:
    with pytest.raises(UserError, match="truncated"):
        certify(gaussian(64, 0.5).truncated(0.5), [0.9])
