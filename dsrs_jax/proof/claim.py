"""What one radius of a row claims, and whether it is true.

The lower bounds are computed from the counts of votes and rounded down, g at the stored multipliers
and radius is enclosed in a ball (enclosure.py), and the radius is proved where the ball's lower end
is above 1/2. What else the row says (its float bounds, its g, an earlier proof) is not read.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flint import arb

from dsrs_jax.proof import schema
from dsrs_jax.proof.bound import lower_bound
from dsrs_jax.proof.enclosure import Family, LawNumbers, enclose
from dsrs_jax.proof.schema import LawFields, Method

PROVED = "proved"
_RULE = "threshold_"  # how the names of laws begin that a rule picks
_FIRST_SHRINK = 1e-9  # relative
_SHRINKS = 20  # each twice the one before: to 5e-4 of the radius


@dataclasses.dataclass(frozen=True)
class Claim:
    """What one radius of a row claims, and the counts that it claims it from.

    Attributes:
        family: the laws, P first.
        votes, draws: of each law; votes of -1 are not known.
        alpha: failure probability of the whole certificate.
        parts: the bounds that share it equally: each fails with probability alpha/parts.
        multipliers: of each law, >= 0.
        radius: > 0, in pixels.
    """

    family: Family
    votes: tuple[int, ...]
    draws: tuple[int, ...]
    alpha: float
    parts: int
    multipliers: tuple[float, ...]
    radius: float


def prove(claim: Claim) -> str:
    """PROVED, or the reason why the claim is not proved."""
    bounds = []
    for votes, draws, weight in zip(claim.votes, claim.draws, claim.multipliers, strict=True):
        if weight == 0.0:  # the law plays no part
            votes = draws = 0
        if not 0 <= votes <= draws:
            return "the counts of votes are not known" if votes == -1 else "impossible counts"
        bounds.append(lower_bound(votes, draws, claim.alpha, claim.parts))
    return verdict(enclose(claim.family, bounds, claim.multipliers, claim.radius))


def verdict(ball: arb) -> str:
    """What a ball around g says: PROVED where all of it is above 1/2, or why it is not."""
    if not ball.is_finite():
        return "g could not be enclosed"
    if ball.lower() > 0.5:
        return PROVED
    if ball.upper() < 0.5:
        return f"g is {float(ball.mid()):.12g}, below 1/2"
    return f"g is {float(ball.mid()):.15g} to within {float(ball.rad()):.1g}: not surely above 1/2"


def shrunk(claim: Claim) -> tuple[float, str]:
    """The radius that is proved, the claim's or one shorter by 1e-9, 2e-9, 4e-9, ... of it.

    Where none is proved the claim's own radius comes back with the reason.
    """
    first = result = prove(claim)
    radius = claim.radius
    for attempt in range(_SHRINKS if first.startswith("g is") else 0):
        if result == PROVED:
            break
        radius = claim.radius * (1.0 - _FIRST_SHRINK * 2.0**attempt)
        result = prove(dataclasses.replace(claim, radius=radius))
    return (radius, PROVED) if result == PROVED else (claim.radius, first)


def read(row: Mapping[str, str], names: Sequence[str], method: Method) -> Claim | None:
    """The claim of one of a row's radii; None for a radius of 0.

    A row of status `pooled` claims Neyman-Pearson's radius from P's draws and as many again, at
    P's own part of alpha, which needs all of the first ones to be right (Li et al., ICML 2022).

    Raises:
        ValueError: a field is missing, no number, or outside its domain; the message says which.
    """
    fields = schema.read(row, names, method)
    if fields is None:
        return None
    laws, parts = fields.laws, fields.sides * len(fields.laws)
    if fields.pooled:
        laws, parts = (_pooled(laws),), len(laws)  # these bounds are one-sided
    own = tuple(LawNumbers(law.sigma, law.cutoff) for law in laws)
    return Claim(
        Family(fields.dimension, fields.k, fields.eta, own),
        tuple(law.votes for law in laws),
        tuple(law.draws for law in laws),
        fields.alpha,
        parts,
        tuple(law.multiplier for law in laws),
        fields.radius,
    )


def _pooled(laws: Sequence[LawFields]) -> LawFields:
    """P with its first draws and as many again."""
    base, *extra = laws
    # Only the rules' own laws have draws of P that are not among its first n.
    more = {
        (law.votes, law.draws)
        for law in extra
        if law.name.startswith(_RULE) and (law.sigma, law.cutoff) == (base.sigma, base.cutoff)
    }
    if len(more) != 1 or base.votes != base.draws or any(law.multiplier for law in extra):
        raise ValueError("pooled, but not from twice the draws of P with the first all right")
    [(votes, draws)] = more
    return dataclasses.replace(base, votes=base.votes + votes, draws=base.draws + draws)


def solve(
    claims: Iterable[Claim], processes: int | None = None, *, shrink: bool = False
) -> Iterator[tuple[Claim, float, str]]:
    """(claim, radius, PROVED or the reason) of each distinct claim, in their order.

    Args:
        claims: any; equal ones are proved once.
        processes: default: one for each core.
        shrink: whether a radius that fails may be shortened (`shrunk`).
    """
    distinct = list(dict.fromkeys(claims))
    wanted = min(processes or os.cpu_count() or 1, len(distinct))
    if wanted <= 1:
        yield from ((claim, *_answer(claim, shrink)) for claim in distinct)
        return
    # A fork of a process that runs JAX's threads may hang; a fresh interpreter needs none of it.
    context = multiprocessing.get_context("spawn")
    with context.Pool(wanted, _leave_interrupts_to_the_parent) as pool:
        jobs = ((claim, shrink) for claim in distinct)
        for claim, answer in zip(distinct, pool.imap(_job, jobs, chunksize=4), strict=True):
            yield (claim, *answer)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(job: tuple[Claim, bool]) -> tuple[float, str]:
    return _answer(*job)


def _answer(claim: Claim, shrink: bool) -> tuple[float, str]:
    return shrunk(claim) if shrink else (claim.radius, prove(claim))
