"""What one radius of a row claims, and whether it is true.

The lower bounds are computed from the counts of votes and rounded down, g at the stored multipliers
and radius is enclosed in a ball (enclosure.py), and the radius is proved where the ball's lower end
is above 1/2. What else the row says (its float bounds, its g, an earlier proof) is not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from flint import arb, ctx

from dsrs_jax.proof import draws, looks, schema
from dsrs_jax.proof.bound import lower_bound
from dsrs_jax.proof.enclosure import PRECISION, Family, LawNumbers, enclose
from dsrs_jax.proof.schema import INSIDE, SIGMA, THRESHOLD, UNKNOWN, Fields, LawFields, Method

PROVED = "proved"
_SIGNALS = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU}
_QUANTILE_ERROR = 1e-6  # of a quantile that the file states: SciPy's
_NAME_ERROR = 1e-3  # of one in a law's name: of four digits, and its cutoff a float32
_FIRST_SHRINK = 1e-9  # relative
_SHRINKS = 20  # each twice the one before: to 5e-4 of the radius


@dataclasses.dataclass(frozen=True)
class Sound:
    """That the draws were sound: of what, and what is taken off the bounds for it.

    Attributes:
        grid: cells in a unit of pixels.
        rounding: relative error of the arithmetic, within which a draw counted as ambiguous.
        ambiguous: how many did; none of them has a vote.
        charges: of each law.
    """

    grid: int
    rounding: float
    ambiguous: int
    charges: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """Neyman-Pearson's radius of no wrong draw at P's own share of alpha, which no claim exceeds.

    Under it an image without a wrong draw may claim Neyman-Pearson's radius at all of alpha
    (docs/certificates.md, "The all-right rule").
    """

    radius: float
    multiplier: float
    share: Fraction


@dataclasses.dataclass(frozen=True)
class Claim:
    """What one radius of a row claims, and the counts that it claims it from.

    Attributes:
        family: the laws, P first.
        votes, draws: of each law; votes of -1 are not known.
        alpha: failure probability of the whole certificate, of all its looks together.
        shares: of alpha, for each law's bound.
        multipliers: of each law, >= 0.
        radius: > 0, in pixels.
        sound: None where the draws were floating-point numbers: then the claim is of the law that
            they have, whichever it is.
        ceiling: of the all-right rule, where it is in force and not 0.
    """

    family: Family
    votes: tuple[int, ...]
    draws: tuple[int, ...]
    alpha: float
    shares: tuple[Fraction, ...]
    multipliers: tuple[float, ...]
    radius: float
    sound: Sound | None = None
    ceiling: Ceiling | None = None


def _of_ceiling(claim: Claim, ceiling: Ceiling) -> Claim:
    """That the ceiling is what it says: from as many draws, all of them right."""
    return dataclasses.replace(
        claim,
        family=dataclasses.replace(claim.family, laws=claim.family.laws[:1]),
        votes=claim.draws[:1],
        draws=claim.draws[:1],
        shares=(ceiling.share,),
        multipliers=(ceiling.multiplier,),
        radius=ceiling.radius,
        # Of the same for all images, so that it is proved once.
        sound=claim.sound
        and dataclasses.replace(claim.sound, ambiguous=0, charges=claim.sound.charges[:1]),
        ceiling=None,
    )


@functools.lru_cache(maxsize=1_000)
def prove(claim: Claim) -> str:
    """PROVED, or the reason why the claim is not proved."""
    if claim.ceiling is not None and (why := prove(_of_ceiling(claim, claim.ceiling))) != PROVED:
        return f"of the ceiling {why}"
    bounds = []
    for votes, drawn, weight, share in zip(
        claim.votes, claim.draws, claim.multipliers, claim.shares, strict=True
    ):
        if weight == 0.0:  # the law plays no part
            votes = drawn = 0
        if not 0 <= votes <= drawn:
            return "the counts of votes are not known" if votes == UNKNOWN else "impossible counts"
        bounds.append(lower_bound(votes, drawn, claim.alpha, share))
    if claim.sound is not None:
        least = draws.charges(claim.family, claim.sound.grid)
        for j, (charge, needed) in enumerate(zip(claim.sound.charges, least, strict=True)):
            if not charge >= needed:
                return f"a charge is {charge!r}, below {float(needed.upper()):.6g}"
            with ctx.workprec(PRECISION):
                less = (bounds[j] - charge).lower()
            bounds[j] = less if less > 0 else arb(0)
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

    A row of status `all-right` claims Neyman-Pearson's radius at all of alpha, which needs all
    draws to be right, and a ceiling. A row of status `pooled` claims it from P's draws and as many
    again, at P's own part of alpha, which needs all of the first ones to be right (Li et al.,
    ICML 2022).

    Raises:
        ValueError: a field is missing, no number, outside its domain, or contradicts another one;
            the message says which.
    """
    fields = schema.read(row, names, method)
    if fields is None:
        return None
    laws, shares, ceiling = fields.laws, _shares(fields), fields.ceiling
    own_share = shares[0]
    if fields.pooled:
        if ceiling is not None:
            raise ValueError("pooled, and a ceiling, which is of the all-right rule")
        laws, shares = (_pooled(laws),), shares[:1]
        shares = (shares[0] * fields.sides,)  # these bounds are one-sided
    if fields.all_right:
        if ceiling is None or _wrong_or_others(laws):
            raise ValueError("all-right, but with a wrong draw, another law, or no ceiling")
        laws, shares = laws[:1], (_of_look(fields) / fields.sides,)
    elif ceiling is not None and fields.radius > ceiling[0]:
        raise ValueError(f"radius_dsrs is above the ceiling, {ceiling[0]!r}")
    own = tuple(LawNumbers(law.sigma, law.cutoff) for law in laws)
    family = Family(fields.dimension, fields.k, fields.eta, own)
    _refuse_contradictions(fields)
    said = fields.sound
    sound = None
    if said is not None:
        charges = tuple(law.charge for law in laws)
        sound = Sound(said.grid, said.rounding, said.ambiguous, charges)
    return Claim(
        family,
        tuple(law.votes for law in laws),
        tuple(law.draws for law in laws),
        fields.alpha,
        shares,
        tuple(law.multiplier for law in laws),
        fields.radius,
        sound,
        Ceiling(*ceiling, own_share) if ceiling is not None and ceiling[0] > 0.0 else None,
    )


def _of_look(fields: Fields) -> Fraction:
    """The share of alpha of a row's look; all of it where there is no plan of looks."""
    return Fraction(1) if fields.look is None else looks.look(*fields.look)[1]


def _shares(fields: Fields) -> tuple[Fraction, ...]:
    """Of alpha, for each bound: P's own share, and equal parts of the rest."""
    whole, others = _of_look(fields) / fields.sides, len(fields.laws) - 1
    if not others:
        return (whole,)
    own = Fraction(fields.share_p)
    return (own * whole, *[(1 - own) / others * whole] * others)


def _wrong_or_others(laws: Sequence[LawFields]) -> bool:
    base, *extra = laws
    return base.votes != base.draws or any(law.multiplier for law in extra)


def _refuse_contradictions(fields: Fields) -> None:
    """Raises a ValueError where what a row says of its laws cannot all be so."""
    known = [law for law in fields.laws if law.votes != UNKNOWN]
    for law in known:
        if not 0 <= law.votes <= law.draws:
            raise ValueError(f"impossible counts: {law.votes} of {law.draws} draws of {law.name}")
    if fields.sound is not None:
        wrong = [law.draws - law.votes for law in known if not law.name.startswith(INSIDE)]
        if fields.method is Method.DSRS and fields.sound.ambiguous > sum(wrong):
            raise ValueError(
                f"{fields.sound.ambiguous} draws are ambiguous, but only {sum(wrong)} are wrong"
            )
    base, *extra = fields.laws
    if fields.look is not None:
        planned, number = fields.look
        drawn = looks.look(planned, number)[0]
        for law in fields.laws:
            if not law.name.startswith(INSIDE) and law.draws != drawn:
                raise ValueError(
                    f"{law.name} has {law.draws} draws at look {number} of {planned} planned, "
                    f"which is at {drawn}"
                )
        if fields.pooled:
            raise ValueError("pooled, which no look is")
    for law in extra:
        if (law.cutoff is None) != (law.quantile is None):
            raise ValueError(
                f"{law.name} has a cutoff and no quantile, or a quantile and no cutoff"
            )
        if law.cutoff is not None and law.quantile is not None:
            kept = draws.share_inside(fields.dimension, fields.k, fields.eta, law.cutoff)
            if abs(kept - law.quantile) > _QUANTILE_ERROR:
                raise ValueError(
                    f"cutoff_{law.name} is {law.cutoff!r}, the quantile {float(kept):.6g}, but "
                    f"quantile_{law.name} is {law.quantile!r}"
                )
        sigma = _number_in(law.name, SIGMA)
        if sigma is not None and (law.sigma != sigma or law.cutoff is not None):
            raise ValueError(f"{law.name} is not P with sigma = {sigma!r}")
        if law.name.startswith((INSIDE, THRESHOLD)) and (
            law.sigma != base.sigma or (law.quantile is None and law.name not in schema.POOLING)
        ):
            raise ValueError(f"{law.name} is not P truncated: another sigma than P's, or no cutoff")
        for kind in (INSIDE, THRESHOLD):
            quantile = _number_in(law.name, kind)
            if quantile is not None and not abs((law.quantile or 0.0) - quantile) < _NAME_ERROR:
                raise ValueError(f"{law.name} is truncated at the quantile {law.quantile!r}")
    # Draws inside a level are among those inside a higher one, and all of them among P's.
    inside = [law for law in known if law.name.startswith(INSIDE)]
    inside.sort(key=lambda law: law.cutoff or 0.0)
    for inner, outer in itertools.pairwise([*inside, *(law for law in known if law is base)]):
        if inner.votes > outer.votes or inner.draws - inner.votes > outer.draws - outer.votes:
            raise ValueError(
                f"{inner.name} has {inner.votes} votes of {inner.draws} draws, {outer.name}, whose "
                f"draws they are among, {outer.votes} of {outer.draws}"
            )


def _number_in(name: str, kind: str) -> float | None:
    """The number that a law's name gives behind its kind; None where it gives none."""
    try:
        return schema.as_number(name.removeprefix(kind)) if name.startswith(kind) else None
    except ValueError:
        return None


def _pooled(laws: Sequence[LawFields]) -> LawFields:
    """P with its first draws and as many again."""
    base, *extra = laws
    # Only the rules' own laws have draws of P that are not among its first n.
    more = {
        (law.votes, law.draws)
        for law in extra
        if law.name in schema.POOLING and (law.sigma, law.cutoff) == (base.sigma, base.cutoff)
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
    with contextlib.ExitStack() as stack:
        with _signals_are_the_parents():
            pool = stack.enter_context(context.Pool(wanted))
        jobs = ((claim, shrink) for claim in distinct)
        for claim, answer in zip(distinct, pool.imap(_job, jobs, chunksize=4), strict=True):
            yield (claim, *answer)


@contextlib.contextmanager
def _signals_are_the_parents() -> Iterator[None]:
    """Inside, processes are started that signals to a whole group of processes do not reach.

    But SIGTERM, by which the pool ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        # It is a process too, and to start it unblocks some.
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _job(job: tuple[Claim, bool]) -> tuple[float, str]:
    return _answer(*job)


def _answer(claim: Claim, shrink: bool) -> tuple[float, str]:
    return shrunk(claim) if shrink else (claim.radius, prove(claim))
