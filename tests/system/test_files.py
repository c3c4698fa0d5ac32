"""Files appear whole or not at all; where they are kept follows the user's environment."""

import resource
from pathlib import Path

import pytest
from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import cache_folder, is_remote, make_folder, write_whole


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write_whole(file, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a disk with room for so much
    try:
        with pytest.raises(UserError, match="cannot write"):
            write_whole(file, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "α\n")
    write_whole(epath.Path(tmp_path / "bytes"), b"\x89PNG\r\n")
    assert (tmp_path / "text").read_bytes() == "α\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x89PNG\r\n"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/run"):
        make_folder(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("path", "remote"), [("gs://bucket/run", True), ("s3://bucket/run", True), ("runs/a", False)]
)
def test_a_bucket_is_known_by_its_name(path: str, remote: bool) -> None:
    assert is_remote(path) == remote
    assert is_remote(epath.Path(path)) == remote


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"
    monkeypatch.delenv("DSRS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == tmp_path / "user" / "dsrs_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dsrs_jax"
