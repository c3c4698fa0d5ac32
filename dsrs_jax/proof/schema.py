"""certificates.csv: which columns it has, what stands in them, and how a row is read again.

Written by `columns` and `text`, read by `read`, line by line by rows.py; nothing else knows a
column's name but docs/certificates.md. A float is written with all digits that it needs.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dsrs_jax.proof.draws import ROUNDING
from dsrs_jax.proof.looks import LAST

POOLED, ALL_RIGHT = "pooled", "all-right"
_NOTHING_COUNTED = ("unreadable", "not-finite")
# What a radius of DSRS rests on (`certify.Status`).
STATUSES = (
    "dsrs", ALL_RIGHT, "P", "Q", POOLED, "none", *_NOTHING_COUNTED, "P-below", "dsrs-below",
    "Q-below", "unpaired", "no-bound", "discarded",
)  # fmt: skip
UNKNOWN = -1  # votes that nobody knows
_SIDES = {"one-sided": 1, "two-sided": 2}
REQUIRED = (
    "index", "label", "true_label", "label_from", "n0", "votes_n0", "seed", "compared",
    "dimension", "sigma", "k", "eta", "bounds", "alpha_np", "alpha_dsrs", "share_p",
    "planned", "look", "n", "votes", "draws", "grid", "rounding", "ambiguous", "charge_p",
    "ceiling", "ceiling_multiplier",
    "status", "radius_np", "radius_dsrs", "multiplier_np", "multiplier_p",
)  # fmt: skip
REQUIRED_OF_A_LAW = ("sigma", "cutoff", "quantile", "votes", "draws", "charge")
SOUND, FLOAT32 = "sound", "float32"  # kinds of draws
GIVEN, PREDICTED = "given", "predicted"  # whose class is certified
# How the names of laws begin: P's own draws up to a quantile; P with another sigma; P truncated,
# drawn separately, at a quantile or where a rule of the paper says, which goes by P's votes.
INSIDE, SIGMA, THRESHOLD = "inside_", "sigma_", "threshold_"
POOLING = ("threshold_x+", "threshold_x2+")
RULES = ("threshold_x", "threshold_x2", *POOLING)
# float() also takes 0_0.5, the digits of every script, and spaces.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST_GRID = 2**24
_LARGEST_ROUNDING = 2.0**-24  # of float32 numbers
_LARGEST_WHOLE = 2**53  # a double names larger ones only now and then
LARGEST_RADIUS = 1e6  # two images of ImageNet's size are nearer, with pixels up to 255 too


_Number = TypeVar("_Number", int, float)


class Method(enum.StrEnum):
    """The two radii of a row."""

    NEYMAN_PEARSON = "np"
    DSRS = "dsrs"


def columns(table: Any) -> dict[str, list[Any]]:
    """The columns of a `certify.CertificateTable`, by name, in their order."""
    votes, size = table.votes, len(table)
    base, extra = votes.base, list(enumerate(votes.names))[1:]
    neyman_pearson, dsrs = table.neyman_pearson, table.dsrs
    found: dict[str, Any] = {
        "index": votes.index,
        "label": votes.label,
        **_labels(votes, size),
        "n": votes.draws[:, 0],
        "votes": votes.votes[:, 0],
        "seed": _or_empty(votes.seed, size),
        "compared": _or_empty(votes.compared, size),
        **_draws(votes, size),
        "dimension": [base.dimension] * size,
        "sigma": [float(base.sigma)] * size,
        "k": [float(base.k)] * size,
        "eta": [float(base.eta)] * size,
        "bounds": [table.protocol.bound] * size,
        "alpha_np": [table.alpha_neyman_pearson] * size,
        "alpha_dsrs": [table.protocol.alpha] * size,
        "share_p": [float(table.protocol.shares(len(votes.names))[0])] * size,
        **_looks(votes, size),
        "lower_np": neyman_pearson.bounds[:, 0],
        "lower_p": dsrs.bounds[:, 0],
    }
    for j, name in extra:
        laws = [votes.law(j, i) for i in range(size)]
        found[f"sigma_{name}"] = [float(law.sigma) for law in laws]
        found[f"cutoff_{name}"] = [_or_nan(law.cutoff) for law in laws]
        found[f"quantile_{name}"] = [_or_nan(law.quantile) for law in laws]
        found[f"draws_{name}"] = votes.draws[:, j]
        found[f"votes_{name}"] = votes.votes[:, j]
        found[f"charge_{name}"] = _charge(votes, j)
        found[f"lower_{name}"] = table.lower[:, j]
    found["radius_np"] = neyman_pearson.radius
    found["radius_dsrs"] = dsrs.radius
    found["multiplier_np"] = neyman_pearson.multipliers[:, 0]
    found["multiplier_p"] = dsrs.multipliers[:, 0]
    found |= {f"multiplier_{name}": dsrs.multipliers[:, j] for j, name in extra}
    ceiling = table.ceiling or ([math.nan] * size,) * 2
    found["ceiling"], found["ceiling_multiplier"] = ceiling
    found["value"], found["error_bound"] = dsrs.value, dsrs.error_bound
    found["status"], found["solver"] = table.status, dsrs.solver
    if table.proofs is not None:
        found["proof_np"], found["proof_dsrs"] = table.proofs
    return {name: list(column) for name, column in found.items()}


def _labels(votes: Any, size: int) -> dict[str, list[Any]]:
    """Whose class `label` is: the data set's, or the one that n0 draws voted for."""
    chosen = votes.chosen
    return {
        "true_label": list(votes.true_label),
        "label_from": [GIVEN if chosen is None else PREDICTED] * size,
        "n0": [""] * size if chosen is None else [chosen.draws] * size,
        "votes_n0": [""] * size if chosen is None else list(chosen.votes),
    }


def _or_empty(value: int | None, size: int) -> list[Any]:
    return ["" if value is None else value] * size


def _looks(votes: Any, size: int) -> dict[str, list[Any]]:
    if votes.looked is None:
        return {"planned": [""] * size, "look": [""] * size}
    planned = [votes.looked.looks.planned] * size
    return {"planned": planned, "look": list(votes.looked.number)}


def _draws(votes: Any, size: int) -> dict[str, list[Any]]:
    if votes.sound is None:
        empty = ("grid", "rounding", "ambiguous", "charge_p")
        return {"draws": [FLOAT32] * size, **{name: [math.nan] * size for name in empty}}
    return {
        "draws": [SOUND] * size,
        "grid": [votes.sound.grid] * size,
        "rounding": [votes.sound.rounding] * size,
        "ambiguous": votes.sound.ambiguous,
        "charge_p": _charge(votes, 0),
    }


def _charge(votes: Any, column: int) -> list[float]:
    return [math.nan] * len(votes) if votes.sound is None else votes.charge(column).tolist()


def text(columns: Mapping[str, Iterable[Any]]) -> str:
    """The columns under their names as CSV; nan as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    written = [[_cell(value) for value in column] for column in columns.values()]
    writer.writerows(zip(*written, strict=True))
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):  # numpy's float64 too
        return "" if math.isnan(value) else repr(float(value))
    return str(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class LawFields:
    """What a row says of one law; cutoff and quantile are None where it is not cut off.

    The charge is that of sound draws, else 0.
    """

    name: str
    sigma: float
    cutoff: float | None
    quantile: float | None
    votes: int
    draws: int
    multiplier: float
    charge: float


@dataclasses.dataclass(frozen=True)
class SoundFields:
    """What a row says of its draws, where they were sound."""

    grid: int
    rounding: float
    ambiguous: int


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a row says of one of its radii.

    Attributes:
        method: which of them.
        radius: > 0, in pixel units.
        alpha: failure probability of the certificate.
        share_p: P's own share of it, in (0, 1]; the other laws have equal parts of the rest.
        look: (planned draws, number of the look), or None where votes were looked at once.
        sides: 1 or 2: of the intervals whose lower ends the bounds are.
        pooled: whether it is Neyman-Pearson's from twice the draws of P.
        all_right: whether it is Neyman-Pearson's because no draw was wrong.
        dimension, k, eta: of all laws.
        laws: that the radius follows from, P first.
        sound: None where the draws were floating-point numbers.
        ceiling: (radius, multiplier) that the all-right rule puts over a DSRS radius.
    """

    method: Method
    radius: float
    alpha: float
    share_p: float
    look: tuple[int, int] | None
    sides: int
    pooled: bool
    all_right: bool
    dimension: int
    k: float
    eta: float
    laws: tuple[LawFields, ...]
    sound: SoundFields | None
    ceiling: tuple[float, float] | None


def as_number(written: str) -> float:
    """The finite number that a text names, in ASCII and without spaces.

    Raises:
        ValueError: it names none.
    """
    if _NUMBER.fullmatch(written) is None:
        raise ValueError(f"{written!r}, not a number")
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"{written}, which no double holds")
    return value


def as_whole(written: str) -> int:
    """The whole number that a text names.

    Raises:
        ValueError: it names none, or one that a double need not hold.
    """
    value = as_number(written)
    if value != math.floor(value) or abs(value) >= _LARGEST_WHOLE:
        raise ValueError(f"{written}, not a whole number below 2^53")
    return int(value)


def as_radius(written: str) -> float:
    """The radius that a text names, in pixel units.

    Raises:
        ValueError: it names none, or one that no images are apart.
    """
    value = as_number(written)
    if not 0.0 <= value <= LARGEST_RADIUS:
        raise ValueError(f"{value!r}, outside [0, {LARGEST_RADIUS:g}]")
    return value


def read(row: Mapping[str, str], names: Sequence[str], method: Method) -> Fields | None:
    """What a row says of one of its radii; None for a radius of 0.

    Raises:
        ValueError: a field is missing, no number, or outside its domain; the message says which.
    """

    def number(column: str) -> float:
        return said(as_number, row, column)

    def whole(column: str) -> int:
        return said(as_whole, row, column)

    def unless_empty(column: str) -> float | None:
        return None if row[column] == "" else number(column)

    radius = said(as_radius, row, f"radius_{method}")
    if radius == 0.0:
        return None
    status = row["status"]
    if status not in STATUSES:
        raise ValueError(f"status is {status!r}, none of {', '.join(STATUSES)}")
    if status in _NOTHING_COUNTED or (method is Method.DSRS and status == "none"):
        raise ValueError(f"radius_{method} is positive, the status {status!r} says that it is 0")
    sides = _SIDES.get(row["bounds"])
    if sides is None:
        raise ValueError(f"bounds is {row['bounds']!r}, not {' or '.join(_SIDES)}")
    alpha = number(f"alpha_{method}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha_{method} is outside (0, 1)")
    share_p = number("share_p")
    if not (0.0 < share_p < 1.0 or (share_p == 1.0 and not names)):
        raise ValueError("share_p is outside its domain")
    look = None
    if row["planned"] != "":
        look = whole("planned"), whole("look")
        if look[0] < 1 or not 1 <= look[1] <= LAST:
            raise ValueError("planned or look is outside its domain")
    elif row["look"] != "":
        raise ValueError("a look, but no planned draws")
    sound = None
    kind = row.get("draws", "")
    if kind == SOUND:
        sound = SoundFields(whole("grid"), number("rounding"), whole("ambiguous"))
        if not (0 < sound.grid <= _LARGEST_GRID and sound.ambiguous >= 0):
            raise ValueError("grid or ambiguous is outside its domain")
        if not ROUNDING <= sound.rounding <= _LARGEST_ROUNDING:
            raise ValueError(
                f"rounding is {sound.rounding!r}, below the {ROUNDING!r} that holds, or above 2^-24"
            )
    elif kind != FLOAT32:
        raise ValueError(f"draws is {kind!r}, not {SOUND} or {FLOAT32}")
    elif wrong := [column for column in ("grid", "rounding", "ambiguous") if row.get(column)]:
        raise ValueError(f"draws is {kind}, and {wrong[0]} is of sound ones")

    def charge(column: str) -> float:
        if sound is None:
            if row.get(column):
                raise ValueError(f"draws is {kind}, and {column} is of sound ones")
            return 0.0
        value = number(column)
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{column} is outside its domain")
        return value

    own = "multiplier_np" if method is Method.NEYMAN_PEARSON else "multiplier_p"
    votes, draws, weight = whole("votes"), whole("n"), number(own)
    laws = [LawFields("p", number("sigma"), None, None, votes, draws, weight, charge("charge_p"))]
    for name in names if method is Method.DSRS else ():
        sigma, weight = number(f"sigma_{name}"), number(f"multiplier_{name}")
        cutoff, quantile = unless_empty(f"cutoff_{name}"), unless_empty(f"quantile_{name}")
        if quantile is not None and not 0.0 < quantile <= 1.0:
            raise ValueError(f"quantile_{name} is outside its domain")
        votes, draws = whole(f"votes_{name}"), whole(f"draws_{name}")
        taken = charge(f"charge_{name}")
        laws.append(LawFields(name, sigma, cutoff, quantile, votes, draws, weight, taken))
    if any(law.multiplier < 0.0 for law in laws):
        raise ValueError("a multiplier is negative")
    if not any(law.multiplier for law in laws):
        raise ValueError("all multipliers are 0")
    ceiling = None
    if method is Method.DSRS and row["ceiling"] != "":
        ceiling = number("ceiling"), number("ceiling_multiplier")
        if not (ceiling[0] == 0.0 or min(ceiling) > 0.0):
            raise ValueError("ceiling or ceiling_multiplier is outside its domain")
    return Fields(
        method=method,
        radius=radius,
        alpha=alpha,
        share_p=share_p,
        look=look,
        sides=sides,
        pooled=method is Method.DSRS and status == POOLED,
        all_right=method is Method.DSRS and status == ALL_RIGHT,
        dimension=whole("dimension"),
        k=number("k"),
        eta=number("eta"),
        laws=tuple(laws),
        sound=sound,
        ceiling=ceiling,
    )


def said(meaning: Callable[[str], _Number], row: Mapping[str, str], column: str) -> _Number:
    try:
        return meaning(row.get(column) or "")
    except ValueError as error:
        raise ValueError(f"{column} is {error}") from None
