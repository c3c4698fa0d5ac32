"""How a run of certificates ends: proofs, files, table, picture, and what it has to say."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import NDArray
from rich.console import Console

from dsrs_jax import report
from dsrs_jax.certify import CertificateTable
from dsrs_jax.proof import kept, schema
from dsrs_jax.proof.claim import PROVED, read
from dsrs_jax.proof.rows import parse
from dsrs_jax.proof.schema import Method
from dsrs_jax.system.errors import IncompleteError, UserError
from dsrs_jax.system.files import is_remote, write_whole
from dsrs_jax.votes import SamplingPlan, State, VoteTable, drawn, not_finite

CERTIFICATES_FILE, PICTURE_FILE = "certificates.csv", "report.png"
NOT_PROVED = "not every radius is proved: the columns proof_np and proof_dsrs say which, and why"
_SHOWN = 5


def write(
    folder: Path | epath.Path,
    tables: Mapping[str, CertificateTable],
    methods: Mapping[str, NDArray[np.float64]],
    title: str,
    console: Console,
    wanted: Sequence[float] = (),
    wrong: NDArray[np.bool_] | None = None,
    labelled: bool = True,
) -> None:
    """Writes tables and picture, prints certified accuracies; at `wanted` radii or round ones.

    `wrong` and `labelled` are of the images (`whose`).
    """
    for name, table in tables.items():
        write_whole(folder / name, schema.text(schema.columns(table)))
    right = {m: radii if wrong is None else radii * ~wrong for m, radii in methods.items()}
    write_whole(folder / PICTURE_FILE, report.curves(right, title, wanted, labelled))
    console.print(report.accuracy_table(methods, wanted, wrong, labelled))


def whose(table: VoteTable) -> tuple[NDArray[np.bool_] | None, bool]:
    """Which images' votes are of a class that is not their label, and whether labels are known.

    None of them is where the votes are those of the label.
    """
    if table.chosen is None:
        return None, True
    known = table.true_label >= 0
    if not np.any(known):
        return None, False
    return known & (table.label != table.true_label), True


def prove(
    table: CertificateTable, folder: Path | epath.Path, console: Console
) -> tuple[CertificateTable, bool]:
    """The table with proofs, and whether every radius is proved.

    The claims are read from the very text that the file will hold, so what is proved is what
    anyone can prove again from it. A radius that fails by rounding is shortened until it is proved.
    Each proof is kept in `folder`, so an interrupted call goes on (but for a bucket, which takes no
    lines one by one).

    Raises:
        UserError: the file of proofs cannot be read or written.
    """
    rows, names = parse(schema.text(schema.columns(table)), "the table")
    claims = {
        method: [None if row.wrong else read(row.fields, names, method) for row in rows]
        for method in Method
    }

    def begin(total: int) -> contextlib.AbstractContextManager:
        return report.progress(console, "proving", total, "radii")

    try:
        answers = kept.prove_all(
            [claim for found in claims.values() for claim in found if claim is not None],
            None if is_remote(folder) else Path(folder),
            begin,
        )
    except kept.Damaged as error:
        raise UserError(str(error)) from error
    radii, results, unproved = [], [], []
    shorter = 0
    for method, own in zip(Method, (table.neyman_pearson, table.dsrs), strict=True):
        radius, result = own.radius.copy(), [""] * len(rows)
        for i, claim in enumerate(claims[method]):
            if (wrong := rows[i].wrong) is not None:
                result[i] = f"unproved: {wrong}"
                unproved.append(f"index {table.votes.index[i]}: {wrong}")
                continue
            if claim is None:
                continue
            radius[i], said = answers[claim]
            shorter += radius[i] < claim.radius
            result[i] = said if said == PROVED else f"unproved: {said}"
            if said != PROVED:
                unproved.append(f"index {table.votes.index[i]}, radius_{method}: {said}")
        radii.append(radius)
        results.append(result)
    proved = sum(result.count(PROVED) for result in results)
    covered = "" if table.votes.sound else " The draws, floating-point numbers, are not covered."
    console.print(
        f"Proofs: {proved:,} radii proved ({shorter:,} of them made shorter for it), "
        f"{len(unproved):,} unproved.{covered}",
        soft_wrap=True,
    )
    for line in unproved[:_SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if len(unproved) > _SHOWN:
        console.print("  The others are in the columns proof_np and proof_dsrs.")
    return table.proved(radii, results), not unproved


def say_not_finite(
    plan: SamplingPlan, records: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """One line where draws had logits that are not finite: the model overflows, or is broken."""
    if odd := not_finite(records):
        console.print(
            f"{sum(odd.values()):,} of {sum(drawn(plan, record) for record in records):,} draws "
            f"had logits that are not finite, of {some(list(odd))}: they count as wrong.",
            soft_wrap=True,
        )


def complain(
    table: CertificateTable,
    records: Sequence[Mapping[str, Any]],
    proved: bool,
    again: str,
    console: Console,
) -> None:
    """Names what could not be done.

    Raises:
        IncompleteError: there is something.
    """
    unreadable = np.flatnonzero(table.votes.state[:, 0] == State.UNREADABLE).tolist()
    for i in unreadable:
        # A file's name may hold what no terminal shows, or what would be markup.
        said = str(records[i][State.UNREADABLE]).encode(errors="backslashreplace").decode()
        console.print(f"unreadable: {said}", soft_wrap=True, markup=False)
    if unreadable:
        raise IncompleteError(
            f"{some(table.votes.index[unreadable].tolist())} could not be read; all others "
            f"are done. Fix the files, then: {again}"
        )
    if not proved:
        raise IncompleteError(NOT_PROVED)


def some(indices: Sequence[int]) -> str:
    """How many images, and which."""
    shown = ", ".join(str(index) for index in indices[:10])
    more = ", ..." if len(indices) > 10 else ""
    noun = "image" if len(indices) == 1 else "images"
    return f"{len(indices)} {noun} (index {shown}{more})"
