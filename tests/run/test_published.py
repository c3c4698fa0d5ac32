"""Published samples through the command, and the radii of the paper's authors as a second opinion.

The study in `made` has images for every case; its intervals come from counts that the tests know.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from commands import refused
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
from dsrs_jax.run.settings import ImageOptions, LawOptions
from dsrs_jax.system.folder_lock import held
from dsrs_jax.votes import State

N, ALPHA, SHARE = 50_000, 0.001, 0.0005
LAW = generalized_gaussian(784, 0.5, 380.0)
MODEL = ["--model-name", "net.pth", "--dataset", "mnist", "--k", "380", "--sigma", "0.5"]
NAMES = ("all", "sigma_0.4", "threshold_x+")

# index: (votes under P, votes under Q of sigma 0.4, draws of each), status
COUNTS = {
    0: (49_500, 49_900, N),  # both bind
    10: (45_000, 45_200, N),  # Q's interval holds what the worst classifier gives: P
    20: (45_000, 40_000, N),  # Q's lies below it
    30: (40_000, 49_999, N),  # P is slack
    40: (N, N, N),
    50: (30_000, 0, N),  # no lower bound for Q
    60: (0, 0, N),
    70: (25_000, 49_000, N),  # P's bound is below 1/2
    80: (3_600, 3_616, 4_000),  # of other draws: the counts are not known
    90: (48_000, None, N),  # no line in Q's file
    100: (N - 1, N, N),
}
STATUS = ["dsrs", "P", "P-below", "Q-below", None, "no-bound", "none", "Q-below", "P", "unpaired"]


def published_interval(votes: int, draws: int) -> tuple[float, float]:
    """As the authors' statistics package computes it."""
    found = stats.binomtest(votes, draws).proportion_ci(1 - SHARE, method="exact")
    return found.low, found.high


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published")
    folder = directory / "sampling" / "net.pth"
    folder.mkdir(parents=True)
    for sigma, rule, column in ((0.5, "", 0), (0.4, "", 1), (0.5, "-x+", 1)):
        lines = ["", "x disttype general-gaussian", f"x N {N}", f"x alpha {SHARE}", ""]
        for index, counts in COUNTS.items():
            if counts[column] is not None:
                low, high = published_interval(counts[column], counts[2])
                lines.append(f"o {index} {low} {high}")
        lines.append("o 0 0 0.1\n")  # a second run: the first line counts
        file = folder / f"general-gaussian-380-{sigma}-{N}-{SHARE}{rule}.txt"
        file.write_text("\n".join(lines))
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
    two = certified(made, tmp_path / "two", "--q-sigma", "0.4", "--bounds", "two-sided")
    printed = capsys.readouterr().out
    assert "4 where the paper would use a negative multiplier" in " ".join(printed.split())
    lows = [
        [published_interval(votes, n)[0] for votes, _, n in COUNTS.values()],
        [0.0 if q is None else published_interval(q, n)[0] for _, q, n in COUNTS.values()],
    ]
    again = certify(LAW, lows[0], [LAW.with_sigma(0.4)], [lows[1]])
    radius = [float(row["radius_dsrs"]) for row in two.values()]
    np.testing.assert_allclose(radius, again.radius, rtol=0.0, atol=1e-12)
    assert [float(row["lower_p"]) for row in two.values()] == lows[0]
    alone = certify(LAW, lows[0]).radius.tolist()
    assert [float(row["radius_np"]) for row in two.values()] == alone
    for status, row, (votes, _, draws) in zip(STATUS, two.values(), COUNTS.values(), strict=False):
        assert status in (None, row["status"])
        assert int(row["votes"]) == (votes if draws == N else -1)

    # One-sided bounds come from the counts and certify more.
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


@pytest.mark.slow
def test_several_laws_have_alpha_in_equal_parts_jointly(made: Path, tmp_path: Path) -> None:
    command = ["published", str(made), *MODEL, "--q-sigma", "0.4", "--q-threshold", "x+"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    joint = rows_of(tmp_path / "certificates-all.csv")
    for index, (votes, extra, draws) in COUNTS.items():
        both = joint[index]
        if draws == N and extra is not None:
            # alpha in three: the counts are bounded anew.
            assert float(both["lower_p"]) == lower_bound(votes, N, ALPHA / 3)
            assert float(both["lower_sigma_0.4"]) == lower_bound(extra, N, ALPHA / 3)
        if draws != N:
            assert float(both["lower_p"]) == 0.0  # holds with the published share of alpha only
    row, names = joint[0], ("p", "sigma_0.4", "threshold_x+")
    cut = LAW.truncated(float(row["quantile_threshold_x+"]), float32=False)
    bounds, weights = (
        [[float(row[f"{column}_{name}"]) for name in names]] for column in ("lower", "multiplier")
    )
    radius = [float(row["radius_dsrs"])]
    value, error_bound = evaluate((LAW, LAW.with_sigma(0.4), cut), bounds, weights, radius)
    assert value - error_bound > 0.5


@pytest.mark.process
def test_published_certificates_are_proved_where_their_counts_are_known(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--q-sigma", "0.4", "--q-threshold", "x+", "--bounds", "two-sided", "--prove"]
    assert main(["published", str(made), *MODEL, *more, "--out", str(tmp_path)]) == 1
    assert "counts of votes are not known" in " ".join(capsys.readouterr().out.split())
    unproved = []
    for name in NAMES:
        for index, row in rows_of(tmp_path / f"certificates-{name}.csv").items():
            for method in ("np", "dsrs"):
                claimed, proof = float(row[f"radius_{method}"]) > 0, row[f"proof_{method}"]
                if claimed and COUNTS[index][2] != N:
                    assert proof.startswith("unproved: ")
                    unproved.append(name)
                else:
                    assert proof == ("proved" if claimed else "")
    assert set(unproved) == {"sigma_0.4", "threshold_x+"}
    # The folder is proved again from its files alone, each under its name.
    assert main(["prove", str(tmp_path), "--processes", "1"]) == 1
    printed = [line for line in capsys.readouterr().out.splitlines() if " rows: " in line]
    for name, line in zip(NAMES, printed, strict=True):
        assert line.startswith(f"certificates-{name}.csv: {len(COUNTS)} rows: ")
        assert f" {unproved.count(name)} unproved, " in line


def test_radii_of_a_rule_are_written_in_the_published_layout(made: Path, tmp_path: Path) -> None:
    more = ("--q-threshold", "x+", "--search", "grid", "--write-published", str(tmp_path / "w"))
    rows = certified(made, tmp_path / "out", *more)
    study = layout.Study(tmp_path / "w", "net.pth", "general-gaussian", 380, 0.5, N, SHARE)
    plain = layout.read_radii(study.neyman_pearson())
    radii = layout.read_radii(study.double_sampling(threshold="x+"))
    assert radii == {index: float(row["radius_dsrs"]) for index, row in rows.items()}
    assert plain == {index: float(row["radius_np"]) for index, row in rows.items()}
    on_grid = [r for index, r in radii.items() if r > plain[index]]
    assert on_grid and np.allclose(np.array(on_grid) / 0.05, np.round(np.array(on_grid) / 0.05))
    for index, (votes, _, draws) in COUNTS.items():
        low = published_interval(votes, draws)[0]
        assert float(rows[index]["quantile_threshold_x+"]) == threshold("x+", low)
        if votes >= N - 1:  # the second sample is not Q's
            assert rows[index]["status"] == "discarded" and radii[index] == plain[index]


def test_a_study_that_is_not_there_is_refused_and_nothing_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more, message in (
        (["--q-sigma", "0.45"], "no general-gaussian-380-0.45-50000-0.0005.txt in "),
        (["--q-sigma", "0.45"], "there are: general-gaussian-380-0.4-50000-0.0005.txt, "),
        (["--q-sigma", "0.4", "--model-name", "other.pth"], "no other.pth in "),
        (["--q-threshold", "0.8"], "no general-gaussian-380-0.5-50000-0.0005-0.8.txt"),
        (["--alpha", "0.001"], "no general-gaussian-380-0.5-50000-0.001.txt"),
        (["--q-sigma", "0.4", "--start", "200"], "--start"),
    ):
        refused(capsys, ["published", str(made), *MODEL, *more], message)
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path):
        more = ["--q-sigma", "0.4", "--out", str(tmp_path)]
        refused(capsys, ["published", str(made), *MODEL, *more], "another run is writing in")
    assert [file.name for file in tmp_path.iterdir()] == [".lock-0"]


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


def load(directory: Path, model: str, dataset: str, q: str, **images: int) -> Loaded:
    """A study of the paper's authors; its Q by sigma or by rule."""
    _, _, k, sigma = model.split("-")
    law = LawOptions(sigma=float(sigma), k=float(k))
    sigmas, rules = ((), (q,)) if q in ("x+", "0.5") else ((float(q),), ())
    options = StudyOptions(
        published=str(directory), model_name=f"{model}.pth", dataset=dataset, law=law,
        q_sigma=sigmas, q_threshold=rules, images=ImageOptions(**images),
    )  # fmt: skip
    return published_study.load(options)


def two_sided(loaded: Loaded) -> Result:
    """Certificates from the authors' own bounds."""
    protocol = dataclasses.replace(loaded.protocol, bound=Bound.TWO_SIDED)
    return published_study.certify_with(loaded, [0], protocol)


# Of each dimension and each kind of Q one file and of the x+ rule one: the others are in
# benchmarks/published.py.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset", "q"),
    [
        ("cohen-mnist-380-0.50", "mnist", "0.4"),
        ("smoothmix-mnist-380-1.00", "mnist", "x+"),
        ("consistency-cifar-1530-0.50", "cifar10", "0.4"),
        ("cohen-cifar-1530-0.50", "cifar10", "0.5"),
        ("consistency-imagenet-75260-0.50", "imagenet", "0.4"),
        ("smoothmix-imagenet-75260-0.50", "imagenet", "x+"),
    ],
)
def test_published_radii_agree(published_dir: Path, model: str, dataset: str, q: str) -> None:
    loaded = load(published_dir, model, dataset, q)
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

    plain = np.array([start[index] for index in loaded.table.index.tolist()])
    difference = np.abs(two.certificates.neyman_pearson.radius - plain)[plain > 0.0]
    assert np.mean(difference > 1e-5) <= 0.01
    # The authors' table look-up is coarse just above 1/2.
    assert difference.max() < 3e-4

    one = published_study.certify_with(loaded, [0]).certificates
    assert np.all(one.radius >= two.certificates.radius)
    assert one.radius.mean() > two.certificates.radius.mean()
    assert {*one.dsrs.solver, *two.certificates.dsrs.solver} <= {Solver.FAST, Solver.NONE}
    # Votes were not recovered only where the sampler had stopped: at most 1,000 of 4,000.
    table = loaded.table
    unknown = (table.state == State.COMPLETE) & (table.votes < 0)
    assert table.intervals is not None and np.all(table.intervals.high[unknown] < 0.3)


def test_a_part_of_the_published_radii_agrees_by_the_command(
    published_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "cohen-mnist-380-0.50.pth"
    words = ["--model-name", name, "--q-sigma", "0.4", "--bounds", "two-sided", "--stop", "300"]
    rows = certified(published_dir, tmp_path, *words)
    assert "on 30 images, ours" in capsys.readouterr().out
    for file, column, most in (
        ("orig-radius/{}/orig-rad-general-gaussian-380-0.5-50000-0.0005.txt", "np", 3e-4),
        ("new-radius/{}/new-rad-general-gaussian-380-0.5-0.4-50000-0.0005.txt", "dsrs", 0.05),
    ):
        radii = layout.read_radii(published_dir / file.format(name))
        gain = [float(row[f"radius_{column}"]) - radii[index] for index, row in rows.items()]
        assert min(gain) > -1e-4 and max(gain) < most


def test_published_radii_above_ours_are_refuted(published_dir: Path) -> None:
    """A classifier with probabilities inside all intervals loses within the published radius."""
    loaded = load(published_dir, "cohen-cifar-1530-0.50", "cifar10", "0.45", start=10, stop=11)
    found = two_sided(loaded)
    certificates = found.certificates.dsrs
    radii = layout.read_radii(published_study.file_of(loaded.study, loaded.extra[0]))
    assert radii[10] > certificates.radius[0] + 0.05 and found.refuted[0]
    # The classifier is right where the shifted density is below h; it is drawn from here.
    weights, radius = certificates.multipliers[0], certificates.radius[0] + 1e-3
    rng, law, draws = np.random.default_rng(0), loaded.table.base, 1_000_000
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
    low, high = loaded.table.intervals.low[0], loaded.table.intervals.high[0]
    noise = 4 * 0.5 / np.sqrt(draws)
    assert low[0] - noise < right(law.scale, False) < high[0]
    assert low[1] - noise < right(extra.scale, False) < high[1]
    assert right(law.scale, True) < 0.5 + noise
