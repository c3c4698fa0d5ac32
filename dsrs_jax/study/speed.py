"""Time for a certificate: the compiled search beside SciPy, in the same run."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.certify import certify, reference
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.lengths import length_at, share_within
from dsrs_jax.study.result import Result

SIZES = {"MNIST": (784, 380.0), "CIFAR-10": (3072, 1530.0), "ImageNet": (150_528, 75_260.0)}
NUMBERS = (1, 16, 256, 1024)
SIGMA, Q_SIGMA = 0.5, 0.4
_SLOW = 3  # certificates by SciPy, each size
_REPEATS = 2


def speed(given: Given) -> Result:
    """The study."""
    rows, ratios = [], []
    figure, [axes] = picture.panels()
    generator = np.random.default_rng(given.seed)
    for (name, (d, k)), colour in zip(SIZES.items(), picture.COLOURS, strict=False):
        law = generalized_gaussian(d, SIGMA, k)
        q_law = law.with_sigma(Q_SIGMA)
        p, q = bounds_of(law, q_law, NUMBERS[-1], generator)
        each = []
        certify(law, p[:1], [q_law], [q[:1]])  # compiles, if nothing did before
        for n in NUMBERS:
            seconds = []
            for _ in range(_REPEATS):
                clock = time.perf_counter()
                fast = certify(law, p[:n], [q_law], [q[:n]])
                seconds.append(time.perf_counter() - clock)
            each.append(min(seconds) / n)
            rows.append([name, d, "dsrs_jax", n, each[-1]])
        clock = time.perf_counter()
        slow = [reference.solve([law, q_law], [p[i], q[i]]) for i in range(_SLOW)]
        scipy = (time.perf_counter() - clock) / _SLOW
        rows.append([name, d, "scipy_reference", _SLOW, scipy])
        agree = [abs(one[1] - r) < 1e-6 * r for one, r in zip(slow, fast.radius, strict=False)
                 if one is not None]  # fmt: skip
        assert all(agree), "the reference has other radii: please report this"
        axes.plot(NUMBERS, 1e3 * np.array(each), "o-", color=colour, markersize=3,
                  label=f"{name}, d = {d:,}")  # fmt: skip
        axes.axhline(1e3 * scipy, color=colour, linestyle="--", linewidth=1.0,
                     label=f"{name}, SciPy")  # fmt: skip
        ratios.append(f"{name} {1e3 * each[-1]:.2g} ms, 1/{scipy / each[-1]:,.0f} of SciPy's")
    axes.set_xscale("log")
    axes.set_yscale("log")
    title = f"DSRS, generalized Gaussian σ = {SIGMA:g}, Q with σ = {Q_SIGMA:g}; compiled before"
    picture.said(axes, title, "certificates in one call", "time for a certificate (ms)")
    columns = ("size", "dimension", "by", "certificates_in_one_call", "seconds_each")
    return Result(columns, rows, picture.png(figure), "; ".join(ratios))


def bounds_of(
    law: RadialLaw, q_law: RadialLaw, n: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds under P and Q that classifiers have: between Neyman-Pearson's worst and a ball's."""
    p = 1.0 - np.exp(generator.uniform(np.log(1e-3), np.log(0.45), n))
    best = share_within(q_law, length_at(law, p))
    return p, np.minimum(p + (best - p) * generator.uniform(0.2, 0.9, n), 1.0 - 1e-9)
