"""What a training run left on disk, damaged: told in one line, and nothing is changed."""

from pathlib import Path

import numpy as np
import pytest

from dsrs_jax.system.errors import UserError
from dsrs_jax.train.record import EpochInfo, TrainingRun

RECIPE = {"sigma": 0.5, "epochs": 3}


def _state(epochs: int) -> dict[str, np.ndarray]:
    return {"weights": np.full(4, epochs, dtype=np.float32)}


def _train(path: Path, first: int, last: int) -> None:
    """Epochs first ... last - 1, of two steps each."""
    with _continued(path) as run:
        assert run.steps == 2 * first
        for epoch in range(first, last):
            run.write_row(EpochInfo(epoch, 28.0, 0.1, 2.0, 0.5, 0.5, 100.0, 0.0))
            run.write_state(2 * (epoch + 1), _state(epoch + 1))


def _continued(path: Path) -> TrainingRun:
    return TrainingRun(path, RECIPE, resume=True, epoch_steps=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two epochs."""
    _train(tmp_path / "run", 0, 2)
    return tmp_path / "run"


def test_a_damaged_file_is_named_and_nothing_is_changed(run: Path) -> None:
    header, *lines = (run / "metrics.csv").read_bytes().splitlines(keepends=True)
    recipes = [b"", b"null", b"{", b"\xff", b"[" * 100_000]
    rows = [b"", b"\xff", b"epoch\n0\n1\n", b"a,b\n" * 3, b'"' + b"1" * 200_000]
    rows += [header, header + lines[0], header + lines[1]]
    for name, contents, message in (
        ("recipe.json", recipes, "cannot read .*recipe.json"),
        ("metrics.csv", rows, "metrics.csv is damaged"),
    ):
        whole = (run / name).read_bytes()
        for content in contents:
            (run / name).write_bytes(content)
            before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
            with pytest.raises(UserError, match=message) as error:
                _continued(run)
            assert "\n" not in str(error.value)
            assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        (run / name).write_bytes(whole)


def test_a_run_that_is_going_on_is_not_written_by_another(run: Path, tmp_path: Path) -> None:
    (run / ".state-3.77").mkdir()  # as it writes the next state
    new = tmp_path / "new"
    for path in (run, new):
        with TrainingRun(path, RECIPE, resume=True, epoch_steps=2):
            before = sorted(path.rglob("*"))
            with pytest.raises(UserError, match=f"another run is writing in {path}: process"):
                _continued(path)
            assert sorted(path.rglob("*")) == before
            (path / ".state-3.77").mkdir(exist_ok=True)
    # What it leaves, even if it was killed before its recipe, is a run's, and not another's.
    (new / "recipe.json").unlink()
    (new / ".state-3.77").rmdir()
    _train(new, 0, 1)


def test_fewer_epochs_than_are_done_are_refused(run: Path) -> None:
    before = (run / "recipe.json").read_bytes()
    with pytest.raises(UserError, match="2 epochs old already; ask for more than 1 by --epochs"):
        TrainingRun(run, RECIPE | {"epochs": 1}, resume=True, epoch_steps=2)
    assert (run / "recipe.json").read_bytes() == before


def test_what_only_looks_like_a_state_is_left_alone(run: Path) -> None:
    for name in ("state-1 (old)", "state-9.tmp", "state-best"):
        (run / name).mkdir()
    (run / "state-7").write_text("a file")
    _train(run, 2, 3)
    assert sorted(path.name for path in run.glob("state-*")) == [
        "state-1 (old)", "state-6", "state-7", "state-9.tmp", "state-best",
    ]  # fmt: skip
    with _continued(run) as again:
        assert again.read_state(_state(0))["weights"].tolist() == [3.0] * 4
        with pytest.raises(UserError, match="holds the state of another model"):
            again.read_state({"weights": np.zeros(5, np.float32)})


def test_a_state_within_an_epoch_continues_there(run: Path) -> None:
    with _continued(run) as again:
        again.write_state(5, _state(7))
    with pytest.raises(UserError, match="2 epochs old and 1 steps; continue it with --resume"):
        TrainingRun(run, RECIPE, resume=False, epoch_steps=2)
    with _continued(run) as again:
        assert again.steps == 5
        assert again.read_state(_state(0))["weights"].tolist() == [7.0] * 4
        again.write_row(EpochInfo(2, 28.0, 0.1, 2.0, 0.5, 0.5, 100.0, 0.0))
    assert [path.name for path in run.glob("state-*")] == ["state-5"]
    assert len((run / "metrics.csv").read_text().splitlines()) == 4
