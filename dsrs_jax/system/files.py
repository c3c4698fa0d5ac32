"""Files that appear whole or not at all, and the folders that they lie in."""

from __future__ import annotations

import os
from pathlib import Path

from etils import epath

from dsrs_jax.system.errors import UserError, first_line

CACHE_VARIABLE = "DSRS_CACHE"
# The package through which fsspec reaches each kind of bucket.
_BUCKETS = {"gs": "gcsfs", "s3": "s3fs"}


def write_whole(file: Path | epath.Path, content: str | bytes) -> None:
    """Writes `content` to `file` so that a reader finds the old or the new, never a part.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        try:
            epath.Path(file).write_bytes(data)  # an object appears whole in a bucket
        except Exception as error:
            raise UserError(f"cannot write {file}: {_reason(error)}") from error
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
    except Exception as error:
        if not (is_remote(path) or isinstance(error, OSError)):
            raise
        raise UserError(f"cannot make the folder {path}: {_reason(error)}") from error


def is_remote(path: str | Path | epath.Path) -> bool:
    """Whether a path names a bucket, gs://... or s3://..., and no file of this machine."""
    return "://" in os.fspath(path)


def refuse_address(path: str | Path, what: str) -> None:
    """For a path, named as `what`, that becomes a `Path`, which would make a folder `gs:` of it.

    Raises:
        UserError: it is an address, and no path on this machine.
    """
    if is_remote(path):
        raise UserError(
            f"{what} {path} is an address; give a path on this machine (only the --out of "
            "certify may be a bucket)"
        )


def folder_or_bucket(path: str | Path, what: str) -> epath.Path:
    """A folder of this machine, there or not, or a place in a bucket that can be reached.

    Raises:
        UserError: it is neither, or the bucket cannot be reached; `what` names it.
    """
    scheme, separator, _ = os.fspath(path).partition("://")
    if not separator:
        return epath.Path(path)
    if scheme not in _BUCKETS:
        raise UserError(
            f"{what} {path} cannot be written; give a folder, or a bucket: "
            + ", ".join(f"{known}://..." for known in _BUCKETS)
        )
    bucket = epath.Path(path)
    try:
        bucket.exists()
    except ImportError as error:
        raise UserError(
            f"{what} {path} needs a package that is not installed: pip install {_BUCKETS[scheme]}"
        ) from error
    except Exception as error:
        raise UserError(f"{what} {path} cannot be reached: {_reason(error)}") from error
    return bucket


def _reason(error: Exception) -> str:
    """One line; without a network or a permission the packages of buckets raise any kind."""
    system = error.strerror if isinstance(error, OSError) else None
    return system or first_line(error)


def cache_folder() -> Path:
    """Where what can be made again is kept: DSRS_CACHE, or dsrs_jax in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given is not None:
        refuse_address(given, CACHE_VARIABLE)
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsrs_jax"
