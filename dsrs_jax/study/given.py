"""What studies are made from: a classifier, its images, their votes, published votes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array, Float32, Int64

from dsrs_jax.models import BaseClassifier
from dsrs_jax.noise import RadialLaw, generalized_gaussian
from dsrs_jax.study.landscape import Landscape
from dsrs_jax.study.result import Result
from dsrs_jax.votes import VoteTable, count_votes

BINS = 20  # of the lengths of P, of equal probability
_FINER = 40  # of the wide law's


@dataclasses.dataclass(frozen=True)
class Subject:
    """A classifier and images on which it is studied.

    Attributes:
        name: of both, as a title has it.
        classifier: the base classifier.
        images: (N, H, W, C) in [0, 1].
        labels, index: (N,) of each image, its class and its place in the data set.
        law: P.
        grid: of sound draws, or None.
    """

    name: str
    classifier: BaseClassifier | Callable[[Array], Array]
    images: Float32[np.ndarray, "images height width channels"]
    labels: Int64[np.ndarray, " images"]
    index: Int64[np.ndarray, " images"]
    law: RadialLaw
    grid: int | None


@dataclasses.dataclass(frozen=True)
class Given:
    """What studies are made from; a study of formulas alone asks for none of it.

    Attributes:
        load: makes the subject, when a study first asks for it.
        read: reads published votes, by the name of their model; none where none were given.
        inside: quantiles of P at which it is truncated for the second laws.
        n: draws of an image.
        alpha: failure probability of a certificate.
        seed: of all draws.
    """

    load: Callable[[], Subject]
    read: Callable[[], Mapping[str, VoteTable]] = dict
    inside: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    n: int = 20_000
    alpha: float = 0.001
    seed: int = 0

    @functools.cached_property
    def subject(self) -> Subject:
        """The classifier and its images."""
        return self.load()

    @functools.cached_property
    def votes(self) -> VoteTable:
        """Votes under P, with those inside each of its `BINS` quantiles."""
        return self._counted(self.subject.law, BINS)

    @functools.cached_property
    def landscape(self) -> Landscape:
        """Votes at all lengths that matter under laws of P's sigma.

        Drawn with d - 2k = 2, when |x|^2 is exponential: of the generalized Gaussians of this
        sigma the widest of which no length is rare.
        """
        law = self.subject.law
        k = (law.dimension - 2) / 2
        return Landscape.of(
            self._counted(generalized_gaussian(law.dimension, float(law.sigma), k), _FINER)
        )

    def _counted(self, law: RadialLaw, bins: int) -> VoteTable:
        subject = self.subject
        return count_votes(
            subject.classifier, subject.images, subject.labels, law, self.n,
            inside=[law.truncated(float(one)) for one in np.arange(1, bins) / bins],
            indices=subject.index, seed=self.seed, grid=subject.grid,
        )  # fmt: skip

    @functools.cached_property
    def published(self) -> Mapping[str, VoteTable]:
        """Published votes, by the name of their model."""
        return self.read()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study by its name.

    Attributes:
        what: one line.
        run: makes it.
    """

    what: str
    run: Callable[[Given], Result]
