"""Proofs in ball arithmetic: balls hold what two other ways compute; tampering is refused."""

import csv
import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import thirty_digits
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax import report
from dsrs_jax.certify import certify, certify_votes, proof, reference
from dsrs_jax.certify.enclosure import Family, Law, enclose, lower_bound
from dsrs_jax.certify.proof import PROVED, Claim
from dsrs_jax.noise import RadialLaw, generalized_gaussian

N, ALPHA = 50_000, 0.001
ROOT = Path(__file__).resolve().parents[2]


def family_of(laws: tuple[RadialLaw, ...]) -> Family:
    own = tuple(Law(float(law.sigma), law.cutoff) for law in laws)
    return Family(laws[0].dimension, float(laws[0].k), float(laws[0].eta), own)


def holds(ball: arb, value: mpmath.mpf) -> bool:
    with ctx.workprec(120):
        return ball.contains(arb(mpmath.nstr(value, 25)))


def claims_of(
    dimension: int, k: float, extra: list[str], rows: int = 4, eta: float = 2.0
) -> list[tuple[tuple[RadialLaw, ...], Claim]]:
    """Certificates of the fast path from random votes, with their laws."""
    rng = np.random.default_rng([dimension, int(k), len(extra)])
    law = generalized_gaussian(dimension, 0.5, k, eta)
    laws = [law.truncated(0.7) if kind == "truncated" else law.with_sigma(0.4) for kind in extra]
    wrong = 10 ** rng.uniform(-3, -0.6, rows)
    votes = np.round(N * (1 - wrong)).astype(int)
    more = [np.round(N * (1 - wrong * rng.uniform(0.1, 0.9, rows))).astype(int) for _ in laws]
    made = certify_votes(law, votes, N, laws, more, [N] * len(laws), alpha=ALPHA)
    size = 1 + len(laws)
    return [
        (
            (law, *laws),
            Claim(
                family_of((law, *laws)),
                tuple(int(column[i]) for column in (votes, *more)),
                (N,) * size,
                ALPHA,
                size,
                tuple(made.multipliers[i].tolist()),
                float(made.radius[i]),
            ),
        )
        for i in np.flatnonzero(made.radius > 0)
    ]


@pytest.mark.parametrize(
    ("dimension", "k", "extra", "far"),
    [
        (784, 380.0, ["sigma"], True),
        (150_528, 75_260.0, ["truncated"], False),
        (150_528, 0.0, ["truncated"], True),
    ],
)
def test_the_ball_holds_thirty_digits(
    dimension: int, k: float, extra: list[str], far: bool
) -> None:
    """At the optimum and away from it; benchmarks/proof.py does 500."""
    laws, claim = claims_of(dimension, k, extra)[0]
    rng = np.random.default_rng(dimension)
    multipliers = [w * (1 + far * rng.uniform(-0.5, 2)) for w in claim.multipliers]
    radius = claim.radius * (0.8 if far else 1.0)
    bounds = rng.uniform(0.6, 0.999, len(laws)).tolist()
    ball = enclose(claim.family, [arb(p) for p in bounds], multipliers, radius)
    assert holds(ball, thirty_digits.g(laws, bounds, multipliers, radius))
    assert float(ball.rad()) < 1e-12


@settings(max_examples=40)
@given(
    st.sampled_from([2, 3, 8, 64, 784, 150_528]),
    st.floats(0.1, 3.0),
    st.floats(0.05, 3.0),
    st.floats(0.1, 4.0),
)
def test_gaussian_closed_form(dimension: int, sigma: float, shift: float, deviate: float) -> None:
    """max over lambda of g is Phi(Phi^-1(p) - r/sigma): Cohen et al. (ICML 2019)."""
    radius = shift * sigma
    family = Family(dimension, 0.0, 2.0, (Law(sigma),))
    r = mpmath.mpf(radius) / mpmath.mpf(sigma)
    weight = float(mpmath.exp(r * deviate - r * r / 2))
    p = mpmath.ncdf(deviate)
    with ctx.workprec(140):
        bound = arb(mpmath.nstr(p, 35))
    ball = enclose(family, [bound], [weight], radius)
    # A multiplier rounded to a float changes g in second order: by 1e-31.
    assert holds(ball, mpmath.ncdf(deviate - r))
    # In the smallest dimensions the integrator may give up at a corner: wide, never wrong.
    assert float(ball.rad()) < 1e-11 or dimension < 8


@pytest.mark.parametrize("dimension", [8, 20, 64])
def test_any_multipliers_and_any_number_of_laws(dimension: int) -> None:
    """Against SciPy, where mpmath's evaluation does not reach: corners, J = 4, other eta."""
    rng = np.random.default_rng(dimension)
    for eta, k in ((2.0, 0.0), (1.0, 0.3 * dimension), (3.0, 0.45 * dimension)):
        law = generalized_gaussian(dimension, 0.5, k, eta)
        laws = (law, *(law.truncated(b) for b in (0.2, 0.4, 0.8)), law.with_sigma(0.45))
        weights = 10 ** rng.uniform(-1, 2, 5) * (rng.random(5) < 0.8)
        weights[1] = 1.0
        radius = float(rng.uniform(0.05, 1.0))
        ball = enclose(family_of(laws), [arb(1)] * 5, weights.tolist(), radius)
        outside, moved = reference.integrals(laws, weights, radius)
        assert float(ball) == pytest.approx(float(weights @ outside + moved), abs=1e-8)
        assert float(ball.rad()) < 1e-11


@settings(max_examples=25)
@given(
    st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.floats(1e-9, 0.4),
    st.integers(1, 5),
)
def test_bounds_are_below_the_exact_ones_and_next_to_them(
    counts: tuple[int, int], alpha: float, parts: int
) -> None:
    votes, draws = counts
    bound = lower_bound(votes, draws, alpha, parts)
    mantissa, exponent = bound.man_exp()
    p = mpmath.mpf(int(mantissa)) * mpmath.mpf(2) ** int(exponent)
    wanted = mpmath.mpf(alpha) / parts

    def tail(p: mpmath.mpf) -> mpmath.mpf:
        a, b = votes, draws - votes + 1
        if votes == draws:
            return p**draws
        if 2 * votes > draws:
            return 1 - mpmath.betainc(b, a, 0, 1 - p, regularized=True)
        return mpmath.betainc(a, b, 0, p, regularized=True)

    assert tail(p) < wanted
    assert tail(p + (1 - p) * mpmath.mpf(10) ** -14) > wanted


TAMPERED = {
    "radius": lambda c: dataclasses.replace(c, radius=c.radius * 1.001),
    "multiplier": lambda c: dataclasses.replace(
        c, multipliers=tuple(w * (1.5 if w == max(c.multipliers) else 1) for w in c.multipliers)
    ),
    "votes": lambda c: dataclasses.replace(
        c,
        votes=tuple(
            v - (w == max(c.multipliers)) for v, w in zip(c.votes, c.multipliers, strict=True)
        ),
    ),
    "alpha": lambda c: dataclasses.replace(c, alpha=c.alpha / 2),
}


@pytest.mark.parametrize("extra", [[], ["sigma"], ["truncated"], ["sigma", "truncated"]])
def test_certificates_are_proved_and_tampered_ones_are_refused(extra: list[str]) -> None:
    for _, claim in claims_of(784, 380.0, extra):
        radius, result = proof.shrunk(claim)
        assert result == PROVED and claim.radius * (1 - 1e-7) < radius <= claim.radius
        for name, change in TAMPERED.items():
            assert proof.prove(change(claim)).startswith("g is"), name


def test_a_radius_that_is_too_long_by_rounding_is_shortened() -> None:
    _, claim = claims_of(784, 380.0, ["truncated"])[0]
    long = dataclasses.replace(claim, radius=claim.radius * (1 + 1e-8))
    assert proof.prove(long) != PROVED
    radius, result = proof.shrunk(long)
    assert result == PROVED and claim.radius * (1 - 3e-8) < radius < long.radius
    wrong = dataclasses.replace(claim, radius=claim.radius * 1.1)
    assert proof.shrunk(wrong)[0] == wrong.radius and "below 1/2" in proof.shrunk(wrong)[1]


def test_numbers_outside_their_domain_are_refused() -> None:
    good = Family(64, 0.0, 2.0, (Law(0.5),))
    for changes in (
        {"k": 32.0}, {"k": -1.0}, {"eta": 0.0}, {"dimension": 1}, {"laws": (Law(0.0),)},
        {"laws": (Law(0.5, 1.0),)}, {"laws": (Law(0.5), Law(float("nan")))}, {"k": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            dataclasses.replace(good, **changes)
    for multipliers, radius in (
        ([-1.0], 0.1), ([0.0], 0.1), ([float("nan")], 0.1), ([float("inf")], 0.1),
        ([1.0], 0.0), ([1.0], float("nan")), ([1.0], float("inf")),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            enclose(good, [arb(0.9)], multipliers, radius)


@pytest.fixture(scope="module")
def table() -> str:
    """certificates.csv of six images, the last of radius 0."""
    law = generalized_gaussian(784, 0.5, 380.0)
    extra = law.truncated(0.7)
    votes = np.array([49_900, 49_000, 45_000, 40_000, 30_000, 20_000])
    inside = np.array([49_990, 49_500, 46_000, 43_000, 33_000, 20_000])
    plain = certify_votes(law, votes, N, alpha=ALPHA)
    joint = certify_votes(law, votes, N, [extra], [inside], [N], alpha=ALPHA)
    evidence = [
        report.Evidence("inside_0.7", np.full(6, N), inside, joint.bounds[:, 1]),
    ]
    columns = {"index": list(range(0, 60, 10)), "n": [N] * 6, "votes": votes}
    columns |= report.certificate_columns(
        plain, joint, joint.radius, joint.status, evidence,
        bounds="one-sided", alpha_np=ALPHA, alpha_dsrs=ALPHA,
    )  # fmt: skip
    return report.csv_text(columns)


def edited(table: str, row: int, **fields: str) -> str:
    rows = list(csv.DictReader(io.StringIO(table)))
    rows[row] |= fields
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def verdict(
    text: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    file = tmp_path / "certificates.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    code = proof.main([str(file), "--processes", "1"])
    return code, capsys.readouterr().out


def test_a_file_is_proved(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = verdict(table, tmp_path, capsys)
    assert code == 0
    assert printed == "6 rows: 10 radii proved, 0 unproved, 2 are 0 and claim nothing\n"
    # The bounds and g of the fast path are not believed, nor are they needed.
    poorer = edited(table, 1, lower_p="nonsense", value="0")
    assert verdict(poorer, tmp_path, capsys)[0] == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"radius_dsrs": "9.0"}, "below 1/2"),
        ({"radius_dsrs": "nan"}, "radius_dsrs is nan"),
        ({"radius_np": "-1"}, "negative"),
        ({"radius_np": "x"}, "not a number"),
        ({"multiplier_inside_0.7": "-0.5"}, "multiplier is negative"),
        ({"multiplier_np": "inf"}, "multiplier_np is inf"),
        ({"multiplier_np": "0"}, "all multipliers are 0"),
        ({"votes_inside_0.7": "60000"}, "impossible counts"),
        ({"votes_inside_0.7": "-1"}, "not known"),
        ({"votes": "48999.5"}, "not a whole number"),
        ({"k": "400"}, "k is outside"),
        ({"sigma": "0"}, "sigma is outside"),
        ({"cutoff_inside_0.7": "-3"}, "cutoff is outside"),
        ({"alpha_dsrs": "0"}, "alpha_dsrs is outside"),
        ({"bounds": "none"}, "one-sided or two-sided"),
        ({"bounds": "two-sided"}, "below 1/2"),
        ({"status": "pooled"}, "pooled"),
    ],
)
def test_a_damaged_row_is_told_and_nothing_else_is_lost(
    table: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, str],
    reason: str,
) -> None:
    code, printed = verdict(edited(table, 1, **fields), tmp_path, capsys)
    assert code == 1
    lines = printed.splitlines()
    assert all(line.startswith("unproved: row 2 (index 10)") for line in lines[:-1])
    assert any(reason in line for line in lines[:-1])
    proved = 10 - len(lines[:-1])
    assert lines[-1].startswith(f"6 rows: {proved} radii proved") and proved >= 8


def test_lines_that_are_cut_or_garbled(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table.splitlines(keepends=True)
    quoted = [*lines[:2], '"' + lines[2], *lines[3:]]
    code, printed = verdict("".join(quoted), tmp_path, capsys)
    assert code == 1 and "8 radii proved, 1 unproved" in printed and "row 2" in printed
    code, printed = verdict(table[:-4], tmp_path, capsys)
    assert code == 1 and "row 6" in printed and "10 radii proved, 1 unproved" in printed
    code, printed = verdict("".join(lines[:4]) + lines[4][:30], tmp_path, capsys)
    assert code == 1 and "row 4" in printed and "6 radii proved, 1 unproved" in printed
    garbled = table.encode().splitlines(keepends=True)
    garbled[3] = b"\xff\x00\xfe" + garbled[3][:40] + b"\n"
    code, printed = verdict(b"".join(garbled), tmp_path, capsys)
    assert code == 1 and "row 3" in printed and "8 radii proved, 1 unproved" in printed


def test_what_is_no_file_of_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("index,radius\n0,1.0\n")
    for file, message in ((tmp_path / "none.csv", "cannot read"), (other, "no column dimension")):
        assert proof.main([str(file)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


def test_twice_the_draws_of_p() -> None:
    law = generalized_gaussian(784, 0.5, 380.0)
    bound = lower_bound(2 * N - 3, 2 * N, ALPHA, 2)
    made = certify(law, [float(bound) * (1 - 1e-15)])
    row = {
        "dimension": "784", "sigma": "0.5", "k": "380", "eta": "2", "bounds": "one-sided",
        "alpha_np": "0.001", "alpha_dsrs": "0.001", "n": str(N), "votes": str(N),
        "status": "pooled", "radius_np": "0", "radius_dsrs": repr(float(made.radius[0])),
        "multiplier_np": "0", "multiplier_p": repr(float(made.multipliers[0, 0])),
        "sigma_threshold_x+": "0.5", "cutoff_threshold_x+": "", "multiplier_threshold_x+": "0",
        "votes_threshold_x+": str(N - 3), "draws_threshold_x+": str(N),
    }  # fmt: skip
    claim = proof.read(row, proof.law_names(row), "dsrs")
    assert claim is not None and proof.prove(claim) == PROVED
    assert proof.read(row, proof.law_names(row), "np") is None
    # A first draw that was wrong, or a second sample of another law: not this protocol.
    for change in ({"votes": str(N - 1)}, {"cutoff_threshold_x+": "5.0"}):
        with pytest.raises(ValueError, match="pooled"):
            proof.read(row | change, proof.law_names(row), "dsrs")
    # The same law drawn for another reason has P's own first draws: it is no second sample.
    repeated = {name.replace("threshold_x+", "sigma_0.5"): value for name, value in row.items()}
    with pytest.raises(ValueError, match="pooled"):
        proof.read(repeated, proof.law_names(repeated), "dsrs")


def test_a_column_that_stands_twice_is_refused(table: str, tmp_path: Path) -> None:
    file = tmp_path / "certificates.csv"
    file.write_text("\n".join(f"{line},{line.split(',')[0]}" for line in table.splitlines()) + "\n")
    with pytest.raises(proof.NoCertificates, match="two columns of one name"):
        proof.check(file)


def test_a_ball_without_end_proves_nothing() -> None:
    for ball in (arb.pos_inf(), arb.nan(), arb(0, 1) / 0, arb(0.75, arb.pos_inf())):
        assert proof.verdict(ball) == "g could not be enclosed"
    assert proof.verdict(arb(0.75, 0.2)) == PROVED
    assert proof.verdict(arb(0.75, 0.3)).startswith("g is")


def test_the_checker_needs_neither_jax_nor_numpy(table: str, tmp_path: Path) -> None:
    file = tmp_path / "certificates.csv"
    file.write_text(table)
    blocked = tmp_path / "blocked"
    for name in ("jax", "jaxlib", "numpy", "scipy", "flax", "rich", "jaxtyping"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('not installed here')\n")
    finished = subprocess.run(
        [sys.executable, "-m", "dsrs_jax.certify.proof", str(file), "--processes", "2"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{blocked}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert "10 radii proved, 0 unproved" in finished.stdout and finished.stderr == ""
