"""Proofs that are kept: what a kill cut short is made again, what is damaged is told."""

import contextlib
import json
from pathlib import Path

import pytest

from dsrs_jax.proof import kept

GOOD = json.dumps(["0" * 64, 0.25, "proved"]).encode()


def _read(folder: Path) -> None:
    assert kept.prove_all([], folder, lambda total: contextlib.nullcontext(print)) == {}


LINES = [
    b"", b"{", b"\xff", b"null", b"1", b"[]", b"[1, 2, 3]", b'{"a": 1, "b": 2, "c": 3}',
    b'["0", null, "proved"]', b'["0", "0.25", "proved"]', b'["0", [0.25], "proved"]',
    b'["0", true, "proved"]', b'["0", 1%s, "proved"]' % (b"0" * 400),
    b'["0", 0.25, null]', b'[["0"], 0.25, "proved"]', b'"abc"', b"[" * 100_000,
]  # fmt: skip


def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    file = tmp_path / kept.FILE
    for line in LINES:
        content = b"\n".join([GOOD, line, GOOD]) + b"\n"
        file.write_bytes(content)
        with pytest.raises(kept.Damaged, match="line 2 is damaged; delete the line"):
            _read(tmp_path)
        assert file.read_bytes() == content
        file.write_bytes(GOOD + b"\n" + line[:9])  # what a kill cut short is cut off
        _read(tmp_path)
        assert file.read_bytes() == GOOD + b"\n"
    file.unlink()
    file.mkdir()
    with pytest.raises(kept.Damaged, match=r"cannot read .*: Is a directory"):
        _read(tmp_path)
