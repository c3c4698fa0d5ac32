"""Folders of records: nothing lost, nothing twice, nothing mixed, whoever writes."""

import functools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.bounds import Looks
from dsrs_jax.noise import generalized_gaussian
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import RecordFolder, SamplingPlan, looks_of, problem_of, second_laws

SETTINGS = {"dataset": "digits", "n": 100, "q_inside": [0.5]}
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


def _open(path: Path, damaged: list[str] | None = None, process: int = 0) -> RecordFolder:
    """Damage is added to the list; where none is given it fails the test."""
    problem = functools.partial(problem_of, PLAN)
    report = pytest.fail if damaged is None else damaged.append
    return RecordFolder(path, SETTINGS, process, problem_of=problem, on_damaged=report)


def _read(path: Path) -> dict[int, dict]:
    with _open(path, process=99) as folder:
        return folder.records


INDICES = st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True)


@given(blocks=st.lists(st.tuples(st.integers(0, 2), INDICES), max_size=6))
def test_whoever_writes_a_record_all_read_it_once(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[int, list[int]]]
) -> None:
    """Processes that know nothing of each other write blocks that may overlap."""
    path = tmp_path_factory.mktemp("run")
    for process, indices in blocks:
        with _open(path, process=process) as folder:
            folder.append(record(i) for i in indices)
    wanted = {i for _, indices in blocks for i in indices}
    assert _read(path) == {i: record(i) for i in wanted}
    # What a kill between writing and renaming leaves is no record.
    (path / "votes" / ".00000002-00000002-1.0.jsonl.123").write_text('{"index":2,"vo')
    assert set(_read(path)) == wanted


def test_records_of_others_appear_without_reopening(tmp_path: Path) -> None:
    with _open(tmp_path) as first, _open(tmp_path, process=1) as other:
        other.append([record(4)])
        assert not first.has(4)
        first.refresh()
        assert first.has(4)
        with pytest.raises(UserError, match="another run"), _open(tmp_path):
            pass


@pytest.mark.parametrize(
    "one",
    [
        record(1, image=...),  # of an earlier version
        record(1, not_finite=30),
        record(1, abstained=True, draws=[60, 20, 30, 0], votes=[10, 5, 6, 0]),
        {"index": 1, "unreadable": "why"},
    ],
)
def test_what_is_a_record_is_read_as_it_was_written(tmp_path: Path, one: dict) -> None:
    with _open(tmp_path) as folder:
        folder.append([one, record(2)])
    assert _read(tmp_path) == {1: one, 2: record(2)}
    # An image that could not be read is tried again; another one is drawn once.
    with _open(tmp_path) as folder:
        assert folder.has(1) == ("unreadable" not in one) and folder.has(2)
        folder.append([record(1)])
    assert _read(tmp_path)[1] == (record(1) if "unreadable" in one else one)


COUNTS = (  # that are none of PLAN
    ..., None, 100, {}, [], [100, 31, 58], [100, 31, 58, 100, 0], [100, 31, 58, True],
    [100, 31, 58, 100.0], [100, 31, 58, -1], [100, 31, 58, 101], [math.inf, 31, 58, 100],
)  # fmt: skip
CHANGES: list[dict] = [
    *({"index": index} for index in (..., None, True, 1.0, "1", -1, 2**32, math.nan)),
    *({"label": label} for label in (..., None, True, 3.0, 2**31)),
    *({"image": image} for image in (None, "", 7, "0123", "0123456789ABCDEF")),
    *({name: counts} for name in ("draws", "votes") for counts in COUNTS),
    *({"draws": draws} for draws in ([99, 31, 58, 100], [100, 31, 58, 99])),
    {"votes": [90, 32, 50, 80]},  # more than were drawn
    {"votes": [90, 28, 27, 80]},  # fewer right inside 0.6 than inside 0.3
    {"votes": [90, 20, 50, 80]},  # more wrong inside 0.3 than inside 0.6
    *({"not_finite": count} for count in (None, True, 1.0, 0, -1, 31)),
    *({"abstained": value} for value in (False, None, 1)),
    *({"unreadable": "why"}, {"predicted": {"class": 4, "votes": 9}}),
    *(
        dict.fromkeys(("label", "image", "draws", "votes"), ...) | more
        for more in ({}, {"unreadable": None}, {"unreadable": ["why"]})
    ),
]
LINES = [
    *(
        b"",
        json.dumps([record(0)]).encode() * 2,
        b"{no record",
        b"\xff\xfe{}",
        b"\0" * 40,
        b"null",
        b"[1, 2]",
        b'"index"',
    ),
    *(b"[" * 100_000, b'{"index":' + b"1" * 5000 + b"}", json.dumps(record(1)).encode("utf-16")),
    *(json.dumps(record(1, **change)).encode() for change in CHANGES),
    json.dumps(record(1)).encode()[:-1],
]


def test_what_is_no_record_is_named_and_drawn_again(tmp_path: Path) -> None:
    for number, line in enumerate(LINES):
        folder, damaged = tmp_path / str(number), list[str]()
        with _open(folder) as records:
            records.append(record(index) for index in range(3))
        [file] = (folder / "votes").glob("*.jsonl")
        first, _, last = file.read_bytes().splitlines()
        file.write_bytes(b"\n".join([first, line, last]) + b"\n")
        before = file.read_bytes()
        with _open(folder, damaged) as records:
            assert records.records == {0: record(0), 2: record(2)}, line[:120]
            [message] = damaged
            assert f"{file} line 2 (" in message and "drawn again" in message
            assert "line 3" not in message
            records.append([record(1)])
        assert file.read_bytes() == before
        with _open(folder, damaged) as records:
            assert records.records == {index: record(index) for index in range(3)}


def test_a_damaged_file_is_not_written_over(tmp_path: Path) -> None:
    damaged: list[str] = []
    for _ in range(3):
        with _open(tmp_path, damaged) as folder:
            assert not folder.has(7)
            folder.append([record(7)])
        for file in (tmp_path / "votes").glob("*.jsonl"):
            file.write_bytes(file.read_bytes()[:-9])  # all that there is, again
    cut = {file: file.read_bytes() for file in (tmp_path / "votes").glob("*.jsonl")}
    assert len(cut) == 3 and len(damaged) == 2
    with _open(tmp_path, damaged) as folder:
        folder.append([record(7)])
    with _open(tmp_path, damaged) as folder:
        assert folder.records == {7: record(7)}
    assert cut == {file: file.read_bytes() for file in cut}


def test_many_damaged_lines_are_one_message(tmp_path: Path) -> None:
    with _open(tmp_path):
        pass
    (tmp_path / "votes" / "00000000-00000999-1000.0.jsonl").write_bytes(b"{}\n" * 1000)
    # Without a function to call it is a warning.
    with pytest.warns(UserWarning) as warned, RecordFolder(tmp_path, SETTINGS):
        pass
    [message] = [str(one.message) for one in warned]
    assert "line 5 " in message and "line 6 " not in message and "and 995 lines more" in message


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    config, settings = "config.json", json.dumps(SETTINGS).encode()
    for number, (name, content, message) in enumerate([
        (config, settings.replace(b"100", b"99"), "n = 99, not 100"),
        (config, settings.replace(b"0.5", b"0.6"), r"q_inside = \[0.6\]"),
        (config, settings.replace(b"}", b', "more": 1}'), "more = 1, not nothing"),
        (config, None, "cannot read .*config.json: Is a directory"),
        *((config, content, r"config\.json is damaged \(.*another --out") for content in (
            b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000,
        )),
        ("votes/1-1-1.0.jsonl", b'{"index":0}\n', r"no config\.json"),
        ("votes", b"", "cannot make the folder"),
    ]):  # fmt: skip
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        file.mkdir() if content is None else file.write_bytes(content)
        with pytest.raises(UserError, match=message) as error, _open(tmp_path / str(number)):
            pass
        assert "\n" not in str(error.value)
        assert content is None or file.read_bytes() == content


def test_the_batch_is_remembered_and_measured_again_where_it_cannot_be_used(tmp_path: Path) -> None:
    values = ("null", "true", '"1"', "1.0", "0", "-1", "Infinity", "NaN", "[]", "9" * 400)
    damaged = [b"nothing that can be read", b"\xff", b"null", b"[128]", b"[" * 100_000]
    with _open(tmp_path) as folder:
        assert folder.batch("cpu x 1") is None
        for content in [*damaged, *(b'{"cpu x 1": %s}' % value.encode() for value in values)]:
            (tmp_path / "batch.json").write_bytes(content)
            assert folder.batch("cpu x 1") is None
            folder.remember_batch("cpu x 1", 128)
            assert folder.batch("cpu x 1") == 128 and folder.batch("gpu x 8") is None


def test_counts_at_looks_follow_from_one_another() -> None:
    """Earlier looks are those of the schedule, and none of them has what the next one has not."""
    looks = Looks(4000)
    plan = SamplingPlan(LAW, (), 4000, looks)

    def counts(number: int, wrong: int, **more: object) -> dict:
        draws = looks.draws(number)
        return {"draws": [draws], "votes": [draws - wrong], **more}

    def problem(last: dict, *earlier: object, plan: SamplingPlan = plan) -> str | None:
        return problem_of(plan, record(1, **last, earlier=list(earlier) or ...))

    assert problem(counts(1, 5)) is None
    assert problem(counts(3, 90), counts(1, 5), counts(2, 5)) is None
    further = [counts(number, 7) for number in range(1, 5)]
    assert problem(counts(5, 7), *further) is None  # beyond the plan
    assert looks_of({"earlier": further}) == 5
    for wrong in (
        (counts(2, 5), 1),
        (counts(2, 5),),  # a look is missing
        (counts(3, 5), counts(2, 5)),
        (counts(2, 4), counts(1, 5)),  # wrong draws became right ones
        (counts(2, 500, votes=[400]), counts(1, 500)),
        (counts(2, 5), counts(1, 5, votes=[1e3])),
        (counts(2, 5, abstained=True), counts(1, 5)),
    ):
        assert problem(*wrong) is not None
    for earlier in ([], {}):
        assert problem_of(plan, record(1, **counts(1, 5), earlier=earlier)) is not None
    fixed = SamplingPlan(LAW, (), 2048)
    assert "none" in str(problem(counts(2, 5), counts(1, 5), plan=fixed))


def test_a_record_says_how_its_class_was_chosen() -> None:
    plan = SamplingPlan(LAW, PLAN.extra, 100, n0=10)

    def problem(predicted: object) -> str | None:
        return problem_of(plan, record(3, label=-1, predicted=predicted))

    good = {"class": 4, "votes": 9}
    assert problem(good) is None
    wrong = [("votes", 11), ("votes", 9.0), ("class", -1), ("class", True), ("more", 1)]
    for predicted in (*(good | {name: value} for name, value in wrong), {"class": 4}, [4, 9], ...):
        assert problem(predicted) is not None
