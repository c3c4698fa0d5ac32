"""certificates.csv: what is written is read back, number by number."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Bound, Protocol
from dsrs_jax.certify import Certificates, CertificateTable, Solver, Status
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.proof.rows import parse
from dsrs_jax.proof.schema import Fields, LawFields, Method, SoundFields
from dsrs_jax.votes import SoundDraws, VoteTable

LAW = generalized_gaussian(64, 0.5, 28.0)
INSIDE, LOW, HIGH = LAW.truncated(0.5), LAW.truncated(0.9), LAW.truncated(0.95)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_in_the_file_is_the_same_float_when_read_back(value: float) -> None:
    text = schema.text({"index": [3], "radius": [np.float64(value)], "status": ["dsrs"]})
    row = next(csv.DictReader(io.StringIO(text)))
    assert float(row["radius"]) == value and row["status"] == "dsrs" and int(row["index"]) == 3
    # The sign of a zero too.
    assert math.copysign(1.0, float(row["radius"])) == math.copysign(1.0, value)


def test_what_is_not_known_is_written_as_nothing() -> None:
    columns = {"cutoff": [math.nan, 1.5], "votes": [-1, 7], "proof": ["", 'unproved: "g", far']}
    text = schema.text(columns)
    assert text == 'cutoff,votes,proof\n,-1,\n1.5,7,"unproved: ""g"", far"\n'


def table(sound: SoundDraws | None = None) -> CertificateTable:
    """Three images, three laws; a rule picked the last one, P itself for the second image."""
    votes = VoteTable.from_counts(
        (LAW, INSIDE, (LOW, LAW, HIGH)),
        [[900, 460, 980], [1000, 500, 999], [-1, 450, 970]],
        [[1000, 501, 1000], [1000, 500, 1000], [-1, 499, 1000]],
        names=("p", "inside_0.5", "threshold_x+"), index=[0, 10, 20], label=[7, 8, 9],
    )  # fmt: skip
    votes = dataclasses.replace(votes, sound=sound)
    weights = np.arange(1.0, 10.0).reshape(3, 3)
    lower = np.array([[0.85, 0.9, 0.95], [0.99, 0.98, 0.97], [0.1, 0.2, 0.3]])
    status = [Status.DSRS, Status.POOLED, Status.NONE]

    def certificates(laws: tuple, scale: float) -> Certificates:
        return Certificates(
            laws=laws, bounds=lower[:, : len(laws)], radius=scale * np.array([0.25, 0.5, 0.0]),
            multipliers=scale * weights[:, : len(laws)], value=np.array([0.5, 0.6, 0.7]),
            error_bound=np.array([1e-9, 1e-8, 1e-7]),
            solver=np.array([Solver.FAST, Solver.REFERENCE, Solver.NONE], dtype=object),
        )  # fmt: skip

    return CertificateTable(
        votes=votes, protocol=Protocol(0.003, Bound.TWO_SIDED),
        neyman_pearson=certificates(votes.laws[:1], 0.5), dsrs=certificates(votes.laws, 1.0),
        lower=lower, status=np.array(status, dtype=object),
    )  # fmt: skip


@pytest.mark.parametrize("sound", [None, SoundDraws(240, np.array([3, 0, 0]))])
def test_a_table_is_read_back_from_its_text(sound: SoundDraws | None) -> None:
    made = table(sound)
    p, inside, low = [made.votes.charge(j)[0] for j in range(3)]
    assert {charge > 0.0 for charge in (p, inside, low)} == {sound is not None}
    rows, names = parse(schema.text(schema.columns(made)), "the table")
    assert names == ["inside_0.5", "threshold_x+"]
    assert [row.place for row in rows] == [f"row {i + 1} (index {10 * i})" for i in range(3)]
    assert all(row.wrong is None for row in rows)
    first = Fields(
        method=Method.DSRS, radius=0.25, alpha=0.003, share_p=0.5, look=None,
        sides=2, pooled=False, all_right=False, ceiling=None, dimension=64, k=28.0, eta=2.0,
        laws=(
            LawFields("p", 0.5, None, None, 900, 1000, 1.0, p),
            LawFields("inside_0.5", 0.5, INSIDE.cutoff, INSIDE.quantile, 460, 501, 2.0, inside),
            LawFields("threshold_x+", 0.5, LOW.cutoff, LOW.quantile, 980, 1000, 3.0, low),
        ),
        sound=None if sound is None else SoundFields(240, 1e-13, 3),
    )  # fmt: skip
    assert schema.read(rows[0].fields, names, Method.DSRS) == first
    laws = (
        LawFields("p", 0.5, None, None, 1000, 1000, 4.0, p),
        LawFields("inside_0.5", 0.5, INSIDE.cutoff, INSIDE.quantile, 500, 500, 5.0, inside),
        LawFields("threshold_x+", 0.5, None, None, 999, 1000, 6.0, p),
    )
    odd = None if sound is None else SoundFields(240, 1e-13, 0)
    second = dataclasses.replace(first, radius=0.5, pooled=True, laws=laws, sound=odd)
    assert schema.read(rows[1].fields, names, Method.DSRS) == second
    alone = (LawFields("p", 0.5, None, None, 900, 1000, 0.5, p),)
    plain = dataclasses.replace(first, method=Method.NEYMAN_PEARSON, radius=0.125, laws=alone)
    assert schema.read(rows[0].fields, names, Method.NEYMAN_PEARSON) == plain
    assert all(schema.read(rows[2].fields, names, method) is None for method in Method)


def test_every_row_says_all_that_it_follows_from() -> None:
    made = table()
    columns = schema.columns(made)
    per_law = ["sigma", "cutoff", "quantile", "draws", "votes", "charge", "lower"]
    assert list(columns) == [
        "index", "label", "true_label", "label_from", "n0", "votes_n0",
        "n", "votes", "seed", "compared", "draws", "grid", "rounding", "ambiguous", "charge_p",
        "dimension", "sigma", "k", "eta", "bounds", "alpha_np",
        "alpha_dsrs", "share_p", "planned", "look", "lower_np", "lower_p",
        *(f"{what}_{name}" for name in ("inside_0.5", "threshold_x+") for what in per_law),
        "radius_np", "radius_dsrs", "multiplier_np", "multiplier_p", "multiplier_inside_0.5",
        "multiplier_threshold_x+", "ceiling", "ceiling_multiplier", "value", "error_bound",
        "status", "solver",
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(schema.text(columns))))
    expected = {
        "index": "10", "label": "8", "true_label": "8", "label_from": "given", "n0": "",
        "n": "1000", "votes": "1000", "bounds": "two-sided",
        "lower_np": "0.99", "lower_p": "0.99", "lower_threshold_x+": "0.97",
        "cutoff_threshold_x+": "", "quantile_threshold_x+": "", "draws_inside_0.5": "500",
        "radius_np": "0.25", "status": "pooled", "solver": "reference", "error_bound": "1e-08",
    }  # fmt: skip
    assert {name: rows[1][name] for name in expected} == expected
    assert rows[2]["solver"] == "" and rows[2]["votes"] == rows[2]["n"] == "-1"
    # Proofs come last, and only where they were made.
    proved = made.proved([made.neyman_pearson.radius, made.radius], [["proved", "", ""]] * 2)
    assert list(schema.columns(proved)) == [*columns, "proof_np", "proof_dsrs"]
    paper = Protocol(0.003, paper_baseline=True, base_share=None)
    paper_columns = schema.columns(dataclasses.replace(made, protocol=paper))
    assert set(paper_columns["alpha_np"]) == {0.003 * (1 / 3)}
