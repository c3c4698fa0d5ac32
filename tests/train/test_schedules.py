"""The schedules against the papers' formulas and the laws that they must obey."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.train.schedules import k_at, learning_rate_at, warmup_at


@given(st.integers(1, 80_000), st.integers(1, 300), st.integers(0, 400))
def test_k_grows_from_gaussian_noise_to_the_whole(k: int, warmup: int, time: int) -> None:
    now = k_at(float(k), warmup, time)
    if time <= warmup:
        assert now == math.ceil(k - k * math.exp(-time * math.log(k) / warmup))
    else:
        assert now == k
    assert now <= k_at(float(k), warmup, time + 1) <= k
    assert k_at(float(k), warmup, 0) == 0.0 and k_at(float(k), 0, time) == k
    assert k_at(0.0, warmup, time) == 0.0


@given(st.floats(1e-4, 1.0), st.integers(1, 60), st.integers(0, 300))
def test_the_learning_rate_falls_to_a_tenth(base: float, step: int, epoch: int) -> None:
    assert learning_rate_at(base, step, epoch) == base * 0.1 ** math.floor(epoch / step)


@given(st.integers(1, 50), st.integers(0, 100))
def test_the_warm_up_is_linear_and_ends_at_one(warmup: int, epoch: int) -> None:
    assert warmup_at(warmup, epoch) == min(1.0, (epoch + 1) / warmup)
    assert warmup_at(0, epoch) == 1.0
