"""Folders of records: nothing lost, nothing twice, nothing mixed, whoever writes."""

import functools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrs_jax.bounds import Looks
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import RecordFolder, SamplingPlan, problem_of, second_laws

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


LAW = generalized_gaussian(64, 0.5, 28)
PLAN = SamplingPlan(LAW, second_laws(inside=(0.3, 0.6), sigma=(0.4,)), 100)


def record(index: int, /, **change: object) -> dict:
    """A record of PLAN, changed; what is changed to ... is left out."""
    good = {
        "index": index,
        "label": 3,
        "image": "0123456789abcdef",
        "draws": [100, 31, 58, 100],
        "votes": [90, 28, 50, 80],
    }
    return {name: value for name, value in {**good, **change}.items() if value is not ...}


def _open(path: Path, told: list[str]) -> RecordFolder:
    problem = functools.partial(problem_of, PLAN)
    return RecordFolder(path, SETTINGS, problem_of=problem, on_damaged=told.append)


CHANGES: list[dict] = [
    *({"index": index} for index in (..., None, True, 1.0, "1", -1, 2**32, math.nan, [1])),
    *({"label": label} for label in (..., None, True, 3.0, "3", 2**31)),
    *({"image": image} for image in (None, "", 7, "0123", "0123456789ABCDEF")),
    *(
        {name: counts}
        for name in ("draws", "votes")
        for counts in (
            ..., None, 100, {}, [], [100, 31, 58], [100, 31, 58, 100, 0], [100, 31, 58, True],
            [100, 31, 58, 100.0], [100, 31, 58, None], [100, 31, 58, -1], [100, 31, 58, 101],
            [100, 31, 58, 10**400], [math.inf, 31, 58, 100], [[100], [31], [58], [100]],
        )
    ),
    *({"draws": draws} for draws in ([99, 31, 58, 100], [100, 31, 58, 99])),
    {"votes": [90, 32, 50, 80]},  # more than were drawn
    {"votes": [90, 28, 27, 80]},  # fewer right inside 0.6 than inside 0.3
    {"votes": [90, 20, 50, 80]},  # more wrong inside 0.3 than inside 0.6
    *({"not_finite": count} for count in (None, True, 1.0, "1", 0, -1, 31, math.inf, [1])),
    *({"abstained": said} for said in (False, None, 1, "yes")),
    {"unreadable": "why"},
    *(dict.fromkeys(("label", "image", "draws", "votes"), ...) | more for more in (
        {}, {"unreadable": None}, {"unreadable": True}, {"unreadable": ["why"]},
    )),
]  # fmt: skip
LINES = [
    b"", b"{no record", b"\xff\xfe{}", b"\0" * 40, b"null", b"[1, 2]", b"1", b'"index"',
    b"[" * 100_000, b'{"index":' + b"1" * 5000 + b"}", json.dumps(record(1)).encode()[:-1],
    json.dumps(record(1)).encode("utf-16"), *(json.dumps(record(1, **c)).encode() for c in CHANGES),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:120]))
def test_what_is_no_record_is_named_and_drawn_again(tmp_path: Path, line: bytes) -> None:
    told: list[str] = []
    with _open(tmp_path, told) as folder:
        folder.append(record(index) for index in range(3))
    [file] = (tmp_path / "votes").glob("*.jsonl")
    first, _, last = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, line, last]) + b"\n")
    before = file.read_bytes()
    assert not told
    with _open(tmp_path, told) as folder:
        assert folder.records == {0: record(0), 2: record(2)}
        [said] = told
        assert f"{file} line 2 (" in said and "drawn again" in said and "line 3" not in said
        folder.append([record(1)])
    assert file.read_bytes() == before
    with _open(tmp_path, told) as folder:
        assert folder.records == {index: record(index) for index in range(3)}


@settings(max_examples=100)
@given(place=st.integers(0, 400), length=st.integers(0, 60), junk=st.binary(max_size=60))
def test_whatever_is_overwritten_no_line_is_taken_that_is_no_record(
    tmp_path_factory: pytest.TempPathFactory, place: int, length: int, junk: bytes
) -> None:
    path, told = tmp_path_factory.mktemp("run"), list[str]()
    with _open(path, told) as folder:
        folder.append(record(index) for index in range(4))
    [file] = (path / "votes").glob("*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[:place] + junk + content[place + length :])
    whole = set(content.splitlines()) & set(file.read_bytes().split(b"\n"))
    with _open(path, told) as folder:
        assert {json.loads(line)["index"] for line in whole} <= set(folder.records)
        assert all(problem_of(PLAN, one) is None for one in folder.records.values())
        folder.append(record(index) for index in range(4))
    with _open(path, told) as folder:
        assert all(folder.has(index) for index in range(4))


def test_a_damaged_file_is_not_written_over(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(3):
        with _open(tmp_path, told) as folder:
            assert not folder.has(7)
            folder.append([record(7)])
        for file in (tmp_path / "votes").glob("*.jsonl"):
            file.write_bytes(file.read_bytes()[:-9])  # all that there is, again
    cut = [file.read_bytes() for file in (tmp_path / "votes").glob("*.jsonl")]
    assert len(cut) == 3 and len(told) == 2
    with _open(tmp_path, told) as folder:
        folder.append([record(7)])
    with _open(tmp_path, told) as folder:
        assert folder.records == {7: record(7)}
    assert all(content in [f.read_bytes() for f in folder.path.glob("votes/*")] for content in cut)


def test_many_damaged_lines_are_one_message(tmp_path: Path) -> None:
    told: list[str] = []
    with _open(tmp_path, told):
        pass
    (tmp_path / "votes" / "00000000-00000999-1000.0.jsonl").write_bytes(b"{}\n" * 1000)
    with _open(tmp_path, told):
        pass
    assert len(told) == 1 and "line 5 " in told[0] and "line 6 " not in told[0]
    assert "and 995 lines more" in told[0]
    # Nobody who does not ask is left without the word of it.
    with pytest.warns(UserWarning, match="line 1 "), RecordFolder(tmp_path, SETTINGS):
        pass


@pytest.mark.parametrize(
    "one",
    [
        record(1),
        record(1, image=...),  # of an earlier version
        record(1, not_finite=30),
        record(1, abstained=True, draws=[60, 20, 30, 0], votes=[10, 5, 6, 0]),
        {"index": 1, "unreadable": "why"},
    ],
)
def test_what_is_a_record_is_read_as_it_was_written(tmp_path: Path, one: dict) -> None:
    told: list[str] = []
    with _open(tmp_path, told) as folder:
        folder.append([one])
    with _open(tmp_path, told) as folder:
        assert folder.records == {1: one} and not told


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"3", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_config_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    with RecordFolder(tmp_path, SETTINGS):
        pass
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is damaged \(.*another --out") as told:
        RecordFolder(tmp_path, SETTINGS).__enter__()
    assert "\n" not in str(told.value)
    assert (tmp_path / "config.json").read_bytes() == content


@pytest.mark.parametrize("name", ["config.json", "votes/00000000-00000000-1.0.jsonl"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    with RecordFolder(tmp_path, SETTINGS):
        pass
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"cannot read .*{name}: Is a directory"):
        RecordFolder(tmp_path, SETTINGS).__enter__()


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


@pytest.mark.parametrize(
    "content",
    [
        b"nothing that can be read", b"\xff", b"null", b"[128]", b"[" * 100_000,
        *(b'{"cpu x 1": %s}' % value.encode() for value in (
            "null", "true", '"128"', "128.0", "0", "-128", "Infinity", "NaN", "1e400", "[]",
            "9" * 400, "1" * 5000,
        )),
    ],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_a_batch_that_nothing_can_be_drawn_with_is_measured_again(
    tmp_path: Path, content: bytes
) -> None:
    with RecordFolder(tmp_path, SETTINGS) as folder:
        (tmp_path / "batch.json").write_bytes(content)
        assert folder.batch("cpu x 1") is None
        folder.remember_batch("cpu x 1", 128)
        assert folder.batch("cpu x 1") == 128


def test_counts_at_looks_follow_from_one_another() -> None:
    """Earlier looks are those of the schedule, and none of them has what the next one has not."""
    looks = Looks(4000)
    plan = SamplingPlan(generalized_gaussian(64, 0.5, 28), (), 4000, looks)

    def counts(number: int, wrong: int) -> dict:
        draws = looks.draws(number)
        return {"draws": [draws], "votes": [draws - wrong]}

    def problem(earlier: object, last: dict) -> str | None:
        record = {"index": 1, "label": 3, "image": "0" * 16, **last}
        return problem_of(plan, record if earlier is None else record | {"earlier": earlier})

    assert problem(None, counts(1, 5)) is None
    assert problem([counts(1, 5), counts(2, 5)], counts(3, 90)) is None
    further = [counts(number, 7) for number in range(1, 5)]
    assert problem(further, counts(5, 7)) is None  # beyond the plan
    for earlier, last in (
        ([], counts(1, 5)),
        ({}, counts(1, 5)),
        ([1], counts(2, 5)),
        (None, counts(2, 5)),  # a look is missing
        ([counts(2, 5)], counts(3, 5)),
        ([counts(1, 5)], counts(2, 4)),  # wrong draws became right ones
        ([counts(1, 500)], counts(2, 500) | {"votes": [400]}),
        ([counts(1, 5) | {"votes": [1e3]}], counts(2, 5)),
        ([counts(1, 5)], counts(2, 5) | {"abstained": True}),
    ):
        assert problem(earlier, last) is not None
    fixed = SamplingPlan(generalized_gaussian(64, 0.5, 28), (), 2048)
    record = {"index": 1, "label": 3, "image": "0" * 16, **counts(2, 5), "earlier": [counts(1, 5)]}
    assert "none" in str(problem_of(fixed, record))
