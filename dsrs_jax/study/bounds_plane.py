"""The radius over the plane of (P_A, Q_A), for Q truncated and for Q of another sigma."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from dsrs_jax.certify import Certificates, certify, worst_case
from dsrs_jax.noise import RadialLaw, describe, generalized_gaussian
from dsrs_jax.report import rounded_down
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.lengths import length_at, share_within
from dsrs_jax.study.result import Result

DIMENSION, K, SIGMA = 3072, 1530.0, 0.5  # the paper's CIFAR-10
_POINTS = 41
_LARGEST = 0.999
_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0)


def bounds_plane(given: Given) -> Result:
    """The study."""
    del given
    return over_plane(_POINTS)


def over_plane(points: int) -> Result:
    """The study on a grid of so many points each way."""
    law = generalized_gaussian(DIMENSION, SIGMA, K)
    second = {"truncated at 0.6": law.truncated(0.6), "with σ = 0.4": law.with_sigma(0.4)}
    p = np.linspace(0.505, _LARGEST, points)
    figure, axes = picture.panels(len(second), 9.6)
    rows, most = [], []
    for (name, q_law), one in zip(second.items(), axes, strict=True):
        q, radius, alone = plane(law, q_law, p, points)
        rows += [
            [name, *numbers]
            for numbers in zip(
                np.repeat(p, points).tolist(), q.ravel().tolist(), radius.ravel().tolist(),
                np.repeat(alone.radius, points).tolist(), strict=True,
            )
        ]  # fmt: skip
        gain = (radius - alone.radius[:, None]).max(axis=1)
        at = int(gain.argmax())
        ends = [rounded_down(one) for one in (alone.radius[at], alone.radius[at] + gain[at])]
        most.append(f"{' → '.join(ends)} at P_A = {p[at]:.3f} ({name})")
        wide = np.repeat(p[:, None], points, axis=1)
        filled = one.contourf(wide, q, radius, levels=_LEVELS, norm=LogNorm(), cmap=picture.MAP,
                              extend="both")  # fmt: skip
        one.plot(p, worst_case(alone, [law, q_law])[:, 1], "w--", linewidth=1.2,
                 label="Neyman-Pearson's worst classifier")  # fmt: skip
        bar = figure.colorbar(filled, ax=one, ticks=_LEVELS, format="%g", label=picture.RADIUS)
        bar.ax.tick_params(labelsize=8)
        title = f"P: {describe(law)}, d = {DIMENSION}\nQ: P {name}; white: no classifier has both"
        picture.said(one, title, "P_A: probability under P", "Q_A: probability under Q")
        one.legend(fontsize=7.5, loc="lower right", facecolor="#5a6068", labelcolor="w")
    columns = ("q", "p_a", "q_a", "radius_pixels", "neyman_pearson_radius_pixels")
    finding = "largest gain over Neyman-Pearson at the same P_A: " + ", ".join(most)
    return Result(columns, rows, picture.png(figure), finding)


def plane(
    law: RadialLaw, second: RadialLaw, p: NDArray[np.float64], points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], Certificates]:
    """(Q_A, radius), each (p, points), and Neyman-Pearson's certificates of p.

    Q_A runs over all that a classifier with this P_A can have: from the outside of a ball to a
    ball, since Q's density falls faster with the length than P's does.
    """
    low = 1.0 - share_within(second, length_at(law, 1.0 - p))
    high = np.minimum(share_within(second, length_at(law, p)), math.nextafter(1.0, 0.0))
    q = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, points)
    found = certify(law, np.repeat(p, points), [second], [q.ravel()])
    return q, found.radius.reshape(q.shape), certify(law, p)
