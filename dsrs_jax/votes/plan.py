"""Which laws are drawn from: P, and the kinds of second law Q."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dsrs_jax.bounds import Looks, Protocol, pools, threshold
from dsrs_jax.noise import RadialLaw
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes.kernel import DRAWS

# Draws of P before the interim look; the paper's code looks at 4,000.
_INTERIM_LOOK = 4096


class Kind(enum.StrEnum):
    """How a second law is made from P, and how it is drawn."""

    INSIDE = "inside"  # P truncated at a quantile: those of P's own draws that fell inside
    SIGMA = "sigma"  # P with another sigma, drawn separately
    THRESHOLD = "threshold"  # P truncated at a quantile or by a rule of the paper, drawn separately


@dataclasses.dataclass(frozen=True)
class SecondLaw:
    """One Q: its kind and the quantile, the sigma, or the rule that `bounds.threshold` knows.

    Raises:
        UserError: a rule that is not known.
    """

    kind: Kind
    value: float | str

    def __post_init__(self) -> None:
        if self.kind is Kind.THRESHOLD:
            threshold(str(self.value), 0.5)

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same law for every image, whatever P's votes are."""
        try:
            return float(self.value) is not None
        except ValueError:
            return False

    @property
    def name(self) -> str:
        """Of its columns, and of what belongs to it in a file: sigma_0.4, threshold_x+."""
        try:
            number = float(self.value)
        except ValueError:
            return f"{self.kind}_{self.value}"
        short = f"{number:g}"
        return f"{self.kind}_{short if float(short) == number else repr(number)}"


def second_laws(
    inside: Iterable[float] = (), sigma: Iterable[float] = (), threshold: Iterable[str] = ()
) -> tuple[SecondLaw, ...]:
    """Q's of every kind, in the order of a `VoteTable`'s columns.

    Raises:
        UserError: a rule that is not known, or the same Q twice.
    """
    made = (
        *(SecondLaw(Kind.INSIDE, quantile) for quantile in sorted(inside)),
        *(SecondLaw(Kind.SIGMA, value) for value in sigma),
        *(SecondLaw(Kind.THRESHOLD, rule) for rule in threshold),
    )
    for law in made:
        if sum(other.name == law.name for other in made) > 1:
            raise UserError(f"--q-{law.kind} was given the same value twice: {law.value}")
    return made


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """P, its Q's, and how many draws each gets; the columns of the `VoteTable` that comes of it.

    Attributes:
        law: P.
        extra: the Q's, as `second_laws` orders them.
        n: draws under P and under each Q that is drawn separately, fixed before sampling.
        looks: when votes are looked at, and draws may end; its plan is for `n`. None: at `n` alone.
        times: with looks: an image gets up to so many times `n` draws; a power of two.
        n0: draws of P, apart from all others, that choose the class whose votes are counted;
            0: it is the label.

    Raises:
        UserError: a number outside its domain, a Q that is P itself, or looks where a rule of the
            paper waits for all votes.
    """

    law: RadialLaw
    extra: tuple[SecondLaw, ...]
    n: int
    looks: Looks | None = None
    times: int = 1
    n0: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.n0 < DRAWS:
            raise UserError(f"--n0 must lie in [0, {DRAWS:,}), got {self.n0}")
        if self.n < 1:
            raise UserError(f"--n must be positive, got {self.n}")
        if self.times < 1 or self.times & (self.times - 1):
            raise UserError(f"--continue must be a power of two, got {self.times}")
        # A rule that pools draws as many again from P.
        if self.n * max(self.times, 2 if self.of_kind(Kind.THRESHOLD) else 1) >= DRAWS:
            raise UserError(
                f"--n {self.n} is too many: of one image and law fewer than {DRAWS:,} draws can be "
                "told apart, those that --continue or a --q-threshold adds included"
            )
        if SecondLaw(Kind.SIGMA, self.law.sigma) in self.extra:
            raise UserError(
                f"--q-sigma {self.law.sigma:g} is P itself: its draws are P's own draws again"
            )
        for extra in self.extra:
            if extra.is_fixed:
                self.fixed_law(extra)
            elif self.looks is not None:
                raise UserError(
                    f"--q-threshold {extra.value} waits for all votes of P, so they cannot be "
                    "looked at before; give a number, or no --radii, --tolerance or --budget"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Of all laws, P first."""
        return ("p", *(extra.name for extra in self.extra))

    def of_kind(self, kind: Kind) -> tuple[SecondLaw, ...]:
        """The Q's of one kind."""
        return tuple(extra for extra in self.extra if extra.kind is kind)

    @property
    def cutoffs(self) -> list[float]:
        """Levels within which P's draws are counted apart."""
        inside = (self.fixed_law(extra).cutoff for extra in self.of_kind(Kind.INSIDE))
        return [cutoff for cutoff in inside if cutoff is not None]

    @property
    def schedule(self) -> tuple[int, ...]:
        """Draws of a law at each look, up to the most that an image gets."""
        return (self.n,) if self.looks is None else self.looks.up_to(self.times * self.n)

    @property
    def most_draws(self) -> int:
        """Of an image, of all laws that have draws of their own, up to the last look."""
        return self.schedule[-1] * (1 + len(self.extra) - len(self.of_kind(Kind.INSIDE)))

    @property
    def interim_look(self) -> int:
        """Draws of P before the interim look; 0 where looking would save little."""
        return _INTERIM_LOOK if self.n >= 2 * _INTERIM_LOOK else 0

    def fixed_law(self, extra: SecondLaw) -> RadialLaw:
        """The law of a Q that is the same for every image."""
        if extra.kind is not Kind.SIGMA:
            return _truncated(self.law, float(extra.value))
        return self.law.with_sigma(float(extra.value))

    def laws(
        self, extra: SecondLaw, votes: NDArray[np.int64], protocol: Protocol
    ) -> RadialLaw | tuple[RadialLaw, ...]:
        """The law of one Q, or that of each image where P's votes decide it.

        A rule that pools gives P itself to an image whose n draws of P were all right: what is
        drawn from it are more draws of P.

        Args:
            extra: the Q.
            votes: (images,) under P, of n draws.
            protocol: its bound of P is what a rule goes by.
        """
        if extra.is_fixed:
            return self.fixed_law(extra)
        rule = str(extra.value)
        own = protocol.alpha * protocol.shares(1 + len(self.extra))[0]
        lower = protocol.lower(votes, self.n, own)
        return tuple(
            self.law if count == self.n and pools(rule) else _truncated(self.law, quantile)
            for count, quantile in zip(
                votes.tolist(), [threshold(rule, bound) for bound in lower.tolist()], strict=True
            )
        )


@functools.lru_cache(maxsize=10_000)
def _truncated(law: RadialLaw, quantile: float) -> RadialLaw:
    return law.truncated(quantile)
