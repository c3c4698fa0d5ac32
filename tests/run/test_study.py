"""dsrs-jax study: names, files, and what a reader finds in them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsrs_jax.run.main import main
from dsrs_jax.study import STUDIES

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--images", "6", "--n", "2000"]


def read(file: Path) -> list[dict[str, str]]:
    with open(file) as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which study? known: dimension, "),
        (["dimensions"], "no study 'dimensions'; known: dimension, "),
        (["toy", "--images", "0"], "--images must be positive, got 0"),
        (["toy", "--alpha", "1"], "--alpha must lie in (0, 1), got 1"),
        (["draws", "--published", "."], "no published radii in .; give the folder with new-radius"),
        (["landscape", "--model", "nowhere"], "no such checkpoint: "),
        (["k", "--dataset", "mnist"], "mnist needs --data-dir, "),
        (["toy", "--out", "a-file"], "cannot make the folder a-file: File exists"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main(["study", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"dsrs-jax study: {message}")
    if "known" in message:
        assert all(name in printed.err for name in [*STUDIES, "all"])


def test_every_study_is_in_the_document() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    part = text[text.index("## study") :]
    assert all(f"| `{name}` |" in part for name in STUDIES)


def test_studies_of_a_model_are_written_and_agree(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["landscape", "p-distribution", "threshold", "draws"]
    out = tmp_path / "studies"
    assert main(["study", *names, "--model", model, *SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for name in names:
        assert f"{name}: " in said
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    bins = read(out / "landscape.csv")
    spread = read(out / "p-distribution.csv")
    assert len(spread) == 6 and len(bins) == 6 * 20
    for row in spread:
        own = [one for one in bins if one["index"] == row["index"]]
        assert sum(int(one["draws"]) for one in own) == int(row["draws"]) == 2000
        assert sum(int(one["votes"]) for one in own) == int(row["votes"])
        assert float(row["p_a_lower_bound"]) <= float(row["p_a_estimate"])
    # More draws, and a larger alpha, never cost radius.
    found = {(int(row["draws"]), float(row["alpha"])): row for row in read(out / "draws.csv")}
    for column in ("neyman_pearson_mean_radius_pixels", "dsrs_mean_radius_pixels"):
        numbers, alphas = sorted({n for n, _ in found}), sorted({alpha for _, alpha in found})
        grid = np.array([[float(found[n, a][column]) for a in alphas] for n in numbers])
        assert np.all(np.diff(grid, axis=0) >= 0.0) and np.all(np.diff(grid, axis=1) >= 0.0)
    rules = {row["second_law"] for row in read(out / "threshold.csv")}
    assert {"the paper's rule x, drawn", "Neyman-Pearson, all 2,000 draws"} <= rules


def test_the_spread_of_published_votes_is_that_of_their_files(
    published_dir: Path, tmp_path: Path
) -> None:
    for part in ("sampling", "new-radius"):
        model = Path(part) / "cohen-mnist-380-0.50.pth"
        shutil.copytree(published_dir / model, tmp_path / model)
    words = ["study", "p-distribution", "--published", str(tmp_path), "--out", str(tmp_path)]
    assert main(words) == 0
    rows = [row for row in read(tmp_path / "p-distribution.csv")
            if row["of"] == "cohen-mnist-380-0.50"]  # fmt: skip
    folder = published_dir / "sampling" / "cohen-mnist-380-0.50.pth"
    lines = (folder / "general-gaussian-380-0.5-50000-0.0005.txt").read_text().splitlines()
    low = {line.split()[1]: float(line.split()[2]) for line in lines if line.startswith("o ")}
    assert len(rows) > 900
    for row in rows:
        # Theirs is the lower end of a two-sided interval at 0.0005.
        assert low[row["index"]] <= float(row["p_a_lower_bound"]) < low[row["index"]] + 0.01
