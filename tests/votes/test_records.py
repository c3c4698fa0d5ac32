"""Folders of records: nothing lost, nothing twice, nothing mixed, whoever writes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import RecordFolder

SETTINGS = {"dataset": "digits", "n": 100, "q_inside": [0.5]}


def _read(path: Path) -> dict[int, dict]:
    with RecordFolder(path, SETTINGS, process=99) as folder:
        return folder.records


@settings(max_examples=25)
@given(
    blocks=st.lists(
        st.tuples(
            st.integers(0, 2), st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True)
        ),
        max_size=6,
    )
)
def test_whoever_writes_a_record_all_read_it_once(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[int, list[int]]]
) -> None:
    """Processes that know nothing of each other write blocks that may overlap."""
    path = tmp_path_factory.mktemp("run")
    for process, indices in blocks:
        folder = RecordFolder(path, SETTINGS, process)
        with folder:
            folder.append({"index": i, "votes": i * 7} for i in indices)
    wanted = {i for _, indices in blocks for i in indices}
    assert _read(path) == {i: {"index": i, "votes": i * 7} for i in wanted}


def test_records_of_others_appear_without_reopening(tmp_path: Path) -> None:
    with RecordFolder(tmp_path, SETTINGS, 0) as first, RecordFolder(tmp_path, SETTINGS, 1) as other:
        other.append([{"index": 4, "votes": 2}])
        assert not first.has(4)
        first.refresh()
        assert first.has(4)


def test_a_file_that_was_being_written_is_no_record(tmp_path: Path) -> None:
    with RecordFolder(tmp_path, SETTINGS) as folder:
        folder.append([{"index": 1, "votes": 5}])
    # What a kill between writing and renaming leaves.
    (tmp_path / "votes" / ".00000002-00000002-1.0.jsonl.123").write_text('{"index":2,"vo')
    assert set(_read(tmp_path)) == {1}


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    with RecordFolder(tmp_path, SETTINGS) as folder:
        folder.append([{"index": 1, "unreadable": "damaged"}, {"index": 2, "votes": 7}])
        assert not folder.has(1) and folder.has(2)
        assert folder.records[1]["unreadable"] == "damaged"
    with RecordFolder(tmp_path, SETTINGS) as folder:
        folder.append([{"index": 1, "votes": 3}])
    assert _read(tmp_path)[1] == {"index": 1, "votes": 3}


@pytest.mark.parametrize(
    ("change", "name"),
    [({"n": 200}, "n = 100, not 200"), ({"q_inside": [0.5, 0.8]}, r"q_inside = \[0.5\]")],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict, name: str) -> None:
    with RecordFolder(tmp_path, SETTINGS):
        pass
    with pytest.raises(UserError, match=name), RecordFolder(tmp_path, {**SETTINGS, **change}):
        pass


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with (
        RecordFolder(tmp_path, SETTINGS),
        pytest.raises(UserError, match="another run"),
        RecordFolder(tmp_path, SETTINGS),
    ):
        pass


@pytest.mark.parametrize("line", ["{no record", '{"votes": 3}', "[1, 2]", '{"index": "x"}'])
def test_a_damaged_file_is_named_and_nothing_is_changed(tmp_path: Path, line: str) -> None:
    with RecordFolder(tmp_path, SETTINGS) as folder:
        folder.append([{"index": i} for i in range(3)])
    [file] = (tmp_path / "votes").glob("*.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    before = file.read_bytes()
    with pytest.raises(UserError, match="line 2 is damaged"), RecordFolder(tmp_path, SETTINGS):
        pass
    assert file.read_bytes() == before


def test_votes_without_a_config_are_refused(tmp_path: Path) -> None:
    (tmp_path / "votes").mkdir()
    (tmp_path / "votes" / "00000000-00000000-1.0.jsonl").write_text('{"index":0}\n')
    with pytest.raises(UserError, match=r"no config\.json"), RecordFolder(tmp_path, SETTINGS):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot make the folder"),
        RecordFolder(tmp_path / "file" / "run", SETTINGS),
    ):
        pass


def test_the_batch_is_remembered_for_its_kind_of_device(tmp_path: Path) -> None:
    with RecordFolder(tmp_path, SETTINGS) as folder:
        assert folder.batch("cpu x 1") is None
        folder.remember_batch("cpu x 1", 128)
        assert folder.batch("cpu x 1") == 128 and folder.batch("gpu x 8") is None
        (tmp_path / "batch.json").write_text("nothing that can be read")
        assert folder.batch("cpu x 1") is None
