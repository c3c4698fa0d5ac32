"""Runs that look at votes several times: the same table from fewer draws, whatever happens."""

import csv
from pathlib import Path

import commands
import numpy as np
import pytest
from certify_runs import DRAWS, IMAGES, WORK, Once, records_of, rows_of

from dsrs_jax.bounds import Looks, lower_bound
from dsrs_jax.certify import certify
from dsrs_jax.noise import generalized_gaussian, sound
from dsrs_jax.proof import check
from dsrs_jax.run.main import main

RADII = ("0.2", "0.4", "0.6")
LOOKED = [*WORK, "--radii", *RADII]
LOOKS = Looks(DRAWS)


@pytest.fixture(scope="module")
def looked(once: Once, model: str) -> Path:
    """A run with looks that nothing happened to."""
    return once(
        "looked", lambda out: main(["certify", "--model", model, *LOOKED, "--out", str(out)])
    )


def reached(rows: list[dict[str, str]]) -> np.ndarray:
    """How many images of a run reach each of the radii."""
    radius = np.array([float(row["radius_dsrs"]) for row in rows])
    return np.sum(radius[:, None] >= np.array(RADII, np.float64), axis=0)


def test_the_table_of_all_draws_comes_from_some(
    looked: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    everything, some = list(csv.DictReader(whole.decode().splitlines())), rows_of(looked)
    assert np.all(np.abs(reached(everything) - reached(some)) <= 1)
    assert sum(int(row["n"]) for row in some) < DRAWS * IMAGES / 2
    # Draws are the same ones: where an image had all of them, so are its votes.
    same = [
        (row, other) for row, other in zip(some, everything, strict=True) if row["n"] == other["n"]
    ]
    assert same
    for row, other in same:
        assert all(row[name] == other[name] for name in ("votes", "votes_inside_0.5"))
    # Each row says its look, and has that look's share of alpha; a stranger proves it.
    for row in some:
        number = int(row["look"])
        assert row["planned"] == str(DRAWS) and int(row["n"]) == LOOKS.draws(number)
        alpha = 0.001 * float(LOOKS.share(number))
        law = generalized_gaussian(64, float(row["sigma"]), float(row["k"]))
        bound = lower_bound(int(row["votes"]), int(row["n"]), alpha) - sound.charge(law, 240)
        radius = certify(law, np.maximum(bound, 0.0)[None]).radius[0]
        assert float(row["radius_np"]) == pytest.approx(radius, rel=1e-9, abs=1e-12)
    assert len({row["look"] for row in some}) > 2
    capsys.readouterr()
    assert check.main([str(looked), "--processes", "1"]) == 0
    assert "of a schedule of looks with 10,000 planned draws" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_is_done_goes_on_to_further_looks(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, later = tmp_path / "once", tmp_path / "later"
    short = ["certify", "--model", model, "--n", "1500", "--stop", "6", "--seed", "0"]
    command = [*short, "--tolerance", "0.005", "--q-sigma", "0.3"]
    assert main([*command, "--out", str(later)]) == 0
    before = records_of(later)
    assert max(record["draws"][0] for record in before.values()) == 1500
    assert main([*command, "--continue", "4", "--out", str(later)]) == 0
    assert main([*command, "--continue", "4", "--out", str(once)]) == 0
    after = records_of(later)
    assert after == records_of(once)
    for name in ("certificates.csv", "config.json"):
        assert (later / name).read_bytes() == (once / name).read_bytes()
    # What was drawn stays; more came after it, of both laws.
    assert max(record["draws"][0] for record in after.values()) == 6000
    for index, record in after.items():
        looks = [*record.get("earlier", []), record]
        own = before[index]
        first = looks[len(own.get("earlier", []))]
        assert (first["draws"], first["votes"]) == (own["draws"], own["votes"])
        assert all(look["draws"][0] == look["draws"][1] for look in looks)
    # Without it the run is done, and keeps what it has.
    assert main([*command, "--out", str(later)]) == 0
    assert records_of(later) == after
    assert check.main([str(later), "--processes", "1"]) == 0
    commands.refused(
        capsys, [*short, "--q-sigma", "0.3", "--out", str(later)], "shares alpha among looks"
    )


@pytest.mark.slow
def test_a_budget_is_spent_where_it_adds_most(looked: Path, model: str, tmp_path: Path) -> None:
    budget = IMAGES * DRAWS // 2
    command = ["certify", "--model", model, *WORK, "--budget", str(budget), "--out"]
    assert main([*command, str(tmp_path / "mean")]) == 0
    draws = [int(row["n"]) for row in rows_of(tmp_path / "mean")]
    assert budget - DRAWS < sum(draws) <= budget and min(draws) < max(draws)
    # With radii it is the table that it raises.
    assert main([*command, str(tmp_path / "table"), "--radii", *RADII]) == 0
    assert np.all(np.abs(reached(rows_of(looked)) - reached(rows_of(tmp_path / "table"))) <= 1)
