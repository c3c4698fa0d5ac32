"""Published samples through the command, and the radii of the paper's authors as a second opinion.

The study in `made` has images for every case; its intervals come from counts that the tests know.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dsrs_jax.bounds import Bound, interval, lower_bound, recover_votes, threshold
from dsrs_jax.certify import Solver, certify, evaluate
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.run import published_layout as layout
from dsrs_jax.run import published_study
from dsrs_jax.run.main import main
from dsrs_jax.run.published_study import Loaded, Result, StudyOptions
from dsrs_jax.run.settings import LawOptions
from dsrs_jax.votes import State

N, ALPHA, SHARE = 50_000, 0.001, 0.0005
LAW = generalized_gaussian(784, 0.5, 380.0)
MODEL = ["--model-name", "net.pth", "--dataset", "mnist", "--k", "380", "--sigma", "0.5"]

NAMES = ("all", "sigma_0.4", "threshold_x+")

# index: (votes under P, votes under Q of sigma 0.4, draws of each)
COUNTS = {
    0: (49_500, 49_900, N),  # both bind
    10: (45_000, 45_200, N),  # Q's interval holds what the worst classifier gives: P
    20: (45_000, 40_000, N),  # Q's lies below it
    30: (40_000, 49_999, N),  # P is slack
    40: (N, N, N),
    50: (30_000, 0, N),  # no lower bound for Q
    60: (0, 0, N),
    70: (25_000, 49_000, N),  # P's bound is below 1/2
    80: (900, 1_000, 4_000),  # stopped early
    90: (48_000, None, N),  # no line in Q's file
    100: (N - 1, N, N),
}


def published_interval(votes: int, draws: int) -> tuple[float, float]:
    """As the authors' statistics package computes it."""
    found = stats.binomtest(votes, draws).proportion_ci(1 - SHARE, method="exact")
    return found.low, found.high


def write_sample(file: Path, column: int) -> None:
    lines = ["", "x disttype general-gaussian", f"x N {N}", f"x alpha {SHARE}", ""]
    for index, counts in COUNTS.items():
        if counts[column] is not None:
            low, high = published_interval(counts[column], counts[2])
            lines.append(f"o {index} {low} {high}")
    lines.append("o 0 0 0.1")  # a second run: the first line counts
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published")
    sampling = directory / "sampling" / "net.pth"
    write_sample(sampling / f"general-gaussian-380-0.5-{N}-{SHARE}.txt", 0)
    write_sample(sampling / f"general-gaussian-380-0.4-{N}-{SHARE}.txt", 1)
    write_sample(sampling / f"general-gaussian-380-0.5-{N}-{SHARE}-x+.txt", 1)
    return directory


def rows_of(file: Path) -> dict[int, dict[str, str]]:
    with open(file) as stream:
        return {int(row["index"]): row for row in csv.DictReader(stream)}


def certified(directory: Path, out: Path, *more: str) -> dict[int, dict[str, str]]:
    assert main(["published", str(directory), *MODEL, *more, "--out", str(out)]) == 0
    return rows_of(out / "certificates.csv")


def test_every_case_has_its_status_and_a_true_radius(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = certified(made, tmp_path, "--q-sigma", "0.4", "--bounds", "two-sided")
    printed = capsys.readouterr().out
    assert "4 where the paper would use a negative multiplier" in " ".join(printed.split())
    status = {index: row["status"] for index, row in rows.items()}
    expected = {0: "dsrs", 10: "P", 20: "P-below", 30: "Q-below", 50: "no-bound", 60: "none"}
    assert {index: status[index] for index in expected} == expected
    assert status[70] == "Q-below" and status[80] == "none" and status[90] == "unpaired"
    for index, row in rows.items():
        votes, extra, draws = COUNTS[index]
        low = published_interval(votes, draws)[0]
        assert float(row["lower_p"]) == float(str(low))
        q_low = 0.0 if extra is None else published_interval(extra, draws)[0]
        again = certify(LAW, [low], [LAW.with_sigma(0.4)], [[q_low]])
        assert float(row["radius_dsrs"]) == pytest.approx(again.radius[0], abs=1e-12)
        assert float(row["radius_np"]) == certify(LAW, [low]).radius[0]
        assert int(row["votes"]) == (votes if draws == N else -1)


def test_one_sided_bounds_come_from_the_counts_and_certify_more(made: Path, tmp_path: Path) -> None:
    two = certified(made, tmp_path / "two", "--q-sigma", "0.4", "--bounds", "two-sided")
    one = certified(made, tmp_path / "one", "--q-sigma", "0.4")
    for index, row in one.items():
        votes, extra, draws = COUNTS[index]
        if draws == N:
            assert float(row["lower_p"]) == lower_bound(votes, N, SHARE)
            if extra is not None:
                assert int(row["votes_sigma_0.4"]) == extra
                assert float(row["lower_sigma_0.4"]) == lower_bound(extra, N, SHARE)
        else:
            assert row["lower_p"] == two[index]["lower_p"]  # the interval is kept
        assert float(row["radius_dsrs"]) >= float(two[index]["radius_dsrs"])
    assert sum(float(one[i]["radius_dsrs"]) > float(two[i]["radius_dsrs"]) for i in one) >= 7


def test_several_laws_each_alone_and_jointly(made: Path, tmp_path: Path) -> None:
    command = ["published", str(made), *MODEL, "--q-sigma", "0.4", "--q-threshold", "x+"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    alone = [rows_of(tmp_path / f"certificates-{n}.csv") for n in ("sigma_0.4", "threshold_x+")]
    joint = rows_of(tmp_path / "certificates-all.csv")
    for index, (votes, extra, draws) in COUNTS.items():
        truncated, both = alone[1][index], joint[index]
        published_low = published_interval(votes, draws)[0]
        assert float(truncated["quantile_threshold_x+"]) == threshold("x+", published_low)
        if votes >= N - 1:  # the second sample is not Q's
            assert truncated["status"] == "discarded"
            assert truncated["radius_dsrs"] == truncated["radius_np"]
        if draws == N and extra is not None:
            # alpha in three: the counts are bounded anew.
            assert float(both["lower_p"]) == lower_bound(votes, N, ALPHA / 3)
            assert float(both["lower_sigma_0.4"]) == lower_bound(extra, N, ALPHA / 3)
        if draws != N:
            assert float(both["lower_p"]) == 0.0  # holds with the published share of alpha only
    row = joint[0]
    names = ("p", "sigma_0.4", "threshold_x+")
    laws = (
        LAW,
        LAW.with_sigma(0.4),
        LAW.truncated(float(row["quantile_threshold_x+"]), float32=False),
    )
    value, error_bound = evaluate(
        laws,
        [[float(row[f"lower_{name}"]) for name in names]],
        [[float(row[f"multiplier_{name}"]) for name in names]],
        [float(row["radius_dsrs"])],
    )
    assert value - error_bound > 0.5


def test_published_certificates_are_proved_where_their_counts_are_known(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--q-sigma", "0.4", "--q-threshold", "x+", "--bounds", "two-sided", "--prove"]
    out = tmp_path / "out"
    assert main(["published", str(made), *MODEL, *command, "--out", str(out)]) == 0
    for name in NAMES:
        for row in rows_of(out / f"certificates-{name}.csv").values():
            for method in ("np", "dsrs"):
                claimed = float(row[f"radius_{method}"]) > 0
                assert row[f"proof_{method}"] == ("proved" if claimed else "")
    capsys.readouterr()
    # The folder is proved again from its files alone, each under its name.
    assert main(["prove", str(out), "--processes", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed] == [
        f"certificates-{n}.csv" for n in NAMES for _ in range(2)
    ]
    for counted, what in zip(printed[::2], printed[1::2], strict=True):
        assert f": {len(COUNTS)} rows: " in counted and " 0 unproved, " in counted
        assert ": Proved: of " in what
    # An interval of other draws than the file's name says: no counts, no proof, exit code 1.
    other = tmp_path / "other" / "sampling" / "net.pth"
    other.mkdir(parents=True)
    low, high = published_interval(9_000, 10_000)
    known = published_interval(45_000, N)
    lines = [f"o 0 {low} {high}", f"o 1 {known[0]} {known[1]}"]
    (other / f"general-gaussian-380-0.5-{N}-{SHARE}.txt").write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    command = ["published", str(tmp_path / "other"), *MODEL, "--alpha", str(SHARE), "--prove"]
    assert main([*command, "--out", str(tmp_path / "unknown")]) == 1
    assert "counts of votes are not known" in " ".join(capsys.readouterr().out.split())
    rows = rows_of(tmp_path / "unknown" / "certificates.csv")
    assert rows[0]["proof_np"].startswith("unproved: ") and rows[1]["proof_np"] == "proved"
    assert float(rows[0]["radius_np"]) > 0


def test_our_radii_are_written_in_the_published_layout(made: Path, tmp_path: Path) -> None:
    more = ("--q-threshold", "x+", "--search", "grid", "--write-published", str(tmp_path / "w"))
    rows = certified(made, tmp_path / "out", *more)
    study = layout.Study(tmp_path / "w", "net.pth", "general-gaussian", 380, 0.5, N, SHARE)
    plain = layout.read_radii(study.neyman_pearson())
    radii = layout.read_radii(study.double_sampling(threshold="x+"))
    assert radii == {index: float(row["radius_dsrs"]) for index, row in rows.items()}
    assert plain == {index: float(row["radius_np"]) for index, row in rows.items()}
    on_grid = [r for index, r in radii.items() if r > plain[index]]
    assert on_grid and np.allclose(np.array(on_grid) / 0.05, np.round(np.array(on_grid) / 0.05))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--q-sigma", "0.45"], "no general-gaussian-380-0.45-50000-0.0005.txt"),
        (["--q-threshold", "0.8"], "no general-gaussian-380-0.5-50000-0.0005-0.8.txt"),
        (["--q-sigma", "0.4", "--n", "100000"], "no general-gaussian-380-0.5-100000-0.0005.txt"),
        (["--alpha", "0.001"], "no general-gaussian-380-0.5-50000-0.001.txt"),
        (["--q-sigma", "0.4", "--model-name", "other.pth"], "no other.pth"),
        (["--q-sigma", "0.4", "--q-sigma", "0.4"], "twice"),
        (["--q-threshold", "x3"], "x2"),
        (["--q-sigma", "0.4", "--seed", "3"], "unrecognized arguments: --seed 3"),
        (["--q-sigma", "0.4", "--q-inside", "0.5"], "unrecognized arguments: --q-inside 0.5"),
        (["--q-sigma", "0.4", "--dataset", "npz"], "invalid choice: 'npz'"),
        (["--q-sigma", "0.4", "--start", "200"], "--start"),
        (["--q-sigma", "0.4", "--noise", "gaussian"], "k = 0"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["published", str(made), *MODEL, *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("dsrs-jax published: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_what_names_no_study_is_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "no/such/folder", *MODEL]) == 2
    assert "no folder no/such/folder" in capsys.readouterr().err
    assert main(["published", str(made), "--dataset", "mnist"]) == 2
    assert "required: --model-name" in capsys.readouterr().err
    assert main(["published", *MODEL]) == 2
    assert "required: DIR" in capsys.readouterr().err
    assert main(["certify", "--write-published", "DIR"]) == 2
    assert "unrecognized arguments: --write-published DIR" in capsys.readouterr().err


@given(
    st.integers(1, 200_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(1e-6, 0.1),
)
def test_counts_are_recovered_from_intervals(counts: tuple[int, int], alpha: float) -> None:
    votes, draws = counts
    low, high = interval(votes, draws, alpha)
    assert recover_votes([low], [high], draws, alpha) == [votes]
    if high < 1 - 1e-8:  # another upper end is another sample's
        assert recover_votes([low], [min(high + 1e-8, 1.0)], draws, alpha) == [-1]


def load(directory: Path, model: str, dataset: str, k: float, sigma: float, **q: tuple) -> Loaded:
    """A study of the paper's authors."""
    law = LawOptions(sigma=sigma, k=float(k))
    return published_study.load(
        StudyOptions(
            published=str(directory), model_name=f"{model}.pth", dataset=dataset, law=law, **q
        )
    )


def two_sided(loaded: Loaded) -> Result:
    """Certificates from the authors' own bounds."""
    protocol = dataclasses.replace(loaded.protocol, bound=Bound.TWO_SIDED)
    return published_study.certify_with(loaded, [0], protocol)


# Of each dimension and each kind of Q one file and of the x+ rule one: the others are in
# benchmarks/published.py.
FILES = [
    ("cohen-mnist-380-0.50", "mnist", 380, 0.5, {"q_sigma": (0.4,)}),
    ("smoothmix-mnist-380-1.00", "mnist", 380, 1.0, {"q_threshold": ("x+",)}),
    ("consistency-cifar-1530-0.50", "cifar10", 1530, 0.5, {"q_sigma": (0.4,)}),
    ("cohen-cifar-1530-0.50", "cifar10", 1530, 0.5, {"q_threshold": ("0.5",)}),
    ("consistency-imagenet-75260-0.50", "imagenet", 75260, 0.5, {"q_sigma": (0.4,)}),
    ("smoothmix-imagenet-75260-0.50", "imagenet", 75260, 0.5, {"q_threshold": ("x+",)}),
]


@pytest.mark.parametrize(("model", "dataset", "k", "sigma", "q"), FILES)
def test_published_radii_agree(
    published_dir: Path, model: str, dataset: str, k: int, sigma: float, q: dict[str, tuple]
) -> None:
    loaded = load(published_dir, model, dataset, k, sigma, **q)
    two = two_sided(loaded)
    file = published_study.file_of(loaded.study, loaded.extra[0])
    start = layout.read_radii(loaded.study.neyman_pearson())
    found = published_study.compare(two, layout.read_radii(file), start)
    assert found.images + found.left_out == 1000
    # Larger than ours only where the authors took a negative multiplier.
    assert np.all(found.negative[found.above]) and found.above.sum() <= 3
    # Shorter by more than the grid only where P is slack, and their search took a weaker bound.
    slack = np.char.startswith(found.status.astype(str), "Q")
    assert np.mean(found.behind[~slack]) < 0.005
    assert set(two.certificates.dsrs.solver) <= {Solver.FAST, Solver.NONE}

    plain = np.array([start[index] for index in loaded.table.index.tolist()])
    difference = np.abs(two.certificates.neyman_pearson.radius - plain)[plain > 0.0]
    assert np.mean(difference > 1e-5) <= 0.01
    # The authors' table look-up is coarse just above 1/2.
    assert difference.max() < 3e-4

    one = published_study.certify_with(loaded, [0]).certificates
    assert np.all(one.radius >= two.certificates.radius)
    assert one.radius.mean() > two.certificates.radius.mean()
    assert set(one.dsrs.solver) <= {Solver.FAST, Solver.NONE}
    # Votes were not recovered only where the sampler had stopped: at most 1,000 of 4,000.
    table = loaded.table
    unknown = (table.state == State.COMPLETE) & (table.votes < 0)
    assert table.intervals is not None and np.all(table.intervals.high[unknown] < 0.3)


def test_published_radii_above_ours_are_refuted(published_dir: Path) -> None:
    """A classifier with probabilities inside all intervals loses within the published radius."""
    loaded = load(published_dir, "cohen-cifar-1530-0.50", "cifar10", 1530, 0.5, q_sigma=(0.45,))
    found = two_sided(loaded)
    certificates = found.certificates.dsrs
    radii = layout.read_radii(published_study.file_of(loaded.study, loaded.extra[0]))
    row = int(np.flatnonzero(loaded.table.index == 10)[0])
    assert radii[10] > certificates.radius[row] + 0.05 and found.refuted[row]
    # The classifier is right where the shifted density is below h; it is drawn from here.
    weights, radius = certificates.multipliers[row], certificates.radius[row] + 1e-3
    rng, law, draws = np.random.default_rng(0), loaded.table.base, 2_000_000
    extra = law.with_sigma(0.45)

    def log_density(square: np.ndarray, scale: float) -> np.ndarray:
        return -law.k * np.log(square) - square / scale**2 - 2 * law.shape * np.log(scale)

    def right(scale: float, shifted: bool) -> float:
        square = scale**2 * rng.gamma(law.shape, size=draws)
        along = rng.standard_normal(draws)
        cosine = along / np.sqrt(along**2 + rng.chisquare(law.dimension - 1, draws))
        sign = 2.0 if shifted else -2.0
        other = square + radius**2 + sign * np.sqrt(square) * radius * cosine
        own, away = (other, square) if shifted else (square, other)
        h = np.logaddexp(
            np.log(weights[0]) + log_density(own, law.scale),
            np.log(weights[1]) + log_density(own, extra.scale),
        )
        return float(np.mean(log_density(away, law.scale) < h))

    assert loaded.table.intervals is not None
    low, high = loaded.table.intervals.low[row], loaded.table.intervals.high[row]
    noise = 4 * 0.5 / np.sqrt(draws)
    assert low[0] - noise < right(law.scale, False) < high[0]
    assert low[1] - noise < right(extra.scale, False) < high[1]
    assert right(law.scale, True) < 0.5 + noise
