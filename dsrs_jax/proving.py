"""Proofs of freshly made certificates: what `scripts/certify.py --prove` adds to the fast path.

The claims are read from the very text that certificates.csv will hold (certify/proof.py), so
what is proved is what anyone can prove again from the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import flint
import numpy as np
from etils import epath
from rich.console import Console

from dsrs_jax import report
from dsrs_jax.certify import enclosure, proof
from dsrs_jax.errors import UserError
from dsrs_jax.sampling import is_remote

PROOFS_FILE = "proofs.jsonl"
NOT_PROVED = "not every radius is proved: the columns proof_np and proof_dsrs say which, and why"
_SHOWN = 5


def with_proofs(
    columns: dict[str, Any], directory: Path | epath.Path, console: Console
) -> tuple[dict[str, Any], bool]:
    """The columns with `proof_np` and `proof_dsrs`, and whether every radius is proved.

    A radius that fails by rounding is shortened until it is proved (`proof.shrunk`). Each proof
    is kept in `directory`/proofs.jsonl under a digest of its claim, so an interrupted call goes on.

    Raises:
        UserError: the file of proofs cannot be written.
    """
    rows = list(csv.DictReader(io.StringIO(report.csv_text(columns))))
    names = proof.law_names(columns)
    claims = {method: [proof.read(row, names, method) for row in rows] for method in proof.METHODS}
    answers = _prove({c for found in claims.values() for c in found if c}, directory, console)
    columns = dict(columns)
    proved = shorter = 0
    unproved: list[str] = []
    for method, found in claims.items():
        radii = np.array(columns[f"radius_{method}"], dtype=np.float64)
        results = np.full(len(rows), "", dtype=object)
        for i, claim in enumerate(found):
            if claim is not None:
                radii[i], result = answers[claim]
                good = result == proof.PROVED
                results[i] = result if good else f"unproved: {result}"
                proved, shorter = proved + good, shorter + (radii[i] < claim.radius)
                if not good:
                    unproved.append(f"index {rows[i]['index']}, radius_{method}: {result}")
        columns[f"radius_{method}"] = radii
        columns[f"proof_{method}"] = results
    console.print(
        f"Proofs: {proved:,} radii proved ({shorter:,} of them made shorter for it), "
        f"{len(unproved):,} unproved."
    )
    for line in unproved[:_SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if len(unproved) > _SHOWN:
        console.print("  The others are in the columns proof_np and proof_dsrs.")
    return columns, not unproved


def _prove(
    claims: set[proof.Claim], directory: Path | epath.Path, console: Console
) -> dict[proof.Claim, tuple[float, str]]:
    file = directory / PROOFS_FILE
    # A bucket takes no lines one by one: there the proofs are made anew each time.
    keeps = not is_remote(directory)
    done = _kept(file) if keeps else {}
    judge = _version()
    digests = {
        claim: hashlib.sha256((judge + repr(claim)).encode()).hexdigest() for claim in claims
    }
    answers = {
        claim: done[key]
        for claim, key in digests.items()
        if key in done and 0.0 < done[key][0] <= claim.radius
    }
    left = sorted((claim for claim in claims if claim not in answers), key=lambda c: digests[c])
    if not left:
        return answers
    try:
        with (
            open(file, "a") if keeps else io.StringIO() as stream,
            report.progress(console, "proving", len(left), "radii") as advance,
        ):
            for claim, radius, result in proof.solve(left, shrink=True):
                answers[claim] = radius, result
                stream.write(json.dumps([digests[claim], radius, result]) + "\n")
                stream.flush()
                advance(1)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
    return answers


def _version() -> str:
    """What decides a proof: another version's proofs are made anew."""
    code = [Path(module.__file__ or "").read_bytes() for module in (proof, enclosure)]
    return flint.__version__ + hashlib.sha256(b"".join(code)).hexdigest()


def _kept(file: Path | epath.Path) -> dict[str, tuple[float, str]]:
    """The proofs of an earlier run; a line that a kill cut short is redone."""
    if not file.exists():
        return {}
    text = file.read_bytes().decode(errors="replace")
    whole = text.rfind("\n") + 1
    if whole < len(text):
        file.write_text(text[:whole])
    kept = {}
    for line in text[:whole].splitlines():
        try:
            key, radius, result = json.loads(line)
        except ValueError:
            raise UserError(f"{file} is damaged; delete it and run again") from None
        kept[str(key)] = float(radius), str(result)
    return kept
