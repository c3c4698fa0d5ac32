"""Proofs that are kept: what a kill cut short is made again, what is damaged is told."""

import contextlib
import json
from pathlib import Path

import pytest

from dsrs_jax.proof import kept

GOOD = json.dumps(["0" * 64, 0.25, "proved"]).encode()


def _read(folder: Path) -> None:
    assert kept.prove_all([], folder, lambda total: contextlib.nullcontext(print)) == {}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"\xff", b"null", b"1", b"[]", b"[1, 2, 3]", b'{"a": 1, "b": 2, "c": 3}',
        b'["0", null, "proved"]', b'["0", "0.25", "proved"]', b'["0", [0.25], "proved"]',
        b'["0", true, "proved"]', b'["0", 1%s, "proved"]' % (b"0" * 400),
        b'["0", 0.25, null]', b'[["0"], 0.25, "proved"]', b'"abc"', b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / kept.FILE
    content = b"\n".join([GOOD, line, GOOD]) + b"\n"
    file.write_bytes(content)
    with pytest.raises(kept.Damaged, match=r"proofs\.jsonl: line 2 is damaged; delete the line"):
        _read(tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize("end", [b"", GOOD[:-3], b"\xff", b"\xc3"])
def test_what_a_kill_cut_short_is_cut_off_and_nothing_else(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / kept.FILE
    file.write_bytes(GOOD + b"\n" + end)
    _read(tmp_path)
    assert file.read_bytes() == GOOD + b"\n"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / kept.FILE).mkdir()
    with pytest.raises(kept.Damaged, match=r"cannot read .*: Is a directory"):
        _read(tmp_path)
