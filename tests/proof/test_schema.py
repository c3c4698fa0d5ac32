"""certificates.csv: what is written is read back, number by number."""

import csv
import dataclasses
import io
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Bound, Protocol
from dsrs_jax.certify import Certificates, CertificateTable, Solver, Status
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.proof.rows import parse
from dsrs_jax.proof.schema import Fields, LawFields, Method, SoundFields
from dsrs_jax.votes import SoundDraws, VoteTable

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LAW = generalized_gaussian(64, 0.5, 28.0)
INSIDE, LOW, HIGH = LAW.truncated(0.5), LAW.truncated(0.9), LAW.truncated(0.95)


@given(value=FLOATS)
def test_a_float_in_the_file_is_the_same_float_when_read_back(value: float) -> None:
    text = schema.text({"index": [3], "radius": [np.float64(value)], "status": ["dsrs"]})
    row = next(csv.DictReader(io.StringIO(text)))
    assert float(row["radius"]) == value and row["status"] == "dsrs" and int(row["index"]) == 3
    # The sign of a zero too.
    assert math.copysign(1.0, float(row["radius"])) == math.copysign(1.0, value)


def test_what_is_not_known_stands_as_nothing() -> None:
    columns = {"cutoff": [math.nan, 1.5], "votes": [-1, 7], "proof": ["", 'unproved: "g", far']}
    text = schema.text(columns)
    assert text == 'cutoff,votes,proof\n,-1,\n1.5,7,"unproved: ""g"", far"\n'


def table(
    radius: list[float],
    multipliers: list[list[float]],
    status: list[Status],
    sound: SoundDraws | None = None,
) -> CertificateTable:
    """Three images, three laws; a rule picked the last one, P itself for the second image."""
    votes = VoteTable.from_counts(
        (LAW, INSIDE, (LOW, LAW, HIGH)),
        [[900, 460, 980], [1000, 500, 999], [-1, 450, 970]],
        [[1000, 501, 1000], [1000, 500, 1000], [-1, 499, 1000]],
        names=("p", "inside_0.5", "threshold_x+"), index=[0, 10, 20], label=[7, 8, 9],
    )  # fmt: skip
    votes = dataclasses.replace(votes, sound=sound)
    weights = np.array(multipliers)
    lower = np.array([[0.85, 0.9, 0.95], [0.99, 0.98, 0.97], [0.1, 0.2, 0.3]])

    def certificates(weights: np.ndarray, laws: tuple) -> Certificates:
        return Certificates(
            laws=laws, bounds=lower[:, : len(laws)], radius=np.array(radius), multipliers=weights,
            value=np.array([0.5, 0.6, 0.7]), error_bound=np.array([1e-9, 1e-8, 1e-7]),
            solver=np.array([Solver.FAST, Solver.REFERENCE, Solver.NONE], dtype=object),
        )  # fmt: skip

    return CertificateTable(
        votes=votes, protocol=Protocol(0.003, Bound.TWO_SIDED),
        neyman_pearson=certificates(weights[:, :1], votes.laws[:1]),
        dsrs=certificates(weights, votes.laws), lower=lower, status=np.array(status, dtype=object),
    )  # fmt: skip


@given(
    radius=st.lists(st.floats(1e-12, 1e3), min_size=3, max_size=3),
    weights=st.lists(
        st.lists(st.floats(1e-300, 1e300), min_size=3, max_size=3), min_size=3, max_size=3
    ),
    sound=st.sampled_from([None, SoundDraws(240, np.array([3, 0, 0]))]),
)
def test_a_table_is_read_back_from_its_text(
    radius: list[float], weights: list[list[float]], sound: SoundDraws | None
) -> None:
    radius[2] = 0.0
    made = table(radius, weights, [Status.DSRS, Status.POOLED, Status.NONE], sound)
    charges = [made.votes.charge(j)[0] for j in range(3)]
    assert [charge > 0.0 for charge in charges] == [sound is not None] * 3
    rows, names = parse(schema.text(schema.columns(made)), "the table")
    assert names == ["inside_0.5", "threshold_x+"]
    assert [row.place for row in rows] == [f"row {i + 1} (index {10 * i})" for i in range(3)]
    assert all(row.wrong is None for row in rows)
    first, second = weights[:2]
    assert schema.read(rows[0].fields, names, Method.DSRS) == Fields(
        method=Method.DSRS, radius=radius[0], alpha=0.003, share_p=0.5, look=None,
        sides=2, pooled=False, all_right=False, ceiling=None, dimension=64, k=28.0, eta=2.0,
        laws=(
            LawFields("p", 0.5, None, None, 900, 1000, first[0], charges[0]),
            LawFields(
                "inside_0.5", 0.5, INSIDE.cutoff, INSIDE.quantile, 460, 501, first[1], charges[1]
            ),
            LawFields(
                "threshold_x+", 0.5, LOW.cutoff, LOW.quantile, 980, 1000, first[2], charges[2]
            ),
        ),
        sound=None if sound is None else SoundFields(240, 1e-13, 3),
    )  # fmt: skip
    assert schema.read(rows[1].fields, names, Method.DSRS) == Fields(
        method=Method.DSRS, radius=radius[1], alpha=0.003, share_p=0.5, look=None,
        sides=2, pooled=True, all_right=False, ceiling=None, dimension=64, k=28.0, eta=2.0,
        laws=(
            LawFields("p", 0.5, None, None, 1000, 1000, second[0], charges[0]),
            LawFields(
                "inside_0.5", 0.5, INSIDE.cutoff, INSIDE.quantile, 500, 500, second[1], charges[1]
            ),
            LawFields("threshold_x+", 0.5, None, None, 999, 1000, second[2], charges[0]),
        ),
        sound=None if sound is None else SoundFields(240, 1e-13, 0),
    )  # fmt: skip
    plain = schema.read(rows[0].fields, names, Method.NEYMAN_PEARSON)
    assert plain is not None and not plain.pooled
    assert (plain.radius, plain.alpha) == (radius[0], 0.003)
    assert plain.laws == (LawFields("p", 0.5, None, None, 900, 1000, first[0], charges[0]),)
    assert all(schema.read(rows[2].fields, names, method) is None for method in Method)


def test_every_row_says_all_that_it_follows_from() -> None:
    made = table([0.25, 0.5, 0.0], [[1.0, 2.0, 3.0]] * 3, [Status.DSRS] * 3)
    columns = schema.columns(made)
    per_law = ["sigma", "cutoff", "quantile", "draws", "votes", "charge", "lower"]
    assert list(columns) == [
        "index", "label", "true_label", "label_from", "n0", "votes_n0",
        "n", "votes", "draws", "grid", "rounding", "ambiguous", "charge_p",
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
        "radius_np": "0.5", "status": "dsrs", "solver": "reference", "error_bound": "1e-08",
    }  # fmt: skip
    assert {name: rows[1][name] for name in expected} == expected
    assert rows[2]["solver"] == "" and rows[2]["votes"] == rows[2]["n"] == "-1"
    assert [float(row["quantile_threshold_x+"] or "nan") for row in (rows[0], rows[2])] == [
        LOW.quantile,
        HIGH.quantile,
    ]
    # Proofs come last, and only where they were made.
    proved = made.proved([made.neyman_pearson.radius, made.radius], [["proved", "", ""]] * 2)
    assert list(schema.columns(proved)) == [*columns, "proof_np", "proof_dsrs"]
    paper = dataclasses.replace(
        made, protocol=Protocol(0.003, paper_baseline=True, base_share=None)
    )
    assert set(schema.columns(paper)["alpha_np"]) == {0.003 * (1 / 3)}
