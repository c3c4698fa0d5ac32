"""What changes while a model trains, as functions of the epoch."""

from __future__ import annotations

import math


def k_at(k: float, warmup: float, time: int) -> float:
    """The exponent k of the noise at `time`: from 0 (Gaussian) to the whole `k`.

    ceil(K - K exp(-t ln K / warmup)) for t <= warmup, K after (Li et al., ICML 2022, appendix on
    training). `time` counts epochs from 0, or batches for ImageNet.
    """
    if k <= 0.0 or time > warmup or warmup <= 0:
        return k
    return float(math.ceil(k - k * math.exp(-time * math.log(k) / warmup)))


def learning_rate_at(base: float, step_size: int, epoch: int) -> float:
    """A tenth after every `step_size` epochs."""
    return base * 0.1 ** (epoch // step_size)


def warmup_at(warmup: int, epoch: int) -> float:
    """Linear from 1/warmup in the first epoch to 1."""
    return min(1.0, (epoch + 1) / warmup) if warmup > 0 else 1.0


def decay_at(decay: float, step: int) -> float:
    """Share of a moving average that step number `step` (from 0) keeps.

    (1 + step)/(10 + step) until that reaches `decay`, so that the first weights are soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))
