"""Certified radii against closed forms, the slow reference and the laws that they must obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from dsrs_jax.certify import (
    Certificate,
    certificate,
    certify,
    certify_votes,
    evaluate,
    lower_bound,
    reference,
)
from dsrs_jax.errors import UserError
from dsrs_jax.noise import RadialLaw, gaussian, generalized_gaussian

# Few dimensions: each costs a compilation, laws and bounds of one dimension share it.
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


def assert_proved(result: Certificate) -> None:
    """What a certificate promises, judged anew from its own record."""
    some = result.radius > 0
    assert np.all(result.multipliers >= 0)
    assert np.all((result.status == "none") == ~some)
    assert np.all((result.path == "") == ~some)
    if some.any():
        value, allowance = evaluate(
            result.laws, result.bounds[some], result.multipliers[some], result.radius[some]
        )
        assert np.all(value - allowance > 0.5)


@pytest.mark.parametrize("dimension", [2, 3, 8, 47, 48, *DIMENSIONS])
def test_gaussian_radius_is_the_closed_form(dimension: int) -> None:
    """sigma Phi^-1(p): Cohen et al. (ICML 2019)."""
    p = np.concatenate([1 - np.logspace(-12, np.log10(0.5 - 1e-6), 60), [0.5 + 1e-6, 0.75]])
    for sigma in (0.12, 1.0):
        result = certify(gaussian(dimension, sigma), p)
        exact = sigma * special.ndtri(p)
        # 1 - 1e-12 is a rounded number: its complement is known to 1e-4 of itself.
        assert np.all(np.abs(result.radius - exact) < 1e-9 * sigma)
        assert np.all(result.radius <= exact * (1 + 1e-15))
        assert np.all(result.path == "fast") and np.all(result.status == "P")
        assert_proved(result)


@settings(max_examples=6, derandomize=True)
@given(pairs(), st.integers(0, 2**31))
def test_radii_agree_with_the_reference(pair: tuple[RadialLaw, RadialLaw], seed: int) -> None:
    law, extra = pair
    bounds = random_bounds(seed, 2)
    result = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    assert_proved(result)
    for row, radius in zip(bounds, result.radius, strict=True):
        found = reference.solve((law, extra), row)
        assert found is not None
        assert radius == pytest.approx(found[1], abs=1e-6 * law.sigma)


def test_two_extra_laws_agree_with_the_reference() -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    extra = [law.truncated(0.3), law.truncated(0.8)]
    bounds = np.array([[0.9, 0.95, 0.93], [0.99, 0.999, 0.995], [0.999, 0.9, 0.99999]])
    result = certify(law, bounds[:, 0], extra, [bounds[:, 1], bounds[:, 2]])
    assert_proved(result)
    for row, radius in zip(bounds, result.radius, strict=True):
        found = reference.solve((law, *extra), row)
        assert found is not None
        assert radius == pytest.approx(found[1], abs=1e-6 * law.sigma)
    # A law that says nothing changes nothing; the same law twice is the law once.
    alone = certify(law, bounds[:, 0], extra[:1], [bounds[:, 1]]).radius
    silent = certify(law, bounds[:, 0], extra, [bounds[:, 1], np.zeros(3)])
    np.testing.assert_allclose(silent.radius, alone, atol=1e-9)
    twice = certify(law, bounds[:, 0], [extra[0]] * 2, [bounds[:, 1]] * 2)
    np.testing.assert_allclose(twice.radius, alone, atol=1e-7)


@settings(max_examples=8, derandomize=True)
@given(pairs(), st.integers(0, 2**31))
def test_more_knowledge_never_costs_radius(pair: tuple[RadialLaw, RadialLaw], seed: int) -> None:
    law, extra = pair
    bounds = random_bounds(seed, 60)
    share = np.random.default_rng(seed).uniform(0, 1, 60)
    plain = certify(law, bounds[:, 0])
    both = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    assert np.all(both.radius >= plain.radius)
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
    plain = certify(FAR, p)
    assert np.all(far.radius >= 1.3 * plain.radius)
    assert np.all(far.path == "fast") and np.all(far.status == "Q")
    assert np.all(far.multipliers[:, 0] == 0.0)
    found = reference.solve((FAR, FAR.with_sigma(0.2)), (p[0], q[0]))
    assert found is not None and found[0][0] == 0.0
    assert far.radius[0] == pytest.approx(found[1], abs=1e-6)


def test_slack_laws_and_extreme_bounds() -> None:
    top = 1 - 1e-12
    bounds = np.array(
        [
            # (p, q), what proves the radius
            (0.9, 0.0), (0.9, 0.3), (0.5, 0.5), (0.0, 0.0), (0.0, top), (0.5, top),
            (top, 0.0), (top, 0.5), (top, top), (0.5001, 0.5001), (0.999, 0.9),
            (0.9, 0.999), (0.3, 0.999), (0.2, 0.4),
        ]
    )  # fmt: skip
    law = generalized_gaussian(64, 0.5, 24.0)
    for extra in (law.truncated(0.5), law.with_sigma(0.4)):
        result = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
        assert_proved(result)
        assert set(result.path) <= {"fast", ""}
        for row, radius, status in zip(bounds, result.radius, result.status, strict=True):
            if max(row) > 0.5:  # otherwise no radius has a proof
                found = reference.solve((law, extra), row)
                slow = 0.0 if found is None else found[1]
                assert radius == pytest.approx(slow, abs=1e-6), row
            if row[1] == 0.0:
                assert status == ("P" if row[0] > 0.5 else "none")
            if row[0] == 0.0:
                assert status in ("Q", "none")
        plain = certify(law, bounds[:, 0])
        assert np.all(plain.status == np.where(bounds[:, 0] > 0.5, "P", "none"))


def test_the_reference_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    extra = law.truncated(0.5)
    p, q = np.array([0.9, 0.99]), np.array([0.97, 0.999])
    fast = certify(law, p, [extra], [q])
    monkeypatch.setattr(certificate, "_FIRST_TURNS", 1)
    monkeypatch.setattr(certificate, "_LAST_TURNS", 1)
    slow = certify(law, p, [extra], [q])
    assert np.all(fast.path == "fast") and np.all(slow.path == "reference")
    np.testing.assert_allclose(slow.radius, fast.radius, atol=1e-8)
    assert_proved(slow)


def test_kernels_are_compiled_once() -> None:
    def run(rows: int, sigma: float, k: float, quantile: float) -> tuple[int, int]:
        law = generalized_gaussian(64, sigma, k)
        bounds = random_bounds(rows, rows)
        certify(law, bounds[:, 0], [law.truncated(quantile)], [bounds[:, 1]])
        return certificate._solve._cache_size(), certificate._judge_block._cache_size()

    first = run(3, 0.5, 24.0, 0.5)
    assert run(certificate.BLOCK + 1, 1.0, 0.0, 0.9) == first


def test_repeated_rows_and_their_order_do_not_matter() -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    bounds = random_bounds(1, 5)
    order = np.array([4, 0, 0, 3, 1, 2, 2, 2])
    extra = law.truncated(0.5)
    once = certify(law, bounds[:, 0], [extra], [bounds[:, 1]])
    again = certify(law, bounds[order, 0], [extra], [bounds[order, 1]])
    for name in ("radius", "multipliers", "value", "allowance", "status", "path"):
        np.testing.assert_array_equal(getattr(again, name), getattr(once, name)[order])


def test_each_instance_may_have_its_own_law() -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    each = [law.truncated(quantile) for quantile in (0.4, 0.6, 0.6)]
    bounds = random_bounds(2, 3)
    together = certify(law, bounds[:, 0], [each], [bounds[:, 1]])
    for i, extra in enumerate(each):
        alone = certify(law, bounds[i : i + 1, 0], [extra], [bounds[i : i + 1, 1]])
        assert together.radius[i] == pytest.approx(alone.radius[0], abs=1e-10)


def test_votes_become_bounds_at_equal_shares_of_alpha() -> None:
    law = generalized_gaussian(64, 0.5, 24.0)
    extra = law.truncated(0.5)
    votes, inside = np.array([9_900, 10_000]), np.array([4_990, 5_000])
    result = certify_votes(law, votes, 10_000, [extra], [inside], [5_000], alpha=0.001)
    expected = [lower_bound(votes, 10_000, 0.0005), lower_bound(inside, 5_000, 0.0005)]
    np.testing.assert_array_equal(result.bounds, np.stack(expected, axis=1))
    assert_proved(result)


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
