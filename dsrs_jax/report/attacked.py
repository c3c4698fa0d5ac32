"""Attacked accuracy: what is left of the right answers after an attack, at each radius."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dsrs_jax.report.accuracy import Radii, percent
from dsrs_jax.report.figure import Curve
from dsrs_jax.report.paper import PaperTable


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What an attack did to some images of a data set.

    Attributes:
        name: of the attack.
        method: and norm, in words.
        norm: "l2" or "linf".
        radii: of the balls, increasing.
        index: (images,) places in the data set.
        right: (images,) whether the smoothed classifier is right without a perturbation.
        voted: (images, radii) whether the attack's own check found another answer.
        broken: (images, radii) whether fresh draws confirmed one.
        perturbation: (images,) norm of what broke the image; 0 where it is wrong without one,
            infinite where nothing broke it.
        label_votes, other_votes: (images,) of the fresh draws that confirmed it, for the label and
            for the answer with the most; -1 where there were none.
        p_value: (images,) of the fresh draws that confirmed it; 1 where there were none.
        alpha: probability, at most, that fresh draws confirm an image that is not broken; None
            where there are none, and `broken` is `voted`.
    """

    name: str
    method: str
    norm: str
    radii: tuple[float, ...]
    index: Int64[np.ndarray, " images"]
    right: Bool[np.ndarray, " images"]
    voted: Bool[np.ndarray, "images radii"]
    broken: Bool[np.ndarray, "images radii"]
    perturbation: Float64[np.ndarray, " images"]
    label_votes: Int64[np.ndarray, " images"]
    other_votes: Int64[np.ndarray, " images"]
    p_value: Float64[np.ndarray, " images"]
    alpha: float | None

    def accuracies(self) -> list[tuple[float, float, float]]:
        """(radius, accuracy by the check, accuracy by fresh draws), from radius 0 on."""
        clean = float(np.mean(self.right))
        found = [(0.0, clean, clean)]
        for place, radius in enumerate(self.radii):
            left = [self.right & ~which[:, place] for which in (self.voted, self.broken)]
            found.append((radius, float(np.mean(left[0])), float(np.mean(left[1]))))
        return found

    def curve(self) -> Curve:
        """Accuracy in percent by fresh draws, at each radius."""
        radii, _, broken = np.array(self.accuracies()).T
        return radii, 100.0 * broken


def attacked_table(
    name: str,
    title: str,
    attacks: Sequence[Attacked],
    certified: Mapping[str, Radii],
    note: str,
) -> PaperTable:
    """A row for each radius of any attack: attacked accuracies, and certified ones beside them."""
    found = [{radius: both for radius, *both in one.accuracies()} for one in attacks]
    header = ["radius"]
    for one in attacks:
        confirmed = "not rechecked" if one.alpha is None else "confirmed"
        header += [f"{one.name}: by its check", f"{one.name}: {confirmed}"]
    header += [f"{who}, certified" for who in certified]
    rows = []
    for radius in sorted({radius for one in found for radius in one}):
        cells = [f"{radius:.4g}"]
        for accuracies in found:
            both = [percent(share) for share in accuracies.get(radius, ())]
            cells += both or ["", ""]
        rows.append([*cells, *(percent(one.share(radius)) for one in certified.values())])
    return PaperTable(name, title, header, rows, 1, note)
