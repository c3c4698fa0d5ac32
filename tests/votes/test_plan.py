"""The plan of a run: the names and the order of its laws, and what each image's law is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Looks, Protocol, lower_bound, threshold
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Kind, SamplingPlan, SecondLaw, second_laws

LAW = generalized_gaussian(64, 0.5, 28)
PROTOCOL = Protocol(alpha=0.001)


def test_the_columns_are_p_and_then_each_kind_in_turn() -> None:
    extra = second_laws(inside=(0.8, 0.2), sigma=(0.4, 0.3), threshold=("x2+", "0.50"))
    plan = SamplingPlan(LAW, extra, 1000)
    assert plan.names == (
        "p", "inside_0.2", "inside_0.8", "sigma_0.4", "sigma_0.3", "threshold_x2+", "threshold_0.5",
    )  # fmt: skip
    assert [law.value for law in plan.of_kind(Kind.SIGMA)] == [0.4, 0.3]
    assert plan.cutoffs == [LAW.truncated(0.2).cutoff, LAW.truncated(0.8).cutoff]
    # A fixed law does not look at the votes.
    fixed = [plan.laws(one, np.array([0, 1000]), PROTOCOL) for one in extra if one.is_fixed]
    assert fixed == [
        *(LAW.truncated(q) for q in (0.2, 0.8)), *(LAW.with_sigma(s) for s in (0.4, 0.3)),
        LAW.truncated(0.5),
    ]  # fmt: skip
    assert SamplingPlan(LAW, (), 1000).names == ("p",) and SamplingPlan(LAW, (), 1).cutoffs == []


@given(st.sampled_from([Kind.INSIDE, Kind.SIGMA]), st.floats(1e-12, 1.0, exclude_max=True))
def test_a_name_says_its_number_exactly(kind: Kind, value: float) -> None:
    written = SecondLaw(kind, value).name.removeprefix(f"{kind}_")
    assert float(written) == value and len(written) <= len(repr(value))


@pytest.mark.parametrize(
    ("given", "plan", "message"),
    [
        ({"inside": (0.5, 0.2, 0.5)}, {}, "--q-inside was given the same value twice: 0.5"),
        ({"threshold": ("0.5", "0.50")}, {}, "--q-threshold .* twice"),
        ({"threshold": ("x3",)}, {}, "x2"),
        ({"threshold": ("1.5",)}, {}, r"\(0, 1\)"),
        ({"sigma": (0.5,)}, {}, "--q-sigma 0.5 is P itself"),
        ({"sigma": (-1.0,)}, {}, "sigma must be positive"),
        ({"inside": (1.5,)}, {}, "quantile"),
        ({}, {"n": 0}, "--n must be positive"),
        ({}, {"n": 2**31}, "--n 2147483648 is too many"),
        ({"threshold": ("x+",)}, {"n": 2**30}, "--n 1073741824 is too many"),
        ({}, {"times": 3}, "--continue must be a power of two"),
        ({}, {"n0": -1}, "--n0 must lie in"),
        ({"threshold": ("x",)}, {"looks": Looks(10)}, "--q-threshold x waits for all votes of P"),
    ],
)
def test_a_plan_that_cannot_be_drawn_is_refused(given: dict, plan: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingPlan(LAW, second_laws(**given), **{"n": 10, **plan})


def test_an_interim_look_comes_only_where_it_can_save_draws() -> None:
    looks = {n: SamplingPlan(LAW, (), n).interim_look for n in (1, 4096, 8191, 8192, 50_000)}
    assert looks == {1: 0, 4096: 0, 8191: 0, 8192: 4096, 50_000: 4096}


@pytest.mark.parametrize("rule", ["x", "x+", "x2", "x2+"])
def test_a_rule_goes_by_p_s_bound_at_its_own_part_of_alpha(rule: str) -> None:
    n, votes = 1000, np.array([0, 700, 950, 999, 1000])
    extra = second_laws(sigma=(0.4,), threshold=(rule,))
    chosen = SamplingPlan(LAW, extra, n).laws(extra[1], votes, PROTOCOL)
    assert isinstance(chosen, tuple)
    for count, law in zip(votes.tolist(), chosen, strict=True):
        quantile = threshold(rule, float(lower_bound(count, n, 0.001 / 2)))
        more_of_p = count == n and rule.endswith("+")
        assert law == (LAW if more_of_p else LAW.truncated(quantile))
        assert more_of_p or law.quantile == pytest.approx(quantile)
