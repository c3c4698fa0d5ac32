"""Runs that look at votes several times: the same table from fewer draws, whatever happens."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import joined, record_files, rows_of, wait_for_more

from dsrs_jax.bounds import Looks, lower_bound
from dsrs_jax.certify import certify
from dsrs_jax.noise import generalized_gaussian, sound
from dsrs_jax.proof import check
from dsrs_jax.run.main import main

Start = Callable[..., subprocess.Popen[str]]
Once = Callable[[str, Callable[[Path], None]], Path]
N, IMAGES, RADII = 40_000, 24, ("0.2", "0.4", "0.6")
# Seldom ones and often ones: from the first look to the last.
WORK = ["--n", str(N), "--stop", str(IMAGES), "--q-inside", "0.5", "--draws", "sound"]
LOOKED = [*WORK, "--radii", *RADII]
LOOKS = Looks(N)


def recorded(out: Path) -> dict[int, dict[str, Any]]:
    """The records of a run, of each image the one with the most looks."""
    found: dict[int, dict[str, Any]] = {}
    for file in record_files(out):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            known = found.get(record["index"], {})
            if len(record.get("earlier", [])) >= len(known.get("earlier", [])):
                found[record["index"]] = record
    return found


@pytest.fixture(scope="module")
def looked(once: Once, model: str) -> Path:
    """A run with looks that nothing happened to."""
    return once(
        "looked", lambda out: main(["certify", "--model", model, *LOOKED, "--out", str(out)])
    )


def test_the_table_of_all_draws_comes_from_some(
    looked: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    assert main(["certify", "--model", model, *WORK, "--out", str(out)]) == 0
    everything, some = rows_of(out), rows_of(looked)
    for radius in map(float, RADII):
        reach = [
            sum(float(row["radius_dsrs"]) >= radius for row in rows) for rows in (everything, some)
        ]
        assert abs(reach[0] - reach[1]) <= 1
    assert sum(int(row["n"]) for row in some) < sum(int(row["n"]) for row in everything) / 2
    # Draws are the same ones: where an image had all of them, so are its votes.
    whole = [i for i, row in enumerate(some) if row["n"] == str(N)]
    assert whole
    for i in whole:
        assert [some[i][name] for name in ("votes", "votes_inside_0.5")] == [
            everything[i][name] for name in ("votes", "votes_inside_0.5")
        ]
    # Each row says its look, and has that look's share of alpha; a stranger proves it.
    for row in some:
        number = int(row["look"])
        assert row["planned"] == str(N) and int(row["n"]) == LOOKS.draws(number)
    assert len({row["look"] for row in some}) > 2
    capsys.readouterr()
    assert check.main([str(looked)]) == 0
    assert "of a schedule of looks with 40,000 planned draws" in capsys.readouterr().out


def test_a_run_that_is_killed_or_has_other_devices_takes_the_same_looks(
    looked: Path, model: str, start: Start, tmp_path: Path
) -> None:
    out, random = tmp_path / "run", np.random.default_rng(0)
    command = ["--model", model, *LOOKED, "--out", str(out)]
    for batch, devices in ((1, 1), (2048, 2), (1, 8)):
        process = start([*command, "--batch", str(batch)], devices)
        if wait_for_more([process], out, len(record_files(out))):
            time.sleep(random.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
    assert main(["certify", *command]) == 0
    assert (out / "certificates.csv").read_bytes() == (looked / "certificates.csv").read_bytes()
    assert recorded(out) == recorded(looked)


def test_two_processes_take_the_same_looks(
    looked: Path, model: str, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for process in [
        start(one) for one in joined(["--model", model, *LOOKED, "--out", str(out)], 2)
    ]:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    assert (out / "certificates.csv").read_bytes() == (looked / "certificates.csv").read_bytes()


def test_a_run_that_is_done_goes_on_to_further_looks(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, later = tmp_path / "once", tmp_path / "later"
    command = ["certify", "--model", model, "--n", "5000", "--stop", "8", "--draws", "sound"]
    command += ["--tolerance", "0.005", "--q-sigma", "0.3"]
    assert main([*command, "--out", str(later)]) == 0
    before = recorded(later)
    assert max(record["draws"][0] for record in before.values()) == 5000
    assert main([*command, "--continue", "4", "--out", str(later)]) == 0
    assert main([*command, "--continue", "4", "--out", str(once)]) == 0
    after = recorded(later)
    assert after == recorded(once)
    for name in ("certificates.csv", "config.json"):
        assert (later / name).read_bytes() == (once / name).read_bytes()
    # What was drawn stays; more came after it, of both laws.
    assert max(record["draws"][0] for record in after.values()) == 20_000
    for index, record in after.items():
        looks = [*record.get("earlier", []), record]
        own = before[index]
        first = looks[len(own.get("earlier", []))]
        assert (first["draws"], first["votes"]) == (own["draws"], own["votes"])
        assert all(look["draws"][0] == look["draws"][1] for look in looks)
    # Without it the run is done, and keeps what it has.
    assert main([*command, "--out", str(later)]) == 0
    assert recorded(later) == after
    assert check.main([str(later)]) == 0
    capsys.readouterr()
    # A run without looks has spent its alpha; one with looks needs a goal.
    plain = ["certify", "--model", model, "--n", "5000", "--stop", "1", "--q-sigma", "0.3"]
    plain += ["--draws", "sound"]
    assert main([*plain, "--out", str(tmp_path / "plain")]) == 0
    for first, out, message in (
        ([*plain, "--tolerance", "0.01", "--continue", "2"], "plain", "spent all of alpha"),
        (plain, "later", "shares alpha among looks"),
    ):
        capsys.readouterr()
        assert main([*first, "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


def test_a_budget_is_spent_where_it_adds_most_and_no_kill_changes_where(
    looked: Path, model: str, start: Start, tmp_path: Path
) -> None:
    budget = IMAGES * N // 4
    command = ["--model", model, *WORK, "--budget", str(budget)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["certify", *command, "--out", str(whole)]) == 0
    draws = [int(row["n"]) for row in rows_of(whole)]
    assert budget - N < sum(draws) <= budget and min(draws) < max(draws)
    for devices in (1, 2):
        process = start([*command, "--out", str(killed), "--batch", "1"], devices)
        if wait_for_more([process], killed, len(record_files(killed))):
            time.sleep(0.1)
        process.kill()
        process.communicate()
    assert main(["certify", *command, "--out", str(killed)]) == 0
    assert recorded(killed) == recorded(whole)
    assert (killed / "certificates.csv").read_bytes() == (whole / "certificates.csv").read_bytes()
    # With radii it is the table that it raises.
    table = ["--model", model, *WORK, "--budget", str(budget), "--radii", *RADII]
    assert main(["certify", *table, "--out", str(tmp_path / "table")]) == 0
    for radius in map(float, RADII):
        reach = [
            sum(float(row["radius_dsrs"]) >= radius for row in rows_of(out))
            for out in (looked, tmp_path / "table")
        ]
        assert abs(reach[0] - reach[1]) <= 1


def test_a_row_at_a_look_has_that_looks_share_of_alpha(looked: Path) -> None:
    """Neyman-Pearson's radius, computed again from the counts of a row."""
    for row in rows_of(looked):
        alpha = 0.001 * float(LOOKS.share(int(row["look"])))
        law = generalized_gaussian(64, float(row["sigma"]), float(row["k"]))
        bound = lower_bound(int(row["votes"]), int(row["n"]), alpha) - sound.charge(law, 240)
        radius = certify(law, np.maximum(bound, 0.0)[None]).radius[0]
        assert float(row["radius_np"]) == pytest.approx(radius, rel=1e-9, abs=1e-12)
