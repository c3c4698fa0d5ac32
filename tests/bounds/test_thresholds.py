"""The paper's rules for the quantile of truncation."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import pools, threshold
from dsrs_jax.bounds.thresholds import RULES
from dsrs_jax.system.errors import UserError


@pytest.mark.parametrize(
    ("rule", "lower", "quantile"),
    [
        ("x", 0.3, 0.5),
        ("x", 0.5, 0.08 * (math.log(2.0) - 5.0) + 0.6),
        ("x", 1 - math.exp(-5), 0.6),
        ("x", 1 - math.exp(-8), 0.84),
        ("x", 1 - 1e-9, 1 - 1e-6),  # the formula's 1.86 is no quantile
        ("x2", 0.0, 0.4),
        ("x2", 0.45, 0.4),
        ("x2", 0.9, 0.8),
        ("0.25", 0.9, 0.25),
    ],
)
def test_rules_of_the_paper(rule: str, lower: float, quantile: float) -> None:
    assert threshold(rule, lower) == pytest.approx(quantile, rel=1e-12)
    assert not pools(rule)
    if rule in RULES:
        assert threshold(rule + "+", lower) == threshold(rule, lower) and pools(rule + "+")


@given(st.sampled_from(RULES), st.floats(0.0, 1.0, exclude_max=True))
def test_every_lower_bound_has_a_quantile(rule: str, lower: float) -> None:
    assert 0.0 < threshold(rule, lower) < 1.0


def test_what_is_no_rule_is_refused() -> None:
    for rule in ("x3", "X", "", "0", "1", "1.5", "-0.5", "nan", "inf"):
        with pytest.raises(UserError, match="x2") as error:
            threshold(rule, 0.9)
        assert "\n" not in str(error.value)
