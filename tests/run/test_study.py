"""dsrs-jax study: its files, and what a reader finds in them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT

from dsrs_jax.run.main import main
from dsrs_jax.study import STUDIES
from dsrs_jax.study.toy import P_A, Q_A


def read(file: Path) -> list[dict[str, str]]:
    with open(file) as stream:
        return list(csv.DictReader(stream))


def test_every_study_is_in_the_document() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    part = text[text.index("## study") :]
    assert all(f"| `{name}` |" in part for name in STUDIES)


def test_the_worst_classifier_of_the_toy_has_its_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "toy", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("toy: radius at P_A = 0.7, Q_A = 0.999, in σ: ")
    # A study of formulas makes no model.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["toy.csv", "toy.png"]
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    alone, both = (
        {name: float(cell) for name, cell in row.items() if cell and name != "method"}
        for row in read(tmp_path / "toy.csv")
    )
    for row in (alone, both):
        assert abs(row["worst_under_p_on_grid"] - P_A) < 2e-3
        assert abs(row["worst_moved_on_grid"] - 0.5) < 2e-3
    assert abs(both["worst_under_q_on_grid"] - Q_A) < 2e-3
    np.testing.assert_allclose(alone["radius_in_sigma"], 0.524400512708, rtol=1e-8)
    assert both["radius_in_sigma"] > alone["radius_in_sigma"]


@pytest.mark.slow
def test_studies_of_a_model_are_written_and_agree(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["landscape", "p-distribution", "draws"]
    words = ["--images", "6", "--n", "2000", "--model", model, "--out", str(tmp_path)]
    assert main(["study", *names, *words]) == 0
    printed = capsys.readouterr().out
    for name in names:
        assert f"{name}: " in printed
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    bins, spread = read(tmp_path / "landscape.csv"), read(tmp_path / "p-distribution.csv")
    assert len(spread) == 6 and len(bins) == 6 * 20
    for row in spread:
        own = [one for one in bins if one["index"] == row["index"]]
        assert sum(int(one["draws"]) for one in own) == int(row["draws"]) == 2000
        assert sum(int(one["votes"]) for one in own) == int(row["votes"])
        assert float(row["p_a_lower_bound"]) <= float(row["p_a_estimate"])


def test_the_spread_of_published_votes_is_that_of_their_files(
    published_dir: Path, tmp_path: Path
) -> None:
    for part in ("sampling", "new-radius"):
        model = Path(part) / "cohen-mnist-380-0.50.pth"
        shutil.copytree(published_dir / model, tmp_path / model)
    words = ["study", "p-distribution", "--published", str(tmp_path), "--out", str(tmp_path)]
    assert main(words) == 0
    rows = read(tmp_path / "p-distribution.csv")
    assert {row["of"] for row in rows} == {"cohen-mnist-380-0.50"} and len(rows) > 900
    folder = published_dir / "sampling" / "cohen-mnist-380-0.50.pth"
    lines = (folder / "general-gaussian-380-0.5-50000-0.0005.txt").read_text().splitlines()
    low = {line.split()[1]: float(line.split()[2]) for line in lines if line.startswith("o ")}
    for row in rows:
        # Theirs is the lower end of a two-sided interval at 0.0005.
        assert low[row["index"]] <= float(row["p_a_lower_bound"]) < low[row["index"]] + 0.01
