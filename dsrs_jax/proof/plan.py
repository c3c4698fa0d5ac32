"""What was fixed for a run before it drew: each of its rows repeats it, and all must agree.

Trusted: a row with another plan than the rest would claim all of alpha for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dsrs_jax.proof import schema
from dsrs_jax.proof.schema import as_number, as_whole, said

Value = float | str | None

_SEEDS = 2**32


def _as_seed(written: str) -> int:
    if not 0 <= (seed := as_whole(written)) < _SEEDS:
        raise ValueError(f"{seed}, outside [0, 2^32)")
    return seed


def _as_count(written: str) -> int:
    if (count := as_whole(written)) < 0:
        raise ValueError(f"{count}, below 0")
    return count


def _as_votes(written: str) -> int:
    if (count := as_whole(written)) < schema.UNKNOWN:
        raise ValueError(f"{count}, no count")
    return count


_NUMBERS = ("sigma", "k", "eta", "alpha_np", "alpha_dsrs", "share_p")
_WORDS = ("bounds", "draws", "label_from")
_OR_EMPTY = {
    "seed": _as_seed,
    "compared": _as_count,
    "planned": as_whole,
    "n0": as_whole,
    "grid": as_whole,
    "rounding": as_number,
    "charge_p": as_number,
}


def fields(row: Mapping[str, str], names: Sequence[str]) -> dict[str, Value]:
    """The fields of a row that belong to its run, by column; None where one is empty.

    Of a law that a rule picks for each image there are none. The draws of laws that have draws of
    their own are here where nothing says of which look they are, and the row claims a radius.

    Raises:
        ValueError: one of them, a count or the row's class is outside its domain, or contradicts
            another field.
    """
    fixed = [name for name in names if name not in schema.RULES]
    of_laws = [f"{what}_{name}" for name in fixed for what in ("cutoff", "quantile", "charge")]
    found: dict[str, Value] = {"dimension": said(as_whole, row, "dimension")}
    for column in (*_NUMBERS, *(f"sigma_{name}" for name in fixed)):
        found[column] = said(as_number, row, column)
    for column, meaning in (_OR_EMPTY | dict.fromkeys(of_laws, as_number)).items():
        found[column] = said(meaning, row, column) if row[column] else None
    found |= {column: row[column] for column in _WORDS}
    if row["status"] not in schema.STATUSES:
        raise ValueError(f"status is {row['status']!r}, none of {', '.join(schema.STATUSES)}")
    found["ceiling"] = "a number" if row["ceiling"] else None
    radii = [said(schema.as_radius, row, f"radius_{method}") for method in schema.Method]
    _check_class(row, any(radii))
    for column in ("votes", *(f"votes_{name}" for name in names)):
        said(_as_votes, row, column)
    for column in ("n", *(f"draws_{name}" for name in names)):
        count = said(_as_votes, row, column)
        # Rows that stopped at different looks would each claim the alpha of all looks. Draws that
        # fell inside a level differ by chance; of 0 and -1 nothing is claimed.
        apart = not column.startswith(f"draws_{schema.INSIDE}")
        if any(radii) and found["planned"] is None and apart and count > 0:
            found[column] = count
    return found


def _check_class(row: Mapping[str, str], claims: bool) -> None:
    """Raises a ValueError where a row does not say which class it is of, and who chose it."""
    label, true_label = (said(as_whole, row, name) for name in ("label", "true_label"))
    chosen_by = row["label_from"]
    if chosen_by == schema.GIVEN:
        if row["n0"] or row["votes_n0"]:
            raise ValueError("label_from is 'given', but n0 draws chose the label")
        if label != true_label:
            raise ValueError(
                f"label_from is 'given', but label is {label} and true_label {true_label}"
            )
    elif chosen_by == schema.PREDICTED:
        n0, votes = (said(as_whole, row, name) for name in ("n0", "votes_n0"))
        if not (0 <= votes <= n0 and n0 > 0):
            raise ValueError("n0 or votes_n0 is outside its domain")
        if claims and label < 0:
            raise ValueError("a radius, but no class that draws chose")
    else:
        raise ValueError(f"label_from is {chosen_by!r}, not {schema.GIVEN} or {schema.PREDICTED}")


def differences(rows: Sequence[Mapping[str, Value]]) -> list[str | None]:
    """Of each row's `fields` the first that is not what most rows have, in words; else None."""
    columns = dict.fromkeys(column for row in rows for column in row)
    usual = {
        column: Counter(row[column] for row in rows if column in row).most_common(1)[0][0]
        for column in columns
    }
    return [
        next(
            (
                f"{column} is {_shown(value)}, of other rows {_shown(usual[column])}"
                for column, value in row.items()
                if value != usual[column]
            ),
            None,
        )
        for row in rows
    ]


def _shown(value: Value) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, str) else f"{value!r}".removesuffix(".0")
