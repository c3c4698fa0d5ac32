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
    with TrainingRun(path, RECIPE, resume=first > 0, epoch_steps=2) as run:
        assert run.steps == 2 * first
        for epoch in range(first, last):
            run.write_row(EpochInfo(epoch, 28.0, 0.1, 2.0, 0.5, 0.5, 100.0, 0.0))
            run.write_state(2 * (epoch + 1), _state(epoch + 1))


def _files(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(("recipe.json", content, "cannot read .*recipe.json") for content in (
            b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000,
        )),
        *(("metrics.csv", content, "metrics.csv is damaged") for content in (
            b"", b"null", b"\xff", b"epoch\n0\n1\n", b"a,b\n" * 3, b'"' + b"1" * 200_000,
        )),
    ],
    ids=lambda value: repr(value[:20]),
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    _train(tmp_path, 0, 2)
    (tmp_path / name).write_bytes(content)
    before = _files(tmp_path)
    with pytest.raises(UserError, match=message) as told:
        TrainingRun(tmp_path, RECIPE, resume=True, epoch_steps=2)
    assert "\n" not in str(told.value)
    assert {file: before[file] for file in before if file.name != "recipe.json"} == {
        file: content for file, content in _files(tmp_path).items() if file.name != "recipe.json"
    }


@pytest.mark.parametrize("lost", [0, 1, [0, 1]])
def test_a_run_whose_rows_are_not_all_there_is_not_continued(
    tmp_path: Path, lost: int | list[int]
) -> None:
    _train(tmp_path, 0, 2)
    file = tmp_path / "metrics.csv"
    header, *rows = file.read_text().splitlines()
    left = np.delete(rows, lost).tolist()
    file.write_text("\n".join([header, *left]) + "\n")
    with pytest.raises(UserError, match=r"damaged .* no row for each of 2 epochs"):
        TrainingRun(tmp_path, RECIPE, resume=True, epoch_steps=2)


def test_what_only_looks_like_a_state_is_left_alone(tmp_path: Path) -> None:
    _train(tmp_path, 0, 2)
    for name in ("state-1 (old)", "state-9.tmp", "state-best"):
        (tmp_path / name).mkdir()
    (tmp_path / "state-7").write_text("a file")
    _train(tmp_path, 2, 3)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == [
        "state-1 (old)", "state-6", "state-7", "state-9.tmp", "state-best",
    ]  # fmt: skip
    with TrainingRun(tmp_path, RECIPE, resume=True, epoch_steps=2) as run:
        assert run.read_state(_state(0))["weights"].tolist() == [3.0] * 4


def test_a_state_within_an_epoch_continues_there(tmp_path: Path) -> None:
    _train(tmp_path, 0, 1)
    with TrainingRun(tmp_path, RECIPE, resume=True, epoch_steps=2) as run:
        run.write_state(3, _state(7))
    with pytest.raises(UserError, match="1 epochs old and 1 steps; continue it with --resume"):
        TrainingRun(tmp_path, RECIPE, resume=False, epoch_steps=2)
    with TrainingRun(tmp_path, RECIPE, resume=True, epoch_steps=2) as run:
        assert run.steps == 3
        assert run.read_state(_state(0))["weights"].tolist() == [7.0] * 4
        run.write_row(EpochInfo(1, 28.0, 0.1, 2.0, 0.5, 0.5, 100.0, 0.0))
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-3"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
