"""What the law P does to the radii of the same classifier: k of a generalized Gaussian, and eta.

Radial laws differ in the law of the noise's length alone, so the landscape of one sample says how
often the classifier is right under each of them, and so which votes to expect. The classifier is
the one that was trained under its own law: one trained for each would do better there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dsrs_jax import report
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.study import picture
from dsrs_jax.study.given import Given
from dsrs_jax.study.result import Result
from dsrs_jax.study.tables import Means, draws_inside, inside_of, means

LEFT = 8  # values of d - 2k, from 2 to d
ETAS = (0.5, 1.0, 2.0, 4.0, 8.0)


def of_k(given: Given) -> Result:
    """The study `k`: d - 2k from 2 to d, the Gaussian, all of P's sigma."""
    law = given.subject.law
    left = np.geomspace(2.0, law.dimension, LEFT)
    ks = [float(k) for k in (law.dimension - left[::-1]) / 2]
    found = [(k, under(given, _law(law, k, 2.0))) for k in ks]
    rows = [[k, law.dimension - 2 * k, *two] for k, two in found]
    figure, [axes] = picture.panels()
    x = [law.dimension - 2 * k for k in ks]
    _curves(axes, x, [two for _, two in found])
    picture.log_axis(axes, x)
    own = law.dimension - 2 * float(law.k)
    axes.axvline(own, color="#b9bec6", linestyle=":", label=f"of the training: {own:g}")
    _said(given, axes, f"d − 2k (d = {law.dimension}: the Gaussian)")
    columns = ("k", "d_minus_2k", *_COLUMNS)
    return Result(columns, rows, picture.png(figure), _best("k", found))


def of_eta(given: Given) -> Result:
    """The study `eta`: exponential families with k = 0 (ESG) and with P's own k (EGG)."""
    law = given.subject.law
    figure, [axes] = picture.panels()
    rows, said = [], []
    families = {"ESG, k = 0": 0.0, f"EGG, k = {law.k:g}": float(law.k)}
    for (name, k), colour in zip(families.items(), picture.COLOURS, strict=False):
        found = [(eta, under(given, _law(law, k, eta))) for eta in ETAS]
        rows += [[name.split(",")[0], k, eta, *two] for eta, two in found]
        _curves(axes, ETAS, [two for _, two in found], f", {name}", colour)
        said.append(f"{name}: {_best('eta', found)}")
    picture.log_axis(axes, ETAS)
    axes.axvline(2.0, color="#b9bec6", linestyle=":", label="η = 2: (generalized) Gaussian")
    _said(given, axes, "exponent η of the tail")
    columns = ("family", "k", "eta", *_COLUMNS)
    return Result(columns, rows, picture.png(figure), "; ".join(said))


_COLUMNS = ("neyman_pearson_mean_radius_pixels", "dsrs_mean_radius_pixels")


def _law(law: RadialLaw, k: float, eta: float) -> RadialLaw:
    return generalized_gaussian(law.dimension, float(law.sigma), k, eta)


def under(given: Given, law: RadialLaw) -> Means:
    """Mean radii from the votes to be expected under another law, Q inside it."""
    laws, names = inside_of(law, given.inside)
    table = given.landscape.expected(laws, names, draws_inside(laws, given.n))
    return means([table], given.alpha)[0]


def _curves(
    axes: picture.Axes,
    x: Iterable[float],
    found: list[Means],
    tail: str = "",
    colour: str = picture.COLOURS[0],
) -> None:
    places = list(x)
    axes.plot(places, [one.dsrs for one in found], "o-", color=colour, markersize=3,
              label=f"DSRS{tail}")  # fmt: skip
    axes.plot(places, [one.neyman_pearson for one in found], "--", linewidth=1.2,
              color=colour if tail else picture.BASELINE_COLOUR,
              label=f"Neyman-Pearson{tail}")  # fmt: skip


def _said(given: Given, axes: picture.Axes, x: str) -> None:
    title = (
        f"{given.subject.name}; σ = {given.subject.law.sigma:g}, α = {given.alpha:g}\n"
        f"expected votes of N = {given.n:,} draws, from an estimated landscape"
    )
    picture.said(axes, title, x, picture.MEAN_RADIUS)


def _best(name: str, found: list[tuple[float, Means]]) -> str:
    value, two = max(found, key=lambda one: one[1].dsrs)
    return (
        f"largest mean radius of DSRS {report.rounded_down(two.dsrs)} at {name} = {value:g} "
        f"(Neyman-Pearson {report.rounded_down(two.neyman_pearson)})"
    )
