"""Paths that are addresses: buckets with and without their packages, and what is no place at all.

The bucket that is there is one of fsspec's own, in memory, under the name s3://.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import cache_folder

GS = "gs://bucket/run"
CERTIFY = ["certify", "--n", "500", "--stop", "3", "--q-inside", "0.5"]
STUDY = [
    "published",
    "DIR",
    "--model-name",
    "net",
    "--dataset",
    "mnist",
    "--k",
    "0",
    "--sigma",
    "1",
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*CERTIFY, "--out", "http://host/run"], "--out http://host/run cannot be written"),
        ([*CERTIFY, "--out", "ftp://host/run"], "gs://..., s3://..."),
        ([*CERTIFY, "--out", GS], f"{GS} needs a package that is not installed: pip install gcsfs"),
        ([*CERTIFY, "--out", "s3://b/run"], "pip install s3fs"),
        ([*CERTIFY, "--model", GS], f"--model {GS} is an address"),
        ([*CERTIFY, "--dataset", "mnist", "--data-dir", GS], f"--data-dir {GS} is an address"),
        ([*CERTIFY, "--dataset", "folder", "--classes", GS], f"--classes {GS} is an address"),
        (["train", "--out", GS], f"--out {GS} is an address"),
        (["train", "--out", "run", "--data-dir", "s3://b/c"], "--data-dir s3://b/c is an address"),
        (["train", "--out", "run", "--pretrained", GS], f"--pretrained {GS} is an address"),
        (["convert", "file", GS], f"OUT {GS} is an address"),
        (["convert", "https://host/file", "out"], "CHECKPOINT https://host/file is an address"),
        ([*STUDY, "--out", GS], f"--out {GS} is an address"),
        ([*STUDY, "--write-published", GS], f"--write-published {GS} is an address"),
        (["published", GS, *STUDY[2:]], f"DIR {GS} is an address"),
        (["prove", GS], f"RUN {GS} is an address"),
    ],
)  # fmt: skip
def test_an_address_that_is_no_place_is_told_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("gcsfs", "s3fs", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"dsrs-jax {words[0]}: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSRS_CACHE", GS)
    with pytest.raises(UserError, match=f"DSRS_CACHE {GS} is an address"):
        cache_folder()


class Bucket(MemoryFileSystem):
    """A bucket: objects by their keys, and no folders of its own."""

    protocol = "s3"
    closed = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("s3://")).removeprefix("/")

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        if self.closed and mode != "rb":
            raise RuntimeError("Unable to locate credentials\nand more")  # as s3fs does: no OSError
        return super()._open(path, mode, *arguments, **options)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    backend = epath.backend.fsspec_backend
    known = sys.modules["fsspec.registry"]._registry  # `fsspec.registry` is a view of it
    monkeypatch.setitem(known, "s3", Bucket)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    backend._get_filesystem.cache_clear()
    yield Bucket
    Bucket.closed = False
    Bucket.store.clear()
    backend._get_filesystem.cache_clear()


def test_a_bucket_holds_what_a_folder_would(
    bucket: type[Bucket], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*CERTIFY, "--model", model, "--out"]
    assert main([*command, str(tmp_path / "run")]) == 0
    for _ in range(2):  # it is made, and then nothing is left to do
        assert main([*command, "s3://b/run"]) == 0
        table = epath.Path("s3://b/run/certificates.csv").read_bytes()
        assert table == (tmp_path / "run" / "certificates.csv").read_bytes()
    bucket.closed = True
    capsys.readouterr()
    assert main([*command, "s3://b/other"]) == 2
    assert capsys.readouterr().err == (
        "dsrs-jax certify: cannot write s3://b/other/config.json: Unable to locate credentials\n"
    )
