"""Attacks as reports read them: beside the certificates of the same images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dsrs_jax.attack import Attack, problem_of, rows_of
from dsrs_jax.attack.balls import L2
from dsrs_jax.attack.record import UNREADABLE
from dsrs_jax.report import Attacked, Curve, PaperTable, Radii, attacked_table, curve
from dsrs_jax.run.certify import COMMAND_FILE
from dsrs_jax.run.finished import DSRS, NEYMAN_PEARSON, Finished
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import RecordFolder
from dsrs_jax.votes.records import earlier_settings

_SHOWN = 10
# Settings that make the smoothed classifier what it is.
_SAME = ("model", "arch", "input_scaling", "dtype", "sigma", "k", "eta")
_DRAWS = ("draws", "grid")  # sound ones are of the classifier that rounds its input
_CHANCE = 1e-3  # that all of a comparison's images, together, are called contradictions by chance
_NOTE = (
    "Attacked accuracy (%) is an upper bound of the smoothed classifier's accuracy at a radius, "
    "certified accuracy a lower one, of the same images. The attack's own check has few draws; "
    "what it finds counts as confirmed where fresh draws say so, too, each image wrongly with the "
    "attack's α at most."
)


@dataclasses.dataclass(frozen=True)
class AttackRun:
    """An attack's folder: what was found, its settings, its command, and what is to be said."""

    found: Attacked
    settings: dict[str, Any]
    command: str
    planned: int
    digests: Mapping[int, str]
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def half(self) -> str:
        """A sentence where fewer images are done than were planned, else ""."""
        done = len(self.found.index)
        return f"Half finished: {done:,} of {self.planned:,} images." if done < self.planned else ""

    def same_as(self, run: Finished, names: Sequence[str]) -> bool:
        """Whether a run's settings say the same under these names."""
        return all(run.settings.get(name) == self.settings[name] for name in names)

    def same_images(self, run: Finished) -> bool:
        """Whether a run recorded the same pixels and labels, as far as its records are here."""
        theirs = run.digests()
        return all(theirs.get(index, own) == own for index, own in self.digests.items())


Key = tuple[str, str]  # of a figure: its name and title


@dataclasses.dataclass
class Shown:
    """What attacks add to a report: figures have certified curves, and attacked ones."""

    banners: list[str]
    sentences: list[str]
    tables: list[PaperTable]
    certified: dict[Key, dict[str, Curve]]
    attacked: dict[Key, dict[str, Curve]]


def is_attack(path: Path) -> bool:
    """Whether a folder is that of an attack."""
    return "attack" in earlier_settings(path)


def read_attack(path: Path) -> AttackRun:
    """Reads the records of an attack's folder, all of them or as many as there are.

    Raises:
        UserError: there is nothing in it that could be shown.
    """
    settings, remarks = earlier_settings(path), list[str]()
    try:
        radii = tuple(float(radius) for radius in settings["eps"])
        fields = [field.name for field in dataclasses.fields(Attack)]
        attack = Attack(**{name: settings[name] for name in fields})
        for name in (*_SAME, *_DRAWS):
            settings[name]  # without which nothing can be compared
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{path} does not say how it was attacked ({type(error).__name__})"
        ) from None

    def problem(record: dict[str, Any]) -> str | None:
        return problem_of(attack, radii, record)

    folder = RecordFolder(path, settings, problem_of=problem, on_damaged=remarks.append)
    folder.refresh()
    records = [folder.records[index] for index in sorted(folder.records)]
    if unreadable := sum(UNREADABLE in record for record in records):
        remarks.append(f"{path.name}: {unreadable} images could not be read and are left out.")
    if unreadable == len(records):
        raise UserError(f"{path}: no image was attacked yet, so there is nothing to show")
    try:
        made = json.loads((path / COMMAND_FILE).read_text())
        command, planned = str(made["command"]), int(made["images"]) - unreadable
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        command, planned = "", 0
    found = attacked_of(path.name or str(path), attack, radii, records)
    digests = {record["index"]: record["image"] for record in records if "image" in record}
    return AttackRun(found, settings, command, planned, digests, tuple(remarks))


def described(attack: Attack) -> str:
    """Method and norm, as a title has them."""
    norm = "ℓ2" if attack.norm == L2 else "ℓ∞"
    if attack.random_starts == 0:
        return f"I-FGSM, {norm}"
    starts = "start" if attack.random_starts == 1 else "starts"
    return f"PGD, {attack.random_starts} random {starts}, {norm}"


def attacked_of(
    name: str, attack: Attack, radii: Sequence[float], records: Sequence[Mapping[str, Any]]
) -> Attacked:
    """The records as arrays, without images that could not be read."""
    readable = [record for record in records if UNREADABLE not in record]
    rows = list(rows_of(radii, readable))
    shape = (len(readable), len(radii))

    def flags(column: str) -> np.ndarray:
        return np.array([bool(row.get(column)) for row in rows], bool).reshape(shape)

    def last(column: str, nothing: float, dtype: Any) -> np.ndarray:
        """Of what broke an image in the largest ball, or of an image that is wrong."""
        own = rows[len(radii) - 1 :: len(radii)]
        values = [row.get(column) if row.get("broken", 1) else None for row in own]
        return np.array([nothing if one is None else one for one in values], dtype)

    right = np.array([record["right"] for record in readable], bool)
    return Attacked(
        name, described(attack), attack.norm, tuple(radii),
        np.array([record["index"] for record in readable], np.int64),
        right, flags("voted"), flags("broken"),
        np.where(right, last("perturbation", np.inf, np.float64), 0.0),
        last("label_votes", -1, np.int64), last("other_votes", -1, np.int64),
        last("p_value", 1.0, np.float64),
        alpha=attack.alpha if attack.recheck else None,
    )  # fmt: skip


def show(attacks: Sequence[AttackRun], runs: Sequence[Finished]) -> Shown:
    """Tables and figures of attacks: of the same images together, l2 beside their certificates."""
    shown = Shown([], [], [], {}, {})
    for attack in attacks:
        if attack.half:
            shown.banners.append(f"{attack.name}: {attack.half}")
        command = f" Command: `{attack.command}`" if attack.command else ""
        shown.sentences.append(
            f"**{attack.name}**: {attack.found.method}, at {len(attack.found.index):,} "
            f"images.{_chance(attack.found)}{command}"
        )
        shown.sentences += attack.remarks
    groups: dict[Any, list[AttackRun]] = {}
    for attack in attacks:
        found = attack.found
        of_set = tuple(attack.settings.get(name) for name in ("dataset", "split"))
        groups.setdefault((found.norm, of_set, found.index.tobytes()), []).append(attack)
    for number, group in enumerate(groups.values(), start=1):
        _show(group, f"-{number}" if len(groups) > 1 else "", runs, shown)
    return shown


def _chance(found: Attacked) -> str:
    if found.alpha is None:
        return " Nothing is confirmed by fresh draws."
    return (
        " Of an image that is not broken fresh draws confirm a break with probability "
        f"{found.alpha:g} at most."
    )


def _show(group: list[AttackRun], tail: str, runs: Sequence[Finished], shown: Shown) -> None:
    """Adds attacks on the same images in the same norm."""
    found = [attack.found for attack in group]
    names = ", ".join(f"{one.name} ({one.method})" for one in found)
    title = f"Attacked accuracy (%): {names}"
    if found[0].norm != L2:
        note = f"{_NOTE} No certificate here is of this norm."
        table = attacked_table(f"attacked-{found[0].norm}{tail}", title, found, {}, note)
        shown.tables.append(table)
        return
    beside: dict[str, Radii] = {}
    for attack in group:
        beside |= _certified(attack, runs, shown)
    shown.tables.append(attacked_table(f"attacked{tail}", title, found, beside, _NOTE))
    key = (f"attacked{tail}", f"Attacked: {names}")
    shown.certified[key] = {name: curve(one.radius, one.slack) for name, one in beside.items()}
    shown.attacked[key] = {f"attacked: {one.name}, {one.method}": one.curve() for one in found}


def _certified(attack: AttackRun, runs: Sequence[Finished], shown: Shown) -> dict[str, Radii]:
    """The radii of the attacked images, of each run that has them all; says what contradicts."""
    beside: dict[str, Radii] = {}
    index = attack.found.index
    for run in runs:
        place = {one: row for row, one in enumerate(run.index.tolist())}
        same_set = attack.same_as(run, ("dataset", "split")) or not run.settings
        if not same_set or not set(index.tolist()) <= set(place):
            continue
        rows = np.array([place[one] for one in index.tolist()])
        for method, radii in run.radii.items():
            name = method if len(runs) == 1 else f"{run.name}, {method}"
            beside[name] = dataclasses.replace(radii, index=index, radius=radii.radius[rows])
        if not attack.same_as(run, _SAME) or not attack.same_images(run):
            shown.sentences.append(
                f"{attack.name} and {run.name} are not known to be of the same images, labels, "
                "model and noise: their accuracies stand side by side, their images are not "
                "compared."
            )
            continue
        if not attack.same_as(run, _DRAWS):
            shown.sentences.append(
                f"{attack.name} has {_draws(attack.settings)} draws and {run.name} "
                f"{_draws(run.settings)} ones: they speak of two classifiers (that of sound draws "
                "rounds its input), and their images are not compared. Attack with "
                f"--draws {run.settings.get('draws')}."
            )
            continue
        best = run.radii.get(DSRS, run.radii.get(NEYMAN_PEARSON))
        if best is not None:
            alpha = float(run.settings.get("alpha", 1.0))
            _compare(attack, run.name, best.radius[rows], alpha, shown)
    return beside


def _draws(settings: Mapping[str, Any]) -> str:
    grid = settings.get("grid")
    return f"{settings.get('draws')}" + (f" (grid 1/{grid})" if grid is not None else "")


def _compare(attack: AttackRun, name: str, radius: np.ndarray, alpha: float, shown: Shown) -> None:
    """Names every image that is broken inside its certified radius, or says that there is none.

    Fresh draws call each of the images broken wrongly with a probability, and a certificate fails
    with alpha: what is called a contradiction is what neither explains, of all images together.
    """
    found = attack.found
    inside = (radius > 0.0) & (found.perturbation <= radius)
    certified = int(np.sum(radius > 0.0))
    sure = inside & (found.p_value * certified <= _CHANCE)
    if not inside.any():
        shown.sentences.append(
            f"{attack.name} broke no image inside the radius that {name} certifies."
        )
    if sure.any():
        said = f"broke {_named(found, sure, radius)}, inside the radius that {name} certifies."
        chance = float(stats.binom.sf(int(sure.sum()) - 1, certified, alpha))
        failing = (
            f"Of {certified:,} certificates, each failing with probability α = {alpha:g}, so many "
            f"fail with probability {chance:.2g}, at most"
        )
        shown.banners.append(
            f"CONTRADICTION: {attack.name} {said} {failing}: something is wrong."
            if chance <= _CHANCE
            else f"{attack.name} {said} {failing}: these may be such."
        )
    if not (left := inside & ~sure).any():
        return
    if found.alpha is None:
        why = (
            "by its check alone, whose few draws are often wrong: attack again with "
            "--recheck 10000."
        )
    else:
        why = (
            f"by votes that chance explains among {certified:,} images: the label may well have "
            "half of the probability there, as the certificate says."
        )
    shown.sentences.append(
        f"{attack.name} broke {_named(found, left, radius)}, inside the radius that {name} "
        f"certifies, {why}"
    )


def _named(found: Attacked, which: np.ndarray, radius: np.ndarray) -> str:
    """These images, with what broke them."""
    named = []
    for i in np.flatnonzero(which)[:_SHOWN].tolist():
        fresh = "no fresh draws"
        if found.alpha is not None:
            fresh = f"fresh votes: label {found.label_votes[i]:,}, other {found.other_votes[i]:,}"
        named.append(
            f"index {found.index[i]} (perturbation {found.perturbation[i]:.4f}, certified radius "
            f"{radius[i]:.4f}; {fresh})"
        )
    count = int(which.sum())
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"{count} {'image' if count == 1 else 'images'}: {', '.join(named)}{more}"
