"""Measures the proofs of random certificates: whether, how fast, how tight, and what is refused.

    python benchmarks/proof.py random     1,000 certificates proved on one core
    python benchmarks/proof.py refuses    200 certificates near their optimum, tampered with
    python benchmarks/proof.py contains   500 balls against 30-digit evaluations (half an hour)
    python benchmarks/proof.py published DIR [--every 10]    every certificate of published files

Certificates are made by `dsrs_jax.certify_table` from random votes: three dimensions, k of the
paper and k = 0, Q by scale and by truncation, J = 0, 1, 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
from flint import arb, ctx

import dsrs_jax
from dsrs_jax.proof import schema
from dsrs_jax.proof.bound import lower_bound
from dsrs_jax.proof.claim import PROVED, Claim, prove, read, shrunk, solve
from dsrs_jax.proof.enclosure import enclose
from dsrs_jax.proof.rows import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from random_claims import ALPHA, N, family_of

SIZES = ((784, 380.0), (3_072, 1_530.0), (150_528, 75_260.0))


def certificates(count: int, seed: int) -> Iterator[tuple]:
    """(laws, votes, multipliers, radius) of `count` random certificates of radius > 0."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        dimension, k = SIZES[rng.integers(3)]
        law = dsrs_jax.generalized_gaussian(dimension, 0.5, k * (rng.random() < 0.75))
        kinds = rng.choice(["scale", "truncation"], rng.integers(3))
        extra = [
            law.with_sigma(rng.uniform(0.35, 0.48) if law.k else 0.5 * rng.uniform(0.98, 0.999))
            if kind == "scale"
            else law.truncated(float(rng.uniform(0.1, 0.95)))
            for kind in kinds
        ]
        rows = min(10, count - made)
        wrong = 10 ** rng.uniform(-4.5, -0.35, rows)
        right = [1 - wrong, *(1 - wrong * 10 ** rng.uniform(-1.5, 0.0, rows) for _ in extra)]
        votes = np.minimum(np.round(N * np.stack(right, axis=1)), N).astype(int)
        table = dsrs_jax.VoteTable.from_counts((law, *extra), votes, N)
        result = dsrs_jax.certify_table(table, dsrs_jax.Protocol(ALPHA, base_share=None)).dsrs
        for i in np.flatnonzero(result.radius > 0).tolist():
            made += 1
            weights = result.multipliers[i].tolist()
            yield (law, *extra), votes[i].tolist(), weights, float(result.radius[i])


def bounds(counts: list[int], alpha: float = ALPHA) -> list[arb]:
    share = Fraction(1, len(counts))
    return [lower_bound(count, N, alpha, share) for count in counts]


def contains(count: int) -> None:
    import thirty_digits

    inside, largest, seconds, slow = 0, 0.0, 0.0, 0.0
    for i, (laws, counts, multipliers, radius) in enumerate(certificates(count, 2)):
        lower = bounds(counts)
        clock = time.perf_counter()
        ball = enclose(family_of(laws), lower, multipliers, radius)
        seconds += time.perf_counter() - clock
        clock = time.perf_counter()
        exact = [
            mpmath.mpf(int(m)) * mpmath.mpf(2) ** int(e) for m, e in (p.man_exp() for p in lower)
        ]
        value = thirty_digits.g(laws, exact, multipliers, radius)
        slow += time.perf_counter() - clock
        with ctx.workprec(120):
            good = ball.contains(arb(mpmath.nstr(value, 25)))
        inside += good
        largest = max(largest, float(ball.rad()))
        if not good or i % 25 == 24:
            print(
                f"{inside} of {i + 1} balls hold the 30-digit value; largest radius {largest:.1e}; "
                f"{seconds:.1f} s, mpmath {slow:.0f} s",
                flush=True,
            )
            if not good:
                print("OUTSIDE", laws, counts, multipliers, radius, ball, value, flush=True)


def claim_of(laws: tuple, counts: list[int], multipliers: list[float], radius: float) -> Claim:
    size = len(counts)
    shares = (Fraction(1, size),) * size
    return Claim(
        family_of(laws), tuple(counts), (N,) * size, ALPHA, shares, tuple(multipliers), radius
    )


def random(count: int) -> None:
    claims = [claim_of(*one) for one in certificates(count, 0)]
    lower_bound.cache_clear()
    clock = time.process_time()
    answers = [shrunk(claim) for claim in claims]
    seconds = time.process_time() - clock
    largest = max(
        float(enclose(claim.family, bounds(list(claim.votes)), claim.multipliers, radius).rad())
        for claim, (radius, _) in zip(claims, answers, strict=True)
    )
    proved = [result == PROVED for _, result in answers]
    shrink = [1 - radius / claim.radius for claim, (radius, _) in zip(claims, answers, strict=True)]
    weight = max(max(claim.multipliers) for claim in claims)
    extra = [sum(len(claim.votes) == j + 1 for claim in claims) for j in range(3)]
    print(
        f"{sum(proved)} of {count} proved (J = 0, 1, 2: {extra}; multipliers up to {weight:.0f}), "
        f"{sum(s > 0 for s in shrink)} of them shortened, by at most {max(shrink):.1e} of the "
        f"radius; largest ball radius {largest:.1e}; {seconds:.1f} s on one core"
    )


def refuses(count: int) -> None:
    import thirty_digits

    def changed(claim: Claim, **changes: object) -> Claim:
        return dataclasses.replace(claim, **changes)

    def steeper(claim: Claim) -> Claim:
        largest = max(claim.multipliers)
        return changed(
            claim, multipliers=tuple(w * (1.5 if w == largest else 1) for w in claim.multipliers)
        )

    def fewer(claim: Claim) -> Claim:
        which = claim.multipliers.index(max(claim.multipliers))
        return changed(claim, votes=tuple(v - (j == which) for j, v in enumerate(claim.votes)))

    def with_k(claim: Claim, k: float) -> Claim:
        return changed(claim, family=dataclasses.replace(claim.family, k=k))

    ways = {
        "radius x 1.001": lambda c: changed(c, radius=c.radius * 1.001),
        "largest multiplier x 1.5": steeper,
        "a vote more than was counted": fewer,
        "alpha x 2 in the making": lambda c: changed(c, alpha=c.alpha / 2),
        "k down by 1% of d": lambda c: with_k(c, max(c.family.k - 0.01 * c.family.dimension, 0.0)),
        "k up by 0.1% of d": lambda c: with_k(
            c, min(c.family.k + 0.001 * c.family.dimension, c.family.dimension / 2 - 1)
        ),
    }
    claims = [(one[0], claim_of(*one)) for one in certificates(count, 1)]
    for name, way in ways.items():
        tampered = [(laws, way(claim), claim) for laws, claim in claims]
        tampered = [(laws, new) for laws, new, old in tampered if new != old]
        results = [(laws, claim, prove(claim)) for laws, claim in tampered]
        accepted = [(laws, claim) for laws, claim, result in results if result == PROVED]
        wrongly = 0
        for laws, claim in accepted[:20]:
            base = dsrs_jax.generalized_gaussian(claim.family.dimension, 0.5, claim.family.k)
            again = [
                dataclasses.replace(base.with_sigma(law.sigma), cutoff=law.cutoff, quantile=0.5)
                for law in laws
            ]
            lower = [
                mpmath.mpf(int(m)) * mpmath.mpf(2) ** int(e)
                for m, e in (
                    lower_bound(v, N, claim.alpha, share).man_exp()
                    for v, share in zip(claim.votes, claim.shares, strict=True)
                )
            ]
            wrongly += thirty_digits.g(again, lower, claim.multipliers, claim.radius) < 0.5
        print(
            f"{name}: refused {len(results) - len(accepted)} of {len(results)}; of "
            f"{min(len(accepted), 20)} accepted ones, {wrongly} are false by 30 digits",
            flush=True,
        )


def published(directory: str, every: int, offset: int) -> None:
    import published as files

    from dsrs_jax.run import published_study

    rows = proved = unknown = shorter = studies = 0
    clock, failures = time.perf_counter(), []
    for options in files.studies(Path(directory)):
        try:
            loaded = published_study.load(options)
        except dsrs_jax.UserError:
            continue
        studies += 1
        protocol = dataclasses.replace(loaded.protocol, bound=dsrs_jax.Bound.ONE_SIDED)
        made = published_study.certify_with(loaded, [0], protocol).certificates
        lines, names = parse(schema.text(schema.columns(made)), options.model_name)
        claims = [
            read(line.fields, names, method)
            for line in lines[offset::every]
            for method in schema.Method
        ]
        found = [claim for claim in claims if claim is not None]
        for claim, radius, answer in solve(found, 1, shrink=True):
            rows += 1
            proved += answer == PROVED
            shorter += radius < claim.radius
            if "not known" in answer:
                unknown += 1
            elif answer != PROVED:
                failures.append((options.model_name, claim, answer))
        print(
            f"{studies} files, {rows:,} distinct radii: {proved:,} proved ({shorter} shortened), "
            f"{unknown} of unknown counts, {len(failures)} others; "
            f"{time.perf_counter() - clock:.0f} s",
            flush=True,
        )
    for failure in failures:
        print(failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["random", "refuses", "contains", "published"])
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--count", type=int)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "random":
        random(arguments.count or 1000)
    elif arguments.what == "refuses":
        refuses(arguments.count or 200)
    elif arguments.what == "contains":
        contains(arguments.count or 500)
    else:
        published(arguments.directory, arguments.every, arguments.offset)


if __name__ == "__main__":
    main()
