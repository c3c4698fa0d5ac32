"""Paths that are addresses: a bucket, here one of fsspec's own in memory under the name s3://."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from dsrs_jax.run.main import main
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import cache_folder

CERTIFY = ["certify", "--n", "500", "--stop", "3", "--q-inside", "0.5", "--seed", "0"]


def test_a_cache_that_is_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSRS_CACHE", "gs://bucket/run")
    with pytest.raises(UserError, match="DSRS_CACHE gs://bucket/run is an address"):
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


@pytest.mark.slow
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
    message = "cannot write s3://b/other/config.json: Unable to locate credentials\n"
    commands.refused(capsys, [*command, "s3://b/other"], message)
