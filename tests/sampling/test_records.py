"""Run directories: nothing lost, nothing twice, nothing mixed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.errors import UserError
from dsrs_jax.sampling import RunDirectory

SETTINGS = {"dataset": "digits", "n": 100, "q_inside": [0.5]}


def _records(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "votes.jsonl").read_text().splitlines()]


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_file_cut_anywhere_continues_with_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("run")
    wanted = [{"index": i, "votes": i * 7} for i in range(6)]
    with RunDirectory(path, SETTINGS) as directory:
        directory.append(wanted)
    file = path / "votes.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: min(cut, len(content))])
    survivors = content[: min(cut, len(content))].count(b"\n")
    with RunDirectory(path, SETTINGS) as directory:
        assert len(directory.records) == survivors
        directory.append(record for record in wanted if record["index"] not in directory.records)
    assert _records(path) == wanted


def test_an_index_is_never_written_twice(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, SETTINGS) as directory:
        directory.append([{"index": 1, "votes": 5}])
        directory.append([{"index": 1, "votes": 6}, {"index": 2, "votes": 7}])
    assert _records(tmp_path) == [{"index": 1, "votes": 5}, {"index": 2, "votes": 7}]


@pytest.mark.parametrize(
    ("change", "name"),
    [({"n": 200}, "n = 100, not 200"), ({"q_inside": [0.5, 0.8]}, r"q_inside = \[0.5\]")],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict, name: str) -> None:
    with RunDirectory(tmp_path, SETTINGS):
        pass
    with pytest.raises(UserError, match=name), RunDirectory(tmp_path, {**SETTINGS, **change}):
        pass


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path, SETTINGS),
        pytest.raises(UserError, match="another run"),
        RunDirectory(tmp_path, SETTINGS),
    ):
        pass


def test_a_damaged_line_inside_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, SETTINGS) as directory:
        directory.append([{"index": i} for i in range(3)])
    file = tmp_path / "votes.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{no record", lines[2]]) + "\n")
    before = file.read_bytes()
    with pytest.raises(UserError, match="line 2 is damaged"), RunDirectory(tmp_path, SETTINGS):
        pass
    assert file.read_bytes() == before


def test_votes_without_a_config_are_refused(tmp_path: Path) -> None:
    (tmp_path / "votes.jsonl").write_text('{"index":0}\n')
    with pytest.raises(UserError, match=r"no config\.json"), RunDirectory(tmp_path, SETTINGS):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write"),
        RunDirectory(tmp_path / "file" / "run", SETTINGS),
    ):
        pass
