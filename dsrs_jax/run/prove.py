"""Proves every radius of a finished run, or of a file of certificates.

  dsrs-jax prove runs/digits
  dsrs-jax prove certificates.csv

From the file alone: neither JAX nor the model is needed. Exit code 1: a radius is not
proved; each is listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dsrs_jax.proof.check import check_all
from dsrs_jax.proof.rows import NoCertificates
from dsrs_jax.system.errors import UserError
from dsrs_jax.system.options import option


@dataclasses.dataclass(frozen=True)
class Settings:
    """Proof."""

    run: str = option(
        help="folder of a run, or certificates.csv", metavar="RUN", positional=True, local=True
    )
    processes: int | None = option(None, "default: one for each core", metavar="N", often=True)

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise UserError(f"--processes must be positive, got {self.processes}")


def run(settings: Settings, words: Sequence[str]) -> int:
    """The exit code: 0 where everything is proved, else 1.

    Raises:
        UserError: there are no certificates.
    """
    del words
    try:
        return check_all(Path(settings.run), settings.processes)
    except NoCertificates as error:
        raise UserError(str(error)) from None
