"""Files appear whole or not at all; where they are kept follows the user's environment."""

import resource

import pytest
from etils import epath

from dsrs_jax.system.errors import UserError
from dsrs_jax.system.files import cache_folder, write_whole


def test_a_failed_write_leaves_the_old_content(tmp_path) -> None:
    file = tmp_path / "table.csv"
    write_whole(file, "old α\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a disk with room for so much
    try:
        with pytest.raises(UserError, match="cannot write"):
            write_whole(file, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == "old α\n".encode()
    assert list(tmp_path.iterdir()) == [file]
    write_whole(epath.Path(file), b"\x89PNG\r\n")
    assert file.read_bytes() == b"\x89PNG\r\n"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DSRS_CACHE", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "given"
    monkeypatch.delenv("DSRS_CACHE")
    assert cache_folder() == tmp_path / "user" / "dsrs_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "dsrs_jax"
