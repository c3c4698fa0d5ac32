"""Files that appear whole or not at all, and the folders that they lie in."""

from __future__ import annotations

import os
from pathlib import Path

from etils import epath

from dsrs_jax.system.errors import UserError

CACHE_VARIABLE = "DSRS_CACHE"


def write_whole(file: Path | epath.Path, content: str | bytes) -> None:
    """Writes `content` to `file` so that a reader finds the old or the new, never a part.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        try:
            epath.Path(file).write_bytes(data)  # an object appears whole in a bucket
        except OSError as error:
            raise UserError(f"cannot write {file}: {error}") from error
        return
    being_written = Path(file).with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(being_written, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(being_written, file)
    except OSError as error:
        being_written.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def make_folder(path: Path | epath.Path) -> None:
    """Makes a folder and those above it, where they are not there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error


def is_remote(path: str | Path | epath.Path) -> bool:
    """Whether a path names a bucket, gs://... or s3://..., and no file of this machine."""
    return "://" in os.fspath(path)


def cache_folder() -> Path:
    """Where what can be made again is kept: DSRS_CACHE, or dsrs_jax in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsrs_jax"
